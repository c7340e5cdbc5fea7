//! The thread `lsvd-batch`: numbers batches, keeps uploads within the window, commits in order.

mod checkpoints;
mod commits;

use checkpoints::Kept;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use crate::background::{Background, Duty};
use crate::batch::buffers::Buffers;
use crate::batch::builder::{Batch, Builder, Offer};
use crate::batch::orders::{Orders, ShareRequest};
use crate::batch::uploader::{Job, Outcome, Uploaders};
use crate::checkpoint::{Prepared, Root};
use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::format::{FenceRecord, Holder, LogPoint, Nonce, SharedExtent, SharedHeader, Stamp};
use crate::gc::Cleaner;
use crate::health::count;
use crate::history_window::HistoryWindow;
use crate::leaf_loader::LeafLoader;
use crate::log::{LogTail, SYNC_CORE_VALID, WriteLog};
use crate::platform::Pace;
use crate::units::{Epoch, LogPos, LogSeq, ObjectSeq};

/// A number is created only after the one this much lower is committed. Every object says so;
/// recovery after an unclean end relies on it.
pub(crate) const WINDOW: u64 = 8;

/// Threads that upload.
const UPLOADERS: usize = 4;

/// Nothing new is begun while the leaves that changed take up one of so many parts of what leaves may.
const FULL_PARTS: u64 = 2;

/// From this share of the ring on uploads do not make way for other work any more.
const PRESSED_256THS: u64 = 64;

/// Nor once a record waits for so much longer than a batch may take to fill.
const PRESSED_AGE: Duration = Duration::from_secs(5);

/// How often it is looked whether they still should make way.
const PRESSED_CHECK: Duration = Duration::from_millis(250);

/// How often it looks whether a flush has waited too long for the store.
const LOOK: Duration = Duration::from_millis(100);

/// Where in the stream a writer begins.
#[derive(Debug)]
pub(crate) struct Position {
    /// The first number it will create.
    pub(crate) next: ObjectSeq,
    /// The highest number known committed.
    pub(crate) committed: ObjectSeq,
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// The highest record that the stream holds.
    pub(crate) log_seq: LogSeq,
    /// The newest checkpoint's root.
    pub(crate) root: Root,
    /// All fences up to its own.
    pub(crate) fences: Vec<FenceRecord>,
    /// Where the log's first record is that the stream does not hold.
    pub(crate) tail: LogPoint,
    /// Size of the volume as the stream has it, in sectors.
    pub(crate) size_sectors: u64,
    /// Objects committed since the newest checkpoint.
    pub(crate) since_checkpoint: u64,
    /// What is kept of its history.
    pub(crate) history: HistoryWindow,
}

/// An object between its sealing and its commit.
struct InFlight {
    /// Where the log may be cut once it is committed.
    cut: Option<LogPoint>,
    through: LogSeq,
    begun: Duration,
    done: Option<Outcome>,
}

/// The thread's own state.
pub(crate) struct Sequencer {
    core: Arc<Core>,
    log: Arc<WriteLog>,
    orders: Arc<Orders>,
    cleaner: Arc<Cleaner>,
    background: Arc<Background>,
    inbox: Arc<Mutex<Vec<(ObjectSeq, Outcome)>>>,
    at: Position,
    /// Without the patience of readers: an outage is waited for here.
    loader: LeafLoader,
    tail: LogTail,
    builder: Builder,
    buffers: Arc<Buffers>,
    /// When the open batch got its first record.
    begun: Duration,
    in_flight: BTreeMap<ObjectSeq, InFlight>,
    /// Size of the volume as of the last commit, in sectors.
    committed_sectors: u64,
    /// The checkpoint in flight.
    prepared: Option<(Prepared, Kept)>,
    publishing: bool,
    /// Whether that is to be the last one.
    is_last: bool,
    /// Whether it could not be named, for there are snapshots that it does not know.
    repinned: Arc<AtomicBool>,
    /// What the checkpoint being published condemns.
    condemned: Vec<ObjectSeq>,
    /// Those of them that no checkpoint before it had condemned.
    newly_condemned: Vec<ObjectSeq>,
    /// How many of the requests for a checkpoint it answers.
    answers: u64,
    /// The highest record sealed.
    sealed: LogSeq,
}

