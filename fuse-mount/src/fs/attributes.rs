//! What files are: their size, owner, mode and times, asked for and changed.

use lsvd_volume::Result;

use super::directory::Known;
use super::errno::Errno;
use super::inode::{Attr, Kind, Node, ROOT, SNAPSHOT_DIR, STATUS_DIR, STATUS_FILE};
use super::volumes::Volumes;
use super::{Outcome, VolumeFs};

/// What a `setattr` asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) modified_ms: Option<u64>,
}

impl VolumeFs {
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
        mut changes: Changes,
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
        if changes.size.is_some() {
            // The kernel sends the time of a truncate along; the resize notes that itself.
            changes.modified_ms = None;
        }
        let volumes = self.volumes.clone();
        self.pool.run(move || {
            let changed = apply(&volumes, &node, changes);
            done(changed.map(|()| node.attr()).map_err(|error| Errno::of("setattr", &error)));
        });
    }

    /// A file or directory that is always there.
    pub(super) fn fixed(&self, ino: u64) -> Attr {
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

/// Carries a `setattr` out. A file may always be cut short: data goes as with any file.
fn apply(volumes: &Volumes, node: &Node, changes: Changes) -> Result<()> {
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
