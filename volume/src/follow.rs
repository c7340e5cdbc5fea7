//! A volume opened for reading follows the stream of whoever writes it.
//!
//! ```text
//!   a read, stat or open comes, and the view is older than the interval
//!        |
//!   headers of the next few objects  ──>  superblock: deleted?  is the missing number the end?
//!        ^                                  | yes       | none is missing      | no, or far behind
//!        |                                  v           v                      v
//!        |                            the new map,    the other headers,     enter again at the
//!        |                            at once         superblock again       superblock's checkpoint
//!        └── next look                                                         └── superblock again
//! ```
//! * Nobody reads, nothing is asked. A view is never older than the interval when it is read,
//!   as long as the store answers at once; while it does not, the last view stays. One reader
//!   waits for a silent store then, the others a moment, and each failure makes the interval longer.
//! * Every view is a prefix of the writer's history: what is contiguous in the stream. Void objects
//!   are passed over by the same code that recovers.
//! * A log of this host that continues the stream lies on top for as long as the stream does not
//!   move. If it does because a writer on this host goes on with that log, the view stays until the
//!   stream holds all that it shows; in every other case the log does not count any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::{CheckpointRef, Superblock, VolumeState};
use crate::leaf_loader::LeafLoader;
use crate::log::{LogOnDisk, LogParams};
use crate::recover::StreamState;
use crate::superblock_cell::SuperblockCell;
use crate::units::{LogSeq, ObjectSeq};

/// Objects behind which it is quicker to enter at a newer checkpoint than to read their headers.
const JUMP_OBJECTS: u64 = 512;
/// How long a reader waits for another one that looks after the view.
const LOOK_WAIT: Duration = Duration::from_secs(1);
/// Longest time between two looks at a store that does not answer.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked for another view than the one that cannot be read.
const LOOKS: usize = 4;
/// How often a view is planned again when the stream moves on meanwhile.
const ATTEMPTS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Follower {
    interval: Duration,
    /// When the view was looked after last, in microseconds.
    fresh_at: AtomicU64,
    /// How often in a row the store did not answer.
    failures: AtomicU32,
    /// Held while it is.
    at: Mutex<Following>,
}

/// What a view was made of.
#[derive(Debug)]
struct Following {
    /// The stream, with a map of its own; none after an error in the middle of it.
    state: Option<StreamState>,
    log: Option<OnTop>,
    /// The last object that the view contains.
    shown: ObjectSeq,
}

/// This host's log on top of the stream.
#[derive(Debug)]
pub(crate) struct OnTop {
    pub(crate) params: LogParams,
    /// The newest record shown.
    pub(crate) through: LogSeq,
}

impl Follower {
    /// Follows from `state` on, as read at the time `now`.
    pub(crate) fn new(
        state: StreamState,
        log: Option<OnTop>,
        interval: Duration,
        now: Duration,
    ) -> Self {
        Self {
            interval,
            fresh_at: AtomicU64::new(now.as_micros() as u64),
            failures: AtomicU32::new(0),
            at: Mutex::new(Following { shown: state.committed(), state: Some(state), log }),
        }
    }

    /// The last object that the view contains, as far as that is known at once.
    pub(crate) fn shown(&self) -> ObjectSeq {
        self.at.try_lock().map_or(ObjectSeq::ZERO, |at| at.shown)
    }

    /// Whether the view is older than it may be.
    pub(crate) fn is_due(&self, core: &Core) -> bool {
        let age = self.now(core).saturating_sub(self.fresh_at.load(Ordering::Acquire));
        u128::from(age) >= self.pause().as_micros()
    }

    /// The interval, longer while the store does not answer.
    fn pause(&self) -> Duration {
        match self.failures.load(Ordering::Relaxed) {
            0 => self.interval,
            n => self.interval.saturating_mul(1 << n.min(6)).min(PAUSE_MAX.max(self.interval)),
        }
    }

    fn now(&self, core: &Core) -> u64 {
        core.platform.monotonic().as_micros() as u64
    }

    /// Looks after the view if it is due; of several callers one does, and the others wait for it,
    /// but not for long.
    ///
    /// # Errors
    /// [`Error::Deleted`], or the stream is damaged. A store that does not answer is no error, nor a
    /// writer that is too fast: the view stays as it is.
    pub(crate) fn refresh(&self, core: &Core) -> Result<()> {
        let began = self.now(core);
        let Some(mut at) = self.at.try_lock_for(LOOK_WAIT) else { return Ok(()) };
        // Somebody else did while this one waited.
        if self.fresh_at.load(Ordering::Acquire) > began || !self.is_due(core) {
            return Ok(());
        }
        self.look(core, &mut at, false)
    }

    /// Looks after the view though it is not due: what it points at could not be read.
    ///
    /// # Errors
    /// As [`Self::refresh`]; [`Error::Outrun`].
    pub(crate) fn refresh_now(&self, core: &Core) -> Result<()> {
        self.look(core, &mut self.at.lock(), true)
    }