impl Sequencer {
    /// Prepares the thread.
    pub(crate) fn new(
        core: Arc<Core>,
        log: Arc<WriteLog>,
        orders: Arc<Orders>,
        cleaner: Arc<Cleaner>,
        background: Arc<Background>,
        at: Position,
    ) -> Self {
        let tail = LogTail::new(Arc::clone(log.data()), at.tail.pos, at.tail.seq);
        let history = at.history.begin();
        orders.publish(|o| {
            o.history = history;
            o.committed = at.log_seq;
            o.committed_object = at.committed;
            o.committed_sectors = at.size_sectors;
        });
        Self {
            builder: Builder::new(core.config.batch_bytes, at.size_sectors),
            buffers: Arc::default(),
            loader: LeafLoader::new(core.uploads.clone(), Arc::clone(&core.leaves)),
            core,
            log,
            orders,
            cleaner,
            background,
            inbox: Arc::default(),
            tail,
            begun: Duration::ZERO,
            in_flight: BTreeMap::new(),
            committed_sectors: at.size_sectors,
            prepared: None,
            publishing: false,
            is_last: false,
            repinned: Arc::default(),
            condemned: Vec::new(),
            newly_condemned: Vec::new(),
            answers: 0,
            sealed: at.log_seq,
            at,
        }
    }

    /// The thread's body.
    pub(crate) fn run(mut self) -> Result<()> {
        let background = Arc::clone(&self.background);
        let _member = background.join(Duty::Batch);
        let (inbox, log) = (Arc::clone(&self.inbox), Arc::clone(&self.log));
        let uploaders = Uploaders::start(
            &self.core,
            &self.log,
            &self.buffers,
            &self.background,
            UPLOADERS,
            move |seq, outcome| {
                inbox.lock().push((seq, outcome));
                log.wake_tail();
            },
        )?;
        let outcome = self.work(&uploaders);
        match &outcome {
            // It was told to leave off while it waited for the store.
            Ok(()) | Err(Error::Closing(_)) => {}
            Err(error) => self.core.poison.set(error.clone()),
        }
        uploaders.stop();
        self.orders.end(&self.core.end_cause());
        // Whoever waits for room now waits in vain.
        self.log.notify_room();
        outcome.or_else(|error| match error {
            Error::Closing(_) => Ok(()),
            error => Err(error),
        })
    }

    fn work(&mut self, uploaders: &Uploaders) -> Result<()> {
        loop {
            // A reader may have found it out.
            self.core.poison.check_deposed()?;
            self.take_outcomes()?;
            self.commit_ready(uploaders)?;
            let (stop, drain_to, committed, checkpoint, checkpoint_after) = {
                let state = self.orders.state();
                let checkpoint = state.checkpoint.map(|clean| (clean, state.asked));
                let after = state.checkpoint_after;
                (state.stop, state.drain_to, state.committed, checkpoint, after)
            };
            if stop {
                return Ok(());
            }
            let filled = self.log.filled();
            self.fill(filled)?;
            let sealed = self.seal_if_due(drain_to, uploaders)?;
            let asked = checkpoint.filter(|(clean, _)| match clean {
                true => self.builder.is_empty() && self.tail.pos() >= filled,
                // What whoever asked wanted to be covered.
                false => committed >= checkpoint_after,
            });
            let pointed = self.checkpoint_if_due(asked, uploaders)?;
            let moved = self.move_if_offered(uploaders);
            let shared = self.share_if_asked(uploaders)?;
            self.give_up_late();
            // Somebody waits for it.
            let is_awaited =
                drain_to > committed || checkpoint.is_some() || self.orders.is_sharing();
            let pressed = is_awaited || self.is_late();
            self.background.set_pace(if pressed { Pace::Steady } else { Pace::Idle });
            let kept_off = if pressed { None } else { self.log.sync_core() };
            self.background.keep_off(kept_off);
            if !sealed && !pointed && !moved && !shared {
                self.rest(pressed, kept_off.is_some());
            }
        }
    }

