//! Snapshots: points of a volume's history that are kept.
//!
//! ```text
//!   stream   1 2 3 4 [5] 6 7 8 9 10 11        superblock: "monday" = checkpoint 5, and up to 8
//!                     |        |
//!                     |        +- `at`: the last object that the snapshot contains
//!                     +- the checkpoint that it is entered at
//! ```
//! * A snapshot is an entry in the superblock and nothing else: whoever reads it enters at its
//!   checkpoint and rolls forward to its last object. What it needs is pinned: what dies later than
//!   the checkpoint's `covers`, of the numbers up to its last, is not condemned.
//! * A checkpoint may be under way that does not know of it and condemns what it needs. So naming one
//!   in the superblock is conditional on there being no snapshots but those it was made with.
//! * It contains every write acknowledged before it was asked for, and none without all before it.

mod clone;
mod flatten;
mod history;
mod known;

use std::sync::Arc;
use std::time::Duration;

use crate::batch::Committed;
use crate::deposed;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{ShortText, Snapshot, Superblock, VolumeState};
use crate::map::{ObjectTable, Pin};
use crate::name::VolumeName;
use crate::recover::pins;
use crate::superblock_cell::SuperblockCell;
use crate::units::SECTOR_BYTES;
use crate::volume::Volume;

pub use clone::BaseInfo;
pub(crate) use clone::release_base;
pub use history::Moment;
pub use known::KnownSnapshot;

/// How often it is looked whether a checkpoint has come.
const TICK: Duration = Duration::from_millis(100);

/// How often a snapshot is tried again because the volume moved on.
const ATTEMPTS: usize = 16;

/// What is shown of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Size of the volume then, in bytes.
    pub size_bytes: u64,
    /// The last object of the stream that it contains.
    pub object: u64,
    /// Bytes in the store that would come free with it alone.
    pub exclusive_bytes: u64,
    /// Whether it must not be deleted.
    pub protected: bool,
    /// Whether it goes with its last clone.
    pub for_clones: bool,
    /// How many volumes are clones of it.
    pub clones: u64,
}

impl Volume {
    /// Keeps the volume as it is now. Returns when that is safe in the store.
    ///
    /// # Errors
    /// There is one of that name, or the volume cannot be written, or the store fails.
    pub fn create_snapshot(&self, name: &VolumeName) -> Result<()> {
        self.keep_this_moment(&VolumeName::of_snapshot(name.as_str())?, false).map(drop)
    }

    /// As [`Self::create_snapshot`]; `for_clones` says that it goes with its last clone.
    pub(crate) fn keep_this_moment(&self, name: &VolumeName, for_clones: bool) -> Result<Snapshot> {
        let writer = self.writer()?;
        let core = &self.core;
        check_free(&core.superblock.get(), name)?;
        self.flush_to_store()?;
        if core.superblock.get().checkpoint.is_none() {
            let asked = writer.orders.checkpoint(false);
            writer.log.wake_tail();
            while !writer.orders.wait_checkpoint(asked, TICK) {
                if writer.orders.ended() {
                    return Err(core.end_cause());
                }
            }
        }
        let id = core.platform.random() as u64;
        let created_ms = core.platform.unix_millis();
        core.step("snapshot.begin")?;
        for _ in 0..ATTEMPTS {
            let Committed { object: at, record, sectors } = writer.orders.committed_state();
            // An idle writer may not know yet that another host has the volume.
            deposed::check_still_ours(core, at)?;
            let mut made = None;
            let is_kept = core.superblock.try_update(|superblock| {
                check_free(superblock, name)?;
                if superblock.epoch > core.epoch {
                    let by = format!("host {:?}", superblock.last_host.as_str());
                    return Err(Error::Fenced { volume: self.name(), by });
                }
                // A newer checkpoint says nothing of this moment, and may have condemned what it needs.
                let entered = superblock.checkpoint.filter(|entered| entered.covers <= at);
                let Some(checkpoint) = entered else { return Ok(false) };
                let snapshot = Snapshot {
                    id,
                    name: ShortText::truncated(name.as_str()),
                    created_ms,
                    size_bytes: sectors * SECTOR_BYTES,
                    checkpoint,
                    at,
                    protected: false,
                    for_clones,
                    clones: Vec::new(),
                };
                superblock.snapshots.push(snapshot.clone());
                made = Some(snapshot);
                Ok(true)
            })?;
            if let Some(made) = made.filter(|_| is_kept) {
                core.step("snapshot.made")?;
                core.maps.write().objects_mut().set_pins(pins(&core.superblock.get()));
                writer.last_in_snapshot.lock().insert(made.id, record);
                return Ok(made);
            }
        }
        let by = "checkpoints come faster than a snapshot can be made; try again".to_owned();
        Err(Error::InUse { volume: self.name(), by })
    }
}

