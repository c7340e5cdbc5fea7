//! A stream as far as it was read, and what one more object changes.

use std::sync::Arc;

use crate::checkpoint::{Root, read_checkpoint};
use crate::error::{Error, Result};
use crate::format::{
    CheckpointRef, FenceRecord, ObjectHeader, SharedHeader, Snapshot, Stamp, Superblock,
};
use crate::leaf_loader::LeafLoader;
use crate::map::{Absent, CommitExtent, Maps, Pin, Stopped};
use crate::stream::{Found, Stream};
use crate::units::{Epoch, Extent, LogSeq, ObjectSeq};

/// Leaves of the map that are fetched together.
const FETCH_AT_ONCE: usize = 256;

/// A stream as far as it is known.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) maps: Maps,
    /// For the leaves that are not here.
    pub(super) loader: Arc<LeafLoader>,
    /// The number after the last one read.
    pub(crate) next: ObjectSeq,
    /// Whether `next` was looked for last, and was missing.
    pub(crate) at_end: bool,
    /// The highest number known to be committed from elsewhere.
    pub(super) known_committed: ObjectSeq,
    /// The epoch of the newest fence; zero if there is none.
    pub(crate) epoch: Epoch,
    /// All fences, oldest first.
    pub(crate) fences: Vec<FenceRecord>,
    /// The highest record in it.
    pub(crate) log_seq: LogSeq,
    /// Whether its last object says that nothing was in flight after it.
    pub(crate) clean: bool,
    /// The largest window of its writers.
    pub(crate) window: u64,
    /// The checkpoint it was entered at.
    pub(crate) entered: Option<CheckpointRef>,
    /// The root of the newest checkpoint in it.
    pub(crate) root: Root,
    /// Objects after the checkpoint's `covers`.
    pub(crate) rolled: u64,
}

impl StreamState {
    /// The state at the checkpoint that the superblock names.
    pub(super) fn enter(
        stream: &Stream,
        superblock: &Superblock,
        loader: &Arc<LeafLoader>,
    ) -> Result<Self> {
        let size = superblock.size_bytes / crate::units::SECTOR_BYTES;
        let mut state = Self::empty(size, loader);
        let Some(checkpoint) = superblock.checkpoint else { return Ok(state) };
        state.enter_at(stream, checkpoint)?;
        // The first checkpoint of a clone is its base's, and so may be what follows it.
        if let Some(base) = stream.bases().last().filter(|base| checkpoint.seq <= base.through) {
            state.roll_to(stream, base.at)?;
            // Whoever wrote the base knows nothing of the numbers that follow here.
            state.clean = true;
        }
        state.maps.objects_mut().set_pins(pins(superblock));
        Ok(state)
    }

    /// The state at a snapshot.
    pub(crate) fn at_snapshot(
        stream: &Stream,
        snapshot: &Snapshot,
        loader: &Arc<LeafLoader>,
    ) -> Result<Self> {
        let mut state = Self::at_checkpoint(stream, snapshot.checkpoint, loader)?;
        state.roll_to(stream, snapshot.at)?;
        Ok(state)
    }

    /// The state that a checkpoint covers.
    pub(crate) fn at_checkpoint(
        stream: &Stream,
        checkpoint: CheckpointRef,
        loader: &Arc<LeafLoader>,
    ) -> Result<Self> {
        let mut state = Self::empty(0, loader);
        state.enter_at(stream, checkpoint)?;
        state.pass_bases(stream);
        Ok(state)
    }

    /// Goes on in the clone, or in its nearer base, behind the last object of a base that counts.
    pub(crate) fn pass_bases(&mut self, stream: &Stream) {
        for base in stream.bases() {
            if base.at < self.next && self.next <= base.through {
                self.next = base.through.next();
            }
        }
    }

    fn empty(sectors: u64, loader: &Arc<LeafLoader>) -> Self {
        Self {
            maps: Maps::new(sectors),
            loader: Arc::clone(loader),
            next: ObjectSeq::new(1),
            at_end: false,
            known_committed: ObjectSeq::ZERO,
            epoch: Epoch::ZERO,
            fences: Vec::new(),
            log_seq: LogSeq::ZERO,
            clean: true,
            window: 0,
            entered: None,
            root: Root::default(),
            rolled: 0,
        }
    }

