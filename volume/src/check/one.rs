//! The volume of one name.

use std::sync::Arc;

use lsvd_store::ObjectStore;

use super::orphans::{damaged_superblock, missing_superblock};
use super::strays::look_at_strays;
use super::survey::Looked;
use super::volume::check_volume;
use super::{Check, Desk};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::format::VolumeState;
use crate::keys;
use crate::name::VolumeName;
use crate::superblock_cell::SuperblockCell;

/// Checks what `name` means. Damage of its record or superblock is a finding as well.
///
/// # Errors
/// There is none of that name, or the store fails.
pub(crate) fn check_one(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    name: &VolumeName,
    options: &Check,
    desk: &Desk,
) -> Result<()> {
    desk.enter(name.as_str());
    let missing = || Error::NoSuchVolume(name.to_string());
    let uuid = match Looked::of(catalog.uuid_of(&keys::name(name.as_str())?))? {
        Looked::Found(uuid) => uuid,
        Looked::Missing => return Err(missing()),
        Looked::Damaged(error) => {
            desk.damaged(
                &error,
                "`check --repair` of all volumes writes it anew if one has that name",
            );
            return Ok(());
        }
    };
    match Looked::of(SuperblockCell::open(store, uuid))? {
        Looked::Found(cell) if cell.get().name.as_str() != name.as_str() => Err(missing()),
        Looked::Found(cell) if cell.get().state == VolumeState::Deleting => Err(missing()),
        Looked::Found(cell) => check_volume(store, &cell, options, desk),
        Looked::Missing => {
            let strays = look_at_strays(store, uuid, desk)?;
            if strays.others.is_empty() {
                return Err(missing());
            }
            missing_superblock(store, desk, uuid, &strays, Some(name));
            Ok(())
        }
        Looked::Damaged(error) => {
            damaged_superblock(desk, &error, Some(name));
            Ok(())
        }
    }
}
