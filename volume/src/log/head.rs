//! The head of the log: where the next record goes, who is still filling, who must wait.
//!
//! Everything here is plain state behind the `log.head` lock, held for a few dozen
//! nanoseconds per write: no I/O, no copying of payload, no wake-up.

use std::time::Duration;

use super::ages::Ages;
use super::layout::Layout;
use crate::format::LogPoint;
use crate::units::{BLOCK_BYTES, Extent, LogPos, LogSeq};

/// Why a record cannot be taken just now. The caller parks it and tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The ring or the window is full, or the store lacks as much as it may.
    Space,
    /// The log fills faster than it drains: writers are slowed before they are stopped.
    Pace,
    /// Others wait already; first come, first served.
    Turn,
    /// An unaligned write holds part of the range.
    Range,
}

/// Which checks a record passes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// None.
    Ordinary,
    /// It has waited its turn and is paced by who brings it.
    Waited,
    /// It holds the range lock of this number, besides.
    Holder(u64),
}

/// A record's place, taken but not filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) seq: LogSeq,
    pub(super) pos: LogPos,
    /// Whole record, with what stretches it to the end of its block.
    pub(super) total_len: u32,
}

/// A gap to be covered by a pad record whose prefix carries `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pad {
    pub(super) seq: LogSeq,
    pub(super) pos: LogPos,
    pub(super) len: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Head {
    layout: Layout,
    /// Next position to take.
    pos: LogPos,
    /// Next number to give.
    seq: LogSeq,
    /// Everything before is committed in the store.
    tail: LogPos,
    /// Ring positions below may be overwritten: both durable headers have a tail here or later.
    reuse: LogPos,
    /// Starts of taken, unfilled slots, ascending.
    unfilled: Vec<LogPos>,
    /// Ranges of unaligned writes in progress, with the number of the lock.
    locks: Vec<(u64, Extent)>,
    next_lock: u64,
    /// Records wait outside and could not be taken: others queue behind them.
    held: bool,
    /// Size of the volume, as of the newest record.
    size_sectors: u64,
    limits: Limits,
    /// The number of the record at `tail`.
    tail_seq: LogSeq,
    ages: Ages,
}

/// How far the store may lag behind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// In bytes of log.
    pub(crate) bytes: Option<u64>,
    /// In the age of the oldest record.
    pub(crate) age: Option<Duration>,
}

impl Head {
    pub(super) fn new(layout: Layout, begin: LogPoint, tail: LogPos, size: u64) -> Self {
        Self {
            layout,
            pos: begin.pos,
            seq: begin.seq,
            tail,
            reuse: tail,
            unfilled: Vec::with_capacity(16),
            locks: Vec::new(),
            next_lock: 0,
            held: false,
            size_sectors: size,
            limits: Limits::default(),
            tail_seq: begin.seq,
            ages: Ages::default(),
        }
    }

    pub(super) fn pos(&self) -> LogPos {
        self.pos
    }

    pub(super) fn seq(&self) -> LogSeq {
        self.seq
    }

    pub(super) fn tail(&self) -> LogPos {
        self.tail
    }

    pub(super) fn size_sectors(&self) -> u64 {
        self.size_sectors
    }

    pub(super) fn set_size(&mut self, sectors: u64) {
        self.size_sectors = sectors;
    }

    /// Everything before is filled.
    pub(super) fn filled(&self) -> LogPos {
        self.unfilled.first().copied().unwrap_or(self.pos)
    }

    /// Sets how far the store may lag behind, and since when what the log begins with is there.
    pub(super) fn begin(&mut self, limits: Limits, tail_seq: LogSeq, now: Duration) {
        self.limits = limits;
        self.tail_seq = tail_seq;
        self.ages.note(tail_seq, now);
    }

    /// How much the log takes of what the store lacks.
    fn capacity(&self) -> u64 {
        let ring = self.layout.ring_bytes();
        self.limits.bytes.map_or(ring, |bytes| bytes.clamp(1, ring))
    }

    /// Share of the log's capacity that is not yet in the store, in 1/256.
    pub(super) fn fill_256ths(&self) -> u64 {
        self.pos.since(self.tail) * 256 / self.capacity()
    }

    /// When the oldest record was appended that is not in the store.
    pub(super) fn oldest(&self) -> Option<Duration> {
        if self.tail_seq >= self.seq { None } else { self.ages.at(self.tail_seq) }
    }

    fn too_old(&self, now: Duration) -> bool {
        let Some(limit) = self.limits.age else { return false };
        self.oldest().is_some_and(|since| now.saturating_sub(since) > limit)
    }

