//! What `list` and `info` show of a volume.

use std::path::PathBuf;

use uuid::Uuid;

use crate::error::Error;
use crate::format::FileAttrs;
use crate::stats::VolumeStats;

/// What is known of a volume without opening it, and more of one that is open.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// `closed`, `not drained` (this host's log of it may hold what the store lacks), `damaged`;
    /// of an open volume the state in its statistics.
    pub state: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Its size in bytes; of a volume that another host writes, as of its last checkpoint.
    pub size_bytes: u64,
    /// Owner, mode and times.
    pub attrs: FileAttrs,
    /// Its highest epoch known.
    pub epoch: u64,
    /// The host that wrote to it last.
    pub last_host: String,
    /// Whether a flush waits for the store, unless the settings of a host say otherwise.
    #[serde(default)]
    pub sync_remote: bool,
    /// Present while it is open here.
    pub live: Option<VolumeStats>,
    /// This host's log of it, if there is one.
    pub log: Option<LogInfo>,
    /// Why its superblock cannot be read; everything above but the name is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// A write log on this host.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct LogInfo {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it was closed with everything in the store.
    pub clean: bool,
}

impl VolumeInfo {
    /// Of a volume whose superblock cannot be read.
    pub(crate) fn unreadable(name: &str, error: &Error) -> Self {
        Self {
            name: name.to_owned(),
            state: "damaged".to_owned(),
            uuid: Uuid::nil(),
            size_bytes: 0,
            attrs: FileAttrs { mode: 0, uid: 0, gid: 0, created_ms: 0, modified_ms: 0 },
            epoch: 0,
            last_host: String::new(),
            sync_remote: false,
            live: None,
            log: None,
            damaged: Some(error.to_string()),
        }
    }
}
