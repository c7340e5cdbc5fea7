//! The lower level of the map: what is committed in the object stream.
//!
//! A sorted map of [`Leaf`]s, each with the number of the object whose commit changed it last.
//! Leaves are shared copy-on-write: a checkpoint takes references to what changed under the
//! lock and encodes them without it.
//!
//! ```text
//!   leaf 0 ------- leaf 1 ------- leaf 7 -------      (no leaf: all holes)
//!   changed: 40    changed: 12    changed: 41
//! ```
//!
//! Invariants: no leaf is empty; a leaf that lost its last extent is remembered, with the
//! change that emptied it, until [`CleanMap::forget_removed`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::leaf::{LEAF_SECTORS, Leaf, LeafIndex, by_leaf};
use crate::units::{Extent, Lba, ObjectSeq};

/// A leaf in the clean map.
#[derive(Clone, Debug)]
pub struct LeafSlot {
    /// Its extents.
    pub leaf: Arc<Leaf>,
    /// The object whose commit changed it last.
    pub last_change: ObjectSeq,
}

/// A leaf that changed, as a checkpoint sees it.
#[derive(Clone, Debug)]
pub struct LeafChange {
    /// The leaf.
    pub index: LeafIndex,
    /// Its extents; `None` if nothing is mapped there any more.
    pub leaf: Option<Arc<Leaf>>,
    /// The object whose commit changed it last.
    pub last_change: ObjectSeq,
}

/// A part of the answer of [`CleanMap::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanPiece {
    /// In an object.
    Object {
        /// The sectors on the disk.
        extent: Extent,
        /// The object.
        object: ObjectSeq,
        /// Offset of the first sector in the object's data, in sectors.
        object_sector: u64,
    },
    /// Nothing is mapped: zeroes.
    Hole {
        /// The sectors on the disk.
        extent: Extent,
    },
}

/// The clean map. See the module's description.
#[derive(Clone, Debug, Default)]
pub struct CleanMap {
    leaves: BTreeMap<LeafIndex, LeafSlot>,
    removed: BTreeMap<LeafIndex, ObjectSeq>,
    mapped_sectors: u64,
}

impl CleanMap {
    /// A map of holes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sectors mapped.
    pub fn mapped_sectors(&self) -> u64 {
        self.mapped_sectors
    }

    /// The leaves, in ascending order: what a root lists.
    pub fn leaves(&self) -> impl ExactSizeIterator<Item = (LeafIndex, &LeafSlot)> {
        self.leaves.iter().map(|(&index, slot)| (index, slot))
    }

    /// Puts a leaf that was read back in its place, replacing what is there.
    pub fn set_leaf(&mut self, index: LeafIndex, leaf: Leaf, last_change: ObjectSeq) {
        let mapped = leaf.mapped_sectors();
        let old = if leaf.is_empty() {
            self.leaves.remove(&index)
        } else {
            self.leaves.insert(index, LeafSlot { leaf: Arc::new(leaf), last_change })
        };
        self.mapped_sectors += mapped;
        self.mapped_sectors -= old.map_or(0, |slot| slot.leaf.mapped_sectors());
    }

    /// Maps `extent` to `object` from `object_sector` on, as part of the commit of `change`.
    /// `freed` hears what objects lost.
    pub fn apply_data(
        &mut self,
        extent: Extent,
        object: ObjectSeq,
        object_sector: u32,
        change: ObjectSeq,
        mut freed: impl FnMut(ObjectSeq, u32),
    ) {
        let mut lost = 0;
        let mut at = object_sector;
        for (index, range) in by_leaf(extent) {
            let sectors = range.end - range.start;
            let slot = self
                .leaves
                .entry(index)
                .or_insert_with(|| LeafSlot { leaf: Arc::new(Leaf::new()), last_change: change });
            slot.last_change = change;
            Arc::make_mut(&mut slot.leaf).insert(range, object, at, |object, sectors| {
                lost += u64::from(sectors);
                freed(object, sectors);
            });
            self.removed.remove(&index);
            // Beyond the last part `at` is not used; it may not fit there.
            at = at.wrapping_add(sectors);
        }
        self.mapped_sectors += extent.sectors();
        self.mapped_sectors -= lost;
    }

