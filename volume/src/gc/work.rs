//! What the thread `lsvd-gc` does: it chooses, moves, has condemned and deletes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::policy::{self, Victim};
use super::{Cleaner, Relocation, Wish, gather};
use crate::deposed;
use crate::error::{Error, Result};
use crate::health::count;
use crate::map::ObjectTable;
use crate::rate::Rate;
use crate::units::{ObjectSeq, SECTOR_BYTES};

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
        // Who asked would wait for ever behind a busy writer.
        let asked = wish.now.then(|| self.orders.committed_object());
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
                    policy::victims(
                        maps.objects(),
                        wish.target,
                        limit,
                        asked.unwrap_or(newest),
                        spared,
                    )
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
