//! Giving a base to a volume on which nothing was ever written, so that it can share the base's data.
//!
//! ```text
//!   snapshot in the base ---> the volume's superblock names the base ---> the volume in the list of clones
//!     ---> its former objects are deleted
//! ```
//! The volume stays empty: it has no checkpoint then, and goes on behind the base's numbers. What it had
//! was a fence or two, and its size. Whoever opens it for writing looks at the superblock again after
//! winning the stream; so an opening is either seen here, and all is taken back, or it sees this.
//!
//! Its superblock comes first: an entry in the list whose volume names no base would be dropped. Who
//! dies in between leaves a volume that names a base which does not keep anything for it. That does no
//! harm: it is empty, and before the first object is shared the list is looked at. Or it leaves objects
//! of some hundred bytes under numbers that are the base's now, which a check deletes.

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{Base, Snapshot, Superblock, VolumeState};
use crate::log::LogOnDisk;
use crate::name::VolumeName;
use crate::open::discard;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::units::{ObjectSeq, SECTOR_BYTES};
use crate::volume::{Role, Volume};

use super::Moment;

impl Engine {
    /// Makes the volume `blank`, which is closed, a clone of what `source` shows now, but without its
    /// content: what is copied from there can be shared from now on. False if something was ever written
    /// on it.
    ///
    /// # Errors
    /// There is no such volume, it is open or being opened, or the store fails.
    pub fn graft(&self, blank: &VolumeName, source: &Volume) -> Result<bool> {
        self.check_may_write(blank)?;
        let of = VolumeName::new(&source.name())?;
        let kept = self.keep_what_is_shown(&of, source)?;
        let _alone = self.transition(blank)?;
        let base = self.cell(&of)?;
        let grafted = self.graft_onto(blank, &of, &base, &kept);
        if !matches!(grafted, Ok(true)) {
            self.undo_clone(&of, &base, &kept);
        }
        grafted
    }

    fn keep_what_is_shown(&self, of: &VolumeName, source: &Volume) -> Result<Snapshot> {
        let uuid = self.fresh_uuid();
        match &source.role {
            Role::Writes(_) => {
                let text = format!("clone-{}", uuid.simple());
                source.keep_this_moment(&VolumeName::new(&text)?, true)
            }
            Role::Follows(view) => self.keep_moment(of, Moment::Object(view.through()), uuid),
            Role::Stands { snapshot } => {
                let all = self.cell(of)?.get().snapshots;
                let found = all.into_iter().find(|kept| kept.id == *snapshot);
                found.ok_or_else(|| Error::Deleted(of.to_string()))
            }
        }
    }

    fn graft_onto(
        &self,
        blank: &VolumeName,
        of: &VolumeName,
        base: &SuperblockCell,
        kept: &Snapshot,
    ) -> Result<bool> {
        let cell = self.catalog.find(blank)?;
        let before = cell.get();
        self.check_closed(blank, before.volume)?;
        let Some(end) = self.blank_end(blank)? else { return Ok(false) };
        // What its writer before may have been about to create is below its new numbers too.
        let through = kept.through().max(ObjectSeq::new(end.last.get() + end.window.max(1)));
        let theirs = base.get();
        let mut bases = theirs.bases;
        bases.retain(|farther| farther.through < kept.through());
        bases.push(Base { volume: theirs.volume, snapshot: kept.id, at: kept.at, through });
        self.step("graft.begin")?;
        let is_named = cell.try_update(|now| {
            if !is_same(now, &before) {
                return Ok(false);
            }
            now.bases.clone_from(&bases);
            (now.checkpoint, now.previous_checkpoint, now.history) = (None, None, None);
            (now.committed, now.size_bytes) = (through, end.bytes);
            // Who is at it without being seen here is deposed.
            now.epoch = now.epoch.next();
            Ok(true)
        })?;
        if !is_named {
            return Ok(false);
        }
        self.step("graft.named")?;
        let own = Stream::new(Arc::clone(self.catalog.store()), before.volume);
        let outcome = match own.exists(end.last.next()) {
            Ok(false) => self.pin_for_clone(of, base, kept, before.volume).map(|()| true),
            // Somebody has taken it over.
            taken => taken.map(|_| false),
        };
        if !matches!(outcome, Ok(true)) {
            cell.try_update(|now| {
                let is_ours = now.bases == bases && now.checkpoint.is_none();
                if is_ours {
                    let (epoch, generation) = (now.epoch, now.generation);
                    *now = Superblock { epoch, generation, ..before.clone() };
                }
                Ok(is_ours)
            })?;
            return outcome;
        }
        let former: Vec<_> = (1..=end.last.get()).map(ObjectSeq::new).collect();
        if let Err(error) = own.delete(&former) {
            log::warn!("{blank}: what it had before it became a clone stays: {error}");
        }
        self.step("graft.done")?;
        Ok(true)
    }

    /// Where the stream of a volume ends on which nothing was ever written; `None` of any other.
    fn blank_end(&self, name: &VolumeName) -> Result<Option<End>> {
        let opening = self.opening(name, self.catalog.find(name)?);
        let params = opening.log_params();
        let log = LogOnDisk::open(&params, false)?;
        if log.as_ref().is_some_and(|log| !log.header().clean) {
            return Ok(None);
        }
        let state = opening.read_stream(log.as_ref())?;
        let objects = state.maps.objects();
        if !state.clean || objects.iter().any(|(_, usage)| usage.data_sectors > 0) {
            return Ok(None);
        }
        if let Some(log) = log {
            // It goes on with other numbers. All that it had is in the store.
            discard(&params, &log)?;
        }
        let (last, bytes) = (state.committed(), state.maps.sectors() * SECTOR_BYTES);
        Ok(Some(End { last, window: state.window, bytes }))
    }
}

/// Where the stream of a blank volume ends.
struct End {
    last: ObjectSeq,
    window: u64,
    bytes: u64,
}

/// Whether a volume without snapshots and base is as it was before.
fn is_same(now: &Superblock, before: &Superblock) -> bool {
    now.state == VolumeState::Live
        && (now.epoch, now.checkpoint) == (before.epoch, before.checkpoint)
        && now.bases.is_empty()
        && now.snapshots.is_empty()
}

impl Volume {
    /// Whether nothing was ever written on it, as far as that is known here.
    pub fn is_blank(&self) -> bool {
        let superblock = self.core.superblock.get();
        let maps = self.core.maps.read();
        superblock.bases.is_empty()
            && superblock.snapshots.is_empty()
            && maps.dirty().log_sectors() == 0
            && maps.objects().iter().all(|(_, usage)| usage.data_sectors == 0)
    }
}
