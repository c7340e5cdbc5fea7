//! A store that is slow, stands still, or is full.
//!
//! The store is a directory on an ext4 of its own. `fsfreeze` stops it without an error, as a
//! server that no longer answers; done over and over it makes it slow; a file that takes up all
//! the room makes it refuse. Whatever happens there, writers wait, none fails, the daemon's
//! memory stays below [`RESIDENT_MAX_KIB`], and all goes on by itself afterwards.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::disk::StoreDisk;
use common::rng::Rng;
use common::{Lab, Mount, Ran, is_mounted, make_volume, scale, wait_for};

/// What the daemon may have resident with the default `--log-memory 32M`: that, 64 MiB of requests
/// that wait, the objects under way of 8 MiB each with their frames, and what FUSE needs.
const RESIDENT_MAX_KIB: u64 = 300 << 10;

const BLOCK: usize = 64 << 10;
const THREADS: usize = 4;
const VOLUME: &str = "v.img";
const VOLUME_BYTES: u64 = 1 << 30;
const FLAGS: &[&str] =
    &["--log-size=64M", "--log-memory=32M", "--cache-size=32M", "--compression=none"];

/// How long a store stands still: the thing under test, not a wait for something.
fn outage() -> Duration {
    Duration::from_secs((8 * scale()).min(30))
}

fn block(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    Rng::new(number + 1).fill(&mut bytes);
    bytes
}

/// Threads that write block after block until told to stop.
struct Writers {
    threads: Vec<JoinHandle<std::io::Result<u64>>>,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
}

impl Writers {
    fn start(path: &Path) -> Self {
        let (stop, acked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let start = |thread: usize| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let (stop, acked) = (stop.clone(), acked.clone());
            std::thread::spawn(move || write_on(&file, thread, &stop, &acked))
        };
        Self { threads: (0..THREADS).map(start).collect(), stop, acked }
    }

    fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// How many blocks each thread has written; fails if a write failed.
    fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|t| t.join().unwrap().expect("a write failed")).collect()
    }

    /// As [`Writers::finish`] where the daemon was killed.
    fn bury(self) -> Vec<u64> {
        self.threads
            .into_iter()
            .map(|t| t.join().unwrap().expect_err("a write outlived the daemon"))
            .map(|error| error.to_string().parse().unwrap())
            .collect()
    }
}

/// Writes until told to stop. An error carries the number of blocks acknowledged before.
fn write_on(
    file: &File,
    thread: usize,
    stop: &AtomicBool,
    acked: &AtomicU64,
) -> std::io::Result<u64> {
    let blocks = VOLUME_BYTES / BLOCK as u64 / THREADS as u64;
    let mut done = 0;
    while done < blocks && !stop.load(Ordering::SeqCst) {
        let number = number(thread, done);
        if file.write_all_at(&block(number), number * BLOCK as u64).is_err() {
            return Err(std::io::Error::other(done.to_string()));
        }
        done += 1;
        acked.fetch_add(1, Ordering::SeqCst);
    }
    Ok(done)
}

fn number(thread: usize, nth: u64) -> u64 {
    nth * THREADS as u64 + thread as u64
}

/// Every block that was acknowledged is there.
fn verify(path: &Path, written: &[u64]) {
    let file = File::open(path).unwrap();
    let mut found = vec![0; BLOCK];
    for (thread, blocks) in written.iter().enumerate() {
        for nth in 0..*blocks {
            let number = number(thread, nth);
            file.read_exact_at(&mut found, number * BLOCK as u64).unwrap();
            assert!(found == block(number), "block {number} is not what was written");
        }
    }
}

fn stat(mount: &Mount, name: &str) -> u64 {
    mount.status()["volumes"][0]["stats"][name].as_u64().unwrap()
}

/// Whether the log is in the region where writers are slowed down or stopped.
fn log_is_nearly_full(mount: &Mount) -> bool {
    let (dirty, log) = (stat(mount, "dirty_bytes"), stat(mount, "log_bytes"));
    assert!(dirty <= log, "the log holds more than it can");
    dirty >= log / 4 * 3
}

fn check_memory(mount: &Mount) {
    let (now, peak) = (mount.memory_kib("VmRSS"), mount.memory_kib("VmHWM"));
    println!("resident: {} MiB, at most {} MiB", now >> 10, peak >> 10);
    assert!(peak < RESIDENT_MAX_KIB, "{} MiB were resident", peak >> 10);
}

