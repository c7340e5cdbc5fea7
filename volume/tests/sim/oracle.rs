//! What a volume must show after a crash.
//!
//! **Lanes.** Each writing thread has a region of its own, its *lane*, and waits for each request
//! before the next. So within a lane the order of writes is known, and the newest write of every
//! sector with it. Between lanes only this is known: what was acknowledged before another
//! request began comes before it in every order. Both are taken from one logical clock.
//!
//! **The rule.** There must be one number `k` per lane such that every sector of the lane shows
//! its newest write with number <= `k` (a trim shows zero, and so does no write), and such that
//! what a `k` includes has everything before it that was acknowledged before it began, in all
//! lanes. And each `k` reaches at least what the kind of crash promises (see [`Promise`]).
//!
//! For each lane all `k` that its sectors allow are computed. Of these the smallest ones that the
//! promise and the order between lanes demand are chosen: as every demand is of the form "at least",
//! raising each `k` to its next allowed value until nothing changes finds an answer if
//! there is one. The history after `k` did not happen and is forgotten. Where several `k` are
//! allowed they show the same sectors, so it does not matter which one is kept.
//!
//! A write of more than a record's 1 MiB is several numbers: each is whole or absent.

use std::collections::BTreeSet;

use crate::stamp::{SECTOR, Shown, decode};

/// Largest part of a write that is whole or absent, in sectors.
pub(crate) const RECORD_SECTORS: u64 = (1 << 20) / SECTOR as u64;

/// How much of the history must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The machine stayed up: every acknowledged write.
    Acknowledged,
    /// The SSD survived: what was acknowledged before the last completed flush began.
    Flushed,
    /// The SSD is gone: a prefix, with what was acknowledged before an upload waited for.
    Uploaded,
}

/// One change of a lane.
#[derive(Clone, Debug)]
struct Change {
    start: u64,
    sectors: u64,
    zero: bool,
    /// When the request began, by the logical clock.
    begun: u64,
    /// When it was acknowledged.
    acked: Option<u64>,
}

/// One thread's region and history. Numbers begin at 1.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) base: u64,
    pub(crate) sectors: u64,
    /// Where this lane's numbers start in stamps, so that no two lanes share one.
    offset: u64,
    changes: Vec<Change>,
    flushed: u64,
    uploaded: u64,
}

impl Lane {
    /// Notes a request; returns the number of its first part. Parts of 1 MiB follow.
    pub(crate) fn begin(&mut self, start: u64, sectors: u64, zero: bool, now: u64) -> u64 {
        let first = self.changes.len() as u64 + 1;
        // A trim is one record whatever its length.
        let part = if zero { sectors } else { RECORD_SECTORS };
        let mut at = start;
        while at < start + sectors {
            let sectors = part.min(start + sectors - at);
            self.changes.push(Change { start: at, sectors, zero, begun: now, acked: None });
            at += sectors;
        }
        self.offset + first
    }

    /// The newest request was acknowledged.
    pub(crate) fn acknowledge(&mut self, now: u64) {
        for change in self.changes.iter_mut().rev() {
            if change.acked.is_some() {
                break;
            }
            change.acked = Some(now);
        }
    }

    /// The newest request turns out not to have been acknowledged.
    pub(crate) fn take_back_newest(&mut self) {
        if let Some(change) = self.changes.last_mut() {
            change.acked = None;
        }
    }

    /// How many changes there are: the newest one's number.
    pub(crate) fn count(&self) -> u64 {
        self.offset + self.changes.len() as u64
    }

    /// What the newest change of each sector would be with all of them done.
    pub(crate) fn newest(&self, lba: u64) -> Shown {
        let newest = (1..).zip(&self.changes).filter(|(_, c)| c.covers(lba)).last();
        match newest {
            Some((number, change)) if !change.zero => Shown::Write(self.offset + number),
            _ => Shown::Zero,
        }
    }

    fn acked_before(&self, time: u64) -> u64 {
        let acked = |change: &Change| change.acked.is_some_and(|at| at <= time);
        self.changes.iter().rposition(acked).map_or(0, |i| i as u64 + 1)
    }

