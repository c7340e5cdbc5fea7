//! Where a check notes what it finds and how far it is, and is held up or stopped.
//!
//! ```text
//!   who asked: listen() <--- progress --- desk <--- done(), found(), may_read() --- the check's threads
//!                   '------- stop -------->
//! ```
//! Whoever reads much asks here first: the desk makes it wait for the rate, and lets it fail once
//! nobody wants the check any more.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::report::{CheckProgress, CheckReport, Finding, Severity, VolumeCheck};
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::rate::Rate;

/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How often it is looked whether a wait for the rate is over.
const TICK: Duration = Duration::from_millis(20);

/// Hears how far a check is; false stops it.
pub type Listener<'a> = &'a mut dyn FnMut(&CheckProgress) -> bool;

/// See the module.
#[derive(Debug)]
pub(crate) struct Desk {
    platform: Arc<dyn Platform>,
    rate: Option<Rate>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    progress: CheckProgress,
    stopped: bool,
    ended: bool,
    report: CheckReport,
    /// From when on the rate allows the next read.
    free_at: Duration,
}

/// Ends the listening when the check ends, however it does.
pub(crate) struct AtWork<'a>(&'a Desk);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.ended.notify_all();
    }
}

impl Desk {
    pub(crate) fn new(platform: Arc<dyn Platform>, store: &str, rate: Option<Rate>) -> Self {
        let state = State {
            progress: CheckProgress::default(),
            stopped: false,
            ended: false,
            report: CheckReport { store: store.to_owned(), ..CheckReport::default() },
            free_at: Duration::ZERO,
        };
        Self { platform, rate, state: Mutex::new(state), ended: Condvar::new() }
    }

    /// To be held by the check while it is at work.
    pub(crate) fn at_work(&self) -> AtWork<'_> {
        AtWork(self)
    }

    /// Tells `listener` how far the check is, until it has ended.
    pub(crate) fn listen(&self, listener: Listener<'_>) {
        let mut state = self.state.lock();
        while !state.ended {
            self.ended.wait_for(&mut state, TELL_EVERY);
            if state.ended {
                break;
            }
            drop(state);
            self.tell(listener);
            state = self.state.lock();
        }
    }

    /// Tells `listener` how far the check is; notes whether it is to go on.
    pub(crate) fn tell(&self, listener: Listener<'_>) {
        let progress = {
            let state = self.state.lock();
            CheckProgress { damage: state.report.tally.damage, ..state.progress.clone() }
        };
        let goes_on = listener(&progress);
        self.state.lock().stopped |= !goes_on;
    }

    /// A volume is looked at from now on.
    pub(crate) fn enter(&self, volume: &str) {
        volume.clone_into(&mut self.state.lock().progress.volume);
    }

    /// Something new is begun, which takes so many steps.
    pub(crate) fn begin(&self, phase: &str, total: u64) -> Result<()> {
        let mut state = self.state.lock();
        phase.clone_into(&mut state.progress.phase);
        (state.progress.done, state.progress.total) = (0, total);
        go_on(&state)
    }

    /// So many steps are done.
    pub(crate) fn done(&self, steps: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.progress.done += steps;
        go_on(&state)
    }

    /// Waits until so many bytes may be read.
    pub(crate) fn may_read(&self, bytes: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.progress.read_bytes += bytes;
        go_on(&state)?;
        let Some(rate) = self.rate else { return Ok(()) };
        let mine = state.free_at.max(self.platform.monotonic());
        state.free_at = mine + rate.time_for(bytes);
        drop(state);
        loop {
            let left = mine.saturating_sub(self.platform.monotonic());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
            go_on(&self.state.lock())?;
        }
    }

    /// Whether nobody wants the check any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Notes a finding.
    pub(crate) fn found(&self, finding: Finding) {
        self.state.lock().report.add(finding);
    }

    /// Notes damage: `error` names the thing.
    pub(crate) fn damaged(&self, error: &Error, advice: &str) {
        let (what, detail) = match error {
            Error::Damaged { what, detail } => (what.clone(), detail.clone()),
            Error::NewerFormat { what, .. } => (what.clone(), error.to_string()),
            other => (String::new(), other.to_string()),
        };
        self.found(Finding::new(Severity::Damage, what, detail, advice));
    }

    /// Adds what was looked at in a volume.
    pub(crate) fn looked_at(&self, volume: VolumeCheck) {
        self.state.lock().report.volumes.push(volume);
    }

    /// The end.
    pub(crate) fn into_report(self) -> CheckReport {
        let state = self.state.into_inner();
        CheckReport { complete: !state.stopped, ..state.report }
    }
}

fn go_on(state: &State) -> Result<()> {
    match state.stopped {
        true => Err(Error::Closing(state.progress.volume.clone())),
        false => Ok(()),
    }
}
