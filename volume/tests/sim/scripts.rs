//! Interleavings of one host that deserve a name.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::oracle::Promise;
use crate::platform::{CORE, CrashAt};
use crate::ssd::BadSync;
use crate::stamp::SECTOR;
use crate::workload;
use crate::world::{Running, World, flush, name, read, write};
use lsvd_store::{Fault, FaultPlan, Key, ObjectStore, Op, Rule};
use lsvd_volume::Volume;

/// Keys of the volume's stream, in order.
fn objects(world: &World) -> Vec<Key> {
    let page = world.store.list("data/", None, 10_000).unwrap();
    let all = page.objects.into_iter().map(|object| object.key);
    all.filter(|key| key.as_str().contains("/o/")).collect()
}

fn boot(world: &mut World) -> Running {
    world.boot(CrashAt::Never, FaultPlan::none()).unwrap()
}

/// Whether `data` holds a sector of the test `seed` stamped with write `number`.
fn shows(data: &[u8], seed: u64, number: u64) -> bool {
    let words: Vec<_> = data.chunks_exact(8).collect();
    words.windows(3).any(|w| w[0] == seed.to_le_bytes() && w[2] == number.to_le_bytes())
}

/// Batches and checkpoints only when asked for.
fn patient(world: &mut World) {
    world.config.batch_age = std::time::Duration::from_secs(3600);
    world.config.checkpoint_objects = 1 << 40;
    world.config.batch_bytes = 64 << 20;
}

#[test]
fn a_lost_object_in_the_middle_is_named_and_nothing_is_deleted() {
    let mut world = World::new(1, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    for i in 0..4 {
        world.write(&volume, 0, i * 100, 64);
        world.upload(&volume);
    }
    drop(volume);
    running.end();
    for lose_ssd in [false, true] {
        if lose_ssd {
            world.lose_ssd();
        }
        let all = objects(&world);
        let lost = &all[all.len() - 3];
        let (body, _) = world.store.get(lost).unwrap();
        world.store.delete(lost).unwrap();
        let before = objects(&world);
        let running = boot(&mut world);
        let refused = running.engine.open_writer(&name());
        let text = refused.expect_err("a volume with a hole was opened").to_string();
        assert!(text.contains(lost.as_str()) && text.contains("missing"), "{text}");
        assert!(running.engine.open_reader(&name()).is_err());
        running.end();
        assert_eq!(objects(&world), before, "a refusal leaves no trace");
        world.store.create(lost, &[std::io::IoSlice::new(&body)]).unwrap();
        let (running, _) = world.boot_and_check();
        running.end();
    }
}

#[test]
fn killed_between_the_fence_and_its_confirmation() {
    for step in ["open.fenced", "log.recover", "log.recovered", "open.fill"] {
        let mut world = World::new(2, 1);
        let (running, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 100);
        world.flush(&volume);
        world.write(&volume, 0, 50, 100);
        drop(volume);
        world.kill(running);
        for _ in 0..3 {
            let running = world.boot(CrashAt::Failpoint(step, 1), FaultPlan::none()).unwrap();
            running.open().expect_err("it crashes there");
            world.kill(running);
        }
        let (running, _) = world.boot_and_check();
        running.end();
    }
}

#[test]
fn the_answer_to_the_fence_is_lost() {
    let mut world = World::new(3, 1);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 100);
    drop(volume);
    world.kill(running);
    let plan = FaultPlan::script([Rule::next(Op::Create, "*/o/*", Fault::After)]);
    let running = world.boot(CrashAt::Never, plan).unwrap();
    let volume = running.open().unwrap();
    world.check(&volume);
    world.write(&volume, 0, 200, 8);
    drop(volume);
    world.kill(running);
    let (running, _) = world.boot_and_check();
    running.end();
}

#[test]
fn a_checkpoint_is_taken_while_earlier_objects_are_in_flight() {
    let mut world = World::new(4, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let newest = objects(&world).len() as u64;
    let held = running.store.hold(Op::Create, &format!("*/o/{:016x}", newest + 1));
    world.write(&volume, 0, 32, 64);
    let uploading = {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.flush_to_store())
    };
    held.wait_until_reached();
    // A change of size asks for a checkpoint, and comes after the object that is held.
    volume.resize(volume.size_bytes() + (1 << 20), false).unwrap();
    let checkpoint = format!("*/o/{:016x}", newest + 3);
    drop(running.store.hold(Op::Create, &checkpoint));
    drop(volume);
    world.kill(running);
    uploading.join().unwrap().expect_err("the process crashed");
    drop(held);
    let (running, volume) = world.boot_and_check();
    drop(volume);
    running.drain();
    world.lose_ssd();
    let (running, _) = world.boot_and_check();
    running.end();
}

