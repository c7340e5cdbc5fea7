//! Reads under way, so that no object is deleted under one.
//!
//! A read looks the map up and then reads the objects that it points at. An object may be deleted
//! once the map points at it no more **and** every read that began before that is over.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts the reads under way, apart by whether they began before the last [`Readers::turn`].
#[derive(Debug, Default)]
pub(crate) struct Readers {
    phase: AtomicUsize,
    under_way: [AtomicU64; 2],
}

/// A read under way.
#[derive(Debug)]
pub(crate) struct Reading<'a>(&'a AtomicU64);

impl Readers {
    /// Begins a read; it is over when the result is dropped.
    pub(crate) fn begin(&self) -> Reading<'_> {
        loop {
            let phase = self.phase.load(Ordering::SeqCst);
            let counter = self.counter(phase);
            counter.fetch_add(1, Ordering::SeqCst);
            if self.phase.load(Ordering::SeqCst) == phase {
                return Reading(counter);
            }
            // Turned meanwhile: whoever did may have seen the counter without this read.
            counter.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// What it returns says whether a read that began before this call is under way still. One
    /// thread calls it.
    pub(crate) fn turn(&self) -> impl FnMut() -> bool + '_ {
        let before = self.phase.load(Ordering::SeqCst);
        let mut turned = false;
        move || {
            // Left from an earlier phase: its counter is the next one's.
            if !turned && self.counter(before.wrapping_add(1)).load(Ordering::SeqCst) > 0 {
                return true;
            }
            if !turned {
                self.phase.fetch_add(1, Ordering::SeqCst);
                turned = true;
            }
            self.counter(before).load(Ordering::SeqCst) > 0
        }
    }

    fn counter(&self, phase: usize) -> &AtomicU64 {
        let [even, odd] = &self.under_way;
        if phase.is_multiple_of(2) { even } else { odd }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_that_began_before_hold_up() {
        let readers = Readers::default();
        assert!(!readers.turn()());
        let first = readers.begin();
        let mut is_read = readers.turn();
        assert!(is_read());
        let second = readers.begin();
        assert!(is_read());
        drop(first);
        assert!(!is_read());
        let mut is_read = readers.turn();
        assert!(is_read());
        drop(second);
        assert!(!is_read());
    }

    #[test]
    fn a_wait_that_was_given_up_is_not_forgotten() {
        let readers = Readers::default();
        let long = readers.begin();
        assert!(readers.turn()());
        let mut is_read = readers.turn();
        assert!(is_read());
        let later = readers.begin();
        drop(long);
        // The later one began after the turn, but before the phase could change.
        drop(later);
        assert!(!is_read());
    }
}
