//! What requests a queue has had lately, and where its thread is best off for that.
//!
//! At home, on the core that its requests come from, it is as near as can be to the program that
//! waits for the answer: no other core has to be woken. There are two exceptions.
//!
//! Where small requests come many at once, nobody waits for anybody to wake up: there is always more
//! to do for both. So the thread goes to another core, and program and thread work at the same time.
//! On two cores that is worth a quarter of the 4 KiB writes per second, and more of the reads. Large
//! requests do not count: copying their data is most of the work, which is cheaper at home. And where
//! programs of so many cores have crowds that no core is left, all stay at home.
//!
//! Where at least every fifth request is a sync, as in a database's log, the thread sleeps most of
//! the time until the SSD has written, and the device may interrupt another core. So it may go on
//! there, and the program that it wakes goes there too. On two cores of a virtual machine whose disk
//! interrupts one of them, that is worth a seventh of the syncs per second.

/// Most other requests between two syncs that count as in a row.
const OTHERS_MAX: u32 = 4;
/// From so many syncs in a row on the thread may run anywhere.
const SYNCS_MIN: u32 = 8;
/// After so many requests without a sync it may not any more.
const BACK_AFTER: u32 = 16;

/// Largest request that counts as small, as do all that have no data.
const SMALL_BYTES_MAX: usize = 16 << 10;
/// From so many small requests a round on, it is a crowd ...
const CROWD_MIN: u32 = 6;
/// ... and below so many it no longer is.
const CROWD_END: u32 = 3;
/// The mean of so many rounds is what counts, the last ones more than the first.
const ROUNDS: u32 = 64;

/// The cores that a thread may run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Spot {
    /// The one that its requests come from.
    #[default]
    Home,
    /// All others.
    Away,
    /// All.
    Anywhere,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Habit {
    syncs: u32,
    others: u32,
    syncs_often: bool,
    /// Small requests of the round under way.
    small: u32,
    /// The mean of finished rounds, times `ROUNDS`.
    small_in_rounds: u32,
    is_crowd: bool,
    /// A core is free for the thread.
    has_room: bool,
    spot: Spot,
}

impl Habit {
    /// Takes notice of a request; tells where the thread belongs from now on, if that changes.
    pub(super) fn note(&mut self, is_sync: bool, bytes: usize) -> Option<Spot> {
        self.small += u32::from(bytes <= SMALL_BYTES_MAX);
        if is_sync {
            self.syncs = if self.others <= OTHERS_MAX { self.syncs.saturating_add(1) } else { 1 };
            self.others = 0;
            self.syncs_often = self.syncs >= SYNCS_MIN;
        } else {
            self.others = self.others.saturating_add(1);
            self.syncs_often &= self.others < BACK_AFTER;
        }
        self.settle()
    }

    /// Takes notice of the end of a round, which is all that had come when the thread looked; tells
    /// where the thread belongs from now on, if that changes. `has_room` is asked if it is a crowd.
    pub(super) fn note_round(&mut self, has_room: impl FnOnce() -> bool) -> Option<Spot> {
        self.small_in_rounds += std::mem::take(&mut self.small);
        self.small_in_rounds -= self.small_in_rounds / ROUNDS;
        let enough = if self.is_crowd { CROWD_END } else { CROWD_MIN };
        self.is_crowd = self.small_in_rounds >= enough * ROUNDS;
        self.has_room = self.is_crowd && has_room();
        self.settle()
    }

    fn settle(&mut self) -> Option<Spot> {
        let spot = match (self.syncs_often, self.is_crowd && self.has_room) {
            (true, _) => Spot::Anywhere,
            (false, true) => Spot::Away,
            (false, false) => Spot::Home,
        };
        (std::mem::replace(&mut self.spot, spot) != spot).then_some(spot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_run_anywhere_while_many_requests_sync() {
        let mut habit = Habit::default();
        let mut sync_after = |others: u32| {
            let before = (0..others).filter_map(|_| habit.note(false, 4096)).last();
            (before, habit.note(true, 0))
        };
        for _ in 1..SYNCS_MIN {
            assert_eq!(sync_after(1), (None, None));
        }
        assert_eq!(sync_after(OTHERS_MAX), (None, Some(Spot::Anywhere)));
        assert_eq!(sync_after(OTHERS_MAX), (None, None));
        assert_eq!(sync_after(OTHERS_MAX + 1), (None, Some(Spot::Home)), "too few syncs");
        for _ in 2..SYNCS_MIN {
            assert_eq!(sync_after(0), (None, None), "a row begins anew");
        }
        assert_eq!(sync_after(0), (None, Some(Spot::Anywhere)));
        assert_eq!(sync_after(BACK_AFTER), (Some(Spot::Home), None), "no sync for long");
    }

    /// Rounds of so many requests; tells where the thread goes in them.
    fn rounds(habit: &mut Habit, rounds: u32, requests: u32, bytes: usize) -> Vec<Spot> {
        let mut spots = Vec::new();
        for _ in 0..rounds {
            spots.extend((0..requests).filter_map(|_| habit.note(false, bytes)));
            spots.extend(habit.note_round(|| true));
        }
        spots
    }

    #[test]
    fn a_thread_leaves_a_crowd_and_comes_back_after_it() {
        let mut habit = Habit::default();
        assert_eq!(rounds(&mut habit, 1000, CROWD_MIN - 1, 4096), [], "few at once");
        assert_eq!(rounds(&mut habit, 1000, CROWD_MIN + 1, 4096), [Spot::Away]);
        assert_eq!(rounds(&mut habit, 1000, CROWD_END + 1, 4096), [], "still a few at once");
        assert_eq!(rounds(&mut habit, 1000, CROWD_END - 1, 4096), [Spot::Home]);
        assert_eq!(rounds(&mut habit, 1000, 100, SMALL_BYTES_MAX + 1), [], "large ones");
    }

    #[test]
    fn a_burst_is_no_crowd() {
        let mut habit = Habit::default();
        for _ in 0..100 {
            assert_eq!(rounds(&mut habit, 1, 100, 4096), []);
            assert_eq!(rounds(&mut habit, 99, 1, 4096), []);
        }
    }

    #[test]
    fn all_stay_at_home_where_no_core_is_free() {
        let mut habit = Habit::default();
        assert_eq!(rounds(&mut habit, 1000, 10, 4096), [Spot::Away]);
        assert_eq!(habit.note_round(|| false), Some(Spot::Home));
        assert_eq!(habit.note_round(|| false), None);
        assert_eq!(habit.note_round(|| true), Some(Spot::Away));
    }

    #[test]
    fn syncs_weigh_more_than_a_crowd() {
        let mut habit = Habit::default();
        assert_eq!(rounds(&mut habit, 1000, 10, 4096), [Spot::Away]);
        let spots: Vec<_> = (0..SYNCS_MIN + 1).filter_map(|_| habit.note(true, 0)).collect();
        assert_eq!(spots, [Spot::Anywhere]);
        assert_eq!(rounds(&mut habit, 1000, 10, 4096), [Spot::Away]);
    }
}
