//! A leaf of the clean map: where the sectors of 16 MiB of disk are in the object stream.
//!
//! A sorted, compact run of 16-byte extents. Neighbours that continue each other both on the
//! disk and in their object are one extent. Addresses inside a leaf are counted from its
//! start, so that they fit 16 bits.
//!
//! Every change tells its caller which object lost how many sectors.

use std::ops::Range;

use crate::format::FormatResult;
use crate::format::leaf::{self as codec, LeafExtent};
use crate::units::{Extent, Lba, ObjectSeq};

/// Sectors of disk that a leaf describes: 16 MiB.
pub const LEAF_SECTORS: u64 = codec::LEAF_SECTORS as u64;

/// Number of a leaf: its address divided by [`LEAF_SECTORS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafIndex(u64);

impl LeafIndex {
    /// The leaf with this number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The leaf that describes `lba`.
    pub const fn of(lba: Lba) -> Self {
        Self(lba.get() / LEAF_SECTORS)
    }

    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// First sector of the leaf.
    pub const fn start(self) -> Lba {
        Lba::new(self.0.saturating_mul(LEAF_SECTORS))
    }
}

/// A leaf. See the module's description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    extents: Vec<LeafExtent>,
}

impl Leaf {
    /// A leaf that maps nothing.
    pub const fn new() -> Self {
        Self { extents: Vec::new() }
    }

    /// One that maps nothing, to look into.
    pub(super) const EMPTY: &'static Self = &Self::new();

    /// Memory that its extents take up, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        size_of_val(self.extents()) as u64
    }

    /// Decodes a leaf from exactly `bytes`.
    ///
    /// # Errors
    /// Whatever makes the bytes anything but a leaf.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        Ok(Self { extents: codec::decode_leaf(bytes)? })
    }

    /// Encodes the leaf.
    ///
    /// # Errors
    /// None for a leaf that was changed only as its documentation allows.
    pub fn encode(&self) -> FormatResult<Vec<u8>> {
        codec::encode_leaf(&self.extents)
    }

    /// The extents, in ascending order.
    pub fn extents(&self) -> &[LeafExtent] {
        &self.extents
    }

    /// Whether the leaf maps nothing.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Sectors mapped. Visits every extent.
    pub fn mapped_sectors(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.sectors)).sum()
    }

    /// Maps `range`, which is not empty and inside the leaf, to `object` from `object_sector`
    /// on. `freed` hears what objects lost.
    pub fn insert(
        &mut self,
        range: Range<u32>,
        object: ObjectSeq,
        object_sector: u32,
        freed: impl FnMut(ObjectSeq, u32),
    ) {
        let sectors = (range.end - range.start) as u16;
        self.replace(
            range.clone(),
            Some(LeafExtent { start: range.start as u16, sectors, object_sector, object }),
            freed,
        );
    }

    /// Unmaps `range`. `freed` hears what objects lost.
    pub fn remove(&mut self, range: Range<u32>, freed: impl FnMut(ObjectSeq, u32)) {
        self.replace(range, None, freed);
    }

    /// Calls `found` with the mapped parts of `range`, in order.
    pub fn lookup(&self, range: Range<u32>, mut found: impl FnMut(LeafExtent)) {
        let first = self.first_ending_after(range.start);
        for extent in self.extents[first..].iter().take_while(|e| start_of(e) < range.end) {
            found(clipped(extent, &range));
        }
    }

    /// The first mapped sector at or after `at`.
    pub fn next_mapped(&self, at: u32) -> Option<u32> {
        self.extents.get(self.first_ending_after(at)).map(|e| start_of(e).max(at))
    }

    /// The first unmapped sector at or after `at`; the leaf's end if there is none.
    pub fn next_hole(&self, mut at: u32) -> u32 {
        for extent in &self.extents[self.first_ending_after(at)..] {
            if start_of(extent) > at {
                break;
            }
            at = extent.end();
        }
        at
    }

    fn first_ending_after(&self, at: u32) -> usize {
        self.extents.partition_point(|e| e.end() <= at)
    }

    /// Puts `new`, or nothing, in place of what `range` holds.
    fn replace(
        &mut self,
        range: Range<u32>,
        new: Option<LeafExtent>,
        mut freed: impl FnMut(ObjectSeq, u32),
    ) {
        let mut first = self.first_ending_after(range.start);
        let mut last = first;
        let (mut left, mut right) = (None, None);
        while let Some(&old) = self.extents.get(last).filter(|e| start_of(e) < range.end) {
            freed(old.object, u32::from(clipped(&old, &range).sectors));
            if start_of(&old) < range.start {
                left = Some(clipped(&old, &(0..range.start)));
            }
            if old.end() > range.end {
                right = Some(clipped(&old, &(range.end..u32::MAX)));
            }
            last += 1;
        }
        // Take in the neighbours that may continue `new`.
        if new.is_some() && left.is_none() && first > 0 {
            first -= 1;
            left = Some(self.extents[first]);
        }
        if new.is_some() && right.is_none() && last < self.extents.len() {
            right = Some(self.extents[last]);
            last += 1;
        }
        let mut merged = [None; 3];
        let mut used = 0;
        for part in [left, new, right].into_iter().flatten() {
            let previous: Option<&mut LeafExtent> = match used {
                0 => None,
                n => merged[n - 1].as_mut(),
            };
            match previous.filter(|p| continues(p, &part)) {
                Some(previous) => previous.sectors += part.sectors,
                None => {
                    merged[used] = Some(part);
                    used += 1;
                }
            }
        }
        // Most replacements leave the count as it was; that needs no moving of the rest.
        if last - first == used {
            for (slot, part) in
                self.extents[first..last].iter_mut().zip(merged.into_iter().flatten())
            {
                *slot = part;
            }
        } else {
            self.extents.splice(first..last, merged.into_iter().flatten());
        }
    }
}

