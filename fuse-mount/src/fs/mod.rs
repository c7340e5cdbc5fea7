//! The file system: what each file operation means for volumes, in types of ours.
//!
//! ```text
//!   fuser_edge ──┬─(requests, reply callbacks)── VolumeFs ──┬── handles, inode
//!        uring ──┘                                          ├── pool ── volumes ── engine
//!                                                           ├── Volume::read/write/trim/flush
//!                                                           └── copy ── Volume to Volume
//! ```
//! Reads, writes, trims and flushes of open files go straight to the engine on the calling
//! thread and are answered by its callback; everything that may wait for the store goes through
//! a [`pool::Pool`], copies through one of their own. Each `done` is called exactly once.
//!
//! Nothing here names a FUSE library, so that another transport can be put under it.

pub(crate) mod copy;
pub(crate) mod directory;
pub(crate) mod errno;
pub(crate) mod fuser_edge;
pub(crate) mod handles;
pub(crate) mod inode;
mod io;
pub(crate) mod pool;
mod snapshots;
pub(crate) mod space;
pub(crate) mod status;
pub(crate) mod transport;
mod uring;
pub(crate) mod volumes;

use std::ffi::OsStr;
use std::sync::Arc;

use lsvd_volume::{Error, FileAttrs, VolumeName};
use parking_lot::Mutex;

use directory::Known;
use errno::Errno;
use handles::{DirEntry, Handle, Handles};
use inode::{
    Attr, Kind, Node, ROOT, SNAPSHOT_DIR, SNAPSHOT_DIR_NAME, STATUS_DIR, STATUS_DIR_NAME,
    STATUS_FILE, STATUS_FILE_NAME, now_ms,
};
use pool::Pool;
use snapshots::SnapshotTree;
use space::{Space, StoreRoom};
use status::DaemonFacts;
use volumes::Volumes;

/// Threads for operations that may wait.
const POOL_THREADS: usize = 8;

/// Copies that are made at once; more wait for one of them.
const COPY_THREADS: usize = 4;

/// The outcome of an operation.
pub(crate) type Outcome<T> = Result<T, Errno>;

/// What a `setattr` asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) modified_ms: Option<u64>,
}

/// Who asks, for what is made new.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The file system of one mount.
pub(crate) struct VolumeFs {
    volumes: Arc<Volumes>,
    handles: Arc<Handles>,
    snapshots: Arc<SnapshotTree>,
    pool: Pool,
    /// For copies alone, which take long and would keep others waiting.
    copies: Pool,
    room: StoreRoom,
    facts: DaemonFacts,
    /// Owner and mode of the root; kept while mounted.
    root: Mutex<FileAttrs>,
}

impl VolumeFs {
    /// A file system over `volumes`.
    pub(crate) fn new(volumes: Arc<Volumes>, facts: DaemonFacts) -> std::io::Result<Self> {
        let now = now_ms();
        Ok(Self {
            volumes,
            handles: Arc::default(),
            snapshots: Arc::default(),
            pool: Pool::start("lsvd-meta", POOL_THREADS)?,
            copies: Pool::start("lsvd-copy", COPY_THREADS)?,
            room: StoreRoom::of_url(&facts.store),
            facts,
            root: Mutex::new(FileAttrs {
                mode: 0o755,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                created_ms: now,
                modified_ms: now,
            }),
        })
    }

