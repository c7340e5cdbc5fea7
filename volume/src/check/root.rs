//! A root of the map: one checkpoint, and everything that it says.
//!
//! ```text
//!   table --- listing       every object is there, with its size
//!   fences -- their headers
//!   leaves -- decode, and point at objects of the table, as the headers of these say
//!   counts -- of sectors in use, by the leaves and by the table
//! ```
//! A volume has one root, a second one while a newer checkpoint is not published yet, and one more for
//! each snapshot. Of what was dead when a snapshot was made, or is dead in the base of a clone, nothing
//! need be there, nor of a checkpoint that was only the newest one then.

use std::collections::{HashMap, HashSet};

use super::extents::Extents;
use super::judge::Verdict;
use super::leaves::{self, groups};
use super::listing::Listing;
use super::report::{Finding, Severity, VolumeCheck};
use super::survey::{AT_ONCE, Looked, survey};
use super::volume::{ADVICE_RESTORE, Context};
use crate::error::{Error, Result};
use crate::format::{CheckpointHeader, FenceRecord, LeafRef, ObjectHeader, ObjectRecord};
use crate::units::{Extent, ObjectSeq, SECTOR_BYTES};

/// Reads of leaves that are made at the same time; each is at most 4 MiB.
const READS_AT_ONCE: usize = 16;

/// Checks what `header` says; notes the figures in `seen`. `is_past` says that it is a snapshot's.
pub(crate) fn check_root(
    cx: &Context<'_>,
    header: &CheckpointHeader,
    is_past: bool,
    listing: &Listing,
    seen: &mut VolumeCheck,
) -> Result<()> {
    let root = Root {
        cx,
        header,
        is_past,
        table: header.objects.iter().map(|object| (object.seq, *object)).collect(),
    };
    if header.stamp.size_sectors > Extent::LBA_LIMIT {
        root.wrong(header.stamp.seq, "it gives an impossible size");
    }
    root.check_table(listing, seen)?;
    root.check_fences()?;
    root.check_holders();
    root.check_leaves(seen)
}

struct Root<'a> {
    cx: &'a Context<'a>,
    header: &'a CheckpointHeader,
    is_past: bool,
    table: HashMap<ObjectSeq, ObjectRecord>,
}

