//! Deleting a volume whose superblock cannot be read.
//!
//! ```text
//!   name record -> uuid -> a superblock of our own, marked deleting -> as every other deletion
//! ```
//! The damaged superblock is replaced, in the version that was seen, by one that says no more than
//! that the volume is being deleted and where its stream ends, as a listing shows it. From then on
//! it is a deletion that was cut short: a crash leaves nothing that the next one cannot continue.
//!
//! Nobody knows who may be writing, so the fence at the stream's end stays. Which snapshots it had is
//! not known either; but clones name their base, so a volume that others need is not deleted.

use std::io::IoSlice;

use lsvd_store::StoreError;
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::check::Listing;
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::format::{CheckpointRef, FileAttrs, ShortText, StoredOptions, Superblock, VolumeState};
use crate::keys;
use crate::name::VolumeName;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::units::{Epoch, ObjectSeq};

/// Objects at the end of the stream that are looked at for the epoch of whoever wrote last.
const WITNESSES: usize = 16;

/// Who is named as the last host: somebody, for somebody may be writing.
const SOMEBODY: &str = "unknown";

impl Catalog {
    /// The volume that `name` means, to be deleted whatever state it is in.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`], its name record is damaged, or the store fails.
    pub(crate) fn condemn(&self, name: &VolumeName) -> Result<SuperblockCell> {
        let missing = || Error::NoSuchVolume(name.to_string());
        let uuid = self.uuid_of(&keys::name(name.as_str())?)?.ok_or_else(missing)?;
        match SuperblockCell::open(self.store(), uuid) {
            Ok(Some(cell)) if cell.get().name.as_str() == name.as_str() => return Ok(cell),
            Ok(Some(_)) => return Err(missing()),
            // A name that leads nowhere is no volume.
            Ok(None) if self.is_empty(uuid)? => return Err(missing()),
            Ok(None) | Err(Error::Damaged { .. } | Error::NewerFormat { .. }) => {}
            Err(error) => return Err(error),
        }
        self.check_no_clones(name, uuid)?;
        self.step("delete.condemn")?;
        self.replace_superblock(name, uuid)?;
        SuperblockCell::open(self.store(), uuid)?.ok_or_else(missing)
    }

    fn check_no_clones(&self, name: &VolumeName, uuid: Uuid) -> Result<()> {
        let all = self.list(|_, _| ())?;
        match all.iter().find(|other| other.bases.iter().any(|base| base.volume == uuid)) {
            None => Ok(()),
            Some(clone) => {
                let by =
                    format!("volume {:?} is a clone of it; delete that first", clone.name.as_str());
                Err(Error::InUse { volume: name.to_string(), by })
            }
        }
    }

    fn is_empty(&self, uuid: Uuid) -> Result<bool> {
        Ok(self.store().list(&keys::stream_prefix(uuid), None, 1)?.objects.is_empty())
    }

    fn replace_superblock(&self, name: &VolumeName, uuid: Uuid) -> Result<()> {
        let key = keys::superblock(uuid)?;
        let superblock = self.last_superblock(name, uuid)?;
        let bytes = superblock.encode().map_err(|e| e.of(key.as_str()))?;
        let version = match self.store().get(&key) {
            Ok((_, version)) => version,
            Err(e) if e.is_not_found() => {
                return match self.store().create(&key, &[IoSlice::new(&bytes)]) {
                    // What is there now is what the caller finds.
                    Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
                    Err(e) => Err(e.into()),
                };
            }
            Err(e) => return Err(e.into()),
        };
        match self.store().replace(&key, &bytes, &version) {
            Ok(_) | Err(StoreError::Precondition { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// A superblock from which a deletion finds the end of the stream.
    fn last_superblock(&self, name: &VolumeName, uuid: Uuid) -> Result<Superblock> {
        let stream = Stream::new(self.store().clone(), uuid);
        let listing = Listing::read(&stream, |_| Ok(()))?;
        let listed = listing.after(ObjectSeq::ZERO);
        let last = listed.last().map(|(seq, _)| *seq);
        // Whoever writes must come by the number behind the last one. Its fence has to have a higher
        // epoch than anything there; what cannot be read tells none.
        let mut epoch = Epoch::ZERO;
        for (seq, _) in listed.iter().rev().take(WITNESSES) {
            if let Ok(Some((common, _))) = stream.peek(*seq) {
                epoch = epoch.max(common.stamp.epoch);
            }
        }
        let checkpoint = last.map(|last| CheckpointRef { seq: last, covers: last });
        Ok(Superblock {
            volume: uuid,
            name: ShortText::truncated(name.as_str()),
            generation: 1,
            state: VolumeState::Deleting,
            size_bytes: 0,
            epoch,
            committed: last.unwrap_or_default(),
            checkpoint,
            previous_checkpoint: None,
            options: StoredOptions { compression: Compression::None, sync_remote: false },
            attrs: FileAttrs { mode: 0, uid: 0, gid: 0, created_ms: 0, modified_ms: 0 },
            last_host: ShortText::truncated(SOMEBODY),
            snapshots: Vec::new(),
            bases: Vec::new(),
            history: None,
            unknown: Vec::new(),
        })
    }
}
