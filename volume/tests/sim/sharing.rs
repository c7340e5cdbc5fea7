//! Data of one volume that another one points at.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use lsvd_store::{FaultPlan, ObjectStore, Op};
use lsvd_volume::{Check, Close, Engine, Error, Volume, VolumeName};

use crate::hosts::{boot, leave, patient};
use crate::platform::CrashAt;
use crate::shared::{attrs, content, named, wear};
use crate::world::{Host, LANE_SECTORS, Running, World, name, write};

const LANE_BYTES: u64 = LANE_SECTORS * 512;

/// A disk that was written once and whose snapshot "kept" is this; it was worn since.
fn worn(world: &mut World, volume: &Arc<Volume>) -> Vec<u8> {
    world.write(volume, 0, 0, LANE_SECTORS);
    wear(world, volume, 3);
    volume.create_snapshot(&named("kept")).unwrap();
    let kept = content(volume);
    wear(world, volume, 6);
    kept
}

fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// What a disk holds once it shares parts of another one.
fn with_shared(mut content: Vec<u8>, of: &[u8], ranges: &[Range<u64>]) -> Vec<u8> {
    for range in ranges {
        let range = range.start as usize..range.end as usize;
        content[range.clone()].copy_from_slice(&of[range]);
    }
    content
}

/// Shares the whole lane; returns what came to be shared.
fn share_all(target: &Arc<Volume>, source: &Arc<Volume>) -> Vec<Range<u64>> {
    let before = target.stats().object_bytes_put;
    let shared = target.share(source, 0, LANE_BYTES, 1).unwrap();
    let put = target.stats().object_bytes_put - before;
    assert!(put < 64 << 10, "{put} bytes to share {}", bytes(&shared));
    shared
}

fn view(engine: &Engine, of: &VolumeName) -> Arc<Volume> {
    engine.open_snapshot(of, &named("kept")).unwrap()
}

/// Whoever answered the last read may hold it still.
fn put_away(view: Arc<Volume>) {
    while Arc::strong_count(&view) > 1 {
        thread::yield_now();
    }
}

/// A volume on which nothing was written, as large as the other one.
fn make_blank(running: &Running, like: &Volume) -> VolumeName {
    let blank = named("blank");
    running.engine.create(&blank, like.size_bytes(), attrs()).unwrap();
    drop(running.engine.open_writer(&blank).unwrap());
    running.engine.close(&blank, Close::Drain).unwrap();
    blank
}

#[test]
fn a_clone_gets_back_what_its_base_has() {
    for seed in 400..404 {
        let mut world = World::new(seed, 1);
        patient(&mut world);
        if seed % 2 == 0 {
            world.forget_leaves();
        }
        let (running, volume) = world.boot_and_check();
        let kept = worn(&mut world, &volume);
        let twin = named("twin");
        running.engine.clone_volume(&name(), Some(&named("kept")), &twin, attrs()).unwrap();
        let clone = running.engine.open_writer(&twin).unwrap();
        wear(&mut world, &clone, 6);
        let before = content(&clone);
        assert!(before != kept);
        // From the snapshot all of it; what the base has overwritten since is not the clone's.
        let of_head = clone.share(&volume, 0, LANE_BYTES, 1).unwrap();
        assert!(bytes(&of_head) < LANE_BYTES, "{of_head:?}");
        let expected = with_shared(before, &content(&volume), &of_head);
        assert!(content(&clone) == expected, "parts of the base's head");
        let source = view(&running.engine, &name());
        let shared = share_all(&clone, &source);
        put_away(source);
        assert_eq!(bytes(&shared), LANE_BYTES);
        assert!(content(&clone) == kept);

        // The base is cleaned, the machine dies.
        wear(&mut world, &volume, 4);
        volume.collect(100, true, &mut |_| true).unwrap();
        assert!(content(&clone) == kept);
        drop((volume, clone));
        world.kill(running);
        world.lose_ssd();
        let running = boot(&mut world);
        let clone = running.engine.open_writer(&twin).unwrap();
        assert!(content(&clone) == kept, "after the SSD was lost");
        assert!(running.engine.flatten(&twin, &mut |_| true).unwrap());
        running.engine.delete_snapshot(&name(), &named("kept")).unwrap();
        let volume = running.open().unwrap();
        volume.collect(100, true, &mut |_| true).unwrap();
        assert!(content(&clone) == kept, "on its own");
        drop((volume, clone));
        running.drain();
        world.assert_sound();
    }
}

