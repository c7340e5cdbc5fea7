//! A host that opens the volume, and a writer that has always collected already what it reads next.
//!
//! ```text
//!   newcomer   superblock ── asks for object n ──── held ──── "it is gone" ── superblock ── ...
//!   writer                          overwrites, covers, names, deletes n
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use lsvd_store::{FaultPlan, Key, ObjectStore, Op};
use lsvd_volume::format::Superblock;
use lsvd_volume::{Error, Volume};

use crate::hosts::{assert_intact, boot, leave, objects, patient, superblock, take_over};
use crate::oracle::Promise;
use crate::platform::CrashAt;
use crate::store::MortalStore;
use crate::world::{Host, Running, World, lane_write, name, now, read};

/// Sectors that are written anew again and again.
const SECTORS: u64 = 64;

/// Reads after which nobody believes any more that it ends.
const READS_MAX: usize = 3000;

/// Rounds of the writer after which an object is one that stays.
const ROUNDS_MAX: usize = 4;

/// Everything written anew, uploaded, and what that replaces deleted.
pub(crate) fn replace_all(world: &mut World, volume: &Arc<Volume>) -> Result<(), Error> {
    let seed = world.oracle.volume;
    let lane = &mut world.oracle.lanes[0];
    lane_write(seed, lane, volume, lane.base, SECTORS)?;
    let begun = now();
    volume.flush_to_store()?;
    world.oracle.uploaded(begun);
    volume.collect(0, true, &mut |_| true).map(drop)
}

/// What the superblock in the store says.
pub(crate) fn told(world: &World) -> Superblock {
    Superblock::decode(&superblock(world)).unwrap()
}

/// Whether it is the first look at the checkpoint that the superblock names.
fn is_first_look(world: &World, seen: &mut BTreeSet<Key>, key: &Key) -> bool {
    let named = told(world).checkpoint.unwrap().seq;
    key.as_str().ends_with(&format!("/o/{:016x}", named.get())) && seen.insert(key.clone())
}

/// Holds each read of the newcomer until its object is gone, unless `is_spared` or it is one that
/// stays, like a fence; until `is_over`, or the writer finds that it was deposed. Returns how many
/// came too late, and whether it was.
fn keep_too_late(
    world: &mut World,
    volume: &Arc<Volume>,
    newcomer: &MortalStore,
    mut is_spared: impl FnMut(&World, &Key) -> bool,
    is_over: impl Fn() -> bool,
) -> (usize, bool) {
    let mut gate = newcomer.hold(Op::GetRange, "*/o/*");
    let mut late = 0;
    for _ in 0..READS_MAX {
        // Who died does not come any more.
        while gate.reached() == 0 && !is_over() {
            thread::yield_now();
        }
        if is_over() {
            return (late, false);
        }
        let wanted = Key::new(&gate.keys()[0]).unwrap();
        if !is_spared(world, &wanted) {
            for _ in 0..ROUNDS_MAX {
                match replace_all(world, volume) {
                    Ok(()) => {}
                    Err(Error::Fenced { .. }) => return (late, true),
                    Err(error) => panic!("{error}"),
                }
                if world.store.head(&wanted).is_err() {
                    late += 1;
                    break;
                }
            }
        }
        let next = newcomer.hold(Op::GetRange, "*/o/*");
        drop(std::mem::replace(&mut gate, next));
    }
    panic!("the newcomer neither gives up nor asks the writer to stop");
}

/// Opens the volume on a thread of its own, which comes to the gate once more when it is done.
fn open_beside(
    newcomer: &Running,
    open: impl FnOnce(&Running) -> Box<dyn FnOnce() -> Result<Arc<Volume>, Error> + Send>,
    some: Key,
) -> (JoinHandle<Result<Arc<Volume>, Error>>, Arc<AtomicBool>) {
    let is_done = Arc::new(AtomicBool::new(false));
    let (open, store, done) = (open(newcomer), Arc::clone(&newcomer.store), Arc::clone(&is_done));
    let opening = thread::spawn(move || {
        let opened = open();
        done.store(true, Ordering::SeqCst);
        // So that the writer looks up; whether it is there does not matter.
        let _ = store.get_front(&some, 1);
        opened
    });
    (opening, is_done)
}

fn to_write(newcomer: &Running) -> Box<dyn FnOnce() -> Result<Arc<Volume>, Error> + Send> {
    let engine = Arc::clone(&newcomer.engine);
    Box::new(move || engine.open_writer(&name()))
}

fn to_read(newcomer: &Running) -> Box<dyn FnOnce() -> Result<Arc<Volume>, Error> + Send> {
    let engine = Arc::clone(&newcomer.engine);
    Box::new(move || engine.open_reader(&name()))
}

/// A volume whose writer has written a few checkpoints.
fn begin(seed: u64) -> (World, Running, Arc<Volume>) {
    begin_in(World::new(seed, 1))
}

fn begin_in(mut world: World) -> (World, Running, Arc<Volume>) {
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    for _ in 0..3 {
        replace_all(&mut world, &volume).unwrap();
    }
    (world, running, volume)
}

