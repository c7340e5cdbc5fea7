//! The extents of a map, compared with what the objects' headers say.
//!
//! ```text
//!   leaf:    LBA 1000 +16  ->  object 7, sector 40
//!   object 7:  [LBA 992 +24 data at sector 32]      1008 is at 48: it agrees
//! ```
//! Extents come by the leaf and are compared by the object: they are collected up to a limit, sorted
//! by object, and compared while a bounded number of headers is kept. A map that is scattered over
//! more than that has the same header read several times; memory does not grow with the volume.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::judge::Verdict;
use super::report::{Finding, Severity};
use super::survey::{AT_ONCE, Looked, survey};
use super::volume::{ADVICE_RESTORE, Context};
use crate::error::{Error, Result};
use crate::format::{LEAF_SECTORS, LeafExtent, ObjectHeader, ObjectRecord};
use crate::stream::{Found, Stream};
use crate::units::ObjectSeq;

/// Extents that are collected: 24 bytes each.
const PENDING_MAX: usize = 1 << 20;

/// Placements of headers that are kept: 16 bytes each.
const KEPT_MAX: usize = 4 << 20;

/// An extent of the map.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    object: ObjectSeq,
    lba: u64,
    object_sector: u32,
    sectors: u32,
}

/// A run of data in an object, in the order of its sectors.
#[derive(Clone, Copy, Debug)]
struct Placement {
    lba: u64,
    object_sector: u32,
    sectors: u32,
}

/// Data that an object holds, by its header.
type Placements = Arc<Vec<Placement>>;

/// See the module.
pub(crate) struct Extents<'a> {
    cx: &'a Context<'a>,
    /// What the checkpoint says of the objects.
    table: &'a HashMap<ObjectSeq, ObjectRecord>,
    pending: Vec<Mapped>,
    kept: HashMap<ObjectSeq, Placements>,
    kept_placements: usize,
    /// Objects of which enough was said.
    bad: HashSet<ObjectSeq>,
    /// Sectors that the map points at, by object.
    pub(crate) live: BTreeMap<ObjectSeq, u64>,
    pub(crate) extents: u64,
    pub(crate) sectors: u64,
}

impl<'a> Extents<'a> {
    pub(crate) fn new(cx: &'a Context<'a>, table: &'a HashMap<ObjectSeq, ObjectRecord>) -> Self {
        Self {
            cx,
            table,
            pending: Vec::new(),
            kept: HashMap::new(),
            kept_placements: 0,
            bad: HashSet::new(),
            live: BTreeMap::new(),
            extents: 0,
            sectors: 0,
        }
    }

    /// Takes in a leaf.
    pub(crate) fn add(&mut self, index: u64, leaf: &[LeafExtent]) -> Result<()> {
        let start = index.saturating_mul(LEAF_SECTORS.into());
        for extent in leaf {
            self.extents += 1;
            self.sectors += u64::from(extent.sectors);
            *self.live.entry(extent.object).or_default() += u64::from(extent.sectors);
            self.pending.push(Mapped {
                object: extent.object,
                lba: start.saturating_add(extent.start.into()),
                object_sector: extent.object_sector,
                sectors: extent.sectors.into(),
            });
        }
        if self.pending.len() >= PENDING_MAX { self.compare() } else { Ok(()) }
    }

