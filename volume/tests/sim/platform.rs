//! A simulated machine under the engine, and the lives of the process on it.
//!
//! ```text
//!   Machine   SSD files, shared memory, boot id      outlives processes; a power cut changes it
//!      ^
//!   Life      the engine's Platform                  after its crash nothing has an effect
//! ```
//! A life ends at its **crash**: at an arrival at a failpoint, at the n-th event, or when a test
//! says so. From that instant every write, sync, failpoint and request to the store fails
//! without effect. Requests under way come to their end; then the shared memory is copied, the
//! engine comes to rest by itself, and when its threads are gone the memory is made what the
//! copy says. What requests still put into it after the crash is what a process would that
//! is killed a little later, with an SSD that stalled: a state that a real kill can leave. So
//! after a kill even writes acknowledged after the instant must be there.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::store::MortalStore;
use lsvd_volume::platform::{LogBuffer, LogFile, Pace, Platform, ThreadControl};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::rng::Rng;
use crate::ssd::Ssd;

/// Writes and buffers of the log are aligned to this.
const BLOCK: usize = 4096;

/// How long threads may take to end after a crash.
const QUIET_TIME: Duration = Duration::from_secs(60);

/// What outlives a process.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// By file name: the cache directory of a copied machine is another one.
    files: Mutex<BTreeMap<OsString, Arc<Ssd>>>,
    memory: Mutex<BTreeMap<u128, Arc<Region>>>,
    boots: AtomicU64,
}

impl Machine {
    /// The power is cut and comes back.
    pub(crate) fn cut_power(&self, rng: &mut Rng) {
        for ssd in self.files.lock().values() {
            ssd.cut_power(rng);
        }
        self.lose_memory();
    }

    /// What a reboot does to the memory.
    pub(crate) fn lose_memory(&self) {
        self.memory.lock().clear();
        self.boots.fetch_add(1, Ordering::SeqCst);
    }

    /// The SSD is replaced by an empty one.
    pub(crate) fn lose_ssd(&self) {
        self.files.lock().clear();
        self.lose_memory();
    }

    /// How many log files there are.
    pub(crate) fn logs(&self) -> usize {
        self.files.lock().len()
    }

    /// The only log file.
    pub(crate) fn log(&self) -> Arc<Ssd> {
        Arc::clone(self.files.lock().values().next().expect("a log file"))
    }

    /// What the memory holds now, for [`Self::restore`].
    pub(crate) fn snapshot(&self) -> Vec<(u128, Vec<u64>)> {
        // SAFETY: a word of the region. Nobody appends; only the flusher may still end a block,
        // and of that each word is taken as it is.
        let word = |at: *mut u64| unsafe { at.read_volatile() };
        let memory = self.memory.lock();
        memory.iter().map(|(id, region)| (*id, region.words().map(word).collect())).collect()
    }

    /// A copy. No engine may run.
    pub(crate) fn fork(&self) -> Self {
        let ssds = self.files.lock();
        let files = ssds.iter().map(|(name, ssd)| (name.clone(), Arc::new(ssd.fork())));
        let regions = self.memory.lock();
        let memory = regions.iter().map(|(id, r)| (*id, Arc::new(Region::new(r.layout.size()))));
        let boots = AtomicU64::new(self.boots.load(Ordering::SeqCst));
        let fork = Self {
            files: Mutex::new(files.collect()),
            memory: Mutex::new(memory.collect()),
            boots,
        };
        drop(regions);
        fork.restore(self.snapshot());
        fork
    }

    /// Makes the memory what it was, where it is there still. No engine may run.
    pub(crate) fn restore(&self, snapshot: Vec<(u128, Vec<u64>)>) {
        let memory = self.memory.lock();
        for (id, words) in snapshot {
            let Some(region) = memory.get(&id) else { continue };
            for (at, word) in region.words().zip(words) {
                // SAFETY: a word of the region, which nobody uses.
                unsafe { at.write_volatile(word) };
            }
        }
    }

    /// Changes the only log buffer. No engine may run.
    pub(crate) fn change_memory<T>(&self, change: impl FnOnce(&mut [u8]) -> T) -> T {
        let memory = self.memory.lock();
        let region = memory.values().next().expect("a log buffer");
        // SAFETY: no engine runs, so the machine has the only user of the region.
        change(unsafe {
            std::slice::from_raw_parts_mut(region.base.as_ptr(), region.layout.size())
        })
    }
}

