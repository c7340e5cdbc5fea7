//! A machine, a store and a history together: boots, requests, crashes, checks.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use lsvd_store::{FaultPlan, MemStore, ObjectStore};
use lsvd_volume::{
    Check, Close, Compression, Engine, EngineConfig, Error, FileAttrs, Volume, VolumeConfig,
    VolumeName,
};
use tempfile::TempDir;

use crate::oracle::{Lane, Oracle, Promise, RECORD_SECTORS};
use crate::platform::{CrashAt, Life, Machine, SimPlatform};
use crate::rng::Rng;
use crate::stamp::{SECTOR, Shown, stamp};
use crate::store::MortalStore;

/// Sectors of a lane: 4 MiB.
pub(crate) const LANE_SECTORS: u64 = 8192;
/// From one lane to the next: no lane lies in one map leaf (16 MiB) alone.
const STRIDE: u64 = 30_000;
/// How long a request may take.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// How often an opening that met a fault of the store is tried again.
const OPEN_ATTEMPTS: usize = 100;

/// Orders what threads do.
static CLOCK: AtomicU64 = AtomicU64::new(1);

/// A time later than all before.
pub(crate) fn now() -> u64 {
    CLOCK.fetch_add(1, Ordering::SeqCst)
}

/// See the module.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) machine: Arc<Machine>,
    pub(crate) store: MemStore,
    pub(crate) oracle: Oracle,
    /// What the crashes since the last opening leave of the promise.
    pub(crate) promise: Promise,
    pub(crate) config: VolumeConfig,
    map_memory_bytes: u64,
    pub(crate) host: &'static str,
    dir: TempDir,
}

/// A machine beside the world's own, with the same store.
pub(crate) struct Host {
    machine: Arc<Machine>,
    name: &'static str,
    dir: TempDir,
}

impl Host {
    /// A new machine.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { machine: Arc::default(), name, dir: tempfile::tempdir().unwrap() }
    }
}

/// A process that runs the engine.
pub(crate) struct Running {
    /// First, so that it is dropped before the engine.
    _guard: CrashOnPanic,
    pub(crate) life: Arc<Life>,
    pub(crate) store: Arc<MortalStore>,
    pub(crate) engine: Arc<Engine>,
}

/// A test that fails holds nobody up.
struct CrashOnPanic(Arc<Life>);

impl Drop for CrashOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}", self.0);
            self.0.crash();
        }
    }
}

impl World {
    /// An empty volume for `lanes` threads.
    pub(crate) fn new(seed: u64, lanes: u64) -> Self {
        let mut world = Self {
            rng: Rng::new(seed),
            machine: Arc::default(),
            store: MemStore::new(),
            oracle: Oracle::new(seed, lanes, LANE_SECTORS, STRIDE),
            promise: Promise::Acknowledged,
            config: VolumeConfig {
                log_bytes: 32 << 20,
                buffer_bytes: 8 << 20,
                batch_bytes: 512 << 10,
                batch_age: Duration::from_millis(20),
                compression: Compression::Lz4,
                checkpoint_objects: 5,
                gc_start_percent: 0,
                gc_bytes_per_s: None,
                ..VolumeConfig::default()
            },
            map_memory_bytes: 64 << 20,
            host: "sim-a",
            dir: tempfile::tempdir().unwrap(),
        };
        let running = world.boot(CrashAt::Never, FaultPlan::none()).unwrap();
        let bytes = (STRIDE * lanes).next_multiple_of(8) * SECTOR as u64;
        let attrs = FileAttrs { mode: 0o600, uid: 0, gid: 0, created_ms: 1, modified_ms: 1 };
        running.engine.create(&name(), bytes, attrs).unwrap();
        running.end();
        world
    }

    /// From the next opening on the store is cleaned all the time.
    pub(crate) fn clean_hard(&mut self) {
        self.config.gc_start_percent = 90;
        self.config.gc_stop_percent = 95;
    }

    /// From the next opening on no leaf of the map stays in memory once a checkpoint has it.
    pub(crate) fn forget_leaves(&mut self) {
        self.map_memory_bytes = 0;
    }

