//! Writes that must wait: for room in the log, for their pace, for a locked range.
//!
//! A FUSE worker never sleeps for any of these: it copies the request here and goes on. The
//! thread `lsvd-park` brings them to the log in the order they came. When the log is more than
//! three quarters full everything goes this way, at a pace that falls from above to below the
//! rate at which the log drains: writers are slowed before they are stopped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::format::log_record::PAYLOAD_MAX;
use crate::log::{Entry, Pass, Refused, Wait, WriteLog};
use crate::publish::Publisher;
use crate::units::{Extent, Lba, LogPos, SECTOR_BYTES};

/// Called once with the outcome of a request.
pub(crate) type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Bytes of parked data above which even a worker waits: what the kernel can have in flight
/// at most, 256 requests of 1 MiB, so that none ever does.
const BUDGET_BYTES: usize = 256 << 20;
/// How long the thread waits before it looks again.
const TICK: Duration = Duration::from_millis(20);
/// The pace below which nobody is slowed, in bytes per second.
const PACE_MIN: u64 = 1 << 20;
/// Longest wait of one request for its pace.
const PACE_WAIT_MAX: Duration = Duration::from_millis(500);

/// A request that waits.
pub(crate) enum Request {
    /// Whole sectors of data, of which the first `done` bytes are through.
    Write { start: Lba, data: Vec<u8>, done: usize },
    /// Whole sectors to discard; `None` once that is through.
    Trim(Option<Extent>),
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Request::Write { data, done, .. } => data.len() - done,
            Request::Trim(_) => 0,
        }
    }
}

/// The queue.
#[derive(Default)]
pub(crate) struct Parking {
    state: Mutex<State>,
    arrived: Condvar,
    left: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Request, Deadline, Done)>,
    bytes: usize,
    stop: bool,
}

impl std::fmt::Debug for Parking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parking").field("bytes", &self.state.lock().bytes).finish_non_exhaustive()
    }
}

impl Parking {
    /// Leaves a request here; `done` is called when it is through.
    pub(crate) fn park(&self, log: &WriteLog, request: Request, deadline: Deadline, done: Done) {
        let mut state = self.state.lock();
        while state.bytes >= BUDGET_BYTES && !state.stop {
            self.left.wait(&mut state);
        }
        if state.stop {
            drop(state);
            return done(Err(Error::Closing(log.volume().to_owned())));
        }
        state.bytes += request.bytes();
        state.queue.push_back((request, deadline, done));
        self.arrived.notify_one();
    }

    /// Ends the thread; what still waits gets an error.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.arrived.notify_all();
        self.left.notify_all();
    }

    /// The body of the thread.
    pub(crate) fn run(&self, log: &Arc<WriteLog>, publisher: &Publisher) {
        let mut pace = Pace::new(publisher.now(), log.tail());
        while let Some((mut request, deadline, done)) = self.take() {
            let bytes = request.bytes();
            // Whoever has waited too long learns it at once, or goes on at once.
            if !publisher.is_over(&deadline, log) {
                pace.slow_down(log, publisher, bytes as u64, || self.is_stopped());
            }
            let outcome = self.bring(log, publisher, &mut request, &deadline);
            let mut state = self.state.lock();
            match outcome {
                Brought::Done(outcome) => {
                    state.bytes -= bytes;
                    drop(state);
                    self.left.notify_all();
                    done(outcome);
                }
                Brought::InTheWay => {
                    state.bytes -= bytes - request.bytes();
                    let alone = state.queue.is_empty();
                    state.queue.push_back((request, deadline, done));
                    drop(state);
                    if alone {
                        log.wait_for_room(TICK);
                    }
                }
            }
        }
    }

    /// Answers everything that waits with an error, when the thread is gone.
    pub(crate) fn refuse_all(&self, log: &WriteLog) {
        self.stop();
        let left = std::mem::take(&mut self.state.lock().queue);
        for (_, _, done) in left {
            done(Err(Error::Closing(log.volume().to_owned())));
        }
    }

    fn take(&self) -> Option<(Request, Deadline, Done)> {
        let mut state = self.state.lock();
        loop {
            if let Some(next) = state.queue.pop_front() {
                return Some(next);
            }
            if state.stop {
                return None;
            }
            self.arrived.wait(&mut state);
        }
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Appends the request's records one by one; what is left of it stays in `request`.
    fn bring(
        &self,
        log: &WriteLog,
        publisher: &Publisher,
        request: &mut Request,
        deadline: &Deadline,
    ) -> Brought {
        let mut held = false;
        let outcome = loop {
            if self.is_stopped() {
                break Brought::Done(Err(Error::Closing(publisher.volume())));
            }
            let Some(entry) = request.first() else { break Brought::Done(Ok(())) };
            match publisher.append(log, entry, Pass::Waited) {
                Ok(_) => request.advance(),
                Err(Refused::Wait(Wait::Range)) => break Brought::InTheWay,
                Err(Refused::Wait(_)) => {
                    if let Err(error) = publisher.in_time(deadline, log) {
                        break Brought::Done(Err(error));
                    }
                    // Whoever comes now would take the room that this one waits for.
                    held = true;
                    log.hold_others(true);
                    log.wait_for_room(TICK);
                }
                Err(Refused::Failed(error)) => break Brought::Done(Err(error)),
            }
        };
        if held {
            log.hold_others(false);
        }
        outcome
    }
}

