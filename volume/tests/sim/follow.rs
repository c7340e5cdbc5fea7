//! Readers that follow the stream of a writer elsewhere.

use std::sync::Arc;

use lsvd_store::{Fault, Key, ObjectStore, Op, Rule};
use lsvd_volume::{Error, Volume};

use crate::hosts::{boot, objects, patient, take_over};
use crate::oracle::Promise;
use crate::pursuit_collected::{replace_all, told};
use crate::stamp::SECTOR;
use crate::world::{Host, Running, World, name, read, write};

/// A reader on another machine.
fn follow(world: &mut World, host: &mut Host) -> (Running, Arc<Volume>) {
    world.go_to(host);
    let running = boot(world);
    let view = running.engine.open_reader(&name()).unwrap();
    (running, view)
}

/// What a reader on another host sees converges, and is a prefix at every moment.
#[test]
fn a_follower_sees_prefixes_only_and_everything_in_the_end() {
    for seed in 0..2 {
        let mut world = World::new(seed, 2);
        world.config.batch_bytes = 128 << 10;
        let (writer, volume) = world.boot_and_check();
        let mut other = Host::new("sim-b");
        let (follower, view) = follow(&mut world, &mut other);
        let mut rng = world.rng.fork();
        for round in 0..12 {
            for _ in 0..20 {
                let (lane, at) = (rng.below(2) as usize, rng.below(3000));
                match rng.below(5) {
                    0 => world.trim(&volume, lane, at, 1 + rng.below(100)),
                    _ => world.write(&volume, lane, at, 1 + rng.below(200)),
                }
            }
            // In the middle of uploads and checkpoints: a prefix.
            world.assert_shows(&view, Promise::Uploaded);
            if round % 4 == 3 {
                world.upload(&volume);
                let size = volume.size_bytes() + 4096;
                volume.resize(size, false).unwrap();
                volume.flush_to_store().unwrap();
                view.refresh().unwrap();
                assert_eq!(view.size_bytes(), size, "the new size is seen");
                world.assert_shows(&view, Promise::Acknowledged);
            }
        }
        drop((view, volume));
        follower.end();
        writer.end();
    }
}

/// An object that is collected between the follower's two questions is not the end of the stream.
#[test]
fn what_was_collected_in_the_middle_of_a_look_is_not_taken_for_the_end() {
    let mut world = World::new(27, 1);
    patient(&mut world);
    let (writer, volume) = world.boot_and_check();
    let mut other = Host::new("sim-b");
    let (follower, view) = follow(&mut world, &mut other);
    replace_all(&mut world, &volume).unwrap();
    let asks = follower.store.hold(Op::GetRange, "*/o/*");
    let looking = {
        let view = Arc::clone(&view);
        std::thread::spawn(move || view.refresh())
    };
    asks.wait_until_reached();
    let wanted = Key::new(&asks.keys()[0]).unwrap();
    let number = wanted.as_str().rsplit('/').next().unwrap();
    let number = u64::from_str_radix(number, 16).unwrap();
    assert!(told(&world).committed.get() < number, "the superblock tells too early");
    replace_all(&mut world, &volume).unwrap();
    world.store.head(&wanted).expect_err("it is collected");
    asks.release();
    // What was read stays, though the question cannot be asked at first.
    follower.store.inject(Rule::next(Op::Get, "*/super", Fault::Before));
    looking.join().unwrap().unwrap();
    view.refresh().unwrap();
    // Of this very look, not of the next one.
    follower.store.inject(Rule::next(Op::Get, "*/super", Fault::Before).times(u64::MAX));
    world.assert_shows(&view, Promise::Acknowledged);
    drop((view, volume));
    follower.end();
    writer.end();
}