    fn enter_at(&mut self, stream: &Stream, checkpoint: CheckpointRef) -> Result<()> {
        let header = read_checkpoint(stream, checkpoint.seq)?;
        if header.covers != checkpoint.covers {
            let detail = "it covers another number than the superblock says";
            return Err(Error::damaged(stream.describe(checkpoint.seq), detail));
        }
        self.root = Root::of(&header);
        self.root
            .check_condemned(&header.objects, &header.fences)
            .map_err(|why| Error::damaged(stream.describe(checkpoint.seq), why))?;
        self.maps = Maps::of_checkpoint(&header, stream.base_through());
        self.entered = Some(checkpoint);
        self.next = header.covers.next();
        self.window = header.stamp.window.into();
        // Fences above `covers` come by in the roll-forward.
        self.fences = header.fences;
        self.fences.retain(|fence| fence.id.seq <= header.covers);
        self.epoch = self.fences.last().map_or(Epoch::ZERO, |fence| fence.id.epoch);
        Ok(())
    }

    /// Takes in the next object.
    pub(crate) fn apply(&mut self, stream: &Stream, found: &Found) -> Result<()> {
        let Found { header, bytes } = found;
        let stamp = *header.stamp();
        if stamp.size_sectors > Extent::LBA_LIMIT || stamp.seq != self.next {
            let detail = "its size or number is impossible";
            return Err(Error::damaged(stream.describe(stamp.seq), detail));
        }
        self.next = stamp.seq.next();
        self.at_end = false;
        self.rolled += 1;
        if stamp.epoch < self.epoch {
            // A deposed writer's: void, wherever it is.
            self.maps.objects_mut().add(stamp.seq, 0, *bytes);
            self.maps.objects_mut().bury(stamp.seq, stamp.seq);
            return Ok(());
        }
        if let ObjectHeader::Fence(fence) = header {
            if stamp.epoch <= self.epoch {
                let detail = "two fences with one epoch";
                return Err(Error::damaged(stream.describe(stamp.seq), detail));
            }
            self.epoch = stamp.epoch;
            self.fences.push(FenceRecord {
                id: fence.id(),
                log_seq: stamp.log_seq,
                host: fence.host.clone(),
            });
        } else if stamp.epoch > self.epoch {
            let detail = "its epoch has no fence";
            return Err(Error::damaged(stream.describe(stamp.seq), detail));
        }
        self.clean = matches!(header, ObjectHeader::Checkpoint(c) if c.clean);
        self.log_seq = self.log_seq.max(stamp.log_seq);
        self.window = self.window.max(stamp.window.into());
        self.resize(&stamp)?;
        match header {
            ObjectHeader::Data(data) => {
                self.maps.objects_mut().add(stamp.seq, data.logical_sectors().into(), *bytes);
                let moved: Vec<_> = data.moved().collect();
                if moved.is_empty() {
                    let beyond = |e: &CommitExtent| e.extent.end().get() > stamp.size_sectors;
                    let extents: Vec<_> = data.placements().map(CommitExtent::from).collect();
                    if extents.iter().any(beyond) {
                        let detail = "it writes beyond the end of the volume";
                        return Err(Error::damaged(stream.describe(stamp.seq), detail));
                    }
                    self.commit(
                        &extents,
                        |e| e.extent,
                        |maps, slice| maps.commit(stamp.seq, slice, LogSeq::ZERO),
                    )?;
                } else {
                    self.commit(
                        &moved,
                        |e| e.extent,
                        |maps, slice| maps.commit_moved(stamp.seq, slice),
                    )?;
                }
                self.maps.objects_mut().settle(stamp.seq);
            }
            ObjectHeader::Checkpoint(checkpoint) => {
                self.maps.objects_mut().add(stamp.seq, 0, *bytes);
                // What it condemned may be gone, also checkpoints that the root before it needs.
                self.root = Root::of(checkpoint);
                if checkpoint.is_rollback {
                    let pins = self.maps.objects().pins().to_vec();
                    self.maps = Maps::of_checkpoint(checkpoint, stream.base_through());
                    self.maps.objects_mut().set_pins(pins);
                    self.maps.objects_mut().add(stamp.seq, 0, *bytes);
                } else {
                    self.maps.note_checkpoint(checkpoint.covers, self.root.leaves());
                    // Whose writer may have had them deleted: they died when he says.
                    for object in
                        checkpoint.objects.iter().filter(|object| object.data_sectors == 0)
                    {
                        if let Some(since) = object.dead_since {
                            self.maps.objects_mut().bury(object.seq, since);
                        }
                    }
                }
            }
            ObjectHeader::Shared(shared) => self.share(stream, shared, *bytes)?,
            ObjectHeader::Fence(_) | ObjectHeader::Filler(_) => {}
        }
        Ok(())
    }

