//! How much of each object is still needed by the head of the volume.
//!
//! ```text
//!            nothing points at it     a checkpoint says so     it is deleted
//!   needed ----------------------> dead ---------------> condemned ------------> (forgotten)
//! ```
//! The live count follows the clean map: it rises where an extent is mapped to the object and
//! falls where one is overwritten, trimmed or moved. It can therefore always be counted anew from
//! the leaves. Only the object's own commit maps anything to it, and what brings back data that was
//! kept for others: a rollback, and the commit of an object that shares it. What is condemned never
//! comes back.
//! The cleaner chooses its victims by it.
//!
//! Two kinds of objects are kept, but are not the head's own: dead ones that a snapshot or the window
//! of history *pins*, and those of a clone's *base*, which belong to another volume. Neither is ever
//! condemned here.

use std::collections::BTreeMap;

use crate::format::{Holder, ObjectRecord};
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
    class: Class,
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Class {
    /// The head needs it.
    #[default]
    Needed,
    /// Nobody needs it.
    Dead,
    /// Only snapshots, or the window of history, need it.
    Pinned,
    /// It belongs to the base of a clone.
    Base,
}

/// What a snapshot keeps: every object up to `through` that was needed at some time after `covers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The snapshot is entered at a checkpoint that covers this.
    pub covers: ObjectSeq,
    /// The last number that it may need.
    pub through: ObjectSeq,
}

impl ObjectUsage {
    /// Whether it holds a part of the map that is needed.
    pub fn is_map(&self) -> bool {
        self.data_sectors == 0 && self.dead_since.is_none()
    }

