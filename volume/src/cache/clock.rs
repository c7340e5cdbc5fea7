//! Which slot to give away: CLOCK with a small count per slot. Pure; knows no files.
//!
//! A hit raises a slot's count, up to [`COUNT_MAX`]; the hand lowers the counts it passes and
//! takes the first slot at zero. A new frame starts at zero: one that is read once only, as in
//! a scan, leaves at the hand's next visit, before any that was read again.

/// A slot survives at most this many visits of the hand after its last hit.
const COUNT_MAX: u8 = 3;

/// The clock over a fixed number of slots, all of them in use.
#[derive(Debug)]
pub(super) struct Clock {
    counts: Vec<u8>,
    hand: usize,
}

impl Clock {
    /// A clock without slots.
    pub(super) fn new() -> Self {
        Self { counts: Vec::new(), hand: 0 }
    }

    /// Takes one more slot into the clock: slots are numbered from 0 as they come.
    pub(super) fn grow(&mut self) -> usize {
        self.counts.push(0);
        self.counts.len() - 1
    }

    /// Slots in the clock.
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Notes that `slot` was hit.
    pub(super) fn touch(&mut self, slot: usize) {
        if let Some(count) = self.counts.get_mut(slot) {
            *count = (*count + 1).min(COUNT_MAX);
        }
    }

    /// Makes `slot` the next to go unless it is hit: it holds nothing of use.
    pub(super) fn forget(&mut self, slot: usize) {
        if let Some(count) = self.counts.get_mut(slot) {
            *count = 0;
        }
    }

    /// Chooses a slot to give away; `None` if there are none. Slots of which `held` says true
    /// are passed over; if all are held there is none to give.
    pub(super) fn evict(&mut self, held: impl Fn(usize) -> bool) -> Option<usize> {
        // Each round lowers every count, so the last of these finds a zero.
        for _ in 0..self.counts.len() * (usize::from(COUNT_MAX) + 1) {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.counts.len();
            match self.counts[slot] {
                0 if !held(slot) => return Some(slot),
                count => self.counts[slot] = count.saturating_sub(1),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(slots: usize) -> Clock {
        let mut clock = Clock::new();
        (0..slots).for_each(|slot| assert_eq!(clock.grow(), slot));
        clock
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_read_again() {
        let mut clock = clock(8);
        for _ in 0..100 {
            clock.touch(2);
            clock.touch(5);
            let victim = clock.evict(|_| false).unwrap();
            assert!(victim != 2 && victim != 5, "gave away {victim}");
        }
    }

    #[test]
    fn a_slot_that_is_not_hit_any_more_goes() {
        let mut clock = clock(4);
        (0..10).for_each(|_| clock.touch(1));
        let victims: Vec<_> = (0..16).map(|_| clock.evict(|_| false).unwrap()).collect();
        assert_eq!(
            victims.iter().position(|&v| v == 1),
            Some(10),
            "survives three visits: {victims:?}"
        );
    }

    #[test]
    fn held_slots_stay() {
        let mut clock = clock(3);
        clock.touch(0);
        assert_eq!(clock.evict(|slot| slot != 0), Some(0));
        assert_eq!(clock.evict(|_| true), None);
        assert_eq!(Clock::new().evict(|_| false), None);
    }

    #[test]
    fn a_forgotten_slot_goes_first() {
        let mut clock = clock(3);
        for slot in 0..3 {
            clock.touch(slot);
        }
        clock.forget(2);
        assert_eq!(clock.evict(|_| false), Some(2));
    }
}
