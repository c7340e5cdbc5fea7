//! The thread `lsvd-batch`: numbers batches, keeps uploads within the window, commits in order.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lsvd_store::StoreError;
use parking_lot::Mutex;

use super::buffers::Buffers;
use super::builder::{Batch, Builder, Offer};
use super::orders::Orders;
use super::uploader::{Job, Outcome, Uploaders, may_pass};
use crate::checkpoint::{Facts, Prepared, Root, check_owner, name_checkpoint};
use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::format::{
    CheckpointRef, DataHeader, FenceRecord, LeafRef, LogPoint, Nonce, ShortText, Stamp, Superblock,
};
use crate::gc::Cleaner;
use crate::health::count;
use crate::history_window::HistoryWindow;
use crate::leaf_loader::LeafLoader;
use crate::log::{LogTail, WriteLog};
use crate::map::{Absent, CommitExtent, LeafChange, LeafIndex, Maps, Pin, Stopped};
use crate::platform::Pace;
use crate::recover::pins;
use crate::units::{Epoch, Extent, LogPos, LogSeq, ObjectSeq};

/// A number is created only after the one this much lower is committed. Every object says so;
/// recovery after an unclean end relies on it.
pub(crate) const WINDOW: u64 = 8;

/// Threads that upload.
const UPLOADERS: usize = 4;

/// Extents committed per hold of the maps' lock.
const COMMIT_SLICE: usize = 64;

/// Checkpoints may take up so many times the room of the leaves that they are kept for...
const MAP_SLACK: u64 = 2;
/// ... and so many bytes more.
const MAP_SLACK_BYTES: u64 = 4 << 20;

/// A checkpoint is due when the leaves that changed take up one of so many parts of what leaves may.
const PRESSED_PARTS: u64 = 4;
/// Until it is there, nothing new is begun when they take up one of so many parts.
const FULL_PARTS: u64 = 2;

/// Leaves that a commit fetches together.
const FETCH_AT_ONCE: usize = 32;

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

