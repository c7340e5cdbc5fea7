//! Giving space back to the store: the thread `lsvd-gc`.
//!
//! ```text
//!   commits --> utilisation below the start threshold?
//!                   | victims: the best by cost and benefit (policy)
//!                   | gather: what the map still points at, from the cache or the store
//!                   v
//!               lsvd-batch: an object with moved data; at its commit the map points at the copy
//!                   |       where it still points at the original
//!                   v
//!               victims are dead --> a checkpoint condemns them --> the superblock names it
//!                                                                        | no read under way
//!                                                                        v
//!                                                                     deleted
//! ```
//! * What is deleted was announced: a store deletes without a condition, so a host that was deposed
//!   meanwhile may do it late. No host ever points at condemned objects again, so that does no harm.
//! * A crash anywhere loses nothing: copies that were not committed are void or dead, and what was
//!   condemned and not deleted is condemned still, by the same checkpoint.
//! * Cleaning keeps to a bandwidth. It makes way for writers, but not if hardly anything of what the
//!   store holds is needed any more.
//! * Nothing is asked of the store while nothing is committed and nothing dead is left.

mod gather;
mod policy;
mod readers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::batch::Orders;
use crate::core::Core;
use crate::deposed;
use crate::error::{Error, Result};
use crate::health::count;
use crate::log::WriteLog;
use crate::map::ObjectTable;
use crate::rate::Rate;
use crate::units::{ObjectSeq, SECTOR_BYTES};

use policy::Victim;

pub(crate) use gather::Relocation;
pub(crate) use readers::Readers;

/// How long a volume is left alone before dead data alone is worth a checkpoint.
const QUIET: Duration = Duration::from_secs(5);

/// So many dead bytes are worth a checkpoint also while much is written, if they are at least a third
/// of what is in the store.
const DEAD_BYTES: u64 = 64 << 20;

/// How often it is looked whether a wait is over.
const TICK: Duration = Duration::from_millis(50);

/// Pause after the store failed.
const BACKOFF: Duration = Duration::from_secs(10);

/// From this share of the log on writers go first.
const PRESSED_256THS: u64 = 64;

/// But not if the utilisation is so many points below the start threshold.
const URGENT_POINTS: u64 = 20;

/// Checkpoints after which the map of a clone must have left its base.
const CHECKPOINTS_TO_LEAVE: usize = 4;

/// Objects deleted before it is looked whether to leave off.
const DELETE_AT_ONCE: usize = 1000;

/// What came of cleaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GcReport {
    /// Share of the data in the store that is needed, in percent.
    pub utilisation_percent: u64,
    /// Objects in the store, but for fences and fillers.
    pub objects: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Bytes of data in objects that the head of the volume needs.
    pub data_bytes: u64,
    /// Of them those that the map points at.
    pub live_bytes: u64,
    /// Bytes in the store that only snapshots and the window of history need.
    #[serde(default)]
    pub snapshot_bytes: u64,
    /// Bytes of a clone's base that its map points at.
    #[serde(default)]
    pub base_bytes: u64,
    /// Bytes of data that were moved.
    pub moved_bytes: u64,
    /// Objects that were deleted.
    pub deleted_objects: u64,
    /// Their bytes in the store.
    pub deleted_bytes: u64,
}

/// The cleaner of one volume open for writing.
#[derive(Debug)]
pub(crate) struct Cleaner {
    core: Arc<Core>,
    orders: Arc<Orders>,
    log: Arc<WriteLog>,
    desk: Mutex<Desk>,
    changed: Condvar,
}

/// How clean somebody wants the store to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The utilisation, in percent.
    pub(crate) target: u64,
    /// Without regard to bandwidth and writers.
    pub(crate) now: bool,
    /// Nothing is to be needed of a base any more.
    pub(crate) leave_base: bool,
}

