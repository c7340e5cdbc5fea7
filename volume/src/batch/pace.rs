//! One pace for all uploaders of a volume, changed while they work.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::platform::{Pace, Platform, ThreadId};

/// The threads and the pace that is set.
#[derive(Debug)]
pub(super) struct PaceSetter {
    platform: Arc<dyn Platform>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    threads: Vec<ThreadId>,
    pace: Pace,
}

impl PaceSetter {
    /// No threads yet.
    pub(super) fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform, state: Mutex::new(State { threads: Vec::new(), pace: Pace::Steady }) }
    }

    /// Adds the calling thread, until the value that is returned is dropped.
    pub(super) fn join(&self) -> Paced<'_> {
        let mut state = self.state.lock();
        let thread = self.platform.background_thread();
        if let Some(thread) = thread {
            self.platform.set_pace(thread, state.pace);
            state.threads.push(thread);
        }
        Paced { setter: self, thread }
    }

    /// Sets the pace of all.
    pub(super) fn set(&self, pace: Pace) {
        let mut state = self.state.lock();
        if state.pace != pace {
            state.pace = pace;
            state.threads.iter().for_each(|thread| self.platform.set_pace(*thread, pace));
        }
    }
}

/// A thread that takes part. It leaves before it ends, so that nobody sets the pace of a
/// stranger that was given its number.
#[must_use]
pub(super) struct Paced<'a> {
    setter: &'a PaceSetter,
    thread: Option<ThreadId>,
}

impl Drop for Paced<'_> {
    fn drop(&mut self) {
        self.setter.state.lock().threads.retain(|thread| Some(*thread) != self.thread);
    }
}
