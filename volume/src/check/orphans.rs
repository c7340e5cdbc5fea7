//! All volumes of a store, and what belongs to none.
//!
//! Names, superblocks and objects are read one after the other while others change them. So whatever
//! looks wrong is looked at afresh before it is called so, in an order in which a creation, rename or
//! deletion under way does not look wrong; and once more before it is mended.

use std::collections::BTreeMap;
use std::sync::Arc;

use lsvd_store::{Key, ObjectStore};
use uuid::Uuid;

use super::mend::Cure;
use super::report::{Finding, Severity};
use super::strays::{Strays, look_at_strays};
use super::survey::Looked;
use super::volume::check_volume;
use super::{Check, Desk};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::format::{Superblock, VolumeState};
use crate::keys;
use crate::name::VolumeName;
use crate::superblock_cell::SuperblockCell;
use crate::units::Epoch;

/// Names asked for with one request.
const PAGE: usize = 1000;

/// So long a creation may take between its superblock and its name, in milliseconds.
pub(crate) const CREATION_MS: u64 = 3_600_000;

/// How often a superblock is read again that changes while its name is looked up.
const LOOKS: u32 = 8;

/// What to do about a finding.
pub(crate) type Cures = Vec<(Finding, Cure)>;

/// Checks every volume, and what belongs to none. Returns what can be mended; `now_ms` is the time.
pub(crate) fn check_all(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    options: &Check,
    now_ms: u64,
    desk: &Desk,
) -> Result<Cures> {
    let all = All { store, catalog, options, now_ms, desk };
    let names = all.names()?;
    let named = names.iter().filter_map(|(name, uuid)| Some(((*uuid)?, name)));
    let named: BTreeMap<Uuid, &VolumeName> = named.collect();
    let mut cures = Cures::new();
    for uuid in all.uuids()? {
        cures.extend(all.check_uuid(uuid, named.get(&uuid).copied())?);
    }
    desk.enter("");
    for (name, uuid) in &names {
        cures.extend(all.check_name(name, *uuid)?);
    }
    all.probe_remains()?;
    Ok(cures)
}

