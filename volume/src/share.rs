//! Sharing data between volumes: what one holds another points at as well, and nothing is copied.
//!
//! ```text
//!   source's clean map ── extents in objects that both have by the same number
//!        ──> lsvd-batch of the target: are they kept? an object that names them
//!        ──> its commit: the target's clean map points there
//! ```
//! * Two volumes have an object in common if the one is a clone of the other, or a snapshot of it, or
//!   both are clones of a third. Only what lies at the same place of both disks is shared: so an
//!   object's own header still tells where the disk has what it holds, which cleaning relies upon.
//! * An object must stay for as long as it is shared. It does if the target knows it and has not
//!   condemned it; or if it is the base's, which keeps it for the target since the target was made.
//! * It takes no record in the log. What is dirty in the target is uploaded before, so that the order
//!   of things on the disk is the stream's; on return what is shared is safe in the store.

use std::collections::BTreeMap;
use std::ops::Range;

use crossbeam::channel::bounded;

use crate::batch::ShareRequest;
use crate::error::Result;
use crate::format::{Base, Holder, Place, SHARED_EXTENTS_MAX, SharedExtent, Superblock};
use crate::map::{LEAF_SECTORS, MapPiece};
use crate::superblock_cell::SuperblockCell;
use crate::units::{Extent, Lba, ObjectSeq, SECTOR_BYTES};
use crate::volume::{Role, Volume};
use crate::writer::Writer;

/// What could be shared.
#[derive(Default)]
struct Candidates {
    extents: Vec<SharedExtent>,
    holders: BTreeMap<ObjectSeq, Holder>,
}

impl Volume {
    /// Has this volume point at the data that `source` has in `len` bytes at `offset`, as far as that is
    /// in objects which both have; nothing happens if it comes to less than `least` bytes. Returns which
    /// bytes are the source's now, in order; all others are as they were. Waits for the store.
    ///
    /// # Errors
    /// The volume cannot be written, or one of them cannot be read.
    pub fn share(
        &self,
        source: &Volume,
        offset: u64,
        len: u64,
        least: u64,
    ) -> Result<Vec<Range<u64>>> {
        let writer = self.writer()?;
        let start = offset.div_ceil(SECTOR_BYTES);
        let end = offset.saturating_add(len) / SECTOR_BYTES;
        let Some(whole) = Extent::between(Lba::new(start), Lba::new(end)) else {
            return Ok(Vec::new());
        };
        if whole.bytes() < least {
            return Ok(Vec::new());
        }
        let _tie = writer.sharing.lock();
        let kept_by_base = self.kept_by_base(source)?;
        let found = self.candidates(source, whole, kept_by_base)?;
        if found.extents.is_empty() || found.bytes() < least {
            return Ok(Vec::new());
        }
        let is_dirty = {
            let maps = self.core.maps.read();
            maps.dirty().has_any(whole)
        };
        if is_dirty || writer.orders.committed_state().sectors < end {
            self.flush_to_store()?;
        }
        let mut shared = Vec::new();
        for some in found.extents.chunks(SHARED_EXTENTS_MAX) {
            let extents = self.share_some(writer, some, &found.holders, kept_by_base)?;
            let bytes = extents.iter().map(|shared| {
                let start = shared.extent.start().get() * SECTOR_BYTES;
                start..start + shared.extent.bytes()
            });
            shared.extend(bytes);
        }
        Ok(shared)
    }

    fn share_some(
        &self,
        writer: &Writer,
        extents: &[SharedExtent],
        holders: &BTreeMap<ObjectSeq, Holder>,
        kept_by_base: ObjectSeq,
    ) -> Result<Vec<SharedExtent>> {
        let mut used: Vec<_> = extents.iter().map(|shared| shared.from.object).collect();
        used.sort_unstable();
        used.dedup();
        let holders = used.iter().filter_map(|object| holders.get(object).copied()).collect();
        let (answer, answered) = bounded(1);
        let extents = extents.to_vec();
        writer.orders.share(ShareRequest { extents, holders, kept_by_base, answer });
        writer.log.wake_tail();
        answered.recv().map_err(|_| self.core.end_cause())
    }

