//! On which core a queue's thread runs.
//!
//! Its requests come from programs of one core, and a core that idles is slow to wake: so the thread
//! stays there. The exception is a database's log, where at least every fifth request is a sync: the
//! thread then sleeps most of the time until the SSD has written, and the device may interrupt another
//! core. So it may go on there, and the program that it wakes goes there too. On two cores of a virtual
//! machine whose disk interrupts one of them, that was worth a seventh of the syncs per second.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Most other requests between two syncs that count as in a row.
const OTHERS_MAX: u32 = 4;
/// From so many syncs in a row on the thread may leave its core.
const SYNCS_MIN: u32 = 8;
/// After so many requests without a sync it goes back.
const BACK_AFTER: u32 = 16;

/// Where the calling thread runs.
#[derive(Debug)]
pub(super) struct Place {
    /// None if it is not kept on a core.
    cores: Option<Cores>,
    habit: Habit,
}

#[derive(Debug)]
struct Cores {
    home: CpuSet,
    /// What the thread had at first.
    anywhere: CpuSet,
    /// What it was given last. Whatever else it has, it has from somebody else.
    given: CpuSet,
}

/// What requests the queue has had lately.
#[derive(Debug, Default)]
struct Habit {
    syncs: u32,
    others: u32,
    roams: bool,
}

impl Place {
    /// Keeps the calling thread on `core`. One that is off, or not for this process, has nobody to be
    /// near to.
    pub(super) fn on(core: u16) -> Self {
        let cores = Cores::around(core);
        if cores.is_none() {
            log::debug!("the thread for core {core} runs anywhere");
        }
        Self { cores, habit: Habit::default() }
    }

    /// Takes notice of a request.
    pub(super) fn note(&mut self, is_sync: bool) {
        let Some(roams) = self.habit.note(is_sync) else { return };
        self.cores = self.cores.take().and_then(|cores| cores.give(roams));
    }
}

impl Cores {
    fn around(core: u16) -> Option<Self> {
        let anywhere = sched_getaffinity(None).ok()?;
        let core = usize::from(core);
        if core >= CpuSet::MAX_CPU || !anywhere.is_set(core) {
            return None;
        }
        let mut home = CpuSet::new();
        home.set(core);
        Self { home, anywhere, given: anywhere }.give(false)
    }

    /// Lets the calling thread roam, or not. `None` if that is not ours to decide any more.
    fn give(mut self, roams: bool) -> Option<Self> {
        let has = sched_getaffinity(None).ok()?;
        if has != self.given {
            log::debug!("somebody has moved a queue's thread; it stays there");
            return None;
        }
        self.given = if roams { self.anywhere } else { self.home };
        sched_setaffinity(None, &self.given).ok()?;
        Some(self)
    }
}

impl Habit {
    /// Whether the thread may leave its core from now on, where that changes.
    fn note(&mut self, is_sync: bool) -> Option<bool> {
        let roamed = self.roams;
        if is_sync {
            self.syncs = if self.others <= OTHERS_MAX { self.syncs.saturating_add(1) } else { 1 };
            self.others = 0;
            self.roams = self.syncs >= SYNCS_MIN;
        } else {
            self.others = self.others.saturating_add(1);
            self.roams &= self.others < BACK_AFTER;
        }
        (self.roams != roamed).then_some(self.roams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_roams_while_many_requests_sync() {
        let mut habit = Habit::default();
        let mut sync_after = |others: u32| {
            let before = (0..others).filter_map(|_| habit.note(false)).last();
            (before, habit.note(true))
        };
        for _ in 1..SYNCS_MIN {
            assert_eq!(sync_after(1), (None, None));
        }
        assert_eq!(sync_after(OTHERS_MAX), (None, Some(true)));
        assert_eq!(sync_after(OTHERS_MAX), (None, None));
        assert_eq!(sync_after(OTHERS_MAX + 1), (None, Some(false)), "too few syncs");
        for _ in 2..SYNCS_MIN {
            assert_eq!(sync_after(0), (None, None), "a row begins anew");
        }
        assert_eq!(sync_after(0), (None, Some(true)));
        assert_eq!(sync_after(BACK_AFTER), (Some(false), None), "no sync for long");
    }

    fn sync_often(place: &mut Place) {
        for _ in 0..SYNCS_MIN {
            place.note(true);
        }
    }

    #[test]
    fn a_thread_leaves_its_core_and_comes_back() {
        let anywhere = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|core| anywhere.is_set(*core)).unwrap();
        let mut home = CpuSet::new();
        home.set(core);
        let mut place = Place::on(core as u16);
        assert_eq!(sched_getaffinity(None).unwrap(), home);
        sync_often(&mut place);
        assert_eq!(sched_getaffinity(None).unwrap(), anywhere);
        for _ in 0..BACK_AFTER {
            place.note(false);
        }
        assert_eq!(sched_getaffinity(None).unwrap(), home);
    }

    #[test]
    fn who_was_moved_by_somebody_else_stays() {
        let anywhere = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|core| anywhere.is_set(*core)).unwrap();
        let mut place = Place::on(core as u16);
        let other = (0..CpuSet::MAX_CPU).rev().find(|core| anywhere.is_set(*core)).unwrap();
        let mut elsewhere = CpuSet::new();
        elsewhere.set(other);
        sched_setaffinity(None, &elsewhere).unwrap();
        sync_often(&mut place);
        // With one core alone there is no elsewhere.
        assert_eq!(sched_getaffinity(None).unwrap(), elsewhere);
    }

    #[test]
    fn a_core_that_is_not_there_is_no_obstacle() {
        let anywhere = sched_getaffinity(None).unwrap();
        let mut place = Place::on(u16::MAX);
        sync_often(&mut place);
        assert_eq!(sched_getaffinity(None).unwrap(), anywhere);
    }
}
