//! The whole map of a volume: the dirty map over the clean map.
//!
//! What happens to it, each under the one lock of the owner:
//!
//! | event | change |
//! |---|---|
//! | a write or trim is acknowledged | [`Maps::write`], [`Maps::trim`]: into the dirty map |
//! | the volume is resized | [`Maps::resize`]: a shrink is a trim of all beyond the new end |
//! | an object is committed | [`Maps::commit`], as often as it has slices: dirty to clean |
//! | one with moved data is | [`Maps::commit_moved`], likewise: clean to clean |
//! | one that shares data is | [`Maps::commit_shared`], likewise: into the clean map |
//!
//! A record must be in the dirty map before the sequencer may take it: the commit of its
//! object removes it from there, and one that came later would stay for ever.
//!
//! Whatever needs a leaf that is not here stops with [`Absent`], is told it with
//! [`Maps::put_leaf`], and is asked again.

use std::collections::BTreeMap;

use super::clean_map::{Absent, CleanMap, CleanPiece, Halted};
use super::dirty_map::{DirtyExtent, DirtyMap, DirtySource, Piece};
use super::leaf::Leaf;
use super::object_table::ObjectTable;
use crate::format::{CheckpointHeader, LeafRef, MovedExtent, SharedExtent};
use crate::units::{Extent, Lba, LogPos, LogSeq, ObjectSeq};

/// A part of the answer of [`Maps::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapPiece {
    /// In the write log.
    Log {
        /// The sectors on the disk.
        extent: Extent,
        /// The record.
        seq: LogSeq,
        /// Start of the record in the log.
        record: LogPos,
        /// Offset of the first sector in the record's payload, in sectors.
        sector: u32,
    },
    /// Trimmed since the last commit: zeroes.
    Zero {
        /// The sectors on the disk.
        extent: Extent,
    },
    /// In an object.
    Object {
        /// The sectors on the disk.
        extent: Extent,
        /// The object.
        object: ObjectSeq,
        /// Offset of the first sector in the object's data, in sectors.
        object_sector: u64,
    },
    /// Never written, or trimmed: zeroes.
    Hole {
        /// The sectors on the disk.
        extent: Extent,
    },
}

impl MapPiece {
    /// The sectors on the disk.
    pub fn extent(&self) -> Extent {
        match *self {
            MapPiece::Log { extent, .. }
            | MapPiece::Zero { extent }
            | MapPiece::Object { extent, .. }
            | MapPiece::Hole { extent } => extent,
        }
    }
}

/// An extent of an object that is being committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitExtent {
    /// The sectors on the disk.
    pub extent: Extent,
    /// What the object says about them.
    pub source: CommitSource,
}

/// What an object says about an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitSource {
    /// The object holds the data from this sector of its data on.
    Data {
        /// Offset in the object's data, in sectors.
        object_sector: u32,
    },
    /// The extent was trimmed.
    Zero,
}

impl From<(Extent, Option<u32>)> for CommitExtent {
    /// An extent and its place in the object's data; no place, if it was trimmed.
    fn from((extent, place): (Extent, Option<u32>)) -> Self {
        let source = match place {
            Some(object_sector) => CommitSource::Data { object_sector },
            None => CommitSource::Zero,
        };
        Self { extent, source }
    }
}

/// A commit that came only so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Extents that are done, and must not be done again.
    pub done: usize,
    /// What the next one needs.
    pub absent: Absent,
}

/// Dirty extents up to which room is counted exactly: each costs a look into the clean map.
const EXACT_EXTENTS_MAX: usize = 2048;

/// Both levels of a volume's map, its size, and the use of its objects.
#[derive(Debug, Default)]
pub struct Maps {
    dirty: DirtyMap,
    clean: CleanMap,
    objects: ObjectTable,
    sectors: u64,
}

impl Maps {
    /// The map of an empty volume of `sectors` sectors.
    pub fn new(sectors: u64) -> Self {
        Self { sectors, ..Self::default() }
    }

