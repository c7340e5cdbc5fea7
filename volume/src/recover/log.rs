//! What a log on this host is worth beside the stream.

use super::state::StreamState;
use crate::error::{Error, Result};
use crate::format::{FenceRecord, LogPoint, RecordKind};
use crate::log::{LogOnDisk, ScanEnd};
use crate::units::LogSeq;

/// Whose a log is that was found on this host.
#[derive(Debug)]
pub(crate) enum Ownership {
    /// The newest fence is this log's: what it holds continues the stream.
    Ours,
    /// Somebody took over since, but the stream holds all of it, or there is nothing in it.
    Contained,
    /// Somebody took over since, and it holds this many bytes that the stream does not.
    Stale { bytes: u64, other: String },
}

/// Decides whose `log` is.
pub(crate) fn ownership(state: &StreamState, log: &LogOnDisk) -> Result<Ownership> {
    ownership_among(&state.fences, log)
}

/// As [`ownership`], of a stream with these fences.
pub(crate) fn ownership_among(fences: &[FenceRecord], log: &LogOnDisk) -> Result<Ownership> {
    let Some(newest) = fences.last() else { return Ok(Ownership::Ours) };
    if log.owns(newest.id.nonce) {
        return Ok(Ownership::Ours);
    }
    let header = log.header();
    let Some(own) = header.fence.filter(|_| !header.clean) else {
        return Ok(Ownership::Contained);
    };
    // What the stream held of this log's records when the next writer took over.
    let deposed_by = fences.iter().find(|fence| fence.id.seq > own.seq).unwrap_or(newest);
    let mut bytes = 0;
    log.scan(|record| {
        if record.head.seq > deposed_by.log_seq && record.head.kind != RecordKind::Void {
            bytes += u64::from(record.head.total_len);
        }
        Ok(())
    })?;
    let other = format!("host {:?}", deposed_by.host.as_str());
    Ok(if bytes == 0 { Ownership::Contained } else { Ownership::Stale { bytes, other } })
}

/// What a log added to the maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed {
    /// The oldest record that the stream does not hold.
    pub(crate) tail: LogPoint,
    pub(crate) end: ScanEnd,
    /// The number of the next record.
    pub(crate) next_seq: LogSeq,
    pub(crate) records: u64,
}

/// Publishes what `log` holds beyond the stream in the maps.
pub(crate) fn replay(state: &mut StreamState, log: &LogOnDisk) -> Result<Replayed> {
    let start = log.header().tail;
    if start.seq > state.log_seq.next() {
        let detail = format!(
            "it begins with record {}, but the store ends with record {}: the records between are \
             lost. Was the store rolled back?",
            start.seq, state.log_seq
        );
        return Err(Error::damaged(log.path().display(), detail));
    }
    let held = state.log_seq;
    let mut tail = None;
    let mut records = 0;
    let maps = &mut state.maps;
    let end = log.scan(|record| {
        let head = &record.head;
        if head.seq <= held {
            return Ok(());
        }
        tail.get_or_insert(LogPoint { pos: record.pos, seq: head.seq });
        records += 1;
        match (head.kind, head.extent()) {
            (RecordKind::Write, Some(extent)) => maps.write(extent, head.seq, record.pos, 0),
            (RecordKind::Trim, Some(extent)) => maps.trim(extent, head.seq),
            (RecordKind::Resize, _) => maps.resize(head.sectors, head.seq),
            _ => {}
        }
        Ok(())
    })?;
    let next_seq = end.seq.max(held.next());
    let tail = tail.unwrap_or(LogPoint { pos: end.pos, seq: next_seq });
    Ok(Replayed { tail, end, next_seq, records })
}
