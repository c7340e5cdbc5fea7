//! How the log wakes the sequencer: at a position it names, not at every write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::units::LogPos;

/// See the module. An append costs one load, unless it is the one waited for.
#[derive(Debug, Default)]
pub(super) struct TailSignal {
    /// The position at which an append wakes.
    at: AtomicU64,
    woken: Mutex<bool>,
    wake: Condvar,
}

impl TailSignal {
    /// The log is filled up to `end`, or beyond.
    pub(super) fn reached(&self, end: LogPos) {
        if end.get() >= self.at.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Wakes in any case.
    pub(super) fn wake(&self) {
        self.at.store(u64::MAX, Ordering::SeqCst);
        *self.woken.lock() = true;
        self.wake.notify_one();
    }

    /// Waits until the log reaches `pos`, somebody wakes, or the time is over. `filled` says how
    /// far the log is; it is asked after the position was named, so that no append is missed.
    pub(super) fn wait(
        &self,
        pos: LogPos,
        at_most: Option<Duration>,
        filled: impl FnOnce() -> LogPos,
    ) {
        self.at.store(pos.get(), Ordering::SeqCst);
        let mut woken = self.woken.lock();
        if !*woken && filled() < pos {
            match at_most {
                Some(time) => {
                    self.wake.wait_for(&mut woken, time);
                }
                None => self.wake.wait(&mut woken),
            }
        }
        *woken = false;
        self.at.store(u64::MAX, Ordering::SeqCst);
    }
}
