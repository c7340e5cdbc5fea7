//! Clones of any moment of a volume's history that was not collected since.
//!
//! What a store still holds of the past is what nobody has deleted yet: objects that the head needs,
//! that snapshots pin, or that wait for their deletion to be announced. A moment can be had if there is
//! a checkpoint before it and every object after that, and none that it needs is gone or condemned. It
//! is then kept as any snapshot is, by an entry in the superblock.

use uuid::Uuid;

use super::ATTEMPTS;
use crate::checkpoint::read_checkpoint;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{
    CheckpointHeader, CheckpointRef, FileAttrs, ShortText, Snapshot, Superblock, VolumeState,
};
use crate::info::VolumeInfo;
use crate::leaf_loader::LeafLoader;
use crate::map::ObjectTable;
use crate::name::VolumeName;
use crate::recover::{StreamState, pins};
use crate::stream::Stream;
use crate::units::{ObjectSeq, SECTOR_BYTES};

/// A moment of a volume's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// When this object was committed.
    Object(ObjectSeq),
    /// At this time, in milliseconds since 1970: what had been uploaded by then.
    Time(u64),
}

impl Engine {
    /// Makes a volume that begins as another one was at some moment.
    ///
    /// # Errors
    /// That moment cannot be had any more, the new name is taken, or the store fails.
    pub fn clone_moment(
        &self,
        name: &VolumeName,
        moment: Moment,
        new: &VolumeName,
        attrs: FileAttrs,
    ) -> Result<VolumeInfo> {
        self.check_may_write(name)?;
        self.check_unused(new)?;
        let uuid = self.fresh_uuid();
        let found = self.keep_moment(name, moment, uuid)?;
        self.clone_at(name, &found, new, uuid, attrs)
    }

    fn keep_moment(&self, name: &VolumeName, moment: Moment, uuid: Uuid) -> Result<Snapshot> {
        let gone = || {
            let moment = match moment {
                Moment::Object(seq) => format!("object {seq}"),
                Moment::Time(_) => "that time".to_owned(),
            };
            let by =
                format!("its history at {moment} was not written yet, or is collected already");
            Error::NoSuchMoment { volume: name.to_string(), detail: by }
        };
        if matches!(moment, Moment::Time(ms) if ms > self.unix_millis()) {
            let detail = "that time is not there yet; there is nothing to clone".to_owned();
            return Err(Error::NoSuchMoment { volume: name.to_string(), detail });
        }
        for _ in 0..ATTEMPTS {
            let cell = self.cell(name)?;
            let superblock = cell.get();
            let newest = superblock.checkpoint.ok_or_else(gone)?;
            let past = match Past::known_at(self.stream_of(&superblock), &superblock, newest) {
                Ok(past) => past.find(moment).map(|state| state.map(|state| (past, state))),
                Err(error) => Err(error),
            };
            let (past, state) = match past {
                // It was collected while it was read.
                Err(Error::Damaged { .. }) if self.cell(name)?.get().checkpoint != Some(newest) => {
                    continue;
                }
                found => found?.ok_or_else(gone)?,
            };
            let checkpoint = state.entered.ok_or_else(gone)?;
            let open = self.opened(name);
            let mut made = None;
            self.step("history.begin")?;
            let is_kept = cell.try_update(|now| {
                if now.checkpoint != Some(newest) || now.bases != superblock.bases {
                    return Ok(false);
                }
                if now.state == VolumeState::Deleting {
                    return Err(Error::Deleted(name.to_string()));
                }
                // What a checkpoint does not cover it has not condemned. The one in the store may be
                // another writer's, who deletes what it condemns; the one in the making is ours.
                let kept = !past.is_cut_off(&state)
                    && all_kept(&state, &past.objects, newest.covers)
                    && open.as_ref().is_none_or(|open| {
                        all_kept(&state, open.core.maps.read().objects(), ObjectSeq::new(u64::MAX))
                    });
                if !kept {
                    return Err(gone());
                }
                let snapshot = Snapshot {
                    id: uuid.as_u128() as u64,
                    name: ShortText::truncated(&format!("clone-{}", uuid.simple())),
                    created_ms: self.unix_millis(),
                    size_bytes: state.maps.sectors() * SECTOR_BYTES,
                    checkpoint,
                    at: state.committed(),
                    protected: false,
                    for_clones: true,
                    clones: Vec::new(),
                };
                now.snapshots.push(snapshot.clone());
                made = Some(snapshot);
                Ok(true)
            })?;
            if let Some(made) = made.filter(|_| is_kept) {
                if let Some(open) = open {
                    open.core.maps.write().objects_mut().set_pins(pins(&cell.get()));
                }
                return Ok(made);
            }
        }
        let by = "checkpoints come faster than its history can be read; try again".to_owned();
        Err(Error::InUse { volume: name.to_string(), by })
    }
}

