//! A crash at every named durability step, in every way.
//!
//! The steps are listed here by name. The test fails if one of them is never reached, or if one
//! is reached that is not listed, so the list stays true.

use std::collections::BTreeSet;

use lsvd_store::FaultPlan;
use lsvd_volume::Error;

use crate::platform::CrashAt;
use crate::workload;
use crate::world::World;

/// All steps.
const STEPS: [&str; 30] = [
    "log.pending",
    "log.pending_synced",
    "log.recover",
    "log.recovered",
    "log.started",
    "log.begun",
    "log.written",
    "log.synced",
    "log.header_synced",
    "log.clean",
    "log.cleaned",
    "batch.sealed",
    "batch.put",
    "batch.created",
    "batch.commit",
    "checkpoint.begin",
    "checkpoint.put",
    "checkpoint.created",
    "checkpoint.publish",
    "checkpoint.published",
    "open.fence",
    "open.fenced",
    "open.fill",
    "gc.begin",
    "gc.gathered",
    "gc.put",
    "gc.created",
    "gc.commit",
    "gc.delete",
    "gc.deleted",
];

/// How a machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    Kill,
    PowerCut,
}

/// A life before, one that crashes at `step`, one that may crash in its recovery, and a check.
/// Returns whether `step` was reached often enough for the crash.
fn crash_at(
    step: &'static str,
    nth: u64,
    down: Down,
    again: bool,
    seen: &mut BTreeSet<String>,
) -> bool {
    let seed = nth << 8 | u64::from(down == Down::Kill) << 1 | u64::from(again);
    let mut world = World::new(seed, 2);
    world.clean_hard();
    if nth % 2 == 1 {
        world.forget_leaves();
    }
    let mut rng = world.rng.fork();

    let running = world.boot(CrashAt::Never, FaultPlan::none()).unwrap();
    let volume = running.open().unwrap();
    workload::run(&mut world.oracle, &volume, &mut rng, 25);
    drop(volume);
    world.kill(running);

    let running = world.boot(CrashAt::Failpoint(step, nth), FaultPlan::none()).unwrap();
    match running.open() {
        Ok(volume) => {
            if let Err(wrong) = world.try_check(&volume) {
                assert!(running.life.is_dead(), "{wrong}");
            } else {
                let errors = workload::run(&mut world.oracle, &volume, &mut rng, 80);
                assert!(errors.is_empty() || running.life.is_dead(), "{errors:?}");
                let commits = workload::commit_often(&mut world.oracle, &volume, 20);
                assert!(commits.is_ok() || running.life.is_dead(), "{commits:?}");
                // Steps of the background that have not come yet: an upload and a checkpoint.
                let uploaded = volume.flush_to_store().and_then(|()| {
                    let bytes = volume.size_bytes();
                    volume.resize(bytes + 4096, false)?;
                    volume.flush_to_store()?;
                    volume.collect(100, true, &mut |_| true).map(drop)
                });
                assert!(uploaded.is_ok() || running.life.is_dead(), "{uploaded:?}");
            }
        }
        Err(error) => assert!(running.life.is_dead(), "{error}"),
    }
    // A close in good order passes the last steps; where it crashed before, it fails.
    let mut closing = Ok(());
    if !running.life.is_dead() {
        let how = lsvd_volume::Close::Drain;
        closing = running.engine.shutdown(how, &mut |_| true).map(drop);
    }
    let crashed = running.life.is_dead();
    assert!(closing.is_ok() || crashed, "{closing:?}");
    seen.extend(running.life.failpoints().keys().map(|name| (*name).to_owned()));
    end(&mut world, running, down);
    if again {
        let nth = 1 + world.rng.below(12);
        let crash = CrashAt::Event { nth, after: nth.is_multiple_of(2) };
        let running = world.boot(crash, FaultPlan::none()).unwrap();
        let opened: Result<_, Error> = running.open();
        if let Err(error) = opened {
            assert!(running.life.is_dead(), "{error}");
        }
        end(&mut world, running, down);
    }
    let (running, volume) = world.boot_and_check();
    let errors = workload::run(&mut world.oracle, &volume, &mut rng, 10);
    assert!(errors.is_empty(), "{errors:?}");
    drop(volume);
    running.drain();
    let (running, _) = world.boot_and_check();
    running.end();
    world.assert_sound();
    crashed
}

fn end(world: &mut World, running: crate::world::Running, down: Down) {
    match down {
        Down::Kill => world.kill(running),
        Down::PowerCut => world.cut_power(running),
    }
}

#[test]
fn a_crash_at_any_step_loses_nothing_that_was_promised() {
    let mut seen = BTreeSet::new();
    for (i, step) in STEPS.into_iter().enumerate() {
        let mut crashes = 0;
        for nth in [1, 2, 4] {
            for down in [Down::Kill, Down::PowerCut] {
                let again = (i as u64 + nth + u64::from(down == Down::Kill)).is_multiple_of(4);
                eprintln!("{step}, arrival {nth}, {down:?}, again {again}");
                crashes += u64::from(crash_at(step, nth, down, again, &mut seen));
            }
        }
        assert!(crashes >= 2, "{step} is not reached");
    }
    let listed: BTreeSet<_> = STEPS.into_iter().map(str::to_owned).collect();
    let unlisted: Vec<_> = seen.difference(&listed).collect();
    assert!(unlisted.is_empty(), "steps that are not listed here: {unlisted:?}");
}