/// First sector, as wide as [`LeafExtent::end`].
fn start_of(extent: &LeafExtent) -> u32 {
    u32::from(extent.start)
}

/// The part of `extent` in `range`, which it overlaps.
fn clipped(extent: &LeafExtent, range: &Range<u32>) -> LeafExtent {
    let from = start_of(extent).max(range.start);
    let to = extent.end().min(range.end);
    LeafExtent {
        start: from as u16,
        sectors: (to - from) as u16,
        object_sector: extent.object_sector + (from - start_of(extent)),
        object: extent.object,
    }
}

/// Whether `next` goes on where `extent` ends, on the disk and in the object.
fn continues(extent: &LeafExtent, next: &LeafExtent) -> bool {
    extent.end() == start_of(next)
        && extent.object == next.object
        && extent.object_sector.checked_add(u32::from(extent.sectors)) == Some(next.object_sector)
}

/// The parts of `extent`, leaf by leaf: the leaf's number and the range inside it.
pub(super) fn by_leaf(extent: Extent) -> impl Iterator<Item = (LeafIndex, Range<u32>)> {
    let (start, end) = (extent.start().get(), extent.end().get());
    (start / LEAF_SECTORS..=(end - 1) / LEAF_SECTORS).map(move |index| {
        let base = index * LEAF_SECTORS;
        let from = start.saturating_sub(base) as u32;
        let to = (end - base).min(LEAF_SECTORS) as u32;
        (LeafIndex::new(index), from..to)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    type Cell = Option<(u64, u32)>;

    fn cells_of(leaf: &Leaf, sectors: u32) -> Vec<Cell> {
        let mut cells = vec![None; sectors as usize];
        leaf.lookup(0..sectors, |e| {
            for i in 0..u32::from(e.sectors) {
                cells[(start_of(&e) + i) as usize] = Some((e.object.get(), e.object_sector + i));
            }
        });
        cells
    }

    proptest! {
        #[test]
        fn agrees_with_one_cell_per_sector(
            ops in proptest::collection::vec((0..60u32, 1..20u32, 1..4u64, any::<bool>()), 1..60),
            from in 0..60u32,
        ) {
            let mut leaf = Leaf::new();
            let mut cells: Vec<Cell> = vec![None; 80];
            for (start, sectors, object, remove) in ops {
                let range = start..start + sectors;
                let mut lost: HashMap<u64, u32> = HashMap::new();
                for (object, _) in cells[range.start as usize..range.end as usize].iter().flatten() {
                    *lost.entry(*object).or_default() += 1;
                }
                let mut freed: HashMap<u64, u32> = HashMap::new();
                let note = |o: ObjectSeq, n: u32| *freed.entry(o.get()).or_default() += n;
                if remove {
                    leaf.remove(range.clone(), note);
                } else {
                    // An object's sectors follow the disk's, so that merging has work to do.
                    leaf.insert(range.clone(), ObjectSeq::new(object), 100 + start, note);
                }
                for lba in range {
                    cells[lba as usize] = (!remove).then_some((object, 100 + lba));
                }
                prop_assert_eq!(freed, lost);
                prop_assert_eq!(cells_of(&leaf, 80), cells.clone());
                prop_assert_eq!(leaf.mapped_sectors(), cells.iter().flatten().count() as u64);
                prop_assert_eq!(&Leaf::decode(&leaf.encode().unwrap()).unwrap(), &leaf);
                prop_assert!(leaf.extents().windows(2).all(|w| !continues(&w[0], &w[1])), "merged");
                let tail = cells[from as usize..].iter();
                let mapped = tail.clone().position(Option::is_some).map(|i| from + i as u32);
                prop_assert_eq!(leaf.next_mapped(from), mapped);
                let hole = tail.clone().position(Option::is_none).map_or(80, |i| from + i as u32);
                prop_assert_eq!(leaf.next_hole(from), hole);
            }
        }
    }

    #[test]
    fn a_full_leaf_is_one_extent() {
        let mut leaf = Leaf::new();
        let sectors = LEAF_SECTORS as u32;
        for start in (0..sectors).step_by(8).rev() {
            leaf.insert(start..start + 8, ObjectSeq::new(1), start, |_, _| ());
        }
        let whole =
            LeafExtent { start: 0, sectors: 32_768, object_sector: 0, object: ObjectSeq::new(1) };
        assert_eq!(leaf.extents(), [whole]);
        assert_eq!(leaf.next_hole(5), sectors);
        assert_eq!(size_of::<LeafExtent>(), 16);
    }

    #[test]
    fn an_extent_is_cut_at_the_edges_of_leaves() {
        let extent = Extent::new(Lba::new(LEAF_SECTORS - 8), 16 + LEAF_SECTORS).unwrap();
        let parts: Vec<_> = by_leaf(extent).map(|(i, r)| (i.get(), r)).collect();
        assert_eq!(parts, [(0, 32_760..32_768), (1, 0..32_768), (2, 0..8)]);
    }
}