    /// What `source` has in objects that this volume has as well, and keeps.
    fn candidates(
        &self,
        source: &Volume,
        whole: Extent,
        kept_by_base: ObjectSeq,
    ) -> Result<Candidates> {
        let mut found = Candidates::default();
        let mut pieces = Vec::new();
        for part in parts(whole) {
            source.core.ask_maps(|maps| {
                pieces.clear();
                maps.lookup(part, &mut pieces)
            })?;
            let held: Vec<_> = {
                let theirs = source.core.maps.read();
                let in_objects = pieces.iter().filter_map(|piece| match *piece {
                    MapPiece::Object { extent, object, object_sector } => {
                        let sector = u32::try_from(object_sector).ok()?;
                        let shared = SharedExtent { extent, from: Place { object, sector } };
                        Some((shared, theirs.objects().holder(object)?))
                    }
                    _ => None,
                });
                in_objects.filter(|(_, holder)| self.has_in_common(source, holder.object)).collect()
            };
            // One after the other: somebody may copy the other way.
            let ours = self.core.maps.read();
            for (shared, holder) in held {
                if holder.object <= kept_by_base || ours.objects().is_kept(holder.object) {
                    found.add(shared, holder);
                }
            }
        }
        Ok(found)
    }

    /// Whether an object of the one is that of the other as well.
    fn has_in_common(&self, source: &Volume, object: ObjectSeq) -> bool {
        let (ours, theirs) = (&self.core.stream, &source.core.stream);
        ours.owner(object) == theirs.owner(object) && !ours.is_cut(object)
    }

    /// Up to which object all that `source` shows of this volume's base is kept there for this volume.
    fn kept_by_base(&self, source: &Volume) -> Result<ObjectSeq> {
        let last = |superblock: &Superblock| {
            superblock.bases.last().filter(|base| !base.is_cut()).copied()
        };
        let Some(base) = last(&self.core.superblock.get()) else { return Ok(ObjectSeq::ZERO) };
        if source.uuid() != base.volume {
            // A clone of the same moment has what is kept for both.
            let theirs = last(&source.core.superblock.get());
            let is_same = |b: Base| (b.volume, b.snapshot) == (base.volume, base.snapshot);
            let is_kept = theirs.is_some_and(is_same) && self.is_kept_for(base)?;
            return Ok(if is_kept { base.at } else { ObjectSeq::ZERO });
        }
        let is_kept = match &source.role {
            // What is needed there now was needed, or came, after this one was made.
            Role::Writes(_) => true,
            Role::Follows(view) => view.through() >= base.at,
            Role::Stands { snapshot } => *snapshot == base.snapshot,
        };
        let is_kept = is_kept && self.is_kept_for(base)?;
        Ok(if is_kept { base.at } else { ObjectSeq::ZERO })
    }

    /// Whether the base has this volume in its list of clones. It stays there as long as the volume
    /// names the base.
    fn is_kept_for(&self, base: Base) -> Result<bool> {
        let found = SuperblockCell::open(self.core.stream.store(), base.volume)?;
        Ok(found.is_some_and(|found| {
            let kept = found.get().snapshots.into_iter().find(|kept| kept.id == base.snapshot);
            kept.is_some_and(|kept| kept.clones.contains(&self.core.uuid))
        }))
    }
}

impl Candidates {
    fn add(&mut self, shared: SharedExtent, holder: Holder) {
        self.holders.insert(holder.object, holder);
        if let Some(last) = self.extents.last_mut()
            && let Some(longer) = joined(last, &shared)
        {
            last.extent = longer;
            return;
        }
        self.extents.push(shared);
    }

    fn bytes(&self) -> u64 {
        self.extents.iter().map(|shared| shared.extent.bytes()).sum()
    }
}

/// The sectors of both, if the second goes on where the first ends, on the disk and in the object.
fn joined(first: &SharedExtent, second: &SharedExtent) -> Option<Extent> {
    let goes_on = first.extent.end() == second.extent.start()
        && first.from.object == second.from.object
        && u64::from(first.from.sector) + first.extent.sectors() == u64::from(second.from.sector);
    goes_on.then(|| Extent::between(first.extent.start(), second.extent.end())).flatten()
}

/// The sectors, cut where leaves of the map end: one must be in memory to be looked at, not all.
fn parts(whole: Extent) -> impl Iterator<Item = Extent> {
    let (start, end) = (whole.start().get(), whole.end().get());
    let leaves = start / LEAF_SECTORS..=(end - 1) / LEAF_SECTORS;
    leaves.filter_map(move |leaf| {
        let from = start.max(leaf * LEAF_SECTORS);
        Extent::between(Lba::new(from), Lba::new(end.min((leaf + 1) * LEAF_SECTORS)))
    })
}