    /// Takes records into the open batch until it is full.
    fn fill(&mut self, filled: LogPos) -> Result<()> {
        while !self.builder.is_full() {
            let empty = self.builder.is_empty();
            let before = (self.tail.pos(), self.tail.seq());
            let Some(record) = self.tail.next(filled)? else { break };
            if self.builder.offer(&record.head, record.payload) == Offer::Full {
                self.tail.rewind(before.0, before.1);
                self.begun = Duration::ZERO;
                break;
            }
            if empty {
                self.begun = self.core.platform.monotonic();
            }
        }
        Ok(())
    }

    fn seal_if_due(&mut self, drain_to: LogSeq, uploaders: &Uploaders) -> Result<bool> {
        if self.builder.is_empty() || !self.may_create() || !self.map_has_room() {
            return Ok(false);
        }
        let age = self.core.platform.monotonic().saturating_sub(self.begun);
        let tight = self.in_flight.is_empty() && self.log.backlog().1 >= 128;
        let asked = drain_to > self.sealed;
        if !(self.builder.is_full() || age >= self.core.config.seal_age() || tight || asked) {
            return Ok(false);
        }
        let Some(batch) = self.builder.seal(|| self.tail.take(self.buffers.take())) else {
            return Ok(false);
        };
        count(&self.core.health.coalesced_bytes, batch.coalesced_bytes);
        self.core.step("batch.sealed")?;
        self.sealed = batch.through;
        self.at.size_sectors = batch.size_sectors;
        let stamp = self.stamp();
        let cut = LogPoint { pos: self.tail.pos(), seq: self.tail.seq() };
        self.begin(stamp.seq, Some(cut));
        uploaders.submit(Job::Data { stamp, batch: Box::new(batch) });
        Ok(true)
    }

    /// Puts what the cleaner wants to move into the stream.
    fn move_if_offered(&mut self, uploaders: &Uploaders) -> bool {
        if !self.may_create() || !self.map_has_room() {
            return false;
        }
        let Some(moved) = self.cleaner.take_offer() else { return false };
        let stamp = self.stamp();
        let batch = Box::new(Batch::of_moved(moved, self.at.size_sectors, self.sealed));
        self.begin(stamp.seq, None);
        uploaders.submit(Job::Data { stamp, batch });
        true
    }

    /// Puts what somebody wants to share into the stream, as far as it may be.
    fn share_if_asked(&mut self, uploaders: &Uploaders) -> Result<bool> {
        // What the checkpoint being made condemns is not known before it is named.
        let is_settled = self.prepared.is_none() && !self.publishing;
        if !is_settled || !self.may_create() || !self.map_has_room() {
            return Ok(false);
        }
        let Some(request) = self.orders.take_share() else { return Ok(false) };
        let (holders, extents) = self.still_kept(&request);
        let answer = request.answer;
        if extents.is_empty() {
            self.orders.end_share();
            // Who asked may have ceased to wait.
            let _ = answer.send(extents);
            return Ok(true);
        }
        self.core.step("share.begin")?;
        let stamp = self.stamp();
        let header = SharedHeader::new(stamp, holders, extents);
        let header = Box::new(header.map_err(|e| e.of(self.core.stream.describe(stamp.seq)))?);
        self.begin(stamp.seq, None);
        uploaders.submit(Job::Shared { header, answer });
        Ok(true)
    }

