//! The threads of a volume whose work can wait, and what they leave to others.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::platform::{Pace, Platform, ThreadControl};

/// What a thread's work is to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Little, but uploads wait for it: as other threads.
    Batch,
    /// Nice to others.
    Clean,
    /// Nice to others, and idle when [`Background::set_pace`] says so.
    Upload,
}

/// The threads, and what is set for them.
#[derive(Debug)]
pub(crate) struct Background {
    platform: Arc<dyn Platform>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    members: Vec<(u64, Duty, Box<dyn ThreadControl>)>,
    joined: u64,
    pace: Pace,
    /// The core they keep off.
    kept_off: Option<usize>,
}

impl Background {
    /// No threads yet.
    pub(crate) fn new(platform: Arc<dyn Platform>) -> Self {
        let state = State { members: Vec::new(), joined: 0, pace: Pace::Steady, kept_off: None };
        Self { platform, state: Mutex::new(state) }
    }

    /// Adds the calling thread, until the value that is returned is dropped.
    pub(crate) fn join(&self, duty: Duty) -> Member<'_> {
        let mut state = self.state.lock();
        state.joined += 1;
        let number = state.joined;
        if let Some(mut thread) = self.platform.this_thread() {
            if duty != Duty::Batch {
                thread.make_way();
            }
            if duty == Duty::Upload {
                thread.set_pace(state.pace);
            }
            if state.kept_off.is_some() {
                thread.keep_off(state.kept_off);
            }
            state.members.push((number, duty, thread));
        }
        Member { background: self, number }
    }

    /// Sets how the uploaders share the processors with other work.
    pub(crate) fn set_pace(&self, pace: Pace) {
        let mut state = self.state.lock();
        if state.pace != pace {
            state.pace = pace;
            let uploaders = state.members.iter_mut().filter(|(_, duty, _)| *duty == Duty::Upload);
            uploaders.for_each(|(.., thread)| thread.set_pace(pace));
        }
    }

    /// Has all of them keep off one core, or none.
    pub(crate) fn keep_off(&self, core: Option<usize>) {
        let mut state = self.state.lock();
        if state.kept_off != core {
            state.kept_off = core;
            state.members.iter_mut().for_each(|(.., thread)| thread.keep_off(core));
        }
    }
}

/// A thread that takes part. It leaves before it ends, so that nobody controls a stranger that was
/// given its number.
#[must_use]
pub(crate) struct Member<'a> {
    background: &'a Background,
    number: u64,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.background.state.lock().members.retain(|(number, ..)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity};

    use super::*;
    use crate::platform::{Host, may_idle};

    /// Has `look` look at a thread that is a member.
    fn with_member(background: &Background, duty: Duty, look: impl FnOnce(Pid)) {
        let ((tell, told), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _member = background.join(duty);
                tell.send(gettid()).unwrap();
                // Until the other side is dropped.
                let _ = ended.recv();
            });
            look(told.recv().unwrap());
            drop(end);
        });
    }

    fn cores(thread: Pid) -> CpuSet {
        sched_getaffinity(Some(thread)).unwrap()
    }

    fn niceness(thread: Pid) -> i32 {
        let number = thread.as_raw_nonzero().get().unsigned_abs();
        // SAFETY: plain numbers.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, number) }
    }

    fn class(thread: Pid) -> i32 {
        // SAFETY: a plain number.
        unsafe { libc::sched_getscheduler(thread.as_raw_nonzero().get()) }
    }

    #[test]
    fn all_keep_off_a_core_and_come_back() {
        let background = Background::new(Arc::new(Host::new()));
        let anywhere = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|core| anywhere.is_set(*core)).unwrap();
        let mut rest = anywhere;
        if anywhere.count() > 1 {
            rest.unset(core);
        }
        with_member(&background, Duty::Batch, |early| {
            background.keep_off(Some(core));
            assert_eq!(cores(early), rest);
            with_member(&background, Duty::Upload, |late| assert_eq!(cores(late), rest));
            background.keep_off(None);
            assert_eq!(cores(early), anywhere);
        });
        background.keep_off(Some(core));
        assert_eq!(background.state.lock().members.len(), 0, "who has ended is left alone");
    }

    #[test]
    fn uploaders_alone_get_the_pace_that_is_set() {
        let background = Background::new(Arc::new(Host::new()));
        let own = class(gettid());
        if own != libc::SCHED_OTHER || !may_idle() {
            eprintln!("skipped: threads of this process cannot be idle and come back");
            return;
        }
        with_member(&background, Duty::Batch, |batch| {
            with_member(&background, Duty::Upload, |upload| {
                assert_eq!(niceness(batch), niceness(gettid()));
                assert!(niceness(upload) >= 15);
                background.set_pace(Pace::Idle);
                assert_eq!((class(batch), class(upload)), (own, libc::SCHED_IDLE));
                with_member(&background, Duty::Clean, |clean| {
                    assert_eq!(class(clean), own);
                    assert!(niceness(clean) >= 15);
                });
                background.set_pace(Pace::Steady);
                assert_eq!(class(upload), own);
            });
        });
    }
}
