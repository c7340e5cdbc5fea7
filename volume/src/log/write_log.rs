//! Append, flush and release.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::data::LogData;
use super::flush_state::{AT_ONCE, FlushState, Turn};
use super::head::{Head, Limits, Pad, Pass, Slot, Wait};
use super::header_pair::HeaderPair;
use super::sync_core::SyncCore;
use super::tail_signal::TailSignal;
use crate::core::step_of;
use crate::error::{Error, Result};
use crate::format::{
    ChunkSums, LogHeader, LogPoint, RecordHead, RecordKind, RecordPrefix, record_len,
};
use crate::platform::Platform;
use crate::poison::Poison;
use crate::units::{Extent, Incarnation, Lba, LogPos, LogSeq, ObjectSeq, SECTOR_BYTES};

/// What a record says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<'a> {
    /// These whole sectors, at most [`crate::format::log_record::PAYLOAD_MAX`] bytes.
    Write { start: Lba, data: &'a [u8] },
    /// These sectors read as zeroes.
    Trim(Extent),
    /// The volume has this many sectors.
    Resize { sectors: u64 },
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Not now.
    Wait(Wait),
    /// Not at all.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Failed(error)
    }
}

/// One volume's write log, open for writing.
#[derive(Debug)]
pub(crate) struct WriteLog {
    pub(super) platform: Arc<dyn Platform>,
    pub(super) volume: String,
    dir: PathBuf,
    pub(super) data: Arc<LogData>,
    pub(super) incarnation: Incarnation,
    pub(super) head: Mutex<Head>,
    /// Signalled when a slot is filled.
    pub(super) filled: Condvar,
    /// Signalled under `head` when there may be room, or a range lock is gone.
    room: Condvar,
    /// Highest number known to be safe on the SSD.
    pub(super) durable_seq: AtomicU64,
    /// Held by who writes the file.
    pub(super) rounds: Mutex<Turn>,
    /// The error after which the file is not written any more.
    pub(super) flush_failed: OnceLock<Error>,
    pub(super) flush: Mutex<FlushState>,
    pub(super) flush_wake: Condvar,
    /// Whether the next write is likely to be followed by a flush.
    pub(super) expects_flush: AtomicBool,
    /// On which core syncs are carried out.
    pub(super) sync_core: SyncCore,
    /// The position at which an append wakes the flusher, or [`AT_ONCE`], or [`WOKEN`].
    pub(super) flush_wake_at: AtomicU64,
    tail_signal: TailSignal,
    pub(super) headers: Mutex<HeaderPair>,
    pub(super) poison: Arc<Poison>,
    closed: AtomicBool,
    /// When the store last took something, in milliseconds of the monotonic clock.
    progress_ms: AtomicU64,
}

/// What [`super::open`] hands over.
pub(super) struct Parts {
    pub(super) platform: Arc<dyn Platform>,
    pub(super) volume: String,
    pub(super) dir: PathBuf,
    pub(super) data: Arc<LogData>,
    pub(super) head: Head,
    pub(super) headers: HeaderPair,
    pub(super) poison: Arc<Poison>,
}

impl WriteLog {
    pub(super) fn new(parts: Parts) -> Self {
        let incarnation = parts.headers.current().incarnation;
        let start = parts.head.pos();
        let durable = parts.head.seq().get().saturating_sub(1);
        Self {
            platform: parts.platform,
            volume: parts.volume,
            dir: parts.dir,
            data: parts.data,
            incarnation,
            head: Mutex::new(parts.head),
            filled: Condvar::new(),
            room: Condvar::new(),
            durable_seq: AtomicU64::new(durable),
            rounds: Mutex::default(),
            flush_failed: OnceLock::new(),
            flush: Mutex::new(FlushState::new(start)),
            flush_wake: Condvar::new(),
            expects_flush: AtomicBool::new(false),
            sync_core: SyncCore::default(),
            flush_wake_at: AtomicU64::new(AT_ONCE),
            tail_signal: TailSignal::default(),
            headers: Mutex::new(parts.headers),
            poison: parts.poison,
            closed: AtomicBool::new(false),
            progress_ms: AtomicU64::new(0),
        }
    }

