//! From a store and a log to a volume that can be used.
//!
//! ```text
//! superblock -> checkpoint (root, leaves) -> roll forward over headers -> first missing number
//!     -> whose log is it? -> fence at that number -> fillers -> replay of the log
//! ```
//! Everything up to the question whose log it is only reads; a refusal leaves no trace.

use std::io::IoSlice;
use std::sync::Arc;

use crate::checkpoint::{Root, read_checkpoint};
use crate::error::{Error, Result};
use crate::format::{
    CheckpointRef, FenceHeader, FenceId, FenceRecord, FillerHeader, LogPoint, Nonce, ObjectHeader,
    RecordKind, ShortText, Snapshot, Stamp, Superblock,
};
use crate::leaf_loader::LeafLoader;
use crate::log::{LogOnDisk, ScanEnd};
use crate::map::{Absent, CommitExtent, Maps, Pin, Stopped};
use crate::stream::{Created, Found, Stream};
use crate::units::{Epoch, Extent, LogSeq, ObjectSeq};

/// How many later objects are looked at to tell a gap from the end.
const WITNESSES: usize = 64;

/// Objects that are looked for one by one, before a listing is asked how many there are.
const FEW: usize = 8;

/// Names asked for with one listing.
const LIST_PAGE: usize = 1000;

/// Leaves of the map that are fetched together.
const FETCH_AT_ONCE: usize = 256;

/// Headers that are read before they are taken in.
const READ_AHEAD: usize = 64;

/// Objects that are read beyond those of the listing. A writer at full speed adds more of them
/// meanwhile, for ever.
const BEYOND_MAX: usize = 64;

