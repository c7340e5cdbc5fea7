//! The threads `lsvd-put-N`: each takes one sealed batch, encodes it and creates its object.
//!
//! An object's number and bytes are decided before the first attempt and stay the same for
//! all of them. A store that does not answer is tried again until it does, or the volume
//! closes; a number that is taken by another writer means that this one was deposed.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use lsvd_store::StoreError;
use parking_lot::{Condvar, Mutex};

use super::buffers::Buffers;
use super::builder::Batch;
use super::encode::encode;
use crate::background::{Background, Duty};
use crate::cache::{FrameKey, Origin};
use crate::checkpoint::KeptLeaf;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::{DataHeader, ObjectHeader, SharedExtent, SharedHeader, Stamp, Superblock};
use crate::health::count;
use crate::log::WriteLog;
use crate::map::LeafItem;
use crate::stream::Created;
use crate::units::ObjectSeq;

/// Leaves that are put into the local copy at once.
const LEAVES_AT_ONCE: usize = 64;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Work for an uploader.
pub(crate) enum Job {
    /// Create a data object.
    Data { stamp: Stamp, batch: Box<Batch> },
    /// Create an object that shares data.
    Shared { header: Box<SharedHeader>, answer: Sender<Vec<SharedExtent>> },
    /// Create a checkpoint, whose bytes are ready.
    Checkpoint { stamp: Stamp, head: Vec<u8>, body: Arc<Vec<u8>> },
    /// A checkpoint is committed: keep its leaves locally and name it in the superblock.
    Publish { stamp: Stamp, changes: Vec<KeptLeaf>, body: Arc<Vec<u8>>, change: SuperblockChange },
}

impl Job {
    /// The object it is about; zero if none.
    fn seq(&self) -> ObjectSeq {
        match self {
            Job::Data { stamp, .. } | Job::Checkpoint { stamp, .. } => stamp.seq,
            Job::Shared { header, .. } => header.stamp().seq,
            Job::Publish { .. } => ObjectSeq::ZERO,
        }
    }
}

/// A change of the superblock.
pub(crate) type SuperblockChange = Box<dyn Fn(&mut Superblock) -> Result<()> + Send>;

/// What became of a [`Job`].
pub(crate) enum Outcome {
    /// The data object exists.
    Data { header: Box<DataHeader>, batch: Box<Batch>, bytes: u64 },
    /// The object that shares data exists.
    Shared { header: Box<SharedHeader>, answer: Sender<Vec<SharedExtent>>, bytes: u64 },
    /// The checkpoint exists.
    Checkpoint { stamp: Stamp },
    /// The superblock names the checkpoint.
    Published,
    /// It cannot be done.
    Failed(Error),
}

/// The uploaders of one volume.
pub(crate) struct Uploaders {
    jobs: Sender<Job>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

/// Ends waiting.
#[derive(Default)]
struct Stop {
    now: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    fn is_set(&self) -> bool {
        self.now.load(Ordering::SeqCst)
    }

    fn wait(&self, time: Duration) {
        let mut lock = self.lock.lock();
        if !self.is_set() {
            self.wake.wait_for(&mut lock, time);
        }
    }
}

impl Uploaders {
    /// Starts `count` threads; `done` is called with each outcome.
    pub(crate) fn start(
        core: &Arc<Core>,
        log: &Arc<WriteLog>,
        buffers: &Arc<Buffers>,
        background: &Arc<Background>,
        count: usize,
        done: impl Fn(ObjectSeq, Outcome) + Send + Sync + 'static,
    ) -> Result<Self> {
        let (jobs, todo) = unbounded::<Job>();
        let stop = Arc::new(Stop::default());
        let done = Arc::new(done);
        let mut threads = Vec::new();
        for i in 1..=count {
            let worker = Worker {
                core: Arc::clone(core),
                log: Arc::clone(log),
                buffers: Arc::clone(buffers),
                stop: Arc::clone(&stop),
                background: Arc::clone(background),
            };
            let (todo, done) = (todo.clone(), Arc::clone(&done));
            let body = Box::new(move || worker.run(&todo, &*done));
            let spawned = core.platform.spawn(&format!("lsvd-put-{i}"), body);
            threads.push(spawned.map_err(|e| Error::local("lsvd-put", "start the thread", e))?);
        }
        Ok(Self { jobs, stop, threads })
    }

