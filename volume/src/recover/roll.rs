//! Rolling forward: from a checkpoint over the headers that follow, to the end of the stream.

use std::sync::Arc;

use super::state::StreamState;
use crate::error::{Error, Result};
use crate::format::Superblock;
use crate::leaf_loader::LeafLoader;
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// How many later objects are looked at to tell a gap from the end.
const WITNESSES: usize = 64;

/// Objects that are looked for one by one, before a listing is asked how many there are.
const FEW: usize = 8;

/// Names asked for with one listing.
const LIST_PAGE: usize = 1000;

/// Headers that are read before they are taken in.
const READ_AHEAD: usize = 64;

/// Objects that are read beyond those of the listing. A writer at full speed adds more of them
/// meanwhile, for ever.
const BEYOND_MAX: usize = 64;

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
        self.advance_a_little(stream)?;
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

    /// As [`Self::advance`], but no more than the next few objects.
    pub(crate) fn advance_a_little(&mut self, stream: &Stream) -> Result<()> {
        self.at_end = false;
        self.roll(stream, FEW)
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

    /// Takes in all up to `last`, which is known to be there.
    pub(super) fn roll_to(&mut self, stream: &Stream, last: ObjectSeq) -> Result<()> {
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
}
