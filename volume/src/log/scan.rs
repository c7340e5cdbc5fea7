//! Finding what a log holds after its writer is gone.
//!
//! The scan starts at the header's tail and accepts records with consecutive numbers, none
//! of a lower incarnation after a higher one. It ends at the first place that holds none.
//! That place must not lie before anything known to be durable:
//! * the position the header calls durable, or where its incarnation began;
//! * a later record, written after a sync that covered the place.
//!
//! Otherwise the log is damaged, and is refused rather than cut off.
//!
//! Where the memory survived, it continues where the file ends; a slot that was taken but
//! never filled becomes a void record there.

use super::data::LogData;
use crate::error::Result;
use crate::format::log_header::LogHeader;
use crate::format::{RECORD_HEAD_BYTES, RecordHead, RecordKind, RecordPrefix, VolumeTag};
use crate::units::{BLOCK_BYTES, Lba, LogPos, LogSeq};

/// How much of the ring is read at a time.
const READ_BYTES: u64 = 1 << 20;

/// A record that the scan accepted.
#[derive(Clone, Debug)]
pub(crate) struct ScannedRecord {
    /// What it says.
    pub(crate) head: RecordHead,
    /// Where it is.
    pub(crate) pos: LogPos,
}

/// Where a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScanEnd {
    /// After the last record.
    pub(crate) pos: LogPos,
    /// The number after the last record's.
    pub(crate) seq: LogSeq,
    /// The first record that the file should hold and only the memory does.
    pub(crate) rescued: Option<LogPos>,
}

/// What there is at a position.
enum Found {
    Record(RecordHead),
    Nothing,
}

impl Found {
    /// Whether it is a record that was filled.
    fn is_whole(&self) -> bool {
        matches!(self, Found::Record(head) if head.kind != RecordKind::Void)
    }
}

