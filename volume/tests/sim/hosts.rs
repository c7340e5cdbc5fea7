//! Interleavings of two and three hosts on one store.
//!
//! What a deposed host writes is garbage without a stamp: the oracle takes none of it for history.

use std::sync::Arc;
use std::thread;

use lsvd_store::{Fault, FaultPlan, Key, ObjectStore, Op, Rule};
use lsvd_volume::{Close, Error, Volume};

use crate::oracle::Promise;
use crate::platform::CrashAt;
use crate::stamp::SECTOR;
use crate::world::{Host, Running, World, flush, name, read, write};

pub(crate) fn boot(world: &mut World) -> Running {
    world.boot(CrashAt::Never, FaultPlan::none()).unwrap()
}

/// Keys of the volume's stream, in order.
pub(crate) fn objects(world: &World) -> Vec<Key> {
    let page = world.store.list("data/", None, 10_000).unwrap();
    let all = page.objects.into_iter().map(|object| object.key);
    all.filter(|key| key.as_str().contains("/o/")).collect()
}

/// The bytes of the volume's superblock.
pub(crate) fn superblock(world: &World) -> Vec<u8> {
    let all = world.store.list("data/", None, 10_000).unwrap().objects;
    let key = all.into_iter().map(|o| o.key).find(|key| key.as_str().ends_with("/super"));
    world.store.get(&key.unwrap()).unwrap().0
}

/// Objects and checkpoints only when asked for.
pub(crate) fn patient(world: &mut World) {
    world.config.batch_age = std::time::Duration::from_secs(3600);
    world.config.checkpoint_objects = 1 << 40;
    world.config.batch_bytes = 64 << 20;
}

/// The next host opens the volume for writing, and shows what the store promises.
pub(crate) fn take_over(world: &mut World, host: &mut Host) -> (Running, Arc<Volume>) {
    world.go_to(host);
    world.promise = Promise::Uploaded;
    world.boot_and_check()
}

/// Has the volume of a host that was deposed find out.
pub(crate) fn learn(volume: &Arc<Volume>) -> Error {
    if let Err(error) = write(volume, 0, &[0xee; SECTOR]) {
        // It has found out by itself.
        return error;
    }
    volume.flush_to_store().expect_err("the host does not know that it is deposed")
}

/// Everything that a volume does is refused, and says so.
pub(crate) fn assert_fenced(volume: &Arc<Volume>, by: &str) {
    let refusals = [
        write(volume, 0, &[1; SECTOR]).unwrap_err(),
        read(volume, 0, SECTOR).unwrap_err(),
        flush(volume).unwrap_err(),
        volume.flush_to_store().unwrap_err(),
        volume.resize(1 << 30, false).unwrap_err(),
    ];
    for error in refusals {
        assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
        assert!(error.to_string().contains(by), "{error}");
    }
    assert_eq!(volume.stats().state, "fenced");
}

