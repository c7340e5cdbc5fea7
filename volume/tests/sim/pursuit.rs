//! A host that opens the volume, and a writer that is always ahead of it.
//!
//! ```text
//!   newcomer   asks for object n ──── held ──── "there it is" ── asks for n + 1 ── ...
//!   writer                       uploads n
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lsvd_store::{ObjectStore, Op};
use lsvd_volume::{Error, Volume};

use crate::hosts::{boot, leave, objects, patient};
use crate::oracle::Promise;
use crate::store::MortalStore;
use crate::world::{Host, World, lane_write, name, now};

/// Objects after which nobody believes any more that it ends. The writer looks at the superblock
/// beside its uploads, so some of them pass before it knows.
const UPLOADS_MAX: u64 = 50_000;

/// One more write and its object.
fn upload_one(world: &mut World, volume: &Arc<Volume>) -> Result<(), Error> {
    let seed = world.oracle.volume;
    let lane = &mut world.oracle.lanes[0];
    lane_write(seed, lane, volume, lane.base, 8)?;
    let begun = now();
    volume.flush_to_store()?;
    world.oracle.uploaded(begun);
    Ok(())
}

/// Uploads an object each time before `op` of the newcomer goes on, until `is_over` or the writer
/// finds that it was deposed. Returns how many, and whether it was.
fn keep_ahead(
    world: &mut World,
    volume: &Arc<Volume>,
    newcomer: &MortalStore,
    op: Op,
    is_over: impl Fn() -> bool,
) -> (u64, bool) {
    let mut gate = newcomer.hold(op, "*/o/*");
    for uploads in 0..UPLOADS_MAX {
        gate.wait_until_reached();
        if is_over() {
            return (uploads, false);
        }
        match upload_one(world, volume) {
            Ok(()) => {}
            Err(Error::Fenced { .. }) => return (uploads, true),
            Err(error) => panic!("{error}"),
        }
        let next = newcomer.hold(op, "*/o/*");
        drop(std::mem::replace(&mut gate, next));
    }
    panic!("the newcomer never gets ahead of the writer, nor lets go");
}

/// The newcomer wins, though each `op` of it, at least `least` of them, comes too late until the
/// writer is asked to stop.
fn is_asked_to_stop(op: Op, least: u64) {
    let mut world = World::new(80, 1);
    patient(&mut world);
    world.config.checkpoint_objects = 100;
    let (first, volume) = world.boot_and_check();
    upload_one(&mut world, &volume).unwrap();
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let opening = {
        let engine = Arc::clone(&second.engine);
        thread::spawn(move || engine.open_writer(&name()))
    };
    let (uploads, deposed) = keep_ahead(&mut world, &volume, &second.store, op, || false);
    assert!(deposed && uploads >= least, "{uploads} objects");
    world.promise = Promise::Uploaded;
    let theirs = opening.join().unwrap().unwrap();
    world.check(&theirs);
    world.write(&theirs, 0, 100, 8);
    world.upload(&theirs);
    drop((volume, theirs));
    leave(first);
    second.drain();
}

#[test]
fn a_writer_that_takes_every_number_first_is_asked_to_stop() {
    is_asked_to_stop(Op::Create, 8);
}

#[test]
fn a_writer_that_is_faster_than_its_headers_are_read_is_asked_to_stop() {
    is_asked_to_stop(Op::GetRange, 64);
}

/// A reader behind such a writer shows what was there when it came, and asks nobody for anything.
#[test]
fn a_reader_does_not_run_after_a_fast_writer_for_ever() {
    let mut world = World::new(81, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    for _ in 0..20 {
        upload_one(&mut world, &volume).unwrap();
    }
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let is_open = Arc::new(AtomicBool::new(false));
    let opening = {
        let (engine, is_open) = (Arc::clone(&second.engine), Arc::clone(&is_open));
        let (store, some) = (Arc::clone(&second.store), objects(&world)[0].clone());
        thread::spawn(move || {
            let view = engine.open_reader(&name());
            is_open.store(true, Ordering::SeqCst);
            // Once more at the gate, so that the writer looks up.
            store.get_front(&some, 1).unwrap();
            view
        })
    };
    let is_over = || is_open.load(Ordering::SeqCst);
    let (uploads, deposed) = keep_ahead(&mut world, &volume, &second.store, Op::GetRange, is_over);
    assert!(!deposed && uploads > 64, "{uploads}");
    let view = opening.join().unwrap().unwrap();
    world.assert_shows(&view, Promise::Uploaded);
    drop((view, volume));
    second.end();
    first.drain();
}
