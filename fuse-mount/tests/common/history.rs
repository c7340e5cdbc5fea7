//! What a disk may show after a fault: stamped sectors, and who wrote them when.
//!
//! ```text
//!   tick  1    2    3    4    5    6          every write carries the tick of its issue
//!   a     |=========|                         issued 1, acknowledged 3
//!   b               .    |=====|              issued 4: strictly after a
//!   c          |=========================     never acknowledged
//! ```
//! Sectors are judged by real time alone: *x is before y* if x was acknowledged before y was
//! issued; otherwise either may have come first. A disk is right if
//! * each sector shows a write that was made there, byte for byte, or zeroes that somebody made;
//! * no sector shows a write that comes before another one there which the disk *includes*.
//!
//! It includes what it shows anywhere (a write is there as a whole or not at all), and
//! * after the daemon's death, with its SSD: everything acknowledged;
//! * after the loss of the SSD: everything acknowledged before the issue of anything that it
//!   shows (a prefix), and everything acknowledged before the last completed drain.

use std::collections::{HashMap, HashSet};

use super::rng::Rng;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// The first bytes of a stamp.
const MAGIC: u64 = 0x5ec7_0125_7a3b_ed01;

/// A moment: no two events have the same.
pub type Tick = u64;

/// What was done to a run of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Write,
    Trim,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Op {
    pub kind: Kind,
    pub start: u64,
    pub sectors: u64,
    /// Also the number of the write.
    pub issued: Tick,
    pub acked: Option<Tick>,
}

impl Op {
    fn range(&self) -> std::ops::Range<u64> {
        self.start..self.start + self.sectors
    }

    /// When it was over at the latest.
    fn over(&self) -> Tick {
        self.acked.unwrap_or(Tick::MAX)
    }
}

/// What the disk has to include.
#[derive(Clone, Copy, Debug)]
pub enum Promise {
    /// Everything acknowledged.
    Everything,
    /// A prefix, with what was acknowledged before this tick.
    Prefix { drained: Tick },
}

/// What is known of a request of an earlier life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has its effect.
    Done,
    /// It may have had its effect, under others.
    Perhaps,
    /// It was seen not to have happened, and must not happen any more.
    Never,
}

/// All that was done to a disk since it was last known for good. A copy judges without learning.
#[derive(Clone)]
pub struct History {
    /// The number that each sector showed then; 0 for zeroes.
    base: Vec<Tick>,
    ops: Vec<(Op, Fate)>,
}

