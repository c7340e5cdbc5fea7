//! Clones: volumes whose history begins with a snapshot of another one.
//!
//! A clone's stream goes on with the numbers of its base's, so everything that points into the base
//! is good as it is: nothing is copied, and cached frames are shared. Steps, in this order:
//!
//! ```text
//!   snapshot in the base ---> the clone in its list of clones ---> the clone's superblock ---> its name
//! ```
//! Who dies in between leaves an entry in the list that no superblock belongs to. Before such an entry
//! is dropped, an empty object takes the place of the superblock, so that whoever is still at making it
//! fails.

use std::io::IoSlice;
use std::sync::Arc;

use lsvd_store::{ObjectStore, StoreError, parallel};
use uuid::Uuid;

use super::kept;
use crate::check::is_named;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{Base, FileAttrs, ShortText, Snapshot, Superblock, VolumeState};
use crate::info::VolumeInfo;
use crate::keys;
use crate::name::VolumeName;
use crate::superblock_cell::SuperblockCell;
use crate::units::Epoch;

impl Engine {
    /// Makes a volume that begins as the snapshot of another one; without a snapshot as that volume
    /// is now, which is opened for writing here.
    ///
    /// # Errors
    /// There is no such volume or snapshot, the new name is taken, or the store fails.
    pub fn clone_volume(
        &self,
        name: &VolumeName,
        snapshot: Option<&VolumeName>,
        new: &VolumeName,
        attrs: FileAttrs,
    ) -> Result<VolumeInfo> {
        self.check_may_write(name)?;
        self.check_unused(new)?;
        let uuid = self.fresh_uuid();
        let found = match snapshot {
            Some(snapshot) => self.snapshot(name, snapshot)?,
            None => {
                let open = self.open_writer(name)?;
                let text = format!("clone-{}", uuid.simple());
                open.keep_this_moment(&VolumeName::new(&text)?, true)?
            }
        };
        self.clone_at(name, &found, new, uuid, attrs)
    }

    pub(super) fn check_unused(&self, new: &VolumeName) -> Result<()> {
        match self.catalog.find(new) {
            Err(Error::NoSuchVolume(_)) => Ok(()),
            found => found.and(Err(Error::VolumeExists(new.to_string()))),
        }
    }

    /// Makes a volume that begins with `found`, a snapshot in the superblock of `name`.
    pub(super) fn clone_at(
        &self,
        name: &VolumeName,
        found: &Snapshot,
        new: &VolumeName,
        uuid: Uuid,
        attrs: FileAttrs,
    ) -> Result<VolumeInfo> {
        let _alone = self.transition(new)?;
        let cell = self.cell(name)?;
        let made = self.make_clone(name, &cell, found, new, uuid, attrs);
        if made.is_err() {
            // What cannot be undone now is an orphan, which later deletions find.
            let undone = self.drop_orphans(&cell, found).and_then(|()| drop_unused(&cell));
            if let Err(left) = undone {
                log::warn!("{name}: an entry for a clone that was not made stays: {left}");
            }
        }
        made
    }

    fn make_clone(
        &self,
        name: &VolumeName,
        cell: &SuperblockCell,
        found: &Snapshot,
        new: &VolumeName,
        uuid: Uuid,
        attrs: FileAttrs,
    ) -> Result<VolumeInfo> {
        self.step("clone.pin")?;
        cell.update(|superblock| {
            if superblock.state == VolumeState::Deleting {
                return Err(Error::Deleted(name.to_string()));
            }
            let mut all = superblock.snapshots.iter_mut();
            let kept =
                all.find(|kept| kept.id == found.id).ok_or_else(|| Error::NoSuchSnapshot {
                    volume: name.to_string(),
                    snapshot: found.name.as_str().to_owned(),
                })?;
            if !kept.clones.contains(&uuid) {
                kept.clones.push(uuid);
            }
            Ok(())
        })?;
        self.step("clone.pinned")?;
        let base = cell.get();
        let mut bases = base.bases.clone();
        let (at, through) = (found.at, found.through());
        // Of a clone that has written nothing yet, the snapshot lies in its base.
        bases.retain(|farther| farther.through < through);
        bases.push(Base { volume: base.volume, snapshot: found.id, at, through });
        let superblock = Superblock {
            volume: uuid,
            name: ShortText::truncated(new.as_str()),
            generation: 1,
            state: VolumeState::Live,
            size_bytes: found.size_bytes,
            epoch: Epoch::ZERO,
            committed: through,
            checkpoint: Some(found.checkpoint),
            previous_checkpoint: None,
            options: base.options,
            attrs,
            last_host: ShortText::truncated(&self.host_name()),
            snapshots: Vec::new(),
            bases,
            history: None,
            unknown: Vec::new(),
        };
        self.make(superblock, new).map(|made| self.describe(&made))
    }