/// A stream as far as it is known.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) maps: Maps,
    /// For the leaves that are not here.
    loader: Arc<LeafLoader>,
    /// The number after the last one read.
    pub(crate) next: ObjectSeq,
    /// Whether `next` was looked for last, and was missing.
    pub(crate) at_end: bool,
    /// The highest number known to be committed from elsewhere.
    known_committed: ObjectSeq,
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
    /// Reads the stream from the superblock's checkpoint to its end, or as far as
    /// [`Self::catch_up`] gets. `committed` is the highest number known committed from elsewhere: a
    /// gap up to it is damage.
    pub(crate) fn read(
        stream: &Stream,
        superblock: &Superblock,
        committed: ObjectSeq,
        loader: &Arc<LeafLoader>,
    ) -> Result<Self> {
        let mut state = Self::enter(stream, superblock, loader)?;
        state.known_committed = committed.max(superblock.committed);
        state.catch_up(stream)?;
        Ok(state)
    }

    /// Takes in what was there when it was called, and a part of what comes meanwhile; and makes
    /// sure that what it ends at is no hole. `false` if the end moves away faster than it is
    /// followed; `true` if it was met, though it may have moved since, as `at_end` says.
    pub(crate) fn catch_up(&mut self, stream: &Stream) -> Result<bool> {
        self.advance(stream)?;
        let caught = self.at_end;
        if caught {
            self.prove_end(stream)?;
        }
        Ok(caught)
    }

    /// As [`Self::catch_up`], but a hole may be taken for the end.
    pub(crate) fn advance(&mut self, stream: &Stream) -> Result<()> {
        self.at_end = false;
        self.roll(stream, FEW)?;
        if self.at_end {
            return Ok(());
        }
        for some in self.listed(stream)?.chunks(READ_AHEAD) {
            for found in stream.find_all(some)? {
                // Missing again: it was collected.
                let Some(found) = found else { return self.roll(stream, BEYOND_MAX) };
                self.apply(stream, &found)?;
            }
        }
        self.roll(stream, BEYOND_MAX)
    }

    /// Takes in the next `max` objects, or all there are.
    fn roll(&mut self, stream: &Stream, max: usize) -> Result<()> {
        for _ in 0..max {
            let Some(found) = stream.find(self.next)? else {
                self.at_end = true;
                return Ok(());
            };
            self.apply(stream, &found)?;
        }
        Ok(())
    }

    /// The numbers from `next` on, without a gap, as a listing shows them.
    fn listed(&self, stream: &Stream) -> Result<Vec<ObjectSeq>> {
        let mut found: Vec<ObjectSeq> = Vec::new();
        loop {
            let last = found.last().copied().unwrap_or(self.committed());
            let page = stream.listed_after(last, LIST_PAGE)?;
            let from = found.len();
            found.extend(page.seqs);
            let mut expected = last.next();
            let sound = found.iter().skip(from).take_while(|seq| {
                let is_next = **seq == expected;
                expected = expected.next();
                is_next
            });
            let sound = from + sound.count();
            if sound < found.len() || sound == from || !page.more {
                found.truncate(sound);
                return Ok(found);
            }
        }
    }

    /// The state at the checkpoint that the superblock names.
    fn enter(stream: &Stream, superblock: &Superblock, loader: &Arc<LeafLoader>) -> Result<Self> {
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

    /// Takes in all up to `last`, which is known to be there.
    fn roll_to(&mut self, stream: &Stream, last: ObjectSeq) -> Result<()> {
        self.pass_bases(stream);
        while self.next <= last {
            let end = (self.next.get() + READ_AHEAD as u64 - 1).min(last.get());
            let some: Vec<_> = (self.next.get()..=end).map(ObjectSeq::new).collect();
            for (seq, found) in some.iter().zip(stream.find_all(&some)?) {
                // What a base has behind the point that counts is not the clone's.
                if *seq < self.next {
                    continue;
                }
                let missing = || Error::damaged(stream.describe(*seq), "it is missing");
                self.apply(stream, &found.ok_or_else(missing)?)?;
                self.pass_bases(stream);
            }
        }
        Ok(())
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
                }
            }
            ObjectHeader::Fence(_) | ObjectHeader::Filler(_) => {}
        }
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

    /// Makes sure that `next` is the stream's end and not a hole in it.
    fn prove_end(&mut self, stream: &Stream) -> Result<()> {
        let Some(witness) = self.witness(stream)? else { return Ok(()) };
        // It may have come after it was looked for, and what tells of it after that.
        if stream.exists(self.next)? {
            self.at_end = false;
            return Ok(());
        }
        let detail = format!(
            "it is missing, but {witness}: part of the volume's history is lost. Restore the \
             object; nothing was changed"
        );
        Err(Error::damaged(stream.describe(self.next), detail))
    }

    /// What tells that there was an object `next`, if anything does.
    fn witness(&self, stream: &Stream) -> Result<Option<String>> {
        let committed = self.known_committed;
        if self.next <= committed {
            return Ok(Some(format!("number {committed} is known to be committed")));
        }
        for later in stream.listed_after(self.next, WITNESSES)?.seqs {
            let Some((common, _)) = stream.peek(later)? else { continue };
            let stamp = common.stamp;
            let outside = later.since(self.next) >= u64::from(stamp.window);
            if stamp.committed >= self.next || outside {
                return Ok(Some(format!("object {:016x} was written after it", later.get())));
            }
        }
        Ok(None)
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

/// Whose a log is that was found on this host.
#[derive(Debug)]
pub(crate) enum Ownership {
    /// The newest fence is this log's: what it holds continues the stream.
    Ours,
    /// Somebody took over since, but the stream holds all of it, or there is nothing in it.
    Contained,
    /// Somebody took over since, and it holds this many bytes that the stream does not.
    Stale { bytes: u64, other: String },
}

/// Decides whose `log` is.
pub(crate) fn ownership(state: &StreamState, log: &LogOnDisk) -> Result<Ownership> {
    ownership_among(&state.fences, log)
}

/// As [`ownership`], of a stream with these fences.
pub(crate) fn ownership_among(fences: &[FenceRecord], log: &LogOnDisk) -> Result<Ownership> {
    let Some(newest) = fences.last() else { return Ok(Ownership::Ours) };
    if log.owns(newest.id.nonce) {
        return Ok(Ownership::Ours);
    }
    let header = log.header();
    let Some(own) = header.fence.filter(|_| !header.clean) else {
        return Ok(Ownership::Contained);
    };
    // What the stream held of this log's records when the next writer took over.
    let deposed_by = fences.iter().find(|fence| fence.id.seq > own.seq).unwrap_or(newest);
    let mut bytes = 0;
    log.scan(|record| {
        if record.head.seq > deposed_by.log_seq && record.head.kind != RecordKind::Void {
            bytes += u64::from(record.head.total_len);
        }
        Ok(())
    })?;
    let other = format!("host {:?}", deposed_by.host.as_str());
    Ok(if bytes == 0 { Ownership::Contained } else { Ownership::Stale { bytes, other } })
}

/// What a log added to the maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replayed {
    /// The oldest record that the stream does not hold.
    pub(crate) tail: LogPoint,
    pub(crate) end: ScanEnd,
    /// The number of the next record.
    pub(crate) next_seq: LogSeq,
    pub(crate) records: u64,
}