    /// Appends a record; `publish` makes it readable and is called with its number and place
    /// once it is whole. On return the record survives the process.
    ///
    /// # Errors
    /// [`Refused::Wait`] when the caller must try again later, [`Refused::Failed`] when the
    /// log takes no more or the entry lies outside the volume.
    pub(crate) fn append(
        &self,
        entry: Entry<'_>,
        pass: Pass,
        publish: impl FnOnce(LogSeq, LogPos),
    ) -> std::result::Result<LogSeq, Refused> {
        let payload: &[u8] = if let Entry::Write { data, .. } = entry { data } else { &[] };
        let range = self.range_of(entry)?;
        let len = u32::try_from(payload.len())
            .ok()
            .and_then(record_len)
            .ok_or_else(|| self.out_of_range(range, 0))?;
        let sums = ChunkSums::of(payload).ok_or_else(|| self.out_of_range(range, 0))?;

        let slot = self.reserve(entry, range, pass, u64::from(len))?;
        let reservation = Reservation { log: self, slot };
        self.fill(slot, entry, payload, &sums)?;
        publish(slot.seq, slot.pos);
        drop(reservation);
        let end = slot.pos.plus(u64::from(slot.total_len));
        if end.get() >= self.flush_wake_at.load(Ordering::SeqCst) {
            self.wake_flusher();
        }
        self.tail_signal.reached(end);
        Ok(slot.seq)
    }

