//! Cutting a clone off from its base.
//!
//! ```text
//!   what it needs of the base is moved into objects of its own
//!     ---> checkpoints, until the one that is named needs nothing of the base, and no read is under way there
//!     ---> its superblock names no base any more ---> the base's list of clones
//! ```
//! Who dies in between leaves a clone that is one still, or an entry in the base's list that a deletion
//! finds to be of no use.

use std::time::Duration;

use super::release_base;
use crate::checkpoint::{check_owner, read_checkpoint};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{Base, CheckpointRef};
use crate::gc::{GcReport, Wish};
use crate::name::VolumeName;
use crate::superblock_cell::SuperblockCell;
use crate::volume::Volume;

/// How often it is looked whether what is being shared is committed.
const TICK: Duration = Duration::from_millis(100);

/// How often it is tried again because another checkpoint was named meanwhile.
const ATTEMPTS: usize = 8;

impl Engine {
    /// Copies into a clone what it needs of its base, so that the base can be deleted. `progress` is
    /// told how things stand, and may break it off by returning false: what was copied then need not be
    /// copied again. Returns whether it was finished.
    ///
    /// # Errors
    /// The volume is no clone, or has snapshots, which need the base too; or the store fails.
    pub fn flatten(
        &self,
        name: &VolumeName,
        progress: &mut dyn FnMut(GcReport) -> bool,
    ) -> Result<bool> {
        self.check_may_write(name)?;
        let volume = self.open_writer(name)?;
        let cell = self.cell(name)?;
        let before = cell.get();
        let tie = before.bases.last().filter(|base| !base.is_cut());
        let base = *tie.ok_or_else(|| Error::NoClone(name.to_string()))?;
        self.check_no_snapshots(name, &cell)?;
        // Nothing of the base comes to be shared any more.
        let writer = volume.writer()?;
        let _alone = loop {
            if let Some(alone) = writer.share_lock.try_lock_for(TICK)
                && writer.orders.wait_shared(TICK)
            {
                break alone;
            }
            if writer.orders.ended() {
                return Err(volume.core.end_cause());
            }
            if !progress(writer.cleaner.report()) {
                return Ok(false);
            }
        };
        let wish = Wish { target: 0, now: true, leave_base: true };
        for _ in 0..ATTEMPTS {
            let mut is_left_off = false;
            volume.wish(wish, &mut |report| {
                is_left_off = !progress(report);
                !is_left_off
            })?;
            if is_left_off {
                return Ok(false);
            }
            self.step("flatten.copied")?;
            if cut(&volume, &cell, base)? {
                self.step("flatten.cut")?;
                release_base(self.catalog.store(), &before)?;
                return Ok(true);
            }
        }
        let by = "checkpoints come faster than it can be cut off; try again".to_owned();
        Err(Error::InUse { volume: name.to_string(), by })
    }
}

/// Names no base in the superblock any more. False if the checkpoint that is named needs it still, or
/// another one was named meanwhile.
fn cut(volume: &Volume, cell: &SuperblockCell, base: Base) -> Result<bool> {
    let Some(named) = cell.get().checkpoint else { return Ok(false) };
    if needs_base(volume, named, base)? {
        return Ok(false);
    }
    cell.try_update(|superblock| {
        check_owner(superblock, volume.core.epoch, named)?;
        if superblock.checkpoint != Some(named) {
            return Ok(false);
        }
        if !superblock.snapshots.is_empty() {
            let by = "it has a new snapshot, which needs its base; delete that first".to_owned();
            return Err(Error::InUse { volume: volume.name(), by });
        }
        superblock.bases = vec![Base::cut(base.through)];
        // What came before needs the base.
        superblock.history = superblock.history.map(|_| named.covers);
        Ok(true)
    })
}

/// Whether a checkpoint has a leaf in the base, or data that its map points at.
fn needs_base(volume: &Volume, checkpoint: CheckpointRef, base: Base) -> Result<bool> {
    if checkpoint.seq <= base.through {
        return Ok(true);
    }
    let header = read_checkpoint(&volume.core.stream, checkpoint.seq)?;
    let has_leaf = header.leaves.iter().any(|leaf| leaf.object <= base.through);
    Ok(has_leaf || header.objects.iter().any(|object| object.seq <= base.through))
}
