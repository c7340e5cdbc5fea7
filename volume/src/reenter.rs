//! Reading a stream that its writer collects meanwhile.
//!
//! ```text
//!   superblock ---> checkpoint ---> leaves, headers ---> something is missing
//!       ^                                                      |
//!       |            another checkpoint is named: it was collected
//!       +------------------------------------------------------+
//!                    the same one is named: damage
//! ```
//! A writer at full speed may come first again and again. So after a few times who opens for
//! writing announces its epoch, at which the writer stops when it next names a checkpoint: from the
//! announcement on the superblock names the same one, and all that this one needs stays.
//!
//! Nobody is disturbed for an opening that is refused: the announcement waits until it is settled
//! that this host's own log permits to go on. Where the log holds nothing of its own that is so at
//! once; otherwise the newest checkpoint's header tells, for it lists the fences. Who only reads asks
//! nobody for anything.

use crate::checkpoint::read_checkpoint;
use crate::core::step_of;
use crate::error::{Error, Result};
use crate::format::{CheckpointRef, FenceRecord, ShortText, VolumeState};
use crate::log::LogOnDisk;
use crate::open::Opening;
use crate::recover::{Ownership, StreamState, ownership_among};
use crate::units::{Epoch, ObjectSeq};

/// How often the stream is entered again at a newer checkpoint before its writer is asked to stop.
const PATIENCE: u32 = 4;

/// And in all.
const ENTRIES_MAX: u32 = 16;

/// The right to ask the writer to stop, of who opens for writing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    /// The log found on this host.
    pub(crate) log: Option<&'a LogOnDisk>,
    /// It was found to continue the stream, and must do so still.
    pub(crate) ours: bool,
}

impl Opening<'_> {
    /// Reads the stream from another checkpoint than `before`; `None` if there is none.
    ///
    /// # Errors
    /// Damage; [`Error::Outrun`]; or this host's log does not permit to go on.
    pub(crate) fn reenter(
        &self,
        committed: ObjectSeq,
        mut before: Option<CheckpointRef>,
        claim: Option<Claim<'_>>,
    ) -> Result<Option<StreamState>> {
        let mut last = None;
        for entry in 1..=ENTRIES_MAX {
            let found = self.superblock.reread()?;
            let found = found.ok_or_else(|| Error::NoSuchVolume(self.name()))?;
            if found.checkpoint == before {
                return last.map_or(Ok(None), Err);
            }
            if let Some(claim) = claim.filter(|_| entry > PATIENCE)
                && self.may_ask(claim)?
            {
                // Whoever writes has at most the epoch found there, or has not named a checkpoint
                // yet, and then this one does not go.
                self.announce(Epoch::next)?;
            }
            before = self.superblock.get().checkpoint;
            match self.read_stream_once(committed) {
                Err(error @ Error::Damaged { .. }) => last = Some(error),
                read => return read.map(Some),
            }
        }
        Err(Error::Outrun(self.name()))
    }

    /// Whether it is settled that this host goes on, whoever writes the stream.
    fn may_ask(&self, claim: Claim<'_>) -> Result<bool> {
        let holds_something = |log: &&LogOnDisk| {
            let header = log.header();
            claim.ours || (header.fence.is_some() && !header.clean)
        };
        let Some(log) = claim.log.filter(holds_something) else { return Ok(true) };
        let Some(checkpoint) = self.superblock.get().checkpoint else { return Ok(false) };
        match read_checkpoint(&self.stream, checkpoint.seq) {
            // That nobody took over cannot be told from a checkpoint.
            Ok(header) => match self.settle(&header.fences, log, claim.ours)? {
                Ownership::Contained => Ok(true),
                Ownership::Ours | Ownership::Stale { .. } => Ok(false),
            },
            // Collected as well; the next one may tell.
            Err(Error::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whose `log` is, if the newest checkpoint tells that somebody took the volume over since. Whoever
    /// writes at full speed need not be caught up with for that.
    pub(crate) fn owner_since(&self, log: &LogOnDisk) -> Result<Option<Ownership>> {
        let superblock = self.superblock.get();
        let own = log.header().fence.filter(|own| superblock.epoch > own.epoch);
        let Some((checkpoint, _)) = superblock.checkpoint.zip(own) else { return Ok(None) };
        match read_checkpoint(&self.stream, checkpoint.seq) {
            Ok(header) => match ownership_among(&header.fences, log)? {
                // It may have taken the volume back since.
                Ownership::Ours => Ok(None),
                owner => Ok(Some(owner)),
            },
            Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whose `log` is, if it permits to go on; `ours` if it was found to continue the stream before.
    pub(crate) fn settle(
        &self,
        fences: &[FenceRecord],
        log: &LogOnDisk,
        ours: bool,
    ) -> Result<Ownership> {
        match ownership_among(fences, log)? {
            Ownership::Stale { bytes, other } => Err(self.stale(log, bytes, other)),
            Ownership::Contained if ours => Err(Error::Fenced {
                volume: self.name(),
                by: "a host that opened it at the same moment".to_owned(),
            }),
            owner => Ok(owner),
        }
    }

    /// Announces in the superblock that a writer is on its way, of the epoch that `epoch` makes of
    /// the one found there.
    pub(crate) fn announce(&self, epoch: impl Fn(Epoch) -> Epoch) -> Result<()> {
        log::warn!(
            "volume {:?}: its writer is too fast to be overtaken; it is asked to stop at its next \
             checkpoint",
            self.name()
        );
        let platform = &*self.around.platform;
        let host = ShortText::truncated(&platform.host_name());
        step_of(platform, "open.announce")?;
        self.superblock.update(|superblock| {
            if superblock.state == VolumeState::Deleting {
                return Err(Error::NoSuchVolume(self.name()));
            }
            superblock.epoch = epoch(superblock.epoch);
            superblock.last_host = host.clone();
            Ok(())
        })?;
        step_of(platform, "open.announced")
    }
}
