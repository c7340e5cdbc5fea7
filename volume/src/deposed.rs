//! A writer that lost its volume: who took it, when, and what this costs.
//!
//! ```text
//!   our objects   | their fence, epoch + 1 | their objects
//!   ... n-2  n-1  |           n            |  n+1 ...
//!                  a create of n, or a change of the superblock, meets it
//! ```
//! A read may meet it first, as a missing object: the new owner has collected it.

use crate::batch::WINDOW;
use crate::checkpoint::read_checkpoint;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::{CheckpointRef, FenceHeader, ObjectHeader, Superblock, VolumeState};
use crate::log::{LogTail, WriteLog};
use crate::poison::Deposed;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::units::{Epoch, LogSeq, ObjectSeq};

/// Objects looked at in search of the fence. It stands within the window of the newest object
/// committed here; only a change of the superblock that was held up for long is further off.
const SEARCH_MAX: u64 = 64;

/// And so many of them at once: more than a window. The new owner may have collected what lies before
/// its fence, so that one that is missing says nothing.
const SEARCH_AT_ONCE: usize = 2 * WINDOW as usize;

/// Log kept in memory while it is counted.
const READ_BYTES: u64 = 4 << 20;

/// Notes that another host has the volume now: the stream is no longer ours behind `after`, where
/// our epoch was `epoch`. `hint` names the other as far as the caller knows. Returns the error.
pub(crate) fn note(core: &Core, after: ObjectSeq, epoch: Epoch, hint: String) -> Error {
    // If the store does not say, the message is a little less exact.
    let found = superblock(&core.uploads).ok();
    if found.as_ref().is_some_and(|found| is_deleted(found.as_ref())) {
        return depose(core, Error::Deleted(core.name().to_string()), None);
    }
    let newest = found.flatten().and_then(|superblock| superblock.checkpoint);
    match find_fence(&core.uploads, newest, after, epoch) {
        Some(fence) => fenced(core, &fence),
        None => depose(core, Error::Fenced { volume: core.name().to_string(), by: hint }, None),
    }
}

/// What a read's `error` means. If it is damage that a host which has the volume now has done by
/// collecting, or by deleting the volume, that is noted, and returned instead. `after` is the last
/// number committed here.
pub(crate) fn explain(core: &Core, after: ObjectSeq, error: Error) -> Error {
    if !matches!(error, Error::Damaged { .. }) {
        return error;
    }
    if let Err(deposed) = core.poison.check_deposed() {
        return deposed;
    }
    // Whoever has collected something has named a checkpoint before, and so its epoch. An
    // announcement alone deposes nobody who does not name one.
    match superblock(&core.stream) {
        Ok(found) if is_deleted(found.as_ref()) => {
            depose(core, Error::Deleted(core.name().to_string()), None)
        }
        Ok(Some(found)) if found.epoch > core.epoch => {
            match find_fence(&core.stream, found.checkpoint, after, core.epoch) {
                Some(fence) => fenced(core, &fence),
                None => error,
            }
        }
        Ok(_) | Err(_) => error,
    }
}

/// Looks whether another host has the volume by now, `after` being the last number committed here. That
/// is noted, and returned.
///
/// # Errors
/// That, or the store's.
pub(crate) fn check_still_ours(core: &Core, after: ObjectSeq) -> Result<()> {
    core.poison.check_deposed()?;
    let mut next = after.next();
    // Some of ours may be under way.
    while let Some((common, _)) = core.stream.peek(next)? {
        if common.stamp.epoch > core.epoch {
            return Err(note(core, after, core.epoch, "another host".to_owned()));
        }
        next = next.next();
    }
    Ok(())
}

fn fenced(core: &Core, fence: &FenceHeader) -> Error {
    let error = Error::Fenced { volume: core.name().to_string(), by: describe(fence) };
    depose(core, error, Some(fence.stamp.log_seq))
}

/// The first one to find out says what is said from then on.
fn depose(core: &Core, error: Error, held: Option<LogSeq>) -> Error {
    core.poison.depose(error.clone(), held);
    core.poison.deposed().map_or(error, |deposed| deposed.error.clone())
}

/// A fence as messages call it.
pub(crate) fn describe(fence: &FenceHeader) -> String {
    let host = fence.host.as_str();
    match i64::try_from(fence.stamp.written_ms).ok().map(jiff::Timestamp::from_millisecond) {
        Some(Ok(time)) => format!("host {host:?} at {time:.0}"),
        _ => format!("host {host:?}"),
    }
}

/// The first fence behind `after` that deposed a writer of `epoch`: among the numbers where it should
/// be, or as the checkpoint tells. Fences are never collected.
fn find_fence(
    stream: &Stream,
    checkpoint: Option<CheckpointRef>,
    after: ObjectSeq,
    epoch: Epoch,
) -> Option<FenceHeader> {
    let deposes = |fence: &FenceHeader| fence.stamp.epoch > epoch;
    let near: Vec<_> = (1..=SEARCH_MAX).map(|n| after.plus(n)).collect();
    for some in near.chunks(SEARCH_AT_ONCE) {
        let Ok(found) = stream.find_all(some) else { break };
        if found.iter().all(Option::is_none) {
            break;
        }
        let fences = found.into_iter().flatten().filter_map(|found| match found.header {
            ObjectHeader::Fence(fence) => Some(fence),
            _ => None,
        });
        if let Some(fence) = fences.into_iter().find(deposes) {
            return Some(fence);
        }
    }
    let header = read_checkpoint(stream, checkpoint?.seq).ok()?;
    let record = header.fences.iter().find(|fence| fence.id.epoch > epoch)?;
    match stream.header(record.id.seq) {
        Ok(Some(ObjectHeader::Fence(fence))) => Some(fence).filter(deposes),
        _ => None,
    }
}

/// The superblock as it is now, without waiting for whoever changes it here.
fn superblock(stream: &Stream) -> Result<Option<Superblock>> {
    let found = SuperblockCell::open(stream.store(), stream.volume())?;
    Ok(found.map(|cell| cell.get()))
}

fn is_deleted(found: Option<&Superblock>) -> bool {
    found.is_none_or(|found| found.state == VolumeState::Deleting)
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
