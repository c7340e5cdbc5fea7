//! How old what the log holds is: a few marks that say from which record on they are not
//! older than a moment.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::LogSeq;

/// Records between two marks were appended within this time, as long as there are few marks.
const STEP: Duration = Duration::from_millis(100);

/// Marks kept; beyond, every other one is forgotten, which makes records look older.
const MARKS_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Ascending in both.
    marks: VecDeque<(LogSeq, Duration)>,
}

impl Ages {
    /// A record is appended with number `seq`.
    pub(super) fn note(&mut self, seq: LogSeq, now: Duration) {
        if self.marks.back().is_some_and(|(_, last)| now < last.saturating_add(STEP)) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push_back((seq, now));
    }

    /// When the record `seq` was appended, or a little earlier.
    pub(super) fn at(&self, seq: LogSeq) -> Option<Duration> {
        let after = self.marks.partition_point(|(from, _)| *from <= seq);
        self.marks.get(after.saturating_sub(1)).map(|(_, since)| *since)
    }

    /// Nobody asks for what lies before `seq` any more.
    pub(super) fn forget_before(&mut self, seq: LogSeq) {
        while self.marks.get(1).is_some_and(|(from, _)| *from <= seq) {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_marks_cost_precision_and_never_make_younger() {
        let mut ages = Ages::default();
        for i in 0..20_000_u64 {
            ages.note(LogSeq::new(i), STEP * i as u32);
            assert!(ages.marks.len() <= MARKS_MAX);
        }
        for i in (0..20_000_u64).step_by(37) {
            assert!(ages.at(LogSeq::new(i)).unwrap() <= STEP * i as u32);
        }
        ages.forget_before(LogSeq::new(19_000));
        let left = ages.at(LogSeq::new(19_000)).unwrap();
        assert!(left <= STEP * 19_000 && left > STEP * 18_900);
    }
}