/// Whether the name in a superblock leads back to it.
pub(crate) fn is_named(catalog: &Catalog, cell: &SuperblockCell) -> Result<bool> {
    for _ in 0..LOOKS {
        let Some(superblock) = cell.reread()? else { return Ok(true) };
        // A name that cannot be one leads nowhere.
        let Ok(key) = keys::name(superblock.name.as_str()) else { return Ok(false) };
        if let Looked::Found(uuid) = Looked::of(catalog.uuid_of(&key))?
            && uuid == superblock.volume
        {
            return Ok(true);
        }
        // A rename may have come between.
        if cell.reread()?.is_none_or(|again| again.name == superblock.name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a name record leads nowhere. One that leads to something damaged does not.
pub(crate) fn is_stale(
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    name: &VolumeName,
    desk: &Desk,
) -> Result<bool> {
    let uuid = match Looked::of(catalog.uuid_of(&keys::name(name.as_str())?))? {
        Looked::Found(uuid) => uuid,
        Looked::Missing | Looked::Damaged(_) => return Ok(false),
    };
    Ok(match Looked::of(SuperblockCell::open(store, uuid))? {
        Looked::Found(cell) => cell.get().name.as_str() != name.as_str(),
        Looked::Missing => look_at_strays(store, uuid, desk)?.others.is_empty(),
        Looked::Damaged(_) => false,
    })
}

struct All<'a> {
    store: &'a Arc<dyn ObjectStore>,
    catalog: &'a Catalog,
    options: &'a Check,
    now_ms: u64,
    desk: &'a Desk,
}

impl All<'_> {
    fn describe(&self, key: impl std::fmt::Display) -> String {
        format!("{}: {key}", self.store.url())
    }

    /// All names that mean something, and what they mean; none where they cannot be read.
    fn names(&self) -> Result<Vec<(VolumeName, Option<Uuid>)>> {
        self.desk.begin("reading names", 0)?;
        let mut names = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.list(keys::NAMES, after.as_ref(), PAGE)?;
            for object in page.objects.iter().filter(|object| object.size > 0) {
                let text = object.key.as_str().strip_prefix(keys::NAMES).unwrap_or_default();
                let Ok(name) = VolumeName::new(text) else {
                    self.foreign(&object.key);
                    continue;
                };
                match Looked::of(self.catalog.uuid_of(&object.key))? {
                    Looked::Found(uuid) => names.push((name, Some(uuid))),
                    Looked::Missing => {}
                    Looked::Damaged(error) => {
                        let advice = "`check --repair` writes it anew if a volume has that name";
                        self.desk.damaged(&error, advice);
                        names.push((name, None));
                    }
                }
                self.desk.done(1)?;
            }
            after = page.objects.last().map(|object| object.key.clone());
            if !page.truncated || after.is_none() {
                return Ok(names);
            }
        }
    }

    fn foreign(&self, key: &Key) {
        let detail = "it is nothing that this program writes";
        let advice = "it is never touched; delete it by hand if nobody wants it";
        self.desk.found(Finding::new(Severity::Note, self.describe(key), detail, advice));
    }

    /// All volumes that there is anything of, with one short listing each.
    fn uuids(&self) -> Result<Vec<Uuid>> {
        self.desk.begin("looking for volumes", 0)?;
        let mut uuids = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.list("data/", after.as_ref(), 1)?;
            let Some(first) = page.objects.first() else { return Ok(uuids) };
            let volume = keys::volume_of(first.key.as_str());
            // What follows the slash in the order of bytes: behind all that is the volume's.
            let behind = volume.and_then(|volume| Key::new(format!("data/{volume}0")).ok());
            // Only as it is written: others would be looked for elsewhere.
            let uuid = volume.and_then(|text| {
                Uuid::parse_str(text).ok().filter(|uuid| uuid.to_string() == text)
            });
            match uuid {
                Some(uuid) => uuids.push(uuid),
                None => self.foreign(&first.key),
            }
            self.desk.done(1)?;
            after = Some(behind.unwrap_or_else(|| first.key.clone()));
        }
    }

    /// `meant` is a name that leads there.
    fn check_uuid(
        &self,
        uuid: Uuid,
        meant: Option<&VolumeName>,
    ) -> Result<Option<(Finding, Cure)>> {
        let cell = match Looked::of(SuperblockCell::open(self.store, uuid))? {
            Looked::Found(cell) => cell,
            Looked::Missing => return self.without_superblock(uuid, meant),
            Looked::Damaged(error) => {
                damaged_superblock(self.desk, &error, meant);
                return Ok(None);
            }
        };
        let superblock = cell.get();
        let what = self.describe(format!("volume {:?}, data/{uuid}/", superblock.name.as_str()));
        if superblock.state == VolumeState::Deleting {
            let detail = "its deletion was cut short, or is under way";
            let advice = "`check --repair` finishes it";
            let finding = Finding::new(Severity::Orphan, what, detail, advice);
            return Ok(Some((finding, Cure::FinishDeletion(uuid))));
        }
        check_volume(self.store, &cell, self.options, self.desk)?;
        if is_named(self.catalog, &cell)? {
            return Ok(None);
        }
        let is_unused = is_unused(self.store, &superblock)?;
        let age = self.now_ms.saturating_sub(superblock.attrs.created_ms);
        if is_unused && age < CREATION_MS {
            let detail = "it has no name; its creation may be under way";
            let advice = "if it stays so for an hour, `check --repair` removes it";
            self.desk.found(Finding::new(Severity::Note, what, detail, advice));
            return Ok(None);
        }
        let (detail, advice) = match is_unused {
            true => (
                "it was never used and has no name",
                "`check --repair` removes it, or names it if this host has a log of it",
            ),
            false => {
                let name = "`check --repair` names it, recovered-UUID if need be";
                ("it has been written to, but no name leads to it", name)
            }
        };
        let finding = Finding::new(Severity::Orphan, what, detail, advice);
        Ok(Some((finding, Cure::Nameless(uuid))))
    }

    /// There are objects, but no superblock.
    fn without_superblock(
        &self,
        uuid: Uuid,
        meant: Option<&VolumeName>,
    ) -> Result<Option<(Finding, Cure)>> {
        let what = self.describe(format!("data/{uuid}/"));
        let strays = look_at_strays(self.store, uuid, self.desk)?;
        let Strays { guards, others, bytes, may_be_volume } = &strays;
        if others.is_empty() {
            if *guards > 0 {
                let detail = format!(
                    "what keeps a writer out of a deleted volume that may not know of it (small \
                     objects: {guards})"
                );
                let advice = "they stay; delete them by hand once no host has it open";
                self.desk.found(Finding::new(Severity::Note, what, detail, advice));
            }
            return Ok(None);
        }
        if *may_be_volume || meant.is_some() {
            missing_superblock(self.store, self.desk, uuid, &strays, meant);
            return Ok(None);
        }
        let detail = format!("{} objects of a volume that was deleted", others.len());
        let advice = "`check --repair` deletes them";
        let finding = Finding::new(Severity::Orphan, what, detail, advice).of_bytes(*bytes);
        Ok(Some((finding, Cure::Strays(uuid))))
    }

    fn check_name(&self, name: &VolumeName, uuid: Option<Uuid>) -> Result<Option<(Finding, Cure)>> {
        let Some(uuid) = uuid else { return Ok(None) };
        if !is_stale(self.store, self.catalog, name, self.desk)? {
            return Ok(None);
        }
        let what = self.describe(format!("name record {}{name}", keys::NAMES));
        let detail =
            format!("it means volume {uuid}, which is not there or has another name by now");
        let advice = "`check --repair` gives the name up; so does whoever wants it";
        let finding = Finding::new(Severity::Orphan, what, detail, advice);
        Ok(Some((finding, Cure::StaleName(name.clone()))))
    }

    /// What tries of the store left. Whether one is under way cannot be seen, and without its objects
    /// it would fail; so they stay.
    fn probe_remains(&self) -> Result<()> {
        let page = self.store.list(keys::PROBES, None, PAGE)?;
        if page.objects.is_empty() {
            return Ok(());
        }
        let bytes: u64 = page.objects.iter().map(|object| object.size).sum();
        let more = if page.truncated { " or more" } else { "" };
        let detail = format!(
            "{}{more} objects by which hosts tried out the store; one may be at it now",
            page.objects.len()
        );
        let advice = "delete them by hand while no host mounts for the first time";
        let what = self.describe(keys::PROBES);
        self.desk.found(Finding::new(Severity::Note, what, detail, advice).of_bytes(bytes));
        Ok(())
    }
}