/// What a checkpoint knows of the history before it.
struct Past<'a> {
    stream: Stream,
    superblock: &'a Superblock,
    newest: CheckpointRef,
    objects: ObjectTable,
    /// The numbers at which parts of the map lie.
    of_map: Vec<ObjectSeq>,
}

impl<'a> Past<'a> {
    fn known_at(stream: Stream, superblock: &'a Superblock, newest: CheckpointRef) -> Result<Self> {
        let known = read_checkpoint(&stream, newest.seq)?;
        let own = known.objects.iter().filter(|object| object.seq > stream.base_through());
        let of_map = own.filter(|object| object.data_sectors == 0).map(|object| object.seq);
        let of_map = of_map.collect();
        let objects = ObjectTable::of_records(&known.objects, stream.base_through());
        Ok(Self { stream, superblock, newest, objects, of_map })
    }

    /// The state at a moment; `None` if it cannot be had.
    fn find(&self, moment: Moment) -> Result<Option<StreamState>> {
        let stream = &self.stream;
        let Some(entry) = self.last_checkpoint(moment)? else { return Ok(None) };
        let loader = LeafLoader::of_stream(stream);
        let mut state = StreamState::at_checkpoint(stream, entry, &loader)?;
        loop {
            let is_it = match moment {
                Moment::Object(last) => state.committed() >= last,
                Moment::Time(_) => false,
            };
            if is_it {
                break;
            }
            let found = match stream.find(state.next)? {
                Some(found) => found,
                // The end of the stream; of an object that is asked for by number it is too early.
                None => {
                    // What is known to be committed was collected: the history has a hole here.
                    let is_end = state.next > self.superblock.committed.max(self.newest.seq);
                    return Ok((is_end && matches!(moment, Moment::Time(_))).then_some(state));
                }
            };
            if let Moment::Time(ms) = moment
                && found.header.stamp().written_ms > ms
            {
                break;
            }
            state.apply(stream, &found)?;
            state.pass_bases(stream);
        }
        // Before that it was no volume of its own.
        Ok((state.committed() > stream.base_through()).then_some(state))
    }

    /// The newest checkpoint that is not after the moment, of those that are still there with all
    /// leaves.
    fn last_checkpoint(&self, moment: Moment) -> Result<Option<CheckpointRef>> {
        let mut candidates = self.of_map.clone();
        candidates.extend(self.superblock.snapshots.iter().map(|of| of.checkpoint.seq));
        candidates.push(self.newest.seq);
        candidates.sort_unstable();
        candidates.dedup();
        for seq in candidates.into_iter().rev() {
            let header = match read_checkpoint(&self.stream, seq) {
                Ok(header) => header,
                // It may be void, or collected meanwhile.
                Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let is_before = match moment {
                Moment::Object(last) => header.covers <= last,
                Moment::Time(ms) => header.stamp.written_ms <= ms,
            };
            if is_before && self.has_leaves(&header) {
                return Ok(Some(CheckpointRef { seq, covers: header.covers }));
            }
        }
        Ok(None)
    }

    /// Whether a state needs a base from which the volume was cut off since.
    fn is_cut_off(&self, state: &StreamState) -> bool {
        let used = state.maps.objects().of_base().live_sectors > 0;
        used && self.stream.is_cut(self.stream.base_through())
    }

    /// Whether no leaf of a checkpoint was collected, or may be.
    fn has_leaves(&self, header: &CheckpointHeader) -> bool {
        let may_be_read = |seq| {
            (self.objects.is_base_number(seq) && !self.stream.is_cut(seq))
                || seq > self.newest.covers
                || self.objects.is_kept(seq)
        };
        header.leaves.iter().all(|leaf| may_be_read(leaf.object))
    }
}

/// Whether nothing up to `known` that a moment needs is gone, or may be deleted: what its map points at,
/// and whatever lies between the checkpoint at which it is entered and itself.
fn all_kept(then: &StreamState, now: &ObjectTable, known: ObjectSeq) -> bool {
    let data = then.maps.objects().iter().filter(|(_, usage)| usage.live_sectors > 0);
    let data = data.filter(|(_, usage)| !usage.is_of_base()).map(|(object, _)| object);
    let held = then.root.held();
    let entered = then.entered.map(|checkpoint| checkpoint.seq);
    let map = held.keys().copied().chain(entered).filter(|seq| !now.is_base_number(*seq));
    let covers = then.entered.map_or(ObjectSeq::ZERO, |checkpoint| checkpoint.covers);
    let mut between = now.condemned().filter(|seq| *seq > covers && *seq <= then.committed());
    between.next().is_none()
        && data.chain(map).filter(|seq| *seq <= known).all(|object| now.is_kept(object))
}