#[test]
fn uploaded_before_the_ring_was_synced_and_then_the_power_is_cut() {
    for seed in 0..6 {
        let mut world = World::new(seed, 2);
        patient(&mut world);
        let (running, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 300);
        world.flush(&volume);
        world.write(&volume, 0, 100, 300);
        world.trim(&volume, 1, 0, 10);
        world.upload(&volume);
        world.write(&volume, 0, 200, 30);
        drop(volume);
        running.life.crash();
        world.cut_power(running);
        // What is in the store is there whatever the SSD lost.
        world.promise = Promise::Uploaded;
        let (running, volume) = world.boot_and_check();
        world.write(&volume, 0, 250, 30);
        world.flush(&volume);
        world.upload(&volume);
        drop(volume);
        world.cut_power(running);
        let (running, _) = world.boot_and_check();
        running.end();
    }
}

/// Record n+1 is on the SSD, record n is not: twice, with the same positions.
#[test]
fn a_later_record_without_the_one_before_it_twice() {
    let mut world = World::new(5, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 8);
    world.flush(&volume);
    drop(volume);
    world.kill(running);
    for round in 0..2_u64 {
        let (running, volume) = world.boot_and_check();
        // More than an eighth of the window: the flusher writes it without being asked to sync.
        world.machine.log().hold_syncs(true);
        world.write(&volume, 0, round * 4096, 400);
        world.write(&volume, 0, round * 4096 + 400, 2000);
        let (seed, number) = (world.oracle.volume, world.oracle.lanes[0].count());
        // Its last block waits for more records.
        world.machine.log().wait_until_unsynced(|data| shows(data, seed, number));
        drop(volume);
        running.end_by_crash();
        let kept = world.machine.log().cut_power_keeping(|data| shows(data, seed, number));
        assert!(kept > 50, "the later record is on the SSD");
        world.machine.lose_memory();
        world.promise = Promise::Flushed;
    }
    let (running, volume) = world.boot_and_check();
    world.upload(&volume);
    drop(volume);
    running.end();
}

/// After a flush has failed.
fn expect_poisoned(volume: &Arc<Volume>) {
    flush(volume).expect_err("a failure was forgotten");
    write(volume, 0, &[1; SECTOR]).expect_err("a poisoned volume takes writes");
}

fn go_down(world: &mut World, running: Running, power: bool) {
    if power { world.cut_power(running) } else { world.kill(running) }
}

#[test]
fn a_sync_that_fails_and_then_succeeds_is_not_believed() {
    for bits in 0..8 {
        let how = if bits & 1 == 0 { BadSync::LosesData } else { BadSync::KeepsData };
        let (power, written) = (bits & 2 != 0, bits & 4 != 0);
        eprintln!("{how:?}, power cut {power}, written before {written}");
        let mut world = World::new(6, 1);
        patient(&mut world);
        let (running, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 64);
        world.flush(&volume);
        world.write(&volume, 0, 64, 64);
        world.write(&volume, 0, 10, 64);
        if written {
            // Enough for the flusher to write it without being asked to sync.
            world.machine.log().hold_syncs(true);
            world.write(&volume, 0, 4000, 3000);
            let (seed, number) = (world.oracle.volume, world.oracle.lanes[0].count());
            world.machine.log().wait_until_unsynced(|data| shows(data, seed, number - 1));
        }
        world.machine.log().fail_next_sync(how);
        world.machine.log().hold_syncs(false);
        flush(&volume).expect_err("a failed sync was believed");
        expect_poisoned(&volume);
        let bytes = read(&volume, 64 * SECTOR as u64, SECTOR).unwrap();
        assert_ne!(bytes, vec![0; SECTOR], "{how:?}: reads go on");
        drop(volume);
        go_down(&mut world, running, power);
        let (running, volume) = world.boot_and_check();
        world.upload(&volume);
        drop(volume);
        world.cut_power(running);
        let (running, _) = world.boot_and_check();
        running.end();
    }
}

#[test]
fn a_write_begun_ahead_of_its_flush_that_fails_is_not_believed() {
    for power in [false, true] {
        let mut world = World::new(8, 1);
        patient(&mut world);
        let (running, volume) = world.boot_and_check();
        workload::commit_often(&mut world.oracle, &volume, 20).unwrap();
        let begun = running.life.failpoints().get("log.begun").copied();
        assert!(begun > Some(5), "flushes are expected after each write");
        world.machine.log().fail_next_end();
        // Not each of them is begun ahead.
        let failed = (0..20).any(|at| {
            world.write(&volume, 0, 30 + at, 1);
            flush(&volume).is_err()
        });
        assert!(failed, "a failed write was believed");
        expect_poisoned(&volume);
        drop(volume);
        go_down(&mut world, running, power);
        let (running, volume) = world.boot_and_check();
        world.upload(&volume);
        drop(volume);
        running.end();
    }
}

