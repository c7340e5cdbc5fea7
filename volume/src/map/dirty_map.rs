//! The upper level of the map: what is in the write log and not yet in the object stream.
//!
//! A sorted map of disjoint extents, each with the [`LogSeq`] of the record that wrote it.
//! Writers publish out of order, so an insert replaces only what is older than itself: the
//! state depends on the set of records inserted, not on their order.
//!
//! ```text
//!   held        |---- seq 5 ----|        |-- seq 9 --|
//!   insert 7         |------------- seq 7 -----------------|
//!   result      |-5--|------- seq 7 -----|-- seq 9 --|--7--|
//! ```
//!
//! Sums and counts are kept along, so that asking for them costs nothing.

use std::collections::BTreeMap;

use crate::units::{Extent, Lba, LogPos, LogSeq};

/// Where the content of a dirty extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtySource {
    /// Nowhere: the extent was trimmed and reads as zeroes.
    Zero,
    /// In the write log.
    Log {
        /// Start of the record in the log.
        record: LogPos,
        /// Offset of the extent's first sector in the record's payload, in sectors.
        sector: u32,
    },
}

impl DirtySource {
    /// The source of the sector `sectors` further on.
    fn advanced(self, sectors: u64) -> Self {
        match self {
            DirtySource::Zero => DirtySource::Zero,
            // A record's payload is far below 2^32 sectors, so nothing is cut off here.
            DirtySource::Log { record, sector } => {
                DirtySource::Log { record, sector: sector + sectors as u32 }
            }
        }
    }
}

/// What the dirty map holds for an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyExtent {
    /// The record that wrote it.
    pub seq: LogSeq,
    /// Where its content is.
    pub source: DirtySource,
}

impl DirtyExtent {
    fn advanced(self, sectors: u64) -> Self {
        Self { seq: self.seq, source: self.source.advanced(sectors) }
    }
}

/// A part of the answer of [`DirtyMap::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The dirty map has it; the value is that of the piece's first sector.
    Hit(Extent, DirtyExtent),
    /// The dirty map knows nothing about it.
    Gap(Extent),
}

/// An entry of the tree; its key is the first sector.
#[derive(Clone, Copy, Debug)]
struct Held {
    end: u64,
    value: DirtyExtent,
}

/// The dirty map. See the module's description.
#[derive(Debug, Default)]
pub struct DirtyMap {
    held: BTreeMap<u64, Held>,
    log_sectors: u64,
    zero_sectors: u64,
    /// Kept between calls to save allocations.
    overlapping: Vec<(u64, Held)>,
}