    /// What of a request is within the volume, and not condemned.
    fn still_kept(&self, request: &ShareRequest) -> (Vec<Holder>, Vec<SharedExtent>) {
        let maps = self.core.maps.read();
        let is_kept = |holder: &Holder| match maps.objects().holder(holder.object) {
            Some(known) => known == *holder,
            // What is dead of a base is forgotten, but the base keeps it.
            None => maps.objects().is_base_number(holder.object),
        };
        let wanted = request.extents.iter().copied();
        let inside = wanted.filter(|shared| shared.extent.end().get() <= self.at.size_sectors);
        let extents: Vec<_> = inside
            .filter(|shared| request.holders.get(&shared.from.object).is_some_and(is_kept))
            .collect();
        let used: BTreeSet<_> = extents.iter().map(|shared| shared.from.object).collect();
        let holders = used.iter().filter_map(|object| request.holders.get(object).copied());
        (holders.collect(), extents)
    }

    /// Whether the window allows another object.
    fn may_create(&self) -> bool {
        self.at.next.since(self.at.committed) <= WINDOW
    }

    /// Whether the map has room for another batch. If not, a checkpoint is due or on its way, and will
    /// make some.
    fn map_has_room(&self) -> bool {
        !self.is_pressed(FULL_PARTS)
    }

    fn stamp(&mut self) -> Stamp {
        let seq = self.at.next;
        self.at.next = seq.next();
        Stamp {
            volume: self.core.uuid,
            seq,
            epoch: self.at.epoch,
            nonce: Nonce::new(self.core.platform.random()),
            window: WINDOW as u32,
            committed: self.at.committed,
            log_seq: self.sealed,
            size_sectors: self.at.size_sectors,
            written_ms: self.core.platform.unix_millis(),
        }
    }

    fn begin(&mut self, seq: ObjectSeq, cut: Option<LogPoint>) {
        let through = self.sealed;
        self.in_flight.insert(seq, InFlight { cut, through, begun: self.begun, done: None });
    }

    /// When the oldest record that is not committed was taken up.
    fn oldest(&self) -> Option<Duration> {
        let flying = self.in_flight.values().filter(|o| o.cut.is_some()).map(|o| o.begun).next();
        flying.or((!self.builder.is_empty()).then_some(self.begun))
    }

    /// Whether the store lags so far behind that uploads must get on.
    fn is_late(&self) -> bool {
        let age = |since| self.core.platform.monotonic().saturating_sub(since);
        let config = &self.core.config;
        let limit = config.batch_age + PRESSED_AGE;
        let limit = config.max_dirty_age.map_or(limit, |age| limit.min(age / 2));
        self.log.backlog().1 >= PRESSED_256THS || self.oldest().is_some_and(|o| age(o) >= limit)
    }

    /// Fails the flushes that have waited too long for the store.
    fn give_up_late(&self) {
        if self.core.config.store_timeout.is_some() {
            let check =
                |deadline: &Deadline| deadline.check(&self.core, &self.log, "a flush to the store");
            self.orders.answer(|_, deadline| check(deadline).err().map(Err));
        }
    }

    /// Waits until there may be something to do.
    fn rest(&self, pressed: bool, keeps_off: bool) {
        let (pos, mut time) = if !self.may_create() || !self.map_has_room() {
            // Only a commit, or a checkpoint, helps, and they wake.
            (LogPos::new(u64::MAX), None)
        } else if self.builder.is_empty() {
            (self.tail.pos().next(), None)
        } else {
            let age = self.core.platform.monotonic().saturating_sub(self.begun);
            let left = self.core.config.seal_age().saturating_sub(age);
            let full = self.tail.pos().plus(self.builder.room_bytes());
            (full, Some(left.max(Duration::from_millis(1))))
        };
        if !self.in_flight.is_empty() {
            if !pressed {
                time = Some(time.unwrap_or(PRESSED_CHECK).min(PRESSED_CHECK));
            }
        } else if self.builder.is_empty() {
            self.buffers.forget();
        }
        if keeps_off {
            // To be looked at again when that may have come to an end.
            time = Some(time.unwrap_or(SYNC_CORE_VALID).min(SYNC_CORE_VALID));
        }
        let awaited = self.core.config.store_timeout.is_some() && self.orders.is_awaited();
        if awaited {
            time = Some(time.unwrap_or(LOOK).min(LOOK));
        }
        self.log.wait_as_tail(pos, time);
    }
}
