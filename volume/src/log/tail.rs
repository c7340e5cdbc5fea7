//! Reading the log in order, for the sequencer.

use std::ops::Range;
use std::sync::Arc;

use super::data::LogData;
use crate::error::Result;
use crate::format::log_record::{RECORD_HEAD_BYTES, RecordHead, RecordKind};
use crate::units::{LogPos, LogSeq};

/// How much is taken at a time.
const READ_AHEAD: u64 = 256 << 10;

/// A place in the log that moves on record by record. It is the only user of what lies
/// between it and the log's tail, so nothing it reads is recycled under it.
///
/// What it has read stays in one buffer until [`Self::take`], so that a batch is made of the very
/// bytes that were copied out of the log.
#[derive(Debug)]
pub(crate) struct LogTail {
    data: Arc<LogData>,
    pos: LogPos,
    seq: LogSeq,
    /// The log's bytes from `read_start` on.
    read: Vec<u8>,
    read_start: LogPos,
    /// Whether some of them came from the ring, where bits may have flipped.
    from_ring: bool,
}

/// One record as the sequencer sees it.
#[derive(Debug)]
pub(crate) struct TailRecord {
    /// What it says.
    pub(crate) head: RecordHead,
    /// Where its data is in what [`LogTail::take`] will return. Empty unless it is a write.
    pub(crate) payload: Range<usize>,
}

impl LogTail {
    /// Starts at `pos`, where the record `seq` is or will be.
    pub(crate) fn new(data: Arc<LogData>, pos: LogPos, seq: LogSeq) -> Self {
        Self { data, pos, seq, read: Vec::new(), read_start: pos, from_ring: false }
    }

    /// Where the next record starts.
    pub(crate) fn pos(&self) -> LogPos {
        self.pos
    }

    /// The next record's number.
    pub(crate) fn seq(&self) -> LogSeq {
        self.seq
    }

    /// The next record that ends at or before `filled`; pads are passed over.
    ///
    /// # Errors
    /// Damaged, or the SSD fails.
    pub(crate) fn next(&mut self, filled: LogPos) -> Result<Option<TailRecord>> {
        while self.pos < filled {
            self.ensure(RECORD_HEAD_BYTES.into(), filled)?;
            let whole = RecordHead::peek_total_len(self.ahead())
                .ok_or_else(|| self.data.damaged(self.pos, "no record where one was"))?;
            self.ensure(u64::from(whole), filled)?;
            let (head, sums) = RecordHead::decode(self.ahead(), self.data.tag)
                .map_err(|e| self.data.damaged(self.pos, e))?;
            if head.seq != self.seq {
                let detail = format!("record {} where {} is due", head.seq, self.seq);
                return Err(self.data.damaged(self.pos, detail));
            }
            let from = self.pos.since(self.read_start) as usize + head.payload_offset() as usize;
            let record_pos = self.pos;
            self.pos = self.pos.plus(u64::from(head.total_len));
            if head.kind == RecordKind::Pad {
                continue;
            }
            self.seq = self.seq.next();
            let len = if head.kind == RecordKind::Write { head.payload_len as usize } else { 0 };
            let payload = from..from + len;
            return match self.read.get(payload.clone()) {
                Some(bytes) if !self.from_ring || sums.verify_payload(bytes).is_ok() => {
                    Ok(Some(TailRecord { head, payload }))
                }
                _ => Err(self.data.damaged(record_pos, "the checksum of its data does not match")),
            };
        }
        Ok(None)
    }

    /// Everything read since the last call, in exchange for an empty buffer. What lies beyond
    /// [`Self::pos`] is read again.
    pub(crate) fn take(&mut self, empty: Vec<u8>) -> Vec<u8> {
        self.read_start = self.pos;
        self.from_ring = false;
        std::mem::replace(&mut self.read, empty)
    }

    /// Goes back to a record that was returned but not used.
    pub(crate) fn rewind(&mut self, pos: LogPos, seq: LogSeq) {
        self.pos = pos;
        self.seq = seq;
    }

    /// What was read of the log at `pos` and beyond.
    fn ahead(&self) -> &[u8] {
        self.read.get(self.pos.since(self.read_start) as usize..).unwrap_or_default()
    }

    /// Sees to it that `len` bytes from `pos` on are read.
    fn ensure(&mut self, len: u64, filled: LogPos) -> Result<()> {
        let missing = len.saturating_sub(self.ahead().len() as u64);
        if missing == 0 {
            return Ok(());
        }
        let from = self.read_start.plus(self.read.len() as u64);
        let to_end = self.data.layout.to_window_end(from).min(filled.since(from));
        if missing > to_end {
            return Err(self.data.damaged(self.pos, "a record longer than the log"));
        }
        let wanted = missing.max(READ_AHEAD).min(to_end) as usize;
        {
            let window = self.data.memory.window();
            if let Some(bytes) = window.bytes(from, wanted) {
                self.read.extend_from_slice(bytes);
                return Ok(());
            }
        }
        // Below the floor: in the ring, as is everything up to `safe`.
        let in_ring = self.data.memory.safe().since(from).min(wanted as u64).max(missing);
        let before = self.read.len();
        self.read.resize(before + in_ring as usize, 0);
        self.from_ring = true;
        self.data.read_ring_once(from, self.read.get_mut(before..).unwrap_or_default())
    }
}
