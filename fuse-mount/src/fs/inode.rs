//! Inodes: what the kernel sees of a directory or a volume.
//!
//! ```text
//!   1  /                     lists the volumes
//!   2  /.lsvd                status files
//!   3  /.lsvd/status.json
//!   4  /.snapshots           what lies below is the matter of `snapshots`
//!   …  one per volume, from its uuid: stable over renames and mounts
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lsvd_volume::{BLOCK_BYTES, FileAttrs, Uuid, Volume, VolumeInfo, VolumeName};
use parking_lot::{Mutex, RwLock};

/// The mount's root.
pub(crate) const ROOT: u64 = 1;
/// The directory of status files.
pub(crate) const STATUS_DIR: u64 = 2;
/// The status file.
pub(crate) const STATUS_FILE: u64 = 3;
/// The directory of snapshots.
pub(crate) const SNAPSHOT_DIR: u64 = 4;
/// Inodes below this are not volumes.
const FIRST_VOLUME: u64 = 16;

/// Name of [`STATUS_DIR`] in the root.
pub(crate) const STATUS_DIR_NAME: &str = ".lsvd";
/// Name of [`SNAPSHOT_DIR`] in the root.
pub(crate) const SNAPSHOT_DIR_NAME: &str = ".snapshots";
/// Name of [`STATUS_FILE`] in [`STATUS_DIR`].
pub(crate) const STATUS_FILE_NAME: &str = "status.json";

/// Value of [`Node::end`] while the file ends where the volume does.
const AT_VOLUME_END: u64 = u64::MAX;

/// A directory or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// Of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) created_ms: u64,
    pub(crate) modified_ms: u64,
}

impl Attr {
    /// The mode without the kind of file.
    pub(crate) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// How many names it has; a directory has its own `.` as well.
    pub(crate) fn links(&self) -> u32 {
        if self.kind == Kind::Directory { 2 } else { 1 }
    }
}

/// The inode of the volume with this uuid.
pub(crate) fn ino_of(uuid: Uuid) -> u64 {
    let bits = uuid.as_u128();
    ino_of_bits((bits >> 64) as u64 ^ bits as u64)
}

/// The inode for bits that differ from file to file; none of the fixed ones.
pub(crate) fn ino_of_bits(bits: u64) -> u64 {
    if bits < FIRST_VOLUME { bits + FIRST_VOLUME } else { bits }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What is known of a volume, and who uses it. Guarded by [`Node::meta`].
pub(crate) struct Meta {
    pub(crate) name: VolumeName,
    pub(crate) attrs: FileAttrs,
    pub(crate) size_bytes: u64,
    /// When the store last said so.
    pub(crate) seen: Instant,
    /// Open files, and those of them that may write.
    pub(crate) users: u32,
    pub(crate) writers: u32,
    /// Set while the volume is being deleted: nobody may open it.
    pub(crate) deleting: bool,
}

/// A volume as a file.
///
/// Lock order: `shape`, then `meta` or `volume`; the latter two are never held together or
/// across a call that may wait.
pub(crate) struct Node {
    pub(crate) ino: u64,
    pub(crate) uuid: Uuid,
    pub(crate) meta: Mutex<Meta>,
    /// Serialises what changes size, name or being; may be held while the store is waited for.
    pub(crate) shape: Mutex<()>,
    volume: RwLock<Option<Arc<Volume>>>,
    /// Where the file ends, while it is being appended to and the volume is grown ahead of it.
    end: AtomicU64,
    modified_ms: AtomicU64,
}

impl Node {
    /// A node for what the store told.
    pub(crate) fn new(name: VolumeName, info: &VolumeInfo) -> Arc<Self> {
        Arc::new(Self {
            ino: ino_of(info.uuid),
            uuid: info.uuid,
            meta: Mutex::new(Meta {
                name,
                attrs: info.attrs,
                size_bytes: info.size_bytes,
                seen: Instant::now(),
                users: 0,
                writers: 0,
                deleting: false,
            }),
            shape: Mutex::new(()),
            volume: RwLock::new(None),
            end: AtomicU64::new(AT_VOLUME_END),
            modified_ms: AtomicU64::new(info.attrs.modified_ms),
        })
    }

    /// The open volume, if it is open.
    pub(crate) fn volume(&self) -> Option<Arc<Volume>> {
        self.volume.read().clone()
    }

    /// Readers that were open before see the writer from now on.
    pub(crate) fn set_volume(&self, volume: Option<Arc<Volume>>) {
        *self.volume.write() = volume;
    }

    /// The current name.
    pub(crate) fn name(&self) -> VolumeName {
        self.meta.lock().name.clone()
    }

    /// Size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self.volume.read().as_ref() {
            Some(volume) => self.size_in(volume),
            None => self.meta.lock().size_bytes,
        }
    }

    /// Size of the file, given its open volume.
    pub(crate) fn size_in(&self, volume: &Volume) -> u64 {
        self.end.load(Ordering::Acquire).min(volume.size_bytes())
    }

    /// The file ends at `end` now, though the volume is longer.
    pub(crate) fn end_before_volume(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// The file ends where the volume does.
    pub(crate) fn end_with_volume(&self) {
        self.end.store(AT_VOLUME_END, Ordering::Release);
    }

    /// Where the file ends, if that is not where the volume does.
    pub(crate) fn early_end(&self) -> Option<u64> {
        let end = self.end.load(Ordering::Acquire);
        (end != AT_VOLUME_END).then_some(end)
    }

    /// Something was written up to `end`.
    pub(crate) fn extend_to(&self, end: u64) {
        // Where the file ends with the volume this changes nothing: that mark is the maximum.
        self.end.fetch_max(end.next_multiple_of(BLOCK_BYTES), Ordering::AcqRel);
    }

    /// Notes a change of the content.
    pub(crate) fn touch(&self) {
        self.modified_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// Sets the time of the last change.
    pub(crate) fn set_modified(&self, modified_ms: u64) {
        self.modified_ms.store(modified_ms, Ordering::Relaxed);
    }

    /// The attributes to keep, with the newest time of change.
    pub(crate) fn attrs_now(&self) -> FileAttrs {
        FileAttrs {
            modified_ms: self.modified_ms.load(Ordering::Relaxed),
            ..self.meta.lock().attrs
        }
    }

    /// What `stat` shows.
    pub(crate) fn attr(&self) -> Attr {
        let volume = self.volume();
        let attrs = self.attrs_now();
        let size = self.size();
        // Of a volume that is not open only the size is known. "All of it" is the answer that
        // misleads nobody: some programs skip reading files that claim to hold no blocks.
        let allocated = volume.map_or(size, |volume| volume.stats().allocated_bytes);
        Attr {
            ino: self.ino,
            kind: Kind::File,
            size,
            blocks: allocated.div_ceil(512),
            mode: attrs.mode,
            uid: attrs.uid,
            gid: attrs.gid,
            created_ms: attrs.created_ms,
            modified_ms: attrs.modified_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_never_take_the_fixed_inodes() {
        for bits in [0u128, 1, 1 << 64, (7 << 64) | 7] {
            assert!(ino_of(Uuid::from_u128(bits)) >= FIRST_VOLUME);
        }
        assert_ne!(ino_of(Uuid::from_u128(100)), ino_of(Uuid::from_u128(101)));
    }
}