impl Root<'_> {
    fn wrong(&self, object: ObjectSeq, detail: impl ToString) {
        let what = self.cx.stream.describe(object);
        self.cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
    }

    /// Every object of the table is there, with its size.
    fn check_table(&self, listing: &Listing, seen: &mut VolumeCheck) -> Result<()> {
        let objects = &self.header.objects;
        let holders: HashSet<_> = self.header.leaves.iter().map(|leaf| leaf.object).collect();
        self.cx.desk.begin("comparing objects with the listing", objects.len() as u64)?;
        for object in objects {
            let is_others = self.is_past || object.seq <= self.cx.stream.base_through();
            let is_empty = object.data_sectors == 0 && !holders.contains(&object.seq);
            if is_others && (object.dead_since.is_some() || is_empty) {
                continue;
            }
            seen.objects += 1;
            seen.stored_bytes = seen.stored_bytes.saturating_add(object.stored_bytes);
            match listing.size_of(object.seq) {
                Some(size) => {
                    if object.condemned {
                        seen.condemned_objects += 1;
                        seen.condemned_bytes += size;
                    } else if size != object.stored_bytes {
                        let expected = object.stored_bytes;
                        self.wrong(object.seq, format!("it is {size} of {expected} bytes"));
                    }
                }
                None if object.condemned => {}
                None if self.cx.judge.verdict(object.seq)? == Verdict::Lost => {
                    let bytes = object.live_sectors * SECTOR_BYTES;
                    self.wrong(
                        object.seq,
                        format!("it is missing; {bytes} bytes of the disk are in it"),
                    );
                }
                None => {}
            }
        }
        self.cx.desk.done(objects.len() as u64)
    }

    /// Every fence is there, and is what the checkpoint says; but for those of a base that is needed no more.
    fn check_fences(&self) -> Result<()> {
        let needed = |fence: &&FenceRecord| !self.cx.stream.is_cut(fence.id.seq);
        let fences: Vec<_> = self.header.fences.iter().filter(needed).collect();
        self.cx.desk.begin("reading fences", fences.len() as u64)?;
        for some in fences.chunks(AT_ONCE) {
            let seqs: Vec<_> = some.iter().map(|fence| fence.id.seq).collect();
            let looked = survey(self.cx.stream, &seqs, |stream, seq| stream.header(seq))?;
            for (fence, looked) in some.iter().zip(looked) {
                self.check_fence(fence, looked)?;
            }
            self.cx.desk.done(some.len() as u64)?;
        }
        Ok(())
    }

    fn check_fence(&self, fence: &FenceRecord, looked: Looked<ObjectHeader>) -> Result<()> {
        let seq = fence.id.seq;
        match looked {
            Looked::Found(ObjectHeader::Fence(found)) if found.id() == fence.id => {}
            Looked::Found(_) => self.wrong(seq, "it should be a fence, and is not that one"),
            // Also fails if the whole volume is being deleted.
            Looked::Missing if self.cx.judge.verdict(seq)? == Verdict::Lost => {
                let detail = "this fence is missing: a deposed writer could take its number";
                self.wrong(seq, detail);
            }
            Looked::Missing => {}
            Looked::Damaged(error) => self.cx.desk.damaged(&error, ADVICE_RESTORE),
        }
        Ok(())
    }

    /// Whoever holds a leaf is known, and not given up.
    fn check_holders(&self) {
        let mut checked = HashSet::new();
        for leaf in self.header.leaves.iter().filter(|leaf| checked.insert(leaf.object)) {
            let (object, own) = (leaf.object, self.header.stamp.seq);
            match self.table.get(&object) {
                Some(record) if record.dead_since.is_some() => {
                    let detail = format!("the map needs it, but checkpoint {own} gives it up");
                    self.wrong(object, detail);
                }
                // The checkpoint that a clone begins with is known to its base alone.
                None if object <= self.cx.stream.base_through() => {}
                None if object <= self.header.covers => {
                    let detail = format!("the map needs it, but checkpoint {own} does not know it");
                    self.wrong(object, detail);
                }
                _ => {}
            }
        }
    }

    /// Reads all leaves, and compares their extents with the objects.
    fn check_leaves(&self, seen: &mut VolumeCheck) -> Result<()> {
        let mut leaves: Vec<LeafRef> = self.header.leaves.clone();
        leaves.sort_unstable_by_key(|leaf| (leaf.object, leaf.offset));
        let mut extents = Extents::new(self.cx, &self.table);
        let mut all_read = true;
        for some in groups(&leaves).chunks(READS_AT_ONCE) {
            let phase = "reading the map";
            self.cx.desk.begin(phase, leaves.len() as u64)?;
            self.cx.desk.done(seen.leaves)?;
            self.cx.desk.may_read(some.iter().map(leaves::Group::bytes).sum())?;
            for (leaf, read) in leaves::read(self.cx.stream, some)?.into_iter().flatten() {
                seen.leaves += 1;
                match read {
                    Ok(read) => extents.add(leaf.index, &read)?,
                    Err(error) => {
                        all_read = false;
                        self.unreadable(&leaf, error)?;
                    }
                }
            }
        }
        extents.compare()?;
        seen.extents += extents.extents;
        seen.mapped_bytes += extents.sectors * SECTOR_BYTES;
        if all_read {
            self.check_counts(&extents);
        }
        Ok(())
    }

    fn unreadable(&self, leaf: &LeafRef, error: Error) -> Result<()> {
        if self.cx.judge.verdict(leaf.object)? == Verdict::Collected {
            return Ok(());
        }
        let Error::Damaged { what, detail } = error else {
            self.cx.desk.damaged(&error, ADVICE_RESTORE);
            return Ok(());
        };
        let mib = leaf.index.saturating_mul(16);
        let detail =
            format!("{detail}; it holds leaf {}, 16 MiB of the disk from {mib} MiB on", leaf.index);
        self.cx.desk.damaged(&Error::Damaged { what, detail }, ADVICE_RESTORE);
        Ok(())
    }

    /// The table counts what the leaves point at.
    fn check_counts(&self, extents: &Extents<'_>) {
        for (object, live) in &extents.live {
            if !self.table.contains_key(object) {
                let bytes = live * SECTOR_BYTES;
                let detail = format!(
                    "the map points at {bytes} bytes in it, but checkpoint {} does not know it",
                    self.header.stamp.seq
                );
                self.wrong(*object, detail);
            }
        }
        for object in &self.header.objects {
            let live = extents.live.get(&object.seq).copied().unwrap_or(0);
            if live != object.live_sectors {
                let detail = format!(
                    "it counts {} sectors in use of object {}, the map points at {live}",
                    object.live_sectors, object.seq
                );
                self.wrong(self.header.stamp.seq, detail);
            }
        }
    }
}
