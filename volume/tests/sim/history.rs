//! A crash at every step of making snapshots and clones, of rollbacks, and of deleting them.

use std::sync::Arc;

use lsvd_store::FaultPlan;
use lsvd_volume::{Check, Close, Engine, Error, Moment, ObjectSeq, Volume};

use crate::platform::CrashAt;
use crate::shared::{attrs, content, named};
use crate::world::{LANE_SECTORS, Running, World, name};

/// All steps.
const STEPS: [&str; 24] = [
    "snapshot.begin",
    "snapshot.made",
    "snapshot.change",
    "snapshot.changed",
    "orphan.look",
    "orphan.fenced",
    "orphan.dropped",
    "clone.pin",
    "clone.pinned",
    "create.superblock",
    "create.name",
    "history.begin",
    "flatten.copied",
    "flatten.cut",
    "rollback.put",
    "rollback.created",
    "rollback.published",
    "delete.mark",
    "delete.fence",
    "delete.objects",
    "delete.name",
    "delete.base",
    "delete.superblock",
    "checkpoint.publish",
];

fn of_snapshot(engine: &Arc<Engine>, snapshot: &str) -> Result<Vec<u8>, Error> {
    let view = engine.open_snapshot(&name(), &named(snapshot))?;
    let content = content(&view);
    // Whoever answered the last read may hold it still.
    while Arc::strong_count(&view) > 1 {
        std::thread::yield_now();
    }
    Ok(content)
}

/// Some of the disk is written anew; returns what it holds then.
fn wear(world: &mut World, volume: &Arc<Volume>) -> Vec<u8> {
    for _ in 0..20 {
        let (at, sectors) = (world.rng.below(LANE_SECTORS - 64), 1 + world.rng.below(64));
        world.write(volume, 0, at, sectors);
    }
    volume.flush_to_store().unwrap();
    content(volume)
}

/// What is done, one after the other, until it fails. `object` is a moment at which the disk held
/// `then`.
fn everything(running: &Running, object: u64) -> Result<(), Error> {
    let engine = &running.engine;
    let volume = running.open()?;
    volume.create_snapshot(&named("second"))?;
    engine.protect_snapshot(&name(), &named("second"), true)?;
    engine.protect_snapshot(&name(), &named("second"), false)?;
    engine.clone_volume(&name(), Some(&named("first")), &named("of-first"), attrs())?;
    engine.clone_volume(&name(), None, &named("of-head"), attrs())?;
    let moment = Moment::Object(ObjectSeq::new(object));
    match engine.clone_moment(&name(), moment, &named("of-then"), attrs()) {
        Err(Error::NoSuchMoment { .. }) => {}
        made => drop(made?),
    }
    let clone = engine.open_writer(&named("of-first"))?;
    clone.create_snapshot(&named("own"))?;
    drop(clone);
    engine.close(&named("of-first"), Close::Drain)?;
    volume.collect(100, true, &mut |_| true)?;
    drop(volume);
    engine.close(&name(), Close::Drain)?;
    engine.roll_back(&name(), &named("first"))?;
    engine.delete_snapshot(&named("of-first"), &named("own"))?;
    engine.flatten(&named("of-first"), &mut |_| true)?;
    engine.close(&named("of-first"), Close::Drain)?;
    engine.delete(&named("of-first"))?;
    engine.delete(&named("of-head"))?;
    engine.delete_snapshot(&name(), &named("half"))?;
    engine.delete_snapshot(&name(), &named("second"))
}

fn crash_at(step: &'static str, nth: u64) -> bool {
    let mut world = World::new(nth, 1);
    world.clean_hard();
    if nth.is_multiple_of(2) {
        world.forget_leaves();
    }
    let running = world.boot(CrashAt::Never, FaultPlan::none()).unwrap();
    let volume = running.open().unwrap();
    let first = wear(&mut world, &volume);
    volume.create_snapshot(&named("first")).unwrap();
    let object = volume.stats().committed_object;
    let second = wear(&mut world, &volume);
    volume.create_snapshot(&named("half")).unwrap();
    drop(volume);
    running.drain();
    // A clone that was not made, three times.
    for _ in 0..3 {
        let running = world.boot(CrashAt::Failpoint("clone.pinned", 1), FaultPlan::none()).unwrap();
        let half = running.engine.clone_volume(&name(), Some(&named("half")), &named("c"), attrs());
        half.expect_err("it crashes there");
        world.kill(running);
    }

    let running = world.boot(CrashAt::Failpoint(step, nth), FaultPlan::none()).unwrap();
    let done = everything(&running, object);
    let crashed = running.life.is_dead();
    assert!(done.is_ok() || crashed, "{done:?}");
    world.kill(running);

    let running = world.boot(CrashAt::Never, FaultPlan::none()).unwrap();
    let engine = Arc::clone(&running.engine);
    let volume = running.open().unwrap();
    let head = content(&volume);
    assert!(head == first || head == second, "neither what it was nor what it was rolled back to");
    assert!(of_snapshot(&engine, "first").unwrap() == first);
    match of_snapshot(&engine, "second") {
        Ok(kept) => assert!(kept == second),
        Err(error) => assert!(matches!(error, Error::NoSuchSnapshot { .. }), "{error}"),
    }
    for (clone, expected) in [("of-first", &first), ("of-head", &second), ("of-then", &first)] {
        let clone = named(clone);
        match engine.open_writer(&clone) {
            Ok(volume) => assert!(content(&volume) == *expected, "{clone}"),
            Err(error) => assert!(matches!(error, Error::NoSuchVolume(_)), "{clone}: {error}"),
        }
        engine.close(&clone, Close::Drain).unwrap();
        for snapshot in engine.snapshots(&clone).unwrap_or_default() {
            engine.delete_snapshot(&clone, &named(&snapshot.name)).unwrap();
        }
        match engine.delete(&clone) {
            Ok(()) | Err(Error::NoSuchVolume(_)) => {}
            Err(error) => panic!("{clone}: {error}"),
        }
    }
    drop(volume);
    // A clone that got no name can be had by nobody.
    let repair = Check { repair: true, ..Check::default() };
    engine.check(None, repair, &mut |_| true).unwrap();
    for snapshot in engine.snapshots(&name()).unwrap() {
        if snapshot.protected {
            engine.protect_snapshot(&name(), &named(&snapshot.name), false).unwrap();
        }
        engine.delete_snapshot(&name(), &named(&snapshot.name)).unwrap();
    }
    let volume = running.open().unwrap();
    let report = volume.collect(100, true, &mut |_| true).unwrap();
    assert!(content(&volume) == head, "what is left is what it was");
    assert_eq!(report.snapshot_bytes, 0, "{report:?}");
    drop((volume, engine));
    running.drain();
    world.assert_sound();
    crashed
}

#[test]
fn a_crash_at_any_step_leaves_all_of_history_or_none_of_the_step() {
    for step in STEPS {
        let crashes = [1, 2, 3].map(|nth| {
            eprintln!("{step}, arrival {nth}");
            u64::from(crash_at(step, nth))
        });
        assert!(crashes.iter().sum::<u64>() > 0, "{step} is not reached");
    }
}