/// What a checkpoint leaves alone although the head does not need it.
#[derive(Default)]
struct Kept {
    /// By snapshots.
    pins: Vec<Pin>,
    /// As history: what died after this.
    history: Option<ObjectSeq>,
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
            answers: 0,
            sealed: at.log_seq,
            at,
        }
    }

    /// The thread's body.
    pub(crate) fn run(mut self) -> Result<()> {
        let (inbox, log) = (Arc::clone(&self.inbox), Arc::clone(&self.log));
        let uploaders = Uploaders::start(
            &self.core,
            &self.log,
            &self.buffers,
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
            self.give_up_late();
            let pressed = drain_to > committed || checkpoint.is_some() || self.is_late();
            uploaders.set_pace(if pressed { Pace::Steady } else { Pace::Idle });
            if !sealed && !pointed && !moved {
                self.rest(pressed);
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

    fn take_outcomes(&mut self) -> Result<()> {
        let outcomes = std::mem::take(&mut *self.inbox.lock());
        for (seq, outcome) in outcomes {
            match outcome {
                Outcome::Failed(error) => return Err(error),
                Outcome::Published => self.published(),
                done => {
                    if let Some(object) = self.in_flight.get_mut(&seq) {
                        object.done = Some(done);
                    }
                }
            }
        }
        Ok(())
    }

    /// Commits what is uploaded, as far as there is no gap.
    fn commit_ready(&mut self, uploaders: &Uploaders) -> Result<()> {
        let mut moved = false;
        let before = self.at.committed;
        while let Some(object) = self.in_flight.first_entry() {
            if object.get().done.is_none() {
                break;
            }
            let (seq, object) = object.remove_entry();
            match object.done {
                Some(Outcome::Data { header, batch, bytes }) => {
                    let is_moved = batch.moved_from.is_some();
                    self.core.step(if is_moved { "gc.commit" } else { "batch.commit" })?;
                    self.apply(&header, &batch, bytes)?;
                    self.committed_sectors = header.common().stamp.size_sectors;
                    self.at.since_checkpoint += 1;
                    moved |= is_moved;
                }
                Some(Outcome::Checkpoint { stamp }) => self.publish_checkpoint(&stamp, uploaders),
                _ => {}
            }
            self.at.committed = seq;
            if let Some(cut) = object.cut {
                let (now, bytes) = (self.core.platform.monotonic(), cut.pos.since(self.log.tail()));
                self.core.health.uploaded(now, object.begun, bytes);
                self.log.release(cut.pos, cut.seq, seq);
            }
            self.orders.committed(object.through, seq, self.committed_sectors);
        }
        if self.at.committed > before {
            self.cleaner.committed(moved);
        }
        Ok(())
    }

    /// Moves an object's extents from the dirty to the clean map.
    fn apply(&self, header: &DataHeader, batch: &Batch, bytes: u64) -> Result<()> {
        let core = &self.core;
        // What a checkpoint holds stays while it may be fetched.
        let _reading = core.readers.begin();
        let seq = header.common().stamp.seq;
        core.index.add(header);
        core.maps.write().objects_mut().add(seq, header.logical_sectors().into(), bytes);
        if let Some((resized, sectors)) = batch.resize {
            loop {
                let done = core.maps.write().commit_resize(seq, sectors, resized);
                match done {
                    Ok(()) => break,
                    Err(Absent(at)) => self.fetch(vec![at])?,
                }
            }
        }
        if header.moved_from().is_some() {
            let moved: Vec<_> = header.moved().collect();
            self.commit(&moved, |e| e.extent, |maps, slice| maps.commit_moved(seq, slice))?;
        } else {
            let extents: Vec<_> = header.placements().map(CommitExtent::from).collect();
            let through = batch.through;
            self.commit(&extents, |e| e.extent, |maps, slice| maps.commit(seq, slice, through))?;
        }
        let mut maps = core.maps.write();
        maps.objects_mut().settle(seq);
        core.memory.settle(&mut maps);
        Ok(())
    }

    /// Commits extents, a slice per hold of the maps' lock, and fetches what leaves they need.
    fn commit<T>(
        &self,
        extents: &[T],
        extent: impl Fn(&T) -> Extent,
        commit: impl Fn(&mut Maps, &[T]) -> std::result::Result<(), Stopped>,
    ) -> Result<()> {
        for mut slice in extents.chunks(COMMIT_SLICE) {
            loop {
                let done = commit(&mut self.core.maps.write(), slice);
                let Err(Stopped { done, .. }) = done else { break };
                slice = slice.get(done..).unwrap_or_default();
                // Those that are needed first, and not more than are surely here when they are.
                let mut absent = self.core.maps.read().absent_for(slice.iter().map(&extent));
                absent.truncate(FETCH_AT_ONCE);
                self.fetch(absent)?;
            }
        }
        Ok(())
    }

    /// Fetches leaves, and waits for as long as the store is away. None is let go of before the commit
    /// is over: the next one to be fetched must not cost the one before.
    fn fetch(&self, leaves: Vec<LeafRef>) -> Result<()> {
        loop {
            let fetched = self.loader.load_all(leaves.clone(), |at, leaf| {
                self.loader.put(&mut self.core.maps.write(), at, leaf)
            });
            match fetched {
                Err(Error::Store(e)) if may_pass(&e) => self.outlast(&e)?,
                Err(error) => {
                    return Err(crate::deposed::explain(&self.core, self.at.committed, error));
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Waits a little for a store that does not answer.
    fn outlast(&self, error: &StoreError) -> Result<()> {
        let core = &self.core;
        let dirty = self.log.backlog().0;
        core.health.store_failed(core.platform.unix_millis(), &core.name(), dirty, error);
        if self.orders.state().stop {
            return Err(Error::Closing(core.name().to_string()));
        }
        self.give_up_late();
        std::thread::sleep(LOOK);
        Ok(())
    }

    fn checkpoint_if_due(
        &mut self,
        asked: Option<(bool, u64)>,
        uploaders: &Uploaders,
    ) -> Result<bool> {
        if self.prepared.is_some() || self.publishing || !self.may_create() {
            return Ok(false);
        }
        let clean = match asked {
            // The last one says that nothing is in flight, so nothing may be.
            Some((true, _)) if !self.in_flight.is_empty() => return Ok(false),
            Some((clean, _)) => clean,
            None if self.at.since_checkpoint >= self.core.config.checkpoint_objects.max(1) => false,
            // The leaves must stay in memory until a checkpoint has them.
            None if self.is_pressed(PRESSED_PARTS) => false,
            None => return Ok(false),
        };
        self.core.step("checkpoint.begin")?;
        let covers = self.at.committed;
        let changed = self.changed_leaves()?;
        let stamp = self.stamp();
        let sectors = self.committed_sectors;
        let facts = Facts { stamp, clean, covers, sectors, fences: &self.at.fences };
        let (maps, newest) = (&self.core.maps, self.at.root.seq());
        let entered = self.core.superblock.get().checkpoint.map(|checkpoint| checkpoint.seq);
        let mut kept = Kept::default();
        let history = &mut self.at.history;
        let now_ms = self.core.platform.unix_millis();
        let prepared = self.at.root.prepare(&facts, false, changed, |held| {
            let mut maps = maps.write();
            let objects = maps.objects_mut();
            kept.pins = pins(&self.core.superblock.get());
            objects.set_pins(kept.pins.clone());
            // Checkpoints whose leaves were all written anew. The newest one stays, and the one
            // that the superblock names, for it will be named beside the one that follows.
            let of_map = objects.iter().filter(|(_, usage)| usage.is_map());
            let useless: Vec<_> = of_map
                .map(|(object, _)| object)
                .filter(|object| *object < newest && Some(*object) != entered)
                .filter(|object| !held.contains_key(object))
                .collect();
            for object in useless {
                objects.bury(object, covers);
            }
            kept.history = history.advance(now_ms, objects);
            objects.set_history(kept.history);
            objects.condemn(covers);
            objects.records(covers)
        })?;
        if self.core.config.history.is_on() {
            // What dies from now on is up to the next one.
            kept.history.get_or_insert(covers);
        }
        self.begin(stamp.seq, None);
        let (head, body) = (prepared.head.clone(), Arc::clone(&prepared.body));
        self.prepared = Some((prepared, kept));
        self.is_last = clean;
        self.at.since_checkpoint = 0;
        if let Some((_, number)) = asked {
            self.answers = number;
            let mut orders = self.orders.state();
            if orders.asked == number {
                orders.checkpoint = None;
            }
        }
        uploaders.submit(Job::Checkpoint { stamp, head, body });
        Ok(true)
    }

    /// The leaves that the next checkpoint writes: those that changed and, where checkpoints take up
    /// much more room than the leaves that they are kept for, those of the one with the fewest.
    fn changed_leaves(&self) -> Result<Vec<LeafChange>> {
        let (mut changed, stored) = {
            let maps = self.core.maps.read();
            let of_map = maps.objects().iter().filter(|(_, u)| u.is_map() && !u.is_of_base());
            let stored: u64 = of_map.map(|(_, usage)| usage.stored_bytes).sum();
            (maps.clean().changed(), stored)
        };
        let root = &self.at.root;
        let mut held = root.held();
        held.retain(|object, _| *object > self.core.stream.base_through());
        if stored > MAP_SLACK * held.values().sum::<u64>() + MAP_SLACK_BYTES
            && let Some((sparse, _)) = held.iter().min_by_key(|(_, bytes)| **bytes)
        {
            let known: HashSet<_> = changed.iter().map(|change| change.index.get()).collect();
            let more = root.leaves().values();
            let more = more.filter(|at| at.object == *sparse && !known.contains(&at.index));
            let _reading = self.core.readers.begin();
            let taken = self.loader.load_all(more.copied().collect(), |at, leaf| {
                let (index, last_change) = (LeafIndex::new(at.index), at.last_change);
                changed.push(LeafChange { index, leaf: Some(Arc::new(leaf)), last_change });
                Ok(())
            });
            match taken {
                // The rest can wait for the next one.
                Ok(()) | Err(Error::Store(_)) => {}
                Err(error) => {
                    return Err(crate::deposed::explain(&self.core, self.at.committed, error));
                }
            }
        }
        Ok(changed)
    }

    fn is_pressed(&self, parts: u64) -> bool {
        self.core.memory.is_pressed(&self.core.maps.read(), parts)
    }

    /// A checkpoint is committed: from now on recovery may start there.
    fn publish_checkpoint(&mut self, stamp: &Stamp, uploaders: &Uploaders) {
        let Some((mut prepared, kept)) = self.prepared.take() else { return };
        let covers = prepared.root.covers;
        {
            let bytes = (prepared.head.len() + prepared.body.len()) as u64;
            let mut maps = self.core.maps.write();
            maps.note_checkpoint(covers, prepared.root.leaves());
            self.core.memory.settle(&mut maps);
            maps.objects_mut().add(stamp.seq, 0, bytes);
        }
        self.at.history.add(covers, stamp.written_ms);
        let history = self.at.history.begin();
        self.orders.publish(|o| o.history = history);
        self.condemned = std::mem::take(&mut prepared.condemned);
        self.at.root = std::mem::take(&mut prepared.root);
        self.publishing = true;
        let checkpoint = CheckpointRef { seq: stamp.seq, covers };
        let stamp = *stamp;
        let host = ShortText::truncated(&self.core.platform.host_name());
        let repinned = Arc::clone(&self.repinned);
        repinned.store(false, Ordering::Relaxed);
        let change = Box::new(move |superblock: &mut Superblock| {
            check_owner(superblock, &stamp, checkpoint)?;
            // It may condemn what a snapshot needs that was made meanwhile.
            if pins(superblock).iter().any(|pin| !kept.pins.contains(pin)) {
                repinned.store(true, Ordering::Relaxed);
                return Ok(());
            }
            superblock.history = kept.history;
            name_checkpoint(superblock, &stamp, checkpoint, &host);
            Ok(())
        });
        let Prepared { changes, body, .. } = prepared;
        uploaders.submit(Job::Publish { stamp, changes, body, change });
    }

    fn published(&mut self) {
        self.publishing = false;
        let superblock = self.core.superblock.get();
        self.core.maps.write().objects_mut().set_pins(pins(&superblock));
        if self.repinned.swap(false, Ordering::Relaxed) {
            let named = superblock.checkpoint.map_or(ObjectSeq::ZERO, |named| named.covers);
            self.core.maps.write().objects_mut().reprieve(named);
            // Another one, which knows them, is due at once.
            self.condemned.clear();
            self.at.since_checkpoint = self.core.config.checkpoint_objects.max(1);
            if self.is_last {
                self.orders.publish(|o| o.checkpoint = Some(true));
            }
            return;
        }
        self.cleaner.announce(std::mem::take(&mut self.condemned));
        let answers = self.answers;
        self.orders.publish(|o| o.answered = answers);
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
    fn rest(&self, pressed: bool) {
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
        let awaited = self.core.config.store_timeout.is_some() && self.orders.is_awaited();
        if awaited {
            time = Some(time.unwrap_or(LOOK).min(LOOK));
        }
        self.log.wait_as_tail(pos, time);
    }
}