/// What others leave for the cleaner, and it for them.
#[derive(Debug, Default)]
struct Desk {
    stop: bool,
    /// The volume closes: nothing is moved any more.
    closing: bool,
    /// Something was committed since the cleaner looked.
    stirred: bool,
    /// For the sequencer.
    offered: Option<Relocation>,
    /// What was offered is not committed yet.
    is_moving: bool,
    /// What the superblock's checkpoint condemns.
    announced: Vec<ObjectSeq>,
    is_deleting: bool,
    /// What somebody wants.
    wanted: Option<Wish>,
    /// Nobody wants it any more.
    taken_back: bool,
    /// Requests for it, and how many of them were answered, the last one with this.
    asked: u64,
    answered: u64,
    outcome: Option<Result<()>>,
}

/// What there is to do.
enum Work {
    Delete(Vec<ObjectSeq>),
    Clean {
        target: u64,
    },
    Asked {
        wish: Wish,
        asked: u64,
    },
    /// Nothing was committed for a while, and there is dead data.
    Settle,
    End,
}

impl Cleaner {
    /// A cleaner to whom `condemned` is left by the checkpoint at which the volume was entered.
    pub(crate) fn new(
        core: Arc<Core>,
        orders: Arc<Orders>,
        log: Arc<WriteLog>,
        condemned: Vec<ObjectSeq>,
    ) -> Self {
        let desk = Desk { announced: condemned, stirred: true, ..Desk::default() };
        Self { core, orders, log, desk: Mutex::new(desk), changed: Condvar::new() }
    }

    /// What is to be moved next, for the sequencer.
    pub(crate) fn take_offer(&self) -> Option<Relocation> {
        let mut desk = self.desk.lock();
        if desk.closing {
            if desk.offered.take().is_some() {
                desk.is_moving = false;
            }
            return None;
        }
        desk.offered.take()
    }

    /// Notes that an object was committed; `moved` if it was the one offered last.
    pub(crate) fn committed(&self, moved: bool) {
        let mut desk = self.desk.lock();
        desk.stirred = true;
        desk.is_moving &= !moved;
        self.changed.notify_all();
    }

    /// Notes that the superblock names a checkpoint that condemns these.
    pub(crate) fn announce(&self, condemned: Vec<ObjectSeq>) {
        self.desk.lock().announced = condemned;
        self.changed.notify_all();
    }

    /// Asks for what is wished, and for the deletion of all that is dead then. Returns what
    /// [`Self::wait`] wants.
    pub(crate) fn ask(&self, wish: Wish) -> u64 {
        let mut desk = self.desk.lock();
        desk.wanted = Some(desk.wanted.map_or(wish, |other| Wish {
            target: other.target.max(wish.target),
            now: other.now || wish.now,
            leave_base: other.leave_base || wish.leave_base,
        }));
        desk.taken_back = false;
        desk.asked += 1;
        self.changed.notify_all();
        desk.asked
    }

    /// Leaves off what was asked for, unless it was answered meanwhile. Who asked for the same gets
    /// no more of it either.
    pub(crate) fn take_back(&self, asked: u64) {
        let mut desk = self.desk.lock();
        desk.taken_back |= desk.answered < asked;
        self.changed.notify_all();
    }

    /// Waits for the answer to a request, for at most `time`.
    pub(crate) fn wait(&self, asked: u64, time: Duration) -> Option<Result<()>> {
        let mut desk = self.desk.lock();
        if desk.answered < asked && !desk.stop {
            self.changed.wait_for(&mut desk, time);
        }
        if desk.answered >= asked {
            return desk.outcome.clone();
        }
        desk.stop.then(|| Err(self.core.end_cause()))
    }

    /// Nothing is moved any more, so that the last checkpoint can be the last object.
    pub(crate) fn close(&self) {
        self.desk.lock().closing = true;
        self.changed.notify_all();
    }

    /// Waits until what was announced is deleted, for at most `time`.
    pub(crate) fn wait_deleted(&self, time: Duration) {
        let mut desk = self.desk.lock();
        let goes_on =
            |desk: &mut Desk| !desk.stop && (!desk.announced.is_empty() || desk.is_deleting);
        self.changed.wait_while_for(&mut desk, goes_on, time);
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.desk.lock().stop = true;
        self.changed.notify_all();
    }

