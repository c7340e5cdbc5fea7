//! On which core a queue's thread runs.
//!
//! Its requests come from programs of one core, and a core that idles is slow to wake: so the thread
//! stays there. Except while it waits for the SSD on behalf of most of its requests, as for a
//! database's log. The device may interrupt another core, and then the thread goes on sooner there,
//! with the program behind it.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// So many requests after a sync, the next one still counts as one in a row.
const OTHERS_MAX: u32 = 4;
/// From so many syncs in a row on the thread may leave its core.
const SYNCS_MIN: u32 = 8;
/// After so many requests without a sync it goes back.
const BACK_AFTER: u32 = 64;

/// Where the calling thread runs.
#[derive(Debug)]
pub(super) struct Place {
    core: u16,
    /// Its core, and all that it may have; none if it cannot be kept on its core.
    sets: Option<(CpuSet, CpuSet)>,
    custom: Custom,
}

/// What requests the queue has had lately.
#[derive(Debug, Default)]
struct Custom {
    syncs: u32,
    others: u32,
    roams: bool,
}

impl Place {
    /// Keeps the calling thread on `core`. One that is off, or not for this process, has nobody to be
    /// near to.
    pub(super) fn on(core: u16) -> Self {
        let sets = sets_of(core).filter(|(home, _)| run_on(core, home));
        Self { core, sets, custom: Custom::default() }
    }

    /// Takes notice of a request.
    pub(super) fn note(&mut self, is_sync: bool) {
        if let Some(roams) = self.custom.note(is_sync)
            && let Some((home, anywhere)) = &self.sets
        {
            run_on(self.core, if roams { anywhere } else { home });
        }
    }
}

fn sets_of(core: u16) -> Option<(CpuSet, CpuSet)> {
    let anywhere = sched_getaffinity(None).ok()?;
    let core = usize::from(core);
    let mut home = CpuSet::new();
    (core < CpuSet::MAX_CPU && anywhere.is_set(core)).then(|| home.set(core))?;
    Some((home, anywhere))
}

/// Whether the calling thread runs on `cores` from now on.
fn run_on(core: u16, cores: &CpuSet) -> bool {
    let outcome = sched_setaffinity(None, cores);
    if let Err(error) = &outcome {
        log::debug!("the thread for core {core} runs where it did: {error}");
    }
    outcome.is_ok()
}

impl Custom {
    /// Whether the thread may leave its core from now on, where that changes.
    fn note(&mut self, is_sync: bool) -> Option<bool> {
        let roamed = self.roams;
        if is_sync {
            self.syncs = if self.others <= OTHERS_MAX { self.syncs.saturating_add(1) } else { 0 };
            self.others = 0;
            self.roams |= self.syncs >= SYNCS_MIN;
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
    fn a_thread_roams_while_most_requests_sync() {
        let mut custom = Custom::default();
        for _ in 1..SYNCS_MIN {
            assert_eq!((custom.note(false), custom.note(true)), (None, None));
        }
        assert_eq!((custom.note(false), custom.note(true)), (None, Some(true)));
        for _ in 1..BACK_AFTER {
            assert_eq!(custom.note(false), None);
        }
        assert_eq!(custom.note(false), Some(false));
        // One sync among many other requests changes nothing.
        for _ in 0..100 {
            for _ in 0..=OTHERS_MAX {
                assert_eq!(custom.note(false), None);
            }
            assert_eq!(custom.note(true), None);
        }
    }

    #[test]
    fn a_core_that_is_not_there_is_no_obstacle() {
        let mut place = Place::on(u16::MAX);
        assert!(place.sets.is_none());
        for _ in 0..=SYNCS_MIN {
            place.note(true);
        }
    }
}
