//! Data of one volume that another one points at.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use lsvd_store::{FaultPlan, Op};
use lsvd_volume::{Close, Engine, Error, ShareLimits, Volume, VolumeName};

use crate::hosts::{boot, learn, leave, patient, take_over};
use crate::platform::CrashAt;
use crate::shared::{attrs, content, named, wear};
use crate::world::{Host, LANE_SECTORS, Running, World, name, write};

const LANE_BYTES: u64 = LANE_SECTORS * 512;

/// How long a share waits before it gives up what is not in the stream.
const SHARE_PATIENCE: Duration = Duration::from_secs(5);

/// Whatever can be shared.
pub(crate) const ALL: ShareLimits = ShareLimits { least_bytes: 1, other_bytes_max: u64::MAX };

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
    let shared = target.share(source, 0, LANE_BYTES, ALL).unwrap();
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
        // From the snapshot all of it, what it has already included; what the base has overwritten since is not the clone's.
        let of_head = clone.share(&volume, 0, LANE_BYTES, ALL).unwrap();
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
    volume.create_snapshot(&named("between")).unwrap();
    assert!(!volume.is_written_since(Some("between")).unwrap());
    assert_eq!(bytes(&share_all(&volume, &source)), LANE_BYTES);
    assert!(volume.is_written_since(Some("between")).unwrap(), "what is shared has no record");
    // A second time there is nothing to do.
    let objects = volume.stats().objects_put;
    assert_eq!(bytes(&share_all(&volume, &source)), LANE_BYTES);
    assert_eq!(volume.stats().objects_put, objects);
    put_away(source);
    assert!(content(&volume) == kept);
    // It needs the snapshot no more.
    running.engine.delete_snapshot(&name(), &named("kept")).unwrap();
    running.engine.delete_snapshot(&name(), &named("between")).unwrap();
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

