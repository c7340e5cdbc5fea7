//! The lower level of the map: what is committed in the object stream.
//!
//! A sorted map of [`Leaf`]s, each with the number of the object whose commit changed it last.
//! Leaves are shared copy-on-write: a checkpoint takes references to what changed under the
//! lock and encodes them without it.
//!
//! ```text
//!   leaf 0 ------- leaf 1 ------- leaf 7 -------      (no leaf: all holes)
//!   changed: 40    changed: 12    changed: 41
//!   here           away           here, and not in any checkpoint yet
//! ```
//!
//! A leaf that a checkpoint holds need not be here. Whatever needs one that is not stops with
//! [`Absent`], which says where it is; the caller fetches it, puts it back with
//! [`CleanMap::put`], and asks again. What is here and what may go is the matter of `residency`.
//!
//! Invariants: no leaf is empty; a leaf that no checkpoint holds is here; a leaf that lost its last
//! extent is remembered, with the change that emptied it, until [`CleanMap::forget_removed`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::leaf::{LEAF_SECTORS, Leaf, LeafIndex, by_leaf};
use crate::format::LeafRef;
use crate::units::{Extent, Lba, ObjectSeq};

/// A leaf in the clean map.
#[derive(Debug)]
pub(super) struct LeafSlot {
    /// Its extents, if they are here.
    pub(super) leaf: Option<Arc<Leaf>>,
    /// The object whose commit changed it last.
    pub(super) last_change: ObjectSeq,
    /// Where the newest checkpoint that holds it has it.
    pub(super) kept: Option<LeafRef>,
    /// Whether it was looked at since that was asked last.
    pub(super) used: AtomicBool,
}

/// What is asked for depends on a leaf that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absent(pub LeafRef);

/// A search that came so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halted {
    /// Where it goes on.
    pub at: Lba,
    /// What it needs for that.
    pub absent: Absent,
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
    pub(super) leaves: BTreeMap<LeafIndex, LeafSlot>,
    removed: BTreeMap<LeafIndex, ObjectSeq>,
    mapped_sectors: u64,
    /// Memory that the leaves which are here take up, in bytes.
    pub(super) resident_bytes: u64,
    /// Where the search for leaves to let go of goes on.
    pub(super) hand: LeafIndex,
}

impl CleanMap {
    /// A map of holes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map whose leaves are where a root says, none of them here. `mapped_sectors` is what they
    /// map altogether.
    pub fn of_root(leaves: impl IntoIterator<Item = LeafRef>, mapped_sectors: u64) -> Self {
        let slots =
            leaves.into_iter().map(|kept| (LeafIndex::new(kept.index), LeafSlot::away(kept)));
        Self { leaves: slots.collect(), mapped_sectors, ..Self::default() }
    }

    /// Sectors mapped.
    pub fn mapped_sectors(&self) -> u64 {
        self.mapped_sectors
    }

    /// Maps `extent` to `object` from `object_sector` on, as part of the commit of `change`.
    /// `freed` hears what objects lost.
    ///
    /// # Errors
    /// A leaf is not here; nothing was changed.
    pub fn apply_data(
        &mut self,
        extent: Extent,
        object: ObjectSeq,
        object_sector: u32,
        change: ObjectSeq,
        mut freed: impl FnMut(ObjectSeq, u32),
    ) -> Result<(), Absent> {
        for (index, _) in by_leaf(extent) {
            if let Some(slot) = self.leaves.get(&index) {
                slot.here()?;
            }
        }
        let mut lost = 0;
        let mut at = object_sector;
        for (index, range) in by_leaf(extent) {
            let sectors = range.end - range.start;
            let slot = self.leaves.entry(index).or_insert_with(|| LeafSlot::empty(change));
            slot.change(change, &mut self.resident_bytes, |leaf| {
                leaf.insert(range, object, at, |object, sectors| {
                    lost += u64::from(sectors);
                    freed(object, sectors);
                });
            });
            self.removed.remove(&index);
            // Beyond the last part `at` is not used; it may not fit there.
            at = at.wrapping_add(sectors);
        }
        self.mapped_sectors += extent.sectors();
        self.mapped_sectors -= lost;
        Ok(())
    }

    /// Unmaps `extent` as part of the commit of `change`; visits only leaves that exist.
    /// `freed` hears what objects lost.
    ///
    /// # Errors
    /// A leaf is not here. What lies before it is unmapped, and doing that again changes nothing.
    pub fn remove(
        &mut self,
        extent: Extent,
        change: ObjectSeq,
        mut freed: impl FnMut(ObjectSeq, u32),
    ) -> Result<(), Absent> {
        let mut emptied = Vec::new();
        let mut absent = Ok(());
        for (&index, slot) in self.leaves.range_mut(leaves_of(extent)) {
            let range = inside(index, extent);
            match slot.here() {
                Ok(leaf) if leaf.next_mapped(range.start).is_none_or(|at| at >= range.end) => {
                    continue;
                }
                Ok(_) => {}
                Err(away) => {
                    absent = Err(away);
                    break;
                }
            }
            let mapped_sectors = &mut self.mapped_sectors;
            let rest = slot.change(change, &mut self.resident_bytes, |leaf| {
                leaf.remove(range, |object, sectors| {
                    *mapped_sectors -= u64::from(sectors);
                    freed(object, sectors);
                });
            });
            if rest == 0 {
                emptied.push(index);
            }
        }
        for index in emptied {
            self.let_go(index);
            self.leaves.remove(&index);
            self.removed.insert(index, change);
        }
        absent
    }

