//! Reading a piece of a record on behalf of a reader of the volume.
//!
//! From the writer's own window it is a copy. Otherwise the piece's 64 KiB chunks are read whole and
//! checked, and afterwards it is checked that the room was not given to a newer record
//! meanwhile: the map has moved on then, and the reader looks again.

use super::data::LogData;
use crate::error::{Error, Result};
use crate::format::log_record::{
    CHUNK_BYTES, HEAD_AND_TABLE_BYTES_MAX, RECORD_HEAD_BYTES, RecordHead, RecordKind,
};
use crate::units::{LogPos, LogSeq, SECTOR_BYTES};

/// What became of a [`LogData::fetch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The bytes are there.
    Filled,
    /// They are on the SSD and not cached, and the caller did not want to wait.
    WouldWait,
    /// The record is gone: it is in the store now. Look into the map again.
    Recycled,
}

impl LogData {
    /// Copies the payload of the record `seq` at `record`, from its sector `sector` on, to `out`.
    ///
    /// # Errors
    /// Damaged, or the SSD fails.
    pub(crate) fn fetch(
        &self,
        record: LogPos,
        seq: LogSeq,
        sector: u32,
        out: &mut [u8],
        may_wait: bool,
    ) -> Result<Fetched> {
        let skip = u64::from(sector) * SECTOR_BYTES;
        if self.own && self.copy_from_memory(record, skip, out) {
            return Ok(Fetched::Filled);
        }
        let fetched = self.fetch_verified(record, seq, skip as usize, out, may_wait);
        if self.is_recycled(record) { Ok(Fetched::Recycled) } else { fetched }
    }

    fn copy_from_memory(&self, record: LogPos, skip: u64, out: &mut [u8]) -> bool {
        let window = self.memory.window();
        let Some(front) = window.bytes(record, RECORD_HEAD_BYTES as usize) else { return false };
        let Some(start) = RecordHead::peek_payload_offset(front) else { return false };
        match window.bytes(record.plus(u64::from(start) + skip), out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    fn fetch_verified(
        &self,
        record: LogPos,
        seq: LogSeq,
        skip: usize,
        out: &mut [u8],
        may_wait: bool,
    ) -> Result<Fetched> {
        let room = self.layout.to_window_end(record) as usize;
        let mut front = vec![0; HEAD_AND_TABLE_BYTES_MAX.min(room)];
        if !self.read_piece(record, &mut front, may_wait)? {
            return Ok(Fetched::WouldWait);
        }
        let (head, sums) = RecordHead::decode(&front, self.tag)
            .map_err(|e| self.damaged(record, format!("a record that was whole is not: {e}")))?;
        let payload_len = head.payload_len as usize;
        if head.seq != seq || head.kind != RecordKind::Write || skip + out.len() > payload_len {
            return Err(self.damaged(record, "another record than the map says"));
        }
        let chunk = CHUNK_BYTES as usize;
        let first = skip / chunk;
        let end = (skip + out.len()).next_multiple_of(chunk).min(payload_len);
        let mut chunks = vec![0; end - first * chunk];
        let at = record.plus(u64::from(head.payload_offset()) + (first * chunk) as u64);
        if !self.read_piece(at, &mut chunks, may_wait)? {
            return Ok(Fetched::WouldWait);
        }
        if sums.verify_chunks(first, &chunks).is_err() {
            return Err(self.damaged(record, "the checksum of its data does not match"));
        }
        let from = skip - first * chunk;
        match chunks.get(from..from + out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return Err(self.damaged(record, "another record than the map says")),
        }
        Ok(Fetched::Filled)
    }

    fn read_piece(&self, pos: LogPos, out: &mut [u8], may_wait: bool) -> Result<bool> {
        {
            let window = self.memory.window();
            if let Some(bytes) = window.bytes(pos, out.len()) {
                out.copy_from_slice(bytes);
                return Ok(true);
            }
        }
        if may_wait {
            return self.read_ring(pos, out).map(|()| true);
        }
        self.file
            .read_at_nowait(self.layout.file_offset(pos), out)
            .map_err(|e| Error::local(&self.path, "read the log", e))
    }
}