/// The stamp of a sector.
pub fn stamp(lba: u64, number: Tick) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    Rng::new(number ^ lba.rotate_left(40)).fill(&mut sector[24..]);
    for (at, word) in [MAGIC, lba, number].iter().enumerate() {
        sector[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    sector
}

/// The number in a sector; 0 if it is all zeroes.
fn number_in(lba: u64, sector: &[u8]) -> Result<Tick, String> {
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let number = Tick::from_le_bytes(sector[16..24].try_into().unwrap());
    if number != 0 && *sector == stamp(lba, number) {
        return Ok(number);
    }
    Err(format!("sector {lba} holds what nobody wrote there: {:02x?}…", &sector[..32]))
}

impl History {
    /// A disk of zeroes.
    pub fn new(sectors: u64) -> Self {
        Self { base: vec![0; sectors as usize], ops: Vec::new() }
    }

    pub fn sectors(&self) -> u64 {
        self.base.len() as u64
    }

    /// Adds the requests of one life.
    pub fn extend(&mut self, ops: impl IntoIterator<Item = Op>) {
        self.ops.extend(ops.into_iter().map(|op| (op, Fate::Done)));
    }

    /// Judges what the disk shows at `now`, and learns from it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&mut self, disk: &[u8], promise: Promise, now: Tick) -> Result<(), String> {
        let shown = disk.chunks(SECTOR).enumerate();
        let shown: Vec<Tick> =
            shown.map(|(lba, sector)| number_in(lba as u64, sector)).collect::<Result<_, _>>()?;
        assert_eq!(shown.len(), self.base.len());
        let seen = self.seen(&shown)?;
        let included = self.included(&shown, &seen, promise)?;
        self.judge(&shown, &included)?;
        match promise {
            Promise::Everything => self.settle_fates(&shown, &seen, now),
            Promise::Prefix { .. } => {
                // Nothing else exists any more.
                self.ops.clear();
                self.base = shown;
            }
        }
        Ok(())
    }

    /// The requests of which some sector bears witness.
    fn seen(&self, shown: &[Tick]) -> Result<HashSet<Tick>, String> {
        let ops: HashMap<Tick, &(Op, Fate)> =
            self.ops.iter().map(|entry| (entry.0.issued, entry)).collect();
        let mut seen = HashSet::new();
        for (lba, number) in shown.iter().enumerate().filter(|(_, number)| **number != 0) {
            match ops.get(number) {
                Some((op, Fate::Never)) => {
                    return Err(format!("sector {lba} shows {op:?}, seen not to have happened"));
                }
                Some((op, _)) if op.kind == Kind::Write && op.range().contains(&(lba as u64)) => {
                    seen.insert(*number);
                }
                _ if self.base[lba] == *number => {}
                _ => return Err(format!("sector {lba} shows number {number}, not written there")),
            }
        }
        Ok(seen)
    }

    /// The requests that the disk must show the effect of.
    fn included(
        &self,
        shown: &[Tick],
        seen: &HashSet<Tick>,
        promise: Promise,
    ) -> Result<HashSet<Tick>, String> {
        let before = match promise {
            Promise::Everything => Tick::MAX,
            Promise::Prefix { drained } => {
                let latest = seen.iter().copied().max().unwrap_or(0);
                latest.max(drained).max(self.latest_trim_needed(shown)?)
            }
        };
        let must = |(op, fate): &&(Op, Fate)| {
            seen.contains(&op.issued) || (*fate == Fate::Done && op.over() < before)
        };
        Ok(self.ops.iter().filter(must).map(|(op, _)| op.issued).collect())
    }

    /// Zeroes over data of the base: one of the trims there must have come through.
    fn latest_trim_needed(&self, shown: &[Tick]) -> Result<Tick, String> {
        let mut earliest: HashMap<usize, Tick> = HashMap::new();
        for (op, _) in self.ops.iter().filter(|(op, _)| op.kind == Kind::Trim) {
            for lba in op.range() {
                let tick = earliest.entry(lba as usize).or_insert(Tick::MAX);
                *tick = op.issued.min(*tick);
            }
        }
        let mut needed = 0;
        for (lba, _) in
            shown.iter().enumerate().filter(|(lba, now)| **now == 0 && self.base[*lba] != 0)
        {
            match earliest.get(&lba) {
                Some(tick) => needed = needed.max(*tick),
                None => return Err(format!("sector {lba} lost {}", self.base[lba])),
            }
        }
        Ok(needed)
    }

    /// The times at which what `lba` shows may have come about, as ends of requests.
    fn latest_origin(&self, lba: usize, number: Tick, here: &[&(Op, Fate)]) -> Option<Tick> {
        let made_it = |(op, fate): &&&(Op, Fate)| {
            *fate != Fate::Never
                && match number {
                    0 => op.kind == Kind::Trim,
                    _ => op.issued == number,
                }
        };
        let latest = here.iter().filter(made_it).map(|(op, _)| op.over()).max();
        latest.or((self.base[lba] == number).then_some(0))
    }

    fn judge(&self, shown: &[Tick], included: &HashSet<Tick>) -> Result<(), String> {
        for (lba, here) in self.by_sector().into_iter().enumerate() {
            let number = shown[lba];
            let Some(origin) = self.latest_origin(lba, number, &here) else {
                return Err(format!("sector {lba} shows {number}: nobody did that"));
            };
            let hidden = here.iter().find(|(op, _)| {
                included.contains(&op.issued) && op.issued > origin && op.issued != number
            });
            if let Some((op, _)) = hidden {
                return Err(format!(
                    "sector {lba} shows {number}, which was over at {origin}; but {op:?} came after"
                ));
            }
        }
        Ok(())
    }

    fn by_sector(&self) -> Vec<Vec<&(Op, Fate)>> {
        let mut sectors = vec![Vec::new(); self.base.len()];
        for entry in &self.ops {
            for lba in entry.0.range() {
                sectors[lba as usize].push(entry);
            }
        }
        sectors
    }

    /// Those that were under way at the end of a life are over now, in one way or another.
    fn settle_fates(&mut self, shown: &[Tick], seen: &HashSet<Tick>, now: Tick) {
        let sectors = self.by_sector();
        let fate = |op: &Op| {
            let is_before = |lba: u64| {
                let lba = lba as usize;
                let origin = self.latest_origin(lba, shown[lba], &sectors[lba]);
                shown[lba] != op.issued && origin.is_some_and(|over| over < op.issued)
            };
            if seen.contains(&op.issued) {
                Fate::Done
            } else if op.range().any(is_before) {
                Fate::Never
            } else {
                Fate::Perhaps
            }
        };
        let fates: Vec<Option<Fate>> =
            self.ops.iter().map(|(op, _)| op.acked.is_none().then(|| fate(op))).collect();
        for ((op, known), fate) in self.ops.iter_mut().zip(fates) {
            if let Some(fate) = fate {
                (op.acked, *known) = (Some(now), fate);
            }
        }
    }
}