    /// Takes a record's place and marks it in memory, so that a crash before it is filled
    /// leaves a hole that can be stepped over.
    fn reserve(
        &self,
        entry: Entry<'_>,
        range: Option<Extent>,
        pass: Pass,
        len: u64,
    ) -> std::result::Result<Slot, Refused> {
        let now = self.platform.monotonic();
        let mut head = self.head.lock();
        self.poison.check()?;
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closing(self.volume.clone()).into());
        }
        if let Some(range) = range
            && range.end().get() > head.size_sectors()
        {
            return Err(self.out_of_range(Some(range), head.size_sectors()).into());
        }
        head.admit(range, pass).map_err(Refused::Wait)?;
        let (slot, pad) = match head.reserve(len, self.data.memory.floor(), now) {
            Ok(taken) => taken,
            Err(wait) => {
                drop(head);
                // Both can make room: one by writing to the SSD, the other by committing.
                self.wake_flusher();
                self.wake_tail();
                return Err(Refused::Wait(wait));
            }
        };
        if let Some(pad) = pad {
            self.write_pad(pad);
        }
        let prefix = RecordPrefix { seq: slot.seq, total_len: slot.total_len };
        let bytes = prefix.encode(self.data.tag, self.incarnation);
        // SAFETY: the slot was just reserved by this thread and is not yet complete.
        unsafe { self.data.memory.bytes_mut(slot.pos, bytes.len()) }.copy_from_slice(&bytes);
        if let Entry::Resize { sectors } = entry {
            head.set_size(sectors);
        }
        Ok(slot)
    }

    fn fill(&self, slot: Slot, entry: Entry<'_>, payload: &[u8], sums: &ChunkSums) -> Result<()> {
        let (kind, lba, sectors) = match entry {
            Entry::Write { start, data } => {
                (RecordKind::Write, start, data.len() as u64 / SECTOR_BYTES)
            }
            Entry::Trim(extent) => (RecordKind::Trim, extent.start(), extent.sectors()),
            Entry::Resize { sectors } => (RecordKind::Resize, Lba::ZERO, sectors),
        };
        let head = RecordHead {
            seq: slot.seq,
            total_len: slot.total_len,
            kind,
            lba,
            sectors,
            payload_len: payload.len() as u32,
            incarnation: self.incarnation,
            durable: LogSeq::new(self.durable_seq.load(Ordering::Relaxed)),
        };
        // SAFETY: the slot was reserved by this thread and is not yet complete.
        let record = unsafe { self.data.memory.bytes_mut(slot.pos, slot.total_len as usize) };
        let (front, rest) = record.split_at_mut(head.payload_offset() as usize);
        let (body, slack) = rest.split_at_mut(payload.len());
        body.copy_from_slice(payload);
        slack.fill(0);
        head.encode_into(self.data.tag, sums.as_slice(), front)
            .map_err(|e| self.data.damaged(slot.pos, e))
    }

    /// Writes a pad; called under the head's lock, which makes it ours.
    pub(super) fn write_pad(&self, pad: Pad) {
        let head = RecordHead {
            seq: pad.seq,
            total_len: pad.len,
            kind: RecordKind::Pad,
            lba: Lba::ZERO,
            sectors: 0,
            payload_len: 0,
            incarnation: self.incarnation,
            durable: LogSeq::new(self.durable_seq.load(Ordering::Relaxed)),
        };
        // SAFETY: the pad's bytes were just taken under the head's lock and belong to no slot.
        let bytes = unsafe { self.data.memory.bytes_mut(pad.pos, head.payload_offset() as usize) };
        // It cannot fail: the fields are a pad's and there is room for its head.
        let _ = head.encode_into(self.data.tag, &[], bytes);
    }

    fn range_of(&self, entry: Entry<'_>) -> Result<Option<Extent>> {
        match entry {
            Entry::Write { start, data } => {
                let sectors = data.len() as u64 / SECTOR_BYTES;
                let extent = Extent::new(start, sectors);
                extent.map(Some).ok_or_else(|| Error::OutOfRange {
                    volume: self.volume.clone(),
                    offset: start.get().saturating_mul(SECTOR_BYTES),
                    bytes: data.len() as u64,
                    size: self.head.lock().size_sectors() * SECTOR_BYTES,
                })
            }
            Entry::Trim(extent) => Ok(Some(extent)),
            Entry::Resize { .. } => Ok(None),
        }
    }

    fn out_of_range(&self, range: Option<Extent>, size_sectors: u64) -> Error {
        Error::OutOfRange {
            volume: self.volume.clone(),
            offset: range.map_or(0, |r| r.start().get() * SECTOR_BYTES),
            bytes: range.map_or(0, Extent::bytes),
            size: size_sectors * SECTOR_BYTES,
        }
    }

    /// Locks `range` for an unaligned write: when it returns, no other record within the
    /// range is being filled, and none will be until [`Self::unlock`]. `None`: try later.
    pub(crate) fn lock_range(&self, range: Extent) -> Option<u64> {
        let mut head = self.head.lock();
        let id = head.lock(range)?;
        let before = head.pos();
        while head.filled() < before {
            self.filled.wait(&mut head);
        }
        Some(id)
    }

    /// Lets go of a range.
    pub(crate) fn unlock(&self, id: u64) {
        self.head.lock().unlock(id);
        self.room.notify_all();
    }

    /// Waits until there may be room, but not for long: room can also come from elsewhere.
    pub(crate) fn wait_for_room(&self, at_most: Duration) {
        let mut head = self.head.lock();
        self.room.wait_for(&mut head, at_most);
    }

    /// Tells those who wait for room to look again.
    pub(crate) fn notify_room(&self) {
        // Taking the lock orders this after the check of whoever is about to wait.
        drop(self.head.lock());
        self.room.notify_all();
    }

    /// Whether ordinary records wait their turn behind those that wait already.
    pub(crate) fn hold_others(&self, hold: bool) {
        self.head.lock().hold_others(hold);
    }

    /// The volume's name, for errors.
    pub(crate) fn volume(&self) -> &str {
        &self.volume
    }

    /// The bytes of the log, for readers.
    pub(crate) fn data(&self) -> &Arc<LogData> {
        &self.data
    }

    /// Everything before this position is filled and may be sequenced.
    pub(crate) fn filled(&self) -> LogPos {
        self.head.lock().filled()
    }

    /// The position after the newest record.
    pub(crate) fn end(&self) -> LogPos {
        self.head.lock().pos()
    }

    /// The newest record's number.
    pub(crate) fn last_seq(&self) -> LogSeq {
        LogSeq::new(self.head.lock().seq().get().saturating_sub(1))
    }

    /// Everything before is committed in the store.
    pub(crate) fn tail(&self) -> LogPos {
        self.head.lock().tail()
    }

    /// Bytes of the ring.
    pub(crate) fn ring_bytes(&self) -> u64 {
        self.data.layout.ring_bytes()
    }

    /// Bytes not yet committed, and the share of the ring they take in 1/256.
    pub(crate) fn backlog(&self) -> (u64, u64) {
        let head = self.head.lock();
        // After the last record there may be a pad, which nobody uploads.
        let dirty = if head.oldest().is_some() { head.pos().since(head.tail()) } else { 0 };
        (dirty, head.fill_256ths())
    }

    /// Everything before `tail`, whose record is `seq`, is committed up to object
    /// `committed`: its room is given back once a header that says so is durable.
    pub(crate) fn release(&self, tail: LogPos, seq: LogSeq, committed: ObjectSeq) {
        let starving = {
            let mut head = self.head.lock();
            head.raise_tail(tail, seq);
            head.pos().since(head.reuse()) > self.data.layout.ring_bytes() / 2
        };
        let mut flush = self.flush.lock();
        flush.note_tail(tail, seq, committed);
        if starving {
            flush.wake();
            self.flush_wake.notify_one();
        }
        drop(flush);
        self.note_progress();
        self.notify_room();
    }

    /// The log's file.
    pub(crate) fn header_path(&self) -> PathBuf {
        PathBuf::from(&self.data.path)
    }

    /// Sets how far the store may lag behind; before the first append.
    pub(crate) fn begin(&self, limits: Limits) {
        let tail_seq = self.header().tail.seq;
        self.head.lock().begin(limits, tail_seq, self.platform.monotonic());
        self.note_progress();
    }

    fn note_progress(&self) {
        let now = self.platform.monotonic().as_millis() as u64;
        self.progress_ms.store(now, Ordering::Relaxed);
    }

    /// When the store last took something.
    pub(crate) fn progress(&self) -> Duration {
        Duration::from_millis(self.progress_ms.load(Ordering::Relaxed))
    }

    /// When the oldest record was appended that is not in the store.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.head.lock().oldest()
    }

    /// The header in force.
    pub(crate) fn header(&self) -> LogHeader {
        self.headers.lock().current().clone()
    }

    /// Where the next record goes.
    pub(crate) fn end_point(&self) -> LogPoint {
        let head = self.head.lock();
        LogPoint { pos: head.pos(), seq: head.seq() }
    }

    /// Notes in both headers that everything is in the store. Called when all threads ended.
    ///
    /// # Errors
    /// The SSD fails.
    pub(crate) fn mark_clean(&self, committed: ObjectSeq) -> Result<()> {
        let end = self.end_point();
        step_of(&*self.platform, "log.clean")?;
        let mut headers = self.headers.lock();
        headers
            .write_both(|header| {
                header.tail = end;
                header.durable = end;
                header.committed = committed;
                header.clean = true;
            })
            .map_err(|e| Error::local(&self.data.path, "write the header of", e))?;
        step_of(&*self.platform, "log.cleaned")
    }

    /// Gives the memory back: the SSD has everything.
    pub(crate) fn forget_memory(&self) {
        let id = self.headers.lock().current().log_id;
        self.platform.remove_buffer(&self.dir, id.get());
    }

    /// No record is taken from now on.
    pub(crate) fn close_for_appends(&self) {
        let _head = self.head.lock();
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Tells the sequencer to look again.
    pub(crate) fn wake_tail(&self) {
        self.tail_signal.wake();
    }

    /// Called by the sequencer: waits until the log reaches `pos`, somebody calls
    /// [`Self::wake_tail`], or the time is over.
    pub(crate) fn wait_as_tail(&self, pos: LogPos, at_most: Option<Duration>) {
        self.tail_signal.wait(pos, at_most, || self.filled());
    }
}

/// Completes its slot when dropped. If its thread panicked before filling it, the sequencer
/// finds the hole and poisons the volume.
struct Reservation<'a> {
    log: &'a WriteLog,
    slot: Slot,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let log = self.log;
        log.head.lock().complete(self.slot);
        log.filled.notify_all();
    }
}
