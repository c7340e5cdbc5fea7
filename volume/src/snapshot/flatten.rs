//! Cutting a clone off from its base.
//!
//! ```text
//!   what it needs of the base is moved into objects of its own
//!     ---> checkpoints, until none of the map is in the base either, and no read is under way there
//!     ---> its superblock names no base any more ---> the base's list of clones
//! ```
//! Who dies in between leaves a clone that is one still, or an entry in the base's list that a deletion
//! finds to be of no use.

use super::clone::drop_clone;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{Base, VolumeState};
use crate::gc::{GcReport, Wish};
use crate::name::VolumeName;
use crate::superblock_cell::SuperblockCell;
use crate::volume::Volume;

impl Engine {
    /// Copies into a clone what it needs of its base, so that the base can be deleted. `progress` is told how things
    /// stand, and may break it off by returning false: what was copied then need not be copied again.
    /// Returns whether it was finished.
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
        let tie = cell.get().bases.last().copied().filter(|base| !base.is_cut());
        let base = tie.ok_or_else(|| Error::NoClone(name.to_string()))?;
        self.check_no_snapshots(name, &cell)?;
        let mut is_left_off = false;
        let wish = Wish { target: 0, now: true, apart: true };
        volume.wish(wish, &mut |report| {
            is_left_off = !progress(report);
            !is_left_off
        })?;
        if is_left_off {
            return Ok(false);
        }
        self.step("flatten.copied")?;
        cut(&volume, &cell, base)?;
        self.step("flatten.cut")?;
        if let Some(of) = SuperblockCell::open(self.catalog.store(), base.volume)? {
            match drop_clone(&of, base.snapshot, volume.uuid()) {
                Ok(()) | Err(Error::Deleted(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Names no base in the superblock any more.
fn cut(volume: &Volume, cell: &SuperblockCell, base: Base) -> Result<()> {
    cell.update(|superblock| {
        let name = || volume.name();
        if superblock.state == VolumeState::Deleting {
            return Err(Error::Deleted(name()));
        }
        if superblock.epoch > volume.core.epoch {
            let by = format!("host {:?}", superblock.last_host.as_str());
            return Err(Error::Fenced { volume: name(), by });
        }
        if !superblock.snapshots.is_empty() {
            let by = "it has a new snapshot, which needs its base; delete that first".to_owned();
            return Err(Error::InUse { volume: name(), by });
        }
        superblock.bases = vec![Base::cut(base.through)];
        Ok(())
    })
}