    /// Which numbers may be the last one, given what the sectors show. Index 0: nothing was
    /// written.
    fn allowed(&self, volume: u64, bytes: &[u8]) -> Result<Allowed, String> {
        let count = self.changes.len();
        let mut history = vec![vec![]; self.sectors as usize];
        for (number, change) in (1_usize..).zip(&self.changes) {
            for at in change.start - self.base..change.start - self.base + change.sectors {
                history[at as usize].push((number, change.zero));
            }
        }
        // `wrong[k]`: sectors that contradict k, as differences.
        let mut wrong = vec![0_i64; count + 2];
        let mut example = vec![None; count + 2];
        for (i, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let lba = self.base + i as u64;
            let shown = decode(volume, lba, sector)?;
            let number = match shown {
                Shown::Zero => None,
                Shown::Write(n) => Some(n.wrapping_sub(self.offset) as usize),
            };
            let known = |n| history[i].contains(&(n, false));
            if number.is_some_and(|n| !known(n)) {
                return Err(format!(
                    "sector {lba} shows {shown:?}, which did not happen; its history is {:?}",
                    history[i]
                ));
            }
            let mut from = 0;
            let mut state = None;
            for (next, then) in history[i]
                .iter()
                .map(|(number, zero)| (*number, (!zero).then_some(*number)))
                .chain([(count + 1, None)])
            {
                if state != number {
                    wrong[from] += 1;
                    wrong[next] -= 1;
                    example[from].get_or_insert((lba, shown, state));
                }
                (from, state) = (next, then);
            }
        }
        let mut sum = 0;
        let mut numbers = BTreeSet::new();
        for (k, change) in wrong.iter().enumerate().take(count + 1) {
            sum += change;
            if sum == 0 {
                numbers.insert(k as u64);
            }
        }
        if numbers.is_empty() {
            let examples: Vec<_> = example.iter().flatten().rev().take(12).collect();
            return Err(format!(
                "no prefix of the lane at {} shows this; sectors with what they show and what \
                 they would have to: {examples:?}",
                self.base
            ));
        }
        Ok(Allowed(numbers))
    }
}

impl Change {
    fn covers(&self, lba: u64) -> bool {
        (self.start..self.start + self.sectors).contains(&lba)
    }
}

/// Numbers that may be a lane's last.
#[derive(Debug)]
struct Allowed(BTreeSet<u64>);

impl Allowed {
    fn at_least(&self, k: u64) -> Option<u64> {
        self.0.range(k..).next().copied()
    }
}

/// The whole volume's history.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    pub(crate) volume: u64,
    pub(crate) lanes: Vec<Lane>,
}

impl Oracle {
    /// `lanes` regions of `sectors`, every `stride` sectors.
    pub(crate) fn new(volume: u64, lanes: u64, sectors: u64, stride: u64) -> Self {
        let lane = |n| Lane {
            base: n * stride,
            sectors,
            offset: n << 32,
            changes: Vec::new(),
            flushed: 0,
            uploaded: 0,
        };
        Self { volume, lanes: (0..lanes).map(lane).collect() }
    }

    /// Everything acknowledged by `time` is flushed.
    pub(crate) fn flushed(&mut self, time: u64) {
        for lane in &mut self.lanes {
            lane.flushed = lane.flushed.max(lane.acked_before(time));
        }
    }

    /// Takes back what was said of flushes since `earlier`.
    pub(crate) fn flushed_as_of(&mut self, earlier: &Self) {
        for (lane, earlier) in self.lanes.iter_mut().zip(&earlier.lanes) {
            lane.flushed = earlier.flushed;
        }
    }

    /// Everything acknowledged by `time` is in the store.
    pub(crate) fn uploaded(&mut self, time: u64) {
        for lane in &mut self.lanes {
            lane.uploaded = lane.uploaded.max(lane.acked_before(time));
        }
    }