    /// Unmaps `extent` as part of the commit of `change`; visits only leaves that exist.
    /// `freed` hears what objects lost.
    pub fn remove(
        &mut self,
        extent: Extent,
        change: ObjectSeq,
        mut freed: impl FnMut(ObjectSeq, u32),
    ) {
        let mut emptied = Vec::new();
        for (&index, slot) in self.leaves.range_mut(leaves_of(extent)) {
            let range = inside(index, extent);
            if slot.leaf.next_mapped(range.start).is_none_or(|at| at >= range.end) {
                continue;
            }
            let mapped_sectors = &mut self.mapped_sectors;
            Arc::make_mut(&mut slot.leaf).remove(range, |object, sectors| {
                *mapped_sectors -= u64::from(sectors);
                freed(object, sectors);
            });
            slot.last_change = change;
            if slot.leaf.is_empty() {
                emptied.push(index);
            }
        }
        for index in emptied {
            self.leaves.remove(&index);
            self.removed.insert(index, change);
        }
    }

    /// Unmaps everything at or beyond `end`, as part of the commit of `change`.
    pub fn truncate(&mut self, end: Lba, change: ObjectSeq, freed: impl FnMut(ObjectSeq, u32)) {
        if let Some(beyond) = Extent::between(end, Lba::new(Extent::LBA_LIMIT)) {
            self.remove(beyond, change, freed);
        }
    }

    /// A leaf as a checkpoint takes it; `None` if nothing is mapped there.
    pub fn leaf(&self, index: LeafIndex) -> Option<LeafChange> {
        let slot = self.leaves.get(&index)?;
        let leaf = Some(Arc::clone(&slot.leaf));
        Some(LeafChange { index, leaf, last_change: slot.last_change })
    }

    /// Appends to `out` pieces that cover `extent` completely, in order.
    pub fn lookup(&self, extent: Extent, out: &mut Vec<CleanPiece>) {
        let mut cursor = extent.start();
        self.mapped_in(extent, |found, object, object_sector| {
            out.extend(
                Extent::between(cursor, found.start()).map(|extent| CleanPiece::Hole { extent }),
            );
            out.push(CleanPiece::Object { extent: found, object, object_sector });
            cursor = found.end();
        });
        out.extend(Extent::between(cursor, extent.end()).map(|extent| CleanPiece::Hole { extent }));
    }

    /// Calls `found` with the mapped parts of `extent`, in order.
    pub fn mapped_in(&self, extent: Extent, mut found: impl FnMut(Extent, ObjectSeq, u64)) {
        for (&index, slot) in self.leaves.range(leaves_of(extent)) {
            slot.leaf.lookup(inside(index, extent), |e| {
                let start = index.start().plus(u64::from(e.start));
                if let Some(extent) = Extent::new(start, u64::from(e.sectors)) {
                    found(extent, e.object, u64::from(e.object_sector));
                }
            });
        }
    }

    /// How many sectors of `extent` are mapped.
    pub fn mapped_sectors_in(&self, extent: Extent) -> u64 {
        let mapped = self.leaves.range(leaves_of(extent)).map(|(&index, slot)| {
            let range = inside(index, extent);
            if u64::from(range.end - range.start) == LEAF_SECTORS {
                return slot.leaf.mapped_sectors();
            }
            let mut sectors = 0;
            slot.leaf.lookup(range, |e| sectors += u64::from(e.sectors));
            sectors
        });
        mapped.sum()
    }

    /// The first mapped sector at or after `at`.
    pub fn next_mapped(&self, at: Lba) -> Option<Lba> {
        let own = LeafIndex::of(at);
        for (&index, slot) in self.leaves.range(own..) {
            let from = if index == own { at.since(index.start()) as u32 } else { 0 };
            // Only the leaf of `at` itself can have nothing to say: no leaf is empty.
            if let Some(found) = slot.leaf.next_mapped(from) {
                return Some(index.start().plus(u64::from(found)));
            }
        }
        None
    }