/// All that a mount must still do while its store does nothing.
fn check_it_answers(mount: &Mount) {
    let path = mount.file(VOLUME);
    assert_eq!(fs::metadata(&path).unwrap().len(), VOLUME_BYTES);
    // The first block of the first thread was written long ago and is in the log or the cache;
    // the newest are in the log.
    let mut found = vec![0; BLOCK];
    File::open(&path).unwrap().read_exact_at(&mut found, 0).unwrap();
    assert!(found == block(0));
}

fn unmount(mount: &Mount, flags: &[&str]) -> Ran {
    let command =
        Command::new(common::BINARY).arg("unmount").arg(mount.path()).args(flags).output();
    Ran(command.unwrap())
}

#[test]
fn a_slow_store_slows_writers_down() {
    need_mount!("mkfs.ext4", "losetup", "fsfreeze");
    let disk = StoreDisk::new(2048);
    let lab = Lab::with_store_on(&disk);
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    let slow = disk.slow_down(10, 190);
    let writers = Writers::start(&path);
    wait_for("the log to fill up", || log_is_nearly_full(&mount).then_some(()));
    // As much again as the log holds has to go through the slow store.
    let (target, mut last) = (writers.acked() + 1024 * scale(), Instant::now());
    let mut seen = writers.acked();
    while seen < target {
        let now = writers.acked();
        if now > seen {
            (seen, last) = (now, Instant::now());
        }
        assert!(last.elapsed() < common::PATIENCE, "writers stand still");
        log_is_nearly_full(&mount);
        std::thread::sleep(Duration::from_millis(20));
    }
    check_memory(&mount);
    let written = writers.finish();
    drop(slow);
    println!("{} MiB written", (written.iter().sum::<u64>() * BLOCK as u64) >> 20);
    verify(&path, &written);
    mount.unmount();
    let mount = lab.mount(FLAGS);
    verify(&path, &written);
    mount.unmount();
}

#[test]
fn a_store_that_stands_still_stops_nobody_for_good() {
    need_mount!("mkfs.ext4", "losetup", "fsfreeze");
    let disk = StoreDisk::new(2048);
    let lab = Lab::with_store_on(&disk);
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    let writers = Writers::start(&path);
    wait_for("some writes", || (writers.acked() > 100).then_some(()));
    let frozen = disk.freeze();
    println!("the store stands still for {} s (30 with LSVD_TEST_SCALE=4)", outage().as_secs());
    let began = Instant::now();
    wait_for("the log to fill up", || log_is_nearly_full(&mount).then_some(()));
    while began.elapsed() < outage() {
        check_it_answers(&mount);
        std::thread::sleep(Duration::from_millis(100));
    }
    check_memory(&mount);
    let before = writers.acked();
    drop(frozen);
    wait_for("writers to go on by themselves", || (writers.acked() > before + 500).then_some(()));
    let written = writers.finish();
    check_memory(&mount);
    verify(&path, &written);
    mount.unmount();
    let mount = lab.mount(FLAGS);
    verify(&path, &written);
    mount.unmount();
}

#[test]
fn a_daemon_killed_while_its_store_stands_still_loses_nothing() {
    need_mount!("mkfs.ext4", "losetup", "fsfreeze");
    let disk = StoreDisk::new(2048);
    let lab = Lab::with_store_on(&disk);
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    let writers = Writers::start(&path);
    wait_for("some writes", || (writers.acked() > 100).then_some(()));
    let frozen = disk.freeze();
    wait_for("the log to fill up", || log_is_nearly_full(&mount).then_some(()));
    mount.kill_only();
    // A process cannot end while it waits in a frozen file system.
    drop(frozen);
    mount.kill();
    let written = writers.bury();
    let mount = lab.mount(FLAGS);
    verify(&path, &written);
    mount.unmount();
    let mount = lab.mount(FLAGS);
    verify(&path, &written);
    mount.unmount();
}