    /// Drops clones of a snapshot that were never made, or are gone.
    pub(super) fn drop_orphans(&self, cell: &SuperblockCell, found: &Snapshot) -> Result<()> {
        let now = cell.get();
        let listed = now.snapshots.iter().find(|kept| kept.id == found.id);
        for clone in listed.map(|kept| kept.clones.clone()).unwrap_or_default() {
            self.step("orphan.look")?;
            if !is_needed(self.catalog.store(), cell, found.id, clone)? {
                self.step("orphan.fenced")?;
                drop_clone(cell, found.id, clone)?;
                self.step("orphan.dropped")?;
            }
        }
        Ok(())
    }

    /// Fails if a volume has snapshots: they would go with it.
    pub(crate) fn check_no_snapshots(
        &self,
        name: &VolumeName,
        cell: &SuperblockCell,
    ) -> Result<()> {
        for snapshot in cell.get().snapshots {
            self.drop_orphans(cell, &snapshot)?;
        }
        drop_unused(cell)?;
        let left = cell.get().snapshots;
        let clones: Vec<_> = left.iter().flat_map(|snapshot| snapshot.clones.clone()).collect();
        let names: Vec<_> = left.iter().map(|snapshot| snapshot.name.to_string()).collect();
        let by = match &*names {
            [] => return Ok(()),
            _ if !clones.is_empty() => self.describe_clones(&clones, "its snapshots")?,
            [one] => format!("its snapshot {one:?} would go with it; delete that first"),
            all => format!("its snapshots {} would go with it; delete those first", listed(all)),
        };
        Err(Error::InUse { volume: name.to_string(), by })
    }

    /// Fails if a snapshot has clones.
    pub(super) fn check_no_clones(&self, name: &VolumeName, found: &Snapshot) -> Result<()> {
        if found.clones.is_empty() {
            return Ok(());
        }
        let holders = self.describe_clones(&found.clones, "it")?;
        let by = match found.for_clones {
            true => format!("it was made for clones and goes with the last; {holders}"),
            false => holders,
        };
        Err(kept(name, &VolumeName::new(found.name.as_str())?, by))
    }

    /// Which clones need `what`, and what can be done about it.
    fn describe_clones(&self, clones: &[Uuid], what: &str) -> Result<String> {
        let found = parallel::map(clones, |clone| self.name_of_clone(*clone))?;
        let (made, unfinished): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, made)| *made);
        let names =
            |clones: Vec<(String, bool)>| clones.into_iter().map(|(name, _)| name).collect();
        let (made, unfinished): (Vec<_>, Vec<_>) = (names(made), names(unfinished));
        let mut parts = Vec::new();
        match &*made {
            [] => {}
            [one] => {
                parts.push(format!("clone {one:?} needs {what}; delete or flatten that first"))
            }
            all => parts
                .push(format!("clones {} need {what}; delete or flatten those first", listed(all))),
        }
        if !unfinished.is_empty() {
            parts.push(format!(
                "the making of clone {} did not come to its end, or is under way: `lsvd-fuse check --repair` \
                 gives it up after an hour",
                listed(&unfinished)
            ));
        }
        Ok(parts.join("; "))
    }

    /// What a clone is called, and whether that name leads to it.
    fn name_of_clone(&self, clone: Uuid) -> Result<(String, bool)> {
        match SuperblockCell::open(self.catalog.store(), clone) {
            Ok(Some(cell)) => Ok((cell.get().name.to_string(), is_named(&self.catalog, &cell)?)),
            Ok(None) | Err(Error::Damaged { .. } | Error::NewerFormat { .. }) => {
                Ok((clone.to_string(), true))
            }
            Err(error) => Err(error),
        }
    }

    /// Where the history of a clone comes from; `None` if the volume is no clone. The names are as good
    /// as the store answers at once.
    ///
    /// # Errors
    /// There is no such volume, or the store fails while a volume that is not open is looked for.
    pub fn base_of(&self, name: &VolumeName) -> Result<Option<BaseInfo>> {
        let superblock = match self.opened(name) {
            Some(open) => open.core.superblock.get(),
            None => self.catalog.find(name)?.get(),
        };
        let last = superblock.bases.last().filter(|base| !base.is_cut());
        let Some(base) = last else { return Ok(None) };
        let found = match self.waits_for_store() {
            true => None,
            false => SuperblockCell::open(&self.store(), base.volume).unwrap_or_else(|error| {
                log::debug!("{name}: what its base is called cannot be read: {error}");
                None
            }),
        };
        Ok(Some(BaseInfo::new(base, found.map(|cell| cell.get()).as_ref())))
    }
}