    /// The first unmapped sector at or after `at`, or `limit` if that comes first.
    pub fn next_hole(&self, at: Lba, limit: Lba) -> Lba {
        let mut hole = at;
        for (&index, slot) in self.leaves.range(LeafIndex::of(at)..) {
            let from = hole.since(index.start());
            if hole >= limit || hole < index.start() || from >= LEAF_SECTORS {
                break;
            }
            hole = index.start().plus(u64::from(slot.leaf.next_hole(from as u32)));
        }
        hole.min(limit)
    }

    /// The leaves that a commit of an object above `change` touched, those that vanished
    /// included, in ascending order. References only: nothing is copied.
    pub fn changed_since(&self, change: ObjectSeq) -> Vec<LeafChange> {
        let held = self.leaves.iter().map(|(&index, slot)| LeafChange {
            index,
            leaf: Some(Arc::clone(&slot.leaf)),
            last_change: slot.last_change,
        });
        let removed = self.removed.iter().map(|(&index, &last_change)| LeafChange {
            index,
            leaf: None,
            last_change,
        });
        let mut changed: Vec<_> = held.chain(removed).filter(|c| c.last_change > change).collect();
        changed.sort_unstable_by_key(|c| c.index);
        changed
    }

    /// Forgets leaves that vanished at or before `change`: a checkpoint covers them.
    pub fn forget_removed(&mut self, change: ObjectSeq) {
        self.removed.retain(|_, &mut at| at > change);
    }
}

fn leaves_of(extent: Extent) -> std::ops::RangeInclusive<LeafIndex> {
    // An extent is never empty, so it has a last sector.
    LeafIndex::of(extent.start())..=LeafIndex::of(Lba::new(extent.end().get() - 1))
}

