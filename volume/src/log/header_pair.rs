//! The two header blocks of a log file, written in turn.
//!
//! A write never touches the newer of the two, so one of them is always whole. If the newer
//! one is lost later, the older must still describe a log that can be scanned: ring space is
//! therefore re-used only below the tail of *both*.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{HeaderSlot, LogHeader, PickedHeader};
use crate::platform::{AlignedBlock, LogFile};
use crate::units::{BLOCK_BYTES, LogPos};

/// See the module.
#[derive(Debug)]
pub(super) struct HeaderPair {
    file: Arc<dyn LogFile>,
    current: LogHeader,
    slot: HeaderSlot,
    /// The tail in the other block.
    older_tail: LogPos,
}

impl HeaderPair {
    /// Starts from the header in force. Until the first write the other block is taken to be
    /// as old as can be.
    pub(super) fn new(file: Arc<dyn LogFile>, picked: PickedHeader) -> Self {
        let PickedHeader { newest, slot, .. } = picked;
        Self { file, current: newest, slot, older_tail: LogPos::ZERO }
    }

    /// The header in force.
    pub(super) fn current(&self) -> &LogHeader {
        &self.current
    }

    /// Ring positions below this may be overwritten.
    pub(super) fn reuse(&self) -> LogPos {
        self.older_tail.min(self.current.tail.pos)
    }

    /// Changes the header and writes it to the block that is not in force. It is safe only
    /// after the next sync of the file; until then do not act on [`Self::reuse`].
    pub(super) fn write(&mut self, change: impl FnOnce(&mut LogHeader)) -> std::io::Result<()> {
        let mut next = self.current.clone();
        change(&mut next);
        next.generation = next.generation.saturating_add(1);
        let mut block = AlignedBlock([0; 4096]);
        block.0.copy_from_slice(&next.encode());
        self.file.write_at(offset_of(self.slot.other()), &block.0, false)?;
        self.older_tail = self.current.tail.pos;
        self.current = next;
        self.slot = self.slot.other();
        Ok(())
    }

    /// Writes and syncs the header twice, so that both blocks say the same.
    pub(super) fn write_both(&mut self, change: impl Fn(&mut LogHeader)) -> std::io::Result<()> {
        for _ in 0..2 {
            self.write(&change)?;
            self.file.sync()?;
        }
        Ok(())
    }
}

fn offset_of(slot: HeaderSlot) -> u64 {
    match slot {
        HeaderSlot::A => 0,
        HeaderSlot::B => BLOCK_BYTES,
    }
}

/// Reads both blocks and picks the one in force.
pub(super) fn read(file: &dyn LogFile, what: &str) -> Result<PickedHeader> {
    let mut blocks = [[0_u8; BLOCK_BYTES as usize]; 2];
    let [first, second] = &mut blocks;
    for (block, offset) in [(&mut first[..], 0), (&mut second[..], BLOCK_BYTES)] {
        if file.bytes() < offset + BLOCK_BYTES {
            return Err(Error::damaged(what, "the file is too short to be a write log"));
        }
        file.read_at(offset, block).map_err(|e| Error::local(what, "read", e))?;
    }
    let picked = crate::format::log_header::pick(first, second).map_err(|e| e.of(what))?;
    Ok(picked)
}