/// Publishes what `log` holds beyond the stream in the maps.
pub(crate) fn replay(state: &mut StreamState, log: &LogOnDisk) -> Result<Replayed> {
    let start = log.header().tail;
    if start.seq > state.log_seq.next() {
        let detail = format!(
            "it begins with record {}, but the store ends with record {}: the records between are \
             lost. Was the store rolled back?",
            start.seq, state.log_seq
        );
        return Err(Error::damaged(log.path().display(), detail));
    }
    let held = state.log_seq;
    let mut tail = None;
    let mut records = 0;
    let maps = &mut state.maps;
    let end = log.scan(|record| {
        let head = &record.head;
        if head.seq <= held {
            return Ok(());
        }
        tail.get_or_insert(LogPoint { pos: record.pos, seq: head.seq });
        records += 1;
        match (head.kind, head.extent()) {
            (RecordKind::Write, Some(extent)) => maps.write(extent, head.seq, record.pos, 0),
            (RecordKind::Trim, Some(extent)) => maps.trim(extent, head.seq),
            (RecordKind::Resize, _) => maps.resize(head.sectors, head.seq),
            _ => {}
        }
        Ok(())
    })?;
    let next_seq = end.seq.max(held.next());
    let tail = tail.unwrap_or(LogPoint { pos: end.pos, seq: next_seq });
    Ok(Replayed { tail, end, next_seq, records })
}

/// Where this host stands after it won the stream.
#[derive(Debug)]
pub(crate) struct Won {
    pub(crate) fence: FenceId,
    /// The first number to create.
    pub(crate) next: ObjectSeq,
}

/// Shared by the steps of taking a stream over.
pub(crate) struct Takeover<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) volume: Arc<str>,
    /// Makes a stamp with a nonce of its own.
    pub(crate) stamp: &'a dyn Fn(ObjectSeq, Epoch, &StreamState) -> Stamp,
    pub(crate) host: ShortText,
    pub(crate) step: &'a dyn Fn(&'static str) -> Result<()>,
    /// Announces in the superblock that the writer of this epoch is on its way.
    pub(crate) announce: &'a dyn Fn(Epoch) -> Result<()>,
    /// The epoch that the superblock, as last seen, says there is or will be.
    pub(crate) announced: &'a dyn Fn() -> Epoch,
    /// Reads the stream again, if there is another checkpoint than the one that this state was
    /// entered at.
    pub(crate) reenter: &'a dyn Fn(&StreamState) -> Result<Option<StreamState>>,
    /// The highest number that the superblock's checkpoint covers now.
    pub(crate) covered: &'a dyn Fn() -> Result<ObjectSeq>,
}

/// When so many tries were lost to a writer at full speed it is asked to stop.
const LOST_MAX: u32 = 8;