    /// Takes in data that other objects hold.
    fn share(&mut self, stream: &Stream, shared: &SharedHeader, bytes: u64) -> Result<()> {
        let Stamp { seq, size_sectors, .. } = *shared.stamp();
        if shared.extents().last().is_some_and(|last| last.extent.end().get() > size_sectors) {
            let detail = "it shares data beyond the end of the volume";
            return Err(Error::damaged(stream.describe(seq), detail));
        }
        let objects = self.maps.objects_mut();
        if let Some(lost) = shared.holders().iter().find(|holder| !objects.hold(holder)) {
            let detail = format!("object {seq} shares its data, and it is another one");
            return Err(Error::damaged(stream.describe(lost.object), detail));
        }
        objects.add(seq, 0, bytes);
        self.commit(
            shared.extents(),
            |shared| shared.extent,
            |maps, slice| maps.commit_shared(seq, slice),
        )?;
        self.maps.objects_mut().settle(seq);
        Ok(())
    }

    /// Commits extents, fetching what leaves they need.
    fn commit<T>(
        &mut self,
        mut rest: &[T],
        extent: impl Fn(&T) -> Extent,
        mut commit: impl FnMut(&mut Maps, &[T]) -> std::result::Result<(), Stopped>,
    ) -> Result<()> {
        while let Err(Stopped { done, .. }) = commit(&mut self.maps, rest) {
            rest = rest.get(done..).unwrap_or_default();
            let mut absent = self.maps.absent_for(rest.iter().map(&extent));
            absent.truncate(FETCH_AT_ONCE);
            let maps = &mut self.maps;
            self.loader.load_all(absent, |at, leaf| self.loader.put(maps, at, leaf))?;
        }
        Ok(())
    }

    /// Asks the maps, and fetches what leaves the answer needs.
    pub(crate) fn ask_maps<T>(
        &mut self,
        mut ask: impl FnMut(&Maps) -> std::result::Result<T, Absent>,
    ) -> Result<T> {
        loop {
            match ask(&self.maps) {
                Ok(answer) => return Ok(answer),
                Err(absent) => self.fetch(absent)?,
            }
        }
    }

    fn fetch(&mut self, Absent(at): Absent) -> Result<()> {
        let leaf = self.loader.load(&at)?;
        self.loader.put(&mut self.maps, &at, leaf)
    }

    fn resize(&mut self, stamp: &Stamp) -> Result<()> {
        // Also when the size is the same: a checkpoint knows the size of its own moment, its map
        // is that of `covers`, and the shrink between them comes by here.
        if stamp.size_sectors <= self.maps.sectors() {
            while let Err(absent) =
                self.maps.commit_resize(stamp.seq, stamp.size_sectors, LogSeq::ZERO)
            {
                self.fetch(absent)?;
            }
        }
        self.maps.set_sectors(stamp.size_sectors);
        Ok(())
    }

    /// The highest number that counts as committed.
    pub(crate) fn committed(&self) -> ObjectSeq {
        ObjectSeq::new(self.next.get() - 1)
    }

    /// The newest fence.
    pub(crate) fn newest_fence(&self) -> Option<&FenceRecord> {
        self.fences.last()
    }
}

/// What the snapshots of a volume keep.
pub(crate) fn pins(superblock: &Superblock) -> Vec<Pin> {
    let kept = superblock.snapshots.iter();
    kept.map(|s| Pin { covers: s.checkpoint.covers, through: s.through() }).collect()
}
