//! A log's bytes: the file and the window together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::Layout;
use super::memory::Memory;
use crate::error::{Error, Result};
use crate::format::VolumeTag;
use crate::platform::LogFile;
use crate::units::LogPos;

/// Where the bytes of one log are.
#[derive(Debug)]
pub(crate) struct LogData {
    /// The file's name, for messages.
    pub(super) path: String,
    pub(super) file: Arc<dyn LogFile>,
    pub(super) layout: Layout,
    pub(super) memory: Memory,
    /// What marks this volume's records.
    pub(super) tag: VolumeTag,
    /// Whether this process alone writes the log, and through this very value. Otherwise what
    /// is read may be overwritten unseen, memory included, and must be verified.
    pub(super) own: bool,
    /// Positions below may be overwritten at any time.
    reuse: AtomicU64,
}

impl LogData {
    pub(super) fn new(
        path: String,
        file: Arc<dyn LogFile>,
        layout: Layout,
        memory: Memory,
        tag: VolumeTag,
        own: bool,
    ) -> Self {
        Self { path, file, layout, memory, tag, own, reuse: AtomicU64::new(0) }
    }

    /// Positions below may be overwritten from now on.
    pub(super) fn raise_reuse(&self, pos: LogPos) {
        self.reuse.fetch_max(pos.get(), Ordering::SeqCst);
    }

    /// Whether what was just read at `pos` may have been overwritten before.
    pub(super) fn is_recycled(&self, pos: LogPos) -> bool {
        pos.get() < self.reuse.load(Ordering::SeqCst)
    }

    /// Reads from the ring. The range must not cross the window's end.
    pub(super) fn read_ring(&self, pos: LogPos, out: &mut [u8]) -> Result<()> {
        self.file
            .read_at(self.layout.file_offset(pos), out)
            .map_err(|e| Error::local(&self.path, "read the log", e))
    }

    /// As [`Self::read_ring`], for a caller that will not read it again.
    pub(super) fn read_ring_once(&self, pos: LogPos, out: &mut [u8]) -> Result<()> {
        self.file
            .read_once_at(self.layout.file_offset(pos), out)
            .map_err(|e| Error::local(&self.path, "read the log", e))
    }

    /// Says that the record at `pos` is not what was written.
    pub(super) fn damaged(&self, pos: LogPos, detail: impl std::fmt::Display) -> Error {
        Error::damaged(format!("{} at log position {pos}", self.path), detail)
    }
}
