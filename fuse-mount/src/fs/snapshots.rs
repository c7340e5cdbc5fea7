//! `/.snapshots/<volume>/<snapshot>`: snapshots as read-only files.
//!
//! Inodes follow from the volume's uuid and the snapshot's name and time, so the same snapshot has the
//! same one whenever it is looked up. What an inode means is known from its first lookup until the
//! kernel has forgotten as many lookups as it made; a listing alone makes nothing known.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use lsvd_volume::{Error, FileAttrs, Result, SnapshotInfo, Uuid, Volume, VolumeName};
use parking_lot::Mutex;

use super::handles::DirEntry;
use super::inode::{Attr, Kind, Node, ino_of_bits};
use super::volumes::Volumes;

/// What lies below `/.snapshots`.
#[derive(Clone, Debug)]
struct Entry {
    uuid: Uuid,
    volume: VolumeName,
    attrs: FileAttrs,
    /// None for the directory of the volume.
    snapshot: Option<SnapshotInfo>,
}

/// What the kernel knows of it.
#[derive(Debug, Default)]
pub(crate) struct SnapshotTree {
    table: Mutex<Table>,
}

/// By inode: what it is, and how many lookups the kernel made of it and has not forgotten.
#[derive(Debug, Default)]
struct Table(HashMap<u64, (Entry, u64)>);

impl SnapshotTree {
    /// Whether an inode is of this tree.
    pub(crate) fn holds(&self, ino: u64) -> bool {
        self.table.lock().0.contains_key(&ino)
    }

    /// What `stat` shows.
    pub(crate) fn attr(&self, ino: u64) -> Option<Attr> {
        self.entry(ino).map(|entry| entry.attr())
    }

    /// The kernel looks the directory of a volume up. May wait for the store.
    pub(crate) fn look_up_volume(&self, volumes: &Volumes, name: &VolumeName) -> Result<Attr> {
        let node = volumes.find(name)?;
        Ok(self.table.lock().look_up(Entry::directory(&node)))
    }

    /// The kernel looks the file `name` in the directory `parent` up; `None` if that is none of a
    /// volume. May wait for the store.
    pub(crate) fn look_up(
        &self,
        volumes: &Volumes,
        parent: u64,
        name: &OsStr,
    ) -> Option<Result<Attr>> {
        let volume = self.volume_of(parent)?;
        let found = files(volumes, &volume).and_then(|files| {
            let is_it =
                |file: &Entry| file.snapshot.as_ref().is_some_and(|info| name == &*info.name);
            let none = || Error::NoSuchSnapshot {
                volume: volume.to_string(),
                snapshot: name.to_string_lossy().into_owned(),
            };
            files.into_iter().find(is_it).ok_or_else(none)
        });
        Some(found.map(|file| self.table.lock().look_up(file)))
    }

    /// The kernel has forgotten so many lookups of an inode.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        if self.table.lock().forget(ino, lookups) {
            log::debug!("inode {ino} below .snapshots is forgotten");
        }
    }

    /// The names in the directory `ino`; `None` if that is none of a volume. May wait for the store.
    pub(crate) fn names(&self, volumes: &Volumes, ino: u64) -> Option<Result<Vec<DirEntry>>> {
        let volume = self.volume_of(ino)?;
        let name = |file: Entry| Some(DirEntry::file(file.ino(), &file.snapshot?.name));
        Some(files(volumes, &volume).map(|files| files.into_iter().filter_map(name).collect()))
    }

    /// Opens the file `ino`; `None` if that is no snapshot. May wait for the store.
    pub(crate) fn open(&self, volumes: &Volumes, ino: u64) -> Option<Result<Arc<Volume>>> {
        let entry = self.entry(ino)?;
        Some(volumes.engine().open_same_snapshot(&entry.volume, &entry.snapshot?))
    }

    fn entry(&self, ino: u64) -> Option<Entry> {
        self.table.lock().0.get(&ino).map(|(entry, _)| entry.clone())
    }

    fn volume_of(&self, ino: u64) -> Option<VolumeName> {
        self.entry(ino).filter(|entry| entry.snapshot.is_none()).map(|entry| entry.volume)
    }
}

