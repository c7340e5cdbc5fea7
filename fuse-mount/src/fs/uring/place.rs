//! On which core a queue's thread runs.
//!
//! Its requests come from programs of one core, and a core that idles is slow to wake: so the thread
//! stays there, with two exceptions that [`Habit`] knows.

use std::sync::Arc;

use lsvd_volume::platform::{ThreadCores, without_core};
use rustix::thread::CpuSet;

use super::crowds::Crowds;
use super::habit::{Habit, Spot};

/// Where the calling thread runs.
#[derive(Debug)]
pub(super) struct Place {
    core: u16,
    /// None if it is not kept on a core.
    cores: Option<ThreadCores>,
    habit: Habit,
    crowds: Arc<Crowds>,
}

impl Place {
    /// Keeps the calling thread on `core`. One that is off, or not for this process, has nobody to be
    /// near to.
    pub(super) fn on(core: u16, crowds: Arc<Crowds>) -> Self {
        let cores = ThreadCores::of_caller();
        let cores = cores.filter(|cores| {
            usize::from(core) < CpuSet::MAX_CPU && cores.all().is_set(usize::from(core))
        });
        if cores.is_none() {
            log::debug!("the thread for core {core} runs anywhere");
        }
        let mut place = Self { core, cores, habit: Habit::default(), crowds };
        place.go(Some(Spot::Home));
        place
    }

    /// Takes notice of a request for so many bytes of data.
    pub(super) fn note(&mut self, is_sync: bool, bytes: usize) {
        if self.cores.is_some() {
            let moves = self.habit.note(is_sync, bytes);
            self.go(moves);
        }
    }

    /// Takes notice that all the requests of a round are carried out.
    pub(super) fn note_round(&mut self) {
        let Some(cores) = &self.cores else { return };
        let moves = self
            .habit
            .note_round(|| self.crowds.note(self.core) <= cores.all().count() as usize / 2);
        self.go(moves);
    }

    fn go(&mut self, to: Option<Spot>) {
        let (Some(spot), core) = (to, usize::from(self.core)) else { return };
        self.cores = self.cores.take().and_then(|cores| {
            cores.give(|all| match spot {
                Spot::Home if all.is_set(core) => only(core),
                Spot::Away => without_core(all, core),
                // There is no home any more if the process was given other cores.
                Spot::Home | Spot::Anywhere => *all,
            })
        });
    }
}

fn only(core: usize) -> CpuSet {
    let mut cores = CpuSet::new();
    cores.set(core);
    cores
}

#[cfg(test)]
mod tests {
    use rustix::thread::{sched_getaffinity, sched_setaffinity};

    use super::*;

    fn place_on(core: usize) -> Place {
        let core = core as u16;
        Place::on(core, Arc::new(Crowds::new(core.saturating_add(1))))
    }

    fn cores() -> CpuSet {
        sched_getaffinity(None).unwrap()
    }

    fn first_core() -> usize {
        let anywhere = cores();
        (0..CpuSet::MAX_CPU).find(|core| anywhere.is_set(*core)).unwrap()
    }

    fn sync_often(place: &mut Place) {
        (0..100).for_each(|_| place.note(true, 0));
    }

    #[test]
    fn a_thread_leaves_its_core_and_comes_back() {
        let (anywhere, core) = (cores(), first_core());
        let mut home = CpuSet::new();
        home.set(core);
        let mut place = place_on(core);
        assert_eq!(cores(), home);
        sync_often(&mut place);
        assert_eq!(cores(), anywhere);
        (0..100).for_each(|_| place.note(false, 4096));
        assert_eq!(cores(), home);
    }

    #[test]
    fn a_thread_goes_to_another_core_if_there_is_one() {
        let (anywhere, core) = (cores(), first_core());
        let mut place = place_on(core);
        let home = cores();
        for _ in 0..1000 {
            (0..32).for_each(|_| place.note(false, 4096));
            place.note_round();
        }
        match anywhere.count() {
            1 => assert_eq!(cores(), home),
            count => assert!(cores().count() == count - 1 && !cores().is_set(core)),
        }
    }

    #[test]
    fn who_was_moved_by_somebody_else_stays() {
        let anywhere = cores();
        let mut place = place_on(first_core());
        let other = (0..CpuSet::MAX_CPU).rev().find(|core| anywhere.is_set(*core)).unwrap();
        let mut elsewhere = CpuSet::new();
        elsewhere.set(other);
        sched_setaffinity(None, &elsewhere).unwrap();
        sync_often(&mut place);
        // With one core alone there is no elsewhere.
        assert_eq!(cores(), elsewhere);
    }

    #[test]
    fn a_core_that_is_not_there_is_no_obstacle() {
        let anywhere = cores();
        let mut place = place_on(usize::from(u16::MAX));
        sync_often(&mut place);
        place.note_round();
        assert_eq!(cores(), anywhere);
    }
}