/// It is its own now, and whole.
fn assert_taken(
    world: &mut World,
    theirs: Arc<Volume>,
    second: Running,
    first: Running,
    volume: Arc<Volume>,
) {
    world.promise = Promise::Uploaded;
    world.check(&theirs);
    for _ in 0..3 {
        replace_all(world, &theirs).unwrap();
    }
    drop((volume, theirs));
    leave(first);
    second.drain();
    assert_intact(world);
}

#[test]
fn a_writer_that_collects_faster_than_it_is_read_is_asked_to_stop() {
    for is_checkpoint_spared in [false, true] {
        let (mut world, first, volume) = begin(110);
        let mut other = Host::new("sim-b");
        world.go_to(&mut other);
        let second = boot(&mut world);
        let some = objects(&world)[0].clone();
        let (opening, is_done) = open_beside(&second, to_write, some);
        let mut seen = BTreeSet::new();
        let is_spared =
            |world: &World, key: &Key| is_checkpoint_spared && is_first_look(world, &mut seen, key);
        let is_over = || is_done.load(Ordering::SeqCst);
        let (late, deposed) = keep_too_late(&mut world, &volume, &second.store, is_spared, is_over);
        assert!(deposed, "after {late} reads that came too late: {:?}", opening.join().unwrap());
        assert!(late >= 4, "it was asked after {late} reads that came too late");
        let theirs = opening.join().unwrap().unwrap();
        assert_taken(&mut world, theirs, second, first, volume);
    }
}

/// Whoever asked dies. Its writer may go on, or has to open the volume again; nothing is lost.
#[test]
fn a_host_that_dies_while_it_asks_a_writer_to_stop_takes_nothing_along() {
    for step in ["open.announce", "open.announced"] {
        let (mut world, first, volume) = begin(113);
        let mut other = Host::new("sim-b");
        world.go_to(&mut other);
        let second = world.boot(CrashAt::Failpoint(step, 1), FaultPlan::none()).unwrap();
        let some = objects(&world)[0].clone();
        let (opening, is_done) = open_beside(&second, to_write, some);
        let is_over = || is_done.load(Ordering::SeqCst) || second.life.is_dead();
        let (_, deposed) = keep_too_late(&mut world, &volume, &second.store, |_, _| false, is_over);
        opening.join().unwrap().expect_err("it crashes there");
        assert!(second.life.is_dead(), "{step} is not reached");
        world.kill(second);
        world.go_to(&mut other);
        let asked = replace_all(&mut world, &volume).is_err();
        assert_eq!(deposed || asked, step == "open.announced", "{step}");
        drop(volume);
        leave(first);
        let (first, volume) = world.boot_and_check();
        replace_all(&mut world, &volume).unwrap();
        drop(volume);
        first.drain();
        world.assert_sound();
    }
}

/// The same while the newcomer creates its fence.
#[test]
fn a_writer_that_collects_behind_a_lost_fence_is_asked_to_stop() {
    let (mut world, first, volume) = begin(111);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let fencing = second.store.hold(Op::Create, "*/o/*");
    let some = objects(&world)[0].clone();
    let (opening, is_done) = open_beside(&second, to_write, some);
    fencing.wait_until_reached();
    replace_all(&mut world, &volume).unwrap();
    replace_all(&mut world, &volume).unwrap();
    let store = Arc::clone(&second.store);
    let held = store.hold(Op::GetRange, "*/o/*");
    fencing.release();
    held.wait_until_reached();
    let is_over = || is_done.load(Ordering::SeqCst);
    let beside = thread::spawn(move || drop(held));
    let (late, deposed) = keep_too_late(&mut world, &volume, &store, |_, _| false, is_over);
    beside.join().unwrap();
    assert!(late < 50, "it was asked only after {late} reads that came too late");
    assert!(deposed, "after {late} reads that came too late: {:?}", opening.join().unwrap());
    let theirs = opening.join().unwrap().unwrap();
    assert_taken(&mut world, theirs, second, first, volume);
}

/// What has the number of the fence changes a part of the map that has to be fetched, and the
/// checkpoint that it is in is gone.
#[test]
fn a_fence_is_lost_to_an_object_whose_leaf_is_collected() {
    // Of a map of one leaf only, that would have been fetched before.
    let (mut world, first, volume) = begin_in(World::new(116, 2));
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let checkpoint = told(&world).checkpoint.unwrap().seq;
    let fencing = second.store.hold(Op::Create, "*/o/*");
    let some = objects(&world)[0].clone();
    let (opening, _) = open_beside(&second, to_write, some);
    fencing.wait_until_reached();
    let number = fencing.keys()[0].clone();
    replace_all(&mut world, &volume).unwrap();
    // Another checkpoint, by which the first one goes and the data stays.
    for _ in 0..2 {
        world.write(&volume, 0, 1000, 8);
        world.upload(&volume);
    }
    volume.collect(0, true, &mut |_| true).unwrap();
    let is_there = |end: &str| objects(&world).iter().any(|key| key.as_str().ends_with(end));
    assert!(!is_there(&format!("/o/{:016x}", checkpoint.get())), "the checkpoint is still there");
    assert!(is_there(&number), "{number} has been collected as well");
    fencing.release();
    let theirs = opening.join().unwrap().unwrap();
    assert_taken(&mut world, theirs, second, first, volume);
}

