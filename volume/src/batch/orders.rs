//! What others ask of the sequencer, and what they can see of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crossbeam::channel::Sender;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::format::{Holder, SharedExtent};
use crate::history_window::HistoryBegin;
use crate::log::FlushDone;
use crate::units::{LogSeq, ObjectSeq};

/// What others ask of the sequencer, and what they can see of it.
#[derive(Default)]
pub(crate) struct Orders {
    state: Mutex<State>,
    changed: Condvar,
}

/// How far a volume is committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed {
    /// The highest object.
    pub(crate) object: ObjectSeq,
    /// The highest record of the log in objects up to that.
    pub(crate) record: LogSeq,
    /// Size of the volume then, in sectors.
    pub(crate) sectors: u64,
}

#[derive(Default)]
pub(super) struct State {
    /// Upload everything up to this record without waiting for batches to fill.
    pub(super) drain_to: LogSeq,
    /// Then write a checkpoint and, at a close, say in it that nothing is in flight.
    pub(super) checkpoint: Option<bool>,
    /// What such a checkpoint has to cover at least.
    pub(super) checkpoint_after: LogSeq,
    /// The last one was asked for.
    last: bool,
    pub(super) stop: bool,
    /// Everything up to this record is committed.
    pub(super) committed: LogSeq,
    pub(super) committed_object: ObjectSeq,
    /// Size of the volume then, in sectors.
    pub(super) committed_sectors: u64,
    /// Where the window of history begins.
    pub(super) history: Option<HistoryBegin>,
    /// Checkpoints asked for, and how many of these requests were answered.
    pub(super) asked: u64,
    pub(super) answered: u64,
    /// What other objects hold and this volume is to share, the oldest request first.
    shares: VecDeque<ShareRequest>,
    /// How many of them were taken and are not committed yet.
    sharing: usize,
    /// The superblock names a checkpoint of this writer.
    pub(super) has_named: bool,
    /// Flushes that wait for the store.
    waiters: Vec<(LogSeq, Deadline, FlushDone)>,
    /// Why the thread has ended.
    pub(super) ended: Option<Error>,
}

/// Data that a volume is to share. Without an answer the volume has ended.
pub(crate) struct ShareRequest {
    /// What is to be shared, in the order of the disk.
    pub(crate) extents: Vec<SharedExtent>,
    /// The objects that hold it. Those that the volume does not know are kept by its base.
    pub(crate) holders: BTreeMap<ObjectSeq, Holder>,
    /// Gets what is shared once that is committed.
    pub(crate) answer: Sender<Vec<SharedExtent>>,
}

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orders")
            .field("committed", &self.state.lock().committed)
            .finish_non_exhaustive()
    }
}

impl Orders {
    /// Asks for everything up to `seq` to be uploaded.
    pub(crate) fn drain_to(&self, seq: LogSeq) {
        let mut state = self.state.lock();
        state.drain_to = state.drain_to.max(seq);
    }

    /// Asks for a checkpoint of everything committed, and of what is to be drained already; `clean`
    /// for the last one, after which there is no other. Returns what [`Self::wait_checkpoint`] wants.
    pub(crate) fn checkpoint(&self, clean: bool) -> u64 {
        let mut state = self.state.lock();
        if state.last && !clean {
            return state.asked;
        }
        state.last |= clean;
        state.checkpoint = Some(state.last);
        state.checkpoint_after = state.checkpoint_after.max(state.drain_to);
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
        if state.committed < seq && state.ended.is_none() {
            self.changed.wait_for(&mut state, time);
        }
        state.committed >= seq
    }

    /// Waits until a checkpoint asked for is in the superblock, for at most `time`.
    pub(crate) fn wait_checkpoint(&self, asked: u64, time: Duration) -> bool {
        let mut state = self.state.lock();
        if state.answered < asked && state.ended.is_none() {
            self.changed.wait_for(&mut state, time);
        }
        state.answered >= asked
    }

    /// Asks for data to be shared.
    pub(crate) fn share(&self, request: ShareRequest) {
        let mut state = self.state.lock();
        if state.ended.is_none() && !state.last {
            state.shares.push_back(request);
        }
    }

