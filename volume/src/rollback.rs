//! Making a volume what it was when a snapshot was made.
//!
//! The opener that has won the stream puts a checkpoint behind its fence whose root is the snapshot's,
//! and which says that the map before it does not count. From then on everybody who passes it, by
//! roll-forward or as a follower, goes on from there. Nothing is copied: what the snapshot has kept is
//! needed by the head again, and what was written since is dead.
//!
//! Until that checkpoint is in the stream nothing has happened; afterwards it has, whether or not the
//! superblock names it already.

use std::io::IoSlice;

use crate::checkpoint::{Facts, Prepared, check_owner, name_checkpoint};
use crate::core::step_of;
use crate::error::{Error, Result};
use crate::format::{CheckpointRef, ShortText, Snapshot, Stamp, Superblock};
use crate::leaf_loader::LeafLoader;
use crate::platform::Platform;
use crate::recover::{StreamState, pins};
use crate::stream::{Created, Stream};
use crate::superblock_cell::SuperblockCell;

/// What it takes to roll a volume back.
pub(crate) struct Rollback<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) loader: &'a std::sync::Arc<LeafLoader>,
    pub(crate) superblock: &'a SuperblockCell,
    pub(crate) platform: &'a dyn Platform,
    pub(crate) snapshot: &'a Snapshot,
}

impl Rollback<'_> {
    /// Rolls `state` back, whose stream was won and ends at `stamp`, the next number to be created.
    pub(crate) fn carry_out(&self, state: &mut StreamState, stamp: Stamp) -> Result<()> {
        let mut then = StreamState::at_snapshot(self.stream, self.snapshot, self.loader)?;
        let covers = state.committed();
        let sectors = then.maps.sectors();
        let stamp = Stamp { size_sectors: sectors, ..stamp };
        let mut objects = state.maps.objects().clone();
        let fences = state.fences.clone();
        let facts = Facts { stamp, clean: true, covers, sectors, fences: &fences };
        let mut lost = None;
        let changed = then.maps.clean().changed();
        let prepared = then.root.prepare(&facts, true, changed, |held| {
            let needs = |object| held.contains_key(&object);
            lost = objects.roll_back(then.maps.objects(), needs, covers).err();
            objects.records(covers)
        })?;
        if let Some(lost) = lost {
            let detail = "the snapshot needs it, and it is gone";
            return Err(Error::damaged(self.stream.describe(lost), detail));
        }
        let Prepared { head, body, root, .. } = prepared;
        step_of(self.platform, "rollback.put")?;
        match self.stream.create(&stamp, &[IoSlice::new(&head), IoSlice::new(&body)])? {
            Created::Ours => {}
            Created::Theirs(_) | Created::Gone => {
                let volume = self.superblock.get().name.as_str().to_owned();
                let by = "a host that opened it meanwhile".to_owned();
                return Err(Error::Fenced { volume, by });
            }
        }
        step_of(self.platform, "rollback.created")?;
        let bytes = (head.len() + body.len()) as u64;
        objects.add(stamp.seq, 0, bytes);
        then.maps.note_checkpoint(covers, root.leaves());
        state.maps = then.maps.with_objects(objects);
        state.root = root;
        state.next = stamp.seq.next();
        state.rolled = 0;
        state.clean = true;
        self.publish(state, stamp, CheckpointRef { seq: stamp.seq, covers })
    }

    fn publish(
        &self,
        state: &mut StreamState,
        stamp: Stamp,
        checkpoint: CheckpointRef,
    ) -> Result<()> {
        let host = ShortText::truncated(&self.platform.host_name());
        self.superblock.update(|superblock: &mut Superblock| {
            check_owner(superblock, stamp.epoch, checkpoint)?;
            name_checkpoint(superblock, &stamp, checkpoint, &host);
            Ok(())
        })?;
        step_of(self.platform, "rollback.published")?;
        state.entered = Some(checkpoint);
        state.maps.objects_mut().set_pins(pins(&self.superblock.get()));
        Ok(())
    }
}