#[test]
fn a_volume_gets_back_what_its_snapshot_has() {
    let mut world = World::new(410, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    let kept = worn(&mut world, &volume);
    // What is dirty goes as well.
    write(&volume, 8192, &[0xee; 4096]).unwrap();
    let source = view(&running.engine, &name());
    assert_eq!(bytes(&share_all(&volume, &source)), LANE_BYTES);
    put_away(source);
    assert!(content(&volume) == kept);
    // It needs the snapshot no more.
    running.engine.delete_snapshot(&name(), &named("kept")).unwrap();
    volume.collect(100, true, &mut |_| true).unwrap();
    assert!(content(&volume) == kept, "without the snapshot");
    drop(volume);
    world.kill(running);
    world.lose_ssd();
    let running = boot(&mut world);
    let volume = running.open().unwrap();
    assert!(content(&volume) == kept, "after the SSD was lost");
    drop(volume);
    running.drain();
    world.assert_sound();
}

/// A snapshot goes while its data is about to be shared.
#[test]
fn what_is_about_to_be_shared_is_not_condemned() {
    let mut world = World::new(420, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    let kept = worn(&mut world, &volume);
    // The snapshot alone needs what it shows.
    world.write(&volume, 0, 0, LANE_SECTORS);
    world.upload(&volume);
    let source = view(&running.engine, &name());
    let next = format!("data/*/o/{:016x}", volume.stats().committed_object + 1);
    let held = running.store.hold(Op::Create, &next);
    let sharing = {
        let (volume, source) = (Arc::clone(&volume), Arc::clone(&source));
        thread::spawn(move || volume.share(&source, 0, LANE_BYTES, 1))
    };
    held.wait_until_reached();
    // Its file is open, which other hosts do not know.
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    second.engine.delete_snapshot(&name(), &named("kept")).unwrap();
    running.engine.snapshots(&name()).unwrap();
    let collecting = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.collect(0, true, &mut |_| true))
    };
    thread::sleep(std::time::Duration::from_millis(200));
    held.release();
    let shared = sharing.join().unwrap().unwrap();
    collecting.join().unwrap().unwrap();
    assert_eq!(bytes(&shared), LANE_BYTES);
    volume.collect(100, true, &mut |_| true).unwrap();
    assert!(content(&volume) == kept);
    drop((volume, source));
    running.drain();
    leave(second);
    world.assert_sound();
}

#[test]
fn a_blank_volume_shares_what_is_copied_to_it() {
    for (seed, of_snapshot) in [(430, true), (431, false)] {
        let mut world = World::new(seed, 1);
        patient(&mut world);
        let (running, volume) = world.boot_and_check();
        let kept = worn(&mut world, &volume);
        let blank = make_blank(&running, &volume);
        let (source, expected) = match of_snapshot {
            true => (view(&running.engine, &name()), kept),
            false => (Arc::clone(&volume), content(&volume)),
        };
        assert!(running.engine.graft(&blank, &source).unwrap());
        let copy = running.engine.open_writer(&blank).unwrap();
        assert!(content(&copy).iter().all(|byte| *byte == 0), "nothing was copied yet");
        let half = LANE_BYTES / 2;
        assert_eq!(bytes(&copy.share(&source, 0, half, 1).unwrap()), half);
        // The copy makes a checkpoint, and forgets what it does not need of the base.
        copy.collect(100, true, &mut |_| true).unwrap();
        assert_eq!(bytes(&copy.share(&source, half, LANE_BYTES, 1).unwrap()), half);
        drop(source);
        assert!(content(&copy) == expected);
        wear(&mut world, &volume, 4);
        volume.collect(100, true, &mut |_| true).unwrap();
        // What came since it shares no more.
        let later = copy.share(&volume, 0, LANE_BYTES, 1).unwrap();
        let expected = with_shared(expected, &content(&volume), &later);
        assert!(bytes(&later) < LANE_BYTES && content(&copy) == expected, "{later:?}");
        let deleted = running.engine.close(&name(), Close::Drain);
        deleted.unwrap();
        let refused = running.engine.delete(&name());
        assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
        drop((volume, copy));
        world.kill(running);
        world.lose_ssd();

        let running = boot(&mut world);
        let copy = running.engine.open_writer(&blank).unwrap();
        assert!(content(&copy) == expected, "after the SSD was lost");
        // It cannot be grafted twice, nor what holds data.
        drop(copy);
        running.engine.close(&blank, Close::Drain).unwrap();
        let volume = running.open().unwrap();
        assert!(!running.engine.graft(&blank, &volume).unwrap());
        if of_snapshot {
            running.engine.delete(&blank).unwrap();
        } else {
            assert!(running.engine.flatten(&blank, &mut |_| true).unwrap());
        }
        let left = running.engine.snapshots(&name()).unwrap();
        assert!(left.iter().all(|snapshot| !snapshot.for_clones), "{left:?}");
        drop(volume);
        running.drain();
        world.assert_sound();
    }
}

