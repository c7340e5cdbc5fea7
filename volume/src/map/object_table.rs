//! How much of each object is still needed by the head of the volume.
//!
//! ```text
//!            nothing points at it     a checkpoint says so     it is deleted
//!   needed ----------------------> dead ---------------> condemned ------------> (forgotten)
//! ```
//! The live count follows the clean map: it rises where an extent is mapped to the object and
//! falls where one is overwritten, trimmed or moved. It can therefore always be counted anew from
//! the leaves. It never rises again from zero: only the object's own commit maps anything to it.
//! The cleaner chooses its victims by it.

use std::collections::BTreeMap;

use crate::format::ObjectRecord;
use crate::units::ObjectSeq;

/// An object's size and use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectUsage {
    /// Sectors of data it holds; none if it holds a part of the map.
    pub data_sectors: u64,
    /// Its size in the store in bytes.
    pub stored_bytes: u64,
    /// Sectors that the clean map points at.
    pub live_sectors: u64,
    /// The commit from which on nothing points at it, if so.
    pub dead_since: Option<ObjectSeq>,
    /// Whether a checkpoint being written, or one before it, condemns it. It may be deleted only once
    /// the superblock names that checkpoint.
    pub condemned: bool,
}

impl ObjectUsage {
    /// Whether it holds a part of the map that is needed.
    pub fn is_map(&self) -> bool {
        self.data_sectors == 0 && self.dead_since.is_none()
    }
}

/// Sums over many objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sectors of data.
    pub data_sectors: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Sectors that the clean map points at.
    pub live_sectors: u64,
}

/// Usage of all objects of a volume, but for fences and fillers.
#[derive(Clone, Debug, Default)]
pub struct ObjectTable {
    objects: BTreeMap<ObjectSeq, ObjectUsage>,
    /// Of all.
    total: Usage,
    /// Of those that are dead.
    dead: Usage,
}

impl ObjectTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters the sizes of an object; its live sectors are counted as they are mapped.
    pub fn add(&mut self, object: ObjectSeq, data_sectors: u64, stored_bytes: u64) {
        self.change(object, |usage| {
            usage.data_sectors = data_sectors;
            usage.stored_bytes = stored_bytes;
        });
    }

    /// All objects as a checkpoint knows them.
    pub fn of_records(records: &[ObjectRecord]) -> Self {
        let mut table = Self::new();
        for record in records {
            table.change(record.seq, |usage| {
                *usage = ObjectUsage {
                    data_sectors: record.data_sectors,
                    stored_bytes: record.stored_bytes,
                    live_sectors: record.live_sectors,
                    dead_since: record.dead_since,
                    condemned: record.condemned,
                };
            });
        }
        table
    }

    /// Whether the map may point at the sectors of `object` before `end`.
    pub fn is_needed(&self, object: ObjectSeq, end: u64) -> bool {
        let usage = self.objects.get(&object);
        usage.is_some_and(|usage| usage.dead_since.is_none() && end <= usage.data_sectors)
    }

    /// Counts `sectors` more of `object` as live.
    pub fn gained(&mut self, object: ObjectSeq, sectors: u64) {
        self.objects.entry(object).or_default().live_sectors += sectors;
        self.total.live_sectors += sectors;
    }

    /// Counts `sectors` fewer of `object` as live, by the commit of `change`.
    pub fn freed(&mut self, object: ObjectSeq, sectors: u64, change: ObjectSeq) {
        let Some(usage) = self.objects.get_mut(&object) else { return };
        debug_assert!(usage.live_sectors >= sectors, "{object}: {usage:?} loses {sectors}");
        let sectors = sectors.min(usage.live_sectors);
        usage.live_sectors -= sectors;
        self.total.live_sectors -= sectors;
        if usage.live_sectors == 0 {
            self.bury(object, change);
        }
    }

    /// Notes that nothing points at `object` any more, by the commit of `change`.
    pub fn bury(&mut self, object: ObjectSeq, change: ObjectSeq) {
        if self.objects.contains_key(&object) {
            self.change(object, |usage| {
                usage.dead_since.get_or_insert(change);
            });
        }
    }

    /// Notes that all of `object` is committed: it may hold nothing that counts.
    pub fn settle(&mut self, object: ObjectSeq) {
        if self.live(object) == 0 {
            self.bury(object, object);
        }
    }

    /// Condemns what is dead at `covers`; what was condemned before stays so.
    pub fn condemn(&mut self, covers: ObjectSeq) {
        for usage in self.objects.values_mut() {
            usage.condemned |= usage.dead_since.is_some_and(|since| since <= covers);
        }
    }

    /// What is condemned, in ascending order.
    pub fn condemned(&self) -> impl Iterator<Item = ObjectSeq> + '_ {
        self.objects.iter().filter(|(_, usage)| usage.condemned).map(|(&object, _)| object)
    }

    /// Drops an object that is gone from the store.
    pub fn forget(&mut self, object: ObjectSeq) -> Option<ObjectUsage> {
        let usage = self.objects.remove(&object)?;
        self.total.take(&usage);
        if usage.dead_since.is_some() {
            self.dead.take(&usage);
        }
        Some(usage)
    }

    /// Drops the dead ones: for who deletes nothing.
    pub fn forget_dead(&mut self) {
        let dead = self.objects.iter().filter(|(_, usage)| usage.dead_since.is_some());
        for object in dead.map(|(&object, _)| object).collect::<Vec<_>>() {
            self.forget(object);
        }
    }

    /// Live sectors of `object`; zero if it is not known.
    pub fn live(&self, object: ObjectSeq) -> u64 {
        self.objects.get(&object).map_or(0, |usage| usage.live_sectors)
    }

    /// All objects, in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ObjectSeq, ObjectUsage)> {
        self.objects.iter().map(|(&object, &usage)| (object, usage))
    }

    /// The objects up to `covers` as a checkpoint notes them.
    pub fn records(&self, covers: ObjectSeq) -> Vec<ObjectRecord> {
        let up_to = self.objects.range(..=covers);
        up_to
            .map(|(&seq, usage)| ObjectRecord {
                seq,
                stored_bytes: usage.stored_bytes,
                data_sectors: usage.data_sectors,
                live_sectors: usage.live_sectors,
                dead_since: usage.dead_since,
                condemned: usage.condemned,
            })
            .collect()
    }

    /// The sums over all objects.
    pub fn total(&self) -> Usage {
        self.total
    }

    /// The sums over the dead ones.
    pub fn dead(&self) -> Usage {
        self.dead
    }

    /// Changes an object, and the sums with it.
    fn change(&mut self, object: ObjectSeq, change: impl FnOnce(&mut ObjectUsage)) {
        let mut usage = self.forget(object).unwrap_or_default();
        change(&mut usage);
        self.total.put(&usage);
        if usage.dead_since.is_some() {
            self.dead.put(&usage);
        }
        self.objects.insert(object, usage);
    }
}