    /// The entry `name` of a directory.
    pub(crate) fn lookup(
        &self,
        parent: u64,
        name: &OsStr,
        done: impl FnOnce(Outcome<Attr>) + Send + 'static,
    ) {
        match parent {
            STATUS_DIR if name == STATUS_FILE_NAME => return done(Ok(self.fixed(STATUS_FILE))),
            ROOT if name == STATUS_DIR_NAME => return done(Ok(self.fixed(STATUS_DIR))),
            ROOT if name == SNAPSHOT_DIR_NAME => return done(Ok(self.fixed(SNAPSHOT_DIR))),
            ROOT | SNAPSHOT_DIR => {}
            _ if self.snapshots.holds(parent) => {
                let (volumes, snapshots) = (self.volumes.clone(), self.snapshots.clone());
                let name = name.to_owned();
                return self.pool.run(move || {
                    let found = snapshots.snapshot(&volumes, parent, &name);
                    let found = found.ok_or(Errno::ENOTDIR);
                    done(found.and_then(|f| f.map_err(|error| Errno::of("lookup", &error))));
                });
            }
            _ => return done(Err(Errno::ENOENT)),
        }
        let name = match checked(name) {
            Ok(name) => name,
            // No volume has such a name; only those who try to make one are told why.
            Err(Errno::ENAMETOOLONG) => return done(Err(Errno::ENAMETOOLONG)),
            Err(_) => return done(Err(Errno::ENOENT)),
        };
        if parent == SNAPSHOT_DIR {
            let (volumes, snapshots) = (self.volumes.clone(), self.snapshots.clone());
            return self.pool.run(move || {
                let found = snapshots.volume(&volumes, &name);
                done(found.map_err(|error| Errno::of("lookup", &error)));
            });
        }
        match self.volumes.find_at_once(&name) {
            Known::Sure(node) => done(Ok(node.attr())),
            Known::Absent => done(Err(Errno::ENOENT)),
            Known::Ask(_) => {
                let volumes = self.volumes.clone();
                self.pool.run(move || {
                    let found = volumes.find(&name);
                    done(
                        found.map(|node| node.attr()).map_err(|error| Errno::of("lookup", &error)),
                    );
                });
            }
        }
    }

    /// What `stat` shows.
    pub(crate) fn getattr(&self, ino: u64, done: impl FnOnce(Outcome<Attr>) + Send + 'static) {
        if let ROOT | STATUS_DIR | STATUS_FILE | SNAPSHOT_DIR = ino {
            return done(Ok(self.fixed(ino)));
        }
        if let Some(attr) = self.snapshots.attr(ino) {
            return done(Ok(attr));
        }
        let Some(node) = self.volumes.by_ino(ino) else { return done(Err(Errno::ESTALE)) };
        let name = node.name();
        match self.volumes.find_at_once(&name) {
            Known::Ask(Some(_)) => {
                let volumes = self.volumes.clone();
                self.pool.run(move || {
                    let found = volumes.find(&name);
                    done(
                        found.map(|node| node.attr()).map_err(|error| Errno::of("getattr", &error)),
                    );
                });
            }
            _ => done(Ok(node.attr())),
        }
    }

    /// Changes size, mode, owner or times.
    pub(crate) fn setattr(
        &self,
        ino: u64,
        changes: Changes,
        done: impl FnOnce(Outcome<Attr>) + Send + 'static,
    ) {
        if self.volumes.is_read_only() {
            return done(Err(Errno::EROFS));
        }
        match ino {
            ROOT => {
                self.set_root(changes);
                return done(Ok(self.fixed(ROOT)));
            }
            STATUS_DIR | STATUS_FILE => return done(Err(Errno::EPERM)),
            _ if ino == SNAPSHOT_DIR || self.snapshots.holds(ino) => {
                return done(Err(Errno::EROFS));
            }
            _ => {}
        }
        let Some(node) = self.volumes.by_ino(ino) else { return done(Err(Errno::ESTALE)) };
        let volumes = self.volumes.clone();
        self.pool.run(move || {
            let changed = apply(&volumes, &node, changes);
            done(changed.map(|()| node.attr()).map_err(|error| Errno::of("setattr", &error)));
        });
    }

