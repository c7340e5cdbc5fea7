//! Whether what is missing was lost, or collected while it was looked for.
//!
//! A check reads a volume that is in use. What it knows of the volume is a checkpoint, and what
//! that names may be moved, condemned and deleted before it is looked at. So something missing is
//! damage only if the checkpoint that the superblock names *after* it was missed needs it still.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::checkpoint::read_checkpoint;
use crate::error::{Error, Result};
use crate::format::{CheckpointHeader, CheckpointRef, Superblock, VolumeState};
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::units::ObjectSeq;

/// How often the newest checkpoint is looked for. A writer at full speed may publish the next one,
/// and collect this one, while it is read.
const ATTEMPTS: u32 = 64;

/// What became of an object that was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It should be there.
    Lost,
    /// Nobody needs it any more.
    Collected,
    /// It is there.
    Present,
}

/// See the module.
pub(crate) struct Judge<'a> {
    stream: &'a Stream,
    cell: &'a SuperblockCell,
    newest: Mutex<Option<Known>>,
    collected: AtomicU64,
}

/// What a checkpoint says of each object that it covers.
struct Known {
    at: CheckpointRef,
    /// Whether it may be deleted.
    condemned: HashMap<ObjectSeq, bool>,
}

impl Known {
    fn of(at: CheckpointRef, header: &CheckpointHeader) -> Self {
        let objects = header.objects.iter().map(|object| (object.seq, object.condemned));
        let fences = header.fences.iter().map(|fence| (fence.id.seq, false));
        Self { at, condemned: objects.chain(fences).collect() }
    }

    fn needs(&self, seq: ObjectSeq) -> bool {
        seq > self.at.covers || self.condemned.get(&seq).is_some_and(|condemned| !condemned)
    }
}

impl<'a> Judge<'a> {
    pub(crate) fn new(stream: &'a Stream, cell: &'a SuperblockCell) -> Self {
        Self { stream, cell, newest: Mutex::default(), collected: AtomicU64::new(0) }
    }

    /// Judges an object that was missed.
    ///
    /// # Errors
    /// The volume was deleted meanwhile, or the store fails.
    pub(crate) fn verdict(&self, seq: ObjectSeq) -> Result<Verdict> {
        if self.stream.exists(seq)? {
            return Ok(Verdict::Present);
        }
        let verdict = match self.is_needed(seq)? {
            true => Verdict::Lost,
            false => {
                self.collected.fetch_add(1, Ordering::Relaxed);
                Verdict::Collected
            }
        };
        Ok(verdict)
    }

    /// Whether another checkpoint covers more than `covers` by now, so that what lies behind that may
    /// be in the middle of being collected. It counts as one object that was.
    pub(crate) fn has_moved_on(&self, covers: ObjectSeq) -> Result<bool> {
        let now = self.superblock()?.checkpoint;
        let has = now.is_some_and(|checkpoint| checkpoint.covers > covers);
        self.collected.fetch_add(u64::from(has), Ordering::Relaxed);
        Ok(has)
    }

    /// How many objects were found to be collected since this was asked last.
    pub(crate) fn take_collected(&self) -> u64 {
        self.collected.swap(0, Ordering::Relaxed)
    }

    /// Whether the newest checkpoint, or the stream behind it, needs an object.
    pub(crate) fn is_needed(&self, seq: ObjectSeq) -> Result<bool> {
        let mut before = None;
        for _ in 0..ATTEMPTS {
            let superblock = self.superblock()?;
            let Some(at) = superblock.checkpoint else { return Ok(true) };
            if let Some(known) = self.newest.lock().as_ref().filter(|known| known.at == at) {
                return Ok(known.needs(seq));
            }
            match read_checkpoint(self.stream, at.seq) {
                Ok(header) => {
                    let known = Known::of(at, &header);
                    let needs = known.needs(seq);
                    *self.newest.lock() = Some(known);
                    return Ok(needs);
                }
                // It is not about to be replaced, so it is damaged; who knows what it needs.
                Err(Error::Damaged { .. } | Error::NewerFormat { .. }) if before == Some(at) => {
                    return Ok(true);
                }
                Err(Error::Damaged { .. } | Error::NewerFormat { .. }) => before = Some(at),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The superblock as it is now.
    ///
    /// # Errors
    /// The volume was deleted.
    pub(crate) fn superblock(&self) -> Result<Superblock> {
        let gone = || Error::Deleted(self.cell.get().name.to_string());
        let superblock = self.cell.reread()?.ok_or_else(gone)?;
        match superblock.state {
            VolumeState::Live => Ok(superblock),
            VolumeState::Deleting => Err(gone()),
        }
    }
}
