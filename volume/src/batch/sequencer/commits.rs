//! What came of uploads: commits, in the order of the numbers.

use lsvd_store::StoreError;

use super::{LOOK, Sequencer};
use crate::batch::builder::Batch;
use crate::batch::uploader::{Outcome, Uploaders, may_pass};
use crate::error::{Error, Result};
use crate::format::{DataHeader, LeafRef, SharedHeader};
use crate::map::{Absent, CommitExtent, Maps, Stopped};
use crate::units::Extent;

/// Extents committed per hold of the maps' lock.
const COMMIT_SLICE: usize = 64;

/// Leaves that a commit fetches together.
const FETCH_AT_ONCE: usize = 32;

impl Sequencer {
    pub(super) fn take_outcomes(&mut self) -> Result<()> {
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
    pub(super) fn commit_ready(&mut self, uploaders: &Uploaders) -> Result<()> {
        let mut moved = false;
        let before = self.at.committed;
        while let Some(object) = self.in_flight.first_entry() {
            if object.get().done.is_none() {
                break;
            }
            let (seq, object) = object.remove_entry();
            let mut shared = None;
            match object.done {
                Some(Outcome::Data { header, batch, bytes }) => {
                    let is_moved = batch.moved_from.is_some();
                    self.core.step(if is_moved { "gc.commit" } else { "batch.commit" })?;
                    self.apply(&header, &batch, bytes)?;
                    self.committed_sectors = header.common().stamp.size_sectors;
                    self.at.since_checkpoint += 1;
                    moved |= is_moved;
                }
                Some(Outcome::Shared { header, answer, bytes }) => {
                    self.core.step("share.commit")?;
                    self.apply_shared(&header, bytes)?;
                    self.at.since_checkpoint += 1;
                    shared = Some((answer, header));
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
            if let Some((answer, header)) = shared {
                // Not before: a snapshot that is made next must contain it. Who asked may have ceased
                // to wait.
                self.orders.end_share();
                let _ = answer.send(header.extents().to_vec());
            }
        }
        if self.at.committed > before {
            self.cleaner.committed(moved);
        }
        Ok(())
    }

    /// Moves an object's extents from the dirty to the clean map.
    pub(super) fn apply(&self, header: &DataHeader, batch: &Batch, bytes: u64) -> Result<()> {
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

    /// Points the clean map at what other objects hold. Nothing was condemned since that was seen to be
    /// there, for no checkpoint is made meanwhile.
    fn apply_shared(&self, header: &SharedHeader, bytes: u64) -> Result<()> {
        let core = &self.core;
        let _reading = core.readers.begin();
        let seq = header.stamp().seq;
        {
            let mut maps = core.maps.write();
            let objects = maps.objects_mut();
            objects.add(seq, 0, bytes);
            let gone = header.holders().iter().find(|holder| !objects.hold(holder));
            if let Some(gone) = gone {
                let detail = "it is another one than was about to be shared";
                return Err(Error::damaged(core.stream.describe(gone.object), detail));
            }
        }
        self.commit(header.extents(), |e| e.extent, |maps, slice| maps.commit_shared(seq, slice))?;
        let mut maps = core.maps.write();
        maps.objects_mut().settle(seq);
        core.memory.settle(&mut maps);
        Ok(())
    }

    /// Commits extents, a slice per hold of the maps' lock, and fetches what leaves they need.
    pub(super) fn commit<T>(
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
    pub(super) fn fetch(&self, leaves: Vec<LeafRef>) -> Result<()> {
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
    pub(super) fn outlast(&self, error: &StoreError) -> Result<()> {
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
}