impl Usage {
    fn put(&mut self, usage: &ObjectUsage) {
        self.data_sectors += usage.data_sectors;
        self.stored_bytes += usage.stored_bytes;
        self.live_sectors += usage.live_sectors;
    }

    fn take(&mut self, usage: &ObjectUsage) {
        self.data_sectors -= usage.data_sectors;
        self.stored_bytes -= usage.stored_bytes;
        self.live_sectors -= usage.live_sectors;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ObjectSeq = ObjectSeq::new(1);
    const B: ObjectSeq = ObjectSeq::new(2);
    const C: ObjectSeq = ObjectSeq::new(3);

    fn table() -> ObjectTable {
        let mut table = ObjectTable::new();
        table.add(A, 100, 5000);
        table.gained(A, 100);
        table.add(B, 50, 2000);
        table.gained(B, 50);
        table
    }

    fn usage(data_sectors: u64, stored_bytes: u64, live_sectors: u64) -> Usage {
        Usage { data_sectors, stored_bytes, live_sectors }
    }

    #[test]
    fn totals_follow_the_objects() {
        let mut table = table();
        table.freed(A, 30, C);
        assert_eq!((table.live(A), table.live(B)), (70, 50));
        assert_eq!(table.total(), usage(150, 7000, 120));
        table.add(A, 100, 5000);
        assert_eq!(table.live(A), 70, "adding again changes nothing");
        assert_eq!(table.forget(B).map(|u| u.live_sectors), Some(50));
        assert_eq!(table.total(), usage(100, 5000, 70));
        assert_eq!(table.iter().len(), 1);
    }

    #[test]
    fn what_nothing_points_at_is_dead_from_then_on() {
        let mut table = table();
        table.freed(A, 100, C);
        assert_eq!((table.total(), table.dead()), (usage(150, 7000, 50), usage(100, 5000, 0)));
        // The commit that killed it is not covered yet.
        table.condemn(B);
        assert_eq!(table.condemned().count(), 0);
        table.condemn(C);
        assert_eq!(table.condemned().collect::<Vec<_>>(), [A]);
        table.forget(A);
        assert_eq!((table.total(), table.dead()), (usage(50, 2000, 50), usage(0, 0, 0)));
    }

    #[test]
    fn an_object_with_nothing_that_counts_is_dead_from_the_beginning() {
        let mut table = table();
        table.add(C, 8, 700);
        table.settle(C);
        table.settle(B);
        let dead: Vec<_> = table.iter().filter_map(|(o, u)| Some((o, u.dead_since?))).collect();
        assert_eq!(dead, [(C, C)]);
    }

    #[test]
    fn records_bring_it_back() {
        let mut table = table();
        table.freed(A, 100, B);
        table.condemn(B);
        let again = ObjectTable::of_records(&table.records(B));
        assert!(again.iter().eq(table.iter()));
        assert_eq!((again.total(), again.dead()), (table.total(), table.dead()));
        assert_eq!(table.records(A).len(), 1);
    }

    #[test]
    fn the_map_may_point_only_at_what_is_alive_and_there() {
        let mut table = table();
        assert!(table.is_needed(A, 100) && !table.is_needed(A, 101) && !table.is_needed(C, 1));
        table.freed(A, 100, C);
        assert!(!table.is_needed(A, 1) && table.is_needed(B, 50));
    }
}
