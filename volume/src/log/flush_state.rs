//! What is asked of the flusher, and how far the file is.

use super::sync_core::SyncTally;
use crate::error::Result;
use crate::units::{LogPos, LogSeq, ObjectSeq};

/// Called once with the outcome of a flush.
pub(crate) type FlushDone = Box<dyn FnOnce(Result<()>) + Send>;

/// From so many flushes of single records in a row on the next one is expected.
const SINGLES_MIN: u32 = 8;

/// In the place of the position at which an append wakes the flusher: the next one does.
pub(super) const AT_ONCE: u64 = 0;

/// In the same place: none does, for it is awake.
pub(super) const WOKEN: u64 = u64::MAX;

/// Where an append is to wake the flusher, for which nothing is left before `later`; `None` if that
/// does not change.
pub(super) fn put_off(wake_at: u64, later: u64) -> Option<u64> {
    match wake_at {
        AT_ONCE | WOKEN => None,
        wake_at => (later > wake_at).then_some(later),
    }
}

/// Shared with the threads that ask for something.
#[derive(Default)]
pub(super) struct FlushState {
    pub(super) waiters: Vec<Waiter>,
    pub(super) woken: bool,
    pub(super) stop: bool,
    /// Newest tail not yet in a header.
    pub(super) tail: Option<(LogPos, LogSeq, ObjectSeq)>,
    /// Everything before is in the file.
    pub(super) written: LogPos,
    /// Everything before is safe in the file.
    pub(super) synced: LogPos,
    /// What a header says of that.
    pub(super) recorded: LogPos,
    /// The newest record at the last flush.
    flushed: LogSeq,
    /// Flushes in a row of which each had one record to make safe.
    singles: u32,
}

/// Somebody who waits for a flush.
pub(super) struct Waiter {
    /// Everything before this is to be safe.
    pub(super) target: LogPos,
    pub(super) done: FlushDone,
}

impl std::fmt::Debug for FlushState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlushState")
            .field("waiters", &self.waiters.len())
            .field("written", &self.written)
            .field("synced", &self.synced)
            .finish_non_exhaustive()
    }
}

impl FlushState {
    pub(super) fn new(start: LogPos) -> Self {
        Self { written: start, synced: start, recorded: start, ..Self::default() }
    }

    pub(super) fn note_tail(&mut self, tail: LogPos, seq: LogSeq, committed: ObjectSeq) {
        self.tail = Some((tail, seq, committed));
    }

    /// The orders for a round that begins now.
    pub(super) fn take_round(&mut self) -> Round {
        Round { waiters: std::mem::take(&mut self.waiters), idle: false, stop: self.stop }
    }

    /// Takes those out whose records are safe by now.
    pub(super) fn take_covered(&mut self) -> Vec<Waiter> {
        let synced = self.synced;
        self.waiters.extract_if(.., |waiter| waiter.target <= synced).collect()
    }

    /// Notes a flush when `newest` is the newest record. Whether the next write is likely to be
    /// followed by a flush at once, as in a database's log.
    pub(super) fn expects_another(&mut self, newest: LogSeq) -> bool {
        let single = newest.since(self.flushed) == 1;
        self.singles = if single { self.singles.saturating_add(1) } else { 0 };
        self.flushed = newest;
        self.singles >= SINGLES_MIN
    }

    pub(super) fn wake(&mut self) {
        self.woken = true;
    }
}

/// The turn to write the file.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Where the write ends that was begun for the next round.
    pub(super) begun: Option<LogPos>,
    /// On which cores the last syncs were.
    pub(super) syncs: SyncTally,
}

/// One round's orders.
pub(super) struct Round {
    pub(super) waiters: Vec<Waiter>,
    /// Nobody asked, but for a second nothing has woken the flusher.
    pub(super) idle: bool,
    pub(super) stop: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waking_is_put_off_if_it_waits_for_a_position() {
        assert_eq!(put_off(5, 7), Some(7));
        assert_eq!(put_off(7, 5), None);
        assert_eq!(put_off(AT_ONCE, 7), None);
        assert_eq!(put_off(WOKEN, 7), None);
    }
}
