//! What a user can set, for the engine as a whole and for one volume.

use std::path::PathBuf;
use std::time::Duration;

use crate::format::log_record::PAYLOAD_MAX;

/// How frames are compressed in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Fast; the default.
    #[default]
    Lz4,
    /// Smaller, slower.
    Zstd,
    /// Stored as it is.
    None,
}

/// Settings of the engine: one per daemon.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Directory on the local SSD for logs, the read cache and map leaves.
    pub cache_dir: PathBuf,
    /// Size of the read cache in bytes; 0 for none.
    pub cache_bytes: u64,
    /// What the map leaves of all volumes may take up in memory, in bytes.
    pub map_memory_bytes: u64,
    /// Writes also to a store that cannot keep two hosts apart; then nothing but the user sees to
    /// it that only one host writes to a volume.
    pub no_fencing: bool,
    /// How old a view of a volume opened for reading may be when it is read: then it is looked
    /// whether its writer has added to it.
    pub follow_interval: Duration,
    /// Settings of volumes that have none of their own.
    pub volume: VolumeConfig,
}

/// Settings of one volume.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Size of the write log's ring in bytes (used when the log is created).
    pub log_bytes: u64,
    /// Memory for the newest part of the log, in bytes; rounded up to a power of two MiB.
    pub buffer_bytes: u64,
    /// Bytes of a batch: how large an object in the store gets.
    pub batch_bytes: u64,
    /// How long a write waits for its batch to fill before it is sent anyway.
    pub batch_age: Duration,
    /// Compression of new objects.
    pub compression: Compression,
    /// Objects between two checkpoints.
    pub checkpoint_objects: u64,
    /// When less of the data in the store is needed than this, in percent, it is cleaned. 0: never;
    /// then only what is dead when a checkpoint is due is deleted.
    pub gc_start_percent: u64,
    /// It is cleaned until so much is needed, in percent.
    pub gc_stop_percent: u64,
    /// How many bytes are moved in a second at most when nobody asked for it; `None`: no limit.
    pub gc_bytes_per_s: Option<u64>,
    /// How much of its history is kept beyond what snapshots keep.
    pub history: HistoryRetention,
    /// How long requests wait for a store that does nothing before they fail. `None`: writers
    /// wait for as long as it takes, reads for [`READ_PATIENCE`].
    pub store_timeout: Option<Duration>,
    /// Writers wait while the store lacks more than this many bytes of log. `None`: the size of
    /// the log is the limit. Raised to [`MAX_DIRTY_BYTES_MIN`].
    pub max_dirty_bytes: Option<u64>,
    /// Writers wait while the store lacks a write older than this.
    pub max_dirty_age: Option<Duration>,
    /// Whether a flush waits for the store. `None`: as the volume was created.
    pub sync_remote: Option<bool>,
}

/// How much history is kept; with both limits, what keeps to both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryRetention {
    /// Every moment that is no older than this can be had.
    pub age: Option<Duration>,
    /// As far back as what is kept for nothing else takes up no more bytes in the store.
    pub bytes: Option<u64>,
    /// Without limits of its own: what others kept so far is kept on.
    pub as_it_is: bool,
}

impl HistoryRetention {
    /// Whether any is kept.
    pub fn is_on(self) -> bool {
        self.age.is_some() || self.bytes.is_some() || self.as_it_is
    }
}

/// How long a read waits for a store that does not answer, where nothing else is set.
pub const READ_PATIENCE: Duration = Duration::from_secs(30);

/// The least limit of dirty bytes: room for the largest record and the pads around it.
pub const MAX_DIRTY_BYTES_MIN: u64 = 4 << 20;
const _: () = assert!(MAX_DIRTY_BYTES_MIN > 3 * PAYLOAD_MAX as u64);

impl VolumeConfig {
    /// How long a batch may stay open. Half of the greatest age leaves the other half for the
    /// upload.
    pub(crate) fn seal_age(&self) -> Duration {
        self.max_dirty_age.map_or(self.batch_age, |age| self.batch_age.min(age / 2))
    }

    /// How long a read waits for the store.
    pub(crate) fn read_patience(&self) -> Duration {
        self.store_timeout.unwrap_or(READ_PATIENCE)
    }
}

impl Default for VolumeConfig {
    fn default() -> Self {
        Self {
            log_bytes: 1 << 30,
            buffer_bytes: 32 << 20,
            batch_bytes: 8 << 20,
            batch_age: Duration::from_secs(2),
            compression: Compression::Lz4,
            checkpoint_objects: 256,
            gc_start_percent: 70,
            gc_stop_percent: 75,
            gc_bytes_per_s: Some(64 << 20),
            history: HistoryRetention::default(),
            store_timeout: None,
            max_dirty_bytes: None,
            max_dirty_age: None,
            sync_remote: None,
        }
    }
}
