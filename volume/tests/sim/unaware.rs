//! A host that was deposed and does not know it yet, whose objects the new owner has collected.
//!
//! ```text
//!   first    writes ──── paused ───────────────────────────────┬─ reads: taken over, not damaged
//!   second          opens ── overwrites ── collects ───────────┘
//! ```

use std::sync::Arc;
use std::thread;

use lsvd_store::{Key, ObjectStore, Op, Point};
use lsvd_volume::format::Superblock;
use lsvd_volume::{Close, Error, Volume};

use crate::hosts::{
    assert_fenced, assert_intact, boot, leave, objects, patient, superblock, take_over,
};
use crate::shared::{attrs, named};
use crate::stamp::SECTOR;
use crate::world::{Host, Running, World, name, read, write};

/// Sectors that both hosts write.
const SECTORS: u64 = 64;

/// A volume whose content is in the store, and in no memory any more.
fn begin(seed: u64) -> (World, Running, Arc<Volume>) {
    let mut world = World::new(seed, 1);
    patient(&mut world);
    let (before, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, SECTORS);
    world.upload(&volume);
    drop(volume);
    before.drain();
    let running = boot(&mut world);
    let volume = running.open().unwrap();
    (world, running, volume)
}

/// Writes over all that is there, and collects it.
fn overwrite(world: &mut World, theirs: &Arc<Volume>) {
    for _ in 0..2 {
        world.write(theirs, 0, 0, SECTORS);
        world.upload(theirs);
        theirs.collect(0, true, &mut |_| true).unwrap();
    }
}

/// The newest object of the stream that holds data.
fn newest_data(world: &World) -> Key {
    let is_data = |key: &&Key| world.store.get(key).unwrap().0[12] == 1;
    objects(world).iter().rfind(is_data).unwrap().clone()
}

fn end(world: &mut World, theirs: Arc<Volume>, second: Running) {
    drop(theirs);
    second.drain();
    assert_intact(world);
}

#[test]
fn a_read_of_what_the_new_owner_collected_says_that_the_volume_was_taken_over() {
    let (mut world, first, volume) = begin(120);
    let wanted = newest_data(&world);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    overwrite(&mut world, &theirs);
    assert!(world.store.head(&wanted).is_err(), "{wanted} should have been collected");
    let error = read(&volume, 0, SECTOR).unwrap_err();
    assert!(
        matches!(&error, Error::Fenced { by, .. } if by.starts_with("host \"sim-b\" at 20")),
        "{error}"
    );
    assert_fenced(&volume, "sim-b");
    drop(volume);
    let closed = first.engine.shutdown(Close::Drain, &mut |_| true);
    assert!(matches!(closed, Ok(0)), "the store holds all of its log: {closed:?}");
    drop(first);
    end(&mut world, theirs, second);
}

/// So does a write that has to read first.
#[test]
fn a_small_write_upon_what_the_new_owner_collected_says_so_too() {
    let (mut world, first, volume) = begin(121);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    overwrite(&mut world, &theirs);
    let error = write(&volume, 7, &[0xee; 9]).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_fenced(&volume, "sim-b");
    drop(volume);
    leave(first);
    end(&mut world, theirs, second);
}

/// What was uploaded before the fence and not yet committed here is collected as well: the number
/// behind the last one committed here is missing, and the fence stands further on.
#[test]
fn a_fence_behind_numbers_that_were_collected_is_found() {
    let (mut world, first, volume) = begin(122);
    let sent = first.store.hold_at(Point::AfterEffect, Op::Create, "*/o/*");
    world.write(&volume, 0, 1000, 8);
    let uploading = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.flush_to_store())
    };
    sent.wait_until_reached();
    let landed = newest_data(&world);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    world.write(&theirs, 0, 1000, 8);
    overwrite(&mut world, &theirs);
    assert!(world.store.head(&landed).is_err(), "{landed} should have been collected");
    let error = read(&volume, 0, SECTOR).unwrap_err();
    assert!(
        matches!(&error, Error::Fenced { by, .. } if by.starts_with("host \"sim-b\" at 20")),
        "{error}"
    );
    sent.release();
    let error = uploading.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    drop(volume);
    leave(first);
    end(&mut world, theirs, second);
}

#[test]
fn a_volume_that_another_host_deleted_says_so() {
    let (mut world, first, volume) = begin(123);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    second.engine.delete(&name()).unwrap();
    let error = read(&volume, 0, SECTOR).unwrap_err();
    assert!(matches!(error, Error::Deleted(_)), "{error}");
    drop(volume);
    let closed = first.engine.shutdown(Close::Drain, &mut |_| true);
    assert!(matches!(closed, Err(Error::Deleted(_))), "{closed:?}");
    second.end();
}

/// An object that is really lost stays damage, also while somebody is on the way.
#[test]
fn an_owner_that_misses_an_object_calls_that_damage() {
    for is_announced in [false, true] {
        let (world, first, volume) = begin(124);
        let wanted = newest_data(&world);
        world.store.delete(&wanted).unwrap();
        if is_announced {
            let key = wanted.as_str().split("/o/").next().unwrap().to_owned() + "/super";
            let key = Key::new(&key).unwrap();
            let version = world.store.get(&key).unwrap().1;
            let mut announced = Superblock::decode(&superblock(&world)).unwrap();
            announced.epoch = announced.epoch.plus(5);
            world.store.replace(&key, &announced.encode().unwrap(), &version).unwrap();
        }
        let error = read(&volume, 0, SECTOR).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert_eq!(volume.stats().state, "healthy");
        drop(volume);
        first.end();
    }
}

/// Its cleaner meets what is missing before anybody reads it.
#[test]
fn a_cleaner_that_misses_an_object_learns_that_the_volume_was_taken_over() {
    let (mut world, first, volume) = begin(125);
    // Half of it is worth moving.
    world.trim(&volume, 0, 0, SECTORS / 2);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    overwrite(&mut world, &theirs);
    let error = volume.collect(100, true, &mut |_| true).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_fenced(&volume, "sim-b");
    drop(volume);
    leave(first);
    end(&mut world, theirs, second);
}

/// A snapshot that it made would lack what the new owner has written.
#[test]
fn neither_snapshots_nor_clones_are_made_of_what_another_host_has() {
    for (seed, names_checkpoint) in [(123, false), (124, true)] {
        let (mut world, first, volume) = begin(seed);
        volume.create_snapshot(&named("before")).unwrap();
        let mut other = Host::new("sim-b");
        let (second, theirs) = take_over(&mut world, &mut other);
        world.write(&theirs, 0, 0, SECTORS);
        world.upload(&theirs);
        if names_checkpoint {
            overwrite(&mut world, &theirs);
        }
        let late = named("late");
        let cloned = if names_checkpoint { Some(volume.create_snapshot(&late)) } else { None };
        let clone = first.engine.clone_volume(&name(), None, &late, attrs()).map(drop);
        for refused in cloned.into_iter().chain([clone, volume.create_snapshot(&late)]) {
            let error = refused.unwrap_err();
            let Error::Fenced { by, .. } = &error else { panic!("{error}") };
            assert!(by.starts_with("host \"sim-b\" at 20"), "{error}");
        }
        let all = second.engine.snapshots(&name()).unwrap();
        assert_eq!(all.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["before"]);
        drop(volume);
        leave(first);
        end(&mut world, theirs, second);
    }
}
