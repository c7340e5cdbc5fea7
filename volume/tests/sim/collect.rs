//! Garbage collection: space comes back, and nothing else changes.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lsvd_store::{Key, ObjectStore, Op};
use lsvd_volume::{Error, GcReport, Volume};

use crate::hosts::{boot, learn, leave, objects, patient, take_over};
use crate::oracle::Promise;
use crate::shared::wear;
use crate::stamp::SECTOR;
use crate::world::{Host, LANE_SECTORS, World, name, now, read};

/// How long something that must not happen is watched.
const WATCH: Duration = Duration::from_millis(500);

/// Sectors of an object that [`lay_out`] makes.
const OBJECT_SECTORS: u64 = 512;

/// Fills the disk, an object at a time.
fn lay_out(world: &mut World, volume: &Arc<Volume>) {
    for at in (0..LANE_SECTORS).step_by(OBJECT_SECTORS as usize) {
        world.write(volume, 0, at, OBJECT_SECTORS);
        world.upload(volume);
    }
}

fn collect(volume: &Arc<Volume>, target: u64) -> GcReport {
    volume.collect(target, true, &mut |_| true).unwrap()
}

/// As [`collect`], on a thread of its own.
fn collect_beside(volume: &Arc<Volume>, target: u64) -> JoinHandle<Result<GcReport, Error>> {
    let volume = Arc::clone(volume);
    thread::spawn(move || volume.collect(target, true, &mut |_| true))
}

/// What kind of object lies there: see the table in the format's documentation.
fn kind(world: &World, key: &Key) -> u8 {
    world.store.get(key).unwrap().0[12]
}

/// The objects that are neither fences nor fillers, and their bytes.
fn countable(world: &World) -> (u64, u64) {
    let keys = objects(world);
    let counted = keys.iter().filter(|key| kind(world, key) < 4);
    let sizes: Vec<u64> = counted.map(|key| world.store.head(key).unwrap().size).collect();
    (sizes.len() as u64, sizes.iter().sum())
}

/// The store holds what the volume knows of, and nothing besides.
fn assert_nothing_leaks(world: &World, volume: &Arc<Volume>) {
    let gc = volume.stats().gc;
    assert_eq!((gc.objects, gc.stored_bytes), countable(world), "{gc:?}");
}

