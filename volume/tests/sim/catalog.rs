//! Creating, renaming and deleting: crashes at every step, and several hosts at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use lsvd_store::{FaultPlan, Gate, ObjectStore, Op};
use lsvd_volume::{Engine, Error, FileAttrs, VolumeName};

use crate::hosts::{boot, objects, patient};
use crate::oracle::Promise;
use crate::platform::CrashAt;
use crate::shared::{attrs, named};
use crate::stamp::SECTOR;
use crate::world::{Host, Running, World, name, read, write};

/// Bytes of the largest object that a deletion leaves behind to keep a writer out.
const GUARD_BYTES: u64 = 512;

/// What a host does.
type Act = fn(&Engine) -> Result<(), Error>;

fn create(engine: &Engine, name: &VolumeName) -> Result<(), Error> {
    engine.create(name, 8 << 20, attrs()).map(drop)
}

fn names(engine: &Engine) -> Vec<String> {
    engine.list().unwrap().into_iter().map(|info| info.name).collect()
}

/// How many objects there are of volumes, and how many superblocks of them.
fn left(world: &World) -> (usize, usize) {
    let all = world.store.list("data/", None, 10_000).unwrap().objects;
    let supers = all.iter().filter(|object| object.key.as_str().ends_with("/super")).count();
    (all.len(), supers)
}

/// A world whose volume has some data in the store, and no process.
fn with_data(seed: u64) -> World {
    let mut world = World::new(seed, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 300);
    world.upload(&volume);
    drop(volume);
    running.drain();
    world
}

/// Carries `act` out in a process that crashes at its arrival at `step`.
fn crash(world: &mut World, step: &'static str, act: impl Fn(&Engine) -> Result<(), Error>) {
    let running = world.boot(CrashAt::Failpoint(step, 1), FaultPlan::none()).unwrap();
    act(&running.engine).expect_err("it crashes there");
    assert!(running.life.is_dead(), "{step} is not reached");
    world.kill(running);
}

#[test]
fn a_creation_that_crashes_can_be_repeated() {
    for step in ["create.superblock", "create.name"] {
        let mut world = World::new(1, 1);
        let new = named("new");
        crash(&mut world, step, |engine| create(engine, &new));
        let running = boot(&mut world);
        assert_eq!(names(&running.engine), ["sim"], "{step}");
        create(&running.engine, &new).unwrap();
        running.engine.open_writer(&new).unwrap();
        assert_eq!(names(&running.engine), ["new", "sim"]);
        running.end();
    }
}

#[test]
fn a_first_opening_that_crashes_can_be_repeated() {
    for step in ["log.create", "log.created"] {
        let mut world = World::new(5, 1);
        crash(&mut world, step, |engine| engine.open_writer(&name()).map(drop));
        let (running, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 64);
        drop(volume);
        world.kill(running);
        let (running, _) = world.boot_and_check();
        running.end();
        world.assert_sound();
    }
}

#[test]
fn attributes_are_the_old_ones_or_the_new_after_a_crash() {
    let new = FileAttrs { mode: 0o644, uid: 7, gid: 8, ..attrs() };
    for (step, expected) in [("attributes.set", attrs()), ("attributes.kept", new)] {
        let mut world = with_data(6);
        crash(&mut world, step, |engine| engine.set_attrs(&name(), new));
        let (running, _) = world.boot_and_check();
        assert_eq!(running.engine.info(&name()).unwrap().attrs, expected, "{step}");
        running.end();
    }
}

#[test]
fn a_rename_that_crashes_leaves_one_name_and_can_be_repeated() {
    for step in ["rename.name", "rename.superblock", "rename.old_name"] {
        let mut world = with_data(2);
        let to = named("to");
        crash(&mut world, step, |engine| engine.rename(&name(), &to));
        let running = boot(&mut world);
        let found = names(&running.engine);
        match found.as_slice() {
            [one] if one == "sim" => running.engine.rename(&name(), &to).unwrap(),
            [one] => assert_eq!(one, "to"),
            more => panic!("{step}: {more:?}"),
        }
        assert_eq!(names(&running.engine), ["to"]);
        let volume = running.engine.open_writer(&to).unwrap();
        world.check(&volume);
        drop(volume);
        // The old name is free.
        create(&running.engine, &name()).unwrap();
        assert_eq!(names(&running.engine), ["sim", "to"]);
        running.end();
    }
}