/// What is shared overtakes nothing that was written before, wherever that is.
#[test]
fn what_was_written_before_is_in_the_store_before() {
    let mut world = World::new(415, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    worn(&mut world, &volume);
    let half = LANE_BYTES / 2;
    write(&volume, half, &[0xee; 4096]).unwrap();
    let source = view(&running.engine, &name());
    assert_eq!(bytes(&volume.share(&source, 0, half, ALL).unwrap()), half);
    let expected = content(&volume);
    put_away(source);
    drop(volume);
    world.kill(running);
    world.lose_ssd();
    let running = boot(&mut world);
    let volume = running.open().unwrap();
    assert!(content(&volume) == expected, "a copy came before a write that was first");
    drop(volume);
    running.drain();
}

/// The store takes what is shared, and says so only after everybody's patience has ended.
#[test]
fn what_is_in_the_stream_is_waited_for() {
    let mut world = World::new(416, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    let mut expected = worn(&mut world, &volume);
    world.upload(&volume);
    let source = view(&running.engine, &name());
    let next = format!("data/*/o/{:016x}", volume.stats().committed_object + 1);
    let held = running.store.hold(Op::Create, &next);
    let sharing = {
        let (volume, source) = (Arc::clone(&volume), Arc::clone(&source));
        thread::spawn(move || volume.share(&source, 0, LANE_BYTES, ALL))
    };
    held.wait_until_reached();
    // Comes after it, and so wins.
    write(&volume, 8192, &[0xee; 4096]).unwrap();
    expected[8192..12288].fill(0xee);
    thread::sleep(SHARE_PATIENCE + Duration::from_millis(500));
    assert!(!sharing.is_finished(), "it came to the volume after the answer");
    held.release();
    assert_eq!(bytes(&sharing.join().unwrap().unwrap()), LANE_BYTES);
    assert!(content(&volume) == expected);
    volume.flush_to_store().unwrap();
    put_away(source);
    drop(volume);
    world.kill(running);
    world.lose_ssd();
    let running = boot(&mut world);
    let volume = running.open().unwrap();
    assert!(content(&volume) == expected, "after the SSD was lost");
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
        thread::spawn(move || volume.share(&source, 0, LANE_BYTES, ALL))
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
    thread::sleep(Duration::from_millis(200));
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

/// A host that does not know that it was deposed copies what it sees, and not from where that was.
#[test]
fn a_deposed_source_gives_nothing_that_its_owner_may_have_collected() {
    let mut world = World::new(430, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, LANE_SECTORS);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    // Nothing of what the first host shows is left.
    for _ in 0..2 {
        world.write(&theirs, 0, 0, LANE_SECTORS);
        world.upload(&theirs);
        theirs.collect(100, true, &mut |_| true).unwrap();
    }
    let twin = named("twin");
    second.engine.clone_volume(&name(), None, &twin, attrs()).unwrap();
    let expected = content(&theirs);
    drop(theirs);

    let clone = first.engine.open_writer(&twin).unwrap();
    let shared = clone.share(&volume, 0, LANE_BYTES, ALL).unwrap();
    assert!(shared.is_empty(), "{shared:?}");
    // Once it knows, it gives nothing at all.
    assert!(matches!(learn(&volume), Error::Fenced { .. }));
    let refused = clone.share(&volume, 0, LANE_BYTES, ALL);
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    assert!(content(&clone) == expected);
    drop((clone, volume));
    leave(first);
    drop(second.engine.shutdown(Close::Drain, &mut |_| true));
    drop(second);
    world.assert_sound();
}

/// A deposed writer names its last checkpoint late, which condemns what the next owner is to share.
#[test]
fn a_late_checkpoint_of_the_writer_before_takes_nothing_that_is_shared() {
    let mut world = World::new(440, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    let kept = worn(&mut world, &volume);
    world.write(&volume, 0, 0, LANE_SECTORS);
    world.upload(&volume);
    // The next owner has the snapshot's file open, which the writer does not know.
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let source = view(&second.engine, &name());
    first.engine.delete_snapshot(&name(), &named("kept")).unwrap();
    let held = first.store.hold(Op::Replace, "data/*");
    let collecting = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.collect(0, true, &mut |_| true))
    };
    held.wait_until_reached();
    let theirs = second.engine.open_writer(&name()).unwrap();
    let before = content(&theirs);
    let sharing = {
        let (theirs, source) = (Arc::clone(&theirs), Arc::clone(&source));
        thread::spawn(move || theirs.share(&source, 0, LANE_BYTES, ALL))
    };
    thread::sleep(Duration::from_millis(200));
    held.release();
    drop(collecting.join().unwrap());
    let shared = sharing.join().unwrap().unwrap();
    let expected = with_shared(before, &kept, &shared);
    assert!(content(&theirs) == expected, "{shared:?}");
    drop((theirs, source, volume));
    drop(second.engine.shutdown(Close::Drain, &mut |_| true));
    drop(second);
    leave(first);
    let second = boot(&mut world);
    let theirs = second.open().unwrap();
    assert!(content(&theirs) == expected, "opened again");
    drop(theirs);
    second.drain();
    world.assert_sound();
}

/// What shares while it is cut off from its base is whole afterwards.
#[test]
fn a_clone_that_is_flattened_meanwhile_needs_nothing_of_its_base() {
    let mut world = World::new(445, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    let kept = worn(&mut world, &volume);
    let twin = named("twin");
    running.engine.clone_volume(&name(), Some(&named("kept")), &twin, attrs()).unwrap();
    let clone = running.engine.open_writer(&twin).unwrap();
    let source = view(&running.engine, &name());
    let (tell, told) = channel();
    let sharing = {
        let (clone, source) = (Arc::clone(&clone), Arc::clone(&source));
        thread::spawn(move || {
            for nth in 0..60u64 {
                // Something else, so that there is something to share.
                write(&clone, nth % 40 * 65_536, &[nth as u8; 65_536]).unwrap();
                let shared = clone.share(&source, 0, LANE_BYTES, ALL).unwrap();
                assert!(nth > 0 || bytes(&shared) == LANE_BYTES, "{shared:?}");
                tell.send(nth).unwrap();
            }
        })
    };
    assert_eq!(told.recv().unwrap(), 0);
    assert!(running.engine.flatten(&twin, &mut |_| true).unwrap());
    assert!(running.engine.base_of(&twin).unwrap().is_none());
    sharing.join().unwrap();
    put_away(source);
    let expected = content(&clone);
    running.engine.delete_snapshot(&name(), &named("kept")).unwrap();
    volume.collect(100, true, &mut |_| true).unwrap();
    drop((volume, clone));
    running.drain();
    world.lose_ssd();
    let running = boot(&mut world);
    let clone = running.engine.open_writer(&twin).unwrap();
    assert!(content(&clone) == expected && expected.len() == kept.len());
    drop(clone);
    running.drain();
    world.assert_sound();
}

/// All steps.
const STEPS: [&str; 4] = ["share.begin", "share.put", "share.created", "share.commit"];

/// What is done, one after the other, until it fails.
fn everything(running: &Running, twin: &VolumeName) -> Result<(), Error> {
    let volume = running.open()?;
    let source = running.engine.open_snapshot(&name(), &named("kept"))?;
    running.engine.open_writer(twin)?.share(&source, 0, LANE_BYTES, ALL)?;
    volume.share(&source, 0, LANE_BYTES, ALL)?;
    volume.collect(100, true, &mut |_| true).map(drop)
}

fn crash_at(step: &'static str, nth: u64) -> bool {
    let mut world = World::new(450 + nth, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    let kept = worn(&mut world, &volume);
    let now = content(&volume);
    let twin = named("twin");
    running.engine.clone_volume(&name(), Some(&named("kept")), &twin, attrs()).unwrap();
    let clone = running.engine.open_writer(&twin).unwrap();
    wear(&mut world, &clone, 3);
    let other = content(&clone);
    drop((volume, clone));
    running.drain();

    let running = world.boot(CrashAt::Failpoint(step, nth), FaultPlan::none()).unwrap();
    let done = everything(&running, &twin);
    let crashed = running.life.is_dead();
    assert!(done.is_ok() || crashed, "{done:?}");
    world.kill(running);

    let running = boot(&mut world);
    let volume = running.open().unwrap();
    let head = content(&volume);
    assert!(head == now || head == kept, "neither what it was nor what it shares");
    let clone = running.engine.open_writer(&twin).unwrap();
    let copied = content(&clone);
    assert!(copied == other || copied == kept, "neither what it was nor what it shares");
    volume.collect(100, true, &mut |_| true).unwrap();
    clone.collect(100, true, &mut |_| true).unwrap();
    assert!(content(&clone) == copied && content(&volume) == head);
    drop((volume, clone));
    running.engine.close(&twin, Close::Drain).unwrap();
    running.engine.delete(&twin).unwrap();
    running.engine.delete_snapshot(&name(), &named("kept")).unwrap();
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
