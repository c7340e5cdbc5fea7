//! How a thread shares the processors with others.

use rustix::process::getpid;
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

    fn number(&self) -> i32 {
        self.thread.as_raw_nonzero().get()
    }
}

impl ThreadControl for HostThread {
    // What is refused costs nothing but speed.
    fn make_way(&mut self) {
        // SAFETY: plain numbers. A thread's number is never negative.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, self.number().unsigned_abs(), NICE) };
    }

    fn set_pace(&mut self, pace: Pace) {
        if self.may_idle {
            set_scheduler(self.number(), pace);
        }
    }

    fn keep_off(&mut self, core: Option<usize>) {
        self.cores = self
            .cores
            .take()
            .and_then(|cores| cores.give(|all| core.map_or(*all, |core| without_core(all, core))));
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

/// The cores that a thread may run on, for as long as nobody else chooses them.
///
/// All cores are those of the process's first thread: where the system takes some away, or gives more,
/// the thread follows.
#[derive(Debug)]
pub struct ThreadCores {
    thread: Pid,
    /// All of them when the thread was looked at last.
    all: CpuSet,
    /// What it had then. Whatever else it has, it has from the system or from somebody.
    given: CpuSet,
}

impl ThreadCores {
    /// Those of the calling thread; `None` where the system does not tell.
    pub fn of_caller() -> Option<Self> {
        let thread = gettid();
        Some(Self { thread, all: cores_of(getpid())?, given: cores_of(thread)? })
    }

    /// All cores as of the last look.
    pub fn all(&self) -> &CpuSet {
        &self.all
    }

    /// Has the thread run on what `choose` takes of all cores. Any thread may do that, while this one
    /// lives. `None` if it is not ours to decide any more.
    #[must_use]
    pub fn give(mut self, choose: impl FnOnce(&CpuSet) -> CpuSet) -> Option<Self> {
        let before = std::mem::replace(&mut self.all, cores_of(getpid())?);
        // If all changed, it was the system, or somebody who meant the whole process.
        if before == self.all && cores_of(self.thread)? != self.given {
            log::debug!("the cores of a thread were changed from outside; it stays there");
            return None;
        }
        // Refused where none of them is to be had now. The kernel may give fewer than asked for.
        let _ = sched_setaffinity(Some(self.thread), &choose(&self.all));
        self.given = cores_of(self.thread)?;
        Some(self)
    }
}

fn cores_of(thread: Pid) -> Option<CpuSet> {
    sched_getaffinity(Some(thread)).ok()
}

/// `all` without one core; as they are if that would leave none.
pub fn without_core(all: &CpuSet, core: usize) -> CpuSet {
    let mut rest = *all;
    if core < CpuSet::MAX_CPU {
        rest.unset(core);
    }
    if rest.count() == 0 { *all } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_alone(cores: &CpuSet) -> CpuSet {
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core)).unwrap());
        one
    }

    #[test]
    fn a_core_is_left_out_if_another_remains() {
        let mut two = CpuSet::new();
        two.set(3);
        two.set(5);
        let one = without_core(&two, 3);
        assert!(one.count() == 1 && one.is_set(5));
        assert_eq!(without_core(&one, 5), one);
        assert_eq!(without_core(&two, 4), two);
        assert_eq!(without_core(&two, CpuSet::MAX_CPU), two);
    }

    #[test]
    fn what_somebody_else_has_chosen_stays() {
        let own = ThreadCores::of_caller().unwrap();
        let all = *own.all();
        let one = first_alone(&all);
        let own = own.give(|_| one).unwrap().give(|all| *all).unwrap();
        assert_eq!(cores_of(gettid()), Some(all));
        sched_setaffinity(None, &one).unwrap();
        assert_eq!(own.give(|all| *all).is_none(), one != all);
        assert_eq!(cores_of(gettid()), Some(one));
    }

    #[test]
    fn a_change_of_all_cores_is_followed() {
        let own = ThreadCores::of_caller().unwrap();
        let all = *own.all();
        let one = first_alone(&all);
        // As if there had been one when the thread was looked at.
        let own = ThreadCores { all: one, given: one, ..own };
        assert!(own.give(|all| *all).is_some());
        assert_eq!(cores_of(gettid()), Some(all));
    }
}