#[test]
fn a_deletion_that_crashes_is_continued_and_leaves_nothing() {
    let steps =
        ["delete.mark", "delete.fence", "delete.objects", "delete.name", "delete.superblock"];
    for step in steps {
        for by_creation in [false, true] {
            let mut world = with_data(3);
            crash(&mut world, step, |engine| engine.delete(&name()));
            let running = boot(&mut world);
            let found = names(&running.engine);
            if step == "delete.mark" {
                assert_eq!(found, ["sim"]);
                let volume = running.engine.open_reader(&name()).unwrap();
                world.assert_shows(&volume, Promise::Acknowledged);
            } else {
                assert!(found.is_empty(), "{step}: {found:?}");
                let error = running.engine.open_writer(&name()).unwrap_err();
                assert!(matches!(error, Error::NoSuchVolume(_)), "{error}");
            }
            if by_creation && step != "delete.mark" {
                create(&running.engine, &name()).unwrap();
                let expected = if step == "delete.superblock" { 2 } else { 1 };
                assert_eq!(left(&world), (expected, expected), "{step}");
                assert_eq!(names(&running.engine), ["sim"]);
            } else {
                match running.engine.delete(&name()) {
                    Ok(()) => assert_eq!(left(&world), (0, 0), "{step}"),
                    // Nothing is left of it but a superblock that nothing names.
                    Err(Error::NoSuchVolume(_)) if step == "delete.superblock" => {
                        assert_eq!(left(&world), (1, 1));
                    }
                    Err(error) => panic!("{step}: {error}"),
                }
            }
            assert_eq!(world.machine.logs(), 0, "{step}: its log stays on the SSD");
            running.end();
        }
    }
}

/// The writer's host knows nothing of it. It may be idle while the deletion takes place, or not.
#[test]
fn a_deletion_by_another_host_deposes_the_writer() {
    for writes_meanwhile in [false, true] {
        let mut world = World::new(4, 1);
        patient(&mut world);
        let (writer, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 300);
        world.upload(&volume);
        let mut other = Host::new("sim-b");
        world.go_to(&mut other);
        let deleter = boot(&mut world);
        if writes_meanwhile {
            let gate = deleter.store.hold(Op::List, "data/*");
            let deleting = {
                let engine = Arc::clone(&deleter.engine);
                thread::spawn(move || engine.delete(&name()))
            };
            gate.wait_until_reached();
            write(&volume, 0, &[0xee; SECTOR]).unwrap();
            volume.flush_to_store().expect_err("it is fenced");
            gate.release();
            deleting.join().unwrap().unwrap();
        } else {
            deleter.engine.delete(&name()).unwrap();
            write(&volume, 0, &[0xee; SECTOR]).unwrap();
            volume.flush_to_store().expect_err("it is fenced, still");
        }
        let error = read(&volume, 0, SECTOR).unwrap_err();
        assert!(matches!(error, Error::Deleted(_)), "{error}");
        assert_eq!(volume.stats().state, "deleted");
        drop(volume);
        let closed = writer.engine.shutdown(lsvd_volume::Close::Drain, &mut |_| true);
        assert!(matches!(closed, Err(Error::Deleted(_))), "{closed:?}");
        // What keeps the writer out is all that stays.
        let rest = world.store.list("data/", None, 100).unwrap().objects;
        assert!(!rest.is_empty() && rest.iter().all(|o| o.size <= GUARD_BYTES), "{rest:?}");
        create(&deleter.engine, &name()).unwrap();
        deleter.engine.open_writer(&name()).unwrap();
        deleter.end();
    }
}

#[test]
fn a_deletion_of_what_was_closed_in_order_leaves_nothing() {
    let mut world = with_data(5);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let deleter = boot(&mut world);
    deleter.engine.delete(&name()).unwrap();
    assert_eq!(left(&world), (0, 0));
    deleter.end();
}

#[test]
fn an_opening_during_a_deletion_fails_whoever_is_first() {
    // The opener has read everything and is about to fence; the deletion does all of its work.
    let mut world = with_data(6);
    let mut other = Host::new("sim-b");
    let fence = format!("*/o/{:016x}", objects(&world).len() + 1);
    let opener = boot(&mut world);
    world.go_to(&mut other);
    let deleter = boot(&mut world);
    let gate = opener.store.hold(Op::Create, &fence);
    let opening = spawn(&opener, |engine| engine.open_writer(&name()).map(drop));
    gate.wait_until_reached();
    deleter.engine.delete(&name()).unwrap();
    gate.release();
    let error = opening.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::NoSuchVolume(_)), "{error}");
    assert!(names(&opener.engine).is_empty());
    opener.end();
    deleter.end();

    // The deletion has marked the volume and is about to fence.
    let mut world = with_data(7);
    let mut other = Host::new("sim-b");
    let opener = boot(&mut world);
    world.go_to(&mut other);
    let deleter = boot(&mut world);
    let gate = deleter.store.hold(Op::Create, &fence);
    let deleting = spawn(&deleter, |engine| engine.delete(&name()));
    gate.wait_until_reached();
    let error = opener.engine.open_writer(&name()).unwrap_err();
    assert!(matches!(error, Error::NoSuchVolume(_)), "{error}");
    gate.release();
    deleting.join().unwrap().unwrap();
    opener.end();
    deleter.end();
}