#[test]
fn nobody_reads_nothing_is_asked() {
    let mut world = World::new(20, 1);
    let (writer, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    let mut other = Host::new("sim-b");
    let (follower, view) = follow(&mut world, &mut other);
    let before = follower.store.calls();
    world.write(&volume, 0, 32, 64);
    world.upload(&volume);
    assert_eq!(follower.store.calls(), before);
    world.assert_shows(&view, Promise::Acknowledged);
    assert!(follower.store.calls() > before);
    drop((view, volume));
    follower.end();
    writer.end();
}

/// A writer is deposed, its late objects are void: readers pass over them as recovery does.
#[test]
fn a_reader_follows_through_a_takeover_and_passes_over_void_objects() {
    let mut world = World::new(21, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let (mut host_b, mut host_c) = (Host::new("sim-b"), Host::new("sim-c"));
    let (follower, view) = follow(&mut world, &mut host_c);
    world.assert_shows(&view, Promise::Acknowledged);
    // An object of the deposed writer is under way; it lands between the fence and the fillers.
    let at = objects(&world).len() + 1;
    let keys = [at, at + 1].map(|seq| format!("*/o/{seq:016x}"));
    first.store.inject(Rule::next(Op::Create, "*/o/*", Fault::Late).times(u64::MAX));
    let sent = keys.each_ref().map(|key| first.store.hold(Op::Create, key));
    // Two objects' worth, each sealed on its own.
    write(&volume, 0, &[0xee; 8192]).unwrap();
    let uploading = {
        let volume = Arc::clone(&volume);
        std::thread::spawn(move || volume.flush_to_store())
    };
    sent[0].wait_until_reached();
    write(&volume, 8192, &[0xee; 8192]).unwrap();
    let uploading_more = {
        let volume = Arc::clone(&volume);
        std::thread::spawn(move || volume.flush_to_store())
    };
    sent[1].wait_until_reached();
    // The second attempt of the second one tells that the first was sent.
    let again = first.store.hold(Op::Create, &keys[1]);
    sent[1].release();
    again.wait_until_reached();
    world.go_to(&mut host_b);
    world.promise = Promise::Uploaded;
    let second = boot(&mut world);
    let filling = second.store.hold(Op::Create, &keys[1]);
    let opening = {
        let engine = Arc::clone(&second.engine);
        std::thread::spawn(move || engine.open_writer(&name()))
    };
    filling.wait_until_reached();
    let landed = first.store.land_late();
    assert!(matches!(landed.as_slice(), [Ok(())]), "{landed:?}");
    filling.release();
    let theirs = opening.join().unwrap().unwrap();
    world.check(&theirs);
    world.write(&theirs, 0, 32, 64);
    world.upload(&theirs);
    world.assert_shows(&view, Promise::Acknowledged);
    drop((sent, again));
    // Its attempts are delayed for ever: only the end of the process ends them.
    drop(volume);
    first.end_by_crash();
    uploading.join().unwrap().expect_err("it was deposed, or killed");
    uploading_more.join().unwrap().expect_err("it was deposed, or killed");
    world.write(&theirs, 0, 60, 64);
    theirs.resize(theirs.size_bytes() + 4096, false).unwrap();
    world.upload(&theirs);
    world.assert_shows(&view, Promise::Acknowledged);
    drop((view, theirs));
    follower.end();
    second.drain();
}

#[test]
fn a_lost_object_is_named_and_not_passed_over() {
    let mut world = World::new(22, 1);
    patient(&mut world);
    let (writer, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (follower, view) = follow(&mut world, &mut other);
    let lost = format!("{:016x}", objects(&world).len() + 1);
    for i in 0..3 {
        world.write(&volume, 0, i * 10, 64);
        world.upload(&volume);
    }
    let all = objects(&world);
    let key = all.iter().find(|key| key.as_str().ends_with(&lost)).unwrap();
    world.store.delete(key).unwrap();
    // As long as nobody says that it was committed it may be on its way: the view stays.
    read(&view, 0, SECTOR).unwrap();
    let fresh = follower.engine.open_reader(&name()).unwrap_err();
    // A checkpoint knows what it held, and the data is missed when it is read.
    volume.resize(volume.size_bytes() + 4096, false).unwrap();
    volume.flush_to_store().unwrap();
    drop(volume);
    writer.drain();
    let missed = read(&view, 0, SECTOR).unwrap_err();
    for error in [fresh, missed] {
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(&lost), "{error}");
    }
    drop(view);
    follower.end();
}

#[test]
fn a_deleted_volume_says_so() {
    let mut world = World::new(23, 1);
    let (writer, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (follower, view) = follow(&mut world, &mut other);
    drop(volume);
    writer.drain();
    world.go_to(&mut other);
    let deleter = boot(&mut world);
    deleter.engine.delete(&name()).unwrap();
    let error = read(&view, 0, SECTOR).unwrap_err();
    assert!(matches!(error, Error::Deleted(_)), "{error}");
    assert!(matches!(view.refresh(), Err(Error::Deleted(_))));
    drop(view);
    follower.end();
    deleter.end();
}

/// The log that this host's process left lies on top of the stream, until the stream moves on.
#[test]
fn this_hosts_own_log_lies_on_top_until_the_stream_moves() {
    for other_host in [false, true] {
        let mut world = World::new(24, 1);
        patient(&mut world);
        let (writer, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 64);
        world.upload(&volume);
        world.write(&volume, 0, 32, 64);
        drop(volume);
        world.kill(writer);
        let reader = boot(&mut world);
        let view = reader.engine.open_reader(&name()).unwrap();
        world.assert_shows(&view, Promise::Acknowledged);
        if other_host {
            // What only the log held is no part of the history any more.
            let mut other = Host::new("sim-b");
            let (second, theirs) = take_over(&mut world, &mut other);
            world.assert_shows(&view, Promise::Acknowledged);
            world.write(&theirs, 0, 100, 64);
            world.upload(&theirs);
            world.assert_shows(&view, Promise::Acknowledged);
            drop(theirs);
            second.end();
        } else {
            let theirs = reader.engine.open_writer(&name()).unwrap();
            world.check(&theirs);
            world.write(&theirs, 0, 100, 64);
            // Not yet what was written since, but nothing less than before.
            world.assert_shows(&view, Promise::Flushed);
            world.upload(&theirs);
            world.assert_shows(&view, Promise::Acknowledged);
            drop(theirs);
        }
        drop(view);
        reader.end();
    }
}

#[test]
fn an_outage_leaves_the_view_and_ends_by_itself() {
    let mut world = World::new(25, 1);
    let (writer, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (follower, view) = follow(&mut world, &mut other);
    follower.store.set_down(true);
    world.write(&volume, 0, 32, 64);
    world.upload(&volume);
    view.refresh().unwrap();
    assert!(view.stats().last_error.is_some());
    follower.store.set_down(false);
    world.assert_shows(&view, Promise::Acknowledged);
    drop((volume, view));
    follower.end();
    writer.end();
}