    /// Whether a record on `range` (none: a change of size) may go on now.
    pub(super) fn admit(&self, range: Option<Extent>, pass: Pass) -> Result<(), Wait> {
        if pass == Pass::Ordinary {
            if self.held {
                return Err(Wait::Turn);
            }
            if self.fill_256ths() >= PACE_FROM_256THS {
                return Err(Wait::Pace);
            }
        }
        let others_lock = |(id, locked): &(u64, Extent)| {
            pass != Pass::Holder(*id) && range.is_none_or(|r| r.intersect(*locked).is_some())
        };
        if self.locks.iter().any(others_lock) { Err(Wait::Range) } else { Ok(()) }
    }

    /// Takes room for a record of `len` bytes; a pad may be needed before it.
    pub(super) fn reserve(
        &mut self,
        len: u64,
        floor: LogPos,
        now: Duration,
    ) -> Result<(Slot, Option<Pad>), Wait> {
        let mut pos = self.pos;
        let mut pad = None;
        let to_end = self.layout.to_window_end(pos);
        if Layout::stretched(pos, len) > to_end {
            pad = Some(Pad { seq: self.seq, pos, len: to_end as u32 });
            pos = pos.plus(to_end);
        }
        let total = Layout::stretched(pos, len);
        let too_much = pos.plus(total).since(self.tail) > self.capacity();
        if pos.plus(total) > self.limit(floor) || too_much || self.too_old(now) {
            return Err(Wait::Space);
        }
        self.ages.note(self.seq, now);
        let slot = Slot { seq: self.seq, pos, total_len: total as u32 };
        self.pos = pos.plus(total);
        self.seq = self.seq.next();
        self.unfilled.push(slot.pos);
        Ok((slot, pad))
    }

    /// Ends the current block, so that a flush can end here: the pad to write, if any.
    pub(super) fn seal(&mut self) -> Option<Pad> {
        let left = self.pos.get().next_multiple_of(BLOCK_BYTES) - self.pos.get();
        if left == 0 {
            return None;
        }
        let pad = Pad { seq: self.seq, pos: self.pos, len: left as u32 };
        self.pos = self.pos.plus(left);
        Some(pad)
    }

    /// Notes that a slot is filled and published.
    pub(super) fn complete(&mut self, slot: Slot) {
        self.unfilled.retain(|pos| *pos != slot.pos);
    }

    /// Locks `range` against records of others; `None` if part of it is locked already.
    pub(super) fn lock(&mut self, range: Extent) -> Option<u64> {
        if self.locks.iter().any(|(_, held)| held.intersect(range).is_some()) {
            return None;
        }
        self.next_lock += 1;
        self.locks.push((self.next_lock, range));
        Some(self.next_lock)
    }

    pub(super) fn unlock(&mut self, id: u64) {
        self.locks.retain(|(held, _)| *held != id);
    }

    pub(super) fn hold_others(&mut self, hold: bool) {
        self.held = hold;
    }

    pub(super) fn raise_tail(&mut self, tail: LogPos, seq: LogSeq) {
        self.tail = self.tail.max(tail);
        self.tail_seq = self.tail_seq.max(seq);
        self.ages.forget_before(self.tail_seq);
    }

    pub(super) fn raise_reuse(&mut self, reuse: LogPos) {
        self.reuse = self.reuse.max(reuse);
    }

    pub(super) fn reuse(&self) -> LogPos {
        self.reuse
    }

    /// One past the last position that may be taken. A multiple of the block size, so that
    /// sealing always has room.
    fn limit(&self, floor: LogPos) -> LogPos {
        let by_window = floor.plus(self.layout.window_bytes());
        let by_ring = self.reuse.plus(self.layout.ring_bytes());
        let limit = by_window.min(by_ring).get();
        LogPos::new(limit - limit % BLOCK_BYTES)
    }
}

