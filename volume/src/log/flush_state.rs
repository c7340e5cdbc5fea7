//! What is asked of the flusher, and how far the file is.

use crate::error::Result;
use crate::units::{LogPos, LogSeq, ObjectSeq};

/// Called once with the outcome of a flush.
pub(crate) type FlushDone = Box<dyn FnOnce(Result<()>) + Send>;

/// Shared with the threads that ask for something.
#[derive(Default)]
pub(super) struct FlushState {
    pub(super) waiters: Vec<FlushDone>,
    pub(super) woken: bool,
    pub(super) stop: bool,
    /// Newest tail not yet in a header.
    pub(super) tail: Option<(LogPos, LogSeq, ObjectSeq)>,
    /// Everything before is in the file.
    pub(super) written: LogPos,
    /// Everything before is safe in the file.
    pub(super) synced: LogPos,
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
        Self { written: start, synced: start, ..Self::default() }
    }

    pub(super) fn note_tail(&mut self, tail: LogPos, seq: LogSeq, committed: ObjectSeq) {
        self.tail = Some((tail, seq, committed));
    }

    /// The orders for a round that begins now.
    pub(super) fn take_round(&mut self) -> Round {
        Round { waiters: std::mem::take(&mut self.waiters), idle: false, stop: self.stop }
    }

    pub(super) fn wake(&mut self) {
        self.woken = true;
    }
}

/// One round's orders.
pub(super) struct Round {
    pub(super) waiters: Vec<FlushDone>,
    /// Nobody asked; the log has been left alone for a while.
    pub(super) idle: bool,
    pub(super) stop: bool,
}
