//! How many queues have many requests at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So long a queue counts after it was noted.
const LASTS: Duration = Duration::from_millis(20);

/// When each queue was noted last.
#[derive(Debug)]
pub(super) struct Crowds {
    start: Instant,
    /// In nanoseconds since the start; zero if never.
    noted: Box<[AtomicU64]>,
}

impl Crowds {
    /// For so many queues.
    pub(super) fn new(queues: u16) -> Self {
        let noted = (0..queues).map(|_| AtomicU64::new(0)).collect();
        Self { start: Instant::now(), noted }
    }

    /// Notes that the queue `id` has a crowd; tells how many have, this one included. There is no end
    /// of them if the queue is not one of those counted.
    pub(super) fn note(&self, id: u16) -> usize {
        self.note_at(id, self.start.elapsed())
    }

    fn note_at(&self, id: u16, now: Duration) -> usize {
        let now = now.as_nanos() as u64 + 1;
        let Some(own) = self.noted.get(usize::from(id)) else { return usize::MAX };
        own.store(now, Ordering::Relaxed);
        let lately = now.saturating_sub(LASTS.as_nanos() as u64).max(1);
        self.noted.iter().filter(|noted| noted.load(Ordering::Relaxed) >= lately).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_counts_for_a_while() {
        let crowds = Crowds::new(3);
        let at = |ms| Duration::from_millis(ms);
        assert_eq!(crowds.note_at(0, at(0)), 1);
        assert_eq!(crowds.note_at(0, at(1)), 1);
        assert_eq!(crowds.note_at(2, at(2)), 2);
        assert_eq!(crowds.note_at(2, at(21)), 2);
        assert_eq!(crowds.note_at(2, at(22)), 1, "the other has not come again");
        assert_eq!(crowds.note_at(0, at(23)), 2);
    }
}