    /// Checks what a recovered volume shows, and takes it for the history from now on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn settle(
        &mut self,
        promise: Promise,
        now: u64,
        mut read: impl FnMut(u64, u64) -> Result<Vec<u8>, String>,
    ) -> Result<(), String> {
        let allowed = self
            .lanes
            .iter()
            .map(|lane| lane.allowed(self.volume, &read(lane.base, lane.sectors)?))
            .collect::<Result<Vec<_>, String>>()?;
        let least = |lane: &Lane| match promise {
            Promise::Acknowledged => lane.acked_before(u64::MAX),
            Promise::Flushed => lane.flushed,
            Promise::Uploaded => lane.uploaded,
        };
        let demanded: Vec<u64> = self.lanes.iter().map(least).collect();
        let mut last = demanded.clone();
        loop {
            let before = last.clone();
            for (i, allowed) in allowed.iter().enumerate() {
                let Some(k) = allowed.at_least(last[i]) else {
                    return Err(format!(
                        "{promise:?}: lane {i} must show at least change {} of {} (promised {}, the \
                         rest follows from other lanes), but shows {:?}",
                        last[i],
                        self.lanes[i].changes.len(),
                        demanded[i],
                        allowed.0.iter().next_back(),
                    ));
                };
                last[i] = k;
            }
            for i in 0..last.len() {
                let Some(change) = (last[i] as usize).checked_sub(1) else { continue };
                let begun = self.lanes[i].changes[change].begun;
                for (j, lane) in self.lanes.iter().enumerate() {
                    // The clock is unique, so that "before" is strict.
                    last[j] = last[j].max(lane.acked_before(begun));
                }
            }
            if last == before {
                break;
            }
        }
        for (lane, last) in self.lanes.iter_mut().zip(last) {
            lane.changes.truncate(last as usize);
            for change in &mut lane.changes {
                change.acked.get_or_insert(now);
            }
            // What a volume shows when it is open is safe on the SSD.
            lane.flushed = last;
            lane.uploaded = lane.uploaded.min(last);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::stamp;

    fn show(shown: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; shown.len() * SECTOR];
        for (i, number) in shown.iter().enumerate().filter(|(_, n)| **n > 0) {
            stamp(7, i as u64 % 4, *number, &mut bytes[i * SECTOR..(i + 1) * SECTOR]);
        }
        bytes
    }

    /// Sectors 0..4: write 1 to 0..2, trim 2 of 1, write 3 to 1..3 (not acknowledged).
    fn oracle() -> Oracle {
        let mut oracle = Oracle::new(7, 1, 4, 4);
        let lane = &mut oracle.lanes[0];
        lane.begin(0, 2, false, 1);
        lane.acknowledge(2);
        lane.begin(1, 1, true, 3);
        lane.acknowledge(4);
        lane.begin(1, 2, false, 5);
        oracle
    }

    fn settles(promise: Promise, flushed: u64, shown: &[u64]) -> bool {
        let mut oracle = oracle();
        oracle.flushed(flushed);
        oracle.settle(promise, 9, |_, _| Ok(show(shown))).is_ok()
    }

    #[test]
    fn every_prefix_that_is_promised_passes() {
        for shown in [[0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 3, 3, 0]] {
            assert!(settles(Promise::Flushed, 0, &shown), "{shown:?}");
        }
        assert!(settles(Promise::Flushed, 2, &[1, 1, 0, 0]));
        assert!(settles(Promise::Acknowledged, 0, &[1, 0, 0, 0]));
        assert!(settles(Promise::Acknowledged, 0, &[1, 3, 3, 0]));
    }

    #[test]
    fn everything_else_fails() {
        for shown in [[1, 3, 0, 0], [0, 3, 3, 0], [0, 1, 0, 0], [1, 0, 3, 0], [2, 0, 0, 0]] {
            assert!(!settles(Promise::Flushed, 0, &shown), "{shown:?}");
        }
        assert!(!settles(Promise::Flushed, 2, &[0, 0, 0, 0]));
        assert!(!settles(Promise::Flushed, 4, &[1, 1, 0, 0]));
        assert!(!settles(Promise::Acknowledged, 0, &[1, 1, 0, 0]));
    }

    #[test]
    fn what_came_before_in_another_lane_must_be_there() {
        for (first, passes) in [(1, true), (0, false)] {
            let mut oracle = Oracle::new(7, 2, 1, 1);
            oracle.lanes[0].begin(0, 1, false, 1);
            oracle.lanes[0].acknowledge(2);
            oracle.lanes[1].begin(1, 1, false, 3);
            let outcome = oracle.settle(Promise::Flushed, 9, |base, _| {
                let mut bytes = vec![0; SECTOR];
                let number = if base == 1 { (1 << 32) + 1 } else { first };
                if number > 0 {
                    stamp(7, base, number, &mut bytes);
                }
                Ok(bytes)
            });
            assert_eq!(outcome.is_ok(), passes);
        }
    }
}