/// Memory that outlives the process.
#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory; who touches which bytes of it is up to the users of `LogBuffer`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, BLOCK).expect("a sound layout");
        // SAFETY: the engine asks for more than zero bytes.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
        Self { base, layout }
    }

    /// Where its words are.
    fn words(&self) -> impl Iterator<Item = *mut u64> + use<> {
        let base = self.base.as_ptr().cast::<u64>();
        (0..self.layout.size() / size_of::<u64>()).map(move |i| base.wrapping_add(i))
    }

    fn buffer(self: &Arc<Self>) -> LogBuffer {
        // SAFETY: aligned, valid as long as the owner lives, and used through `LogBuffer`s only
        // while an engine runs.
        unsafe { LogBuffer::new(self.base, self.layout.size(), Arc::clone(self) as _) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and nobody has it any more.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// When a life ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CrashAt {
    Never,
    /// At the n-th arrival at a failpoint, from 1.
    Failpoint(&'static str, u64),
    /// At the n-th event (write, sync, failpoint), from 1. A write or sync still has its effect
    /// if `after`.
    Event {
        nth: u64,
        after: bool,
    },
}

/// One process on a machine.
pub(crate) struct Life {
    machine: Arc<Machine>,
    store: Arc<MortalStore>,
    crash_at: CrashAt,
    rng: Mutex<Rng>,
    started: Instant,
    host: &'static str,
    /// Read-locked during an effect, so that the crash is sharp.
    dead: RwLock<bool>,
    seen: Mutex<Seen>,
    threads: Mutex<Vec<String>>,
    thread_ended: Condvar,
    /// The core that background threads keep off.
    kept_off: Mutex<Option<usize>>,
}

#[derive(Debug, Default)]
struct Seen {
    events: u64,
    failpoints: BTreeMap<&'static str, u64>,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dead, seen, threads) = (*self.dead.read(), self.seen.lock(), self.threads.lock());
        write!(f, "life(dead {dead}, crash at {:?}, {seen:?}, {threads:?})", self.crash_at)
    }
}

impl Life {
    pub(crate) fn new(
        machine: Arc<Machine>,
        store: Arc<MortalStore>,
        crash_at: CrashAt,
        host: &'static str,
        rng: Rng,
    ) -> Arc<Self> {
        Arc::new(Self {
            machine,
            store,
            crash_at,
            rng: Mutex::new(rng),
            started: Instant::now(),
            host,
            dead: RwLock::new(false),
            seen: Mutex::default(),
            threads: Mutex::default(),
            thread_ended: Condvar::new(),
            kept_off: Mutex::default(),
        })
    }

    /// Ends the life: nothing has an effect from now on.
    pub(crate) fn crash(&self) {
        *self.dead.write() = true;
        self.store.crash();
        for ssd in self.machine.files.lock().values() {
            ssd.hold_syncs(false);
        }
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    pub(crate) fn is_dead(&self) -> bool {
        *self.dead.read()
    }

    /// How often each failpoint was reached.
    pub(crate) fn failpoints(&self) -> BTreeMap<&'static str, u64> {
        self.seen.lock().failpoints.clone()
    }

    pub(crate) fn kept_off(&self) -> Option<usize> {
        *self.kept_off.lock()
    }

    /// Waits until all threads of the engine have ended.
    pub(crate) fn wait_until_quiet(&self) {
        let mut threads = self.threads.lock();
        while !threads.is_empty() {
            let waited = self.thread_ended.wait_for(&mut threads, QUIET_TIME);
            assert!(!waited.timed_out(), "threads that do not end: {threads:?}");
        }
    }

    /// Counts an event; whether the life is to end with it.
    fn is_last(&self, failpoint: Option<&'static str>) -> bool {
        let mut seen = self.seen.lock();
        seen.events += 1;
        let events = seen.events;
        let arrivals = failpoint.map(|name| {
            let count = seen.failpoints.entry(name).or_default();
            *count += 1;
            (name, *count)
        });
        match self.crash_at {
            CrashAt::Never => false,
            CrashAt::Event { nth, .. } => events == nth,
            CrashAt::Failpoint(name, nth) => arrivals == Some((name, nth)),
        }
    }

    /// Has an effect unless the life is over, or ends with it.
    fn effect<T>(&self, effect: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let last = self.is_last(None);
        if last && self.crash_at != (CrashAt::Event { nth: self.nth(), after: true }) {
            self.crash();
        }
        let outcome = self.look(effect);
        if last {
            self.crash();
            return Err(crashed());
        }
        outcome
    }

    fn nth(&self) -> u64 {
        if let CrashAt::Event { nth, .. } = self.crash_at { nth } else { 0 }
    }

    /// Something that changes nothing: only not after the end.
    fn look<T>(&self, effect: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let dead = self.dead.read();
        if *dead { Err(crashed()) } else { effect() }
    }
}

fn file_name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_owned()
}

fn crashed() -> io::Error {
    io::Error::other("the simulated process has crashed")
}

/// On which all threads run.
pub(crate) const CORE: usize = 3;

/// Any background thread.
#[derive(Debug)]
struct SimThread(Arc<Life>);

impl ThreadControl for SimThread {
    fn make_way(&mut self) {}

    fn set_pace(&mut self, _pace: Pace) {}

    fn keep_off(&mut self, core: Option<usize>) {
        *self.0.kept_off.lock() = core;
    }
}

/// The engine's seam: one life.
#[derive(Clone, Debug)]
pub(crate) struct SimPlatform(pub(crate) Arc<Life>);

impl Platform for SimPlatform {
    fn unix_millis(&self) -> u64 {
        1_700_000_000_000 + self.0.started.elapsed().as_millis() as u64
    }