    /// How things stand.
    pub(crate) fn report(&self) -> GcReport {
        report(&self.core)
    }

    /// The thread's body.
    pub(crate) fn run(&self) -> Result<()> {
        loop {
            let outcome = match self.next_work() {
                Work::End => return Ok(()),
                Work::Delete(condemned) => self.delete(condemned),
                Work::Clean { target } => self
                    .clean(Wish { target, now: false, leave_base: false })
                    .and_then(|()| self.settle()),
                Work::Settle => self.settle(),
                Work::Asked { wish, asked } => {
                    // That it cannot leave a base is no harm to the volume.
                    let (answer, outcome) = match self.do_all(wish) {
                        Ok(answer) => (answer, Ok(())),
                        Err(error) => (Err(error.clone()), Err(error)),
                    };
                    let mut desk = self.desk.lock();
                    desk.taken_back = false;
                    desk.answered = asked;
                    desk.outcome = Some(answer);
                    self.changed.notify_all();
                    outcome
                }
            };
            match outcome {
                Err(error @ Error::Store(_)) => {
                    log::warn!("volume {:?}: cleaning is put off: {error}", self.core.name());
                    // To be looked at again, also if nothing more is committed.
                    self.desk.lock().stirred = true;
                    self.back_off();
                }
                // The volume ends, or has failed, which was said; or nobody wants it any more.
                Err(Error::Closing(_)) => {}
                other => other?,
            }
        }
    }

    fn next_work(&self) -> Work {
        let mut desk = self.desk.lock();
        loop {
            if desk.stop {
                return Work::End;
            }
            if !desk.announced.is_empty() {
                desk.is_deleting = true;
                return Work::Delete(std::mem::take(&mut desk.announced));
            }
            if let Some(wish) = desk.wanted.take() {
                return Work::Asked { wish, asked: desk.asked };
            }
            let stirred = std::mem::take(&mut desk.stirred);
            let config = &self.core.config;
            let (utilisation, dead, much) = {
                let maps = self.core.maps.read();
                let dead = maps.objects().dead().data_sectors;
                (policy::utilisation(maps.objects()), dead, is_much_dead(maps.objects()))
            };
            let off = config.gc_start_percent == 0;
            if off || desk.closing || self.orders.ended() {
                self.changed.wait(&mut desk);
            } else if stirred && utilisation < config.gc_start_percent {
                return Work::Clean { target: config.gc_stop_percent };
            } else if much {
                return Work::Settle;
            } else if dead == 0 {
                self.changed.wait(&mut desk);
            } else if stirred {
                self.changed.wait_for(&mut desk, QUIET);
            } else {
                return Work::Settle;
            }
        }
    }

    /// Whether to leave off what is being done.
    fn is_over(&self) -> bool {
        let desk = self.desk.lock();
        desk.stop || desk.closing || desk.taken_back || self.orders.ended()
    }

    fn end(&self) -> Error {
        Error::Closing(self.core.name().to_string())
    }

    /// Waits after a failure, also while the volume closes.
    fn back_off(&self) {
        let until = self.core.platform.monotonic() + BACKOFF;
        let mut desk = self.desk.lock();
        while !desk.stop && self.core.platform.monotonic() < until {
            self.changed.wait_for(&mut desk, TICK);
        }
    }

    /// Waits, unless there is to be nothing more to wait for.
    fn pause(&self, time: Duration) {
        let until = self.core.platform.monotonic() + time;
        let mut desk = self.desk.lock();
        while !desk.stop && !desk.closing && !desk.taken_back {
            let left = until.saturating_sub(self.core.platform.monotonic());
            if left.is_zero() {
                break;
            }
            self.changed.wait_for(&mut desk, left.min(TICK));
        }
    }

