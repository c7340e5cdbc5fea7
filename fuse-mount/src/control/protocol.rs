//! What goes over the socket: one JSON value per line, requests one way, responses the other.
//!
//! A request is answered by any number of [`Response::Progress`], [`Response::Collecting`],
//! [`Response::Flattening`] or [`Response::Checking`] and one of the others. Who closes its end for writing meanwhile wants the
//! work to be left off. Lines have a length limit on both sides; whoever exceeds it is cut off.

use std::io::{self, BufRead, Read, Write};

use lsvd_volume::{CheckProgress, FileAttrs, GcReport};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request.
pub(crate) const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// Longest response; a map of a large volume is long.
pub(crate) const RESPONSE_BYTES_MAX: u64 = 1 << 30;

/// What is asked of the daemon, or of the engine opened in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Who are you?
    Hello,
    List,
    Info {
        name: String,
    },
    Create {
        name: String,
        size_bytes: u64,
        attrs: FileAttrs,
        #[serde(default)]
        sync_remote: Option<bool>,
    },
    Resize {
        name: String,
        size_bytes: u64,
        force: bool,
    },
    Rename {
        from: String,
        to: String,
    },
    Delete {
        name: String,
        #[serde(default)]
        force: bool,
    },
    /// Of all volumes, if there is no name.
    Check {
        name: Option<String>,
        repair: bool,
        deep: bool,
        bytes_per_s: Option<u64>,
    },
    Flush {
        name: String,
        wait: bool,
    },
    Gc {
        name: String,
        target_percent: u64,
        now: bool,
    },
    Flatten {
        name: String,
    },
    Inspect {
        name: String,
        part: Part,
    },
    SnapshotCreate {
        name: String,
        snapshot: String,
    },
    SnapshotList {
        name: String,
    },
    SnapshotDelete {
        name: String,
        snapshot: String,
    },
    SnapshotRollback {
        name: String,
        snapshot: String,
    },
    SnapshotProtect {
        name: String,
        snapshot: String,
        protected: bool,
    },
    Clone {
        name: String,
        point: Point,
        new: String,
        attrs: FileAttrs,
    },
    DiscardLog {
        name: String,
    },
    /// Unmount, then end.
    Unmount {
        end: End,
    },
}

/// How a mount is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// With everything in the store.
    Drain,
    /// With what the store lacks in the logs.
    Keep,
    /// Like that, and whoever still uses a file gets errors.
    Force,
}

/// A point of a volume's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Point {
    /// As it is now.
    Head,
    Snapshot(String),
    /// When this object was committed.
    Object(u64),
    /// At this time, in milliseconds since 1970.
    Time(u64),
}

/// A part of a volume to look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    Summary,
    Object(u64),
    Map,
}

impl Request {
    /// Whether it changes nothing, so that it needs no lock on the cache directory.
    pub(crate) fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Hello
                | Self::List
                | Self::Info { .. }
                | Self::Inspect { .. }
                | Self::SnapshotList { .. }
                | Self::Check { repair: false, .. }
                | Self::Flush { wait: false, .. }
        )
    }

    /// Whether it changes a volume's snapshots, or goes back to one.
    pub(crate) fn changes_snapshots(&self) -> bool {
        matches!(
            self,
            Self::SnapshotCreate { .. }
                | Self::SnapshotDelete { .. }
                | Self::SnapshotRollback { .. }
                | Self::SnapshotProtect { .. }
        )
    }
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Response {
    /// Still uploading.
    Progress { dirty_bytes: u64 },
    /// Still cleaning.
    Collecting(GcReport),
    /// Still copying out of a clone's base.
    Flattening { left_bytes: u64 },
    /// Still checking.
    Checking(CheckProgress),
    /// Done.
    Done(Value),
    /// Failed; `usage` if the request made no sense.
    Failed { message: String, usage: bool },
}

/// Writes one line.
pub(crate) fn send<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line of at most `bytes_max`; `None` at the end.
pub(crate) fn receive<T: DeserializeOwned>(
    from: &mut impl BufRead,
    bytes_max: u64,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(bytes_max).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => serde_json::from_slice(&line).map(Some).map_err(io::Error::from),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line is cut off or too long")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip() {
        for request in [
            Request::Hello,
            Request::Resize { name: "a".into(), size_bytes: 4096, force: true },
            Request::Inspect { name: "a".into(), part: Part::Object(7) },
            Request::Check { name: None, repair: true, deep: false, bytes_per_s: Some(1) },
            Request::Unmount { end: End::Keep },
        ] {
            let mut line = Vec::new();
            send(&mut line, &request).unwrap();
            let read: Request = receive(&mut line.as_slice(), REQUEST_BYTES_MAX).unwrap().unwrap();
            assert_eq!(read, request);
        }
    }

    #[test]
    fn long_cut_and_foreign_lines_are_errors() {
        let read = |bytes: &[u8], max| receive::<Request>(&mut &*bytes, max);
        assert!(read(b"", 100).unwrap().is_none());
        assert!(read(b"{\"command\":\"list\"}", 100).is_err());
        assert!(read(b"{\"command\":\"list\"}\n", 10).is_err());
        assert!(read(b"hello\n", 100).is_err());
        assert!(read(b"\xff\xff\n", 100).is_err());
        assert_eq!(read(b"{\"command\":\"list\"}\n", 100).unwrap(), Some(Request::List));
    }
}