#[test]
fn one_thread_finishes_what_another_has_begun() {
    for round in 0..12 {
        let mut world = World::new(round, 3);
        let mut rng = world.rng.fork();
        let (mut running, mut volume) = world.boot_and_check();
        for _ in 0..6 {
            // The first flush of another lane comes while flushes are still expected.
            workload::commit_often(&mut world.oracle, &volume, 12).unwrap();
            let errors = workload::commit_together(&mut world.oracle, &volume, &mut rng, 5);
            assert!(errors.is_empty(), "{errors:?}");
        }
        drop(volume);
        match round % 3 {
            0 => world.kill(running),
            1 => world.cut_power(running),
            _ => running.drain(),
        }
        (running, volume) = world.boot_and_check();
        drop(volume);
        running.end();
    }
}

#[test]
fn what_is_durable_gets_into_a_header_once() {
    let mut world = World::new(10, 1);
    let (running, volume) = world.boot_and_check();
    let headers = || running.life.failpoints().get("log.header_synced").copied().unwrap_or(0);
    for at in 0..3 {
        // Until the flusher rests.
        thread::sleep(Duration::from_millis(2500));
        let before = headers();
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(headers(), before, "nothing was written");
        world.write(&volume, 0, at, 1);
        world.flush(&volume);
        let deadline = Instant::now() + Duration::from_secs(20);
        while headers() == before {
            assert!(Instant::now() < deadline, "no header says that it is durable");
            thread::sleep(Duration::from_millis(10));
        }
    }
    drop(volume);
    running.end();
}

#[test]
fn background_threads_keep_off_the_core_of_many_syncs() {
    let mut world = World::new(9, 1);
    let (running, volume) = world.boot_and_check();
    let deadline = Instant::now() + Duration::from_secs(20);
    let wait_for = |wanted, act: &mut dyn FnMut()| {
        while running.life.kept_off() != wanted {
            assert!(Instant::now() < deadline, "not {wanted:?}");
            act();
        }
    };
    wait_for(Some(CORE), &mut || {
        workload::commit_often(&mut world.oracle, &volume, 70).unwrap();
    });
    wait_for(None, &mut || thread::sleep(Duration::from_millis(10)));
    drop(volume);
    running.end();
}

