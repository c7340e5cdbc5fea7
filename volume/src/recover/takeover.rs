//! Taking a stream over: the fence at its end, and the fillers before it.

use std::io::IoSlice;
use std::sync::Arc;

use super::state::StreamState;
use crate::error::{Error, Result};
use crate::format::{FenceHeader, FenceId, FillerHeader, Nonce, ObjectHeader, ShortText, Stamp};
use crate::stream::{Created, Found, Stream};
use crate::units::{Epoch, ObjectSeq};

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
            let caught = state.catch_up(self.stream);
            let caught = self.unless_collected(caught, state)?.unwrap_or(state.at_end);
            lost = lost.saturating_add(if caught { 1 } else { LOST_MAX });
            changed(state)?;
        }
    }

    /// What came of reading on. What was found missing may have been collected since the checkpoint
    /// was read: then `state` is read again from the newer one, and this is `None`. If there is no
    /// newer one, it is damage.
    fn unless_collected<T>(
        &self,
        outcome: Result<T>,
        state: &mut StreamState,
    ) -> Result<Option<T>> {
        match outcome {
            Err(error @ Error::Damaged { .. }) => {
                *state = (self.reenter)(state)?.ok_or(error)?;
                Ok(None)
            }
            outcome => outcome.map(Some),
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
                // The number is lost either way.
                let applied = state.apply(self.stream, &found);
                self.unless_collected(applied, state)?;
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