    fn look(&self, core: &Core, at: &mut Following, give_up_log: bool) -> Result<()> {
        let now = self.now(core);
        let outcome = advance(core, at, give_up_log);
        match outcome {
            Ok(()) => {
                core.health.store_answered(core.platform.unix_millis(), &core.name());
                self.failures.store(0, Ordering::Relaxed);
                self.fresh_at.store(now, Ordering::Release);
                Ok(())
            }
            Err(Error::Store(e)) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                core.health.store_failed(core.platform.unix_millis(), &core.name(), 0, &e);
                // Not before the interval is over again: attempts may take long.
                self.fresh_at.store(self.now(core), Ordering::Release);
                Ok(())
            }
            Err(error @ Error::Outrun(_)) if !give_up_log => {
                log::debug!("the view stays as it is: {error}");
                self.fresh_at.store(self.now(core), Ordering::Release);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Takes in what the stream has gained, and shows it.
fn advance(core: &Core, at: &mut Following, give_up_log: bool) -> Result<()> {
    for look in 1..=LOOKS {
        let newest = read_on(core, &mut at.state, at.shown)?;
        // What could not be read may have been collected since the superblock was published.
        if newest > at.shown || !give_up_log || look == LOOKS {
            break;
        }
    }
    show(core, at, give_up_log);
    Ok(())
}

/// Reads the stream to its end, or as far as a writer at full speed lets it. Returns the last object.
///
/// `shown` is what the view contains already. `kept` stays if only the superblock cannot be read, and is
/// gone after an error in the middle of the stream.
fn read_on(core: &Core, kept: &mut Option<StreamState>, shown: ObjectSeq) -> Result<ObjectSeq> {
    // The checkpoint that could not be entered at, and why.
    let mut failed: Option<(Option<CheckpointRef>, Error)> = None;
    let mut few = true;
    for _ in 0..ATTEMPTS {
        let read = match kept.take() {
            Some(state) => roll(core, state, few),
            None => {
                let superblock = present(core)?;
                let checkpoint = superblock.checkpoint;
                if let Some((_, damage)) = failed.take_if(|(at, _)| *at == checkpoint) {
                    return Err(damage);
                }
                enter(core, &superblock, shown).inspect_err(|error| {
                    failed = Some((checkpoint, error.clone()));
                })
            }
        };
        let state = match read {
            Ok(state) => kept.insert(state),
            // What is missing may have been collected after the superblock was read.
            Err(Error::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        // Only a superblock that is read after an object was missing tells whether that is the end.
        let after = present(core)?;
        let covered = after.checkpoint.map_or(0, |checkpoint| checkpoint.covers.get());
        let (newest, at_end) = (state.committed(), state.at_end);
        let is_far = !at_end && covered >= state.next.get() + JUMP_OBJECTS;
        let is_hole = at_end && (state.next <= after.committed || newest < shown);
        if is_far || is_hole {
            // Collected, or lost: entering at the checkpoint tells.
            *kept = None;
        } else if at_end || !few {
            return Ok(newest);
        }
        few = false;
    }
    Err(Error::Outrun(core.name().to_string()))
}

/// The superblock of a volume that is still there.
fn present(core: &Core) -> Result<Superblock> {
    let found = SuperblockCell::open(core.uploads.store(), core.uuid)?.map(|cell| cell.get());
    found
        .filter(|found| found.state == VolumeState::Live)
        .ok_or_else(|| Error::Deleted(core.name().to_string()))
}

/// Takes in the next few objects, or all of which a listing tells.
fn roll(core: &Core, mut state: StreamState, few: bool) -> Result<StreamState> {
    if few {
        state.advance_a_little(&core.uploads)?
    } else {
        state.advance(&core.uploads)?
    }
    Ok(state)
}

/// Enters at the superblock's checkpoint. An end before what is `shown` is a hole.
fn enter(core: &Core, superblock: &Superblock, shown: ObjectSeq) -> Result<StreamState> {
    let loader = Arc::new(LeafLoader::new(core.uploads.clone(), Arc::clone(&core.leaves)));
    StreamState::read(&core.uploads, superblock, shown, &loader)
}

/// Shows what was read, unless the log on top goes on and shows more.
fn show(core: &Core, at: &mut Following, give_up_log: bool) {
    let Some(state) = &mut at.state else { return };
    state.maps.objects_mut().forget_dead();
    let shows_more = |log: &OnTop| state.log_seq < log.through && goes_on(log, state);
    let is_news = state.committed() > at.shown && !at.log.as_ref().is_some_and(shows_more);
    if is_news || give_up_log {
        at.log = None;
        at.shown = put_in_place(core, state);
    }
    // What is read is what is shown.
    state.maps.evict(u64::MAX);
}

/// Shows the new map, with the leaves that readers have fetched for the one before. Returns the last
/// object that it contains.
fn put_in_place(core: &Core, state: &StreamState) -> ObjectSeq {
    let mut new = state.maps.committed_only();
    let mut shown = core.maps.write();
    new.adopt_leaves(&shown);
    *shown = new;
    core.memory.settle(&mut shown);
    state.committed()
}

/// Whether the stream is continued from the log that lies on top.
fn goes_on(on_top: &OnTop, state: &StreamState) -> bool {
    let log = LogOnDisk::open(&on_top.params, false).ok().flatten();
    log.zip(state.newest_fence()).is_some_and(|(log, newest)| log.owns(newest.id.nonce))
}