#[test]
fn space_comes_back_and_every_byte_stays() {
    let mut world = World::new(90, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    wear(&mut world, &volume, 60);
    let before = countable(&world);
    let report = collect(&volume, 95);
    assert!(report.utilisation_percent >= 95, "{report:?}");
    assert!(report.moved_bytes > 0 && report.deleted_objects > 20, "{report:?}");
    assert!(countable(&world) < before, "{before:?}, {:?}", countable(&world));
    assert_nothing_leaks(&world, &volume);
    world.check(&volume);
    // A second time there is nothing to do, and nothing is asked of the store.
    let calls = running.store.calls();
    assert_eq!(collect(&volume, 95), report);
    assert_eq!(running.store.calls(), calls);
    drop(volume);
    running.drain();
    world.lose_ssd();
    let (running, volume) = world.boot_and_check();
    assert!(volume.stats().gc.utilisation_percent >= 95);
    assert_nothing_leaks(&world, &volume);
    drop(volume);
    running.end();
}

#[test]
fn what_was_trimmed_is_deleted_without_being_copied() {
    let mut world = World::new(91, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    world.trim(&volume, 0, 0, LANE_SECTORS);
    world.upload(&volume);
    let report = collect(&volume, 100);
    assert_eq!((report.data_bytes, report.moved_bytes), (0, 0), "{report:?}");
    assert!(report.deleted_objects >= LANE_SECTORS / OBJECT_SECTORS, "{report:?}");
    assert_nothing_leaks(&world, &volume);
    drop(volume);
    running.drain();
    world.lose_ssd();
    world.boot_and_check().0.end();
}

/// The copy is made, then its original overwritten, then the copy committed.
#[test]
fn an_overwrite_beats_a_copy_that_is_committed_after_it() {
    for is_uploaded_first in [false, true] {
        let mut world = World::new(92, 1);
        patient(&mut world);
        let (running, volume) = world.boot_and_check();
        lay_out(&mut world, &volume);
        wear(&mut world, &volume, 5);
        let last = objects(&world).pop().unwrap();
        let number = last.as_str().rsplit('/').next().unwrap();
        let number = u64::from_str_radix(number, 16).unwrap() + 1;
        let gate = running.store.hold(Op::Create, &format!("*/o/{number:016x}"));
        let collecting = collect_beside(&volume, 95);
        gate.wait_until_reached();
        for at in (0..LANE_SECTORS).step_by(256) {
            world.write(&volume, 0, at, 100);
        }
        if is_uploaded_first {
            // It is in the store before the copy, and comes after it in the stream.
            let begun = now();
            let created = running.store.hold(Op::Create, &format!("*/o/{:016x}", number + 1));
            let uploading = {
                let volume = Arc::clone(&volume);
                thread::spawn(move || volume.flush_to_store())
            };
            created.wait_until_reached();
            created.release();
            gate.release();
            uploading.join().unwrap().unwrap();
            world.oracle.uploaded(begun);
        }
        gate.release();
        collecting.join().unwrap().unwrap();
        world.check(&volume);
        world.upload(&volume);
        collect(&volume, 95);
        world.check(&volume);
        assert_nothing_leaks(&world, &volume);
        drop(volume);
        world.kill(running);
        world.lose_ssd();
        world.boot_and_check().0.end();
    }
}

/// What is announced may be deleted late, by a host that lost the volume meanwhile.
#[test]
fn a_deposed_host_deletes_what_it_had_announced_and_harms_nobody() {
    let mut world = World::new(93, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    wear(&mut world, &volume, 20);
    let held = first.store.hold(Op::Delete, "*/o/*");
    let collecting = collect_beside(&volume, 90);
    held.wait_until_reached();
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    wear(&mut world, &theirs, 20);
    collect(&theirs, 95);
    held.release();
    assert!(collecting.join().unwrap().is_ok(), "what it deletes nobody needs");
    learn(&volume);
    drop(volume);
    leave(first);
    world.check(&theirs);
    assert_nothing_leaks(&world, &theirs);
    drop(theirs);
    second.drain();
    world.lose_ssd();
    world.promise = Promise::Uploaded;
    world.boot_and_check().0.end();
}

/// The next owner deletes what the one before had condemned when it died.
#[test]
fn what_a_dead_host_condemned_is_deleted_by_the_next() {
    let mut world = World::new(94, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    wear(&mut world, &volume, 20);
    let held = first.store.hold(Op::Delete, "*/o/*");
    let collecting = collect_beside(&volume, 90);
    held.wait_until_reached();
    let before = countable(&world);
    world.promise = Promise::Uploaded;
    drop(volume);
    world.kill(first);
    drop(collecting.join());
    world.lose_ssd();
    let (second, volume) = world.boot_and_check();
    // Nothing is worth moving: it deletes what it finds condemned.
    collect(&volume, 0);
    assert!(countable(&world) < before, "{before:?}, {:?}", countable(&world));
    assert_nothing_leaks(&world, &volume);
    drop(volume);
    second.end();
}

/// A read waits for the store while all that it reads is overwritten: it gets its bytes, and only
/// then their object goes.
#[test]
fn nothing_is_deleted_under_a_read() {
    let mut world = World::new(95, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    let some = objects(&world).into_iter().find(|key| kind(&world, key) == 1).unwrap();
    drop(volume);
    running.drain();
    let (running, volume) = world.boot_and_check();
    let whole = OBJECT_SECTORS as usize * SECTOR;
    let before = read(&volume, 0, whole).unwrap();
    let gate = running.store.hold(Op::GetRange, some.as_str());
    let reading = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || read(&volume, 0, whole))
    };
    gate.wait_until_reached();
    let deletion = running.store.hold(Op::Delete, "*/o/*");
    world.write(&volume, 0, 0, OBJECT_SECTORS);
    world.upload(&volume);
    let collecting = collect_beside(&volume, 0);
    let passed = |step| running.life.failpoints().contains_key(step);
    while !passed("checkpoint.published") {
        thread::yield_now();
    }
    // It is condemned. What must not happen is watched for a while.
    let begun = Instant::now();
    while begun.elapsed() < WATCH {
        assert!(!passed("gc.delete"), "it is deleted under a read");
        thread::yield_now();
    }
    gate.release();
    assert!(reading.join().unwrap().unwrap() == before);
    deletion.wait_until_reached();
    deletion.release();
    collecting.join().unwrap().unwrap();
    assert!(world.store.head(&some).is_err());
    world.check(&volume);
    drop(volume);
    running.end();
}

/// A newcomer reads the stream behind a checkpoint; meanwhile the owner writes another one and
/// deletes what that covers.
#[test]
fn a_newcomer_whose_stream_is_collected_under_it_enters_again() {
    let mut world = World::new(96, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let some = objects(&world)[10].clone();
    let gate = second.store.hold(Op::GetRange, some.as_str());
    let opening = {
        let engine = Arc::clone(&second.engine);
        thread::spawn(move || engine.open_writer(&name()))
    };
    gate.wait_until_reached();
    for at in (0..LANE_SECTORS).step_by(OBJECT_SECTORS as usize) {
        world.write(&volume, 0, at, OBJECT_SECTORS);
        world.upload(&volume);
    }
    collect(&volume, 95);
    assert!(world.store.head(&some).is_err(), "{some} should have been deleted");
    gate.release();
    world.promise = Promise::Uploaded;
    let theirs = opening.join().unwrap().unwrap();
    world.check(&theirs);
    learn(&volume);
    drop(volume);
    leave(first);
    drop(theirs);
    second.end();
}

/// An object that cannot be read is named and left alone; the others are cleaned.
#[test]
fn a_damaged_object_is_left_alone() {
    let mut world = World::new(97, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    wear(&mut world, &volume, 30);
    let victim = objects(&world)[3].clone();
    let (mut body, version) = world.store.get(&victim).unwrap();
    let last = body.len() - 1;
    body[last] ^= 1;
    world.store.replace(&victim, &body, &version).unwrap();
    let report = collect(&volume, 95);
    assert!(report.moved_bytes > 0 && report.deleted_objects > 0, "{report:?}");
    assert!(world.store.head(&victim).is_ok(), "a damaged object is never deleted while needed");
    assert_eq!(volume.stats().state, "healthy");
    // Whatever was damaged says so, and all else is right.
    let whole = read(&volume, 0, LANE_SECTORS as usize * SECTOR);
    assert!(whole.unwrap_err().to_string().contains(victim.as_str().rsplit('/').next().unwrap()));
    drop(volume);
    running.end();
}

/// A newcomer finds a number missing; before its fence arrives there, the owner has used the number,
/// covered it by a checkpoint and deleted it again.
#[test]
fn a_fence_at_a_number_that_was_collected_meanwhile_does_not_count() {
    let mut world = World::new(98, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    lay_out(&mut world, &volume);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let gate = second.store.hold(Op::Create, "*/o/*");
    let opening = {
        let engine = Arc::clone(&second.engine);
        thread::spawn(move || engine.open_writer(&name()))
    };
    gate.wait_until_reached();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let decided = objects(&world).pop().unwrap();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    collect(&volume, 0);
    assert!(world.store.head(&decided).is_err(), "{decided} should have been deleted");
    world.write(&volume, 0, 64, 64);
    world.upload(&volume);
    gate.release();
    world.promise = Promise::Uploaded;
    let theirs = opening.join().unwrap().unwrap();
    assert_eq!(second.life.failpoints().get("open.fenced"), Some(&2), "the first one counted");
    world.check(&theirs);
    assert!(learn(&volume).to_string().contains("sim-b"));
    world.write(&theirs, 0, 7, 64);
    world.upload(&theirs);
    drop((volume, theirs));
    leave(first);
    second.drain();
    world.lose_ssd();
    world.boot_and_check().0.end();
}