    /// Moves what is needed out of objects until the utilisation is as wished.
    fn clean(&self, wish: Wish) -> Result<()> {
        let core = &self.core;
        let mut spared: BTreeSet<ObjectSeq> = BTreeSet::new();
        loop {
            if self.is_over() {
                return Err(self.end());
            }
            self.delete_announced()?;
            if is_much_dead(core.maps.read().objects()) {
                self.settle()?;
                self.delete_announced()?;
            }
            if !wish.now {
                self.make_way()?;
            }
            let newest = self.orders.committed_object();
            let limit = core.config.batch_bytes / SECTOR_BYTES;
            let victims = {
                let maps = core.maps.read();
                let spared = |object: ObjectSeq| spared.contains(&object);
                let of_base = if wish.leave_base {
                    policy::of_base(maps.objects(), limit, spared)
                } else {
                    Vec::new()
                };
                if of_base.is_empty() {
                    policy::victims(maps.objects(), wish.target, limit, newest, spared)
                } else {
                    of_base
                }
            };
            if victims.is_empty() {
                return Ok(());
            }
            core.step("gc.begin")?;
            let relocation = {
                // Counted, so that nothing is deleted that is being read here.
                let _reading = core.readers.begin();
                gather::gather(
                    core,
                    &victims,
                    || self.is_over(),
                    |object, error| {
                        // It may be missing because another host has the volume now.
                        let error = deposed::explain(core, newest, error);
                        if core.poison.deposed().is_none() {
                            log::error!("volume {:?}: it is not cleaned: {error}", core.name());
                        }
                        spared.insert(object);
                    },
                )?
            };
            core.poison.check_deposed()?;
            // One round for each victim: what it still holds then is damaged.
            spared.extend(victims.iter().map(|victim| victim.object));
            let Some(relocation) = relocation else { continue };
            core.step("gc.gathered")?;
            let bytes = relocation.data.len() as u64;
            self.hand_over(relocation)?;
            count(&core.health.gc_moved_bytes, bytes);
            if !wish.now
                && let Some(rate) = core.config.gc_bytes_per_s
            {
                self.pause(Rate::new(rate).time_for(bytes));
            }
        }
    }

    /// Waits while writers need the store more.
    fn make_way(&self) -> Result<()> {
        let config = &self.core.config;
        while self.log.backlog().1 >= PRESSED_256THS && !self.is_over() {
            let utilisation = policy::utilisation(self.core.maps.read().objects());
            if utilisation + URGENT_POINTS < config.gc_start_percent {
                break;
            }
            self.delete_announced()?;
            self.pause(TICK);
        }
        Ok(())
    }

    /// Has the sequencer put an object into the stream; returns when it is committed.
    fn hand_over(&self, relocation: Relocation) -> Result<()> {
        {
            let mut desk = self.desk.lock();
            desk.offered = Some(relocation);
            desk.is_moving = true;
        }
        self.log.wake_tail();
        let mut desk = self.desk.lock();
        while desk.is_moving {
            if desk.stop || self.orders.ended() {
                return Err(self.end());
            }
            if desk.closing && desk.offered.take().is_some() {
                desk.is_moving = false;
                return Err(self.end());
            }
            self.changed.wait_for(&mut desk, TICK);
        }
        Ok(())
    }

    /// Has what is dead condemned, if there is any data among it.
    fn settle(&self) -> Result<()> {
        if self.core.maps.read().objects().dead().data_sectors == 0 {
            return Ok(());
        }
        self.checkpoint()
    }

    fn checkpoint(&self) -> Result<()> {
        let asked = self.orders.checkpoint(false);
        self.log.wake_tail();
        while !self.orders.wait_checkpoint(asked, TICK) {
            if self.is_over() {
                return Err(self.end());
            }
        }
        Ok(())
    }

    /// Does all that is wished; the inner result says whether the volume left its base, if it should.
    fn do_all(&self, wish: Wish) -> Result<Result<()>> {
        self.clean(wish)?;
        let left = if wish.leave_base { self.leave_base()? } else { Ok(()) };
        if self.core.config.history.is_on() {
            // What has left the window of history is dead from the next checkpoint on.
            self.checkpoint()?;
        }
        self.settle()?;
        self.delete_announced()?;
        Ok(left)
    }