#[test]
fn a_full_store_is_waited_for() {
    need_mount!("mkfs.ext4", "losetup");
    let disk = StoreDisk::new(512);
    let lab = Lab::with_store_on(&disk);
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    let writers = Writers::start(&path);
    wait_for("some writes", || (writers.acked() > 100).then_some(()));
    let filler = disk.fill_up();
    wait_for("the log to fill up", || log_is_nearly_full(&mount).then_some(()));
    let stats = wait_for("the trouble to be told", || {
        let stats = mount.status()["volumes"][0]["stats"].clone();
        (stats["state"] == "degraded").then_some(stats)
    });
    let error = stats["last_error"].as_str().unwrap();
    assert!(error.contains("No space left"), "{error}");
    check_it_answers(&mount);
    check_memory(&mount);
    let before = writers.acked();
    fs::remove_file(filler).unwrap();
    wait_for("writers to go on by themselves", || (writers.acked() > before + 500).then_some(()));
    let written = writers.finish();
    wait_for("the state to be healthy again", || {
        (mount.status()["volumes"][0]["stats"]["state"] == "healthy").then_some(())
    });
    verify(&path, &written);
    mount.unmount();
    let mount = lab.mount(FLAGS);
    verify(&path, &written);
    mount.unmount();
}

/// A mount with data in its log and no room in its store, and what was written.
fn with_full_store(disk: &StoreDisk, lab: &Lab) -> (Mount, std::path::PathBuf, Vec<u64>) {
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    // The volume's stream begins while there is room.
    File::options().write(true).open(&path).unwrap().sync_all().unwrap();
    let filler = disk.fill_up();
    let file = File::options().write(true).open(&path).unwrap();
    for thread in 0..THREADS {
        for nth in 0..100 {
            let number = number(thread, nth);
            file.write_all_at(&block(number), number * BLOCK as u64).unwrap();
        }
    }
    drop(file);
    wait_for("the trouble to be told", || {
        (mount.status()["volumes"][0]["stats"]["state"] == "degraded").then_some(())
    });
    (mount, filler, vec![100; THREADS])
}

/// Frees the store and looks whether everything is there.
fn all_is_there(lab: &Lab, filler: &Path, written: &[u64]) {
    fs::remove_file(filler).unwrap();
    let mount = lab.mount(FLAGS);
    verify(&mount.file(VOLUME), written);
    File::options().write(true).open(mount.file(VOLUME)).unwrap().sync_all().unwrap();
    verify(&mount.file(VOLUME), written);
    mount.unmount();
    let mount = lab.mount(FLAGS);
    verify(&mount.file(VOLUME), written);
    mount.unmount();
}

#[test]
fn no_drain_leaves_a_full_store() {
    need_mount!("mkfs.ext4", "losetup");
    let disk = StoreDisk::new(128);
    let lab = Lab::with_store_on(&disk);
    let (mount, filler, written) = with_full_store(&disk, &lab);
    let began = Instant::now();
    unmount(&mount, &["--no-drain"]).success();
    mount.expect_end();
    println!("unmount --no-drain took {:.2} s", began.elapsed().as_secs_f64());
    // What the log holds can be read even now.
    let mount = lab.mount(FLAGS);
    verify(&mount.file(VOLUME), &written);
    mount.kill();
    all_is_there(&lab, &filler, &written);
}

#[test]
fn two_interrupts_leave_a_full_store() {
    need_mount!("mkfs.ext4", "losetup");
    let disk = StoreDisk::new(128);
    let lab = Lab::with_store_on(&disk);
    let (mount, filler, written) = with_full_store(&disk, &lab);
    mount.signal(libc::SIGINT);
    wait_for("the mount to be gone", || (!is_mounted(mount.path())).then_some(()));
    assert!(mount.is_running(), "the daemon did not wait for the store");
    let began = Instant::now();
    mount.signal(libc::SIGINT);
    mount.expect_end();
    println!("the second interrupt took {:.2} s", began.elapsed().as_secs_f64());
    all_is_there(&lab, &filler, &written);
}

#[test]
fn an_unmount_waits_for_a_full_store_and_then_ends() {
    need_mount!("mkfs.ext4", "losetup");
    let disk = StoreDisk::new(128);
    let lab = Lab::with_store_on(&disk);
    let (mount, filler, written) = with_full_store(&disk, &lab);
    let path = mount.path().to_owned();
    let waiting = std::thread::spawn(move || {
        Ran(Command::new(common::BINARY).arg("unmount").arg(path).output().unwrap())
    });
    wait_for("the mount to be gone", || (!is_mounted(mount.path())).then_some(()));
    assert!(mount.is_running() && !waiting.is_finished(), "it did not wait for the store");
    fs::remove_file(&filler).unwrap();
    waiting.join().unwrap().success();
    mount.expect_end();
    // Everything is in the store: the SSD is no longer needed.
    lab.lose_cache();
    fs::write(&filler, b"").unwrap();
    all_is_there(&lab, &filler, &written);
}