    /// Whether it belongs to the base of a clone.
    pub fn is_of_base(&self) -> bool {
        self.class == Class::Base
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
    /// Sums by class.
    sums: [Usage; 4],
    /// By ascending `covers`, and so by ascending `through`.
    pins: Vec<Pin>,
    /// What died after this is kept as history.
    history: Option<ObjectSeq>,
    /// The last number of a clone's base.
    base_through: ObjectSeq,
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

    /// All objects as a checkpoint knows them; those up to `base_through` are a base's.
    pub fn of_records(records: &[ObjectRecord], base_through: ObjectSeq) -> Self {
        let mut table = Self { base_through, ..Self::default() };
        for record in records {
            // What is dead in a base is its own affair.
            if record.seq > base_through || record.dead_since.is_none() {
                table.put(record);
            }
        }
        table
    }

    fn put(&mut self, record: &ObjectRecord) {
        self.change(record.seq, |usage| {
            *usage = ObjectUsage {
                data_sectors: record.data_sectors,
                stored_bytes: record.stored_bytes,
                live_sectors: record.live_sectors,
                dead_since: record.dead_since,
                condemned: record.condemned,
                class: Class::Needed,
            };
        });
    }

    /// Sets what snapshots keep.
    pub fn set_pins(&mut self, mut pins: Vec<Pin>) {
        pins.sort_unstable_by_key(|pin| pin.covers);
        // Each also keeps what lies before it: so only the last one before a death matters.
        let mut through = ObjectSeq::ZERO;
        for pin in &mut pins {
            through = through.max(pin.through);
            pin.through = through;
        }
        if self.pins == pins {
            return;
        }
        self.pins = pins;
        self.class_dead_anew();
    }

    /// Keeps what died after this number as history.
    pub fn set_history(&mut self, since: Option<ObjectSeq>) {
        if self.history != since {
            self.history = since;
            self.class_dead_anew();
        }
    }

    fn class_dead_anew(&mut self) {
        let dead = self.objects.iter().filter(|(_, usage)| usage.dead_since.is_some());
        for object in dead.map(|(&object, _)| object).collect::<Vec<_>>() {
            self.change(object, |_| ());
        }
    }

    /// What snapshots keep.
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    fn is_history(&self, dead_since: ObjectSeq) -> bool {
        self.history.is_some_and(|since| dead_since > since)
    }

    fn is_pinned(&self, object: ObjectSeq, dead_since: ObjectSeq) -> bool {
        self.is_history(dead_since) || self.is_in_snapshot(object, dead_since)
    }

    fn is_in_snapshot(&self, object: ObjectSeq, dead_since: ObjectSeq) -> bool {
        let before = self.pins.partition_point(|pin| pin.covers < dead_since);
        let last = before.checked_sub(1).and_then(|last| self.pins.get(last));
        last.is_some_and(|pin| object <= pin.through)
    }

    /// Makes this the table of a volume that was rolled back, at the commit of `now`, to the moment
    /// when `then` was true; `held` says which objects hold leaves of the map that it had.
    ///
    /// # Errors
    /// An object that was needed then is gone.
    pub fn roll_back(
        &mut self,
        then: &Self,
        held: impl Fn(ObjectSeq) -> bool,
        now: ObjectSeq,
    ) -> Result<(), ObjectSeq> {
        let lost = then.objects.iter().find(|(object, usage)| {
            let here = self.objects.get(object);
            usage.live_sectors > 0
                && usage.class != Class::Base
                && here.is_none_or(|here| here.condemned)
        });
        if let Some((object, _)) = lost {
            return Err(*object);
        }
        for (object, usage) in &then.objects {
            if usage.class == Class::Base && !self.objects.contains_key(object) {
                self.change(*object, |here| *here = *usage);
            }
        }
        for object in self.objects.keys().copied().collect::<Vec<_>>() {
            let live_sectors = then.live(object);
            self.change(object, |usage| {
                usage.live_sectors = live_sectors;
                if live_sectors > 0 || held(object) {
                    usage.dead_since = None;
                } else if usage.data_sectors > 0 {
                    usage.dead_since.get_or_insert(now);
                }
            });
        }
        Ok(())
    }

    /// Whether the map may point at the sectors of `object` before `end`.
    pub fn is_needed(&self, object: ObjectSeq, end: u64) -> bool {
        let usage = self.objects.get(&object);
        usage.is_some_and(|usage| usage.dead_since.is_none() && end <= usage.data_sectors)
    }

    /// Whether `object` is in the store and will stay until it is condemned.
    pub fn is_kept(&self, object: ObjectSeq) -> bool {
        self.objects.get(&object).is_some_and(|usage| !usage.condemned)
    }

    /// What holds data, as somebody else may share it; `None` if it is not known, or may be deleted.
    pub fn holder(&self, object: ObjectSeq) -> Option<Holder> {
        let usage = self.objects.get(&object).filter(|usage| !usage.condemned)?;
        let ObjectUsage { data_sectors, stored_bytes, .. } = *usage;
        Some(Holder { object, data_sectors, stored_bytes })
    }

    /// Whether this is a number of a base.
    pub fn is_base_number(&self, object: ObjectSeq) -> bool {
        object <= self.base_through
    }

    /// Counts `sectors` more of `object` as live.
    pub fn gained(&mut self, object: ObjectSeq, sectors: u64) {
        let usage = self.objects.entry(object).or_default();
        if usage.dead_since.is_some() {
            // It was dead, and is shared.
            return self.change(object, |usage| {
                usage.live_sectors += sectors;
                usage.dead_since = None;
            });
        }
        usage.live_sectors += sectors;
        if let Some(sum) = self.sums.get_mut(usage.class as usize) {
            sum.live_sectors += sectors;
        }
    }

    /// Makes sure that what holds data which is shared is known: what is dead may be forgotten. That its
    /// writer shared it says that it is kept, whatever an older checkpoint condemned that was not named.
    /// False if it is known as another object.
    pub fn hold(&mut self, holder: &Holder) -> bool {
        if !self.objects.contains_key(&holder.object) {
            self.add(holder.object, holder.data_sectors, holder.stored_bytes);
        }
        let usage = self.objects.get(&holder.object);
        usage.is_some_and(|usage| usage.data_sectors == holder.data_sectors)
    }

    /// Counts `sectors` fewer of `object` as live, by the commit of `change`.
    pub fn freed(&mut self, object: ObjectSeq, sectors: u64, change: ObjectSeq) {
        let Some(usage) = self.objects.get_mut(&object) else { return };
        debug_assert!(usage.live_sectors >= sectors, "{object}: {usage:?} loses {sectors}");
        let sectors = sectors.min(usage.live_sectors);
        usage.live_sectors -= sectors;
        let is_dead = usage.live_sectors == 0;
        if let Some(sum) = self.sums.get_mut(usage.class as usize) {
            sum.live_sectors -= sectors;
        }
        if is_dead {
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

    /// Condemns what is dead at `covers`, and returns it; what was condemned before stays so. Forgets
    /// what is dead of a base.
    pub fn condemn(&mut self, covers: ObjectSeq) -> Vec<ObjectSeq> {
        let (mut of_base, mut condemned) = (Vec::new(), Vec::new());
        for (object, usage) in &mut self.objects {
            match usage.class {
                Class::Dead
                    if !usage.condemned && usage.dead_since.is_some_and(|at| at <= covers) =>
                {
                    usage.condemned = true;
                    condemned.push(*object);
                }
                Class::Base if usage.dead_since.is_some() => of_base.push(*object),
                _ => {}
            }
        }
        for object in of_base {
            self.forget(object);
        }
        condemned
    }

    /// Takes back what was condemned by a checkpoint that was not named, and by no other.
    pub fn reprieve(&mut self, condemned: &[ObjectSeq]) {
        for object in condemned {
            if self.objects.contains_key(object) {
                self.change(*object, |usage| usage.condemned = false);
            }
        }
    }

    /// What is condemned, in ascending order.
    pub fn condemned(&self) -> impl Iterator<Item = ObjectSeq> + '_ {
        self.objects.iter().filter(|(_, usage)| usage.condemned).map(|(&object, _)| object)
    }

    /// Drops an object that is gone from the store.
    pub fn forget(&mut self, object: ObjectSeq) -> Option<ObjectUsage> {
        let usage = self.objects.remove(&object)?;
        if let Some(sum) = self.sums.get_mut(usage.class as usize) {
            sum.take(&usage);
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

    /// The sums over those that the head needs, the base's left out.
    pub fn needed(&self) -> Usage {
        self.sum(Class::Needed)
    }

    /// The sums over those that nobody needs.
    pub fn dead(&self) -> Usage {
        self.sum(Class::Dead)
    }

    /// The sums over those that only snapshots or the window of history need.
    pub fn pinned(&self) -> Usage {
        self.sum(Class::Pinned)
    }

    /// The sums over those of a base that the head needs.
    pub fn of_base(&self) -> Usage {
        self.sum(Class::Base)
    }

    /// Whether anything of a base is needed.
    pub fn needs_base(&self) -> bool {
        self.objects.range(..=self.base_through).next().is_some()
    }

    /// Sectors that the map points at.
    pub fn live_sectors(&self) -> u64 {
        self.sums.iter().map(|sum| sum.live_sectors).sum()
    }

    /// Bytes that would come free if what `pins` keep, one pin for each snapshot, were kept by all but
    /// one of them: for each of them.
    pub fn exclusive_bytes(&self, pins: &[Pin]) -> Vec<u64> {
        let mut bytes = vec![0; pins.len()];
        let pinned = self.objects.iter().filter(|(_, usage)| usage.class == Class::Pinned);
        for (object, usage) in pinned {
            let Some(since) = usage.dead_since.filter(|since| !self.is_history(*since)) else {
                continue;
            };
            let keeps = |pin: &Pin| pin.covers < since && *object <= pin.through;
            let mut keepers = (0..).zip(pins).filter(|(_, pin)| keeps(pin)).map(|(nth, _)| nth);
            if let (Some(only), None) = (keepers.next(), keepers.next())
                && let Some(bytes) = bytes.get_mut::<usize>(only)
            {
                *bytes += usage.stored_bytes;
            }
        }
        bytes
    }

    /// Bytes in the store of what died after `since`, is there, and in no snapshot.
    pub fn dead_bytes_after(&self, since: ObjectSeq) -> u64 {
        let own = self.objects.range(self.base_through.next()..);
        let dead = own.filter(|(object, usage)| {
            let dead = usage.dead_since.filter(|dead| !usage.condemned && *dead > since);
            dead.is_some_and(|dead| !self.is_in_snapshot(**object, dead))
        });
        dead.map(|(_, usage)| usage.stored_bytes).sum()
    }

    fn sum(&self, class: Class) -> Usage {
        self.sums.get(class as usize).copied().unwrap_or_default()
    }

    /// Changes an object, and the sums with it.
    fn change(&mut self, object: ObjectSeq, change: impl FnOnce(&mut ObjectUsage)) {
        let mut usage = self.forget(object).unwrap_or_default();
        change(&mut usage);
        usage.class = match usage.dead_since {
            _ if object <= self.base_through => Class::Base,
            None => Class::Needed,
            // What is condemned may be gone already; no snapshot was made that needs it.
            Some(since) if !usage.condemned && self.is_pinned(object, since) => Class::Pinned,
            Some(_) => Class::Dead,
        };
        usage.condemned &= usage.class == Class::Dead;
        if let Some(sum) = self.sums.get_mut(usage.class as usize) {
            sum.put(&usage);
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
        assert_eq!((table.needed(), table.live_sectors()), (usage(150, 7000, 120), 120));
        table.add(A, 100, 5000);
        assert_eq!(table.live(A), 70, "adding again changes nothing");
        assert_eq!(table.forget(B).map(|u| u.live_sectors), Some(50));
        assert_eq!(table.needed(), usage(100, 5000, 70));
        assert_eq!(table.iter().len(), 1);
    }

    #[test]
    fn what_nothing_points_at_is_dead_from_then_on() {
        let mut table = table();
        table.freed(A, 100, C);
        assert_eq!((table.needed(), table.dead()), (usage(50, 2000, 50), usage(100, 5000, 0)));
        // The commit that killed it is not covered yet.
        table.condemn(B);
        assert_eq!(table.condemned().count(), 0);
        table.condemn(C);
        assert_eq!(table.condemned().collect::<Vec<_>>(), [A]);
        table.forget(A);
        assert_eq!((table.needed(), table.dead()), (usage(50, 2000, 50), usage(0, 0, 0)));
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
        let again = ObjectTable::of_records(&table.records(B), ObjectSeq::ZERO);
        assert!(again.iter().eq(table.iter()));
        assert_eq!((again.needed(), again.dead()), (table.needed(), table.dead()));
        assert_eq!(table.records(A).len(), 1);
    }

    #[test]
    fn the_map_may_point_only_at_what_is_alive_and_there() {
        let mut table = table();
        assert!(table.is_needed(A, 100) && !table.is_needed(A, 101) && !table.is_needed(C, 1));
        table.freed(A, 100, C);
        assert!(!table.is_needed(A, 1) && table.is_needed(B, 50));
    }

    #[test]
    fn what_was_needed_after_a_snapshot_began_is_pinned() {
        let seq = ObjectSeq::new;
        let mut table = table();
        table.freed(A, 100, seq(10));
        table.set_pins(vec![Pin { covers: seq(9), through: seq(9) }]);
        table.condemn(seq(20));
        assert_eq!((table.condemned().count(), table.pinned()), (0, usage(100, 5000, 0)));
        assert_eq!(table.dead(), usage(0, 0, 0));
        table.set_pins(vec![Pin { covers: seq(10), through: seq(12) }]);
        assert_eq!(table.condemn(seq(20)), [A], "dead before that one began");
        assert_eq!(table.condemn(seq(20)), [], "it is known");
        table.set_pins(vec![Pin { covers: seq(9), through: seq(9) }]);
        assert_eq!(table.condemned().count(), 1, "what may be gone is not had back");
        table.reprieve(&[]);
        assert_eq!(
            table.condemned().count(),
            1,
            "not even after another checkpoint that has no name"
        );
        table.reprieve(&[A, seq(77)]);
        assert_eq!((table.condemned().count(), table.pinned().data_sectors), (0, 100));
        assert_eq!(table.iter().len(), 2);
    }

    #[test]
    fn what_died_in_the_window_of_history_is_kept_by_no_snapshot() {
        let seq = ObjectSeq::new;
        let mut table = table();
        table.freed(A, 100, seq(10));
        table.freed(B, 50, seq(20));
        let pin = Pin { covers: seq(5), through: seq(5) };
        table.set_pins(vec![pin]);
        table.set_history(Some(seq(10)));
        assert_eq!(table.exclusive_bytes(&[pin]), [5000], "B is history as well");
        assert_eq!(table.dead_bytes_after(seq(9)), 0, "the snapshot has both");
        table.set_pins(Vec::new());
        assert_eq!((table.dead_bytes_after(seq(9)), table.dead_bytes_after(seq(10))), (7000, 2000));
        table.condemn(seq(30));
        assert_eq!(
            (table.condemned().collect::<Vec<_>>(), table.pinned().data_sectors),
            (vec![A], 50)
        );
        table.set_history(None);
        table.condemn(seq(30));
        assert_eq!((table.condemned().count(), table.dead_bytes_after(seq(0))), (2, 0));
    }

    #[test]
    fn a_death_between_two_snapshots_is_the_older_ones_affair() {
        let seq = ObjectSeq::new;
        let mut table = table();
        table.freed(A, 100, seq(10));
        table.freed(B, 50, seq(30));
        let pin = |at| Pin { covers: seq(at), through: seq(at) };
        let pins = [pin(5), pin(20)];
        table.set_pins(pins.to_vec());
        assert_eq!(table.pinned(), usage(150, 7000, 0));
        assert_eq!(table.exclusive_bytes(&pins), [5000, 0], "B is kept by both");
        table.set_pins(vec![pin(20)]);
        assert_eq!((table.pinned(), table.dead()), (usage(50, 2000, 0), usage(100, 5000, 0)));
    }

    #[test]
    fn a_rollback_takes_back_what_a_snapshot_kept() {
        let seq = ObjectSeq::new;
        let then = table();
        let mut table = table();
        table.set_pins(vec![Pin { covers: seq(5), through: seq(5) }]);
        let late = seq(7);
        table.add(late, 10, 900);
        table.gained(late, 10);
        table.freed(A, 90, seq(8));
        table.freed(A, 10, seq(9));
        table.roll_back(&then, |_| false, seq(20)).unwrap();
        assert_eq!((table.live(A), table.live(B), table.live(late)), (100, 50, 0));
        assert_eq!((table.needed(), table.dead()), (usage(150, 7000, 150), usage(10, 900, 0)));
        table.forget(A);
        assert_eq!(table.roll_back(&then, |_| false, seq(21)), Err(A));
    }

    #[test]
    fn what_is_a_bases_is_not_condemned_and_not_counted() {
        let mut base = table();
        base.add(C, 10, 900);
        base.settle(C);
        let mut clone = ObjectTable::of_records(&base.records(C), C);
        assert_eq!((clone.needed(), clone.of_base()), (usage(0, 0, 0), usage(150, 7000, 150)));
        assert_eq!(clone.live_sectors(), 150);
        clone.freed(A, 100, ObjectSeq::new(10));
        clone.condemn(ObjectSeq::new(10));
        assert_eq!((clone.condemned().count(), clone.iter().len()), (0, 1), "A is forgotten");
    }
}
