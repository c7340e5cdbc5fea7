//! On which core the SSD's syncs are carried out, where there are many of them.

use std::time::Duration;

use parking_lot::Mutex;

/// So many syncs are looked at together ...
const SYNCS: u32 = 64;
/// ... of which so many more must have been on one core than elsewhere: three quarters, if they were on
/// two cores (the rest may cancel each other out where they were on more) ...
const LEAD_MIN: u32 = 32;
/// ... and all within this time.
const TIME_MAX: Duration = Duration::from_millis(250);
/// What was found out holds for so long.
pub(crate) const VALID: Duration = Duration::from_secs(1);

/// Counts syncs.
#[derive(Debug, Default)]
pub(super) struct SyncTally {
    core: usize,
    /// How many more of them were on that core than elsewhere.
    lead: u32,
    all: u32,
    begun: Duration,
}

impl SyncTally {
    /// Counts one; after every 64 tells the core on which by far most of them were, if there is one.
    pub(super) fn note(&mut self, core: usize, now: impl FnOnce() -> Duration) -> Option<usize> {
        if self.lead == 0 {
            self.core = core;
        }
        match core == self.core {
            true => self.lead += 1,
            false => self.lead -= 1,
        }
        self.all += 1;
        if self.all < SYNCS {
            return None;
        }
        let now = now();
        let took = now.saturating_sub(self.begun);
        let found = (self.lead >= LEAD_MIN && took <= TIME_MAX).then_some(self.core);
        *self = Self { begun: now, ..Self::default() };
        found
    }
}

/// The core that was told last, for other threads.
#[derive(Debug, Default)]
pub(super) struct SyncCore {
    /// And since when.
    last: Mutex<Option<(usize, Duration)>>,
}

impl SyncCore {
    pub(super) fn set(&self, core: usize, now: Duration) {
        *self.last.lock() = Some((core, now));
    }

    pub(super) fn get(&self, now: Duration) -> Option<usize> {
        let last = *self.last.lock();
        last.filter(|(_, since)| now < *since + VALID).map(|(core, _)| core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What is found out by syncs that each take so long, on cores that alternate in this way.
    fn found(
        tally: &mut SyncTally,
        apart: Duration,
        cores: &[usize],
        now: &mut Duration,
    ) -> Vec<usize> {
        let note = |core: &usize| {
            *now += apart;
            tally.note(*core, || *now)
        };
        cores.iter().filter_map(note).collect()
    }

    #[test]
    fn the_core_of_most_syncs_is_found() {
        let (mut tally, mut now) = (SyncTally::default(), ms(5));
        for mostly_two in [[2, 2, 2, 1], [1, 2, 2, 2]] {
            assert_eq!(found(&mut tally, ms(1), &mostly_two.repeat(16), &mut now), [2]);
        }
        let among_three = [[0, 1].repeat(16), vec![2; 32]].concat();
        assert_eq!(found(&mut tally, ms(1), &among_three, &mut now), [2], "half is enough then");
        assert_eq!(found(&mut tally, ms(1), &[7].repeat(128), &mut now), [7, 7]);
    }

    #[test]
    fn no_core_is_found_where_they_change_or_are_rare() {
        let (mut tally, mut now) = (SyncTally::default(), ms(5));
        assert_eq!(found(&mut tally, ms(1), &[0, 1].repeat(64), &mut now), [] as [usize; 0]);
        let too_few = [[5; 47].as_slice(), &[6; 17]].concat();
        assert_eq!(found(&mut tally, ms(1), &too_few, &mut now), [] as [usize; 0]);
        assert_eq!(found(&mut tally, ms(4), &[1].repeat(128), &mut now), [] as [usize; 0]);
    }

    #[test]
    fn what_was_found_holds_for_a_while() {
        let core = SyncCore::default();
        assert_eq!(core.get(Duration::ZERO), None);
        core.set(0, ms(70));
        assert_eq!(core.get(ms(1069)), Some(0));
        assert_eq!(core.get(ms(1070)), None);
        core.set(1023, ms(2000));
        assert_eq!(core.get(ms(2000)), Some(1023));
    }
}