    /// Unmaps everything at or beyond `end`, as part of the commit of `change`.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn truncate(
        &mut self,
        end: Lba,
        change: ObjectSeq,
        freed: impl FnMut(ObjectSeq, u32),
    ) -> Result<(), Absent> {
        match Extent::between(end, Lba::new(Extent::LBA_LIMIT)) {
            Some(beyond) => self.remove(beyond, change, freed),
            None => Ok(()),
        }
    }

    /// Appends to `out` pieces that cover `extent` completely, in order.
    ///
    /// # Errors
    /// A leaf is not here; `out` holds a part of the answer.
    pub fn lookup(&self, extent: Extent, out: &mut Vec<CleanPiece>) -> Result<(), Absent> {
        let mut cursor = extent.start();
        self.mapped_in(extent, |found, object, object_sector| {
            out.extend(
                Extent::between(cursor, found.start()).map(|extent| CleanPiece::Hole { extent }),
            );
            out.push(CleanPiece::Object { extent: found, object, object_sector });
            cursor = found.end();
        })?;
        out.extend(Extent::between(cursor, extent.end()).map(|extent| CleanPiece::Hole { extent }));
        Ok(())
    }

    /// Calls `found` with the mapped parts of `extent`, in order.
    ///
    /// # Errors
    /// A leaf is not here; the parts before it were told.
    pub fn mapped_in(
        &self,
        extent: Extent,
        mut found: impl FnMut(Extent, ObjectSeq, u64),
    ) -> Result<(), Absent> {
        for (&index, slot) in self.leaves.range(leaves_of(extent)) {
            slot.here()?.lookup(inside(index, extent), |e| {
                let start = index.start().plus(u64::from(e.start));
                if let Some(extent) = Extent::new(start, u64::from(e.sectors)) {
                    found(extent, e.object, u64::from(e.object_sector));
                }
            });
        }
        Ok(())
    }

    /// How many sectors of `extent` are mapped by leaves that are here.
    pub fn mapped_sectors_in(&self, extent: Extent) -> u64 {
        let mapped = self.leaves.range(leaves_of(extent)).map(|(&index, slot)| {
            let Some(leaf) = &slot.leaf else { return 0 };
            let range = inside(index, extent);
            if u64::from(range.end - range.start) == LEAF_SECTORS {
                return leaf.mapped_sectors();
            }
            let mut sectors = 0;
            leaf.lookup(range, |e| sectors += u64::from(e.sectors));
            sectors
        });
        mapped.sum()
    }

    /// The first mapped sector at or after `at`.
    ///
    /// # Errors
    /// A leaf is not here.
    pub fn next_mapped(&self, at: Lba) -> Result<Option<Lba>, Absent> {
        let own = LeafIndex::of(at);
        for (&index, slot) in self.leaves.range(own..) {
            let from = if index == own { at.since(index.start()) as u32 } else { 0 };
            // Only the leaf of `at` itself can have nothing to say: no leaf is empty.
            if let Some(found) = slot.here()?.next_mapped(from) {
                return Ok(Some(index.start().plus(u64::from(found))));
            }
        }
        Ok(None)
    }

    /// The first unmapped sector at or after `at`, or `limit` if that comes first.
    ///
    /// # Errors
    /// A leaf is not here. Everything up to where it stopped is mapped.
    pub fn next_hole(&self, at: Lba, limit: Lba) -> Result<Lba, Halted> {
        let mut hole = at;
        for (&index, slot) in self.leaves.range(LeafIndex::of(at)..) {
            let from = hole.since(index.start());
            if hole >= limit || hole < index.start() || from >= LEAF_SECTORS {
                break;
            }
            let leaf = slot.here().map_err(|absent| Halted { at: hole, absent })?;
            hole = index.start().plus(u64::from(leaf.next_hole(from as u32)));
        }
        Ok(hole.min(limit))
    }

    /// The leaves that no checkpoint holds as they are, those that vanished included, in ascending
    /// order. References only: nothing is copied.
    pub fn changed(&self) -> Vec<LeafChange> {
        let held = self.leaves.iter().filter(|(_, slot)| slot.is_changed());
        let held = held.map(|(&index, slot)| LeafChange {
            index,
            leaf: slot.leaf.clone(),
            last_change: slot.last_change,
        });
        let removed = self.removed.iter().map(|(&index, &last_change)| LeafChange {
            index,
            leaf: None,
            last_change,
        });
        let mut changed: Vec<_> = held.chain(removed).collect();
        changed.sort_unstable_by_key(|c| c.index);
        changed
    }

    /// Forgets leaves that vanished at or before `change`: a checkpoint covers them.
    pub fn forget_removed(&mut self, change: ObjectSeq) {
        self.removed.retain(|_, &mut at| at > change);
    }
}

