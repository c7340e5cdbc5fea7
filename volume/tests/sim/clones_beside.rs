//! One host cleans while another one clones the same volume, with the first paused on the way.
//!
//! ```text
//!   first    moves ── condemns ──[1]── the superblock names that ──[2]── deletes
//!   second              clones the head, a snapshot and a moment at [1] or [2], or takes over
//! ```
//! A moment that the second host gets stays whole; one that was condemned it does not get.

use std::sync::Arc;
use std::thread;

use lsvd_store::Op;
use lsvd_volume::{Error, Moment, ObjectSeq, VolumeName};

use crate::hosts::{boot, leave, patient, take_over};
use crate::shared::{attrs, content, named, wear};
use crate::world::{Host, LANE_SECTORS, Running, World, name};

/// What must be in clones, by their names.
type Made = Vec<(VolumeName, Vec<u8>)>;

/// Clones the snapshot, if there is one, and each moment that can be had.
fn clone_all(second: &Running, snapshot: Option<&[u8]>, moments: &[(ObjectSeq, Vec<u8>)]) -> Made {
    let mut made = Made::new();
    if let Some(snapshot) = snapshot {
        let clone = named("of-snapshot");
        second.engine.clone_volume(&name(), Some(&named("kept")), &clone, attrs()).unwrap();
        made.push((clone, snapshot.to_vec()));
    }
    for (object, content) in moments {
        let clone = named(&format!("of-{object}"));
        match second.engine.clone_moment(&name(), Moment::Object(*object), &clone, attrs()) {
            Ok(_) => made.push((clone, content.clone())),
            Err(Error::NoSuchMoment { .. }) => {}
            Err(error) => panic!("{clone}: {error}"),
        }
    }
    made
}

fn assert_whole(running: &Running, made: &Made) {
    for (clone, expected) in made {
        let volume = running.engine.open_writer(clone).unwrap();
        assert!(content(&volume) == *expected, "{clone}");
    }
}

/// The first host is paused before such a request; `taken` says that the second one takes over then.
fn paused_at(seed: u64, op: Op, pattern: &str, taken: bool, history: Option<u64>) -> usize {
    let mut world = World::new(seed, 1);
    patient(&mut world);
    world.config.history.bytes = history;
    // Only when asked to.
    world.config.gc_start_percent = 0;
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, LANE_SECTORS);
    wear(&mut world, &volume, 3);
    volume.create_snapshot(&named("kept")).unwrap();
    let snapshot = content(&volume);
    let mut moments = Vec::new();
    for _ in 0..6 {
        let object = wear(&mut world, &volume, 2);
        moments.push((object, content(&volume)));
        if history.is_some() {
            // A checkpoint, and so another place where the window may begin.
            volume.collect(95, true, &mut |_| true).unwrap();
        }
    }
    let held = first.store.hold(op, pattern);
    let collecting = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.collect(100, true, &mut |_| true))
    };
    held.wait_until_reached();

    let mut other = Host::new("sim-b");
    let (second, theirs) = if taken {
        let (second, theirs) = take_over(&mut world, &mut other);
        wear(&mut world, &theirs, 4);
        theirs.collect(100, true, &mut |_| true).unwrap();
        (second, Some(theirs))
    } else {
        world.go_to(&mut other);
        (boot(&mut world), None)
    };
    let mut made = clone_all(&second, Some(&snapshot), &moments);
    let got = made.len();
    if let Some(theirs) = &theirs {
        let head = named("of-head");
        second.engine.clone_volume(&name(), None, &head, attrs()).unwrap();
        made.push((head, content(theirs)));
    }
    held.release();
    let collected = collecting.join().unwrap();
    assert!(collected.is_ok() || taken, "{collected:?}");
    // Whatever dies from now on, they need.
    if !taken {
        wear(&mut world, &volume, 4);
        volume.collect(100, true, &mut |_| true).unwrap();
    }
    drop(volume);
    leave(first);
    assert_whole(&second, &made);
    drop(theirs);
    second.drain();
    world.lose_ssd();
    let again = boot(&mut world);
    assert_whole(&again, &made);
    again.drain();
    world.assert_sound();
    got
}

#[test]
fn clones_made_beside_a_paused_cleaner_stay_whole() {
    for (seed, taken) in [(300, false), (301, true)] {
        let before_naming = paused_at(seed, Op::Replace, "data/*", taken, None);
        let before_deletes = paused_at(seed, Op::Delete, "*/o/*", taken, None);
        println!("taken over: {taken}; clones: {before_naming} and {before_deletes}");
        assert!(before_naming > before_deletes || taken, "what is not condemned can be had");
    }
}