/// The part of `extent` in the leaf `index`, which it overlaps.
fn inside(index: LeafIndex, extent: Extent) -> Range<u32> {
    let from = extent.start().since(index.start());
    let to = extent.end().since(index.start()).min(LEAF_SECTORS);
    from as u32..to as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The window of the disk that the oracle watches lies over the edge of two leaves.
    const BASE: u64 = LEAF_SECTORS - 40;
    const WINDOW: u64 = 80;

    type Cell = Option<(u64, u64)>;

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent::new(Lba::new(BASE + start), sectors.min(WINDOW - start)).unwrap()
    }

    fn cells_of(map: &CleanMap, extent: Extent) -> Vec<Cell> {
        let mut pieces = Vec::new();
        map.lookup(extent, &mut pieces);
        let mut cells = Vec::new();
        let mut next = extent.start();
        for piece in pieces {
            let covered = match piece {
                CleanPiece::Object { extent, object, object_sector } => {
                    cells.extend(
                        (0..extent.sectors()).map(|i| Some((object.get(), object_sector + i))),
                    );
                    extent
                }
                CleanPiece::Hole { extent } => {
                    cells.extend((0..extent.sectors()).map(|_| None));
                    extent
                }
            };
            assert_eq!(covered.start(), next, "pieces follow each other");
            next = covered.end();
        }
        assert_eq!(next, extent.end());
        cells
    }

    proptest! {
        #[test]
        fn agrees_with_one_cell_per_sector(
            ops in proptest::collection::vec((0..WINDOW, 1..30u64, 0..4u8), 1..50),
            from in 0..WINDOW,
            len in 1..WINDOW,
            since in 0..50u64,
        ) {
            let mut map = CleanMap::new();
            let mut cells: Vec<Cell> = vec![None; WINDOW as usize];
            let mut touched = [0u64; 2];
            for (i, (start, sectors, kind)) in ops.into_iter().enumerate() {
                let change = i as u64 + 1;
                let object = ObjectSeq::new(change);
                let e = if kind == 3 { extent(start, WINDOW) } else { extent(start, sectors) };
                let mut freed = 0u64;
                let note = |_: ObjectSeq, n: u32| freed += u64::from(n);
                match kind {
                    0 | 1 => map.apply_data(e, object, 7, object, note),
                    2 => map.remove(e, object, note),
                    _ => map.truncate(e.start(), object, note),
                }
                let mut lost = 0;
                for lba in e.start().get()..e.end().get() {
                    let cell = &mut cells[(lba - BASE) as usize];
                    let data = kind < 2;
                    if data || cell.is_some() {
                        touched[(lba / LEAF_SECTORS) as usize] = change;
                    }
                    lost += u64::from(cell.is_some());
                    *cell = data.then_some((change, 7 + lba - e.start().get()));
                }
                prop_assert_eq!(freed, lost);
            }
            let asked = extent(from, len);
            let expected = &cells[from as usize..(asked.end().get() - BASE) as usize];
            prop_assert_eq!(cells_of(&map, asked), expected);
            prop_assert_eq!(map.mapped_sectors(), cells.iter().flatten().count() as u64);

            let tail = &cells[from as usize..];
            let mapped = tail.iter().position(Option::is_some).map(|i| Lba::new(BASE + from + i as u64));
            prop_assert_eq!(map.next_mapped(Lba::new(BASE + from)), mapped);
            let hole = tail.iter().position(Option::is_none).map_or(WINDOW, |i| from + i as u64);
            prop_assert_eq!(map.next_hole(Lba::new(BASE + from), Lba::new(BASE + WINDOW)), Lba::new(BASE + hole));

            let expected: BTreeSet<_> = (0..2u64).filter(|&i| touched[i as usize] > since).collect();
            let changed = map.changed_since(ObjectSeq::new(since));
            prop_assert_eq!(changed.iter().map(|c| c.index.get()).collect::<BTreeSet<_>>(), expected);
            for change in &changed {
                prop_assert_eq!(change.last_change.get(), touched[change.index.get() as usize]);
                prop_assert!(change.leaf.as_ref().is_none_or(|leaf| !leaf.is_empty()));
            }

            // A map put together again from its leaves is the same map.
            let mut copy = CleanMap::new();
            for (index, slot) in map.leaves() {
                copy.set_leaf(index, Leaf::clone(&slot.leaf), slot.last_change);
            }
            prop_assert_eq!(cells_of(&copy, extent(0, WINDOW)), cells);
            prop_assert_eq!(copy.mapped_sectors(), map.mapped_sectors());
        }
    }

    #[test]
    fn a_copy_taken_for_a_checkpoint_does_not_change() {
        let mut map = CleanMap::new();
        map.apply_data(extent(0, 8), ObjectSeq::new(1), 0, ObjectSeq::new(1), |_, _| ());
        let taken = map.changed_since(ObjectSeq::ZERO);
        map.remove(extent(0, 8), ObjectSeq::new(2), |_, _| ());
        assert_eq!(taken[0].leaf.as_ref().unwrap().mapped_sectors(), 8);
        assert!(map.changed_since(ObjectSeq::new(1))[0].leaf.is_none());
        map.forget_removed(ObjectSeq::new(2));
        assert!(map.changed_since(ObjectSeq::ZERO).is_empty());
    }

    #[test]
    fn a_trim_of_the_largest_disk_visits_only_what_is_there() {
        let mut map = CleanMap::new();
        let far = Extent::new(Lba::new(Extent::LBA_LIMIT - 8), 8).unwrap();
        map.apply_data(far, ObjectSeq::new(1), 0, ObjectSeq::new(1), |_, _| ());
        map.apply_data(extent(0, 8), ObjectSeq::new(1), 8, ObjectSeq::new(1), |_, _| ());
        assert_eq!(map.next_mapped(Lba::new(BASE + 8)), Some(far.start()));
        map.remove(
            Extent::new(Lba::ZERO, Extent::LBA_LIMIT).unwrap(),
            ObjectSeq::new(2),
            |_, _| (),
        );
        assert_eq!((map.mapped_sectors(), map.leaves().len()), (0, 0));
        assert_eq!(map.next_mapped(Lba::ZERO), None);
    }
}
