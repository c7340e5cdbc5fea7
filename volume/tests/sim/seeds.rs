//! Whole lives by seed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use lsvd_store::{FaultPlan, Odds};
use lsvd_volume::Error;

use crate::platform::CrashAt;
use crate::workload;
use crate::world::World;

/// How long one seed may take.
const SEED_TIME: Duration = Duration::from_secs(300);

/// The seeds to run: `LSVD_SIM_SEED` alone, or `few` times `LSVD_TEST_SCALE` from `first` on.
pub(crate) fn seeds(first: u64, few: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match number("LSVD_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (first..first + few * number("LSVD_TEST_SCALE").unwrap_or(1)).collect(),
    }
}

/// Runs `body` for each seed; says how to run one alone if it fails or hangs.
pub(crate) fn for_seeds(test: &str, first: u64, few: u64, body: fn(u64)) {
    for seed in seeds(first, few) {
        let (tell, told) = channel();
        let run = thread::spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| body(seed)));
            // The listener may have given up.
            let _ = tell.send(());
            outcome
        });
        let hung = matches!(told.recv_timeout(SEED_TIME), Err(RecvTimeoutError::Timeout));
        let alone =
            format!("LSVD_SIM_SEED={seed} cargo nextest run -p lsvd-volume --test sim {test}");
        assert!(!hung, "seed {seed} hangs; to run it alone: {alone}");
        if let Err(panic) = run.join().unwrap() {
            eprintln!("seed {seed} fails; to run it alone: {alone}");
            resume_unwind(panic);
        }
    }
}

/// Lives that end in every way, one after the other, on one volume.
#[test]
fn lives_and_deaths() {
    for_seeds("lives_and_deaths", 1, 16, |seed| {
        let mut world = World::new(seed, 1 + seed % 4);
        if seed % 2 == 0 {
            world.clean_hard();
        }
        if seed % 3 == 0 {
            world.forget_leaves();
        }
        let lives = 3 + world.rng.below(4);
        for _ in 0..lives {
            one_life(&mut world);
        }
        let (running, volume) = world.boot_and_check();
        world.upload(&volume);
        drop(volume);
        running.drain();
        // What a drained close leaves is all there without the SSD.
        world.lose_ssd();
        let (running, _) = world.boot_and_check();
        running.end();
        world.assert_sound();
    });
}

fn one_life(world: &mut World) {
    let crash = match world.rng.below(4) {
        0 => CrashAt::Never,
        1 => CrashAt::Event { nth: 1 + world.rng.below(25), after: world.rng.chance(1, 2) },
        _ => CrashAt::Event { nth: 1 + world.rng.below(400), after: world.rng.chance(1, 2) },
    };
    let plan = match world.rng.below(3) {
        0 => FaultPlan::none(),
        _ => {
            let odds = Odds { before_per_mille: 30, after_per_mille: 40, late_per_mille: 30 };
            FaultPlan::seeded(world.rng.next(), odds)
        }
    };
    let Ok(running) = world.boot(crash, plan) else { panic!("the engine does not start") };
    match running.open() {
        Ok(volume) => {
            match world.try_check(&volume) {
                Ok(()) => {
                    let requests = 20 + world.rng.below(150);
                    let mut rng = world.rng.fork();
                    let errors = workload::run(&mut world.oracle, &volume, &mut rng, requests);
                    let unexpected = errors.iter().any(|_| !running.life.is_dead());
                    assert!(!unexpected, "refused without a crash: {errors:?}");
                }
                // Reads of the store are not tried again by the engine itself.
                Err(wrong) => {
                    let excused =
                        wrong.starts_with("reading failed: ") && wrong.contains("injected");
                    assert!(excused || running.life.is_dead(), "{wrong}");
                }
            }
        }
        Err(error) => {
            let excused = running.life.is_dead() || matches!(error, Error::Store(_));
            assert!(excused, "opening failed: {error}");
        }
    }
    end_life(world, running);
}

fn end_life(world: &mut World, running: crate::world::Running) {
    let late = std::sync::Arc::clone(&running.store);
    if world.rng.chance(1, 2) {
        late.land_late();
    }
    let dead = running.life.is_dead();
    match world.rng.below(8) {
        0..3 => world.kill(running),
        3..6 => world.cut_power(running),
        6 if !dead => running.end(),
        6 => world.kill(running),
        _ => {
            running.end_by_crash();
            world.lose_ssd();
        }
    }
    late.land_late();
}