    /// Compares what was taken in.
    pub(crate) fn compare(&mut self) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_unstable_by_key(|mapped| (mapped.object, mapped.object_sector));
        let of_objects: Vec<&[Mapped]> = pending.chunk_by(|a, b| a.object == b.object).collect();
        let phase = "comparing the map with the objects' headers";
        self.cx.desk.begin(phase, of_objects.len() as u64)?;
        for some in of_objects.chunks(AT_ONCE) {
            let found = self.headers(some.iter().filter_map(|of| of.first()).map(|m| m.object))?;
            for of_object in some {
                let Some(object) = of_object.first().map(|mapped| mapped.object) else { continue };
                if let Some(placements) = found.get(&object)
                    && let Some(wrong) = of_object.iter().find(|m| !agrees(placements, m))
                {
                    self.contradiction(wrong);
                }
            }
            self.cx.desk.done(some.len() as u64)?;
        }
        Ok(())
    }

    fn contradiction(&mut self, wrong: &Mapped) {
        self.bad.insert(wrong.object);
        let detail = format!(
            "the map says that it holds sectors {}+{} of the disk from its sector {} on; its header \
             says otherwise",
            wrong.lba, wrong.sectors, wrong.object_sector
        );
        let what = self.cx.stream.describe(wrong.object);
        self.cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
    }

    /// What the headers of objects say; those that cannot be had are left out, and reported.
    fn headers(
        &mut self,
        objects: impl Iterator<Item = ObjectSeq>,
    ) -> Result<HashMap<ObjectSeq, Placements>> {
        let (mut found, mut wanted) = (HashMap::new(), Vec::new());
        for object in objects.filter(|object| !self.bad.contains(object)) {
            match self.kept.get(&object) {
                Some(kept) => drop(found.insert(object, Arc::clone(kept))),
                None => wanted.push(object),
            }
        }
        let looked = survey(self.cx.stream, &wanted, look)?;
        for (object, looked) in wanted.into_iter().zip(looked) {
            match looked {
                Looked::Found(header) => {
                    self.agree_with_table(object, &header);
                    let placements = Arc::new(header.placements);
                    self.keep(object, &placements);
                    found.insert(object, placements);
                }
                Looked::Missing => self.missing(object)?,
                Looked::Damaged(error) => {
                    self.bad.insert(object);
                    self.cx.desk.damaged(&self.with_loss(object, error), ADVICE_RESTORE);
                }
            }
        }
        Ok(found)
    }

    fn keep(&mut self, object: ObjectSeq, placements: &Placements) {
        if self.kept_placements + placements.len() > KEPT_MAX {
            self.kept.clear();
            self.kept_placements = 0;
        }
        self.kept_placements += placements.len();
        self.kept.insert(object, Arc::clone(placements));
    }

    fn agree_with_table(&mut self, object: ObjectSeq, header: &Header) {
        let Some(record) = self.table.get(&object) else { return };
        if record.data_sectors == header.sectors && record.stored_bytes == header.bytes {
            return;
        }
        let detail = format!(
            "its header says {} sectors and {} bytes, the checkpoint's table {} and {}",
            header.sectors, header.bytes, record.data_sectors, record.stored_bytes
        );
        let what = self.cx.stream.describe(object);
        self.cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
    }

    fn missing(&mut self, object: ObjectSeq) -> Result<()> {
        self.bad.insert(object);
        if self.cx.judge.verdict(object)? == Verdict::Lost {
            let what = self.cx.stream.describe(object);
            let error = Error::damaged(what, "the map points at it, but it is missing");
            self.cx.desk.damaged(&self.with_loss(object, error), ADVICE_RESTORE);
        }
        Ok(())
    }

    /// The error, and how much of the disk it concerns.
    fn with_loss(&self, object: ObjectSeq, error: Error) -> Error {
        let Error::Damaged { what, detail } = error else { return error };
        let live = self.table.get(&object).map_or(0, |record| record.live_sectors);
        let bytes = live * crate::units::SECTOR_BYTES;
        Error::Damaged { what, detail: format!("{detail}; {bytes} bytes of the disk are in it") }
    }
}

/// What is taken of an object's header.
struct Header {
    placements: Vec<Placement>,
    sectors: u64,
    bytes: u64,
}

fn look(stream: &Stream, object: ObjectSeq) -> Result<Option<Header>> {
    let Some(Found { header, bytes }) = stream.find(object)? else { return Ok(None) };
    let ObjectHeader::Data(data) = header else {
        let detail = "the map points at it, but it holds no data";
        return Err(Error::damaged(stream.describe(object), detail));
    };
    let placements = data.placements().filter_map(|(extent, at)| {
        // The sum of all of them fits; that was checked when it was decoded.
        let (lba, sectors) = (extent.start().get(), extent.sectors() as u32);
        Some(Placement { lba, object_sector: at?, sectors })
    });
    let placements = placements.collect();
    Ok(Some(Header { placements, sectors: data.logical_sectors().into(), bytes }))
}

/// Whether the object holds these sectors of the disk there; they may be several runs of it.
fn agrees(placements: &[Placement], mapped: &Mapped) -> bool {
    let (mut at, mut lba) = (u64::from(mapped.object_sector), mapped.lba);
    let end = at + u64::from(mapped.sectors);
    let first = placements.partition_point(|p| u64::from(p.object_sector) <= at).checked_sub(1);
    let Some(runs) = first.and_then(|first| placements.get(first..)) else { return false };
    for run in runs {
        let start = u64::from(run.object_sector);
        let run_end = start + u64::from(run.sectors);
        if at >= end {
            break;
        }
        if at < start || at >= run_end || run.lba.saturating_add(at - start) != lba {
            return false;
        }
        lba = lba.saturating_add(run_end.min(end) - at);
        at = run_end.min(end);
    }
    at >= end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lba: u64, object_sector: u32, sectors: u32) -> Placement {
        Placement { lba, object_sector, sectors }
    }

    fn mapped(lba: u64, object_sector: u32, sectors: u32) -> Mapped {
        Mapped { object: ObjectSeq::new(1), lba, object_sector, sectors }
    }

    #[test]
    fn what_the_header_says_agrees_and_nothing_else_does() {
        let runs = [run(100, 0, 8), run(200, 8, 8), run(208, 16, 4)];
        for good in [(100, 0, 8), (103, 3, 5), (200, 8, 12), (207, 15, 2), (208, 16, 4)] {
            assert!(agrees(&runs, &mapped(good.0, good.1, good.2)), "{good:?}");
        }
        for bad in [(100, 0, 9), (101, 0, 4), (200, 8, 13), (208, 17, 1), (220, 20, 1), (99, 0, 1)]
        {
            assert!(!agrees(&runs, &mapped(bad.0, bad.1, bad.2)), "{bad:?}");
        }
        assert!(!agrees(&[], &mapped(0, 0, 1)));
    }
}