    /// Hands over a job.
    pub(crate) fn submit(&self, job: Job) {
        // The receivers live as long as `self`, unless they panicked, which poisons.
        let _ = self.jobs.send(job);
    }

    /// Ends the threads; attempts under way finish, none is begun again.
    pub(crate) fn stop(self) {
        {
            let _lock = self.stop.lock.lock();
            self.stop.now.store(true, Ordering::SeqCst);
        }
        self.stop.wake.notify_all();
        drop(self.jobs);
        for thread in self.threads {
            // A panic was turned into an outcome inside the thread.
            let _ = thread.join();
        }
    }
}

struct Worker {
    core: Arc<Core>,
    log: Arc<WriteLog>,
    buffers: Arc<Buffers>,
    stop: Arc<Stop>,
    background: Arc<Background>,
}

impl Worker {
    fn run(&self, todo: &Receiver<Job>, done: &impl Fn(ObjectSeq, Outcome)) {
        let _member = self.background.join(Duty::Upload);
        let volume = self.core.name();
        let body = || {
            while let Ok(job) = todo.recv() {
                if self.stop.is_set() {
                    break;
                }
                let seq = job.seq();
                done(seq, self.carry_out(job).unwrap_or_else(Outcome::Failed));
            }
            Ok(())
        };
        crate::poison::guard(&self.core.poison, &volume, "lsvd-put", body);
        if let Some(cause) = self.core.poison.cause() {
            done(ObjectSeq::ZERO, Outcome::Failed(cause.clone()));
        }
    }

    fn carry_out(&self, job: Job) -> Result<Outcome> {
        match job {
            Job::Data { stamp, batch } => self.put_data(stamp, batch),
            Job::Shared { header, answer } => {
                let stamp = header.stamp();
                let object =
                    header.encode().map_err(|e| e.of(self.core.stream.describe(stamp.seq)))?;
                self.core.step("share.put")?;
                self.put(stamp, &[IoSlice::new(&object)])?;
                self.core.step("share.created")?;
                Ok(Outcome::Shared { header, answer, bytes: object.len() as u64 })
            }
            Job::Checkpoint { stamp, head, body } => {
                self.core.step("checkpoint.put")?;
                self.put(&stamp, &[IoSlice::new(&head), IoSlice::new(&body)])?;
                self.core.step("checkpoint.created")?;
                Ok(Outcome::Checkpoint { stamp })
            }
            Job::Publish { stamp, changes, body, change } => {
                self.keep_leaves(&changes, &body);
                drop(body);
                self.core.step("checkpoint.publish")?;
                self.persist(|| self.core.superblock.update(&change)).map_err(|e| match e {
                    // The checkpoint itself was committed, so the fence stands behind it.
                    Error::Fenced { by, .. } => {
                        crate::deposed::note(&self.core, stamp.seq, stamp.epoch, by)
                    }
                    Error::Deleted(_) => {
                        let hint = "a host that deleted it".to_owned();
                        crate::deposed::note(&self.core, stamp.seq, stamp.epoch, hint)
                    }
                    other => other,
                })?;
                self.core.step("checkpoint.published")?;
                Ok(Outcome::Published)
            }
        }
    }

    /// Puts the leaves of a checkpoint into the local copy.
    fn keep_leaves(&self, changes: &[KeptLeaf], body: &[u8]) {
        let leaves = &self.core.leaves;
        for some in changes.chunks(LEAVES_AT_ONCE) {
            if leaves.is_off() {
                return;
            }
            let items = some.iter().map(|kept| LeafItem {
                index: kept.index,
                last_change: kept.last_change,
                bytes: kept.place.clone().and_then(|place| body.get(place)).map(<[u8]>::to_vec),
            });
            leaves.put_batch(self.core.uuid, items.collect());
        }
        leaves.flush();
    }

