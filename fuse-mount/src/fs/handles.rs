//! Open files and directories, by the number the kernel hands back with each request.

use std::sync::Arc;

use lsvd_volume::Volume;
use parking_lot::RwLock;

use super::Outcome;
use super::errno::Errno;
use super::inode::{Kind, Node};

/// One name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct DirEntry {
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

impl DirEntry {
    /// A file's.
    pub(crate) fn file(ino: u64, name: &str) -> Self {
        Self { ino, kind: Kind::File, name: name.to_owned() }
    }

    /// A directory's.
    pub(crate) fn directory(ino: u64, name: &str) -> Self {
        Self { ino, kind: Kind::Directory, name: name.to_owned() }
    }
}

/// What an open file is.
pub(crate) enum Handle {
    /// A volume.
    Volume { node: Arc<Node>, write: bool },
    /// A snapshot.
    Snapshot(Arc<Volume>),
    /// A directory, as it was when it was opened.
    Directory(Vec<DirEntry>),
    /// A status file, as it was when it was opened.
    Text(Vec<u8>),
}

impl Handle {
    /// What can be read of a volume or a snapshot, and where the file ends.
    pub(crate) fn content(&self) -> Outcome<(Arc<Volume>, u64)> {
        match self {
            Handle::Volume { node, .. } => {
                let volume = node.volume().ok_or(Errno::EIO)?;
                let size = node.size_in(&volume);
                Ok((volume, size))
            }
            Handle::Snapshot(volume) => Ok((Arc::clone(volume), volume.size_bytes())),
            Handle::Directory(_) | Handle::Text(_) => Err(Errno::EINVAL),
        }
    }
}

/// The open files of a mount.
#[derive(Default)]
pub(crate) struct Handles(RwLock<Table>);

#[derive(Default)]
struct Table {
    slots: Vec<Option<Arc<Handle>>>,
    free: Vec<usize>,
}

impl Handles {
    /// Takes the file in; the number is its until [`Handles::remove`].
    pub(crate) fn insert(&self, handle: Handle) -> u64 {
        let mut table = self.0.write();
        let handle = Some(Arc::new(handle));
        match table.free.pop() {
            Some(index) => {
                if let Some(slot) = table.slots.get_mut(index) {
                    *slot = handle;
                }
                index as u64
            }
            None => {
                table.slots.push(handle);
                table.slots.len() as u64 - 1
            }
        }
    }

    /// The file with this number.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.0.read().slots.get(usize::try_from(number).ok()?)?.clone()
    }

    /// Gives the number back.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        let index = usize::try_from(number).ok()?;
        let mut table = self.0.write();
        let handle = table.slots.get_mut(index)?.take()?;
        table.free.push(index);
        Some(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_only_after_release() {
        let handles = Handles::default();
        let first = handles.insert(Handle::Text(vec![1]));
        let second = handles.insert(Handle::Text(vec![2]));
        assert_ne!(first, second);
        assert!(handles.remove(first).is_some());
        assert!(handles.remove(first).is_none());
        assert!(handles.get(first).is_none());
        assert_eq!(handles.insert(Handle::Text(vec![3])), first);
        assert!(handles.get(u64::MAX).is_none());
    }
}