impl Volume {
    /// Keeps what the snapshots in `superblock` need, and nothing else.
    fn keep_only(&self, superblock: &Superblock) {
        self.core.maps.write().objects_mut().set_pins(pins(superblock));
        self.stir_cleaner();
    }
}

impl Engine {
    /// The snapshots of a volume, the oldest first.
    ///
    /// # Errors
    /// There is no such volume, or the store fails.
    pub fn snapshots(&self, name: &VolumeName) -> Result<Vec<SnapshotInfo>> {
        let cell = self.cell(name)?;
        let superblock = cell.get();
        if superblock.snapshots.is_empty() {
            return Ok(Vec::new());
        }
        let pins = pins(&superblock);
        let count = |objects: &ObjectTable| objects.exclusive_bytes(&pins);
        let exclusive = match self.opened(name) {
            Some(open) => count(open.core.maps.read().objects()),
            None => count(&self.objects_at_checkpoint(&superblock, pins.clone())?),
        };
        let all = superblock.snapshots.iter().zip(exclusive);
        Ok(all.map(|(snapshot, exclusive)| info(snapshot, exclusive)).collect())
    }

    /// What the newest checkpoint of a volume that is not open knows of its objects.
    fn objects_at_checkpoint(
        &self,
        superblock: &Superblock,
        pins: Vec<Pin>,
    ) -> Result<ObjectTable> {
        let Some(newest) = superblock.checkpoint else { return Ok(ObjectTable::new()) };
        let stream = self.stream_of(superblock);
        let header = crate::checkpoint::read_checkpoint(&stream, newest.seq)?;
        let mut objects = ObjectTable::of_records(&header.objects, stream.base_through());
        objects.set_pins(pins);
        objects.set_history(superblock.history);
        Ok(objects)
    }

    /// Deletes a snapshot; the room that it alone took up comes back with the next checkpoints.
    ///
    /// # Errors
    /// There is none of that name, it is protected, in use or has clones, or the store fails.
    pub fn delete_snapshot(&self, name: &VolumeName, snapshot: &VolumeName) -> Result<()> {
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        let found = self.snapshot(name, snapshot)?;
        if self.is_viewed(found.id) {
            let by = "its file is open".to_owned();
            return Err(kept(name, snapshot, by));
        }
        self.drop_orphans(&*self.cell(name)?, &found)?;
        match self.snapshot(name, snapshot) {
            // It went with the last clone, which was never made.
            Err(Error::NoSuchSnapshot { .. }) if found.for_clones => return Ok(()),
            now => self.check_no_clones(name, &now?)?,
        }
        self.change_snapshot(name, snapshot, |superblock, nth| {
            let found = superblock.snapshots.get(nth);
            if found.is_some_and(|found| found.protected) {
                let by = "it is protected (`lsvd-fuse snapshot unprotect` changes that)".to_owned();
                return Err(kept(name, snapshot, by));
            }
            if found.is_some_and(|found| !found.clones.is_empty()) {
                // Made since it was looked for them.
                return Err(kept(name, snapshot, "it has clones; delete those first".to_owned()));
            }
            superblock.snapshots.remove(nth);
            Ok(())
        })
    }

    /// Says whether a snapshot must not be deleted.
    ///
    /// # Errors
    /// There is none of that name, it was made for clones, or the store fails.
    pub fn protect_snapshot(
        &self,
        name: &VolumeName,
        snapshot: &VolumeName,
        protected: bool,
    ) -> Result<()> {
        self.change_snapshot(name, snapshot, |superblock, nth| {
            let Some(found) = superblock.snapshots.get_mut(nth) else { return Ok(()) };
            if found.for_clones {
                let by = "it was made for clones, stays as long as there are any, and goes with the last";
                return Err(kept(name, snapshot, by.to_owned()));
            }
            found.protected = protected;
            Ok(())
        })
    }

    /// Opens a snapshot for reading.
    ///
    /// # Errors
    /// There is none of that name, it is damaged, or the store fails.
    pub fn open_snapshot(&self, name: &VolumeName, snapshot: &VolumeName) -> Result<Arc<Volume>> {
        self.open_view(name, snapshot, None)
    }

    /// As [`Self::open_snapshot`], if it is the one that `info` tells of and none that was made since.
    ///
    /// # Errors
    /// As [`Self::open_snapshot`].
    pub fn open_same_snapshot(
        &self,
        name: &VolumeName,
        info: &SnapshotInfo,
    ) -> Result<Arc<Volume>> {
        self.open_view(name, &VolumeName::new(&info.name)?, Some(info.created_ms))
    }