/// A host whose log cannot be replayed is refused, and its writer never hears of it.
#[test]
fn a_stale_log_is_refused_before_the_writer_is_asked_for_anything() {
    for is_checkpoint_spared in [true, false] {
        let (mut world, first, volume) = begin(112);
        // Acknowledged, and in its log only.
        world.write(&volume, 0, 200, 8);
        drop(volume);
        world.kill(first);
        let mut other = Host::new("sim-b");
        let (second, theirs) = take_over(&mut world, &mut other);
        for _ in 0..3 {
            replace_all(&mut world, &theirs).unwrap();
        }
        world.go_to(&mut other);
        let first = boot(&mut world);
        let before = told(&world);
        let some = objects(&world)[0].clone();
        let (opening, is_done) = open_beside(&first, to_write, some);
        let mut seen = BTreeSet::new();
        let is_spared =
            |world: &World, key: &Key| is_checkpoint_spared && is_first_look(world, &mut seen, key);
        let is_over = || is_done.load(Ordering::SeqCst);
        let (late, deposed) = keep_too_late(&mut world, &theirs, &first.store, is_spared, is_over);
        assert!(!deposed, "after {late} reads that came too late");
        let error = opening.join().unwrap().unwrap_err();
        if is_checkpoint_spared {
            assert!(matches!(error, Error::StaleLog { .. }), "{error}");
        } else {
            // Whose log it is cannot be told.
            assert!(matches!(error, Error::Outrun(_)), "{error}");
        }
        let after = told(&world);
        assert_eq!((after.epoch, after.last_host), (before.epoch, before.last_host));
        replace_all(&mut world, &theirs).unwrap();
        drop(theirs);
        first.end();
        second.drain();
        world.go_to(&mut other);
        assert_intact(&mut world);
    }
}

/// Announcements of hosts that died are in the way of nobody who opens the volume afterwards.
#[test]
fn an_owner_is_not_deposed_by_what_others_announced_before_it_came() {
    let (mut world, first, volume) = begin(113);
    drop(volume);
    first.drain();
    let key = objects(&world)[0].as_str().split("/o/").next().unwrap().to_owned() + "/super";
    let key = Key::new(&key).unwrap();
    let (body, version) = world.store.get(&key).unwrap();
    let mut announced = Superblock::decode(&body).unwrap();
    announced.epoch = announced.epoch.plus(3);
    world.store.replace(&key, &announced.encode().unwrap(), &version).unwrap();
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    assert_eq!(told(&world).epoch, announced.epoch);
    for _ in 0..3 {
        replace_all(&mut world, &theirs).unwrap();
    }
    drop(theirs);
    second.drain();
    assert_intact(&mut world);
}

/// A reader asks nobody for anything: it says that the writer is too fast, and not that the volume
/// is damaged.
#[test]
fn a_reader_says_that_it_is_outrun() {
    let (mut world, first, volume) = begin(114);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let some = objects(&world)[0].clone();
    let before = told(&world);
    let (opening, is_done) = open_beside(&second, to_read, some);
    let is_over = || is_done.load(Ordering::SeqCst);
    let (late, deposed) = keep_too_late(&mut world, &volume, &second.store, |_, _| false, is_over);
    assert!(!deposed && late >= 4, "{late} reads came too late");
    let error = opening.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Outrun(_)), "{error}");
    let after = told(&world);
    assert_eq!((after.epoch, after.last_host), (before.epoch, before.last_host));
    // As soon as the writer rests there is a view.
    let view = second.engine.open_reader(&name()).unwrap();
    world.assert_shows(&view, Promise::Uploaded);
    drop((view, volume));
    second.end();
    first.drain();
}

/// A reader's view was collected, and so is each newer one before it is read.
#[test]
fn a_reader_whose_views_are_collected_says_that_it_is_outrun() {
    let (mut world, first, volume) = begin(115);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let second = boot(&mut world);
    let view = second.engine.open_reader(&name()).unwrap();
    let some = objects(&world)[0].clone();
    let shown = {
        let view = Arc::clone(&view);
        let open = move |_: &Running| -> Box<dyn FnOnce() -> Result<Arc<Volume>, Error> + Send> {
            Box::new(move || read(&view, 0, 512).map(|_| Arc::clone(&view)))
        };
        open_beside(&second, open, some)
    };
    let (reading, is_done) = shown;
    let is_over = || is_done.load(Ordering::SeqCst);
    let (late, deposed) = keep_too_late(&mut world, &volume, &second.store, |_, _| false, is_over);
    assert!(!deposed && late >= 4, "{late} reads came too late");
    let error = reading.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Outrun(_)), "{error}");
    world.assert_shows(&view, Promise::Uploaded);
    drop((view, volume));
    second.end();
    first.drain();
}
