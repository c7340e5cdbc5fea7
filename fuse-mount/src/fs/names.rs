//! Names: what they lead to, and how volumes get and lose them.

use std::ffi::OsStr;
use std::sync::Arc;

use lsvd_volume::{Error, FileAttrs, Result, VolumeName};

use super::directory::Known;
use super::errno::Errno;
use super::handles::Handle;
use super::inode::{
    Attr, Node, ROOT, SNAPSHOT_DIR, SNAPSHOT_DIR_NAME, STATUS_DIR, STATUS_DIR_NAME, STATUS_FILE,
    STATUS_FILE_NAME, now_ms,
};
use super::policy::NOT_A_VOLUME;
use super::volumes::Volumes;
use super::{Outcome, VolumeFs};

/// Who asks, for what is made new.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Makes a volume of size 0.
    fn make(self, volumes: &Volumes, name: &VolumeName, mode: u32) -> Result<Arc<Node>> {
        let now = now_ms();
        let attrs = FileAttrs {
            mode: mode & 0o7777,
            uid: self.uid,
            gid: self.gid,
            created_ms: now,
            modified_ms: now,
        };
        volumes.create(name, 0, attrs, None)
    }
}

impl VolumeFs {
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
                    let found = snapshots.look_up(&volumes, parent, &name);
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
                let found = snapshots.look_up_volume(&volumes, &name);
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

    /// The kernel has forgotten so many lookups of an inode. Those of volumes stay known as long as
    /// the volumes are.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        self.snapshots.forget(ino, lookups);
    }

    /// Makes a volume of size 0 and opens it for writing; the outcome has the open file's number.
    pub(crate) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        owner: Owner,
        done: impl FnOnce(Outcome<(Attr, u64)>) + Send + 'static,
    ) {
        let name = match self.new_name(parent, name) {
            Ok(name) => name,
            Err(errno) => return done(Err(errno)),
        };
        let (volumes, handles) = (self.volumes.clone(), self.handles.clone());
        self.pool.run(move || {
            let made = owner.make(&volumes, &name, mode);
            let opened = made.and_then(|node| volumes.open(&node, true).map(|()| node));
            done(opened.map_err(|error| Errno::of("create", &error)).map(|node| {
                let attr = node.attr();
                (attr, handles.insert(Handle::Volume { node, write: true }))
            }));
        });
    }

    /// Makes a volume of size 0, if `mode` is that of a regular file.
    pub(crate) fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        owner: Owner,
        done: impl FnOnce(Outcome<Attr>) + Send + 'static,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return done(Err(NOT_A_VOLUME));
        }
        let name = match self.new_name(parent, name) {
            Ok(name) => name,
            Err(errno) => return done(Err(errno)),
        };
        let volumes = self.volumes.clone();
        self.pool.run(move || {
            let made = owner.make(&volumes, &name, mode);
            done(made.map(|node| node.attr()).map_err(|error| Errno::of("mknod", &error)));
        });
    }

    /// Refuses to make a directory, and says why.
    pub(crate) fn mkdir<T>(&self, name: &OsStr, done: impl FnOnce(Outcome<T>)) {
        log::warn!("mkdir {name:?}: a mount holds volumes, and volumes are files");
        done(Err(NOT_A_VOLUME));
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

    /// Renames a volume, given by directory and name; never over another one.
    pub(crate) fn rename(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: u32,
        done: impl FnOnce(Outcome<()>) + Send + 'static,
    ) {
        // Without an overwriting rename, "do not replace" is what happens anyway.
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return done(Err(Errno::EINVAL));
        }
        let names =
            self.new_name(from.0, from.1).and_then(|from| Ok((from, self.new_name(to.0, to.1)?)));
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
