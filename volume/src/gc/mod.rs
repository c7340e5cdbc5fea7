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
mod work;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::batch::Orders;
use crate::core::Core;
use crate::error::Result;
use crate::log::WriteLog;
use crate::units::{ObjectSeq, SECTOR_BYTES};

pub(crate) use gather::Relocation;
pub(crate) use readers::Readers;

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
