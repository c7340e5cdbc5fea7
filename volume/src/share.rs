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
//!   condemned it; or if it is the base's, which keeps it for the target since the target was made. What
//!   is dead in the target may have been condemned by the writer before, whose last checkpoint may still
//!   be named: so that one's place is taken first.
//! * It takes no record in the log. All that was written to the target before is uploaded before, wherever
//!   it is: the store holds a prefix of history. On return what is shared is safe in the store.
//! * It waits a few seconds for what has to be uploaded before, and not at all for a store that is known
//!   not to answer: then nothing is shared. What was put into the stream is waited for: nothing may come
//!   to the target after the answer.
//! * The log gets a record that changes nothing, so that who asks whether something was written sees it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, bounded};

use crate::batch::ShareRequest;
use crate::error::Result;
use crate::format::{Base, Holder, Place, SHARED_EXTENTS_MAX, SharedExtent, Superblock};
use crate::log::{Entry, Pass};
use crate::map::{LEAF_SECTORS, MapPiece};
use crate::units::{Extent, Lba, ObjectSeq, SECTOR_BYTES};
use crate::volume::{Role, Volume};
use crate::writer::Writer;

/// How often it is looked whether the store answers still.
const TICK: Duration = Duration::from_millis(100);

/// How long it waits for what has to be in the store before anything can be shared.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// Less than this is not shared.
    pub least_bytes: u64,
    /// What lies behind so much data that cannot be shared is left alone.
    pub other_bytes_max: u64,
}

/// What could be shared.
#[derive(Default)]
struct Candidates {
    extents: Vec<SharedExtent>,
    holders: BTreeMap<ObjectSeq, Holder>,
    /// What the target has at the same place already.
    already: Vec<Extent>,
    /// Data of the source that cannot be shared.
    other_bytes: u64,
}

impl Volume {
    /// Has this volume point at the data that `source` has in `len` bytes at `offset`, as far as that is
    /// in objects which both have and is worth it. Returns which bytes are the source's now, in order;
    /// all others are as they were.
    ///
    /// # Errors
    /// The volume cannot be written, or one of them cannot be read, as it belongs to another host now.
    pub fn share(
        &self,
        source: &Volume,
        offset: u64,
        len: u64,
        limits: ShareLimits,
    ) -> Result<Vec<Range<u64>>> {
        let writer = self.writer()?;
        let start = offset.div_ceil(SECTOR_BYTES);
        let end = offset.saturating_add(len) / SECTOR_BYTES;
        let whole = Extent::between(Lba::new(start), Lba::new(end));
        let Some(whole) = whole.filter(|whole| whole.bytes() >= limits.least_bytes) else {
            return Ok(Vec::new());
        };
        source.core.poison.check_deposed()?;
        // Somebody else copies to it, or it is about to leave its base.
        let alone = writer.share_lock.try_lock();
        let Some(_alone) = alone.filter(|_| !self.is_away() && !source.is_away()) else {
            return Ok(Vec::new());
        };
        let found = self.candidates(source, whole, limits)?;
        let mut shared = found.already.clone();
        let until = self.core.platform.monotonic() + PATIENCE;
        if found.bytes() >= limits.least_bytes.max(1)
            && self.upload_first(writer, until)?
            && self.name_first(writer, until)?
        {
            source.core.poison.check_deposed()?;
            for some in found.extents.chunks(SHARED_EXTENTS_MAX) {
                let extents = self.share_some(writer, some, &found)?;
                shared.extend(extents.iter().map(|shared| shared.extent));
            }
            self.note_change(writer)?;
        }
        shared.sort_unstable_by_key(|extent| extent.start());
        Ok(shared.into_iter().map(bytes_of).collect())
    }

    fn is_away(&self) -> bool {
        self.core.health.trouble().since_ms.is_some()
    }

    /// Has all that was acknowledged uploaded: what comes first must be in the store first. False if that
    /// takes too long.
    fn upload_first(&self, writer: &Writer, until: Duration) -> Result<bool> {
        let through = writer.log.last_seq();
        if writer.orders.committed_state().record >= through {
            return Ok(true);
        }
        writer.drain_to(through);
        self.outlast(writer, Some(until), || writer.orders.wait_committed(through, TICK))
    }

    /// Has a checkpoint of this writer named, if none is yet. False if that takes too long.
    fn name_first(&self, writer: &Writer, until: Duration) -> Result<bool> {
        if writer.orders.has_named() {
            return Ok(true);
        }
        let asked = writer.orders.checkpoint(false);
        writer.log.wake_tail();
        self.outlast(writer, Some(until), || writer.orders.wait_checkpoint(asked, TICK))
    }