/// A scan in progress.
pub(super) struct Scan<'a> {
    data: &'a LogData,
    header: &'a LogHeader,
    /// Everything before is safe in the file; from here on the memory counts. `None`: no memory.
    safe: Option<LogPos>,
    /// Turn unfilled slots into void records in memory, for a later write to the file.
    mend: bool,
    rescued: Option<LogPos>,
    memory_is_stale: bool,
    ring: Vec<u8>,
    ring_start: LogPos,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        data: &'a LogData,
        header: &'a LogHeader,
        safe: Option<LogPos>,
        mend: bool,
    ) -> Self {
        Self {
            data,
            header,
            safe,
            mend,
            rescued: None,
            memory_is_stale: false,
            ring: Vec::new(),
            ring_start: LogPos::ZERO,
        }
    }

    /// Whether the memory lacks what the file has: then its pages are older than the file, as
    /// when their file system was mounted anew, and nothing in it is to be believed.
    pub(super) fn finds_stale_memory(mut self) -> Result<bool> {
        self.walk(&mut |_| Ok(()))?;
        Ok(self.memory_is_stale)
    }

    /// Calls `each` for every record but the pads.
    pub(super) fn run(
        mut self,
        mut each: impl FnMut(&ScannedRecord) -> Result<()>,
    ) -> Result<ScanEnd> {
        let end = self.walk(&mut each)?;
        self.check_end(end.pos, end.seq)?;
        Ok(end)
    }

    fn walk(&mut self, each: &mut dyn FnMut(&ScannedRecord) -> Result<()>) -> Result<ScanEnd> {
        let mut pos = self.header.tail.pos;
        let mut seq = self.header.tail.seq;
        let mut incarnation = None;
        loop {
            let record = match self.look(pos, seq)? {
                Found::Record(head) if self.belongs(pos, &head, incarnation) => head,
                Found::Record(head) if head.incarnation > self.header.incarnation => {
                    let detail = "a record of a later opening than the header knows: the newer \
                                  header is damaged; move the file away to go on with what the \
                                  store holds";
                    return Err(self.data.damaged(pos, detail));
                }
                _ => break,
            };
            incarnation = Some(record.incarnation);
            let here = pos;
            pos = pos.plus(u64::from(record.total_len));
            if record.kind != RecordKind::Pad {
                seq = seq.next();
                each(&ScannedRecord { head: record, pos: here })?;
            }
        }
        Ok(ScanEnd { pos, seq, rescued: self.rescued })
    }

    /// Whether a record found at `pos` is of an incarnation that can be there.
    fn belongs(
        &self,
        pos: LogPos,
        head: &RecordHead,
        before: Option<crate::units::Incarnation>,
    ) -> bool {
        let current = head.incarnation == self.header.incarnation;
        let rising = before.is_none_or(|b| head.incarnation >= b);
        rising && if pos < self.header.start.pos { !current } else { current }
    }

    fn look(&mut self, pos: LogPos, seq: LogSeq) -> Result<Found> {
        if self.safe.is_some_and(|safe| pos >= safe) {
            let found = self.look_in_memory(pos, seq, self.mend);
            if found.is_whole() || !self.look_in_ring(pos, seq)?.is_whole() {
                return Ok(found);
            }
            self.memory_is_stale = true;
            return Ok(Found::Nothing);
        }
        match self.look_in_ring(pos, seq)? {
            Found::Nothing if self.safe.is_some() => {
                // It was safe, but is not readable any more: the memory may still have it.
                let found = self.look_in_memory(pos, seq, false);
                if matches!(found, Found::Record(_)) {
                    self.rescued.get_or_insert(pos);
                }
                Ok(found)
            }
            found => Ok(found),
        }
    }

    fn look_in_memory(&self, pos: LogPos, seq: LogSeq, mend: bool) -> Found {
        let to_end = self.data.layout.to_window_end(pos);
        // SAFETY: nobody appends to the log while it is scanned.
        let front = unsafe { self.data.memory.bytes(pos, RECORD_HEAD_BYTES as usize) };
        let prefix = match RecordPrefix::decode(front, self.data.tag, self.header.incarnation) {
            Ok(prefix) if prefix.seq == seq && u64::from(prefix.total_len) <= to_end => prefix,
            _ => return Found::Nothing,
        };
        // SAFETY: as above.
        let bytes = unsafe { self.data.memory.bytes(pos, prefix.total_len as usize) };
        if let Some(head) = whole_record(bytes, self.data.tag, seq) {
            return Found::Record(head);
        }
        if self.safe.is_some_and(|safe| pos < safe) {
            return Found::Nothing;
        }
        let void = RecordHead {
            seq,
            total_len: prefix.total_len,
            kind: RecordKind::Void,
            lba: Lba::ZERO,
            sectors: 0,
            payload_len: 0,
            incarnation: self.header.incarnation,
            durable: LogSeq::ZERO,
        };
        if mend {
            // SAFETY: nobody else uses the memory while the log is opened for writing.
            let out = unsafe { self.data.memory.bytes_mut(pos, prefix.total_len as usize) };
            // It cannot fail: the fields are a void record's and there is room for its head.
            let _ = void.encode_into(self.data.tag, &[], out);
        }
        Found::Record(void)
    }

    fn look_in_ring(&mut self, pos: LogPos, seq: LogSeq) -> Result<Found> {
        self.fill_ring(pos, RECORD_HEAD_BYTES.into())?;
        let Some(len) = RecordHead::peek_total_len(self.ring_from(pos)) else {
            return Ok(Found::Nothing);
        };
        if u64::from(len) > self.data.layout.to_window_end(pos) {
            return Ok(Found::Nothing);
        }
        self.fill_ring(pos, u64::from(len))?;
        let bytes = self.ring_from(pos).get(..len as usize).unwrap_or_default();
        Ok(whole_record(bytes, self.data.tag, seq).map_or(Found::Nothing, Found::Record))
    }

    fn ring_from(&self, pos: LogPos) -> &[u8] {
        self.ring.get(pos.since(self.ring_start) as usize..).unwrap_or_default()
    }

    /// Sees to it that `ring` holds `len` bytes from `pos`; not across the window's end.
    fn fill_ring(&mut self, pos: LogPos, len: u64) -> Result<()> {
        if pos >= self.ring_start && self.ring_from(pos).len() as u64 >= len {
            return Ok(());
        }
        let wanted = len.max(READ_BYTES).min(self.data.layout.to_window_end(pos));
        self.ring.resize(wanted as usize, 0);
        self.ring_start = pos;
        self.data.read_ring(pos, &mut self.ring)
    }

    /// Refuses an end that lies before something known to be durable.
    fn check_end(&mut self, end: LogPos, seq: LogSeq) -> Result<()> {
        let header = self.header;
        let durable = header.durable.pos.max(header.start.pos).max(self.safe.unwrap_or_default());
        if end < durable {
            let detail = format!(
                "record {seq} is missing or damaged, though everything up to position {durable} was \
                 safe on the SSD; move the file away to go on with what the store holds"
            );
            return Err(self.data.damaged(end, detail));
        }
        if self.safe.is_some() || header.clean {
            return Ok(());
        }
        match self.later_witness(end, seq)? {
            Some(witness) => {
                let detail = format!(
                    "record {seq} is damaged: record {witness} was written after it was safe on \
                     the SSD; move the file away to go on with what the store holds"
                );
                Err(self.data.damaged(end, detail))
            }
            None => Ok(()),
        }
    }

    /// A record beyond `end` of the same opening that was written when `seq` was durable.
    /// Flushes start at blocks, and no more than a window was ever in flight.
    fn later_witness(&mut self, end: LogPos, seq: LogSeq) -> Result<Option<LogSeq>> {
        let first = end.get().next_multiple_of(BLOCK_BYTES);
        let last = end.get() + 2 * self.data.layout.window_bytes();
        for block in (first..last).step_by(BLOCK_BYTES as usize) {
            let pos = LogPos::new(block);
            self.fill_ring(pos, BLOCK_BYTES)?;
            let Ok((head, _)) = RecordHead::decode(self.ring_from(pos), self.data.tag) else {
                continue;
            };
            let same = head.incarnation == self.header.incarnation;
            if same && head.seq > seq && head.durable >= seq {
                return Ok(Some(head.seq));
            }
        }
        Ok(None)
    }
}

/// The record in `bytes`, if it is whole and carries `seq`.
fn whole_record(bytes: &[u8], tag: VolumeTag, seq: LogSeq) -> Option<RecordHead> {
    let (head, sums) = RecordHead::decode(bytes, tag).ok()?;
    if head.seq != seq || head.total_len as usize > bytes.len() {
        return None;
    }
    if head.kind == RecordKind::Write {
        let from = head.payload_offset() as usize;
        let payload = bytes.get(from..from + head.payload_len as usize)?;
        sums.verify_payload(payload).ok()?;
    }
    Some(head)
}
