//! A writer that lost its volume: who took it, when, and what this costs.
//!
//! ```text
//!   our objects   | their fence, epoch + 1 | their objects
//!   ... n-2  n-1  |           n            |  n+1 ...
//!                  a create of n, or a change of the superblock, meets it
//! ```

use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::{FenceHeader, ObjectHeader, VolumeState};
use crate::log::{LogTail, WriteLog};
use crate::poison::Deposed;
use crate::stream::Stream;
use crate::units::{Epoch, LogSeq, ObjectSeq};

/// Objects looked at in search of the fence. It stands within the window of the newest object
/// committed here; only a change of the superblock that was held up for long is further off.
const SEARCH_MAX: u64 = 64;

/// Log kept in memory while it is counted.
const READ_BYTES: u64 = 4 << 20;

/// Notes that another host has the volume now: the stream is no longer ours behind `after`, where
/// our epoch was `epoch`. `hint` names the other as far as the caller knows. Returns the error.
pub(crate) fn note(core: &Core, after: ObjectSeq, epoch: Epoch, hint: String) -> Error {
    let volume = core.name().to_string();
    let fence = find_fence(&core.uploads, after, epoch);
    let held = fence.as_ref().map(|fence| fence.stamp.log_seq);
    let error = if is_deleted(core) {
        Error::Deleted(volume)
    } else {
        let by = fence.map_or(hint, |fence| describe(&fence));
        Error::Fenced { volume, by }
    };
    core.poison.depose(error.clone(), held);
    error
}

/// A fence as messages call it.
pub(crate) fn describe(fence: &FenceHeader) -> String {
    let host = fence.host.as_str();
    match i64::try_from(fence.stamp.written_ms).ok().map(jiff::Timestamp::from_millisecond) {
        Some(Ok(time)) => format!("host {host:?} at {time:.0}"),
        _ => format!("host {host:?}"),
    }
}

/// The first fence behind `after` that deposed a writer of `epoch`.
fn find_fence(stream: &Stream, after: ObjectSeq, epoch: Epoch) -> Option<FenceHeader> {
    let mut seq = after;
    for _ in 0..SEARCH_MAX {
        seq = seq.next();
        match stream.header(seq) {
            Ok(Some(ObjectHeader::Fence(fence))) if fence.stamp.epoch > epoch => {
                return Some(fence);
            }
            Ok(Some(_)) => {}
            // It is for the message only.
            Ok(None) | Err(_) => return None,
        }
    }
    None
}

fn is_deleted(core: &Core) -> bool {
    // If the store does not say, the message is a little less exact.
    core.superblock
        .reread()
        .is_ok_and(|found| found.is_none_or(|found| found.state == VolumeState::Deleting))
}

/// What a closing volume says that lost its stream: its log stays as it is.
///
/// # Errors
/// [`Error::StaleLog`] if the log holds what the stream does not; [`Error::Deleted`].
pub(crate) fn close(volume: &str, log: &WriteLog, deposed: &Deposed) -> Result<u64> {
    let by = match &deposed.error {
        Error::Fenced { by, .. } => by.clone(),
        other => return Err(other.clone()),
    };
    let bytes = match deposed.held {
        Some(held) => bytes_after(log, held)?,
        None => log.backlog().0,
    };
    if bytes == 0 {
        log::info!("volume {volume:?}: all that was written here was in the store before {by}");
        return Ok(0);
    }
    let path = log.header_path();
    Err(Error::StaleLog { volume: volume.to_owned(), path, bytes, other: by })
}

/// Bytes of the records after `held`.
fn bytes_after(log: &WriteLog, held: LogSeq) -> Result<u64> {
    let (tail, end) = (log.header().tail, log.end());
    let mut records = LogTail::new(log.data().clone(), tail.pos, tail.seq);
    let (mut bytes, mut read) = (0, 0);
    while let Some(record) = records.next(end)? {
        let len = u64::from(record.head.total_len);
        if record.head.seq > held {
            bytes += len;
        }
        read += len;
        if read > READ_BYTES {
            // The data itself is not wanted.
            read = 0;
            drop(records.take(Vec::new()));
        }
    }
    Ok(bytes)
}
