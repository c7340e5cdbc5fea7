//! Putting right what [`super::orphans`] found.
//!
//! Each cure looks again at what it is to cure, and does nothing if that is not so any more.

use std::sync::Arc;

use lsvd_store::{ObjectStore, StoreError};
use uuid::Uuid;

use super::Desk;
use super::orphans::{CREATION_MS, Cures, is_named, is_stale, is_unused};
use super::strays::look_at_strays;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::format::{FormatError, NameRecord, VolumeState};
use crate::keys;
use crate::name::VolumeName;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;

/// What can be done about an orphan.
#[derive(Clone, Debug)]
pub(crate) enum Cure {
    /// A deletion that was cut short is finished.
    FinishDeletion(Uuid),
    /// A volume that no name leads to gets one or, if it was never used and is old, goes.
    Nameless(Uuid),
    /// A name that leads nowhere is given up.
    StaleName(VolumeName),
    /// Objects that no volume can be made of are deleted.
    Strays(Uuid),
}

/// What the cures need to know of this host, and do here.
pub(crate) struct ThisHost<'a> {
    pub(crate) now_ms: u64,
    /// Whether a volume is open here.
    pub(crate) is_open: &'a dyn Fn(Uuid) -> bool,
    /// Whether there is a log of a volume here.
    pub(crate) has_log: &'a dyn Fn(&VolumeName, Uuid) -> bool,
    /// Gives up what is kept of a deleted volume here.
    pub(crate) forget: &'a dyn Fn(&VolumeName, Uuid) -> Result<()>,
}

/// Reports `cures`, applied if `repair` is wanted. Volumes that are open here are left as they are.
pub(crate) fn mend(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    cures: Cures,
    here: &ThisHost<'_>,
    desk: &Desk,
) -> Result<()> {
    for (finding, cure) in cures {
        let mended = match &cure {
            Cure::FinishDeletion(uuid) if !(here.is_open)(*uuid) => {
                finish_deletion(store, catalog, *uuid, here)
            }
            Cure::Nameless(uuid) if !(here.is_open)(*uuid) => name(store, catalog, *uuid, here),
            Cure::StaleName(name) => give_up(store, catalog, name, desk),
            Cure::Strays(uuid) => sweep(store, *uuid, desk),
            Cure::FinishDeletion(_) | Cure::Nameless(_) => Ok(false),
        };
        let finding = match mended {
            Ok(true) => finding.mended(),
            Ok(false) => finding,
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => {
                let detail = format!("{}; mending it failed: {error}", finding.detail);
                super::Finding { detail, ..finding }
            }
        };
        desk.found(finding);
    }
    Ok(())
}

fn finish_deletion(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    uuid: Uuid,
    here: &ThisHost<'_>,
) -> Result<bool> {
    let Some(cell) = SuperblockCell::open(store, uuid)? else { return Ok(false) };
    let superblock = cell.get();
    if superblock.state != VolumeState::Deleting {
        return Ok(false);
    }
    delete(catalog, &cell, here.forget)
}

fn delete(
    catalog: &Catalog,
    cell: &SuperblockCell,
    forget: &dyn Fn(&VolumeName, Uuid) -> Result<()>,
) -> Result<bool> {
    let superblock = cell.get();
    let name = VolumeName::new(superblock.name.as_str())?;
    match catalog.delete(cell, &name, |_| false, || forget(&name, superblock.volume)) {
        Ok(()) => Ok(true),
        // Somebody else did.
        Err(Error::Deleted(_) | Error::NoSuchVolume(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn name(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    uuid: Uuid,
    here: &ThisHost<'_>,
) -> Result<bool> {
    let Some(cell) = SuperblockCell::open(store, uuid)? else { return Ok(false) };
    if cell.get().state != VolumeState::Live || is_named(catalog, &cell)? {
        return Ok(false);
    }
    let superblock = cell.get();
    let own = VolumeName::new(superblock.name.as_str())?;
    if is_unused(store, &superblock)? && !(here.has_log)(&own, uuid) {
        // A record of that name that cannot be read would end the deletion in the middle.
        catalog.uuid_of(&keys::name(own.as_str())?)?;
        let age = here.now_ms.saturating_sub(superblock.attrs.created_ms);
        return if age < CREATION_MS { Ok(false) } else { delete(catalog, &cell, here.forget) };
    }
    if rewrite_name(&**store, &own, uuid)? {
        return Ok(true);
    }
    let spare = VolumeName::new(&format!("recovered-{uuid}"))?;
    catalog.rename(&cell, &own, &spare)?;
    Ok(true)
}

/// Writes a damaged name record anew; `false` if it is sound or not there.
fn rewrite_name(store: &dyn ObjectStore, name: &VolumeName, uuid: Uuid) -> Result<bool> {
    let key = keys::name(name.as_str())?;
    let (bytes, version) = match store.get(&key) {
        Ok(found) => found,
        Err(e) if e.is_not_found() => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    let decoded = NameRecord::decode(&bytes);
    // What a later version wrote is not damaged.
    if bytes.is_empty() || matches!(decoded, Ok(_) | Err(FormatError::NewerVersion { .. })) {
        return Ok(false);
    }
    match store.replace(&key, &NameRecord { volume: uuid }.encode(), &version) {
        Ok(_) => Ok(true),
        Err(StoreError::Precondition { .. } | StoreError::NotFound { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn give_up(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    name: &VolumeName,
    desk: &Desk,
) -> Result<bool> {
    let Some(uuid) = catalog.uuid_of(&keys::name(name.as_str())?)? else { return Ok(false) };
    if !is_stale(store, catalog, name, desk)? {
        return Ok(false);
    }
    catalog.drop_name(name.as_str(), uuid)?;
    Ok(true)
}

fn sweep(store: &Arc<dyn ObjectStore>, uuid: Uuid, desk: &Desk) -> Result<bool> {
    if SuperblockCell::open(store, uuid)?.is_some() {
        return Ok(false);
    }
    let strays = look_at_strays(store, uuid, desk)?;
    if strays.may_be_volume {
        return Ok(false);
    }
    Stream::new(Arc::clone(store), uuid).delete(&strays.others)?;
    Ok(true)
}
