//! What can go wrong in the engine. Every error names the thing and says the way out.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use lsvd_store::StoreError;

/// The result of an engine operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a volume failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no volume of that name.
    #[error("volume {0:?} does not exist (`lsvd-fuse list` shows what does)")]
    NoSuchVolume(String),
    /// The name is taken.
    #[error("volume {0:?} exists already")]
    VolumeExists(String),
    /// There is no snapshot of that name.
    #[error(
        "volume {volume:?} has no snapshot {snapshot:?} (`lsvd-fuse snapshot list {volume}` shows what it has)"
    )]
    NoSuchSnapshot {
        /// The volume.
        volume: String,
        /// What was asked for.
        snapshot: String,
    },
    /// The name of a snapshot is taken.
    #[error("volume {volume:?} has a snapshot {snapshot:?} already")]
    SnapshotExists {
        /// The volume.
        volume: String,
        /// The name.
        snapshot: String,
    },
    /// A snapshot cannot be changed or deleted.
    #[error("snapshot {volume}@{snapshot} is kept: {by}")]
    SnapshotKept {
        /// The volume.
        volume: String,
        /// The snapshot.
        snapshot: String,
        /// By what or whom, and the way out.
        by: String,
    },
    /// A moment of a volume's history cannot be had.
    #[error("volume {volume:?}: {detail}")]
    NoSuchMoment {
        /// The volume.
        volume: String,
        /// Which, and why not.
        detail: String,
    },
    /// It is a volume of its own, not a clone, or was cut off.
    #[error("volume {0:?} is no clone: it needs no other volume")]
    NoClone(String),
    /// The name cannot be a volume's, or a snapshot's.
    #[error("{kind} name {name:?}: {reason}")]
    BadName {
        /// `volume` or `snapshot`.
        kind: &'static str,
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The size cannot be a volume's.
    #[error("volume size {bytes}: {reason}")]
    BadSize {
        /// What was given.
        bytes: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A shrink would cut off data.
    #[error(
        "volume {volume:?} holds data beyond {bytes} bytes; shrinking would destroy it (--force does it all the same)"
    )]
    ShrinkLosesData {
        /// The volume.
        volume: String,
        /// The size that was asked for.
        bytes: u64,
    },
    /// Its log is not to be given up.
    #[error(
        "volume {0:?}: its log on this host is not stale, but the newest part of the volume; the next opening replays it"
    )]
    LogNeeded(String),
    /// The volume is open.
    #[error("volume {volume:?} is in use: {by}")]
    InUse {
        /// The volume.
        volume: String,
        /// Who uses it.
        by: String,
    },
    /// A write to something opened read-only.
    #[error("volume {0:?} is open read-only")]
    ReadOnly(String),
    /// The request reaches past the end of the volume.
    #[error("volume {volume:?}: {offset}+{bytes} reaches past its end at {size}")]
    OutOfRange {
        /// The volume.
        volume: String,
        /// First byte of the request.
        offset: u64,
        /// Length of the request.
        bytes: u64,
        /// Size of the volume in bytes.
        size: u64,
    },
    /// Bytes in the store, the log or the cache are not what was written there.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// The object or file.
        what: String,
        /// What is wrong, and the way out.
        detail: String,
    },
    /// Whatever was read of the volume, its writer had collected it before.
    #[error(
        "volume {0:?} is written faster than it can be read from here: its writer has collected what was to be read next, again and again. Nothing is damaged; try again, or when it is written less"
    )]
    Outrun(String),
    /// There is no such object in a volume's stream.
    #[error("{0} does not exist")]
    NoSuchObject(String),
    /// Something was written by a later version of this program.
    #[error(
        "{what} has format version {found}; this program knows versions up to {known}: use a newer lsvd-fuse"
    )]
    NewerFormat {
        /// The object or file.
        what: String,
        /// The version found.
        found: u32,
        /// The latest version known.
        known: u32,
    },
    /// The local log holds data that the store's history has moved past.
    #[error(
        "volume {volume:?}: the log {path} holds {bytes} bytes of writes that never reached the store, and {other} has taken the volume over since; \
         they cannot be merged. Keep the file to look into it (move it away), or give the writes up with `lsvd-fuse discard-log {volume}`"
    )]
    StaleLog {
        /// The volume.
        volume: String,
        /// The log file.
        path: PathBuf,
        /// Bytes of data in it that the store does not hold.
        bytes: u64,
        /// Who holds or held the volume since.
        other: String,
    },
    /// Another host has taken the volume over.
    #[error(
        "volume {volume:?} was taken over by {by}: this host neither reads nor writes it any more; unmount here, and mount again to take it back"
    )]
    Fenced {
        /// The volume.
        volume: String,
        /// Who took it over, and when, as far as it is known.
        by: String,
    },
    /// The volume was deleted by another host while it was open here.
    #[error(
        "volume {0:?} was deleted by another host while it was open here: what was written to it is gone"
    )]
    Deleted(String),
    /// The store cannot keep two hosts from writing to one volume.
    #[error(
        "store {store} cannot keep two hosts from writing to one volume: {fault}. Writing is refused; use a \
         store that creates objects exclusively or, if only this host ever writes to its volumes, --no-fencing"
    )]
    NoFencing {
        /// The store's URL.
        store: String,
        /// What it does wrong.
        fault: String,
    },
    /// A background thread failed; the volume takes no more writes.
    #[error("volume {volume:?} takes no more writes: {cause}")]
    Poisoned {
        /// The volume.
        volume: String,
        /// What failed first.
        cause: Arc<str>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The store did nothing for longer than `store-timeout`.
    #[error(
        "volume {volume:?}: {what}: the store did nothing for {seconds} s (store-timeout); it goes on by itself when the store does"
    )]
    StoreTimeout {
        /// The volume.
        volume: String,
        /// What waited.
        what: &'static str,
        /// The limit, in seconds.
        seconds: f64,
    },
    /// The local SSD failed or is full.
    #[error("{path}: cannot {operation}: {source}")]
    Local {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The cache directory cannot be used.
    #[error("cache directory {path}: {reason}")]
    CacheDir {
        /// The directory.
        path: PathBuf,
        /// Why, and the way out.
        reason: String,
    },
    /// The volume, or the engine, is shutting down.
    #[error("volume {0:?}: the daemon is ending; try again when it has")]
    Closing(String),
}

impl From<StoreError> for Error {
    fn from(source: StoreError) -> Self {
        Error::Store(Arc::new(source))
    }
}

impl Error {
    /// Wraps an error of a local file.
    pub fn local(path: impl Into<PathBuf>, operation: &'static str, source: io::Error) -> Self {
        Error::Local { path: path.into(), operation, source: Arc::new(source) }
    }

    /// Names damage.
    pub fn damaged(what: impl ToString, detail: impl ToString) -> Self {
        Error::Damaged { what: what.to_string(), detail: detail.to_string() }
    }
}