#[test]
fn a_deposed_host_refuses_everything_and_says_what_its_log_still_holds() {
    let mut world = World::new(1, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    world.write(&theirs, 0, 32, 64);
    world.upload(&theirs);

    // It does not know yet, and acknowledges.
    write(&volume, 0, &[0xee; 4096]).unwrap();
    flush(&volume).unwrap();
    let error = learn(&volume);
    assert!(
        matches!(&error, Error::Fenced { by, .. } if by.starts_with("host \"sim-b\" at 20")),
        "{error}"
    );
    assert_fenced(&volume, "sim-b");
    drop(volume);
    let closed = first.engine.shutdown(Close::Drain, &mut |_| true).unwrap_err();
    let Error::StaleLog { bytes, .. } = closed else { panic!("{closed}") };
    assert!((4096 + 512..16 << 10).contains(&bytes), "{bytes} bytes");
    drop(first);

    drop(theirs);
    world.kill(second);
    let (second, _) = world.boot_and_check();
    second.drain();
    // The first host's log is refused with the same number, and again.
    world.go_to(&mut other);
    for _ in 0..2 {
        let first = boot(&mut world);
        let error = first.open().unwrap_err();
        assert!(matches!(error, Error::StaleLog { bytes: found, .. } if found == bytes), "{error}");
        first.end();
    }
    for step in ["log.discard", "log.discarded"] {
        let first = world.boot(CrashAt::Failpoint(step, 1), FaultPlan::none()).unwrap();
        first.engine.discard_log(&name()).expect_err("it crashes there");
        world.kill(first);
        let first = boot(&mut world);
        let left = if step == "log.discard" { bytes } else { 0 };
        let opened = first.open();
        match opened {
            Ok(_) => assert_eq!(left, 0, "{step}"),
            Err(Error::StaleLog { bytes: found, .. }) => assert_eq!(found, left, "{step}"),
            Err(error) => panic!("{step}: {error}"),
        }
        first.end();
    }
    let first = boot(&mut world);
    let volume = first.open().unwrap();
    world.check(&volume);
    drop(volume);
    first.drain();
}

#[test]
fn a_deposed_host_whose_log_the_store_holds_closes_without_a_complaint() {
    let mut world = World::new(2, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    // A checkpoint of the deposed host: nothing is lost with it.
    let error = volume.resize(volume.size_bytes(), false);
    assert!(error.is_ok(), "no change asks nobody: {error:?}");
    let closed = first.engine.shutdown(Close::Drain, &mut |_| true);
    assert!(matches!(closed, Ok(0)), "{closed:?}");
    drop((volume, first));
    world.write(&theirs, 0, 10, 20);
    world.upload(&theirs);
    drop(theirs);
    second.drain();
    // Its log is recycled without a word.
    world.go_to(&mut other);
    let (first, _) = world.boot_and_check();
    first.drain();
}

/// The key of the object that comes `after` the newest one.
fn next_object(world: &World, after: usize) -> String {
    format!("*/o/{:016x}", objects(world).len() + after)
}

/// Nobody runs any more, and a machine that has nothing sees the owner's history.
pub(crate) fn assert_intact(world: &mut World) {
    world.lose_ssd();
    world.promise = Promise::Uploaded;
    let (running, volume) = world.boot_and_check();
    drop(volume);
    running.drain();
    // Once more from the clean end.
    world.lose_ssd();
    world.promise = Promise::Uploaded;
    let (running, _) = world.boot_and_check();
    running.end();
}

/// Ends a process whose volume was taken over, whatever its log holds.
pub(crate) fn leave(running: Running) {
    let closed = running.engine.shutdown(Close::Drain, &mut |_| true);
    assert!(matches!(closed, Ok(0) | Err(Error::StaleLog { .. })), "{closed:?}");
}

#[test]
fn a_deposed_writer_paused_before_a_create_goes_on_when_all_around_it_is_checkpointed() {
    let mut world = World::new(3, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let held = first.store.hold(Op::Create, &next_object(&world, 1));
    write(&volume, 0, &[0xee; 8192]).unwrap();
    let uploading = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.flush_to_store())
    };
    held.wait_until_reached();
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    for i in 0..4 {
        world.write(&theirs, 0, i * 50, 64);
        world.upload(&theirs);
    }
    drop(theirs);
    second.drain();
    held.release();
    let error = uploading.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_fenced(&volume, "sim-b");
    drop(volume);
    leave(first);
    assert_intact(&mut world);
}

/// Uploads of a host that crashed arrive while the next one takes over, at every point of it.
#[test]
fn delayed_uploads_land_at_every_point_of_a_takeover() {
    // Before the first missing number is found, before the fence, before a filler, afterwards.
    for point in 0..4 {
        eprintln!("point {point}");
        let mut world = World::new(40 + point, 1);
        world.config.batch_bytes = 64 << 10;
        world.config.checkpoint_objects = 1 << 40;
        let (first, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 64);
        world.upload(&volume);
        let next = objects(&world).len() + 1;
        // All of the window is under way and nothing of it is answered. The gate on the second
        // attempts tells that the first ones were sent.
        let delayed = Rule::next(Op::Create, "*/o/*", Fault::Late).times(u64::MAX);
        first.store.inject(delayed);
        let key = format!("*/o/{next:016x}");
        let one = first.store.hold(Op::Create, &key);
        for i in 0..10 {
            world.write(&volume, 0, i * 150, 200);
        }
        one.wait_until_reached();
        let two = first.store.hold(Op::Create, &key);
        one.release();
        two.wait_until_reached();
        drop(volume);
        let late = Arc::clone(&first.store);
        world.kill(first);
        // What lands belongs to the history, or is void: a prefix either way.
        let mut other = Host::new("sim-b");
        world.go_to(&mut other);
        world.promise = Promise::Uploaded;
        if point == 0 {
            late.land_late();
        }
        let second = boot(&mut world);
        let (op, at) = [(Op::Create, next), (Op::Create, next), (Op::Create, next + 1)]
            .get(point as usize)
            .copied()
            .unwrap_or((Op::Create, next + 100));
        let gate = second.store.hold(op, &format!("*/o/{at:016x}"));
        let opening = {
            let engine = Arc::clone(&second.engine);
            thread::spawn(move || engine.open_writer(&name()))
        };
        if (1..3).contains(&point) {
            gate.wait_until_reached();
            late.land_late();
        }
        gate.release();
        let theirs = opening.join().unwrap().unwrap();
        world.check(&theirs);
        world.write(&theirs, 0, 77, 100);
        let landed = late.land_late();
        assert_eq!(landed.is_empty(), point < 3, "{landed:?}");
        assert!(landed.iter().all(Result::is_err), "the numbers are taken: {landed:?}");
        world.upload(&theirs);
        drop(theirs);
        second.end();
        assert_intact(&mut world);
    }
}

#[test]
fn a_host_that_died_right_after_its_fence_deposed_the_one_before_all_the_same() {
    for step in ["open.fenced", "open.fill", "log.started"] {
        let mut world = World::new(5, 1);
        patient(&mut world);
        let (first, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 64);
        world.upload(&volume);
        let mut other = Host::new("sim-b");
        world.go_to(&mut other);
        let second = world.boot(CrashAt::Failpoint(step, 1), FaultPlan::none()).unwrap();
        second.open().expect_err("it crashes there");
        world.kill(second);
        let error = learn(&volume);
        assert!(error.to_string().contains("sim-b"), "{step}: {error}");
        drop(volume);
        leave(first);
        // The fence was pending there, so its log goes on.
        let (second, theirs) = world.boot_and_check();
        world.write(&theirs, 0, 10, 64);
        world.upload(&theirs);
        drop(theirs);
        world.kill(second);
        assert_intact(&mut world);
    }
}

#[test]
fn two_hosts_open_at_the_same_moment() {
    for seed in 0..6 {
        let mut world = World::new(60 + seed, 1);
        patient(&mut world);
        let (before, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 64);
        world.upload(&volume);
        drop(volume);
        before.drain();
        let mut other = Host::new("sim-b");
        let fence = next_object(&world, 1);
        let first = boot(&mut world);
        world.go_to(&mut other);
        let second = boot(&mut world);
        // Both have read the stream to its end.
        let gates = [&first, &second].map(|r| r.store.hold(Op::Create, &fence));
        let opening: Vec<_> = [&first, &second]
            .map(|running| Arc::clone(&running.engine))
            .into_iter()
            .map(|engine| thread::spawn(move || engine.open_writer(&name())))
            .collect();
        gates.iter().for_each(lsvd_store::Gate::wait_until_reached);
        let order = if seed % 2 == 0 { [0, 1] } else { [1, 0] };
        order.iter().for_each(|i| gates[*i].release());
        let opened: Vec<_> = opening.into_iter().map(|o| o.join().unwrap()).collect();
        let uploads = |volume: &Arc<Volume>| {
            write(volume, 30_000, &[0; SECTOR]).and_then(|()| volume.flush_to_store())
        };
        // Who was deposed by the other finds out at its first upload, at the latest.
        let outcomes: Vec<_> = opened
            .iter()
            .map(|opened| opened.as_ref().map_err(Clone::clone).and_then(uploads))
            .collect();
        let owners = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(owners, 1, "{outcomes:?}");
        for outcome in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert!(matches!(outcome, Error::Fenced { .. }), "{outcome}");
        }
        drop((opened, gates));
        leave(first);
        leave(second);
    }
}