    /// The map that a checkpoint describes, none of its leaves here. Objects up to `base_through`
    /// belong to the base of a clone.
    pub fn of_checkpoint(checkpoint: &CheckpointHeader, base_through: ObjectSeq) -> Self {
        let objects = ObjectTable::of_records(&checkpoint.objects, base_through);
        let mapped_sectors = objects.live_sectors();
        let clean = CleanMap::of_root(checkpoint.leaves.iter().copied(), mapped_sectors);
        Self { dirty: DirtyMap::new(), clean, objects, sectors: checkpoint.sectors }
    }

    /// The same map, with another table of objects.
    pub fn with_objects(self, objects: ObjectTable) -> Self {
        Self { objects, ..self }
    }

    /// What of it is in the stream, which shares its leaves with the original.
    pub fn committed_only(&self) -> Self {
        let (clean, objects) = (self.clean.clone(), self.objects.clone());
        Self { dirty: DirtyMap::new(), clean, objects, sectors: self.sectors }
    }

    /// The volume's size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What is in the write log only.
    pub fn dirty(&self) -> &DirtyMap {
        &self.dirty
    }

    /// What is committed.
    pub fn clean(&self) -> &CleanMap {
        &self.clean
    }

    /// Notes that a checkpoint has the leaves where `root` says, as they were when `covers` was
    /// committed.
    pub fn note_checkpoint(&mut self, covers: ObjectSeq, root: &BTreeMap<u64, LeafRef>) {
        self.clean.forget_removed(covers);
        self.clean.note_kept(root);
    }

    /// Lets go of leaves that take up `bytes` of memory, or of as many as may go.
    pub fn evict(&mut self, bytes: u64) {
        self.clean.evict(bytes);
    }

    /// Takes over leaves that `other` has here.
    pub fn adopt_leaves(&mut self, other: &Self) {
        self.clean.adopt(&other.clean);
    }