impl DirtyMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of extents held.
    pub fn extents(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Sectors whose content is in the log.
    pub fn log_sectors(&self) -> u64 {
        self.log_sectors
    }

    /// Sectors that are trimmed.
    pub fn zero_sectors(&self) -> u64 {
        self.zero_sectors
    }

    /// The extents held, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Extent, DirtyExtent)> + '_ {
        let extents = self.held.iter();
        extents.filter_map(|(&start, held)| Some((run(start, held.end)?, held.value)))
    }

    /// Puts `value` over `extent`, except where a later record is held already.
    pub fn insert(&mut self, extent: Extent, value: DirtyExtent) {
        let (start, end) = (extent.start().get(), extent.end().get());
        match self.held.range_mut(..end).next_back() {
            // The same blocks written again, and fresh blocks, are nearly all inserts.
            Some((&key, held)) if key == start && held.end == end => {
                if held.value.seq <= value.seq {
                    let old = std::mem::replace(&mut held.value, value);
                    self.uncount(old, end - start);
                    self.count(value, end - start);
                }
            }
            Some((_, held)) if held.end > start => self.insert_over(start, end, value),
            _ => self.put(start, end, value),
        }
    }

    /// Drops what `extent` holds of records up to and including `through`: it is committed.
    pub fn remove_through(&mut self, extent: Extent, through: LogSeq) {
        let (start, end) = (extent.start().get(), extent.end().get());
        let mut overlapping = self.take_overlapping(start, end);
        for (key, held) in overlapping.drain(..) {
            if held.value.seq <= through {
                self.cut(key, held, start, end);
            }
        }
        self.overlapping = overlapping;
    }

    /// Drops what lies at or beyond `end` of records up to and including `through`.
    pub fn truncate(&mut self, end: Lba, through: LogSeq) {
        if let Some(beyond) = Extent::between(end, Lba::new(Extent::LBA_LIMIT)) {
            self.remove_through(beyond, through);
        }
    }

    /// Appends to `out` pieces that cover `extent` completely, in order.
    pub fn lookup(&self, extent: Extent, out: &mut Vec<Piece>) {
        let (start, end) = (extent.start().get(), extent.end().get());
        let first = out.len();
        let mut cursor = end;
        // Backwards, because only so one descent of the tree finds an extent that starts
        // before `start` as well.
        for (&key, held) in self.held.range(..end).rev() {
            if held.end <= start {
                break;
            }
            out.extend(run(held.end, cursor).map(Piece::Gap));
            let from = key.max(start);
            out.extend(
                run(from, held.end.min(cursor))
                    .map(|e| Piece::Hit(e, held.value.advanced(from - key))),
            );
            cursor = from;
        }
        out.extend(run(start, cursor).map(Piece::Gap));
        out[first..].reverse();
    }

    /// The piece that starts at `at`: up to the end of the extent there, or the gap up to the
    /// next extent. `None` at the end of the address space.
    pub fn piece_at(&self, at: Lba) -> Option<Piece> {
        let at = at.get();
        if let Some((&key, held)) = self.held.range(..=at).next_back()
            && held.end > at
        {
            return run(at, held.end).map(|e| Piece::Hit(e, held.value.advanced(at - key)));
        }
        let next = self.held.range(at..).next().map_or(Extent::LBA_LIMIT, |(&key, _)| key);
        run(at, next).map(Piece::Gap)
    }

    /// The oldest record that anything held belongs to. Visits every extent.
    pub fn oldest(&self) -> Option<LogSeq> {
        self.held.values().map(|held| held.value.seq).min()
    }

    fn insert_over(&mut self, start: u64, end: u64, value: DirtyExtent) {
        let mut overlapping = self.take_overlapping(start, end);
        let mut from = start;
        for (key, held) in overlapping.drain(..) {
            if held.value.seq <= value.seq {
                self.cut(key, held, start, end);
            } else {
                if from < key {
                    self.put(from, key, value.advanced(from - start));
                }
                from = held.end;
            }
        }
        if from < end {
            self.put(from, end, value.advanced(from - start));
        }
        self.overlapping = overlapping;
    }

    /// The entries that share a sector with `start..end`, in ascending order, in a vector that
    /// the caller gives back empty.
    fn take_overlapping(&mut self, start: u64, end: u64) -> Vec<(u64, Held)> {
        let mut overlapping = std::mem::take(&mut self.overlapping);
        let backwards = self.held.range(..end).rev().take_while(|(_, held)| held.end > start);
        overlapping.extend(backwards.map(|(&key, &held)| (key, held)));
        overlapping.reverse();
        overlapping
    }

    /// Removes what the entry at `key` has in `start..end`; what sticks out stays.
    fn cut(&mut self, key: u64, held: Held, start: u64, end: u64) {
        self.held.remove(&key);
        self.uncount(held.value, held.end - key);
        if key < start {
            self.put(key, start, held.value);
        }
        if held.end > end {
            self.put(end, held.end, held.value.advanced(end - key));
        }
    }

    fn put(&mut self, start: u64, end: u64, value: DirtyExtent) {
        self.held.insert(start, Held { end, value });
        self.count(value, end - start);
    }

    fn count(&mut self, value: DirtyExtent, sectors: u64) {
        match value.source {
            DirtySource::Zero => self.zero_sectors += sectors,
            DirtySource::Log { .. } => self.log_sectors += sectors,
        }
    }

    fn uncount(&mut self, value: DirtyExtent, sectors: u64) {
        match value.source {
            DirtySource::Zero => self.zero_sectors -= sectors,
            DirtySource::Log { .. } => self.log_sectors -= sectors,
        }
    }
}