#[test]
fn unaligned_writes_into_one_sector_at_once() {
    let mut world = World::new(7, 1);
    for round in 0..20_u8 {
        let running = boot(&mut world);
        let volume = running.open().unwrap();
        let threads: Vec<_> = (0..4_u64)
            .map(|i| {
                let volume = Arc::clone(&volume);
                // Four pieces that meet in sectors 100 and 101.
                thread::spawn(move || {
                    let at = 100 * SECTOR as u64 + i * 200;
                    write(&volume, at, &[round * 4 + i as u8 + 1; 200]).unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(volume);
        world.kill(running);
        let running = boot(&mut world);
        let volume = running.open().unwrap();
        let bytes = read(&volume, 100 * SECTOR as u64, 800).unwrap();
        for (i, piece) in bytes.chunks(200).enumerate() {
            assert_eq!(piece, [round * 4 + i as u8 + 1; 200], "round {round}, piece {i}");
        }
        drop(volume);
        running.end();
    }
}

#[test]
fn growing_then_writing_there_then_a_crash() {
    for power in [false, true] {
        let mut world = World::new(8, 1);
        let (running, volume) = world.boot_and_check();
        let old = volume.size_bytes();
        volume.resize(old + (8 << 20), false).unwrap();
        write(&volume, old + 4096, &[7; 8192]).unwrap();
        flush(&volume).unwrap();
        drop(volume);
        go_down(&mut world, running, power);
        for round in 0..2 {
            let (running, volume) = world.boot_and_check();
            assert_eq!(volume.size_bytes(), old + (8 << 20));
            assert_eq!(read(&volume, old + 4096, 8192).unwrap(), vec![7; 8192]);
            drop(volume);
            running.drain();
            if round == 0 {
                world.lose_ssd();
            }
        }
    }
}

#[test]
fn shrinking_then_growing_does_not_bring_old_data_back() {
    for upload in [false, true] {
        for power in [false, true] {
            let mut world = World::new(9, 1);
            let (running, volume) = world.boot_and_check();
            let size = volume.size_bytes();
            write(&volume, size - (1 << 20), &vec![9; 1 << 20]).unwrap();
            if upload {
                volume.flush_to_store().unwrap();
            }
            volume.resize(size - (1 << 20), true).unwrap();
            volume.resize(size, false).unwrap();
            write(&volume, size - 4096, &[3; 512]).unwrap();
            flush(&volume).unwrap();
            drop(volume);
            if power {
                world.cut_power(running)
            } else {
                world.kill(running)
            }
            for round in 0..2 {
                let (running, volume) = world.boot_and_check();
                let mut expected = vec![0; 1 << 20];
                expected[(1 << 20) - 4096..][..512].fill(3);
                let shown = read(&volume, size - (1 << 20), 1 << 20).unwrap();
                assert!(shown == expected, "upload {upload}, power {power}, round {round}");
                drop(volume);
                running.drain();
                if round == 0 {
                    world.lose_ssd();
                }
            }
        }
    }
}

#[test]
fn delayed_uploads_land_after_the_next_opening() {
    let mut world = World::new(10, 1);
    world.config.batch_bytes = 64 << 10;
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    world.upload(&volume);
    let delayed = Rule::next(Op::Create, "*/o/*", Fault::Late).times(u64::MAX);
    running.store.inject(delayed);
    let next = format!("*/o/{:016x}", objects(&world).len() + 1);
    let first = running.store.hold(Op::Create, &next);
    for i in 0..10 {
        world.write(&volume, 0, i * 150, 200);
    }
    first.wait_until_reached();
    // The second attempt tells that the first is under way.
    let second = running.store.hold(Op::Create, &next);
    first.release();
    second.wait_until_reached();
    drop(volume);
    let late = Arc::clone(&running.store);
    world.kill(running);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 77, 100);
    let landed = late.land_late();
    assert!(!landed.is_empty());
    world.upload(&volume);
    drop(volume);
    world.kill(running);
    let (running, volume) = world.boot_and_check();
    drop(volume);
    running.drain();
    world.lose_ssd();
    let (running, _) = world.boot_and_check();
    running.end();
}

#[test]
fn a_crash_before_the_first_checkpoint_forgets_no_object() {
    let mut world = World::new(11, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    for i in 0..5 {
        world.write(&volume, 0, i * 60, 100);
        world.upload(&volume);
    }
    drop(volume);
    running.end_by_crash();
    world.lose_ssd();
    let (running, _) = world.boot_and_check();
    running.end();
}

#[test]
fn a_trim_survives_every_crash() {
    for power in [false, true] {
        let mut world = World::new(12, 1);
        let (running, volume) = world.boot_and_check();
        world.write(&volume, 0, 0, 2000);
        world.upload(&volume);
        world.trim(&volume, 0, 100, 500);
        world.flush(&volume);
        drop(volume);
        go_down(&mut world, running, power);
        let (running, volume) = world.boot_and_check();
        drop(volume);
        running.drain();
        world.lose_ssd();
        let (running, _) = world.boot_and_check();
        running.end();
    }
}

/// A thread that was killed while it filled its record leaves a hole; what others acknowledged
/// after it is there.
#[test]
fn a_record_that_was_never_filled_is_stepped_over() {
    let mut world = World::new(13, 2);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 50);
    world.write(&volume, 1, 0, 50);
    world.write(&volume, 0, 25, 50);
    drop(volume);
    world.kill(running);
    let seed = world.oracle.volume.to_le_bytes();
    let number = ((1_u64 << 32) + 1).to_le_bytes();
    let blotted = world.machine.change_memory(|bytes| {
        let mark = |at: &usize| bytes[*at..*at + 8] == seed && bytes[*at + 16..*at + 24] == number;
        let places: Vec<_> = (4096..bytes.len() - 24).step_by(8).filter(mark).collect();
        for at in &places {
            bytes[*at..*at + SECTOR].fill(0);
        }
        places.len()
    });
    assert_eq!(blotted, 50);
    // Its write was in truth not acknowledged.
    world.oracle.lanes[1].take_back_newest();
    let (running, volume) = world.boot_and_check();
    world.upload(&volume);
    drop(volume);
    world.cut_power(running);
    let (running, _) = world.boot_and_check();
    running.end();
}

#[test]
fn an_outage_costs_nothing_and_ends_by_itself() {
    let mut world = World::new(14, 1);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 64);
    running.store.set_down(true);
    for i in 0..20 {
        world.write(&volume, 0, i * 64, 64);
        world.flush(&volume);
    }
    running.store.set_down(false);
    world.upload(&volume);
    drop(volume);
    running.drain();
    world.lose_ssd();
    let (running, _) = world.boot_and_check();
    running.end();
}
