//! Threads that use a disk in all ways at once, and remember what they did.
//!
//! They go on until they are told to stop or the disk fails them. What they did is known at every
//! moment, also while they hang in a daemon that is paused: see [`Crew::so_far`].

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::history::{Kind, Op, SECTOR, Tick, stamp};
use super::rng::Rng;
use super::wait_for;

/// Size of the disk.
pub const SECTORS: u64 = (24 << 20) / SECTOR as u64;
/// Half of the requests go here, so that they meet.
const HOT_SECTORS: u64 = 4096;
const THREADS: u64 = 4;

/// For `mount`: small figures, so that rings wrap, buffers rotate and checkpoints come often.
pub const FLAGS: &[&str] = &[
    "--log-size=32M",
    "--log-memory=8M",
    "--cache-size=16M",
    "--batch-size=512K",
    "--batch-age=100ms",
    "--checkpoint-objects=8",
];

/// The time of a test, in events.
#[derive(Clone, Debug)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1)))
    }

    /// Now, which no other event is.
    pub fn tick(&self) -> Tick {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What one thread did, the newest last.
type Deeds = Arc<Mutex<Vec<Op>>>;

/// The threads.
pub struct Crew {
    threads: Vec<JoinHandle<Option<std::io::Error>>>,
    deeds: Vec<Deeds>,
    acked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Crew {
    /// Sends threads to the disk at `path`, half of them with O_DIRECT, as fast as it goes.
    pub fn start(path: &Path, rng: &mut Rng, clock: &Clock) -> Self {
        let (acked, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let deeds: Vec<Deeds> = (0..THREADS).map(|_| Deeds::default()).collect();
        let start = |(n, deeds): (usize, &Deeds)| {
            let worker = Worker {
                rng: Rng::new(rng.any()),
                file: open(path, n % 2 == 0),
                clock: clock.clone(),
                deeds: deeds.clone(),
                acked: acked.clone(),
                stop: stop.clone(),
            };
            std::thread::spawn(move || worker.run())
        };
        let threads = deeds.iter().enumerate().map(start).collect();
        Self { threads, deeds, acked, stop }
    }

    /// How many requests were answered.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Waits until as many requests were answered.
    pub fn wait_for_acked(&self, requests: u64) {
        wait_for("requests", || (self.acked() >= requests).then_some(()));
    }

    /// Everything issued up to now.
    pub fn so_far(&self) -> Vec<Op> {
        self.deeds.iter().flat_map(|deeds| deeds.lock().unwrap().clone()).collect()
    }

    /// Lets each thread finish what it is at; the disk must not fail it.
    pub fn stop(self) -> Vec<Op> {
        self.stop.store(true, Ordering::SeqCst);
        let (ops, errors) = self.join();
        assert!(errors.is_empty(), "requests failed: {errors:?}");
        ops
    }

    /// Waits until the disk has failed every thread; says how.
    pub fn bury(self) -> (Vec<Op>, Vec<std::io::Error>) {
        let threads = self.threads.len();
        wait_for("every thread to get an error", || {
            self.threads.iter().all(JoinHandle::is_finished).then_some(())
        });
        let (ops, errors) = self.join();
        assert_eq!(errors.len(), threads);
        (ops, errors)
    }

    fn join(self) -> (Vec<Op>, Vec<std::io::Error>) {
        let errors = self.threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        let ops = self.deeds.iter().flat_map(|deeds| std::mem::take(&mut *deeds.lock().unwrap()));
        (ops.collect(), errors)
    }
}

fn open(path: &Path, direct: bool) -> File {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// All of the disk; `write` opens it as a writer does.
///
/// # Errors
/// As opening and reading.
pub fn try_read_disk(path: &Path, write: bool) -> std::io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).write(write).open(path)?;
    let mut disk = vec![0; SECTORS as usize * SECTOR];
    file.read_exact_at(&mut disk, 0)?;
    Ok(disk)
}

/// As [`try_read_disk`], which must succeed.
pub fn read_disk(path: &Path, write: bool) -> Vec<u8> {
    try_read_disk(path, write).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A thread that uses the disk until it is gone.
struct Worker {
    rng: Rng,
    file: File,
    clock: Clock,
    deeds: Deeds,
    acked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) -> Option<std::io::Error> {
        while !self.stop.load(Ordering::SeqCst) {
            if self.rng.below(12) == 0 {
                match self.file.sync_data() {
                    Ok(()) => continue,
                    Err(error) => return Some(error),
                }
            }
            let op = self.issue();
            if let Err(error) = self.carry_out(&op) {
                return Some(error);
            }
            let now = self.clock.tick();
            self.deeds.lock().unwrap().last_mut().unwrap().acked = Some(now);
            self.acked.fetch_add(1, Ordering::SeqCst);
        }
        None
    }

    fn issue(&mut self) -> Op {
        let kind = if self.rng.below(6) == 0 { Kind::Trim } else { Kind::Write };
        let sectors = match (kind, self.rng.below(10)) {
            (Kind::Trim, 0) => 1 + self.rng.below(SECTORS / 4),
            (Kind::Write, 0) => 8 * (1 + self.rng.below(64)),
            (_, 1..=3) => 1 + self.rng.below(20),
            _ => 8,
        };
        let region = if self.rng.below(2) == 0 { HOT_SECTORS } else { SECTORS };
        let start = self.rng.below(region);
        let start = if sectors % 8 == 0 { start / 8 * 8 } else { start };
        let start = start.min(SECTORS - sectors);
        let mut deeds = self.deeds.lock().unwrap();
        // Under the lock: whoever looks sees every request that was issued before.
        let op = Op { kind, start, sectors, issued: self.clock.tick(), acked: None };
        deeds.push(op.clone());
        op
    }

    fn carry_out(&self, op: &Op) -> std::io::Result<()> {
        let offset = op.start * SECTOR as u64;
        match op.kind {
            Kind::Write => {
                let sectors = op.start..op.start + op.sectors;
                let data: Vec<u8> = sectors.flat_map(|lba| stamp(lba, op.issued)).collect();
                self.file.write_all_at(&data, offset)
            }
            Kind::Trim => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                let bytes = (op.sectors * SECTOR as u64) as i64;
                let fd = self.file.as_raw_fd();
                // SAFETY: the descriptor is open over the call.
                match unsafe { libc::fallocate(fd, mode, offset as i64, bytes) } {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            }
        }
    }
}