    /// The oldest request to share data. None is left once the last checkpoint was asked for: nothing
    /// may follow it.
    pub(super) fn take_share(&self) -> Option<ShareRequest> {
        let mut state = self.state.lock();
        if state.last {
            state.shares.clear();
        }
        let request = state.shares.pop_front();
        state.sharing += usize::from(request.is_some());
        request
    }

    /// Notes that what was taken is committed, or that there is nothing to share.
    pub(super) fn end_share(&self) {
        self.publish(|o| o.sharing = o.sharing.saturating_sub(1));
    }

    /// Whether a request to share data was taken and is not committed yet.
    pub(super) fn is_sharing(&self) -> bool {
        self.state.lock().sharing > 0
    }

    /// Gives up the requests to share data that were not taken yet. False if there are none: then what
    /// was taken will be committed.
    pub(crate) fn withdraw_shares(&self) -> bool {
        let mut state = self.state.lock();
        let are_some = !state.shares.is_empty();
        state.shares.clear();
        are_some
    }

    /// Waits until what was taken of requests to share data is committed, for at most `time`.
    pub(crate) fn wait_shared(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        if state.sharing > 0 && state.ended.is_none() {
            self.changed.wait_for(&mut state, time);
        }
        state.sharing == 0
    }

    /// Whether the superblock names a checkpoint of this writer.
    pub(crate) fn has_named(&self) -> bool {
        self.state.lock().has_named
    }

    /// The highest object committed.
    pub(crate) fn committed_object(&self) -> ObjectSeq {
        self.state.lock().committed_object
    }

    /// How far the volume is committed.
    pub(crate) fn committed_state(&self) -> Committed {
        let state = self.state.lock();
        Committed {
            object: state.committed_object,
            record: state.committed,
            sectors: state.committed_sectors,
        }
    }

    /// Where the window of history begins.
    pub(crate) fn history(&self) -> Option<HistoryBegin> {
        self.state.lock().history
    }

    /// Calls `done` when everything up to `seq` is committed, or cannot be any more.
    pub(crate) fn when_committed(&self, seq: LogSeq, deadline: Deadline, done: FlushDone) {
        let mut state = self.state.lock();
        let outcome = match &state.ended {
            _ if state.committed >= seq => Ok(()),
            Some(cause) => Err(cause.clone()),
            None => return state.waiters.push((seq, deadline, done)),
        };
        drop(state);
        done(outcome);
    }

    /// Whether a flush waits for the store.
    pub(super) fn is_awaited(&self) -> bool {
        !self.state.lock().waiters.is_empty()
    }

    /// Answers the flushes of which `decide` knows the outcome.
    pub(super) fn answer(&self, decide: impl Fn(LogSeq, &Deadline) -> Option<Result<()>>) {
        let mut answers = Vec::new();
        {
            let mut state = self.state.lock();
            for (seq, deadline, done) in std::mem::take(&mut state.waiters) {
                match decide(seq, &deadline) {
                    Some(outcome) => answers.push((done, outcome)),
                    None => state.waiters.push((seq, deadline, done)),
                }
            }
        }
        for (done, outcome) in answers {
            done(outcome);
        }
    }

    /// Whether the thread has ended.
    pub(crate) fn ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    /// Notes that the thread has ended; whoever waits gets `cause`.
    pub(crate) fn end(&self, cause: &Error) {
        self.publish(|o| {
            o.ended = Some(cause.clone());
            o.shares.clear();
        });
        self.answer(|_, _| Some(Err(cause.clone())));
    }

    /// Notes that everything up to `seq` is committed, in objects up to `object`, and that the volume
    /// has `sectors` now.
    pub(super) fn committed(&self, seq: LogSeq, object: ObjectSeq, sectors: u64) {
        self.publish(|o| {
            o.committed_object = object;
            o.committed_sectors = sectors;
            o.committed = seq;
        });
        self.answer(|through, _| (through <= seq).then_some(Ok(())));
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
