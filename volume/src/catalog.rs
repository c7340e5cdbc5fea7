//! Which volumes a store holds: names, superblocks, and the steps that change them.
//!
//! A name record says which volume a name means; the volume's superblock says which name it
//! has. If the two disagree the superblock wins: a rename or a deletion that was cut short
//! leaves a stale name record, which is not shown and may be taken over.

use std::io::IoSlice;
use std::sync::Arc;

use lsvd_store::{Key, ObjectStore, StoreError};
use uuid::Uuid;

use crate::config::Compression;
use crate::error::{Error, Result};
use crate::format::{FileAttrs, NameRecord, ShortText, StoredOptions, Superblock, VolumeState};
use crate::keys;
use crate::name::VolumeName;
use crate::superblock_cell::SuperblockCell;
use crate::units::{Epoch, ObjectSeq};

/// Objects listed at a time.
const PAGE: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Catalog {
    store: Arc<dyn ObjectStore>,
}

impl Catalog {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The volume that `name` means.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`], or the store fails, or what it holds is damaged.
    pub(crate) fn find(&self, name: &VolumeName) -> Result<SuperblockCell> {
        self.lookup(name)?.ok_or_else(|| Error::NoSuchVolume(name.to_string()))
    }

    /// As [`Self::find`], for a deletion: one that was cut short is found, too.
    pub(crate) fn find_to_delete(&self, name: &VolumeName) -> Result<SuperblockCell> {
        let found = self.lookup_any(name)?;
        found.ok_or_else(|| Error::NoSuchVolume(name.to_string()))
    }

    fn lookup(&self, name: &VolumeName) -> Result<Option<SuperblockCell>> {
        let found = self.lookup_any(name)?;
        Ok(found.filter(|cell| cell.get().state == VolumeState::Live))
    }

    fn lookup_any(&self, name: &VolumeName) -> Result<Option<SuperblockCell>> {
        let Some(uuid) = self.uuid_of(&keys::name(name.as_str())?)? else { return Ok(None) };
        let cell = SuperblockCell::open(&self.store, uuid)?;
        Ok(cell.filter(|cell| cell.get().name.as_str() == name.as_str()))
    }

    fn uuid_of(&self, key: &Key) -> Result<Option<Uuid>> {
        match self.store.get(key) {
            Ok((bytes, _)) => {
                let record = NameRecord::decode(&bytes)
                    .map_err(|e| e.of(format!("{}: name record {key}", self.store.url())))?;
                Ok(Some(record.volume))
            }
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// All volumes, by name. What cannot be read is reported to `bad` and left out.
    pub(crate) fn list(&self, mut bad: impl FnMut(&str, Error)) -> Result<Vec<Superblock>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.list(keys::NAMES, after.as_ref(), PAGE)?;
            for object in &page.objects {
                let text = object.key.as_str().trim_start_matches(keys::NAMES);
                let Ok(name) = VolumeName::new(text) else { continue };
                match self.lookup(&name) {
                    Ok(Some(cell)) => found.push(cell.get()),
                    Ok(None) => {}
                    Err(e @ Error::Store(_)) => return Err(e),
                    Err(e) => bad(text, e),
                }
            }
            after = page.objects.last().map(|o| o.key.clone());
            if !page.truncated || after.is_none() {
                return Ok(found);
            }
        }
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// [`Error::VolumeExists`], or the store fails.
    pub(crate) fn create(
        &self,
        name: &VolumeName,
        uuid: Uuid,
        size_bytes: u64,
        compression: Compression,
        attrs: FileAttrs,
        host: &str,
    ) -> Result<Superblock> {
        match self.lookup_any(name)? {
            Some(cell) if cell.get().state == VolumeState::Deleting => self.delete(&cell)?,
            Some(_) => return Err(Error::VolumeExists(name.to_string())),
            None => {}
        }
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
            options: StoredOptions { compression, sync_remote: false },
            attrs,
            last_host: ShortText::truncated(host),
            unknown: Vec::new(),
        };
        let key = keys::superblock(uuid)?;
        let bytes = superblock.encode().map_err(|e| e.of(key.as_str()))?;
        match self.store.create(&key, &[IoSlice::new(&bytes)]) {
            // The uuid is fresh, so what is there is an attempt of ours whose answer was lost.
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        if let Err(e) = self.take_name(name, uuid) {
            // Without a name nobody finds it; what is left is one small object.
            let _ = self.store.delete(&key);
            return Err(e);
        }
        Ok(superblock)
    }

    /// Makes `name` mean `uuid`; a stale record of that name gives way.
    fn take_name(&self, name: &VolumeName, uuid: Uuid) -> Result<()> {
        let key = keys::name(name.as_str())?;
        let record = NameRecord { volume: uuid }.encode();
        match self.store.create(&key, &[IoSlice::new(&record)]) {
            Ok(()) => Ok(()),
            Err(StoreError::AlreadyExists { .. }) => {
                let (_, version) = self.store.get(&key)?;
                match self.uuid_of(&key)? {
                    Some(holder) if holder == uuid => return Ok(()),
                    Some(_) if self.lookup(name)?.is_some() => {
                        return Err(Error::VolumeExists(name.to_string()));
                    }
                    _ => {}
                }
                match self.store.replace(&key, &record, &version) {
                    Ok(_) => Ok(()),
                    Err(StoreError::Precondition { .. }) => {
                        Err(Error::VolumeExists(name.to_string()))
                    }
                    Err(e) => Err(e.into()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Gives a volume another name. New name, then superblock, then the old name goes.
    pub(crate) fn rename(&self, cell: &SuperblockCell, to: &VolumeName) -> Result<()> {
        let old = cell.get();
        if self.lookup(to)?.is_some() {
            return Err(Error::VolumeExists(to.to_string()));
        }
        self.take_name(to, old.volume)?;
        cell.update(|superblock| {
            superblock.name = ShortText::truncated(to.as_str());
            Ok(())
        })?;
        if self.uuid_of(&keys::name(to.as_str())?)? != Some(old.volume) {
            // Between the two steps somebody else took the name for a stale one.
            cell.update(|superblock| {
                superblock.name = old.name.clone();
                Ok(())
            })?;
            return Err(Error::VolumeExists(to.to_string()));
        }
        self.drop_name(old.name.as_str(), old.volume)
    }

    /// Deletes a volume: marked first, then the objects, the name, and the superblock last. One
    /// that was cut short is continued by the next, or when the name is wanted again.
    pub(crate) fn delete(&self, cell: &SuperblockCell) -> Result<()> {
        cell.update(|superblock| {
            superblock.state = VolumeState::Deleting;
            Ok(())
        })?;
        let superblock = cell.get();
        let prefix = keys::stream_prefix(superblock.volume);
        loop {
            let page = self.store.list(&prefix, None, PAGE)?;
            if page.objects.is_empty() {
                break;
            }
            let keys: Vec<Key> = page.objects.into_iter().map(|object| object.key).collect();
            self.store.delete_many(&keys)?;
        }
        self.drop_name(superblock.name.as_str(), superblock.volume)?;
        Ok(self.store.delete(&keys::superblock(superblock.volume)?)?)
    }

    /// Removes the record of `name` if it still means `uuid`.
    fn drop_name(&self, name: &str, uuid: Uuid) -> Result<()> {
        let key = keys::name(name)?;
        if self.uuid_of(&key)? == Some(uuid) {
            self.store.delete(&key)?;
        }
        Ok(())
    }
}