fn spawn<T: Send + 'static>(
    running: &Running,
    act: impl FnOnce(&Engine) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let engine = Arc::clone(&running.engine);
    thread::spawn(move || act(&engine))
}

/// Two hosts' engines, both at the gate of their first `op` on a key like `pattern`.
fn both_at(
    world: &mut World,
    op: Op,
    pattern: &str,
    acts: [Act; 2],
) -> ([Running; 2], [Result<(), Error>; 2]) {
    let mut other = Host::new("sim-b");
    let first = boot(world);
    world.go_to(&mut other);
    let second = boot(world);
    let running = [first, second];
    let gates = [0, 1].map(|i| running[i].store.hold(op, pattern));
    let [first, second] = acts;
    let threads = [spawn(&running[0], first), spawn(&running[1], second)];
    gates.iter().for_each(Gate::wait_until_reached);
    gates.iter().for_each(Gate::release);
    (running, threads.map(|thread| thread.join().unwrap()))
}

#[test]
fn of_two_hosts_that_create_one_name_one_wins_and_nothing_leaks() {
    for seed in 0..5 {
        let mut world = World::new(10 + seed, 1);
        // The store is tried first; that is not what is raced here.
        let act: Act = |engine| create(engine, &named("new"));
        let (running, outcomes) = both_at(&mut world, Op::Create, "volumes/new", [act, act]);
        let wins = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let lost = outcomes.iter().filter(|o| matches!(o, Err(Error::VolumeExists(_)))).count();
        assert_eq!((wins, lost), (1, 1), "{outcomes:?}");
        assert_eq!(left(&world).1, 2, "the loser's superblock is gone");
        for one in running {
            assert_eq!(names(&one.engine), ["new", "sim"]);
            one.end();
        }
    }
}

#[test]
fn of_two_hosts_that_rename_one_volume_one_wins_and_the_other_name_is_free() {
    for seed in 0..5 {
        let mut world = with_data(20 + seed);
        let acts: [Act; 2] = [
            |engine| engine.rename(&name(), &named("left")),
            |engine| engine.rename(&name(), &named("right")),
        ];
        let (running, outcomes) = both_at(&mut world, Op::Replace, "data/*", acts);
        let wins = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(wins, 1, "{outcomes:?}");
        let found = names(&running[0].engine);
        let won = if outcomes[0].is_ok() { "left" } else { "right" };
        assert_eq!(found, [won]);
        for free in ["left", "right", "sim"].into_iter().filter(|free| *free != won) {
            create(&running[1].engine, &named(free)).unwrap();
        }
        let all: BTreeSet<_> = names(&running[0].engine).into_iter().collect();
        assert_eq!(all.len(), 3);
        running.into_iter().for_each(Running::end);
    }
}

#[test]
fn of_a_rename_and_a_deletion_one_wins() {
    for seed in 0..5 {
        let mut world = with_data(30 + seed);
        let acts: [Act; 2] =
            [|engine| engine.rename(&name(), &named("to")), |engine| engine.delete(&name())];
        let (running, outcomes) = both_at(&mut world, Op::Replace, "data/*", acts);
        match &outcomes {
            [Ok(()), Err(Error::NoSuchVolume(_))] => {
                assert_eq!(names(&running[1].engine), ["to"]);
                let view = running[1].engine.open_reader(&named("to")).unwrap();
                world.assert_shows(&view, Promise::Acknowledged);
            }
            [Err(Error::NoSuchVolume(_) | Error::Deleted(_)), Ok(())] => {
                assert!(names(&running[1].engine).is_empty());
                assert_eq!(left(&world), (0, 0));
            }
            other => panic!("{other:?}"),
        }
        running.into_iter().for_each(Running::end);
    }
}

/// Attributes and names are everybody's to change; what belongs to the writer is not lost by it.
#[test]
fn changes_by_another_host_and_the_writers_checkpoints_are_merged() {
    let mut world = World::new(40, 1);
    patient(&mut world);
    let (writer, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 300);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let changer = boot(&mut world);
    let attrs = FileAttrs { mode: 0o640, uid: 7, gid: 8, created_ms: 1, modified_ms: 9 };
    let gate = writer.store.hold(Op::Replace, "data/*");
    volume.resize(volume.size_bytes() + 4096, false).unwrap();
    gate.wait_until_reached();
    changer.engine.set_attrs(&name(), attrs).unwrap();
    changer.engine.rename(&name(), &named("to")).unwrap();
    gate.release();
    let size = volume.size_bytes();
    drop(volume);
    writer.drain();
    let info = changer.engine.info(&named("to")).unwrap();
    assert_eq!((info.size_bytes, info.attrs), (size, attrs));
    changer.end();
    let mut third = Host::new("sim-c");
    world.go_to(&mut third);
    let reader = boot(&mut world);
    let view = reader.engine.open_reader(&named("to")).unwrap();
    world.assert_shows(&view, Promise::Acknowledged);
    drop(view);
    reader.end();
}
