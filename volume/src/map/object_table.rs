//! How much of each object is still needed by the head of the volume.
//!
//! The live count follows the clean map: it rises where an extent is mapped to the object and
//! falls where one is overwritten or trimmed. It can therefore always be counted anew from
//! the leaves. The cleaner chooses its victims by it.

use std::collections::BTreeMap;

use crate::units::ObjectSeq;

/// An object's size and use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectUsage {
    /// Sectors of data it holds.
    pub data_sectors: u64,
    /// Its size in the store in bytes.
    pub stored_bytes: u64,
    /// Sectors that the clean map points at.
    pub live_sectors: u64,
}

/// Usage of all data objects of a volume.
#[derive(Clone, Debug, Default)]
pub struct ObjectTable {
    objects: BTreeMap<ObjectSeq, ObjectUsage>,
    total: ObjectUsage,
}

impl ObjectTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters the sizes of an object; its live sectors are counted as they are mapped.
    pub fn add(&mut self, object: ObjectSeq, data_sectors: u64, stored_bytes: u64) {
        let usage = self.objects.entry(object).or_default();
        self.total.data_sectors = self.total.data_sectors - usage.data_sectors + data_sectors;
        self.total.stored_bytes = self.total.stored_bytes - usage.stored_bytes + stored_bytes;
        usage.data_sectors = data_sectors;
        usage.stored_bytes = stored_bytes;
    }

    /// Counts `sectors` more of `object` as live.
    pub fn gained(&mut self, object: ObjectSeq, sectors: u64) {
        self.objects.entry(object).or_default().live_sectors += sectors;
        self.total.live_sectors += sectors;
    }

    /// Counts `sectors` fewer of `object` as live.
    pub fn freed(&mut self, object: ObjectSeq, sectors: u64) {
        if let Some(usage) = self.objects.get_mut(&object) {
            debug_assert!(usage.live_sectors >= sectors, "{object}: {usage:?} loses {sectors}");
            let sectors = sectors.min(usage.live_sectors);
            usage.live_sectors -= sectors;
            self.total.live_sectors -= sectors;
        }
    }

    /// Drops an object that is gone from the store.
    pub fn forget(&mut self, object: ObjectSeq) -> Option<ObjectUsage> {
        let usage = self.objects.remove(&object)?;
        self.total.data_sectors -= usage.data_sectors;
        self.total.stored_bytes -= usage.stored_bytes;
        self.total.live_sectors -= usage.live_sectors;
        Some(usage)
    }

    /// Live sectors of `object`; zero if it is not known.
    pub fn live(&self, object: ObjectSeq) -> u64 {
        self.objects.get(&object).map_or(0, |usage| usage.live_sectors)
    }

    /// All objects, in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ObjectSeq, ObjectUsage)> {
        self.objects.iter().map(|(&object, &usage)| (object, usage))
    }

    /// The sums over all objects.
    pub fn total(&self) -> ObjectUsage {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_follow_the_objects() {
        let mut table = ObjectTable::new();
        let (a, b) = (ObjectSeq::new(1), ObjectSeq::new(2));
        table.add(a, 100, 5000);
        table.gained(a, 100);
        table.add(b, 50, 2000);
        table.gained(b, 50);
        table.freed(a, 30);
        assert_eq!((table.live(a), table.live(b)), (70, 50));
        assert_eq!(
            table.total(),
            ObjectUsage { data_sectors: 150, stored_bytes: 7000, live_sectors: 120 }
        );
        table.add(a, 100, 5000);
        assert_eq!(table.live(a), 70, "adding again changes nothing");
        assert_eq!(table.forget(b).map(|u| u.live_sectors), Some(50));
        assert_eq!(
            table.total(),
            ObjectUsage { data_sectors: 100, stored_bytes: 5000, live_sectors: 70 }
        );
        assert_eq!(table.iter().len(), 1);
    }
}