    /// Has the map leave the base, from which all data was moved.
    fn leave_base(&self) -> Result<Result<()>> {
        let used = policy::of_base(self.core.maps.read().objects(), 1, |_| false);
        if let Some(Victim { object, .. }) = used.first() {
            let detail = "it could not be copied, and the volume needs it";
            return Ok(Err(Error::damaged(self.core.stream.describe(*object), detail)));
        }
        // The newest one stays, and the one that the superblock names: so one is not enough.
        for _ in 0..CHECKPOINTS_TO_LEAVE {
            self.checkpoint()?;
            if !self.core.maps.read().objects().needs_base() {
                return self.wait_for_readers().map(Ok);
            }
        }
        let by = "its map is not out of its base yet; try again".to_owned();
        Ok(Err(Error::InUse { volume: self.core.name().to_string(), by }))
    }

    /// Waits until every read that has begun is over.
    fn wait_for_readers(&self) -> Result<()> {
        let mut is_read = self.core.readers.turn();
        while is_read() {
            let mut desk = self.desk.lock();
            if desk.stop {
                return Err(self.end());
            }
            self.changed.wait_for(&mut desk, TICK);
        }
        Ok(())
    }

    fn delete_announced(&self) -> Result<()> {
        let condemned = {
            let mut desk = self.desk.lock();
            if desk.announced.is_empty() {
                return Ok(());
            }
            desk.is_deleting = true;
            std::mem::take(&mut desk.announced)
        };
        self.delete(condemned)
    }

    /// Deletes what was condemned, once nobody reads it any more.
    fn delete(&self, condemned: Vec<ObjectSeq>) -> Result<()> {
        let outcome = self.try_delete(&condemned);
        let mut desk = self.desk.lock();
        desk.is_deleting = false;
        if outcome.is_err() && desk.announced.is_empty() {
            desk.announced = condemned;
        }
        self.changed.notify_all();
        outcome
    }

    fn try_delete(&self, condemned: &[ObjectSeq]) -> Result<()> {
        let core = &self.core;
        if condemned.is_empty() {
            return Ok(());
        }
        core.poison.check_deposed()?;
        self.wait_for_readers()?;
        for some in condemned.chunks(DELETE_AT_ONCE) {
            if self.desk.lock().stop {
                return Err(self.end());
            }
            core.step("gc.delete")?;
            core.uploads.delete(some)?;
            core.step("gc.deleted")?;
            let (mut objects, mut bytes) = (0, 0);
            let mut maps = core.maps.write();
            for object in some {
                if let Some(usage) = maps.objects_mut().forget(*object) {
                    objects += 1;
                    bytes += usage.stored_bytes;
                }
            }
            drop(maps);
            core.index.forget(some);
            count(&core.health.gc_deleted_objects, objects);
            count(&core.health.gc_deleted_bytes, bytes);
            log::debug!("volume {:?}: {objects} objects deleted, {bytes} bytes", core.name());
        }
        Ok(())
    }
}

/// Whether so much is dead that it should not wait for the next checkpoint.
fn is_much_dead(objects: &ObjectTable) -> bool {
    let dead = objects.dead().stored_bytes;
    let needed = objects.needed().stored_bytes + objects.pinned().stored_bytes;
    dead >= DEAD_BYTES && dead >= (dead + needed) / 3
}

/// How things stand with the space of a volume.
pub(crate) fn report(core: &Core) -> GcReport {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let maps = core.maps.read();
    let (objects, health) = (maps.objects(), &core.health);
    let (needed, pinned) = (objects.needed(), objects.pinned());
    GcReport {
        utilisation_percent: policy::utilisation(maps.objects()),
        objects: maps.objects().iter().len() as u64,
        stored_bytes: needed.stored_bytes + pinned.stored_bytes + objects.dead().stored_bytes,
        data_bytes: needed.data_sectors * SECTOR_BYTES,
        live_bytes: needed.live_sectors * SECTOR_BYTES,
        snapshot_bytes: pinned.stored_bytes,
        base_bytes: objects.of_base().live_sectors * SECTOR_BYTES,
        moved_bytes: load(&health.gc_moved_bytes),
        deleted_objects: load(&health.gc_deleted_objects),
        deleted_bytes: load(&health.gc_deleted_bytes),
    }
}
