//! Interleavings of two and three hosts on one store.
//!
//! What a deposed host writes is garbage without a stamp: the oracle takes none of it for history.

use std::sync::Arc;

use lsvd_store::{Fault, FaultPlan, Key, ObjectStore, Op, Rule};
use lsvd_volume::{Close, Error, Volume};

use crate::oracle::Promise;
use crate::platform::CrashAt;
use crate::stamp::SECTOR;
use crate::world::{Host, Running, World, flush, read, write};

fn boot(world: &mut World) -> Running {
    world.boot(CrashAt::Never, FaultPlan::none()).unwrap()
}

/// Keys of the volume's stream, in order.
fn objects(world: &World) -> Vec<Key> {
    let page = world.store.list("data/", None, 10_000).unwrap();
    let all = page.objects.into_iter().map(|object| object.key);
    all.filter(|key| key.as_str().contains("/o/")).collect()
}

/// Objects and checkpoints only when asked for.
fn patient(world: &mut World) {
    world.config.batch_age = std::time::Duration::from_secs(3600);
    world.config.checkpoint_objects = 1 << 40;
    world.config.batch_bytes = 64 << 20;
}

/// The next host opens the volume for writing, and shows what the store promises.
fn take_over(world: &mut World, host: &mut Host) -> (Running, Arc<Volume>) {
    world.go_to(host);
    world.promise = Promise::Uploaded;
    world.boot_and_check()
}

/// Has the volume of a host that was deposed find out.
fn learn(volume: &Arc<Volume>) -> Error {
    write(volume, 0, &[0xee; SECTOR]).unwrap();
    volume.flush_to_store().expect_err("the host does not know that it is deposed")
}

/// Everything that a volume does is refused, and says so.
fn assert_fenced(volume: &Arc<Volume>, by: &str) {
    let refusals = [
        write(volume, 0, &[1; SECTOR]).unwrap_err(),
        read(volume, 0, SECTOR).unwrap_err(),
        flush(volume).unwrap_err(),
        volume.flush_to_store().unwrap_err(),
        volume.resize(1 << 30, false).unwrap_err(),
    ];
    for error in refusals {
        assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
        assert!(error.to_string().contains(by), "{error}");
    }
    assert_eq!(volume.stats().state, "fenced");
}

#[test]
fn a_deposed_host_refuses_everything_and_says_what_its_log_still_holds() {
    let mut world = World::new(1, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    world.write(&theirs, 0, 32, 64);
    world.upload(&theirs);

    // It does not know yet, and acknowledges.
    write(&volume, 0, &[0xee; 4096]).unwrap();
    flush(&volume).unwrap();
    let error = learn(&volume);
    assert!(
        matches!(&error, Error::Fenced { by, .. } if by.starts_with("host \"sim-b\" at 20")),
        "{error}"
    );
    assert_fenced(&volume, "sim-b");
    drop(volume);
    let closed = first.engine.shutdown(Close::Drain, &mut |_| true).unwrap_err();
    let Error::StaleLog { bytes, .. } = closed else { panic!("{closed}") };
    assert!((4096 + 512..16 << 10).contains(&bytes), "{bytes} bytes");
    drop(first);

    drop(theirs);
    world.kill(second);
    let (second, _) = world.boot_and_check();
    second.drain();
    // The first host's log is refused with the same number, and again.
    world.go_to(&mut other);
    for _ in 0..2 {
        let first = boot(&mut world);
        let error = first.open().unwrap_err();
        assert!(matches!(error, Error::StaleLog { bytes: found, .. } if found == bytes), "{error}");
        first.end();
    }
    let first = boot(&mut world);
    assert_eq!(first.engine.discard_log(&crate::world::name()).unwrap(), bytes);
    let volume = first.open().unwrap();
    world.check(&volume);
    drop(volume);
    first.drain();
}

#[test]
fn a_deposed_host_whose_log_the_store_holds_closes_without_a_complaint() {
    let mut world = World::new(2, 1);
    patient(&mut world);
    let (first, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let mut other = Host::new("sim-b");
    let (second, theirs) = take_over(&mut world, &mut other);
    // A checkpoint of the deposed host: nothing is lost with it.
    let error = volume.resize(volume.size_bytes(), false);
    assert!(error.is_ok(), "no change asks nobody: {error:?}");
    let closed = first.engine.shutdown(Close::Drain, &mut |_| true);
    assert!(matches!(closed, Ok(0)), "{closed:?}");
    drop((volume, first));
    world.write(&theirs, 0, 10, 20);
    world.upload(&theirs);
    drop(theirs);
    second.drain();
    // Its log is recycled without a word.
    world.go_to(&mut other);
    let (first, _) = world.boot_and_check();
    first.drain();
}

/// What a reader on another host sees converges, and is a prefix at every moment.
#[test]
fn a_follower_sees_prefixes_only_and_everything_in_the_end() {
    for seed in 0..4 {
        let mut world = World::new(seed, 2);
        world.config.batch_bytes = 128 << 10;
        let (writer, volume) = world.boot_and_check();
        let mut other = Host::new("sim-b");
        world.go_to(&mut other);
        let follower = boot(&mut world);
        let view = follower.engine.open_reader(&crate::world::name()).unwrap();
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