#[test]
fn lost_answers_of_the_fence_and_of_the_superblock_depose_nobody() {
    let mut world = World::new(7, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    drop(volume);
    first.end();
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    world.promise = Promise::Uploaded;
    let plan = FaultPlan::script([
        Rule::next(Op::Create, "*/o/*", Fault::After).times(2),
        Rule::next(Op::Replace, "data/*", Fault::After).times(3),
    ]);
    let second = world.boot(CrashAt::Never, plan).unwrap();
    let theirs = second.open().unwrap();
    world.check(&theirs);
    world.write(&theirs, 0, 20, 64);
    theirs.resize(theirs.size_bytes() + 4096, false).unwrap();
    world.upload(&theirs);
    drop(theirs);
    second.drain();
    assert_intact(&mut world);
}

/// A checkpoint of a deposed writer reaches the superblock late: after the new owner's, which it
/// must not replace; and before it, where it does no harm.
#[test]
fn a_deposed_host_publishes_its_checkpoint_late() {
    for published_since in [true, false] {
        let mut world = World::new(8, 1);
        patient(&mut world);
        let (first, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 64);
        world.upload(&volume);
        let held = first.store.hold(Op::Replace, "data/*");
        let size = volume.size_bytes();
        volume.resize(size + 4096, false).unwrap();
        held.wait_until_reached();
        let mut other = Host::new("sim-b");
        let (second, theirs) = take_over(&mut world, &mut other);
        world.write(&theirs, 0, 32, 64);
        if published_since {
            theirs.resize(size + 8192, false).unwrap();
            // A drained close waits for its checkpoint, and so it is published.
            drop(theirs);
            second.drain();
        } else {
            world.upload(&theirs);
            drop(theirs);
            world.kill(second);
        }
        let before = superblock(&world);
        held.release();
        let error = learn(&volume);
        assert!(matches!(&error, Error::Fenced { by, .. } if by.contains("sim-b")), "{error}");
        drop(volume);
        leave(first);
        assert_eq!(superblock(&world) == before, published_since, "whose checkpoint it names");
        world.lose_ssd();
        world.promise = Promise::Uploaded;
        let (third, volume) = world.boot_and_check();
        assert_eq!(volume.size_bytes(), size + if published_since { 8192 } else { 4096 });
        drop(volume);
        third.end();
        assert_intact(&mut world);
    }
}

#[test]
fn three_hosts_take_over_from_each_other() {
    let mut world = World::new(9, 1);
    patient(&mut world);
    let (first, a) = world.boot_and_check();
    world.write(&a, 0, 0, 64);
    world.upload(&a);
    let (mut host_b, mut host_c) = (Host::new("sim-b"), Host::new("sim-c"));
    let (second, b) = take_over(&mut world, &mut host_b);
    world.write(&b, 0, 30, 64);
    world.upload(&b);
    let (third, c) = take_over(&mut world, &mut host_c);
    world.write(&c, 0, 60, 64);
    world.upload(&c);
    // Each names the one that deposed it.
    assert!(learn(&a).to_string().contains("sim-b"));
    assert!(learn(&b).to_string().contains("sim-c"));
    drop((a, b, c));
    leave(first);
    leave(second);
    world.kill(third);
    // The last one goes on with its own log.
    let (third, _) = world.boot_and_check();
    third.end();
    assert_intact(&mut world);
}

/// Away and back again: a log that the store wholly contains is recycled without a word, and
/// the volume is what the other host made of it.
#[test]
fn a_host_comes_back_after_another_and_its_old_log_counts_for_nothing() {
    let mut world = World::new(10, 1);
    let (first, a) = world.boot_and_check();
    world.write(&a, 0, 0, 300);
    world.upload(&a);
    drop(a);
    world.kill(first);
    let mut other = Host::new("sim-b");
    let (second, b) = take_over(&mut world, &mut other);
    world.write(&b, 0, 100, 300);
    world.upload(&b);
    drop(b);
    world.kill(second);
    world.go_to(&mut other);
    world.promise = Promise::Uploaded;
    let (first, a) = world.boot_and_check();
    world.write(&a, 0, 50, 10);
    world.flush(&a);
    drop(a);
    world.kill(first);
    let (first, _) = world.boot_and_check();
    first.end();
    assert_intact(&mut world);
}