    /// Makes a volume of size 0 and, if `open` says so, opens it.
    pub(crate) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        owner: Owner,
        open: bool,
        done: impl FnOnce(Outcome<(Attr, u64)>) + Send + 'static,
    ) {
        let name = match self.new_name(parent, name) {
            Ok(name) => name,
            Err(errno) => return done(Err(errno)),
        };
        let now = now_ms();
        let attrs = FileAttrs {
            mode: mode & 0o7777,
            uid: owner.uid,
            gid: owner.gid,
            created_ms: now,
            modified_ms: now,
        };
        let (volumes, handles) = (self.volumes.clone(), self.handles.clone());
        self.pool.run(move || {
            let made = volumes.create(&name, 0, attrs, None).and_then(|node| {
                if open {
                    volumes.open(&node, true)?;
                }
                Ok(node)
            });
            done(made.map_err(|error| Errno::of("create", &error)).map(|node| {
                let attr = node.attr();
                let handle =
                    if open { handles.insert(Handle::Volume { node, write: true }) } else { 0 };
                (attr, handle)
            }));
        });
    }

    /// Deletes a volume.
    pub(crate) fn unlink(
        &self,
        parent: u64,
        name: &OsStr,
        done: impl FnOnce(Outcome<()>) + Send + 'static,
    ) {
        let name = match self.new_name(parent, name) {
            Ok(name) => name,
            Err(errno) => return done(Err(errno)),
        };
        let volumes = self.volumes.clone();
        self.pool.run(move || {
            let deleted = volumes.find(&name).and_then(|node| volumes.delete(&node));
            done(deleted.map_err(|error| Errno::of("unlink", &error)));
        });
    }

    /// Renames a volume; never over another one.
    pub(crate) fn rename(
        &self,
        parents: (u64, u64),
        from: &OsStr,
        to: &OsStr,
        done: impl FnOnce(Outcome<()>) + Send + 'static,
    ) {
        let names = self
            .new_name(parents.0, from)
            .and_then(|from| Ok((from, self.new_name(parents.1, to)?)));
        let (from, to) = match names {
            Ok(names) => names,
            Err(errno) => return done(Err(errno)),
        };
        let volumes = self.volumes.clone();
        self.pool.run(move || {
            let renamed = volumes.find(&from).and_then(|node| volumes.rename(&node, &to));
            done(renamed.map_err(|error| Errno::of("rename", &error)));
        });
    }

    /// Opens a file; the outcome is the handle's number.
    pub(crate) fn open(
        &self,
        ino: u64,
        write: bool,
        done: impl FnOnce(Outcome<u64>) + Send + 'static,
    ) {
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
        match ino {
            STATUS_DIR => {
                let mut entries = dots(STATUS_DIR);
                entries.push(DirEntry {
                    ino: STATUS_FILE,
                    kind: Kind::File,
                    name: STATUS_FILE_NAME.to_owned(),
                });
                done(Ok(self.handles.insert(Handle::Directory(entries))));
            }
            ROOT => {
                let (volumes, handles) = (self.volumes.clone(), self.handles.clone());
                self.pool.run(move || {
                    let listed = volumes.list_nodes().map(|nodes| {
                        let mut entries = dots(ROOT);
                        entries.push(DirEntry {
                            ino: STATUS_DIR,
                            kind: Kind::Directory,
                            name: STATUS_DIR_NAME.into(),
                        });
                        entries.push(DirEntry {
                            ino: SNAPSHOT_DIR,
                            kind: Kind::Directory,
                            name: SNAPSHOT_DIR_NAME.into(),
                        });
                        entries.extend(nodes.iter().map(|node| DirEntry {
                            ino: node.ino,
                            kind: Kind::File,
                            name: node.name().to_string(),
                        }));
                        handles.insert(Handle::Directory(entries))
                    });
                    done(listed.map_err(|error| Errno::of("opendir", &error)));
                });
            }
            SNAPSHOT_DIR => {
                let (volumes, snapshots) = (self.volumes.clone(), self.snapshots.clone());
                let handles = self.handles.clone();
                self.pool.run(move || {
                    let listed = volumes.list_nodes().map(|nodes| {
                        let mut entries = dots(SNAPSHOT_DIR);
                        for name in nodes.iter().map(|node| node.name()) {
                            if let Ok(attr) = snapshots.volume(&volumes, &name) {
                                let (ino, kind) = (attr.ino, attr.kind);
                                entries.push(DirEntry { ino, kind, name: name.to_string() });
                            }
                        }
                        handles.insert(Handle::Directory(entries))
                    });
                    done(listed.map_err(|error| Errno::of("opendir", &error)));
                });
            }
            _ => {
                let (volumes, snapshots) = (self.volumes.clone(), self.snapshots.clone());
                let handles = self.handles.clone();
                self.pool.run(move || {
                    let names = snapshots.names(&volumes, ino).ok_or(Errno::ENOTDIR);
                    let names = names.and_then(|n| n.map_err(|e| Errno::of("opendir", &e)));
                    done(names.map(|names| {
                        let mut entries = dots(ino);
                        entries.extend(names);
                        handles.insert(Handle::Directory(entries))
                    }));
                });
            }
        }
    }

    /// The handle of an open directory.
    pub(crate) fn directory(&self, handle: u64) -> Outcome<Arc<Handle>> {
        self.handles.get(handle).ok_or(Errno::EBADF)
    }

    /// The room of what holds the store.
    pub(crate) fn statfs(&self, done: impl FnOnce(Outcome<Space>) + Send + 'static) {
        let room = self.room.clone();
        self.pool.run(move || {
            done(room.space().map_err(|error| {
                log::warn!("statfs of the store: {error}");
                Errno::EIO
            }));
        });
    }

    /// A name in the root that may be made, removed or renamed.
    fn new_name(&self, parent: u64, name: &OsStr) -> Outcome<VolumeName> {
        if self.volumes.is_read_only() {
            return Err(Errno::EROFS);
        }
        if parent == SNAPSHOT_DIR || self.snapshots.holds(parent) {
            return Err(Errno::EROFS);
        }
        if parent != ROOT || name == STATUS_DIR_NAME || name == SNAPSHOT_DIR_NAME {
            return Err(Errno::EPERM);
        }
        checked(name)
    }

    fn fixed(&self, ino: u64) -> Attr {
        let root = *self.root.lock();
        let (kind, mode) = match ino {
            ROOT => (Kind::Directory, root.mode),
            STATUS_DIR | SNAPSHOT_DIR => (Kind::Directory, 0o555),
            _ => (Kind::File, 0o444),
        };
        Attr {
            ino,
            kind,
            size: 0,
            blocks: 0,
            mode,
            uid: root.uid,
            gid: root.gid,
            created_ms: root.created_ms,
            modified_ms: root.modified_ms,
        }
    }

    fn set_root(&self, changes: Changes) {
        let mut root = self.root.lock();
        root.mode = changes.mode.map_or(root.mode, |mode| mode & 0o7777);
        root.uid = changes.uid.unwrap_or(root.uid);
        root.gid = changes.gid.unwrap_or(root.gid);
        root.modified_ms = changes.modified_ms.unwrap_or(root.modified_ms);
    }
}