/// What came of an attempt to bring a request to the log.
enum Brought {
    Done(Result<()>),
    /// An unaligned write holds its range; others need not wait for that.
    InTheWay,
}

impl Request {
    /// The next record to append.
    fn first(&self) -> Option<Entry<'_>> {
        match self {
            Request::Write { start, data, done } => {
                write_entries(start.plus(*done as u64 / SECTOR_BYTES), data.get(*done..)?).next()
            }
            Request::Trim(extent) => extent.map(Entry::Trim),
        }
    }

    /// That record was appended.
    fn advance(&mut self) {
        match self {
            Request::Write { data, done, .. } => {
                *done = (*done + PAYLOAD_MAX as usize).min(data.len());
            }
            Request::Trim(extent) => *extent = None,
        }
    }
}

/// Cuts a write into records.
pub(crate) fn write_entries(start: Lba, data: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let piece = PAYLOAD_MAX as usize;
    data.chunks(piece).enumerate().map(move |(i, data)| {
        let skip = (i * piece) as u64 / SECTOR_BYTES;
        Entry::Write { start: start.plus(skip), data }
    })
}

/// The rate at which the log drains, and what follows for writers.
struct Pace {
    at: Duration,
    tail: LogPos,
    bytes_per_s: u64,
}

impl Pace {
    fn new(now: Duration, tail: LogPos) -> Self {
        Self { at: now, tail, bytes_per_s: 0 }
    }

    fn measure(&mut self, now: Duration, tail: LogPos) {
        let elapsed = now.saturating_sub(self.at);
        if elapsed < Duration::from_millis(200) {
            return;
        }
        let seen = (tail.since(self.tail) as f64 / elapsed.as_secs_f64()) as u64;
        self.bytes_per_s = (self.bytes_per_s * 7 + seen * 3) / 10;
        (self.at, self.tail) = (now, tail);
    }

    /// Waits as long as `bytes` should take at the present fill.
    fn slow_down(
        &mut self,
        log: &WriteLog,
        publisher: &Publisher,
        bytes: u64,
        stopped: impl Fn() -> bool,
    ) {
        let now = publisher.now();
        self.measure(now, log.tail());
        let wait = pause(log.backlog().1, self.bytes_per_s, bytes);
        let until = now + wait;
        while publisher.now() < until && !stopped() {
            log.wait_for_room(until.saturating_sub(publisher.now()));
        }
    }
}

/// How long `bytes` have to wait when the log is `fill` 256ths full and drains at `rate`.
fn pause(fill: u64, rate: u64, bytes: u64) -> Duration {
    if fill < 192 {
        return Duration::ZERO;
    }
    // From two and a half times the rate at three quarters down to half of it when full.
    let free = 256_u64.saturating_sub(fill);
    let allowed = (rate / 2 + rate * 2 * free / 64).max(PACE_MIN);
    Duration::from_secs_f64(bytes as f64 / allowed as f64).min(PACE_WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_fill_and_is_bounded() {
        assert_eq!(pause(100, 0, 1 << 20), Duration::ZERO);
        let pauses: Vec<_> = (192..=256).map(|fill| pause(fill, 100 << 20, 1 << 20)).collect();
        assert!(pauses.is_sorted());
        assert!(pauses.first() < pauses.last());
        assert_eq!(pause(256, 0, 1 << 30), PACE_WAIT_MAX);
    }
}