    fn open_view(
        &self,
        name: &VolumeName,
        snapshot: &VolumeName,
        created_ms: Option<u64>,
    ) -> Result<Arc<Volume>> {
        let _alone = self.transition(name)?;
        let found = self.snapshot(name, snapshot)?;
        if created_ms.is_some_and(|ms| ms != found.created_ms) {
            return Err(missing(name, snapshot));
        }
        let cell = self.catalog.find(name)?;
        let volume = Arc::new(self.opening(name, cell).frozen(&found)?);
        self.note_view(found.id, &volume);
        Ok(volume)
    }

    /// Makes a volume what it was when a snapshot was made. What was written since is in its history
    /// no more, unless another snapshot has it.
    ///
    /// # Errors
    /// The volume is open, there is no such snapshot, or the store fails.
    pub fn roll_back(&self, name: &VolumeName, snapshot: &VolumeName) -> Result<()> {
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        let found = self.snapshot(name, snapshot)?;
        let cell = self.catalog.find(name)?;
        self.check_closed(name, cell.get().volume)?;
        let volume = self.opening(name, cell).rolled_back(&found)?;
        crate::threads::close(&volume, crate::threads::Close::Drain, &mut |_| true).map(drop)
    }

    /// The superblock of a volume as it is now: the cell in use, if it is open here.
    pub(crate) fn cell(&self, name: &VolumeName) -> Result<Arc<SuperblockCell>> {
        match self.opened(name) {
            Some(open) => {
                // Clones come and go without their base being told.
                let found = open.core.superblock.reread()?;
                let found = found.ok_or_else(|| Error::Deleted(name.to_string()))?;
                open.keep_only(&found);
                Ok(Arc::clone(&open.core.superblock))
            }
            None => self.catalog.find(name).map(Arc::new),
        }
    }

    pub(crate) fn snapshot(&self, name: &VolumeName, snapshot: &VolumeName) -> Result<Snapshot> {
        let superblock = self.cell(name)?.get();
        let nth = position(&superblock, name, snapshot)?;
        superblock.snapshots.get(nth).cloned().ok_or_else(|| missing(name, snapshot))
    }

    /// Fails if there is no such snapshot.
    ///
    /// # Errors
    /// That, or the store's.
    pub fn snapshot_exists(&self, name: &VolumeName, snapshot: &VolumeName) -> Result<()> {
        self.snapshot(name, snapshot).map(drop)
    }

    fn change_snapshot(
        &self,
        name: &VolumeName,
        snapshot: &VolumeName,
        change: impl Fn(&mut Superblock, usize) -> Result<()>,
    ) -> Result<()> {
        self.check_may_write(name)?;
        let open = self.opened(name);
        let cell = self.cell(name)?;
        self.step("snapshot.change")?;
        cell.update(|superblock| {
            let nth = position(superblock, name, snapshot)?;
            change(superblock, nth)
        })?;
        self.step("snapshot.changed")?;
        if let Some(open) = open {
            open.keep_only(&cell.get());
        }
        Ok(())
    }
}

fn check_free(superblock: &Superblock, name: &VolumeName) -> Result<()> {
    if superblock.state == VolumeState::Deleting {
        return Err(Error::Deleted(superblock.name.as_str().to_owned()));
    }
    match superblock.snapshots.iter().any(|snapshot| snapshot.name.as_str() == name.as_str()) {
        true => Err(Error::SnapshotExists {
            volume: superblock.name.as_str().to_owned(),
            snapshot: name.to_string(),
        }),
        false => Ok(()),
    }
}

fn position(superblock: &Superblock, name: &VolumeName, snapshot: &VolumeName) -> Result<usize> {
    let mut all = superblock.snapshots.iter();
    let found = all.position(|found| found.name.as_str() == snapshot.as_str());
    found.ok_or_else(|| missing(name, snapshot))
}

fn missing(volume: &VolumeName, snapshot: &VolumeName) -> Error {
    Error::NoSuchSnapshot { volume: volume.to_string(), snapshot: snapshot.to_string() }
}

fn kept(volume: &VolumeName, snapshot: &VolumeName, by: String) -> Error {
    Error::SnapshotKept { volume: volume.to_string(), snapshot: snapshot.to_string(), by }
}

fn info(snapshot: &Snapshot, exclusive_bytes: u64) -> SnapshotInfo {
    SnapshotInfo {
        name: snapshot.name.as_str().to_owned(),
        created_ms: snapshot.created_ms,
        size_bytes: snapshot.size_bytes,
        object: snapshot.at.get(),
        exclusive_bytes,
        protected: snapshot.protected,
        for_clones: snapshot.for_clones,
        clones: snapshot.clones.len() as u64,
    }
}
