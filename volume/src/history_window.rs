//! The window of history that is kept: from where on any moment of a volume can be had again.
//!
//! ```text
//!   objects   ... [C1] ........ [C2] ........ [C3] .... now
//!                   |
//!                   +--- what was needed at any time after this is kept
//! ```
//! The window begins at a checkpoint, and keeps whatever died after the number that this one covers.
//! So every moment since can be entered there and rolled forward to. It gets shorter with each new
//! checkpoint only, for nothing is given up at any other time.

use std::collections::BTreeMap;

use lsvd_store::parallel;

use crate::config::HistoryRetention;
use crate::error::{Error, Result};
use crate::format::{ObjectKind, Superblock};
use crate::map::ObjectTable;
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// From where on any moment of a volume's history can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HistoryBegin {
    /// The object that is committed last then.
    pub object: u64,
    /// When that was, in milliseconds since 1970.
    pub since_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct HistoryWindow {
    retention: HistoryRetention,
    /// When the checkpoints were written at which it may begin, by what they cover.
    checkpoints: BTreeMap<ObjectSeq, u64>,
}

impl HistoryWindow {
    /// The window of a volume whose objects are those in `objects`. It reaches back to where the
    /// last writer kept all of it, and no farther.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn load(
        retention: HistoryRetention,
        stream: &Stream,
        superblock: &Superblock,
        objects: &ObjectTable,
    ) -> Result<Self> {
        if retention.as_it_is && superblock.history.is_none() {
            return Ok(Self::default());
        }
        let mut window = Self { retention, ..Self::default() };
        let Some(newest) = superblock.checkpoint.filter(|_| retention.is_on()) else {
            return Ok(window);
        };
        let since = superblock.history.unwrap_or(newest.covers).max(stream.base_through());
        let of_map = objects.iter().filter(|(object, usage)| {
            usage.data_sectors == 0 && !usage.condemned && *object > since
        });
        let of_map: Vec<_> = of_map.map(|(object, _)| object).collect();
        let peek = |seq: &ObjectSeq| match stream.peek(*seq) {
            // Then the window does not begin there.
            Err(Error::Damaged { .. } | Error::NewerFormat { .. }) => Ok(None),
            peeked => peeked,
        };
        for (common, _) in parallel::map(&of_map, peek)?.into_iter().flatten() {
            let is_inside = common.stamp.committed >= since;
            if common.kind == ObjectKind::Checkpoint && is_inside {
                window.add(common.stamp.committed, common.stamp.written_ms);
            }
        }
        Ok(window)
    }

    /// Whether there is one.
    pub(crate) fn is_on(&self) -> bool {
        self.retention.is_on()
    }

    /// Notes a checkpoint that covers this.
    pub(crate) fn add(&mut self, covers: ObjectSeq, written_ms: u64) {
        if self.retention.is_on() {
            self.checkpoints.insert(covers, written_ms);
        }
    }

    /// Begins no earlier than where the superblock says that all has been kept since.
    pub(crate) fn begin_after(&mut self, superblock: &Superblock) {
        let covers = superblock.checkpoint.map(|named| named.covers);
        if let Some(since) = superblock.history.or(covers) {
            self.checkpoints = self.checkpoints.split_off(&since);
        }
    }

    /// Gives up what need not be kept at this time. Returns the number such that what died after it
    /// is kept, if anything is.
    pub(crate) fn advance(&mut self, now_ms: u64, objects: &ObjectTable) -> Option<ObjectSeq> {
        if let Some(age) = self.retention.age {
            let since = now_ms.saturating_sub(age.as_millis() as u64);
            let old = self.checkpoints.iter().filter(|(_, written_ms)| **written_ms <= since);
            if let Some(begin) = old.map(|(covers, _)| *covers).next_back() {
                self.checkpoints = self.checkpoints.split_off(&begin);
            }
        }
        if let Some(bytes) = self.retention.bytes {
            let all: Vec<_> = self.checkpoints.keys().copied().collect();
            let too_far = all.partition_point(|covers| objects.dead_bytes_after(*covers) > bytes);
            match all.get(too_far) {
                Some(begin) => self.checkpoints = self.checkpoints.split_off(begin),
                None => self.checkpoints.clear(),
            }
        }
        self.checkpoints.keys().next().copied()
    }

    /// Where it begins.
    pub(crate) fn begin(&self) -> Option<HistoryBegin> {
        let first = self.checkpoints.iter().next();
        first.map(|(covers, since_ms)| HistoryBegin { object: covers.get(), since_ms: *since_ms })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn window(age: Option<u64>, bytes: Option<u64>) -> HistoryWindow {
        let age = age.map(Duration::from_millis);
        let retention = HistoryRetention { age, bytes, as_it_is: false };
        let mut window = HistoryWindow { retention, ..HistoryWindow::default() };
        for hour in 1..=5 {
            window.add(ObjectSeq::new(hour * 10), hour * HOUR);
        }
        window
    }

    /// Of each hour's objects one that was overwritten half an hour later.
    fn objects() -> ObjectTable {
        let mut objects = ObjectTable::new();
        for hour in 1..=5 {
            let object = ObjectSeq::new(hour * 10 + 1);
            objects.add(object, 8, 1000);
            objects.gained(object, 8);
            objects.freed(object, 8, ObjectSeq::new(hour * 10 + 5));
        }
        objects
    }

    #[test]
    fn it_begins_at_the_last_checkpoint_that_is_old_enough() {
        let mut window = window(Some(2 * HOUR), None);
        let objects = objects();
        let mut begins = |now| window.advance(now, &objects).map(ObjectSeq::get);
        assert_eq!(begins(2 * HOUR), Some(10), "none is old enough");
        assert_eq!(begins(5 * HOUR), Some(30));
        assert_eq!(begins(5 * HOUR + HOUR / 2), Some(30));
        assert_eq!(begins(5 * HOUR), Some(30), "a clock that goes back brings nothing back");
        assert_eq!(begins(50 * HOUR), Some(50));
    }

    #[test]
    fn it_takes_up_no_more_than_it_may() {
        let objects = objects();
        for (bytes, begins) in [(9000, Some(10)), (5000, Some(10)), (4999, Some(20)), (999, None)] {
            let mut window = window(None, Some(bytes));
            assert_eq!(window.advance(0, &objects).map(ObjectSeq::get), begins, "{bytes}");
        }
        assert_eq!(
            window(Some(HOUR), Some(3000)).advance(HOUR, &objects),
            Some(ObjectSeq::new(30))
        );
    }

    #[test]
    fn nothing_is_kept_unless_asked_for() {
        let mut window = window(None, None);
        assert_eq!((window.advance(9 * HOUR, &objects()), window.begin()), (None, None));
    }
}