    /// A copy of all, with an empty cache directory. No engine may run.
    pub(crate) fn fork(&mut self) -> Self {
        let store = MemStore::new();
        for object in self.store.list("", None, usize::MAX).unwrap().objects {
            let (body, _) = self.store.get(&object.key).unwrap();
            store.create(&object.key, &[IoSlice::new(&body)]).unwrap();
        }
        Self {
            rng: self.rng.fork(),
            machine: Arc::new(self.machine.fork()),
            store,
            oracle: self.oracle.clone(),
            promise: self.promise,
            config: self.config.clone(),
            map_memory_bytes: self.map_memory_bytes,
            host: self.host,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The world goes on on the other machine; processes on this one are left alone.
    pub(crate) fn go_to(&mut self, host: &mut Host) {
        std::mem::swap(&mut self.machine, &mut host.machine);
        std::mem::swap(&mut self.host, &mut host.name);
        std::mem::swap(&mut self.dir, &mut host.dir);
    }

    /// The cache directory.
    pub(crate) fn cache_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Starts a process.
    pub(crate) fn boot(&mut self, crash: CrashAt, plan: FaultPlan) -> Result<Running, Error> {
        let store = Arc::new(MortalStore::new(self.store.clone(), plan));
        let rng = self.rng.fork();
        let machine = Arc::clone(&self.machine);
        let life = Life::new(machine, Arc::clone(&store), crash, self.host, rng);
        let config = EngineConfig {
            cache_dir: self.dir.path().to_owned(),
            cache_bytes: 0,
            map_memory_bytes: self.map_memory_bytes,
            no_fencing: false,
            follow_interval: Duration::ZERO,
            volume: self.config.clone(),
        };
        let platform = Arc::new(SimPlatform(Arc::clone(&life)));
        let engine = Engine::open_on(platform, Arc::clone(&store) as _, config)?;
        Ok(Running { _guard: CrashOnPanic(Arc::clone(&life)), life, store, engine })
    }

    /// Starts a process without faults that opens the volume, and checks it.
    pub(crate) fn boot_and_check(&mut self) -> (Running, Arc<Volume>) {
        let running = self.boot(CrashAt::Never, FaultPlan::none()).unwrap();
        let volume = running.open().unwrap();
        self.check(&volume);
        (running, volume)
    }

    /// Checks what `volume`, just opened, shows.
    pub(crate) fn check(&mut self, volume: &Arc<Volume>) {
        if let Err(wrong) = self.try_check(volume) {
            panic!("{wrong}");
        }
    }

    /// As [`Self::check`].
    ///
    /// # Errors
    /// What is wrong, or the read's error.
    pub(crate) fn try_check(&mut self, volume: &Arc<Volume>) -> Result<(), String> {
        let read = |lba: u64, sectors: u64| {
            read(volume, lba * SECTOR as u64, sectors as usize * SECTOR)
                .map_err(|error| format!("reading failed: {error}"))
        };
        self.oracle.settle(self.promise, now(), read)?;
        self.promise = Promise::Acknowledged;
        Ok(())
    }

    /// Checks what a reader shows in one read, and takes nothing of it for history.
    pub(crate) fn assert_shows(&self, view: &Arc<Volume>, promise: Promise) {
        let all = read(view, 0, view.size_bytes() as usize).unwrap();
        let part = |lba: u64, sectors: u64| {
            let at = lba as usize * SECTOR;
            Ok(all[at..at + sectors as usize * SECTOR].to_vec())
        };
        if let Err(wrong) = self.oracle.clone().settle(promise, now(), part) {
            panic!("{wrong}");
        }
    }

    /// Checks the store as a whole, with nobody writing: nothing is damaged, and what uploads that
    /// came late have left can be removed.
    pub(crate) fn assert_sound(&mut self) {
        let running = self.boot(CrashAt::Never, FaultPlan::none()).unwrap();
        let run = |repair| {
            let options = Check { deep: true, repair, bytes_per_s: None };
            running.engine.check(None, options, &mut |_| true).unwrap()
        };
        let report = run(true);
        assert_eq!((report.tally.damage, report.tally.orphans), (0, 0), "{report:#?}");
        let again = run(false);
        // Tries of the store may have left a note.
        let tally = again.tally;
        assert_eq!((tally.damage, tally.orphans, tally.leaks), (0, 0, 0), "{again:#?}");
        running.end();
    }

    /// The process is killed, the machine stays up.
    pub(crate) fn kill(&mut self, running: Running) {
        running.end_by_crash();
    }

    /// The power is cut.
    pub(crate) fn cut_power(&mut self, running: Running) {
        running.end_by_crash();
        self.machine.cut_power(&mut self.rng);
        if self.promise == Promise::Acknowledged {
            self.promise = Promise::Flushed;
        }
    }

    /// The SSD is gone with all that is on it.
    pub(crate) fn lose_ssd(&mut self) {
        self.machine.lose_ssd();
        self.dir = tempfile::tempdir().unwrap();
        self.promise = Promise::Uploaded;
    }

    /// Writes with lane `lane`, and expects it to work.
    pub(crate) fn write(&mut self, volume: &Arc<Volume>, lane: usize, at: u64, sectors: u64) {
        let seed = self.oracle.volume;
        let lane = &mut self.oracle.lanes[lane];
        let lba = lane.base + at;
        lane_write(seed, lane, volume, lba, sectors).unwrap();
    }

    /// Trims with lane `lane`, and expects it to work.
    pub(crate) fn trim(&mut self, volume: &Arc<Volume>, lane: usize, at: u64, sectors: u64) {
        let lane = &mut self.oracle.lanes[lane];
        let lba = lane.base + at;
        lane_trim(lane, volume, lba, sectors).unwrap();
    }

    /// Flushes, and expects it to work.
    pub(crate) fn flush(&mut self, volume: &Arc<Volume>) {
        let begun = now();
        flush(volume).unwrap();
        self.oracle.flushed(begun);
    }

    /// Waits for the upload of everything.
    pub(crate) fn upload(&mut self, volume: &Arc<Volume>) {
        let begun = now();
        volume.flush_to_store().unwrap();
        self.oracle.uploaded(begun);
    }
}

impl Running {
    /// Opens the volume for writing; faults of the store are met by trying again.
    pub(crate) fn open(&self) -> Result<Arc<Volume>, Error> {
        let mut last = None;
        for _ in 0..OPEN_ATTEMPTS {
            match self.engine.open_writer(&name()) {
                Err(error @ Error::Store(_)) if !self.life.is_dead() => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap())
    }

    /// Ends the process in good order, with what is not uploaded kept in the log. It may
    /// crash while it does.
    pub(crate) fn end(self) {
        let ended = self.engine.shutdown(Close::Keep, &mut |_| true);
        assert!(ended.is_ok() || self.life.is_dead(), "{ended:?}");
        self.quiet();
    }

    /// Ends the process in good order, with everything uploaded.
    pub(crate) fn drain(self) {
        self.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
        self.quiet();
    }

    /// The process crashes now, if it did not before.
    pub(crate) fn end_by_crash(self) {
        self.life.crash();
        let machine = Arc::clone(self.life.machine());
        // An orderly end would still tidy up in the memory.
        let memory = machine.snapshot();
        // It fails, having crashed.
        let _ = self.engine.shutdown(Close::Keep, &mut |_| true);
        self.quiet();
        machine.restore(memory);
    }

    fn quiet(self) {
        let life = self.life;
        drop(self.engine);
        life.wait_until_quiet();
    }
}

/// The name of the volume.
pub(crate) fn name() -> VolumeName {
    VolumeName::new("sim").unwrap()
}

/// A write of one lane with its stamp, noted in the lane.
///
/// # Errors
/// The engine's.
pub(crate) fn lane_write(
    seed: u64,
    lane: &mut Lane,
    volume: &Arc<Volume>,
    lba: u64,
    sectors: u64,
) -> Result<(), Error> {
    let mut data = vec![0; sectors as usize * SECTOR];
    let first = lane.begin(lba, sectors, false, now());
    let starts = (lba..).step_by(RECORD_SECTORS as usize);
    for ((number, at), part) in (first..).zip(starts).zip(data.chunks_mut(1 << 20)) {
        stamp(seed, at, number, part);
    }
    write(volume, lba * SECTOR as u64, &data)?;
    lane.acknowledge(now());
    Ok(())
}

/// A trim of one lane, noted in the lane.
///
/// # Errors
/// The engine's.
pub(crate) fn lane_trim(
    lane: &mut Lane,
    volume: &Arc<Volume>,
    lba: u64,
    sectors: u64,
) -> Result<(), Error> {
    lane.begin(lba, sectors, true, now());
    let (offset, bytes) = (lba * SECTOR as u64, sectors * SECTOR as u64);
    wait("trim", |done| volume.trim(offset, bytes, done))?;
    lane.acknowledge(now());
    Ok(())
}

/// Reads some sectors of a lane and compares with its newest writes.
///
/// # Panics
/// On a difference.
pub(crate) fn lane_read(
    seed: u64,
    lane: &Lane,
    volume: &Arc<Volume>,
    lba: u64,
    sectors: u64,
) -> Result<(), Error> {
    let bytes = read(volume, lba * SECTOR as u64, sectors as usize * SECTOR)?;
    for (lba, sector) in (lba..).zip(bytes.chunks_exact(SECTOR)) {
        let mut expected = [0; SECTOR];
        if let Shown::Write(number) = lane.newest(lba) {
            stamp(seed, lba, number, &mut expected);
        }
        assert!(sector == expected, "sector {lba} does not show its newest write while it runs");
    }
    Ok(())
}

/// Waits for a request's answer.
///
/// # Errors
/// The request's.
pub(crate) fn wait<T: Send + 'static>(
    what: &str,
    start: impl FnOnce(Box<dyn FnOnce(Result<T, Error>) + Send>),
) -> Result<T, Error> {
    let (tell, told) = channel();
    // Nobody stops listening before the answer, except after a panic.
    start(Box::new(move |outcome| drop(tell.send(outcome))));
    match told.recv_timeout(REQUEST_TIME) {
        Ok(outcome) => outcome,
        Err(error) => panic!("no answer to a {what}: {error}"),
    }
}

/// Writes bytes.
///
/// # Errors
/// The engine's.
pub(crate) fn write(volume: &Arc<Volume>, offset: u64, data: &[u8]) -> Result<(), Error> {
    wait("write", |done| volume.write(offset, data, done))
}

/// Reads bytes.
///
/// # Errors
/// The engine's.
pub(crate) fn read(volume: &Arc<Volume>, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    wait("read", |done: Box<dyn FnOnce(Result<Vec<u8>, Error>) + Send>| {
        volume.read(offset, len, move |bytes| done(bytes.map(<[u8]>::to_vec)));
    })
}

/// Flushes.
///
/// # Errors
/// The engine's.
pub(crate) fn flush(volume: &Arc<Volume>) -> Result<(), Error> {
    wait("flush", |done| volume.flush(done))
}
