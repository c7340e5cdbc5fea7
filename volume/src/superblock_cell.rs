//! A volume's superblock in the store, changed only by conditional replaces.

use std::sync::Arc;

use lsvd_store::{ObjectStore, StoreError, Version};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::superblock::SUPERBLOCK_BYTES_MAX;
use crate::format::{FormatError, Superblock};
use crate::keys;

/// How often a change is tried against others that change the same superblock.
const ATTEMPTS: u32 = 16;

/// The superblock as last seen, and its version.
#[derive(Debug)]
pub(crate) struct SuperblockCell {
    store: Arc<dyn ObjectStore>,
    volume: Uuid,
    seen: Mutex<(Superblock, Version)>,
    /// Held while the superblock is changed; `seen` never is while the store is asked.
    changing: Mutex<()>,
}

impl SuperblockCell {
    /// Reads the superblock of `volume`; `None` if there is none.
    ///
    /// # Errors
    /// Damaged, of a newer version, or the store fails.
    pub(crate) fn open(store: &Arc<dyn ObjectStore>, volume: Uuid) -> Result<Option<Self>> {
        let Some(seen) = read(&**store, volume)? else { return Ok(None) };
        Ok(Some(Self {
            store: Arc::clone(store),
            volume,
            seen: Mutex::new(seen),
            changing: Mutex::default(),
        }))
    }

    /// The superblock as last seen.
    pub(crate) fn get(&self) -> Superblock {
        self.seen.lock().0.clone()
    }

    /// Reads the superblock again; `None` if it is gone.
    pub(crate) fn reread(&self) -> Result<Option<Superblock>> {
        let _alone = self.changing.lock();
        let Some(found) = read(&*self.store, self.volume)? else { return Ok(None) };
        let superblock = found.0.clone();
        *self.seen.lock() = found;
        Ok(Some(superblock))
    }

    /// Changes the superblock. If somebody else changed it meanwhile, it is read again and
    /// `change` is applied to what they left; `change` may refuse.
    pub(crate) fn update(&self, change: impl Fn(&mut Superblock) -> Result<()>) -> Result<()> {
        self.try_update(|superblock| change(superblock).map(|()| true)).map(drop)
    }

    /// As [`Self::update`]; `change` may also leave everything as it is, by returning false.
    pub(crate) fn try_update(
        &self,
        mut change: impl FnMut(&mut Superblock) -> Result<bool>,
    ) -> Result<bool> {
        let key = keys::superblock(self.volume)?;
        let _alone = self.changing.lock();
        for _ in 0..ATTEMPTS {
            let (mut next, version) = self.seen.lock().clone();
            if !change(&mut next)? {
                return Ok(false);
            }
            next.generation = next.generation.wrapping_add(1);
            let bytes = next.encode().map_err(|e| e.of(describe(&*self.store, self.volume)))?;
            match self.store.replace(&key, &bytes, &version) {
                Ok(version) => {
                    *self.seen.lock() = (next, version);
                    return Ok(true);
                }
                Err(StoreError::Precondition { .. }) => {
                    let found = read(&*self.store, self.volume)?;
                    let found = found.ok_or_else(|| Error::Deleted(next.name.to_string()))?;
                    let ours = found.0 == next;
                    *self.seen.lock() = found;
                    if ours {
                        // An earlier attempt of ours arrived, only its answer was lost.
                        return Ok(true);
                    }
                }
                Err(e) if e.is_not_found() => return Err(Error::Deleted(next.name.to_string())),
                Err(e) => return Err(e.into()),
            }
        }
        Err(Error::damaged(describe(&*self.store, self.volume), "others change it all the time"))
    }
}

fn describe(store: &dyn ObjectStore, volume: Uuid) -> String {
    format!("{}: superblock data/{volume}/super", store.url())
}

fn read(store: &dyn ObjectStore, volume: Uuid) -> Result<Option<(Superblock, Version)>> {
    let key = keys::superblock(volume)?;
    let what = || describe(store, volume);
    match store.head(&key) {
        Ok(meta) if meta.size > SUPERBLOCK_BYTES_MAX as u64 => {
            return Err(FormatError::Invalid("it is too long").of(what()));
        }
        // It keeps a superblock from being made there.
        Ok(meta) if meta.size == 0 => return Ok(None),
        Ok(_) => {}
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let (bytes, version) = match store.get(&key) {
        Ok(found) => found,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let superblock = Superblock::decode(&bytes).map_err(|e| e.of(what()))?;
    if superblock.volume != volume {
        return Err(Error::damaged(what(), "it is another volume's"));
    }
    Ok(Some((superblock, version)))
}