/// Whether nothing was ever written to a volume, as far as its superblock and its stream say.
pub(super) fn is_unused(store: &Arc<dyn ObjectStore>, superblock: &Superblock) -> Result<bool> {
    let prefix = keys::stream_prefix(superblock.volume);
    Ok(superblock.epoch == Epoch::ZERO && store.list(&prefix, None, 1)?.objects.is_empty())
}

/// Notes that a superblock cannot be read; `name` leads to it.
pub(crate) fn damaged_superblock(desk: &Desk, error: &Error, name: Option<&VolumeName>) {
    let advice = format!(
        "restore data/UUID/super from a copy of the store, or give the volume up with `delete {} --force`",
        name.map_or("NAME", VolumeName::as_str)
    );
    match (name, error) {
        (Some(name), Error::Damaged { what, detail }) => {
            let what = format!("volume {name:?}: {what}");
            desk.damaged(&Error::damaged(what, detail), &advice);
        }
        (Some(name), Error::NewerFormat { what, found, known }) => {
            let what = format!("volume {name:?}: {what}");
            desk.damaged(&Error::NewerFormat { what, found: *found, known: *known }, &advice);
        }
        (_, error) => desk.damaged(error, &advice),
    }
}

/// Notes that there are objects of a volume, but not its superblock; `name` leads there.
pub(crate) fn missing_superblock(
    store: &Arc<dyn ObjectStore>,
    desk: &Desk,
    uuid: Uuid,
    strays: &Strays,
    name: Option<&VolumeName>,
) {
    let what = format!("{}: superblock data/{uuid}/super", store.url());
    let detail = format!("it is missing; {} objects are there", strays.others.len());
    damaged_superblock(desk, &Error::damaged(what, detail), name);
}
