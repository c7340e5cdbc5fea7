//! Which volumes a store holds: names, superblocks, and the steps that change them.
//!
//! A name record says which volume a name means; the volume's superblock says which name it
//! has. If the two disagree the superblock wins: a rename or a deletion that was cut short
//! leaves a stale name record, which is not shown and may be taken over. A name given up leaves
//! an empty record.
//!
//! Several hosts may do all of this at once. Every change is a create-if-absent or a conditional
//! replace, and each says in its condition what it took for granted: a deletion or rename that
//! finds another name in the superblock than it was told gives up.

use std::io::IoSlice;
use std::sync::Arc;

use lsvd_store::{Key, ObjectStore, StoreError};
use uuid::Uuid;

use crate::delete::{End, is_guard};
use crate::error::{Error, Result};
use crate::format::{NameRecord, Nonce, ShortText, Superblock, VolumeState};
use crate::keys;
use crate::name::VolumeName;
use crate::platform::Platform;
use crate::snapshot::release_base;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::units::{Extent, ObjectSeq, SECTOR_BYTES};

/// Objects listed at a time.
const PAGE: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Catalog {
    store: Arc<dyn ObjectStore>,
    platform: Arc<dyn Platform>,
}

impl Catalog {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, platform: Arc<dyn Platform>) -> Self {
        Self { store, platform }
    }

    /// The store, with patience.
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
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

    /// The volume that the name record `key` names; none if there is none.
    pub(crate) fn uuid_of(&self, key: &Key) -> Result<Option<Uuid>> {
        match self.store.get(key) {
            Ok((bytes, _)) => self.decode(key, &bytes),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The volume that a name record names; none if it was given up.
    fn decode(&self, key: &Key, bytes: &[u8]) -> Result<Option<Uuid>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let record = NameRecord::decode(bytes)
            .map_err(|e| e.of(format!("{}: name record {key}", self.store.url())))?;
        Ok(Some(record.volume))
    }

    /// All volumes, by name. What cannot be read is reported to `bad` and left out.
    pub(crate) fn list(&self, mut bad: impl FnMut(&str, Error)) -> Result<Vec<Superblock>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.list(keys::NAMES, after.as_ref(), PAGE)?;
            for object in page.objects.iter().filter(|object| object.size > 0) {
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

    /// Makes a volume. Where a deletion of that name was cut short it is finished first; `forget` gives
    /// up what this host keeps of that volume, and `check_closed` refuses if it is open here.
    ///
    /// # Errors
    /// [`Error::VolumeExists`], or the store fails.
    pub(crate) fn create(
        &self,
        superblock: Superblock,
        check_closed: impl FnOnce(Uuid) -> Result<()>,
        forget: impl FnOnce(Uuid) -> Result<()>,
    ) -> Result<Superblock> {
        let name = &VolumeName::new(superblock.name.as_str())?;
        let uuid = superblock.volume;
        match self.lookup_any(name)? {
            Some(cell) if cell.get().state == VolumeState::Deleting => {
                let deleted = cell.get().volume;
                check_closed(deleted)?;
                self.delete(&cell, name, |_| false, || forget(deleted))?;
            }
            Some(_) => return Err(Error::VolumeExists(name.to_string())),
            None => {}
        }
        let key = keys::superblock(uuid)?;
        let bytes = superblock.encode().map_err(|e| e.of(key.as_str()))?;
        self.step("create.superblock")?;
        match self.store.create(&key, &[IoSlice::new(&bytes)]) {
            Ok(()) => {}
            // The uuid is fresh, so what is there is an attempt of ours whose answer was lost; or a
            // clone has taken too long and was given up.
            Err(StoreError::AlreadyExists { .. })
                if SuperblockCell::open(&self.store, uuid)?.is_some() => {}
            Err(e) => return Err(e.into()),
        }
        self.step("create.name")?;
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
        let taken = || Error::VolumeExists(name.to_string());
        match self.store.create(&key, &[IoSlice::new(&record)]) {
            Ok(()) => return Ok(()),
            Err(StoreError::AlreadyExists { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let (bytes, version) = self.store.get(&key)?;
        match self.decode(&key, &bytes)? {
            Some(holder) if holder == uuid => return Ok(()),
            Some(holder) if self.holds(holder, name)? => return Err(taken()),
            _ => {}
        }
        match self.store.replace(&key, &record, &version) {
            Ok(_) => Ok(()),
            // Unless that was an earlier attempt of ours.
            Err(StoreError::Precondition { .. }) if self.uuid_of(&key)? == Some(uuid) => Ok(()),
            Err(StoreError::Precondition { .. } | StoreError::NotFound { .. }) => Err(taken()),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the volume `uuid` is there and has this name.
    fn holds(&self, uuid: Uuid, name: &VolumeName) -> Result<bool> {
        match SuperblockCell::open(&self.store, uuid)? {
            Some(cell) => Ok(cell.get().name.as_str() == name.as_str()),
            // Its superblock is lost, and may be brought back.
            None => Ok(!self.store.list(&keys::stream_prefix(uuid), None, 1)?.objects.is_empty()),
        }
    }

    /// Gives a volume another name. New name, then superblock, then the old name goes.
    pub(crate) fn rename(
        &self,
        cell: &SuperblockCell,
        from: &VolumeName,
        to: &VolumeName,
    ) -> Result<()> {
        let uuid = cell.get().volume;
        self.step("rename.name")?;
        self.take_name(to, uuid)?;
        self.step("rename.superblock")?;
        match cell.update(|superblock| rename_in(superblock, from, to)) {
            Ok(()) => {}
            Err(error @ (Error::NoSuchVolume(_) | Error::Deleted(_))) => {
                // Somebody deleted or renamed it meanwhile.
                self.drop_name(to.as_str(), uuid)?;
                return Err(error);
            }
            // It may have been renamed: the new name stays, stale or not.
            Err(error) => return Err(error),
        }
        if self.uuid_of(&keys::name(to.as_str())?)? != Some(uuid) {
            return Err(self.take_back(cell, from, to));
        }
        self.step("rename.old_name")?;
        self.drop_name(from.as_str(), uuid)
    }

    /// Between two steps of a rename somebody else took the new name for a stale one: back to the
    /// old name or, if that is gone as well by now, to one that nobody else can want.
    fn take_back(&self, cell: &SuperblockCell, from: &VolumeName, to: &VolumeName) -> Error {
        let uuid = cell.get().volume;
        let spare = VolumeName::new(&format!("recovered-{uuid}"));
        for name in [Ok(from.clone()), spare].into_iter().flatten() {
            let back = self
                .take_name(&name, uuid)
                .and_then(|()| cell.update(|superblock| rename_in(superblock, to, &name)));
            match back {
                Ok(()) if name == *from => return Error::VolumeExists(to.to_string()),
                Ok(()) => {
                    log::error!("volume {from}: others took both its names; it is {name} now");
                    return Error::VolumeExists(to.to_string());
                }
                Err(Error::VolumeExists(_)) => {}
                Err(error) => return error,
            }
        }
        Error::VolumeExists(to.to_string())
    }

    /// Deletes a volume; [`crate::delete`] has the order and the reasons. `owns` knows the fences
    /// of this host's log, `forget` gives up what this host keeps of the volume.
    pub(crate) fn delete(
        &self,
        cell: &SuperblockCell,
        name: &VolumeName,
        owns: impl FnOnce(Nonce) -> bool,
        forget: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let superblock = cell.get();
        let stream = Stream::new(Arc::clone(&self.store), superblock.volume).on(&superblock.bases);
        let end = End::find(&stream, &superblock)?;
        let resumed = superblock.state == VolumeState::Deleting;
        // One that is continued remembers it in the superblock.
        let others = match resumed {
            true => !superblock.last_host.as_str().is_empty(),
            false => end.may_be_written(owns),
        };
        self.step("delete.mark")?;
        cell.update(|superblock| {
            if superblock.name.as_str() != name.as_str() {
                return Err(Error::NoSuchVolume(name.to_string()));
            }
            // Made since it was looked for them.
            if !superblock.snapshots.is_empty() {
                let by = "it has snapshots; delete them first".to_owned();
                return Err(Error::InUse { volume: name.to_string(), by });
            }
            superblock.state = VolumeState::Deleting;
            if !others {
                superblock.last_host = ShortText::default();
            }
            Ok(())
        })?;
        // From now on no checkpoint is published, so nothing more is collected. What was until now
        // must not be taken for the end.
        let marked = cell.get();
        let end = match marked.checkpoint == superblock.checkpoint {
            true => end,
            false => End::find(&stream, &marked)?,
        };
        self.step("delete.fence")?;
        let sectors = (superblock.size_bytes / SECTOR_BYTES).min(Extent::LBA_LIMIT);
        let earlier = end.guarded_from().filter(|_| resumed);
        let (fence, overtaken) = end.fence(&stream, &self.platform, sectors)?;
        if overtaken && !others {
            // To be remembered should this be cut short.
            let host = ShortText::truncated(&self.platform.host_name());
            cell.update(|superblock| {
                superblock.last_host = host.clone();
                Ok(())
            })?;
        }
        self.step("delete.objects")?;
        let guards = (others || overtaken).then(|| earlier.unwrap_or(fence).min(fence));
        self.delete_objects(&stream, guards)?;
        forget()?;
        self.step("delete.name")?;
        self.drop_name(name.as_str(), superblock.volume)?;
        self.step("delete.base")?;
        release_base(&self.store, &superblock)?;
        self.step("delete.superblock")?;
        Ok(self.store.delete(&keys::superblock(superblock.volume)?)?)
    }

    /// Deletes the objects of a stream, but for those that keep a writer out, from `guards` on.
    fn delete_objects(&self, stream: &Stream, guards: Option<ObjectSeq>) -> Result<()> {
        let prefix = keys::stream_prefix(stream.volume());
        let mut after = None;
        let mut kept = 0;
        loop {
            let page = self.store.list(&prefix, after.as_ref(), PAGE)?;
            let mut gone = Vec::new();
            for object in &page.objects {
                let seq = keys::parse_object(stream.volume(), &object.key);
                let may_guard = guards.zip(seq).filter(|(first, seq)| seq >= first);
                match may_guard {
                    Some((_, seq)) if is_guard(stream, seq)? => kept += 1,
                    _ => gone.push(object.key.clone()),
                }
            }
            self.store.delete_many(&gone)?;
            after = page.objects.last().map(|object| object.key.clone());
            if !page.truncated || after.is_none() {
                break;
            }
        }
        if kept > 0 {
            log::info!(
                "{}: another host may have it open; the objects that keep that host out stay ({kept})",
                stream.volume()
            );
        }
        Ok(())
    }

    /// Gives `name` up, if it still means `uuid`. Deletes are unconditional on every store and
    /// might hit a name that somebody else has taken meanwhile; so an empty record takes its
    /// place, which the next one to want the name replaces.
    pub(crate) fn drop_name(&self, name: &str, uuid: Uuid) -> Result<()> {
        let key = keys::name(name)?;
        let (bytes, version) = match self.store.get(&key) {
            Ok(found) => found,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if self.decode(&key, &bytes)? != Some(uuid) {
            return Ok(());
        }
        match self.store.replace(&key, &[], &version) {
            Ok(_) | Err(StoreError::Precondition { .. } | StoreError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) fn step(&self, name: &'static str) -> Result<()> {
        self.platform.failpoint(name).map_err(|e| Error::local(name, "pass", e))
    }
}

/// Changes the name in a superblock, if it is still the one that is to be changed.
fn rename_in(superblock: &mut Superblock, from: &VolumeName, to: &VolumeName) -> Result<()> {
    let live = superblock.state == VolumeState::Live;
    if !live || superblock.name.as_str() != from.as_str() {
        return Err(Error::NoSuchVolume(from.to_string()));
    }
    superblock.name = ShortText::truncated(to.as_str());
    Ok(())
}
