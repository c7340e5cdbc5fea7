//! `/.snapshots/<volume>/<snapshot>`: snapshots as read-only files.
//!
//! Inodes are given out as names are looked up, and kept while the mount is: the same name is the same
//! file as long as it is the same snapshot.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use lsvd_volume::{Error, FileAttrs, Result, SnapshotInfo, Volume, VolumeName};
use parking_lot::Mutex;

use super::handles::DirEntry;
use super::inode::{Attr, Kind};
use super::volumes::Volumes;

/// The first inode of this tree; those of volumes are spread over all numbers by chance.
const FIRST: u64 = 0x5eed_0000_0000;

/// What lies below `/.snapshots`.
#[derive(Clone, Debug)]
enum Entry {
    /// The directory of a volume.
    Volume {
        name: VolumeName,
        attrs: FileAttrs,
    },
    Snapshot {
        volume: VolumeName,
        attrs: FileAttrs,
        info: SnapshotInfo,
    },
}

/// The inodes given out.
#[derive(Debug, Default)]
pub(crate) struct SnapshotTree {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    /// By the volume's name and, of a snapshot, its name and time.
    known: HashMap<(String, Option<(String, u64)>), u64>,
}

impl SnapshotTree {
    /// Whether an inode is of this tree.
    pub(crate) fn holds(&self, ino: u64) -> bool {
        self.table.lock().entries.contains_key(&ino)
    }

    /// What `stat` shows.
    pub(crate) fn attr(&self, ino: u64) -> Option<Attr> {
        self.table.lock().entries.get(&ino).map(|entry| entry.attr(ino))
    }

    /// The directory of a volume. May wait for the store.
    pub(crate) fn volume(&self, volumes: &Volumes, name: &VolumeName) -> Result<Attr> {
        let node = volumes.find(name)?;
        let entry = Entry::Volume { name: name.clone(), attrs: node.attrs_now() };
        Ok(self.give(entry))
    }

    /// The file `name` in the directory `parent`; `None` if that is none of a volume. May wait for
    /// the store.
    pub(crate) fn snapshot(
        &self,
        volumes: &Volumes,
        parent: u64,
        name: &OsStr,
    ) -> Option<Result<Attr>> {
        let volume = self.volume_of(parent)?;
        let found = self.all(volumes, &volume).and_then(|all| {
            let found = all.into_iter().find(|(known, _)| name == known.as_str());
            let none = || Error::NoSuchSnapshot {
                volume: volume.to_string(),
                snapshot: name.to_string_lossy().into_owned(),
            };
            found.map(|(_, attr)| attr).ok_or_else(none)
        });
        Some(found)
    }

    /// The names in the directory `ino`; `None` if that is none of a volume. May wait for the store.
    pub(crate) fn names(&self, volumes: &Volumes, ino: u64) -> Option<Result<Vec<DirEntry>>> {
        let volume = self.volume_of(ino)?;
        let all = self.all(volumes, &volume);
        let entry =
            |(name, attr): (String, Attr)| DirEntry { ino: attr.ino, kind: attr.kind, name };
        Some(all.map(|all| all.into_iter().map(entry).collect()))
    }

    /// Opens the file `ino`; `None` if that is no snapshot. May wait for the store.
    pub(crate) fn open(&self, volumes: &Volumes, ino: u64) -> Option<Result<Arc<Volume>>> {
        let entry = self.table.lock().entries.get(&ino).cloned();
        let Some(Entry::Snapshot { volume, info, .. }) = entry else { return None };
        Some(volumes.engine().open_same_snapshot(&volume, &info))
    }

    fn volume_of(&self, ino: u64) -> Option<VolumeName> {
        match self.table.lock().entries.get(&ino) {
            Some(Entry::Volume { name, .. }) => Some(name.clone()),
            Some(Entry::Snapshot { .. }) | None => None,
        }
    }

    fn all(&self, volumes: &Volumes, volume: &VolumeName) -> Result<Vec<(String, Attr)>> {
        let attrs = volumes.find(volume)?.attrs_now();
        let found = volumes.engine().snapshots(volume)?;
        let named = found.into_iter().filter(|info| !info.for_clones).map(|info| {
            let name = info.name.clone();
            (name, self.give(Entry::Snapshot { volume: volume.clone(), attrs, info }))
        });
        Ok(named.collect())
    }

    fn give(&self, entry: Entry) -> Attr {
        let mut table = self.table.lock();
        let next = FIRST + table.known.len() as u64;
        let ino = *table.known.entry(entry.key()).or_insert(next);
        let attr = entry.attr(ino);
        table.entries.insert(ino, entry);
        attr
    }
}

impl Entry {
    fn key(&self) -> (String, Option<(String, u64)>) {
        match self {
            Entry::Volume { name, .. } => (name.to_string(), None),
            Entry::Snapshot { volume, info, .. } => {
                (volume.to_string(), Some((info.name.clone(), info.created_ms)))
            }
        }
    }

    fn attr(&self, ino: u64) -> Attr {
        let (kind, size, attrs, created_ms) = match self {
            Entry::Volume { attrs, .. } => (Kind::Directory, 0, attrs, attrs.created_ms),
            Entry::Snapshot { attrs, info, .. } => {
                (Kind::File, info.size_bytes, attrs, info.created_ms)
            }
        };
        // Who may not read the volume may not read what it was.
        let readable = attrs.mode & 0o444;
        let mode = if kind == Kind::Directory { readable | readable >> 2 } else { readable };
        Attr {
            ino,
            kind,
            size,
            blocks: size.div_ceil(512),
            mode,
            uid: attrs.uid,
            gid: attrs.gid,
            created_ms,
            modified_ms: created_ms,
        }
    }
}