impl LeafSlot {
    fn empty(change: ObjectSeq) -> Self {
        Self { leaf: Some(Arc::default()), last_change: change, kept: None, used: true.into() }
    }

    fn away(kept: LeafRef) -> Self {
        Self { leaf: None, last_change: kept.last_change, kept: Some(kept), used: false.into() }
    }

    /// The leaf, noting that somebody wanted it.
    pub(super) fn here(&self) -> Result<&Leaf, Absent> {
        match (&self.leaf, self.kept) {
            (Some(leaf), _) => {
                if !self.used.load(Ordering::Relaxed) {
                    self.used.store(true, Ordering::Relaxed);
                }
                Ok(leaf)
            }
            (None, Some(kept)) => Err(Absent(kept)),
            (None, None) => Ok(Leaf::EMPTY),
        }
    }

    /// Whether no checkpoint holds it as it is.
    pub(super) fn is_changed(&self) -> bool {
        self.kept.is_none_or(|kept| kept.last_change != self.last_change)
    }

    /// Changes a leaf that is here; returns how many extents it has then.
    fn change(
        &mut self,
        change: ObjectSeq,
        resident_bytes: &mut u64,
        edit: impl FnOnce(&mut Leaf),
    ) -> usize {
        let leaf = Arc::make_mut(self.leaf.get_or_insert_default());
        let before = leaf.memory_bytes();
        edit(leaf);
        *resident_bytes += leaf.memory_bytes();
        *resident_bytes -= before;
        self.last_change = change;
        leaf.extents().len()
    }
}

impl Clone for LeafSlot {
    fn clone(&self) -> Self {
        Self { leaf: self.leaf.clone(), used: false.into(), ..*self }
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
        map.lookup(extent, &mut pieces).unwrap();
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
                let applied = match kind {
                    0 | 1 => map.apply_data(e, object, 7, object, note),
                    2 => map.remove(e, object, note),
                    _ => map.truncate(e.start(), object, note),
                };
                prop_assert_eq!(applied, Ok(()));
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
            prop_assert_eq!(map.next_mapped(Lba::new(BASE + from)), Ok(mapped));
            let hole = tail.iter().position(Option::is_none).map_or(WINDOW, |i| from + i as u64);
            prop_assert_eq!(map.next_hole(Lba::new(BASE + from), Lba::new(BASE + WINDOW)), Ok(Lba::new(BASE + hole)));

            let expected: BTreeSet<_> = (0..2u64).filter(|&i| touched[i as usize] > 0).collect();
            let changed = map.changed();
            prop_assert_eq!(changed.iter().map(|c| c.index.get()).collect::<BTreeSet<_>>(), expected);
            for change in &changed {
                prop_assert_eq!(change.last_change.get(), touched[change.index.get() as usize]);
                prop_assert!(change.leaf.as_ref().is_none_or(|leaf| !leaf.is_empty()));
            }

            // Memory is counted as it would be for each leaf alone.
            let leaves = map.leaves.values().filter_map(|slot| slot.leaf.as_ref());
            prop_assert_eq!(map.resident_bytes(), leaves.map(|l| l.memory_bytes()).sum::<u64>());
        }
    }

    #[test]
    fn a_copy_taken_for_a_checkpoint_does_not_change() {
        let mut map = CleanMap::new();
        map.apply_data(extent(0, 8), ObjectSeq::new(1), 0, ObjectSeq::new(1), |_, _| ()).unwrap();
        let taken = map.changed();
        map.remove(extent(0, 8), ObjectSeq::new(2), |_, _| ()).unwrap();
        assert_eq!(taken[0].leaf.as_ref().unwrap().mapped_sectors(), 8);
        assert!(map.changed()[0].leaf.is_none());
        map.forget_removed(ObjectSeq::new(2));
        assert!(map.changed().is_empty());
    }

    #[test]
    fn a_trim_of_the_largest_disk_visits_only_what_is_there() {
        let mut map = CleanMap::new();
        let far = Extent::new(Lba::new(Extent::LBA_LIMIT - 8), 8).unwrap();
        let one = ObjectSeq::new(1);
        map.apply_data(far, one, 0, one, |_, _| ()).unwrap();
        map.apply_data(extent(0, 8), one, 8, one, |_, _| ()).unwrap();
        assert_eq!(map.next_mapped(Lba::new(BASE + 8)), Ok(Some(far.start())));
        let all = Extent::new(Lba::ZERO, Extent::LBA_LIMIT).unwrap();
        map.remove(all, ObjectSeq::new(2), |_, _| ()).unwrap();
        assert_eq!((map.mapped_sectors(), map.leaves.len(), map.resident_bytes()), (0, 0, 0));
        assert_eq!(map.next_mapped(Lba::ZERO), Ok(None));
    }
}
