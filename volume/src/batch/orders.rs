//! What others ask of the sequencer, and what they can see of it.

use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::units::{LogSeq, ObjectSeq};

/// What others ask of the sequencer, and what they can see of it.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Upload everything up to this record without waiting for batches to fill.
    pub(super) drain_to: LogSeq,
    /// Then write a checkpoint and, at a close, say in it that nothing is in flight.
    pub(super) checkpoint: Option<bool>,
    pub(super) stop: bool,
    /// Everything up to this record is committed.
    pub(super) committed: LogSeq,
    pub(super) committed_object: ObjectSeq,
    /// Checkpoints asked for, and how many of these requests were answered.
    pub(super) asked: u64,
    pub(super) answered: u64,
    /// When the oldest record that is not committed was taken up.
    pub(super) oldest: Option<Duration>,
    pub(super) ended: bool,
}

impl Orders {
    /// Asks for everything up to `seq` to be uploaded.
    pub(crate) fn drain_to(&self, seq: LogSeq) {
        let mut state = self.state.lock();
        state.drain_to = state.drain_to.max(seq);
    }

    /// Asks for a checkpoint of everything committed; `clean` for the last one.
    /// Returns what [`Self::wait_checkpoint`] wants.
    pub(crate) fn checkpoint(&self, clean: bool) -> u64 {
        let mut state = self.state.lock();
        state.checkpoint = Some(clean || state.checkpoint == Some(true));
        state.asked += 1;
        state.asked
    }

    /// Asks the thread to end.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
    }

    /// Waits until everything up to `seq` is committed, for at most `time`.
    pub(crate) fn wait_committed(&self, seq: LogSeq, time: Duration) -> bool {
        let mut state = self.state.lock();
        if state.committed < seq && !state.ended {
            self.changed.wait_for(&mut state, time);
        }
        state.committed >= seq
    }

    /// Waits until a checkpoint asked for is in the superblock, for at most `time`.
    pub(crate) fn wait_checkpoint(&self, asked: u64, time: Duration) -> bool {
        let mut state = self.state.lock();
        if state.answered < asked && !state.ended {
            self.changed.wait_for(&mut state, time);
        }
        state.answered >= asked
    }

    /// The highest object committed.
    pub(crate) fn committed_object(&self) -> ObjectSeq {
        self.state.lock().committed_object
    }

    /// When the oldest record that is not committed was taken up.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.state.lock().oldest
    }

    /// Whether the thread has ended.
    pub(crate) fn ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Notes that the thread has ended.
    pub(crate) fn end(&self) {
        self.publish(|o| o.ended = true);
    }

    /// What is asked for at this moment.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes what others see, and tells those who wait.
    pub(super) fn publish(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}