/// Another host opens the volume that is about to become a clone.
#[test]
fn a_volume_that_is_taken_over_meanwhile_is_not_grafted() {
    let mut world = World::new(440, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    worn(&mut world, &volume);
    let blank = make_blank(&running, &volume);
    let source = view(&running.engine, &name());
    let held = running.store.hold(Op::Replace, "data/*");
    let grafting = {
        let (engine, source) = (Arc::clone(&running.engine), Arc::clone(&source));
        let blank = blank.clone();
        thread::spawn(move || engine.graft(&blank, &source))
    };
    held.wait_until_reached();
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let theirs = second.engine.open_writer(&blank).unwrap();
    write(&theirs, 0, &[7; 4096]).unwrap();
    theirs.flush_to_store().unwrap();
    held.release();
    assert!(!grafting.join().unwrap().unwrap());
    drop(theirs);
    drop(second.engine.shutdown(Close::Drain, &mut |_| true));
    drop((second, volume, source));
    let copy = running.engine.open_writer(&blank).unwrap();
    assert!(content(&copy)[..4096] == [7; 4096], "what the other host had uploaded");
    drop(copy);
    running.drain();
    world.assert_sound();
}

/// All steps.
const STEPS: [&str; 9] = [
    "share.begin",
    "share.put",
    "share.created",
    "share.commit",
    "graft.begin",
    "graft.named",
    "clone.pin",
    "clone.pinned",
    "graft.done",
];

/// What is done, one after the other, until it fails.
fn everything(running: &Running, blank: &VolumeName) -> Result<(), Error> {
    let volume = running.open()?;
    running.engine.graft(blank, &volume)?;
    let copy = running.engine.open_writer(blank)?;
    copy.share(&volume, 0, LANE_BYTES, 1)?;
    let source = running.engine.open_snapshot(&name(), &named("kept"))?;
    volume.share(&source, 0, LANE_BYTES, 1)?;
    volume.collect(100, true, &mut |_| true).map(drop)
}

fn crash_at(step: &'static str, nth: u64) -> bool {
    let mut world = World::new(450 + nth, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    let kept = worn(&mut world, &volume);
    let now = content(&volume);
    let blank = make_blank(&running, &volume);
    drop(volume);
    running.drain();

    let running = world.boot(CrashAt::Failpoint(step, nth), FaultPlan::none()).unwrap();
    let done = everything(&running, &blank);
    let crashed = running.life.is_dead();
    assert!(done.is_ok() || crashed, "{done:?}");
    world.kill(running);

    let running = boot(&mut world);
    let volume = running.open().unwrap();
    let head = content(&volume);
    assert!(head == now || head == kept, "neither what it was nor what it shares");
    let copy = running.engine.open_writer(&blank).unwrap();
    let copied = content(&copy);
    assert!(copied == now || copied.iter().all(|byte| *byte == 0), "neither blank nor a copy");
    // It goes on: what shares nothing by now is copied.
    let shared = copy.share(&volume, 0, LANE_BYTES, 1).unwrap();
    let copied = with_shared(copied, &head, &shared);
    volume.collect(100, true, &mut |_| true).unwrap();
    copy.collect(100, true, &mut |_| true).unwrap();
    assert!(content(&copy) == copied && content(&volume) == head);
    let former = format!("data/{}/o/{:016x}", copy.uuid(), 1);
    drop((volume, copy));
    running.engine.close(&blank, Close::Drain).unwrap();
    let repair = Check { repair: true, ..Check::default() };
    running.engine.check(None, repair, &mut |_| true).unwrap();
    if running.engine.base_of(&blank).unwrap().is_some() {
        let left = world.store.list(&former, None, 1).unwrap().objects;
        assert!(left.is_empty(), "what it had before stays: {left:?}");
    }
    running.engine.delete(&blank).unwrap();
    let repair = Check { repair: true, ..Check::default() };
    running.engine.check(None, repair, &mut |_| true).unwrap();
    for snapshot in running.engine.snapshots(&name()).unwrap() {
        running.engine.delete_snapshot(&name(), &named(&snapshot.name)).unwrap();
    }
    let volume = running.open().unwrap();
    let report = volume.collect(100, true, &mut |_| true).unwrap();
    assert!(content(&volume) == head, "what is left is what it was");
    assert_eq!(report.snapshot_bytes, 0, "{report:?}");
    drop(volume);
    running.drain();
    world.assert_sound();
    crashed
}

#[test]
fn a_crash_at_any_step_leaves_all_that_is_shared_or_nothing() {
    for step in STEPS {
        let crashes = [1, 2].map(|nth| {
            eprintln!("{step}, arrival {nth}");
            u64::from(crash_at(step, nth))
        });
        assert!(crashes.iter().sum::<u64>() > 0, "{step} is not reached");
    }
}