fn run(start: u64, end: u64) -> Option<Extent> {
    Extent::between(Lba::new(start), Lba::new(end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: u64 = 64;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64, u64, u64, bool),
        Remove(u64, u64, u64),
        Truncate(u64, u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            6 => (0..DISK, 1..20u64, 0..40u64, any::<bool>()).prop_map(|(s, n, q, z)| Op::Insert(s, n, q, z)),
            2 => (0..DISK, 1..30u64, 0..40u64).prop_map(|(s, n, q)| Op::Remove(s, n, q)),
            1 => (0..DISK, 0..40u64).prop_map(|(e, q)| Op::Truncate(e, q)),
        ];
        proptest::collection::vec(op, 1..60)
    }

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent::new(Lba::new(start), sectors.min(DISK - start)).unwrap()
    }

    fn value(seq: u64, start: u64, zero: bool) -> DirtyExtent {
        let source = if zero {
            DirtySource::Zero
        } else {
            DirtySource::Log { record: LogPos::new(seq * 4096 + start), sector: 3 }
        };
        DirtyExtent { seq: LogSeq::new(seq), source }
    }

    /// One cell per sector.
    fn apply(cells: &mut [Option<DirtyExtent>], op: &Op) {
        match *op {
            Op::Insert(s, n, q, zero) => {
                let e = extent(s, n);
                for lba in e.start().get()..e.end().get() {
                    let cell = &mut cells[lba as usize];
                    if cell.is_none_or(|c| c.seq.get() <= q) {
                        *cell = Some(value(q, s, zero).advanced(lba - s));
                    }
                }
            }
            Op::Remove(s, n, q) => {
                let e = extent(s, n);
                for cell in &mut cells[e.start().get() as usize..e.end().get() as usize] {
                    *cell = cell.filter(|c| c.seq.get() > q);
                }
            }
            Op::Truncate(end, q) => {
                for cell in &mut cells[end as usize..] {
                    *cell = cell.filter(|c| c.seq.get() > q);
                }
            }
        }
    }

    fn apply_map(map: &mut DirtyMap, op: &Op) {
        match *op {
            Op::Insert(s, n, q, zero) => map.insert(extent(s, n), value(q, s, zero)),
            Op::Remove(s, n, q) => map.remove_through(extent(s, n), LogSeq::new(q)),
            Op::Truncate(end, q) => map.truncate(Lba::new(end), LogSeq::new(q)),
        }
    }

    fn flatten(pieces: &[Piece]) -> Vec<(u64, Option<DirtyExtent>)> {
        let mut cells = Vec::new();
        for piece in pieces {
            let (extent, value) = match *piece {
                Piece::Hit(extent, value) => (extent, Some(value)),
                Piece::Gap(extent) => (extent, None),
            };
            for i in 0..extent.sectors() {
                cells.push((extent.start().get() + i, value.map(|v| v.advanced(i))));
            }
        }
        cells
    }

    proptest! {
        #[test]
        fn agrees_with_one_cell_per_sector(ops in ops(), from in 0..DISK, sectors in 1..DISK) {
            let mut map = DirtyMap::new();
            let mut cells = vec![None; DISK as usize];
            for op in &ops {
                apply_map(&mut map, op);
                apply(&mut cells, op);
                let asked = extent(from, sectors);
                let mut pieces = Vec::new();
                map.lookup(asked, &mut pieces);
                let expected: Vec<_> =
                    (asked.start().get()..asked.end().get()).map(|lba| (lba, cells[lba as usize])).collect();
                prop_assert_eq!(flatten(&pieces), expected);
                let log = cells.iter().flatten().filter(|c| c.source != DirtySource::Zero).count() as u64;
                let all = cells.iter().flatten().count() as u64;
                prop_assert_eq!((map.log_sectors(), map.zero_sectors()), (log, all - log));
                prop_assert_eq!(map.oldest(), cells.iter().flatten().map(|c| c.seq).min());
                let at = map.piece_at(Lba::new(from));
                let expected = cells[from as usize];
                match at {
                    Some(Piece::Hit(_, value)) => prop_assert_eq!(Some(value), expected),
                    Some(Piece::Gap(_)) => prop_assert_eq!(None, expected),
                    None => prop_assert!(false, "inside the address space"),
                }
            }
        }

        #[test]
        fn the_order_of_publishing_does_not_matter(
            writes in proptest::collection::vec((0..DISK, 1..20u64, any::<bool>()), 1..30),
            swaps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
        ) {
            let ops: Vec<Op> =
                writes.iter().enumerate().map(|(q, &(s, n, z))| Op::Insert(s, n, q as u64, z)).collect();
            let mut shuffled = ops.clone();
            for (a, b) in swaps {
                let (a, b) = (a.index(shuffled.len()), b.index(shuffled.len()));
                shuffled.swap(a, b);
            }
            let answer = |ops: &[Op]| {
                let mut map = DirtyMap::new();
                ops.iter().for_each(|op| apply_map(&mut map, op));
                let mut pieces = Vec::new();
                map.lookup(extent(0, DISK), &mut pieces);
                flatten(&pieces)
            };
            prop_assert_eq!(answer(&ops), answer(&shuffled));
        }
    }

    #[test]
    fn a_trim_of_the_largest_disk_is_one_extent() {
        let mut map = DirtyMap::new();
        map.insert(extent(8, 8), value(1, 8, false));
        let all = Extent::new(Lba::ZERO, Extent::LBA_LIMIT).unwrap();
        map.insert(all, value(2, 0, true));
        assert_eq!(
            (map.extents(), map.zero_sectors(), map.log_sectors()),
            (1, Extent::LBA_LIMIT, 0)
        );
        assert_eq!(map.piece_at(Lba::new(Extent::LBA_LIMIT)), None);
        map.remove_through(all, LogSeq::new(2));
        assert!(map.is_empty());
    }
}
