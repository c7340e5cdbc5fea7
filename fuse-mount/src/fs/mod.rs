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
//! ```text
//!   names        lookup, create, rename, …      io      read, write, fsync, fallocate, lseek
//!   attributes   getattr, setattr               copy    copy_file_range
//!   opening      open, opendir, readdir, …      policy  limits, flags, fixed answers
//! ```
//! What is allowed, and how it fails, is decided here and the same for both edges: they only know how
//! requests and answers look.
//!
//! Nothing here names a FUSE library, so that another transport can be put under it.

mod attributes;
pub(crate) mod copy;
pub(crate) mod directory;
pub(crate) mod errno;
pub(crate) mod fuser_edge;
pub(crate) mod handles;
pub(crate) mod inode;
mod io;
mod names;
mod opening;
mod policy;
pub(crate) mod pool;
mod snapshots;
pub(crate) mod space;
pub(crate) mod status;
pub(crate) mod transport;
mod uring;
pub(crate) mod volumes;

use std::sync::Arc;

use lsvd_volume::FileAttrs;
use parking_lot::Mutex;

use errno::Errno;
use handles::Handles;
use inode::now_ms;
use pool::Pool;
use snapshots::SnapshotTree;
use space::{Space, StoreRoom};
use status::DaemonFacts;
use volumes::Volumes;

pub(crate) use attributes::Changes;
pub(crate) use names::Owner;

/// Threads for operations that may wait.
const POOL_THREADS: usize = 8;

/// Copies that are made at once; more wait for one of them.
const COPY_THREADS: usize = 4;

/// The outcome of an operation.
pub(crate) type Outcome<T> = Result<T, Errno>;

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
}