/// Where the history of a clone comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BaseInfo {
    /// `NAME@SNAPSHOT`; of what was never a snapshot with a name, `NAME@#OBJECT`.
    pub point: String,
    /// Identity of the volume.
    pub uuid: Uuid,
    /// Its present name, if that can be read.
    pub volume: Option<String>,
    /// The snapshot, if it has a name.
    pub snapshot: Option<String>,
    /// The last object of the base that counts.
    pub object: u64,
}

impl BaseInfo {
    fn new(base: &Base, found: Option<&Superblock>) -> Self {
        let kept = found.and_then(|found| found.snapshots.iter().find(|s| s.id == base.snapshot));
        let snapshot = kept.filter(|kept| !kept.for_clones).map(|kept| kept.name.to_string());
        let volume = found.map(|found| found.name.to_string());
        let at = snapshot.clone().unwrap_or_else(|| format!("#{}", base.at));
        let of = volume.clone().unwrap_or_else(|| base.volume.to_string());
        let (uuid, object) = (base.volume, base.at.get());
        Self { point: format!("{of}@{at}"), uuid, volume, snapshot, object }
    }
}

/// Names that a message lists; further ones are only counted.
const LISTED_MAX: usize = 8;

/// `"a", "b" and 3 more`.
fn listed(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(LISTED_MAX).map(|name| format!("{name:?}")).collect();
    match names.len().saturating_sub(LISTED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Whether a clone exists that needs the snapshot of `base`. If not, it never will.
fn is_needed(
    store: &Arc<dyn ObjectStore>,
    base: &SuperblockCell,
    snapshot: u64,
    clone: Uuid,
) -> Result<bool> {
    let base = base.get().volume;
    // It may have been cut off.
    let needs = |clone: SuperblockCell| {
        clone.get().bases.last().is_some_and(|b| b.volume == base && b.snapshot == snapshot)
    };
    if let Some(clone) = SuperblockCell::open(store, clone)? {
        return Ok(needs(clone));
    }
    match store.create(&keys::superblock(clone)?, &[IoSlice::new(&[])]) {
        Ok(()) => Ok(false),
        // It was made at this moment, or this is the second look.
        Err(StoreError::AlreadyExists { .. }) => {
            Ok(SuperblockCell::open(store, clone)?.is_some_and(needs))
        }
        Err(e) => Err(e.into()),
    }
}

/// Takes a clone from a snapshot's list; a snapshot that is there for clones goes with its last.
fn drop_clone(cell: &SuperblockCell, snapshot: u64, clone: Uuid) -> Result<()> {
    cell.update(|superblock| {
        let mut all = superblock.snapshots.iter_mut();
        if let Some(kept) = all.find(|kept| kept.id == snapshot) {
            kept.clones.retain(|listed| *listed != clone);
        }
        superblock.snapshots.retain(|kept| kept.id != snapshot || !is_unused(kept));
        Ok(())
    })
}

/// Drops snapshots that were made for clones and have none.
fn drop_unused(cell: &SuperblockCell) -> Result<()> {
    cell.try_update(|superblock| {
        let before = superblock.snapshots.len();
        superblock.snapshots.retain(|kept| !is_unused(kept));
        Ok(superblock.snapshots.len() < before)
    })
    .map(drop)
}

fn is_unused(snapshot: &Snapshot) -> bool {
    snapshot.for_clones && snapshot.clones.is_empty() && !snapshot.protected
}

/// Tells the base of a clone that the clone needs it no more.
pub(crate) fn release_base(store: &Arc<dyn ObjectStore>, clone: &Superblock) -> Result<()> {
    let Some(base) = clone.bases.last().filter(|base| !base.is_cut()) else { return Ok(()) };
    let found = match SuperblockCell::open(store, base.volume) {
        // A base that is lost must not keep its clones; should it be had again, what it says of this
        // one is an orphan.
        Err(error @ (Error::Damaged { .. } | Error::NewerFormat { .. })) => {
            log::warn!("volume {:?}: its base is not told: {error}", clone.name.as_str());
            return Ok(());
        }
        found => found?,
    };
    match found {
        Some(cell) => match drop_clone(&cell, base.snapshot, clone.volume) {
            Err(Error::Deleted(_)) => Ok(()),
            dropped => dropped,
        },
        None => Ok(()),
    }
}
