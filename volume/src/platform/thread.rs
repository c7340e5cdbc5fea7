//! How a thread shares the processors with others.

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

use super::{Pace, ThreadControl};

/// How nice threads are that make way.
const NICE: libc::c_int = 15;

/// A thread of this process.
#[derive(Debug)]
pub(super) struct HostThread {
    thread: Pid,
    may_idle: bool,
    /// None where its cores are not ours to decide.
    cores: Option<ThreadCores>,
}

impl HostThread {
    /// The calling thread. `may_idle` is what [`may_idle`] says.
    pub(super) fn caller(may_idle: bool) -> Self {
        Self { thread: gettid(), may_idle, cores: ThreadCores::of_caller() }
    }
}

impl ThreadControl for HostThread {
    // What is refused costs nothing but speed.
    fn set_pace(&mut self, pace: Pace) {
        let thread = self.thread.as_raw_nonzero().get();
        // SAFETY: plain numbers. A thread's number is never negative.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.unsigned_abs(), NICE) };
        if self.may_idle {
            set_scheduler(thread, pace);
        }
    }

    fn keep_off(&mut self, core: Option<usize>) {
        self.cores = self.cores.take().and_then(|cores| {
            let wanted = core.map_or(*cores.first(), |core| cores.without(core));
            cores.give(&wanted)
        });
    }
}

/// Puts a thread (0 for the calling one) into the kernel's class of that pace.
fn set_scheduler(thread: i32, pace: Pace) -> bool {
    let class = match pace {
        Pace::Idle => libc::SCHED_IDLE,
        Pace::Steady => libc::SCHED_OTHER,
    };
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: plain numbers and a parameter that outlives the call.
    unsafe { libc::sched_setscheduler(thread, class, &raw const parameter) == 0 }
}

/// Whether a thread that was made idle can be made busy again. An ordinary user may be refused
/// that, and then none must become idle.
pub(crate) fn may_idle() -> bool {
    let there_and_back = || set_scheduler(0, Pace::Idle) && set_scheduler(0, Pace::Steady);
    std::thread::spawn(there_and_back).join().unwrap_or(false)
}

/// The cores that a thread may run on, for as long as nobody else changes them.
#[derive(Debug)]
pub struct ThreadCores {
    thread: Pid,
    first: CpuSet,
    /// What it has by our doing. Whatever else it has, it has from somebody else.
    given: CpuSet,
}

impl ThreadCores {
    /// Those of the calling thread; `None` where the system does not tell.
    pub fn of_caller() -> Option<Self> {
        let thread = gettid();
        let first = sched_getaffinity(Some(thread)).ok()?;
        Some(Self { thread, first, given: first })
    }

    /// What the thread had at first.
    pub fn first(&self) -> &CpuSet {
        &self.first
    }

    /// What it had at first without one core; as it was if that would leave none.
    pub fn without(&self, core: usize) -> CpuSet {
        let mut rest = self.first;
        if core < CpuSet::MAX_CPU {
            rest.unset(core);
        }
        if rest.count() == 0 { self.first } else { rest }
    }

    /// Has the thread run on `wanted`, from any thread. `None` if that is not ours to decide any more.
    #[must_use]
    pub fn give(mut self, wanted: &CpuSet) -> Option<Self> {
        let has = sched_getaffinity(Some(self.thread)).ok()?;
        if has != self.given {
            log::debug!("the cores of a thread were changed from outside; it stays there");
            return None;
        }
        // Refused where none of them is to be had now. The kernel may give fewer than asked for.
        if sched_setaffinity(Some(self.thread), wanted).is_ok() {
            self.given = sched_getaffinity(Some(self.thread)).ok()?;
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_of(cores: &CpuSet) -> usize {
        (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core)).unwrap()
    }

    #[test]
    fn a_core_is_left_out_if_another_remains() {
        let own = ThreadCores::of_caller().unwrap();
        let core = first_of(own.first());
        let rest = own.without(core);
        match own.first().count() {
            1 => assert_eq!(&rest, own.first()),
            count => assert!(rest.count() == count - 1 && !rest.is_set(core)),
        }
        assert_eq!(&own.without(CpuSet::MAX_CPU), own.first());
    }

    #[test]
    fn what_somebody_else_has_chosen_stays() {
        let mut one = CpuSet::new();
        one.set(first_of(&sched_getaffinity(None).unwrap()));
        let own = ThreadCores::of_caller().unwrap();
        let anywhere = *own.first();
        let own = own.give(&one).unwrap().give(&anywhere).unwrap();
        sched_setaffinity(None, &one).unwrap();
        let was_changed = one != anywhere;
        assert_eq!(own.give(&anywhere).is_none(), was_changed);
        assert_eq!(sched_getaffinity(None).unwrap(), one);
    }
}