/// What leaves the window of history with the checkpoint under way was kept by the one that is named.
#[test]
fn clones_of_what_is_about_to_leave_the_window_of_history_stay_whole() {
    for (seed, bytes) in [(302, 200 << 10), (303, 400 << 10), (304, 800 << 10)] {
        for taken in [false, true] {
            let made = paused_at(seed, Op::Replace, "data/*", taken, Some(bytes));
            println!("{bytes} bytes of history, taken over: {taken}; clones: {made}");
        }
    }
}

/// A deposed writer that keeps no history names its checkpoint late, and deletes what the next owner,
/// who keeps some, took for kept.
#[test]
fn a_late_checkpoint_of_a_writer_without_history_shortens_the_window() {
    let mut world = World::new(305, 1);
    patient(&mut world);
    world.config.gc_start_percent = 0;
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, LANE_SECTORS);
    wear(&mut world, &volume, 3);
    // The checkpoint that the second host finds named, and where its window would begin.
    volume.create_snapshot(&named("kept")).unwrap();
    first.engine.delete_snapshot(&name(), &named("kept")).unwrap();
    let held = first.store.hold(Op::Replace, "data/*");
    wear(&mut world, &volume, 6);
    let then = (ObjectSeq::new(volume.stats().committed_object), content(&volume));
    let collecting = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.collect(100, true, &mut |_| true))
    };
    held.wait_until_reached();

    world.config.history.bytes = Some(1 << 30);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    held.release();
    drop(collecting.join().unwrap());
    wear(&mut world, &theirs, 2);
    theirs.collect(100, true, &mut |_| true).unwrap();
    let made = clone_all(&second, None, &[then]);
    drop(volume);
    leave(first);
    assert_whole(&second, &made);
    drop(theirs);
    second.drain();
    world.assert_sound();
}

/// Who dies while the checkpoint that needs nothing of the base is not named yet has a clone still.
#[test]
fn a_death_before_the_naming_of_what_needs_no_base_leaves_a_clone() {
    let mut world = World::new(306, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, LANE_SECTORS);
    wear(&mut world, &volume, 2);
    let expected = content(&volume);
    let clone = named("clone");
    running.engine.clone_volume(&name(), None, &clone, attrs()).unwrap();
    drop(running.engine.open_writer(&clone).unwrap());
    let held = running.store.hold(Op::Replace, "data/*");
    let engine = Arc::clone(&running.engine);
    let of = clone.clone();
    let flattening = thread::spawn(move || engine.flatten(&of, &mut |_| true));
    held.wait_until_reached();
    drop(volume);
    world.kill(running);
    flattening.join().unwrap().expect_err("it was killed");
    world.lose_ssd();

    let running = boot(&mut world);
    let made = vec![(clone.clone(), expected)];
    assert_whole(&running, &made);
    assert!(running.engine.base_of(&clone).unwrap().is_some(), "it is a clone still");
    assert!(running.engine.flatten(&clone, &mut |_| true).unwrap());
    assert!(running.engine.base_of(&clone).unwrap().is_none());
    assert_whole(&running, &made);
    running.drain();
    world.assert_sound();
}

/// A host enters at a checkpoint while its owner makes more of them, which have older ones deleted:
/// snapshots keep nothing that is gone, whether they were made before or after.
#[test]
fn a_snapshot_keeps_no_checkpoint_that_is_gone() {
    for (early, more) in [(false, 0), (true, 0), (true, 1)] {
        enter_at_an_old_checkpoint(early, more);
    }
}

fn enter_at_an_old_checkpoint(early: bool, more: usize) {
    let mut world = World::new(371, 1);
    patient(&mut world);
    world.config.gc_start_percent = 0;
    let (first, volume) = world.boot_and_check();
    let name_one = |world: &mut World| {
        world.write(&volume, 0, 0, LANE_SECTORS);
        world.upload(&volume);
        volume.collect(0, true, &mut |_| true).unwrap();
    };
    for _ in 0..3 {
        name_one(&mut world);
    }
    if early {
        volume.create_snapshot(&named("early")).unwrap();
    }
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let reads = second.store.hold(Op::GetRange, "data/*/o/*");
    let opening = {
        let engine = Arc::clone(&second.engine);
        thread::spawn(move || engine.open_writer(&name()))
    };
    reads.wait_until_reached();
    for _ in 0..more {
        name_one(&mut world);
    }
    let expected = content(&volume);
    // Its last checkpoint, and what that condemns.
    drop(volume);
    first.drain();
    reads.release();
    let theirs = opening.join().unwrap().unwrap();
    theirs.create_snapshot(&named("late")).unwrap();
    assert!(content(&theirs) == expected);
    drop(theirs);
    second.drain();
    world.assert_sound();
}