/// From this share of the ring on writers are paced.
const PACE_FROM_256THS: u64 = 192;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Lba;

    const NOW: Duration = Duration::ZERO;

    fn head() -> Head {
        let layout = Layout::fitting(32 << 20, 8 << 20);
        Head::new(
            layout,
            LogPoint { pos: LogPos::ZERO, seq: LogSeq::new(1) },
            LogPos::ZERO,
            1 << 20,
        )
    }

    #[test]
    fn no_record_crosses_the_window() {
        let mut head = head();
        for i in 0..4000_u64 {
            let floor = LogPos::new(head.pos().get().saturating_sub(1 << 20) / 4096 * 4096);
            head.raise_reuse(floor);
            head.raise_tail(floor, LogSeq::ZERO);
            let (slot, pad) = head.reserve(80 + i % 5000 / 8 * 8, floor, NOW).expect("room");
            assert!(u64::from(slot.total_len) <= head.layout.to_window_end(slot.pos));
            if let Some(pad) = pad {
                assert_eq!(pad.pos.plus(pad.len.into()), slot.pos);
                assert_eq!(pad.seq, slot.seq);
            }
            head.complete(slot);
            if i % 7 == 0 {
                head.seal();
                assert_eq!(head.pos().get() % BLOCK_BYTES, 0);
            }
        }
    }

    #[test]
    fn a_full_ring_waits_and_goes_on_after_release() {
        let mut head = head();
        let mut floor = LogPos::ZERO;
        loop {
            match head.reserve(1 << 20, floor, NOW) {
                Ok((slot, _)) => {
                    head.complete(slot);
                    head.seal();
                    floor = head.pos();
                }
                Err(wait) => {
                    assert_eq!(wait, Wait::Space);
                    break;
                }
            }
        }
        assert!(head.pos().get() > 24 << 20);
        head.raise_reuse(LogPos::new(8 << 20));
        head.raise_tail(LogPos::new(8 << 20), LogSeq::ZERO);
        assert!(head.reserve(1 << 20, floor, NOW).is_ok());
    }

    #[test]
    fn filled_stops_at_the_oldest_unfilled_slot() {
        let mut head = head();
        let a = head.reserve(4200, LogPos::ZERO, NOW).unwrap().0;
        let b = head.reserve(4200, LogPos::ZERO, NOW).unwrap().0;
        head.complete(b);
        assert_eq!(head.filled(), a.pos);
        head.complete(a);
        assert_eq!(head.filled(), head.pos());
    }

    #[test]
    fn a_locked_range_keeps_others_out() {
        let mut head = head();
        let range = Extent::new(Lba::new(8), 8).unwrap();
        let id = head.lock(range).unwrap();
        assert_eq!(head.lock(range), None);
        assert_eq!(head.admit(Some(range), Pass::Ordinary), Err(Wait::Range));
        assert_eq!(head.admit(None, Pass::Ordinary), Err(Wait::Range));
        assert_eq!(head.admit(Some(range), Pass::Holder(id)), Ok(()));
        assert_eq!(head.admit(Extent::new(Lba::ZERO, 8), Pass::Ordinary), Ok(()));
        head.unlock(id);
        assert_eq!(head.admit(Some(range), Pass::Ordinary), Ok(()));
    }

    #[test]
    fn no_more_than_the_limit_is_dirty() {
        let mut head = head();
        let bytes = Some(4 << 20);
        head.begin(Limits { bytes, age: None }, LogSeq::new(1), NOW);
        let mut taken = Vec::new();
        for round in 0..50 {
            while let Ok((slot, _)) = head.reserve(300_000 + round * 1000, head.pos(), NOW) {
                head.complete(slot);
                taken.push(slot);
                head.seal();
                assert!(head.pos().since(head.tail()) <= (4 << 20) + BLOCK_BYTES);
            }
            assert!(head.fill_256ths() > 192, "{round}");
            for slot in taken.drain(..(taken.len() / 2).max(1)) {
                let end = slot.pos.plus(slot.total_len.into());
                head.raise_tail(end, slot.seq.next());
                head.raise_reuse(end);
            }
        }
    }

    #[test]
    fn nothing_is_taken_while_the_oldest_is_too_old() {
        let mut head = head();
        let second = Duration::from_secs(1);
        head.begin(Limits { bytes: None, age: Some(second) }, LogSeq::new(1), NOW);
        assert_eq!(head.oldest(), None);
        // An empty log does not age.
        head.reserve(4200, LogPos::ZERO, 10 * second).unwrap();
        assert_eq!(head.oldest(), Some(10 * second));
        let b = head.reserve(4200, LogPos::ZERO, 11 * second).unwrap().0;
        let late = 11 * second + Duration::from_millis(1);
        assert_eq!(head.reserve(4200, LogPos::ZERO, late).unwrap_err(), Wait::Space);
        head.raise_tail(b.pos, b.seq);
        assert_eq!(head.oldest(), Some(11 * second));
        let c = head.reserve(4200, LogPos::ZERO, late).unwrap().0;
        head.raise_tail(head.pos(), c.seq.next());
        assert_eq!(head.oldest(), None);
        assert!(head.reserve(4200, LogPos::ZERO, 99 * second).is_ok());
    }
}