    fn monotonic(&self) -> Duration {
        self.0.started.elapsed()
    }

    fn random(&self) -> u128 {
        let mut rng = self.0.rng.lock();
        u128::from(rng.next()) << 64 | u128::from(rng.next())
    }

    fn host_name(&self) -> String {
        self.0.host.to_owned()
    }

    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        let life = Arc::clone(&self.0);
        life.threads.lock().push(name.to_owned());
        let ended = Ended(Arc::clone(&life), name.to_owned());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _ended = ended;
            body();
        })
    }

    fn this_thread(&self) -> Option<Box<dyn ThreadControl>> {
        Some(Box::new(SimThread(Arc::clone(&self.0))))
    }

    fn this_core(&self) -> Option<usize> {
        Some(CORE)
    }

    fn failpoint(&self, name: &'static str) -> io::Result<()> {
        if self.0.is_last(Some(name)) {
            self.0.crash();
        }
        self.0.look(|| Ok(()))
    }

    fn open_log(&self, path: &Path, write: bool) -> io::Result<Option<Arc<dyn LogFile>>> {
        self.0.look(|| {
            let ssd = self.0.machine.files.lock().get(&file_name(path)).cloned();
            if let Some(ssd) = &ssd {
                // What a process had begun when it was killed has landed by now.
                ssd.finish()?;
            }
            Ok(ssd.map(|ssd| Arc::new(SimFile { life: Arc::clone(&self.0), ssd, write }) as _))
        })
    }

    fn create_log(&self, path: &Path, bytes: u64, head: &[u8]) -> io::Result<Arc<dyn LogFile>> {
        self.0.effect(|| {
            let ssd = Arc::new(Ssd::new(bytes as usize, head));
            self.0.machine.files.lock().insert(file_name(path), Arc::clone(&ssd));
            Ok(Arc::new(SimFile { life: Arc::clone(&self.0), ssd, write: true }) as _)
        })
    }

    fn remove_log(&self, path: &Path) -> io::Result<()> {
        self.0.effect(|| {
            self.0.machine.files.lock().remove(&file_name(path));
            Ok(())
        })
    }

    fn open_buffer(&self, _dir: &Path, id: u128, bytes: usize) -> io::Result<LogBuffer> {
        self.0.look(|| {
            let mut memory = self.0.machine.memory.lock();
            let region = memory.entry(id).or_insert_with(|| Arc::new(Region::new(bytes)));
            if region.layout.size() != bytes {
                *region = Arc::new(Region::new(bytes));
            }
            Ok(region.buffer())
        })
    }

    fn peek_buffer(&self, _dir: &Path, id: u128, bytes: usize) -> io::Result<Option<LogBuffer>> {
        self.0.look(|| {
            let memory = self.0.machine.memory.lock();
            Ok(memory.get(&id).filter(|r| r.layout.size() == bytes).map(Region::buffer))
        })
    }

    fn remove_buffer(&self, _dir: &Path, id: u128) {
        // After the end it has no effect, and nobody is told.
        let _ = self.0.look(|| {
            self.0.machine.memory.lock().remove(&id);
            Ok(())
        });
    }

    fn boot_id(&self) -> u128 {
        u128::from(self.0.machine.boots.load(Ordering::SeqCst)) + 1
    }
}

/// Notes the end of a thread when dropped, also by a panic.
struct Ended(Arc<Life>, String);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut threads = self.0.threads.lock();
        if let Some(at) = threads.iter().position(|name| *name == self.1) {
            threads.swap_remove(at);
        }
        self.0.thread_ended.notify_all();
    }
}

/// A log file as one life sees it.
#[derive(Debug)]
struct SimFile {
    life: Arc<Life>,
    ssd: Arc<Ssd>,
    write: bool,
}

impl LogFile for SimFile {
    fn bytes(&self) -> u64 {
        self.ssd.bytes()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.life.look(|| self.ssd.read(offset, out))
    }

    fn read_at_nowait(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        if self.life.rng.lock().chance(1, 2) {
            return Ok(false);
        }
        self.read_at(offset, out).map(|()| true)
    }

    fn write_at(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let address = data.as_ptr() as usize;
        let aligned = [offset as usize, data.len(), address].iter().all(|n| n % BLOCK == 0);
        if !self.write || !aligned {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if durable {
            self.ssd.wait_to_sync();
        }
        self.life.effect(|| self.ssd.write(offset, data, durable))
    }

    fn begin_write(&self, offset: u64, data: &[u8]) -> bool {
        // Now and then the kernel takes none.
        let takes = self.life.rng.lock().chance(7, 8);
        takes && self.life.look(|| Ok(self.ssd.begin(offset, data))).unwrap_or(false)
    }

    fn finish_write(&self) -> io::Result<bool> {
        self.life.effect(|| self.ssd.finish())?;
        // Now and then it ended too early.
        Ok(self.life.rng.lock().chance(7, 8))
    }

    fn sync(&self) -> io::Result<()> {
        self.ssd.wait_to_sync();
        self.life.effect(|| self.ssd.sync())
    }
}
