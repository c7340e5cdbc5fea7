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
use crate::format::{CheckpointRef, FileAttrs, ShortText, Snapshot, Superblock, VolumeState};
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
                Moment::Time(ms) => format!("{ms} ms since 1970"),
            };
            let by =
                format!("its history at {moment} was not written yet, or is collected already");
            Error::NoSuchMoment { volume: name.to_string(), detail: by }
        };
        for _ in 0..ATTEMPTS {
            let cell = self.cell(name)?;
            let superblock = cell.get();
            let newest = superblock.checkpoint.ok_or_else(gone)?;
            let stream = self.stream_of(&superblock);
            let state = find(&stream, &superblock, moment)?.ok_or_else(gone)?;
            let checkpoint = state.entered.ok_or_else(gone)?;
            let open = self.opened(name);
            let known = read_checkpoint(&stream, newest.seq)?;
            let known = ObjectTable::of_records(&known.objects, stream.base_through());
            let mut made = None;
            self.step("history.begin")?;
            cell.try_update(|now| {
                if now.checkpoint != Some(newest) {
                    return Ok(false);
                }
                if now.state == VolumeState::Deleting {
                    return Err(Error::Deleted(name.to_string()));
                }
                // What a checkpoint does not cover it has not condemned. The one in the store may be
                // another writer's, who deletes what it condemns; the one in the making is ours.
                let kept = all_kept(&state, &known, newest.covers)
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
            if let Some(made) = made {
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

/// The state at a moment; `None` if it cannot be had.
fn find(stream: &Stream, superblock: &Superblock, moment: Moment) -> Result<Option<StreamState>> {
    let Some(entry) = last_checkpoint(stream, superblock, moment)? else { return Ok(None) };
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
                let newest = superblock.checkpoint.map_or(ObjectSeq::ZERO, |newest| newest.seq);
                // What is known to be committed was collected: the history has a hole here.
                let is_end = state.next > superblock.committed.max(newest);
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

/// The newest checkpoint that is not after the moment, of those that are still there.
fn last_checkpoint(
    stream: &Stream,
    superblock: &Superblock,
    moment: Moment,
) -> Result<Option<CheckpointRef>> {
    let Some(newest) = superblock.checkpoint else { return Ok(None) };
    let known = read_checkpoint(stream, newest.seq)?;
    let own = known.objects.iter().filter(|object| object.seq > stream.base_through());
    let of_map = own.filter(|object| object.data_sectors == 0);
    let mut candidates: Vec<ObjectSeq> = of_map.map(|object| object.seq).collect();
    candidates.extend(superblock.snapshots.iter().map(|snapshot| snapshot.checkpoint.seq));
    candidates.push(newest.seq);
    candidates.sort_unstable();
    candidates.dedup();
    for seq in candidates.into_iter().rev() {
        let header = match read_checkpoint(stream, seq) {
            Ok(header) => header,
            // It may be void, or collected meanwhile.
            Err(Error::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_before = match moment {
            Moment::Object(last) => header.covers <= last,
            Moment::Time(ms) => header.stamp.written_ms <= ms,
        };
        if is_before {
            return Ok(Some(CheckpointRef { seq, covers: header.covers }));
        }
    }
    Ok(None)
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