/// A volume's name, or what is wrong with it; the log says it in words.
fn checked(name: &OsStr) -> Outcome<VolumeName> {
    let Some(text) = name.to_str() else {
        log::warn!("name {name:?}: a volume's name must be UTF-8");
        return Err(Errno::EINVAL);
    };
    VolumeName::new(text).map_err(|error| match error {
        Error::BadName { .. } if text.starts_with('.') => {
            log::debug!("{error}");
            Errno::EINVAL
        }
        error => Errno::of("name", &error),
    })
}

fn dots(ino: u64) -> Vec<DirEntry> {
    let dot = |name: &str| DirEntry { ino, kind: Kind::Directory, name: name.to_owned() };
    vec![dot("."), dot("..")]
}

/// Carries a `setattr` out. A file may always be cut short: data goes as with any file.
fn apply(volumes: &Volumes, node: &Node, changes: Changes) -> lsvd_volume::Result<()> {
    if let Some(bytes) = changes.size
        && bytes != node.size()
    {
        volumes.resize(node, bytes, true)?;
    }
    if changes.mode.is_none()
        && changes.uid.is_none()
        && changes.gid.is_none()
        && changes.modified_ms.is_none()
    {
        return Ok(());
    }
    volumes.set_attrs(node, |attrs| {
        attrs.mode = changes.mode.map_or(attrs.mode, |mode| mode & 0o7777);
        attrs.uid = changes.uid.unwrap_or(attrs.uid);
        attrs.gid = changes.gid.unwrap_or(attrs.gid);
        attrs.modified_ms = changes.modified_ms.unwrap_or(attrs.modified_ms);
    })
}
