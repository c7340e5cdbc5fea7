//! Three hosts at random on one store: delayed and lost requests, pauses, kills, power cuts.
//!
//! At every moment one host owns the history, and the oracle follows it. A host that was deposed and
//! does not know writes garbage: none of it may ever be seen, and its next upload must fail.

use std::sync::Arc;

use lsvd_store::{Fault, FaultPlan, Op, Rule};
use lsvd_volume::{Error, Volume};

use crate::hosts::{learn, leave};
use crate::oracle::Promise;
use crate::platform::CrashAt;
use crate::seeds::for_seeds;
use crate::workload;
use crate::world::{Host, Running, World, name};

/// A process with the volume open for writing.
struct Writer {
    running: Running,
    volume: Arc<Volume>,
}

/// Opens the volume on the world's present machine, with requests that get lost and delayed.
fn open(world: &mut World) -> Writer {
    let creates = |rng: &mut crate::rng::Rng, fault| {
        Rule::next(Op::Create, "*/o/*", fault).skip(rng.below(12)).times(rng.below(4))
    };
    let rng = &mut world.rng;
    let plan = FaultPlan::script([
        creates(rng, Fault::Late),
        creates(rng, Fault::After),
        creates(rng, Fault::Before),
        Rule::next(Op::Replace, "data/*", Fault::After).times(rng.below(2)),
        Rule::next(Op::Replace, "data/*", Fault::Late).skip(1).times(rng.below(2)),
    ]);
    let running = world.boot(CrashAt::Never, plan).unwrap();
    let volume = match running.open() {
        Err(Error::StaleLog { .. }) => {
            running.engine.discard_log(&name()).unwrap();
            running.open()
        }
        other => other,
    };
    let volume = volume.unwrap();
    world.check(&volume);
    Writer { running, volume }
}

fn work(world: &mut World, writer: &Writer) {
    let requests = 5 + world.rng.below(40);
    let mut rng = world.rng.fork();
    let errors = workload::run(&mut world.oracle, &writer.volume, &mut rng, requests);
    assert!(errors.is_empty(), "refused to the owner: {errors:?}");
}

fn one_seed(seed: u64) {
    let mut world = World::new(seed, 1 + seed % 3);
    world.config.batch_bytes = 128 << 10;
    world.clean_hard();
    if seed % 2 == 1 {
        world.forget_leaves();
    }
    // Each machine is the world's own or one of these; `deposed` has the place of its own process.
    let mut away = [Host::new("sim-b"), Host::new("sim-c")];
    let mut deposed: [Option<Writer>; 3] = [None, None, None];
    let mut places = [0, 1, 2];
    let mut owner = open(&mut world);
    for _ in 0..7 {
        work(&mut world, &owner);
        let Writer { running, volume } = owner;
        let late = Arc::clone(&running.store);
        let stays = world.rng.chance(1, 4);
        let lives = !stays && world.rng.chance(2, 3);
        let paused = (lives && world.rng.chance(1, 2)).then(|| late.hold(Op::Create, "*/o/*"));
        if lives {
            if paused.is_some() {
                // Acknowledged, and not to be uploaded before the next host has the volume.
                world.write(&volume, 0, 5, 300);
            }
            deposed[places[0]] = Some(Writer { running, volume });
        } else {
            drop(volume);
            match world.rng.chance(1, 2) {
                true => world.kill(running),
                false => world.cut_power(running),
            }
        }
        if world.rng.chance(1, 2) {
            late.land_late();
        }
        if !stays {
            let next = world.rng.below(2) as usize;
            world.go_to(&mut away[next]);
            places.swap(0, next + 1);
            world.promise = Promise::Uploaded;
            // A machine serves a volume once: its process of before has to go.
            if let Some(old) = deposed[places[0]].take() {
                find_out(old);
            }
        }
        owner = open(&mut world);
        drop(paused);
        late.land_late();
        for place in &mut deposed {
            if world.rng.chance(1, 3)
                && let Some(old) = place.take()
            {
                find_out(old);
            }
        }
    }
    work(&mut world, &owner);
    world.upload(&owner.volume);
    drop(owner.volume);
    owner.running.drain();
    deposed.into_iter().flatten().for_each(find_out);
    world.lose_ssd();
    let (running, _) = world.boot_and_check();
    running.end();
    world.assert_sound();
}

fn find_out(old: Writer) {
    let error = learn(&old.volume);
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    drop(old.volume);
    leave(old.running);
}

#[test]
fn hosts_at_random() {
    for_seeds("hosts_at_random", 1, 10, one_seed);
}