    /// Waits until it is done. With an end, false if that has come, or the store does not answer.
    fn outlast(
        &self,
        writer: &Writer,
        until: Option<Duration>,
        mut is_done: impl FnMut() -> bool,
    ) -> Result<bool> {
        while !is_done() {
            if writer.orders.ended() {
                return Err(self.core.end_cause());
            }
            let is_over = |until| self.is_away() || self.core.platform.monotonic() >= until;
            if until.is_some_and(is_over) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn share_some(
        &self,
        writer: &Writer,
        extents: &[SharedExtent],
        found: &Candidates,
    ) -> Result<Vec<SharedExtent>> {
        let of_extent = |shared: &SharedExtent| {
            let object = shared.from.object;
            found.holders.get(&object).map(|holder| (object, *holder))
        };
        let holders = extents.iter().filter_map(of_extent).collect();
        let (answer, answered) = bounded(1);
        let extents = extents.to_vec();
        writer.orders.share(ShareRequest { extents, holders, answer });
        writer.log.wake_tail();
        let mut outcome = Err(RecvTimeoutError::Timeout);
        let mut is_answered = || {
            outcome = answered.recv_timeout(TICK);
            !matches!(outcome, Err(RecvTimeoutError::Timeout))
        };
        let until = self.core.platform.monotonic() + PATIENCE;
        if !self.outlast(writer, Some(until), &mut is_answered)? {
            if writer.orders.withdraw_shares() {
                return Ok(Vec::new());
            }
            // It is in the stream, or about to be: it comes as soon as the store takes it.
            self.outlast(writer, None, &mut is_answered)?;
        }
        outcome.map_err(|_| self.core.end_cause())
    }

    /// Puts a record into the log that changes nothing: what is shared has none.
    fn note_change(&self, writer: &Writer) -> Result<()> {
        let _alone = writer.resizing.lock();
        let sectors = self.core.maps.read().sectors();
        self.append_patiently(writer, Entry::Resize { sectors }, Pass::Waited).map(drop)
    }

    /// What `source` has in objects that this volume has as well, and keeps.
    fn candidates(
        &self,
        source: &Volume,
        whole: Extent,
        limits: ShareLimits,
    ) -> Result<Candidates> {
        let kept_by_base = self.kept_by_base(source);
        let mut found = Candidates::default();
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for part in parts(whole) {
            if found.other_bytes >= limits.other_bytes_max {
                break;
            }
            source.core.ask_maps(|maps| {
                theirs.clear();
                maps.lookup(part, &mut theirs)
            })?;
            let held: Vec<_> = {
                let maps = source.core.maps.read();
                let in_objects = theirs.iter().filter_map(|piece| match *piece {
                    MapPiece::Object { extent, object, object_sector } => {
                        let sector = u32::try_from(object_sector).ok()?;
                        let shared = SharedExtent { extent, from: Place { object, sector } };
                        Some((shared, maps.objects().holder(object)?))
                    }
                    _ => None,
                });
                in_objects.filter(|(_, holder)| self.has_in_common(source, holder.object)).collect()
            };
            let is_data =
                |piece: &&MapPiece| matches!(piece, MapPiece::Log { .. } | MapPiece::Object { .. });
            let data = theirs.iter().filter(is_data).map(|piece| piece.extent().bytes());
            found.other_bytes += data.sum::<u64>();
            if held.is_empty() {
                continue;
            }
            // One map after the other: somebody may copy the other way.
            self.core.ask_maps(|maps| {
                ours.clear();
                maps.lookup(part, &mut ours)
            })?;
            let maps = self.core.maps.read();
            for (shared, holder) in held {
                if holder.object <= kept_by_base || maps.objects().is_kept(holder.object) {
                    found.other_bytes -= shared.extent.bytes();
                    found.add(shared, holder, &ours);
                }
            }
        }
        Ok(found)
    }

    /// Whether an object of the one is that of the other as well, and somebody has it.
    fn has_in_common(&self, source: &Volume, object: ObjectSeq) -> bool {
        let (ours, theirs) = (&self.core.stream, &source.core.stream);
        // It may have been cut off since it was opened.
        let is_gone = object <= ours.base_through() && tie(&self.core.superblock.get()).is_none();
        ours.owner(object) == theirs.owner(object) && !is_gone
    }

    /// Up to which object all that `source` shows of this volume's base is kept there for this volume.
    fn kept_by_base(&self, source: &Volume) -> ObjectSeq {
        let Some(base) = tie(&self.core.superblock.get()) else { return ObjectSeq::ZERO };
        let is_same = |other: Base| (other.volume, other.snapshot) == (base.volume, base.snapshot);
        let is_kept = match source.role() {
            // A clone of the same moment has what is kept for both.
            _ if source.uuid() != base.volume => {
                tie(&source.core.superblock.get()).is_some_and(is_same)
            }
            Role::Stands { snapshot } => *snapshot == base.snapshot,
            // What is needed there was needed, or came, after this one was made; unless the view is older:
            // a writer may not know that another host has the volume.
            Role::Writes(theirs) => theirs.orders.committed_object() >= base.at,
            Role::Follows(view) => view.shown() >= base.at,
        };
        if is_kept { base.at } else { ObjectSeq::ZERO }
    }
}

impl Candidates {
    /// Takes in what the source has, but for what lies at the same place in `ours`.
    fn add(&mut self, shared: SharedExtent, holder: Holder, ours: &[MapPiece]) {
        let first = ours.partition_point(|piece| piece.extent().end() <= shared.extent.start());
        for piece in ours.iter().skip(first) {
            let Some(part) = piece.extent().intersect(shared.extent) else { break };
            let skip = part.start().since(shared.extent.start());
            // The place is within the object's data, whose sectors fit.
            let sector = shared.from.sector.wrapping_add(skip as u32);
            let is_same = match *piece {
                MapPiece::Object { extent, object, object_sector } => {
                    let at = object_sector + part.start().since(extent.start());
                    (object, at) == (shared.from.object, u64::from(sector))
                }
                _ => false,
            };
            if is_same {
                self.already.push(part);
            } else {
                self.want(
                    SharedExtent { extent: part, from: Place { sector, ..shared.from } },
                    holder,
                );
            }
        }
    }

    fn want(&mut self, shared: SharedExtent, holder: Holder) {
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

/// The base that a clone needs.
fn tie(clone: &Superblock) -> Option<Base> {
    clone.bases.last().filter(|base| !base.is_cut()).copied()
}

fn bytes_of(extent: Extent) -> Range<u64> {
    let start = extent.start().get() * SECTOR_BYTES;
    start..start + extent.bytes()
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