/// The names in `/.snapshots`.
pub(crate) fn directories(nodes: &[Arc<Node>]) -> Vec<DirEntry> {
    let entries = nodes.iter().map(|node| Entry::directory(node));
    entries.map(|entry| DirEntry::directory(entry.ino(), entry.volume.as_str())).collect()
}

/// The snapshots of a volume. May wait for the store.
fn files(volumes: &Volumes, volume: &VolumeName) -> Result<Vec<Entry>> {
    let directory = Entry::directory(&*volumes.find(volume)?);
    let found = volumes.engine().snapshots(volume)?;
    let shown = found.into_iter().filter(|info| !info.for_clones);
    Ok(shown.map(|info| Entry { snapshot: Some(info), ..directory.clone() }).collect())
}

impl Table {
    fn look_up(&mut self, entry: Entry) -> Attr {
        let attr = entry.attr();
        let lookups = self.0.get(&attr.ino).map_or(0, |(_, lookups)| *lookups);
        self.0.insert(attr.ino, (entry, lookups + 1));
        attr
    }

    /// Whether nothing is known of the inode any more.
    fn forget(&mut self, ino: u64, forgotten: u64) -> bool {
        let Some((_, lookups)) = self.0.get_mut(&ino) else { return false };
        *lookups = lookups.saturating_sub(forgotten);
        let forget = *lookups == 0;
        if forget {
            self.0.remove(&ino);
        }
        forget
    }
}

impl Entry {
    fn directory(node: &Node) -> Self {
        Self { uuid: node.uuid, volume: node.name(), attrs: node.attrs_now(), snapshot: None }
    }

    fn ino(&self) -> u64 {
        let snapshot = self.snapshot.as_ref().map(|info| (&info.name, info.created_ms));
        let mut hasher = DefaultHasher::new();
        (self.uuid, snapshot).hash(&mut hasher);
        ino_of_bits(hasher.finish())
    }

    fn attr(&self) -> Attr {
        let attrs = self.attrs;
        let (kind, size, created_ms) = match &self.snapshot {
            None => (Kind::Directory, 0, attrs.created_ms),
            Some(info) => (Kind::File, info.size_bytes, info.created_ms),
        };
        // Who may not read the volume may not read what it was.
        let readable = attrs.mode & 0o444;
        let mode = if kind == Kind::Directory { readable | readable >> 2 } else { readable };
        Attr {
            ino: self.ino(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, volume: u128, size_bytes: u64) -> Entry {
        let info = SnapshotInfo {
            name: name.to_owned(),
            created_ms: 7,
            size_bytes,
            object: 1,
            exclusive_bytes: 0,
            protected: false,
            for_clones: false,
            clones: 0,
        };
        let attrs = FileAttrs { mode: 0o644, uid: 0, gid: 0, created_ms: 1, modified_ms: 1 };
        let (uuid, volume) = (Uuid::from_u128(volume), VolumeName::new("v").unwrap());
        Entry { uuid, volume, attrs, snapshot: Some(info) }
    }

    #[test]
    fn an_inode_is_known_until_every_lookup_is_forgotten() {
        let mut table = Table::default();
        let ino = table.look_up(file("a", 1, 4096)).ino;
        let other = table.look_up(file("b", 1, 4096)).ino;
        assert_eq!(table.look_up(file("a", 1, 8192)).ino, ino);
        assert_eq!(table.0.get(&ino).map(|(entry, _)| entry.attr().size), Some(8192));
        assert!(!table.forget(ino, 1));
        assert!(table.forget(ino, 1));
        assert!(!table.forget(ino, 1));
        assert_eq!(table.0.keys().copied().collect::<Vec<_>>(), [other]);
        assert_eq!(table.look_up(file("a", 1, 4096)).ino, ino, "it comes back as what it was");
    }

    #[test]
    fn inodes_differ_by_volume_and_name() {
        let directory = Entry { snapshot: None, ..file("a", 1, 0) };
        let all = [file("a", 1, 0), file("b", 1, 0), file("a", 2, 0), directory];
        let inodes: std::collections::HashSet<u64> = all.iter().map(Entry::ino).collect();
        assert_eq!(inodes.len(), all.len());
    }
}