impl Takeover<'_> {
    /// Creates the fence at the first missing number. What is found there meanwhile is taken
    /// in; `changed` is asked then whether to go on.
    ///
    /// A writer whose creates are always faster would be ahead for ever. So it is announced in the
    /// superblock, at last, that it is deposed; it finds that at its next checkpoint and stops.
    pub(crate) fn fence(
        &self,
        nonce: Nonce,
        state: &mut StreamState,
        changed: impl Fn(&StreamState) -> Result<()>,
    ) -> Result<Won> {
        let mut lost: u32 = 0;
        let mut announced = None;
        loop {
            let epoch = self.next_epoch(state);
            if lost >= LOST_MAX && announced != Some(epoch) {
                (self.announce)(epoch)?;
                announced = Some(epoch);
            }
            if state.at_end
                && let Some(won) = self.try_fence(nonce, state)?
            {
                return Ok(won);
            }
            let caught = match state.catch_up(self.stream) {
                // What is missing may have been collected since the checkpoint was read.
                Err(error @ Error::Damaged { .. }) => {
                    *state = (self.reenter)(state)?.ok_or(error)?;
                    state.at_end
                }
                caught => caught?,
            };
            lost = lost.saturating_add(if caught { 1 } else { LOST_MAX });
            changed(state)?;
        }
    }

    /// Higher than that of all fences, and not lower than what was announced: otherwise the owner's
    /// first checkpoint would find that somebody else is on its way.
    fn next_epoch(&self, state: &StreamState) -> Epoch {
        state.epoch.next().max((self.announced)())
    }

    /// One try; `None` if the number was taken meanwhile.
    fn try_fence(&self, nonce: Nonce, state: &mut StreamState) -> Result<Option<Won>> {
        let mut stamp = (self.stamp)(state.next, self.next_epoch(state), state);
        stamp.nonce = nonce;
        let fence = FenceHeader { stamp, host: self.host.clone() };
        let bytes = fence.encode().map_err(|e| e.of(self.stream.describe(stamp.seq)))?;
        (self.step)("open.fence")?;
        let created = self.create(&stamp, &bytes)?;
        (self.step)("open.fenced")?;
        match created {
            Created::Ours => {}
            Created::Theirs(found) => {
                state.apply(self.stream, &found)?;
                return Ok(None);
            }
            Created::Gone => {
                state.at_end = false;
                return Ok(None);
            }
        }
        if (self.covered)()? >= stamp.seq {
            // The number was decided, covered and collected after it was found missing: the stream
            // goes on elsewhere, and nobody will ever come by here.
            if let Some(newer) = (self.reenter)(state)? {
                *state = newer;
            }
            return Ok(None);
        }
        let fresh = state.fences.is_empty() || state.clean;
        let window = state.window;
        let header = ObjectHeader::Fence(fence.clone());
        state.apply(self.stream, &Found { header, bytes: bytes.len() as u64 })?;
        if !fresh {
            self.fill(window, state)?;
        }
        Ok(Some(Won { fence: fence.id(), next: state.next }))
    }

    /// Occupies the numbers at which uploads of the writer before may still arrive.
    fn fill(&self, window: u64, state: &mut StreamState) -> Result<()> {
        for _ in 1..window {
            let stamp = (self.stamp)(state.next, state.epoch, state);
            let filler = FillerHeader { stamp };
            let bytes = filler.encode().map_err(|e| e.of(self.stream.describe(stamp.seq)))?;
            (self.step)("open.fill")?;
            match self.create(&stamp, &bytes)? {
                Created::Ours => {
                    let header = ObjectHeader::Filler(filler);
                    state.apply(self.stream, &Found { header, bytes: bytes.len() as u64 })?;
                }
                Created::Gone => {
                    let what = self.stream.describe(stamp.seq);
                    return Err(Error::damaged(what, "it exists, but cannot be read"));
                }
                Created::Theirs(found) => {
                    let epoch = found.header.stamp().epoch;
                    if epoch > stamp.epoch {
                        return Err(Error::Fenced {
                            volume: self.volume.to_string(),
                            by: format!("a writer of epoch {epoch}"),
                        });
                    }
                    state.apply(self.stream, &found)?;
                }
            }
        }
        Ok(())
    }

    fn create(&self, stamp: &Stamp, bytes: &[u8]) -> Result<Created> {
        self.stream.create(stamp, &[IoSlice::new(bytes)])
    }
}
