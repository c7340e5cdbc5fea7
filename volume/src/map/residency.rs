//! Which leaves of the clean map are in memory.
//!
//! A leaf that a checkpoint holds as it is may be let go of and fetched again; a changed one must
//! stay until a checkpoint has it. Who goes is decided by the clock: a hand passes over the leaves,
//! spares each that was used since it came by last, and lets go of the others.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clean_map::CleanMap;
use super::leaf::{Leaf, LeafIndex};
use crate::format::LeafRef;
use crate::units::Extent;

impl CleanMap {
    /// Memory that the leaves which are here take up, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Of that what must stay until the next checkpoint.
    pub fn changed_bytes(&self) -> u64 {
        let changed = self.leaves.values().filter(|slot| slot.is_changed());
        changed.filter_map(|slot| slot.leaf.as_ref()).map(|leaf| leaf.memory_bytes()).sum()
    }

    /// Where the leaves are that `extent` needs and that are not here.
    pub fn absent_in(&self, extent: Extent) -> impl Iterator<Item = LeafRef> + '_ {
        let last = extent.end().get() - 1;
        let leaves = LeafIndex::of(extent.start())..=LeafIndex::of(crate::units::Lba::new(last));
        let away = self.leaves.range(leaves).filter(|(_, slot)| slot.leaf.is_none());
        away.filter_map(|(_, slot)| slot.kept)
    }

    /// Whether the leaf is awaited that a checkpoint has at `kept`.
    pub fn awaits(&self, kept: &LeafRef) -> bool {
        let slot = self.leaves.get(&LeafIndex::new(kept.index));
        slot.is_some_and(|slot| slot.leaf.is_none() && slot.last_change == kept.last_change)
    }

    /// Puts a leaf back that was fetched from where `kept` says, if it is awaited.
    pub fn put(&mut self, kept: &LeafRef, leaf: Leaf) {
        if self.awaits(kept)
            && let Some(slot) = self.leaves.get_mut(&LeafIndex::new(kept.index))
        {
            self.resident_bytes += leaf.memory_bytes();
            slot.leaf = Some(Arc::new(leaf));
            slot.used.store(true, Ordering::Relaxed);
        }
    }

    /// Takes over leaves that `other` has here.
    pub fn adopt(&mut self, other: &Self) {
        for (index, theirs) in &other.leaves {
            if let Some(leaf) = &theirs.leaf
                && let Some(slot) = self.leaves.get_mut(index)
                && slot.leaf.is_none()
                && slot.last_change == theirs.last_change
            {
                self.resident_bytes += leaf.memory_bytes();
                slot.leaf = Some(Arc::clone(leaf));
            }
        }
    }

    /// Notes where a checkpoint has the leaves; those that changed since it was taken, it has not.
    pub fn note_kept(&mut self, root: &BTreeMap<u64, LeafRef>) {
        for (index, slot) in &mut self.leaves {
            let kept = root.get(&index.get());
            if let Some(kept) = kept.filter(|kept| kept.last_change == slot.last_change) {
                slot.kept = Some(*kept);
            }
        }
    }

    /// Lets go of leaves that take up `bytes` of memory, or of as many as may go. What was used since
    /// the last time stays: whoever has fetched a leaf comes to use it.
    pub fn evict(&mut self, bytes: u64) {
        let target = self.resident_bytes.saturating_sub(bytes);
        for _ in 0..self.leaves.len() {
            if self.resident_bytes <= target {
                return;
            }
            let after = (Bound::Excluded(self.hand), Bound::Unbounded);
            let next = self.leaves.range(after).next().or_else(|| self.leaves.first_key_value());
            let Some((&index, slot)) = next else { return };
            self.hand = index;
            if !slot.used.swap(false, Ordering::Relaxed) && !slot.is_changed() {
                self.let_go(index);
            }
        }
    }

    pub(super) fn let_go(&mut self, index: LeafIndex) {
        if let Some(leaf) = self.leaves.get_mut(&index).and_then(|slot| slot.leaf.take()) {
            self.resident_bytes -= leaf.memory_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Absent;
    use crate::map::leaf::LEAF_SECTORS;
    use crate::units::{Lba, ObjectSeq};

    const ONE: ObjectSeq = ObjectSeq::new(1);
    const TWO: ObjectSeq = ObjectSeq::new(2);

    fn extent(leaf: u64) -> Extent {
        Extent::new(Lba::new(leaf * LEAF_SECTORS), 8).unwrap()
    }

    /// What a checkpoint of object 9 says of a leaf.
    fn kept(index: u64, last_change: ObjectSeq) -> LeafRef {
        LeafRef { index, last_change, object: ObjectSeq::new(9), offset: 0, len: 1, sum: 0 }
    }

    /// Four leaves, of which a checkpoint holds the first three as they are.
    fn map() -> CleanMap {
        let mut map = CleanMap::new();
        for leaf in 0..4 {
            map.apply_data(extent(leaf), ONE, leaf as u32 * 8, ONE, |_, _| ()).unwrap();
        }
        map.note_kept(&(0..3).map(|index| (index, kept(index, ONE))).collect());
        map
    }

    /// Lets go of all that may go.
    fn evict_all(map: &mut CleanMap) {
        map.evict(u64::MAX);
        map.evict(u64::MAX);
    }

    fn absent(map: &CleanMap) -> Vec<u64> {
        let all = Extent::new(Lba::ZERO, Extent::LBA_LIMIT).unwrap();
        map.absent_in(all).map(|leaf| leaf.index).collect()
    }

    #[test]
    fn only_what_a_checkpoint_has_may_go() {
        let mut map = map();
        let each = map.resident_bytes() / 4;
        assert_eq!(map.changed_bytes(), each);
        map.evict(u64::MAX);
        assert!(absent(&map).is_empty(), "all were used just now");
        map.evict(u64::MAX);
        assert_eq!(absent(&map), [0, 1, 2]);
        assert_eq!((map.resident_bytes(), map.mapped_sectors()), (each, 32));
        assert_eq!(map.changed().iter().map(|c| c.index.get()).collect::<Vec<_>>(), [3]);
        assert_eq!(map.clone().resident_bytes(), each);
    }

    #[test]
    fn what_is_used_stays_longest() {
        let mut map = map();
        let each = map.resident_bytes() / 4;
        map.evict(each);
        map.evict(each);
        assert_eq!(absent(&map).len(), 1);
        let first = absent(&map)[0];
        let rest: Vec<u64> = (0..3).filter(|leaf| *leaf != first).collect();
        map.mapped_in(extent(rest[0]), |_, _, _| ()).unwrap();
        map.evict(each);
        assert!(absent(&map).contains(&rest[1]) && !absent(&map).contains(&rest[0]));
    }

    #[test]
    fn every_question_says_which_leaf_it_needs() {
        let mut map = map();
        evict_all(&mut map);
        let needed = Err(Absent(kept(1, ONE)));
        assert_eq!(map.mapped_in(extent(1), |_, _, _| ()), needed);
        assert_eq!(map.lookup(extent(1), &mut Vec::new()), needed);
        assert_eq!(map.apply_data(extent(1), TWO, 0, TWO, |_, _| ()), needed);
        assert_eq!(map.remove(extent(1), TWO, |_, _| ()), needed);
        assert_eq!(map.next_mapped(extent(1).start()).map(drop), needed);
        let halted = map.next_hole(extent(1).start(), extent(2).start()).unwrap_err();
        assert_eq!((halted.at, Err(halted.absent)), (extent(1).start(), needed));
        map.truncate(extent(3).start(), TWO, |_, _| ()).unwrap();
        assert_eq!(map.mapped_sectors(), 24, "what lies before the end is not needed");
    }

    #[test]
    fn a_leaf_comes_back_only_as_it_was() {
        let mut map = map();
        let mut leaf = Leaf::new();
        leaf.insert(0..8, ONE, 8, |_, _| ());
        let before = map.resident_bytes();
        map.put(&kept(1, ONE), leaf.clone());
        assert_eq!(map.resident_bytes(), before, "it is here already");
        evict_all(&mut map);
        map.put(&kept(1, TWO), leaf.clone());
        assert_eq!(absent(&map), [0, 1, 2], "another version");
        map.put(&kept(1, ONE), leaf);
        assert_eq!(absent(&map), [0, 2]);
        let mut other = map.clone();
        evict_all(&mut other);
        other.adopt(&map);
        assert_eq!(absent(&other), [0, 2]);
        assert_eq!(other.resident_bytes(), map.resident_bytes());
    }

    #[test]
    fn a_leaf_changed_since_the_checkpoint_is_not_the_one_it_has() {
        let mut map = map();
        map.apply_data(extent(2), TWO, 0, TWO, |_, _| ()).unwrap();
        map.note_kept(&(0..4).map(|index| (index, kept(index, ONE))).collect());
        evict_all(&mut map);
        assert_eq!(absent(&map), [0, 1, 3]);
    }
}
