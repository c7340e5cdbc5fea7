//! What a user can set, for the engine as a whole and for one volume.

use std::path::PathBuf;
use std::time::Duration;

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
        }
    }
}