    /// Puts a leaf in its place that was fetched from where `kept` says, if it is still awaited.
    ///
    /// # Errors
    /// It points at what cannot be.
    pub fn put_leaf(&mut self, kept: &LeafRef, leaf: Leaf) -> Result<(), &'static str> {
        if !self.clean.awaits(kept) {
            return Ok(());
        }
        for extent in leaf.extents() {
            let end = u64::from(extent.object_sector) + u64::from(extent.sectors);
            if !self.objects.is_needed(extent.object, end) {
                return Err(
                    "it points at an object that nobody is said to need, or beyond its end",
                );
            }
        }
        self.clean.put(kept, leaf);
        Ok(())
    }

    /// Where the leaves are that a commit of these extents needs and that are not here, each once.
    pub fn absent_for(&self, extents: impl IntoIterator<Item = Extent>) -> Vec<LeafRef> {
        let mut absent: Vec<_> =
            extents.into_iter().flat_map(|extent| self.clean.absent_in(extent)).collect();
        absent.sort_unstable_by_key(|leaf| leaf.index);
        absent.dedup_by_key(|leaf| leaf.index);
        absent
    }

    /// The use of the objects.
    pub fn objects(&self) -> &ObjectTable {
        &self.objects
    }

    /// The use of the objects, to enter sizes and drop what is deleted.
    pub fn objects_mut(&mut self) -> &mut ObjectTable {
        &mut self.objects
    }

    /// Sectors that take up room. Exact, unless very much is dirty, or leaves under it are not here:
    /// then extents that overwrite or trim committed ones count as if they did not, until they are
    /// committed.
    pub fn allocated_sectors(&self) -> u64 {
        let hidden = if self.dirty.extents() <= EXACT_EXTENTS_MAX {
            self.dirty.iter().map(|(extent, _)| self.clean.mapped_sectors_in(extent)).sum()
        } else {
            0
        };
        (self.clean.mapped_sectors().saturating_sub(hidden) + self.dirty.log_sectors())
            .min(self.sectors)
    }

    /// Publishes data of a record: `extent` is at `sector` of the payload of the record that
    /// starts at `record`.
    pub fn write(&mut self, extent: Extent, seq: LogSeq, record: LogPos, sector: u32) {
        self.dirty.insert(extent, DirtyExtent { seq, source: DirtySource::Log { record, sector } });
    }

    /// Publishes a trim.
    pub fn trim(&mut self, extent: Extent, seq: LogSeq) {
        self.dirty.insert(extent, DirtyExtent { seq, source: DirtySource::Zero });
    }

    /// Sets the size. What a shrink cuts off reads as zeroes if the volume grows again.
    pub fn resize(&mut self, sectors: u64, seq: LogSeq) {
        if sectors < self.sectors
            && let Some(beyond) = Extent::between(Lba::new(sectors), Lba::new(Extent::LBA_LIMIT))
        {
            self.trim(beyond, seq);
        }
        self.sectors = sectors;
    }

    /// Commits a slice of `object`, which contains every record up to and including `through`
    /// that objects before it do not. The caller does all slices before it commits the next
    /// object, and may let go of the lock between them.
    ///
    /// # Errors
    /// A leaf is not here.
    pub fn commit(
        &mut self,
        object: ObjectSeq,
        slice: &[CommitExtent],
        through: LogSeq,
    ) -> Result<(), Stopped> {
        let Self { dirty, clean, objects, .. } = self;
        for (done, part) in slice.iter().enumerate() {
            let freed =
                |lost: ObjectSeq, sectors: u32| objects.freed(lost, u64::from(sectors), object);
            let applied = match part.source {
                CommitSource::Data { object_sector } => {
                    clean.apply_data(part.extent, object, object_sector, object, freed)
                }
                CommitSource::Zero => clean.remove(part.extent, object, freed),
            };
            applied.map_err(|absent| Stopped { done, absent })?;
            if let CommitSource::Data { .. } = part.source {
                objects.gained(object, part.extent.sectors());
            }
            dirty.remove_through(part.extent, through);
        }
        Ok(())
    }

    /// Commits copies that `object` holds: the map points there where it still points at what was
    /// copied. Whatever is dirty is newer and stays.
    ///
    /// # Errors
    /// A leaf is not here.
    pub fn commit_moved(
        &mut self,
        object: ObjectSeq,
        slice: &[MovedExtent],
    ) -> Result<(), Stopped> {
        let Self { clean, objects, .. } = self;
        let mut still = Vec::new();
        for (done, moved) in slice.iter().enumerate() {
            let stopped = |absent| Stopped { done, absent };
            still.clear();
            let looked = clean.mapped_in(moved.extent, |found, holder, sector| {
                let skip = found.start().since(moved.extent.start());
                if holder == moved.from.object && sector == u64::from(moved.from.sector) + skip {
                    // No extent of an object is longer than its data, whose sectors fit.
                    still.push((found, moved.object_sector.wrapping_add(skip as u32)));
                }
            });
            looked.map_err(stopped)?;
            for (extent, sector) in still.drain(..) {
                let applied = clean.apply_data(extent, object, sector, object, |lost, sectors| {
                    objects.freed(lost, u64::from(sectors), object);
                });
                applied.map_err(stopped)?;
                objects.gained(object, extent.sectors());
            }
        }
        Ok(())
    }

    /// Commits what `object` says that others hold, which are known: the map points there. Whatever is
    /// dirty is newer and stays.
    ///
    /// # Errors
    /// A leaf is not here.
    pub fn commit_shared(
        &mut self,
        object: ObjectSeq,
        slice: &[SharedExtent],
    ) -> Result<(), Stopped> {
        let Self { clean, objects, .. } = self;
        for (done, SharedExtent { extent, from }) in slice.iter().enumerate() {
            let freed =
                |lost: ObjectSeq, sectors: u32| objects.freed(lost, u64::from(sectors), object);
            let applied = clean.apply_data(*extent, from.object, from.sector, object, freed);
            applied.map_err(|absent| Stopped { done, absent })?;
            objects.gained(from.object, extent.sectors());
        }
        Ok(())
    }

    /// Commits a resize to `sectors` whose record is `seq`, carried by `object`: what a shrink
    /// cut off leaves the map. The size itself is left alone, for a later resize may have
    /// been acknowledged by now.
    ///
    /// # Errors
    /// A leaf is not here; doing it again goes on.
    pub fn commit_resize(
        &mut self,
        object: ObjectSeq,
        sectors: u64,
        seq: LogSeq,
    ) -> Result<(), Absent> {
        let Self { dirty, clean, objects, .. } = self;
        let end = Lba::new(sectors);
        clean.truncate(end, object, |lost, sectors| {
            objects.freed(lost, u64::from(sectors), object);
        })?;
        dirty.truncate(end, seq);
        Ok(())
    }

    /// Sets the size without touching the map: recovery, where the stream says it.
    pub fn set_sectors(&mut self, sectors: u64) {
        self.sectors = sectors;
    }

    /// Appends to `out` pieces that cover `extent` completely, in order.
    ///
    /// # Errors
    /// A leaf is not here; `out` holds a part of the answer.
    pub fn lookup(&self, extent: Extent, out: &mut Vec<MapPiece>) -> Result<(), Absent> {
        let mut pieces = Vec::new();
        let mut below = Vec::new();
        self.dirty.lookup(extent, &mut pieces);
        for piece in pieces {
            match piece {
                Piece::Hit(extent, DirtyExtent { source: DirtySource::Zero, .. }) => {
                    out.push(MapPiece::Zero { extent });
                }
                Piece::Hit(
                    extent,
                    DirtyExtent { seq, source: DirtySource::Log { record, sector } },
                ) => {
                    out.push(MapPiece::Log { extent, seq, record, sector });
                }
                Piece::Gap(gap) => {
                    self.clean.lookup(gap, &mut below)?;
                    out.extend(below.drain(..).map(|piece| match piece {
                        CleanPiece::Object { extent, object, object_sector } => {
                            MapPiece::Object { extent, object, object_sector }
                        }
                        CleanPiece::Hole { extent } => MapPiece::Hole { extent },
                    }));
                }
            }
        }
        Ok(())
    }

    /// The first sector at or after `at` that holds data; `None` if there is none before the
    /// end of the volume.
    ///
    /// # Errors
    /// A leaf is not here.
    pub fn next_data(&self, at: Lba) -> Result<Option<Lba>, Absent> {
        let end = Lba::new(self.sectors);
        let mut at = at;
        while at < end {
            match self.dirty.piece_at(at) {
                Some(Piece::Hit(_, DirtyExtent { source: DirtySource::Log { .. }, .. })) => {
                    return Ok(Some(at));
                }
                Some(Piece::Hit(zeroes, _)) => at = zeroes.end(),
                Some(Piece::Gap(gap)) => match self.clean.next_mapped(at)? {
                    Some(found) if found < gap.end() => return Ok((found < end).then_some(found)),
                    _ => at = gap.end(),
                },
                None => break,
            }
        }
        Ok(None)
    }

    /// The first sector at or after `at` that holds no data; the end of the volume if there
    /// is none before it.
    ///
    /// # Errors
    /// A leaf is not here. Everything up to where it stopped is data.
    pub fn next_hole(&self, at: Lba) -> Result<Lba, Halted> {
        let end = Lba::new(self.sectors);
        let mut at = at;
        while at < end {
            match self.dirty.piece_at(at) {
                Some(Piece::Hit(data, DirtyExtent { source: DirtySource::Log { .. }, .. })) => {
                    at = data.end()
                }
                Some(Piece::Gap(gap)) => {
                    at = self.clean.next_hole(at, gap.end())?;
                    if at < gap.end() {
                        break;
                    }
                }
                Some(Piece::Hit(..)) | None => break,
            }
        }
        Ok(at.min(end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const DISK: u64 = 64;

    /// What a sector holds: the record that wrote it and the place in that record, so that
    /// the oracle sees a wrong offset as well.
    type Content = Option<(u64, u64)>;

    #[derive(Clone, Debug)]
    enum Op {
        Write(u64, u64),
        Trim(u64, u64),
        Resize(u64),
        /// Commit what was written so far, in slices of so many extents, with a write at this
        /// place after each slice.
        Commit(usize, Option<(u64, u64)>),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            6 => (0..DISK, 1..20u64).prop_map(|(s, n)| Op::Write(s, n)),
            2 => (0..DISK, 1..30u64).prop_map(|(s, n)| Op::Trim(s, n)),
            1 => (1..=DISK).prop_map(Op::Resize),
            2 => (1..5usize, proptest::option::of((0..DISK, 1..20u64))).prop_map(|(n, w)| Op::Commit(n, w)),
        ];
        proptest::collection::vec(op, 1..50)
    }

    /// The maps beside one cell per sector, with a model of the log and of the stream.
    struct Model {
        maps: Maps,
        cells: Vec<Content>,
        seq: u64,
        /// Content of each object, by sector of its data.
        objects: HashMap<u64, Vec<Content>>,
        /// What is not in an object yet: record, extent, and whether it is data.
        pending: Vec<(u64, Extent, bool)>,
    }

    impl Model {
        fn new() -> Self {
            Self {
                maps: Maps::new(DISK),
                cells: vec![None; DISK as usize],
                seq: 0,
                objects: HashMap::new(),
                pending: Vec::new(),
            }
        }

        fn extent(&self, start: u64, sectors: u64) -> Option<Extent> {
            Extent::new(Lba::new(start), sectors.min(self.maps.sectors().checked_sub(start)?))
        }

        fn step(&mut self, op: &Op) {
            match *op {
                Op::Write(start, sectors) => {
                    let Some(extent) = self.extent(start, sectors) else {
                        return;
                    };
                    self.seq += 1;
                    self.maps.write(extent, LogSeq::new(self.seq), LogPos::new(self.seq), 0);
                    for i in 0..extent.sectors() {
                        self.cells[(start + i) as usize] = Some((self.seq, i));
                    }
                    self.pending.push((self.seq, extent, true));
                }
                Op::Trim(start, sectors) => {
                    let Some(extent) = self.extent(start, sectors) else {
                        return;
                    };
                    self.seq += 1;
                    self.maps.trim(extent, LogSeq::new(self.seq));
                    self.cells[start as usize..extent.end().get() as usize].fill(None);
                    self.pending.push((self.seq, extent, false));
                }
                Op::Resize(sectors) => {
                    // A resize seals the batch; its own commit may come much later, so the
                    // model does it half of the time.
                    self.commit(2, None);
                    self.seq += 1;
                    self.maps.resize(sectors, LogSeq::new(self.seq));
                    self.cells[sectors as usize..].fill(None);
                    if self.seq.is_multiple_of(2) {
                        let (object, seq) = (ObjectSeq::new(self.seq), LogSeq::new(self.seq));
                        self.maps.commit_resize(object, sectors, seq).unwrap();
                    } else {
                        let beyond =
                            Extent::between(Lba::new(sectors), Lba::new(Extent::LBA_LIMIT));
                        self.pending.push((self.seq, beyond.unwrap(), false));
                    }
                }
                Op::Commit(slice, write) => self.commit(slice, write),
            }
            self.check();
        }

        fn commit(&mut self, slice: usize, write: Option<(u64, u64)>) {
            let through = LogSeq::new(self.seq);
            // The batch coalesces: an object's extents are disjoint, the latest record wins.
            let mut batch = DirtyMap::new();
            for (seq, extent, data) in self.pending.drain(..) {
                let source = if data {
                    DirtySource::Log { record: LogPos::new(seq), sector: 0 }
                } else {
                    DirtySource::Zero
                };
                batch.insert(extent, DirtyExtent { seq: LogSeq::new(seq), source });
            }
            let mut pieces = Vec::new();
            batch.lookup(Extent::new(Lba::ZERO, Extent::LBA_LIMIT).unwrap(), &mut pieces);
            let mut data = Vec::new();
            let mut extents = Vec::new();
            for piece in pieces {
                let Piece::Hit(extent, value) = piece else {
                    continue;
                };
                let place = match value.source {
                    DirtySource::Zero => None,
                    DirtySource::Log { record, sector } => {
                        let place = data.len() as u32;
                        let content = |i| Some((record.get(), u64::from(sector) + i));
                        data.extend((0..extent.sectors()).map(content));
                        Some(place)
                    }
                };
                extents.push(CommitExtent::from((extent, place)));
            }
            let object = ObjectSeq::new(self.seq.max(1));
            self.maps.objects_mut().add(object, data.len() as u64, 0);
            let kept = self.objects.entry(object.get()).or_default();
            assert!(kept.is_empty() || data.is_empty(), "an object has one content");
            if kept.is_empty() {
                *kept = data;
            }
            for slice in extents.chunks(slice) {
                self.maps.commit(object, slice, through).unwrap();
                self.check();
                if let Some((start, sectors)) = write {
                    self.step(&Op::Write(start, sectors));
                }
            }
            assert!(self.maps.dirty().oldest().is_none_or(|seq| seq > through), "all is committed");
        }

        fn check(&self) {
            let size = self.maps.sectors();
            let mut pieces = Vec::new();
            self.maps.lookup(Extent::new(Lba::ZERO, size).unwrap(), &mut pieces).unwrap();
            let mut seen: Vec<Content> = Vec::new();
            for piece in pieces {
                assert_eq!(piece.extent().start().get(), seen.len() as u64);
                let sectors = piece.extent().sectors();
                match piece {
                    MapPiece::Log { record, sector, .. } => {
                        seen.extend(
                            (0..sectors).map(|i| Some((record.get(), u64::from(sector) + i))),
                        );
                    }
                    MapPiece::Object { object, object_sector, .. } => {
                        let from = object_sector as usize;
                        seen.extend_from_slice(
                            &self.objects[&object.get()][from..from + sectors as usize],
                        );
                    }
                    MapPiece::Zero { .. } | MapPiece::Hole { .. } => {
                        seen.extend((0..sectors).map(|_| None))
                    }
                }
            }
            assert_eq!(seen, self.cells[..size as usize]);
            self.check_seek(&seen);
            self.check_live();
        }

        fn check_seek(&self, cells: &[Content]) {
            for from in 0..=cells.len() {
                let tail = &cells[from..];
                let data =
                    tail.iter().position(Option::is_some).map(|i| Lba::new((from + i) as u64));
                assert_eq!(self.maps.next_data(Lba::new(from as u64)), Ok(data));
                let hole = tail.iter().position(Option::is_none).map_or(cells.len(), |i| from + i);
                assert_eq!(self.maps.next_hole(Lba::new(from as u64)), Ok(Lba::new(hole as u64)));
            }
        }

        fn check_live(&self) {
            let mut live: HashMap<u64, u64> = HashMap::new();
            let all = Extent::new(Lba::ZERO, Extent::LBA_LIMIT).unwrap();
            let count = |extent: Extent, object: ObjectSeq, _| {
                *live.entry(object.get()).or_default() += extent.sectors();
            };
            self.maps.clean().mapped_in(all, count).unwrap();
            for (object, usage) in self.maps.objects().iter() {
                assert_eq!(usage.live_sectors, live.get(&object.get()).copied().unwrap_or(0));
            }
            assert_eq!(self.maps.objects().live_sectors(), self.maps.clean().mapped_sectors());
        }
    }

    proptest! {
        #[test]
        fn agrees_with_one_cell_per_sector_at_every_slice_of_a_commit(ops in ops()) {
            let mut model = Model::new();
            for op in &ops {
                model.step(op);
                let sectors = model.maps.sectors() as usize;
                let mapped = model.cells[..sectors].iter().flatten().count() as u64;
                prop_assert_eq!(model.maps.allocated_sectors(), mapped);
            }
            model.commit(1, None);
            model.check();
        }
    }

    #[test]
    fn a_dirty_trim_hides_committed_data() {
        let mut maps = Maps::new(100);
        let e = |s, n| Extent::new(Lba::new(s), n).unwrap();
        let data =
            CommitExtent { extent: e(10, 20), source: CommitSource::Data { object_sector: 0 } };
        maps.commit(ObjectSeq::new(1), &[data], LogSeq::new(1)).unwrap();
        maps.trim(e(0, 20), LogSeq::new(2));
        assert_eq!(maps.next_data(Lba::ZERO), Ok(Some(Lba::new(20))));
        assert_eq!(maps.next_hole(Lba::new(20)), Ok(Lba::new(30)));
        assert_eq!(maps.next_data(Lba::new(30)), Ok(None));
        assert_eq!(maps.next_hole(Lba::new(100)), Ok(Lba::new(100)));
    }
}
