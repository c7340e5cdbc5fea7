//! The volumes of a store by their names: making, showing, renaming and deleting them.

use uuid::Uuid;

use super::Engine;
use crate::error::{Error, Result};
use crate::format::{FileAttrs, ShortText, StoredOptions, Superblock, VolumeState};
use crate::info::{LogInfo, VolumeInfo};
use crate::inspect::{self, Inspect, InspectReport};
use crate::log::LogOnDisk;
use crate::name::VolumeName;
use crate::open::discard;
use crate::recover::{Ownership, ownership};
use crate::superblock_cell::SuperblockCell;
use crate::units::{Epoch, ObjectSeq};
use crate::volume::{Volume, check_size};

impl Engine {
    /// Makes a volume of `size_bytes`, a multiple of 4096.
    ///
    /// # Errors
    /// The name is taken, the size is impossible, or the store fails.
    pub fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        attrs: FileAttrs,
    ) -> Result<VolumeInfo> {
        self.create_with(name, size_bytes, attrs, None)
    }

    /// As [`Self::create`]; `sync_remote` says whether a flush waits for the store, wherever the
    /// volume is opened and nothing else is set there. Without a word: as the settings here say.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_with(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        attrs: FileAttrs,
        sync_remote: Option<bool>,
    ) -> Result<VolumeInfo> {
        check_size(size_bytes)?;
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        let uuid = self.fresh_uuid();
        let config = self.volume_config(name);
        let sync_remote = sync_remote.or(config.sync_remote).unwrap_or(false);
        let options = StoredOptions { compression: config.compression, sync_remote };
        let superblock = Superblock {
            volume: uuid,
            name: ShortText::truncated(name.as_str()),
            generation: 1,
            state: VolumeState::Live,
            size_bytes,
            epoch: Epoch::ZERO,
            committed: ObjectSeq::ZERO,
            checkpoint: None,
            previous_checkpoint: None,
            options,
            attrs,
            last_host: ShortText::truncated(&self.host_name()),
            snapshots: Vec::new(),
            bases: Vec::new(),
            history: None,
            unknown: Vec::new(),
        };
        let made = self.make(superblock, name)?;
        Ok(self.describe(&made))
    }

    /// All volumes by name, those included whose superblock cannot be read.
    ///
    /// # Errors
    /// The store fails.
    pub fn list(&self) -> Result<Vec<VolumeInfo>> {
        let mut infos = Vec::new();
        let found =
            self.catalog.list(|name, error| infos.push(VolumeInfo::unreadable(name, &error)))?;
        infos.extend(found.iter().map(|superblock| self.describe(superblock)));
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    /// One volume.
    ///
    /// # Errors
    /// There is none of that name, or the store fails. A volume that is open for writing here is
    /// told of without the store.
    pub fn info(&self, name: &VolumeName) -> Result<VolumeInfo> {
        // What is open here needs no store, which may be away just when one wants to know.
        if let Some(open) = self.opened(name) {
            return Ok(self.describe(&open.core.superblock.get()));
        }
        Ok(self.describe(&self.catalog.find(name)?.get()))
    }

    pub(crate) fn fresh_uuid(&self) -> Uuid {
        let random = self.around.platform.random().to_le_bytes();
        uuid::Builder::from_random_bytes(random).into_uuid()
    }

    pub(crate) fn describe(&self, superblock: &Superblock) -> VolumeInfo {
        let open = self.writers.lock().get(&superblock.volume).cloned();
        let name = superblock.name.as_str();
        let params = self.around.log_params(name, superblock.volume, &self.config.volume);
        // What cannot be read is reported when the volume is opened.
        let log = LogOnDisk::open(&params, false).ok().flatten().map(|log| LogInfo {
            path: log.path(),
            bytes: log.header().ring_bytes,
            clean: log.header().clean,
        });
        VolumeInfo {
            name: superblock.name.as_str().to_owned(),
            state: state_of(open.as_deref(), log.as_ref()),
            uuid: superblock.volume,
            size_bytes: open.as_ref().map_or(superblock.size_bytes, |v| v.size_bytes()),
            attrs: open.as_ref().map_or(superblock.attrs, |v| v.core.superblock.get().attrs),
            epoch: superblock.epoch.get(),
            last_host: superblock.last_host.as_str().to_owned(),
            sync_remote: superblock.options.sync_remote,
            live: open.map(|volume| volume.stats()),
            log,
            damaged: None,
        }
    }

    /// Gives a volume another name; allowed while it is open.
    ///
    /// # Errors
    /// There is none of the old name or one of the new, or the store fails.
    pub fn rename(&self, from: &VolumeName, to: &VolumeName) -> Result<()> {
        self.check_may_write(from)?;
        let _alone = self.transition(from)?;
        let found = self.catalog.find(from)?;
        let open = self.writers.lock().get(&found.get().volume).cloned();
        match open {
            Some(volume) => {
                self.catalog.rename(&volume.core.superblock, from, to)?;
                volume.renamed(to.as_str());
            }
            None => self.catalog.rename(&found, from, to)?,
        }
        let own = self.volume_configs.lock().remove(from.as_str());
        if let Some(own) = own {
            self.volume_configs.lock().insert(to.to_string(), own);
        }
        Ok(())
    }

    /// Deletes a volume with all its data, here and in the store.
    ///
    /// # Errors
    /// It is open here, there is none of that name, or the store fails.
    pub fn delete(&self, name: &VolumeName) -> Result<()> {
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        self.delete_found(name, &self.catalog.find_to_delete(name)?)
    }

    pub(super) fn delete_found(&self, name: &VolumeName, found: &SuperblockCell) -> Result<()> {
        let uuid = found.get().volume;
        self.check_closed(name, uuid)?;
        self.check_no_snapshots(name, found)?;
        let params = self.around.log_params(name.as_str(), uuid, &self.config.volume);
        let log = LogOnDisk::open(&params, false);
        let owns =
            |nonce| log.as_ref().is_ok_and(|log| log.as_ref().is_some_and(|log| log.owns(nonce)));
        self.catalog.delete(found, name, owns, || self.forget(name, uuid))
    }

    /// Puts a new volume into the catalog.
    pub(crate) fn make(&self, superblock: Superblock, name: &VolumeName) -> Result<Superblock> {
        let check_closed = |uuid| self.check_closed(name, uuid);
        self.catalog.create(superblock, check_closed, |uuid| self.forget(name, uuid))
    }

    /// Gives up what this host keeps of a deleted volume: its log, and leaves of its map.
    /// Whether there is a log of a volume here, be it readable or not.
    pub(super) fn has_log(&self, name: &VolumeName, uuid: Uuid) -> bool {
        let params = self.around.log_params(name.as_str(), uuid, &self.config.volume);
        !matches!(LogOnDisk::open(&params, false), Ok(None))
    }

    pub(super) fn forget(&self, name: &VolumeName, uuid: Uuid) -> Result<()> {
        self.around.leaves.remove_volume(uuid);
        let params = self.around.log_params(name.as_str(), uuid, &self.config.volume);
        match LogOnDisk::open(&params, false) {
            Ok(Some(log)) => discard(&params, &log),
            Ok(None) => Ok(()),
            Err(_) => self
                .around
                .platform
                .remove_log(&params.path())
                .map_err(|e| Error::local(params.path(), "remove", e)),
        }
    }

    /// Records owner, mode and times of a volume's file.
    ///
    /// # Errors
    /// There is none of that name, or the store fails.
    pub fn set_attrs(&self, name: &VolumeName, attrs: FileAttrs) -> Result<()> {
        self.check_may_write(name)?;
        let found = self.catalog.find(name)?;
        let open = self.writers.lock().get(&found.get().volume).cloned();
        if let Some(volume) = &open {
            volume.core.poison.check_deposed()?;
        }
        let change = |superblock: &mut Superblock| {
            superblock.attrs = attrs;
            Ok(())
        };
        self.step("attributes.set")?;
        match open {
            Some(volume) => volume.core.superblock.update(change)?,
            None => found.update(change)?,
        }
        self.step("attributes.kept")
    }

    /// Looks into a volume's parts; changes nothing. Of an open volume the log is not scanned.
    ///
    /// # Errors
    /// There is no such volume or object, or what is looked at is damaged.
    pub fn inspect(&self, name: &VolumeName, what: Inspect) -> Result<InspectReport> {
        let found = self.catalog.find(name)?;
        let superblock = found.get();
        let opening = self.opening(name, found);
        match what {
            Inspect::Object(seq) => inspect::object(&opening.stream, seq),
            Inspect::Map => {
                let mut state = opening.read_stream(None)?;
                inspect::map(&mut state)
            }
            Inspect::Summary => {
                let params = opening.log_params();
                let open = self.writers.lock().get(&superblock.volume).cloned();
                let in_use = open.as_ref().and_then(|volume| volume.writer_parts());
                let at_rest = match in_use {
                    Some(_) => None,
                    None => LogOnDisk::open(&params, false)?,
                };
                let state = opening.read_stream(at_rest.as_ref())?;
                let log = match (in_use, &at_rest) {
                    (Some(writer), _) => Some(inspect::log_in_use(&writer.log)),
                    (None, Some(log)) => Some(inspect::log_at_rest(log)?),
                    (None, None) => None,
                };
                Ok(inspect::volume(&superblock, &state, log, self.around.cache.stats()))
            }
        }
    }

    /// Gives up what this host's stale log of a volume holds and the store does not; returns
    /// how many bytes of log that were. A log that continues the volume's history is no one's to
    /// give up: opening the volume replays it.
    ///
    /// # Errors
    /// The volume is open, the log is not stale, or the SSD or the store fails.
    pub fn discard_log(&self, name: &VolumeName) -> Result<u64> {
        self.check_writable(name.as_str())?;
        let _alone = self.transition(name)?;
        let found = self.catalog.find(name)?;
        self.check_closed(name, found.get().volume)?;
        let opening = self.opening(name, found);
        let params = opening.log_params();
        let Some(log) = LogOnDisk::open(&params, false)? else { return Ok(0) };
        let owner = match opening.owner_since(&log)? {
            Some(owner) => owner,
            None => ownership(&opening.read_stream(Some(&log))?, &log)?,
        };
        let bytes = match owner {
            Ownership::Stale { bytes, .. } => bytes,
            Ownership::Contained => 0,
            Ownership::Ours => return Err(Error::LogNeeded(name.to_string())),
        };
        discard(&params, &log)?;
        Ok(bytes)
    }
}

/// The state of a volume in a word or two.
fn state_of(open: Option<&Volume>, log: Option<&LogInfo>) -> String {
    match (open, log) {
        (Some(volume), _) => volume.stats().state,
        (None, Some(log)) if !log.clean => "not drained".to_owned(),
        (None, _) => "closed".to_owned(),
    }
}