    fn put_data(&self, stamp: Stamp, mut batch: Box<Batch>) -> Result<Outcome> {
        let core = &self.core;
        let key =
            |frame| FrameKey { volume: core.uuid, object: stamp.seq, nonce: stamp.nonce, frame };
        let body = self.buffers.take();
        let encoded = encode(&batch, stamp, core.config.compression, body, |frame, bytes| {
            // The key's nonce makes this harmless should the number go to another object.
            core.cache.insert(key(frame), bytes, Origin::Written);
        })
        .map_err(|e| e.of(core.stream.describe(stamp.seq)))?;
        self.buffers.give(std::mem::take(&mut batch.data));
        let is_moved = batch.moved_from.is_some();
        core.step(if is_moved { "gc.put" } else { "batch.put" })?;
        self.put(&stamp, &[IoSlice::new(&encoded.head), IoSlice::new(&encoded.body)])?;
        core.step(if is_moved { "gc.created" } else { "batch.created" })?;
        let bytes = (encoded.head.len() + encoded.body.len()) as u64;
        self.buffers.give(encoded.body);
        Ok(Outcome::Data { header: Box::new(encoded.header), batch, bytes })
    }

    fn put(&self, stamp: &Stamp, parts: &[IoSlice<'_>]) -> Result<()> {
        match self.persist(|| self.core.uploads.create(stamp, parts))? {
            Created::Ours => {
                let health = &self.core.health;
                count(&health.objects_put, 1);
                count(&health.object_bytes_put, parts.iter().map(|p| p.len() as u64).sum());
                Ok(())
            }
            Created::Theirs(found) => Err(self.deposed(stamp, &found.header)),
            Created::Gone => {
                // Whoever has collected it has the volume.
                let hint = "another host".to_owned();
                Err(crate::deposed::note(&self.core, stamp.committed, stamp.epoch, hint))
            }
        }
    }

    fn deposed(&self, stamp: &Stamp, theirs: &ObjectHeader) -> Error {
        if theirs.stamp().epoch <= stamp.epoch {
            let detail = "it exists, but this writer did not write it, and nobody else may have";
            return Error::damaged(self.core.stream.describe(stamp.seq), detail);
        }
        let hint = format!("a writer of epoch {}", theirs.stamp().epoch);
        crate::deposed::note(&self.core, stamp.committed, stamp.epoch, hint)
    }

    /// Tries until it works, fails for good, or the volume closes.
    fn persist<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        let core = &self.core;
        let mut pause = BACKOFF_FIRST;
        // Whoever still has time left after an outage must not lose it to a pause.
        let longest = core.config.store_timeout.map_or(BACKOFF_MAX, |t| BACKOFF_MAX.min(t / 4));
        loop {
            match attempt() {
                Err(Error::Store(e)) if may_pass(&e) => {
                    let dirty = self.log.backlog().0;
                    core.health.store_failed(core.platform.unix_millis(), &core.name(), dirty, &e);
                    if self.stop.is_set() {
                        return Err(Error::Closing(core.name().to_string()));
                    }
                    // A store that says when to come again is obeyed, within reason.
                    let asked = e.retry_after().unwrap_or_default().min(longest);
                    self.stop.wait(pause.max(asked));
                    pause = (pause * 2).min(longest);
                    if self.stop.is_set() {
                        return Err(Error::Closing(core.name().to_string()));
                    }
                }
                Ok(value) => {
                    core.health.store_answered(core.platform.unix_millis(), &core.name());
                    return Ok(value);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Whether the store may do tomorrow what it does not do today. A refusal counts: full disks
/// are emptied and permissions mended, and the log keeps the data until then.
pub(super) fn may_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. } | StoreError::Refused { .. })
}
