//! Bits flip and files are cut off, on the SSD and in the store.
//!
//! **What is promised.** Whatever one damaged place does, no read shows anything but what the
//! oracle allows: the outcome is all the data, or an error that names the damaged thing.
//!
//! * In the store, and in the log while the memory survived: all acknowledged data or an error.
//! * In the log after a power cut: all that was flushed before the *last* completed flush, or an
//!   error. Records of that last flush which are damaged cannot be told from a flush
//!   that was under way when the power went, as nothing was written after it that says it was
//!   complete. They may be cut off: the volume then shows an earlier prefix, never a mix.
//! * Leaves kept in sled: nothing is lost and nothing refused, they are fetched from the store.

use std::fs;
use std::io::IoSlice;
use std::sync::Arc;

use lsvd_store::{FaultPlan, Key, ObjectStore};
use lsvd_volume::{Error, Volume};

use crate::oracle::Promise;
use crate::platform::CrashAt;
use crate::rng::Rng;
use crate::seeds::for_seeds;
use crate::workload;
use crate::world::{Running, World, name};

/// Where the ring begins in a log file.
const RING: usize = 8192;

/// A volume with something in the store and something in the log only, killed.
fn killed(seed: u64) -> World {
    let mut world = World::new(seed, 1);
    let (running, volume) = world.boot_and_check();
    let mut rng = world.rng.fork();
    workload::run(&mut world.oracle, &volume, &mut rng, 60);
    world.upload(&volume);
    drop(volume);
    running.drain();
    // From here on nothing is uploaded.
    world.config.batch_age = std::time::Duration::from_secs(3600);
    world.config.batch_bytes = 64 << 20;
    let (running, volume) = world.boot_and_check();
    // More than the memory holds.
    for i in 0..10 {
        world.write(&volume, 0, i * 600, 2000);
    }
    for i in 0..12 {
        world.write(&volume, 0, i * 30, 50 + i);
        if i % 4 == 0 {
            world.trim(&volume, 0, i * 40, 20);
        }
    }
    world.flush(&volume);
    // Only what comes after a flush can say that it was completed.
    let protected = world.oracle.clone();
    for i in 0..6 {
        world.write(&volume, 0, i * 35, 20);
        world.flush(&volume);
    }
    world.write(&volume, 0, 100, 700);
    drop(volume);
    world.kill(running);
    world.oracle.flushed_as_of(&protected);
    world
}

/// The same after a power cut that kept every write.
fn powerless(seed: u64) -> World {
    let mut world = killed(seed);
    world.machine.log().cut_power_keeping(|_| true);
    world.machine.lose_memory();
    world.promise = Promise::Flushed;
    world
}

fn boot(world: &mut World) -> Running {
    world.boot(CrashAt::Never, FaultPlan::none()).unwrap()
}

/// Judges one opening: all right, or an error that names `thing`.
fn judge(world: &World, opened: Result<Arc<Volume>, Error>, thing: &str, what: &str) -> bool {
    let wrong = match opened {
        Err(error) => error.to_string(),
        Ok(volume) => {
            let mut oracle = world.oracle.clone();
            let read = |lba: u64, sectors: u64| {
                crate::world::read(&volume, lba * 512, sectors as usize * 512)
                    .map_err(|error| format!("reading failed: {error}"))
            };
            let time = crate::world::now();
            match oracle.settle(world.promise, time, read) {
                Ok(()) => return true,
                Err(wrong) => {
                    assert!(wrong.starts_with("reading failed: "), "{what}: {wrong}");
                    wrong
                }
            }
        }
    };
    assert!(wrong.contains(thing), "{what}: the error does not name {thing}: {wrong}");
    false
}

/// Flips bits of the log one at a time, and looks at each with a reader, which changes nothing.
fn flip_log(mut world: World, what: &str, places: impl Iterator<Item = usize>) {
    let running = boot(&mut world);
    let log = world.machine.log();
    let uuid = running.engine.info(&name()).unwrap().uuid.to_string();
    let (mut fine, mut refused) = (0, 0);
    for place in places {
        let bit = world.rng.below(8);
        log.flip(place, bit);
        let what = format!("{what}: bit {bit} of byte {place} of the log");
        let good = judge(&world, running.engine.open_reader(&name()), &uuid, &what);
        if good {
            fine += 1
        } else {
            refused += 1
        }
        log.flip(place, bit);
    }
    eprintln!("{what}: {fine} fine, {refused} refused");
    assert!(judge(&world, running.engine.open_reader(&name()), "nothing", "no damage"));
    running.end();
}

#[test]
fn a_bit_flips_in_a_header_of_the_log() {
    for_seeds("a_bit_flips_in_a_header_of_the_log", 1, 2, |seed| {
        let places = || (0..400).chain(4096..4496).filter(move |at| at % 4 == seed as usize % 4);
        flip_log(killed(seed), "headers, killed", places());
        flip_log(powerless(seed), "headers, power cut", places());
    });
}

