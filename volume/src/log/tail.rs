//! Reading the log in order, for the sequencer.

use std::sync::Arc;

use super::data::LogData;
use crate::error::Result;
use crate::format::log_record::{RECORD_HEAD_BYTES, RecordHead, RecordKind};
use crate::units::{LogPos, LogSeq};

/// How much is taken at a time.
const READ_AHEAD: u64 = 256 << 10;

/// A place in the log that moves on record by record. It is the only user of what lies
/// between it and the log's tail, so nothing it reads is recycled under it.
#[derive(Debug)]
pub(crate) struct LogTail {
    data: Arc<LogData>,
    pos: LogPos,
    seq: LogSeq,
    chunk: Vec<u8>,
    chunk_start: LogPos,
    /// Whether the chunk came from the ring, where bits may have flipped.
    from_ring: bool,
}

/// One record as the sequencer sees it.
#[derive(Debug)]
pub(crate) struct TailRecord<'a> {
    /// What it says.
    pub(crate) head: RecordHead,
    /// Its data, if it is a write.
    pub(crate) payload: &'a [u8],
}

impl LogTail {
    /// Starts at `pos`, where the record `seq` is or will be.
    pub(crate) fn new(data: Arc<LogData>, pos: LogPos, seq: LogSeq) -> Self {
        Self { data, pos, seq, chunk: Vec::new(), chunk_start: pos, from_ring: false }
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
    pub(crate) fn next(&mut self, filled: LogPos) -> Result<Option<TailRecord<'_>>> {
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
            let from = self.pos.since(self.chunk_start) as usize + head.payload_offset() as usize;
            let record_pos = self.pos;
            self.pos = self.pos.plus(u64::from(head.total_len));
            if head.kind == RecordKind::Pad {
                continue;
            }
            self.seq = self.seq.next();
            let payload = match head.kind {
                RecordKind::Write => self.chunk.get(from..from + head.payload_len as usize),
                _ => Some(&[][..]),
            };
            return match payload {
                Some(payload) if !self.from_ring || sums.verify_payload(payload).is_ok() => {
                    Ok(Some(TailRecord { head, payload }))
                }
                _ => Err(self.data.damaged(record_pos, "the checksum of its data does not match")),
            };
        }
        Ok(None)
    }

    /// Goes back to a record that was returned but not used.
    pub(crate) fn rewind(&mut self, pos: LogPos, seq: LogSeq) {
        self.pos = pos;
        self.seq = seq;
    }

    /// What of the chunk lies at `pos` and beyond.
    fn ahead(&self) -> &[u8] {
        self.chunk.get(self.pos.since(self.chunk_start) as usize..).unwrap_or_default()
    }

    /// Sees to it that the chunk holds `len` bytes from `pos` on.
    fn ensure(&mut self, len: u64, filled: LogPos) -> Result<()> {
        if self.pos >= self.chunk_start && self.ahead().len() as u64 >= len {
            return Ok(());
        }
        let to_end = self.data.layout.to_window_end(self.pos).min(filled.since(self.pos));
        if len > to_end {
            return Err(self.data.damaged(self.pos, "a record longer than the log"));
        }
        let wanted = len.max(READ_AHEAD).min(to_end) as usize;
        self.chunk_start = self.pos;
        self.chunk.clear();
        {
            let window = self.data.memory.window();
            if let Some(bytes) = window.bytes(self.pos, wanted) {
                self.chunk.extend_from_slice(bytes);
                self.from_ring = false;
                return Ok(());
            }
        }
        // Below the floor: in the ring, as is everything up to `safe`.
        let in_ring = self.data.memory.safe().since(self.pos).min(wanted as u64).max(len);
        self.chunk.resize(in_ring as usize, 0);
        self.from_ring = true;
        self.data.read_ring(self.pos, &mut self.chunk)
    }
}
