//! Files and directories from being opened to being given back; and what directories list.

use std::sync::Arc;

use super::errno::Errno;
use super::handles::{DirEntry, Handle};
use super::inode::{
    Node, ROOT, SNAPSHOT_DIR, SNAPSHOT_DIR_NAME, STATUS_DIR, STATUS_DIR_NAME, STATUS_FILE,
    STATUS_FILE_NAME,
};
use super::snapshots::directories;
use super::{Outcome, VolumeFs, status};

impl VolumeFs {
    /// Opens a file with flags as those of `open(2)`; the outcome is the handle's number.
    pub(crate) fn open(
        &self,
        ino: u64,
        flags: i32,
        done: impl FnOnce(Outcome<u64>) + Send + 'static,
    ) {
        let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
        match ino {
            STATUS_FILE if write => return done(Err(Errno::EPERM)),
            STATUS_FILE => {
                let text = status::document(&self.facts, &self.volumes);
                return done(Ok(self.handles.insert(Handle::Text(text))));
            }
            ROOT | STATUS_DIR | SNAPSHOT_DIR => return done(Err(Errno::EISDIR)),
            _ if self.snapshots.holds(ino) && write => return done(Err(Errno::EROFS)),
            _ if self.snapshots.holds(ino) => return self.open_snapshot(ino, done),
            _ => {}
        }
        let Some(node) = self.volumes.by_ino(ino) else { return done(Err(Errno::ESTALE)) };
        match self.volumes.open_at_once(&node, write) {
            Ok(true) => done(Ok(self.handles.insert(Handle::Volume { node, write }))),
            Ok(false) => {
                let (volumes, handles) = (self.volumes.clone(), self.handles.clone());
                self.pool.run(move || {
                    let opened = volumes.finish_open(&node, write);
                    done(
                        opened
                            .map(|()| handles.insert(Handle::Volume { node, write }))
                            .map_err(|error| Errno::of("open", &error)),
                    );
                });
            }
            Err(error) => done(Err(Errno::of("open", &error))),
        }
    }

    fn open_snapshot(&self, ino: u64, done: impl FnOnce(Outcome<u64>) + Send + 'static) {
        let (volumes, snapshots) = (self.volumes.clone(), self.snapshots.clone());
        let handles = self.handles.clone();
        self.pool.run(move || {
            let opened = snapshots.open(&volumes, ino).ok_or(Errno::EISDIR);
            let opened = opened.and_then(|o| o.map_err(|error| Errno::of("open", &error)));
            done(opened.map(|volume| handles.insert(Handle::Snapshot(volume))));
        });
    }

    /// Gives a file's handle back.
    pub(crate) fn release(&self, handle: u64) {
        let Some(handle) = self.handles.remove(handle) else { return };
        let Handle::Volume { node, write } = &*handle else { return };
        if self.volumes.release(node, *write) {
            let (volumes, node) = (self.volumes.clone(), node.clone());
            self.pool.run(move || {
                if let Err(error) = volumes.settle(&node) {
                    log::warn!("{}: after the last writer: {error}", node.name());
                }
            });
        }
    }

    /// Opens a directory and reads its names.
    pub(crate) fn opendir(&self, ino: u64, done: impl FnOnce(Outcome<u64>) + Send + 'static) {
        if ino == STATUS_DIR {
            // This answers whatever the store does.
            let entries = vec![DirEntry::file(STATUS_FILE, STATUS_FILE_NAME)];
            return done(Ok(self.handles.insert(listing(ino, entries))));
        }
        let (volumes, snapshots) = (self.volumes.clone(), self.snapshots.clone());
        let handles = self.handles.clone();
        self.pool.run(move || {
            let entries = match ino {
                ROOT => volumes.list_nodes().map(|nodes| root_entries(&nodes)),
                SNAPSHOT_DIR => volumes.list_nodes().map(|nodes| directories(&nodes)),
                _ => match snapshots.names(&volumes, ino) {
                    Some(names) => names,
                    None => return done(Err(Errno::ENOTDIR)),
                },
            };
            let entries = entries.map_err(|error| Errno::of("opendir", &error));
            done(entries.map(|entries| handles.insert(listing(ino, entries))));
        });
    }

    /// The names of an open directory from number `offset` on.
    pub(crate) fn readdir(
        &self,
        handle: u64,
        offset: u64,
        done: impl FnOnce(Outcome<&[DirEntry]>),
    ) {
        let Some(handle) = self.handles.get(handle) else { return done(Err(Errno::EBADF)) };
        let Handle::Directory(entries) = &*handle else { return done(Err(Errno::ENOTDIR)) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        done(Ok(entries.get(start..).unwrap_or_default()));
    }
}

/// The directory `ino` with these names.
fn listing(ino: u64, entries: Vec<DirEntry>) -> Handle {
    let dots = [".", ".."].map(|dot| DirEntry::directory(ino, dot));
    Handle::Directory(dots.into_iter().chain(entries).collect())
}

fn root_entries(nodes: &[Arc<Node>]) -> Vec<DirEntry> {
    let fixed = [(STATUS_DIR, STATUS_DIR_NAME), (SNAPSHOT_DIR, SNAPSHOT_DIR_NAME)];
    let mut entries = fixed.map(|(ino, name)| DirEntry::directory(ino, name)).to_vec();
    entries.extend(nodes.iter().map(|node| DirEntry::file(node.ino, node.name().as_str())));
    entries
}