#[test]
fn a_bit_flips_in_a_record() {
    for_seeds("a_bit_flips_in_a_record", 1, 2, |seed| {
        for (world, what) in [(killed(seed), "killed"), (powerless(seed), "power cut")] {
            let used = world.machine.log().used();
            let mut dice = Rng::new(seed);
            let random = (0..150).map(|_| RING + dice.below((used - RING) as u64) as usize);
            // Heads of records lie at the beginning of blocks, among other places.
            let heads = (RING..used).step_by(13 * 4096);
            let heads = heads.map(|block| block + Rng::new(block as u64).below(72) as usize);
            let places: Vec<_> = random.chain(heads).collect();
            flip_log(world, &format!("records, {what}"), places.into_iter());
        }
    });
}

/// Opened for writing with a flipped bit, closed, and opened again.
#[test]
fn a_volume_with_a_damaged_log_is_opened_for_writing() {
    for_seeds("a_volume_with_a_damaged_log_is_opened_for_writing", 1, 2, |seed| {
        for (mut world, what) in [(killed(seed), "killed"), (powerless(seed), "power cut")] {
            let used = world.machine.log().used() as u64;
            for i in 0..20 {
                let mut fork = world.fork();
                let place = if i % 3 == 0 { world.rng.below(400) } else { world.rng.below(used) };
                let bit = world.rng.below(8);
                fork.machine.log().flip(place as usize, bit);
                let what = format!("{what}: bit {bit} of byte {place} of the log");
                let running = boot(&mut fork);
                let uuid = running.engine.info(&name()).unwrap().uuid.to_string();
                let opened = running.engine.open_writer(&name());
                let written = opened.clone().is_ok_and(|volume| fork.try_check(&volume).is_ok());
                if !judge(&fork, opened, &uuid, &what) || !written {
                    running.end_by_crash();
                    continue;
                }
                let volume = running.open().unwrap();
                fork.write(&volume, 0, 10, 100);
                let uploaded = volume.flush_to_store();
                drop(volume);
                if let Err(error) = uploaded {
                    assert!(error.to_string().contains(&uuid), "{what}: {error}");
                    running.end_by_crash();
                    continue;
                }
                running.end();
                let running = boot(&mut fork);
                assert!(judge(&fork, running.open(), &uuid, &what));
                running.end();
            }
        }
    });
}

#[test]
fn the_log_is_cut_off() {
    let mut world = killed(3);
    let whole = world.machine.log().used() as u64;
    for bytes in [0, 1, 4095, 4096, 8191, 8192, 8193, whole / 2, whole - 1, whole] {
        let mut fork = world.fork();
        fork.machine.log().truncate(bytes as usize);
        let running = boot(&mut fork);
        let uuid = running.engine.info(&name()).unwrap().uuid.to_string();
        let what = format!("log of {bytes} bytes");
        assert!(!judge(&fork, running.engine.open_reader(&name()), &uuid, &what), "{what}");
        assert!(!judge(&fork, running.engine.open_writer(&name()), &uuid, &what), "{what}");
        running.end();
    }
}

fn put(world: &World, key: &Key, body: &[u8]) {
    world.store.delete(key).unwrap();
    world.store.create(key, &[IoSlice::new(body)]).unwrap();
}

#[test]
fn a_thing_in_the_store_is_damaged() {
    for_seeds("a_thing_in_the_store_is_damaged", 1, 2, |seed| {
        for ssd in [true, false] {
            let mut world = killed(seed);
            if !ssd {
                world.lose_ssd();
            }
            let all = world.store.list("", None, usize::MAX).unwrap().objects;
            assert!(all.len() > 5, "too little to damage");
            let running = boot(&mut world);
            let (mut fine, mut refused) = (0, 0);
            for object in all {
                let (body, _) = world.store.get(&object.key).unwrap();
                for i in 0..12 {
                    let mut bad = body.clone();
                    let at = match i {
                        0..6 => world.rng.below(body.len().min(300) as u64),
                        _ => world.rng.below(body.len() as u64),
                    } as usize;
                    let what = if i % 4 == 3 {
                        bad.truncate(at);
                        format!("{} cut to {at} of {} bytes", object.key, body.len())
                    } else {
                        bad[at] ^= 1 << world.rng.below(8);
                        format!("{}: byte {at} of {} flipped", object.key, body.len())
                    };
                    put(&world, &object.key, &bad);
                    let opened = running.engine.open_reader(&name());
                    let good = judge(&world, opened, object.key.as_str(), &what);
                    if good {
                        fine += 1
                    } else {
                        refused += 1
                    }
                    put(&world, &object.key, &body);
                }
            }
            eprintln!("store, log kept {ssd}: {fine} fine, {refused} refused");
            assert!(refused > fine / 4, "the damage is not even looked at");
            running.end();
        }
    });
}

#[test]
fn leaves_in_sled_are_damaged() {
    let mut world = World::new(5, 4);
    let (running, volume) = world.boot_and_check();
    let mut rng = world.rng.fork();
    workload::run(&mut world.oracle, &volume, &mut rng, 60);
    drop(volume);
    running.drain();
    for round in 0..8 {
        for file in files(&world.cache_dir().join("leaves")) {
            let mut bytes = fs::read(&file).unwrap();
            if bytes.is_empty() {
                continue;
            }
            let at = world.rng.below(bytes.len() as u64) as usize;
            if round % 4 == 3 {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << world.rng.below(8);
            }
            fs::write(&file, bytes).unwrap();
        }
        let (running, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 8);
        drop(volume);
        running.drain();
    }
}

fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
