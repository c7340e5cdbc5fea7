//! Checks: nothing is found where nothing is wrong, and whatever is planted is named.

use std::io::IoSlice;
use std::sync::Arc;
use std::thread;

use lsvd_store::{Key, ObjectStore, Op};
use lsvd_volume::check::{Finding, Severity};
use lsvd_volume::format::{CheckpointHeader, DataHeader, ObjectExtent, Superblock};
use lsvd_volume::units::{Extent, Lba};
use lsvd_volume::{Check, CheckReport, Error, ObjectSeq, Volume};

use crate::hosts::{boot, objects, patient};
use crate::world::{Host, Running, World, name};

const SHALLOW: Check = Check { deep: false, repair: false, bytes_per_s: None };
const DEEP: Check = Check { deep: true, ..SHALLOW };
const REPAIR: Check = Check { repair: true, ..SHALLOW };

fn check(running: &Running, options: Check) -> CheckReport {
    running.engine.check(Some(&name()), options, &mut |_| true).unwrap()
}

/// A volume with data, checkpoints and something to collect.
fn worn(seed: u64) -> (World, Running, Arc<Volume>) {
    let mut world = World::new(seed, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    for round in 0..12 {
        world.write(&volume, 0, round * 600, 512);
        world.upload(&volume);
    }
    for at in (0..6000).step_by(40) {
        world.write(&volume, 0, at, 16);
    }
    world.upload(&volume);
    (world, running, volume)
}

/// The same, closed in good order.
fn closed(seed: u64) -> World {
    let (world, running, volume) = worn(seed);
    drop(volume);
    running.drain();
    world
}

fn kind(world: &World, key: &Key) -> u8 {
    world.store.get(key).unwrap().0[12]
}

/// Objects of a kind: see the table in the format's documentation.
fn of_kind(world: &World, wanted: u8) -> Vec<Key> {
    objects(world).into_iter().filter(|key| kind(world, key) == wanted).collect()
}

fn put(world: &World, key: &Key, bytes: &[u8]) {
    world.store.delete(key).unwrap();
    world.store.create(key, &[IoSlice::new(bytes)]).unwrap();
}

/// Changes an object for the time of a check of everything; expects damage of it, by name.
fn finds(world: &mut World, key: &Key, options: Check, change: impl FnOnce(&mut Vec<u8>)) {
    let (before, _) = world.store.get(key).unwrap();
    let mut bytes = before.clone();
    change(&mut bytes);
    match bytes.is_empty() {
        true => world.store.delete(key).unwrap(),
        false => put(world, key, &bytes),
    }
    let running = boot(world);
    let report = check(&running, options);
    running.end();
    put(world, key, &before);
    let named = |f: &&Finding| f.severity == Severity::Damage && f.what.contains(key.as_str());
    assert!(report.findings.iter().any(|f| named(&f)), "{key} is not named: {report:#?}");
    assert!(report.tally.damage > 0 && report.complete);
}

#[test]
fn check_finds_nothing_where_nothing_is_wrong() {
    let (mut world, running, volume) = worn(200);
    let clean = |running: &Running| {
        let report = check(running, DEEP);
        assert!(report.is_clean(), "{report:#?}");
        let all = running.engine.check(None, DEEP, &mut |_| true).unwrap();
        assert!(all.is_clean(), "{all:#?}");
        report.volumes.into_iter().next().unwrap()
    };
    let seen = clean(&running);
    assert!(seen.objects_after_checkpoint > 10 && seen.extents == 0, "{seen:?}");
    volume.collect(95, true, &mut |_| true).unwrap();
    let seen = clean(&running);
    assert!(seen.extents > 0 && seen.leaves > 0 && seen.mapped_bytes > 1 << 20, "{seen:?}");
    world.write(&volume, 0, 100, 300);
    world.upload(&volume);
    drop(volume);
    world.kill(running);
    let running = boot(&mut world);
    let seen = clean(&running);
    assert!(seen.objects_after_checkpoint > 0 && seen.frames > 0, "{seen:?}");
    let volume = running.open().unwrap();
    drop(volume);
    clean(&running);
    running.drain();
    let running = boot(&mut world);
    clean(&running);
    running.end();
}

#[test]
fn check_names_what_is_lost_or_changed() {
    let mut world = closed(201);
    let data = of_kind(&world, 1);
    let some = data.get(3).unwrap().clone();
    finds(&mut world, &some, SHALLOW, Vec::clear);
    finds(&mut world, &some, SHALLOW, |bytes| bytes.truncate(bytes.len() / 2));
    finds(&mut world, &some, SHALLOW, |bytes| bytes[130] ^= 1);
    finds(&mut world, &some, DEEP, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let newest = of_kind(&world, 3).pop().unwrap();
    finds(&mut world, &newest, SHALLOW, Vec::clear);
    finds(&mut world, &newest, SHALLOW, |bytes| bytes[20] ^= 1);
    finds(&mut world, &newest, SHALLOW, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let fence = of_kind(&world, 4).pop().unwrap();
    finds(&mut world, &fence, SHALLOW, Vec::clear);
    let filler = Key::new(some.as_str().replace("/o/", "/o/x")).unwrap();
    world.store.create(&filler, &[]).unwrap();
    let running = boot(&mut world);
    let report = check(&running, DEEP);
    assert_eq!((report.tally.notes, report.tally.damage), (1, 0), "{report:#?}");
    running.end();
}

/// Everything has its right checksum, and says something else.
#[test]
fn check_compares_the_map_with_what_objects_say() {
    let mut world = closed(202);
    let some = of_kind(&world, 1).remove(3);
    finds(&mut world, &some, SHALLOW, |bytes| {
        let old = DataHeader::decode(bytes).unwrap();
        let moved = |e: &ObjectExtent| {
            let start = Lba::new(e.extent.start().get() + 1);
            ObjectExtent { extent: Extent::new(start, e.extent.sectors()).unwrap(), ..*e }
        };
        let extents = old.extents().iter().map(moved).collect();
        let stamp = old.common().stamp;
        let new = DataHeader::new(stamp, old.frame_bytes(), extents, old.frames().to_vec());
        let body = bytes.split_off(old.common().header_len as usize);
        *bytes = [new.unwrap().encode(), body].concat();
    });
    let newest = of_kind(&world, 3).pop().unwrap();
    finds(&mut world, &newest, SHALLOW, |bytes| {
        let mut header = CheckpointHeader::decode(bytes).unwrap();
        let body = bytes.split_off(bytes.len() - header.body_len as usize);
        let used = header.objects.iter_mut().find(|object| object.live_sectors > 1).unwrap();
        used.live_sectors -= 1;
        *bytes = [header.encode().unwrap(), body].concat();
    });
}

#[test]
fn check_finds_a_hole_behind_the_checkpoint_and_not_the_end() {
    let (mut world, running, volume) = worn(203);
    drop(volume);
    world.kill(running);
    let all = objects(&world);
    let hole = all[all.len() - 3].clone();
    finds(&mut world, &hole, SHALLOW, Vec::clear);
    // The last object of a dead writer may be missing: it may never have been there.
    let last = all.last().unwrap().clone();
    world.store.delete(&last).unwrap();
    let running = boot(&mut world);
    let report = check(&running, DEEP);
    assert!(report.is_clean(), "{report:#?}");
    running.end();
}

#[test]
fn check_finds_what_leaked_and_deletes_only_that() {
    let (mut world, running, volume) = worn(204);
    let before: Vec<_> =
        objects(&world).iter().map(|key| (key.clone(), world.store.get(key).unwrap().0)).collect();
    volume.collect(95, true, &mut |_| true).unwrap();
    let gone: Vec<_> =
        before.into_iter().filter(|(key, _)| world.store.head(key).is_err()).take(3).collect();
    assert_eq!(gone.len(), 3);
    // Until the next checkpoint they are known, as condemned.
    world.write(&volume, 0, 0, 6000);
    world.upload(&volume);
    volume.collect(95, true, &mut |_| true).unwrap();
    let kept = objects(&world);
    // An upload of a host that is long dead arrives.
    for (key, bytes) in &gone {
        put(&world, key, bytes);
    }
    let report = check(&running, SHALLOW);
    let bytes: usize = gone.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((report.tally.leaks, report.tally.leaked_bytes), (3, bytes as u64), "{report:#?}");
    assert_eq!((report.tally.damage, report.tally.mended), (0, 0), "{report:#?}");
    let report = check(&running, REPAIR);
    assert_eq!((report.tally.leaks, report.tally.mended), (3, 3), "{report:#?}");
    assert_eq!(objects(&world), kept);
    assert!(check(&running, DEEP).is_clean());
    world.check(&volume);
    drop(volume);
    running.drain();
}

/// A host checks what another one is writing and collecting.
#[test]
fn check_takes_nothing_that_is_collected_for_lost() {
    let (mut world, writer, volume) = worn(205);
    volume.collect(0, true, &mut |_| true).unwrap();
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    for repair in [false, true] {
        let checker = boot(&mut world);
        let victim = match repair {
            true => of_kind(&world, 2).pop().unwrap(),
            false => of_kind(&world, 1).remove(0),
        };
        let gate = checker.store.hold(Op::GetRange, victim.as_str());
        let checking = {
            let engine = Arc::clone(&checker.engine);
            let options = Check { repair, ..DEEP };
            thread::spawn(move || engine.check(Some(&name()), options, &mut |_| true))
        };
        gate.wait_until_reached();
        for at in (0..8000).step_by(500) {
            world.write(&volume, 0, at, 500);
            world.upload(&volume);
        }
        for at in (0..8000).step_by(30) {
            world.write(&volume, 0, at, 10);
        }
        world.upload(&volume);
        volume.collect(100, true, &mut |_| true).unwrap();
        assert!(world.store.head(&victim).is_err(), "{victim} should be gone");
        gate.release();
        let report = checking.join().unwrap().unwrap();
        assert!(report.is_clean(), "{report:#?}");
        checker.end();
    }
    world.check(&volume);
    drop(volume);
    world.go_to(&mut other);
    writer.drain();
}

#[test]
fn check_can_be_stopped_and_keeps_its_rate() {
    let mut world = closed(206);
    let running = boot(&mut world);
    let report = running.engine.check(Some(&name()), DEEP, &mut |_| false).unwrap();
    assert!(!report.complete && report.tally.damage == 0, "{report:#?}");
    let slow = Check { bytes_per_s: Some(1), ..DEEP };
    // At a byte a second the second read never comes; the first one is told of before.
    let mut told = 0;
    let report = running.engine.check(Some(&name()), slow, &mut |progress| {
        told = progress.read_bytes;
        told == 0
    });
    assert!(told > 0 && !report.unwrap().complete);
    let ghost = lsvd_volume::VolumeName::new("ghost").unwrap();
    let error = running.engine.check(Some(&ghost), DEEP, &mut |_| true).unwrap_err();
    assert!(matches!(error, Error::NoSuchVolume(_)), "{error}");
    running.end();
}

/// A superblock may say anything, with its right checksum.
#[test]
fn check_believes_no_number() {
    let mut world = closed(208);
    let all = world.store.list("data/", None, 10_000).unwrap().objects;
    let key = all.into_iter().map(|o| o.key).find(|key| key.as_str().ends_with("/super")).unwrap();
    let (before, _) = world.store.get(&key).unwrap();
    for (committed, covers) in
        [(u64::MAX, None), (1 << 40, None), (0, Some(u64::MAX)), (0, Some(3))]
    {
        let mut superblock = Superblock::decode(&before).unwrap();
        superblock.committed = ObjectSeq::new(committed);
        if let (Some(covers), Some(checkpoint)) = (covers, &mut superblock.checkpoint) {
            checkpoint.covers = ObjectSeq::new(covers);
        }
        put(&world, &key, &superblock.encode().unwrap());
        let running = boot(&mut world);
        let report = check(&running, DEEP);
        assert!((1..5).contains(&report.tally.damage), "{report:#?}");
        running.end();
    }
}

/// What a check says of any header is never a panic.
#[test]
fn check_survives_nonsense() {
    let mut world = closed(207);
    for round in 0..60 {
        let keys = objects(&world);
        let key = keys[world.rng.below(keys.len() as u64) as usize].clone();
        let (before, _) = world.store.get(&key).unwrap();
        let mut bytes = before.clone();
        let at = world.rng.below(bytes.len() as u64) as usize;
        match round % 3 {
            0 => bytes.truncate(at),
            _ => bytes[at] ^= 1 << world.rng.below(8),
        }
        put(&world, &key, &bytes);
        let running = boot(&mut world);
        let report = running.engine.check(None, DEEP, &mut |_| true).unwrap();
        assert!(!report.findings.is_empty(), "{key} at {at}: nothing is seen");
        running.end();
        put(&world, &key, &before);
    }
    let running = boot(&mut world);
    assert!(check(&running, DEEP).is_clean());
    running.end();
}
