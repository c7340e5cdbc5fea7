//! Deleting a volume that another host may be writing.
//!
//! ```text
//!   mark deleting ---> fence ---> objects ---> this host's log ---> name ---> superblock
//!   nobody opens it    its writer is deposed                        it can be had again
//! ```
//! The mark comes first: whoever opens the volume for writing looks at the superblock again after
//! winning its fence, so an opening is either seen by the deletion or sees it. A deletion cut
//! short anywhere is continued by the next one of that name, or when the name is wanted again. Whoever
//! continues it gives up the log on its own host first, so that the name leads to what is left.
//!
//! **What may stay.** A writer that is idle learns that it was deposed when it creates its next
//! object. If nothing stood at that number it would go on, into nowhere. So where another host
//! may be writing still, the fence that ends the stream stays behind for good, some 200 bytes.
//! That is so if the stream does not end in good order and the log of this host is not the one
//! that continues it. Uploads of that writer which were under way and landed behind the fence go
//! like all other data; one that lands after they were listed stays.

use std::io::IoSlice;
use std::sync::Arc;

use crate::batch::WINDOW;
use crate::checkpoint::read_checkpoint;
use crate::error::{Error, Result};
use crate::format::{FenceHeader, Nonce, ObjectHeader, ShortText, Stamp, Superblock};
use crate::platform::Platform;
use crate::stream::{Created, Stream};
use crate::units::{Epoch, LogSeq, ObjectSeq};

/// The end of a stream, as far as a deletion needs it. Damage does not matter here.
#[derive(Debug)]
pub(crate) struct End {
    /// The first number that is missing.
    next: ObjectSeq,
    /// The highest epoch seen.
    epoch: Epoch,
    /// Whether the stream ends in good order.
    clean: bool,
    /// The nonce of the newest fence.
    fence: Option<Nonce>,
    /// The first fence or filler behind the newest checkpoint; an earlier deletion that was cut
    /// short may have put it there.
    guarded_from: Option<ObjectSeq>,
}

impl End {
    /// Looks for the end of the stream.
    pub(crate) fn find(stream: &Stream, superblock: &Superblock) -> Result<Self> {
        let mut end = Self {
            next: ObjectSeq::new(1),
            epoch: superblock.epoch,
            clean: true,
            fence: None,
            guarded_from: None,
        };
        if let Some(checkpoint) = superblock.checkpoint {
            // The first checkpoint of a clone is its base's.
            end.next = checkpoint.covers.max(stream.base_through()).next();
            if let Some(header) = readable(read_checkpoint(stream, checkpoint.seq))? {
                end.fence = header.fences.last().map(|fence| fence.id.nonce);
            }
        }
        while let Some(found) = stream.exists(end.next)?.then(|| stream.header(end.next)) {
            end.pass(readable(found)?.flatten().as_ref());
        }
        Ok(end)
    }

    /// The first fence or filler behind the newest checkpoint.
    pub(crate) fn guarded_from(&self) -> Option<ObjectSeq> {
        self.guarded_from
    }

    fn pass(&mut self, header: Option<&ObjectHeader>) {
        if matches!(header, Some(ObjectHeader::Fence(_) | ObjectHeader::Filler(_))) {
            self.guarded_from.get_or_insert(self.next);
        }
        self.next = self.next.next();
        self.clean = matches!(header, Some(ObjectHeader::Checkpoint(c)) if c.clean);
        if let Some(header) = header {
            self.epoch = self.epoch.max(header.stamp().epoch);
        }
        if let Some(ObjectHeader::Fence(fence)) = header {
            self.fence = Some(fence.stamp.nonce);
        }
    }

    /// Whether a host may be writing whose log is not the one that `owns` knows the fences of.
    pub(crate) fn may_be_written(&self, owns: impl FnOnce(Nonce) -> bool) -> bool {
        !self.clean && !self.fence.is_some_and(owns)
    }

    /// Creates a fence here, so that whoever writes fails. Returns its number, and whether somebody
    /// else came first and may be writing.
    pub(crate) fn fence(
        mut self,
        stream: &Stream,
        platform: &Arc<dyn Platform>,
        size_sectors: u64,
    ) -> Result<(ObjectSeq, bool)> {
        let mut others = false;
        loop {
            let stamp = Stamp {
                volume: stream.volume(),
                seq: self.next,
                epoch: self.epoch.next(),
                nonce: Nonce::new(platform.random()),
                window: WINDOW as u32,
                committed: ObjectSeq::new(self.next.get() - 1),
                log_seq: LogSeq::ZERO,
                size_sectors,
                written_ms: platform.unix_millis(),
            };
            let host = ShortText::truncated(&platform.host_name());
            let bytes = FenceHeader { stamp, host }.encode();
            let bytes = bytes.map_err(|e| e.of(stream.describe(stamp.seq)))?;
            match readable(stream.create(&stamp, &[IoSlice::new(&bytes)]))? {
                Some(Created::Ours) => return Ok((stamp.seq, others)),
                Some(Created::Theirs(found)) => self.pass(Some(&found.header)),
                Some(Created::Gone) | None => self.pass(None),
            }
            others = true;
        }
    }
}

/// Whether an object keeps a deposed writer out of its number. What cannot be read counts: it is in
/// the way as well.
pub(crate) fn is_guard(stream: &Stream, seq: ObjectSeq) -> Result<bool> {
    let header = readable(stream.header(seq))?.flatten();
    Ok(!matches!(
        header,
        Some(ObjectHeader::Data(_) | ObjectHeader::Shared(_) | ObjectHeader::Checkpoint(_))
    ))
}

/// `None` for what is damaged: that must not keep anybody from deleting it.
fn readable<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::Damaged { .. } | Error::NewerFormat { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
