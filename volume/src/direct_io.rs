//! What the files on the local SSD have in common: I/O past the page cache, and reads that never wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use crate::units::BLOCK_BYTES;

/// Opens a file for I/O past the page cache; tells whether its file system has that (tmpfs had not
/// for long). If not, all goes through the page cache.
pub(crate) fn open_direct(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let direct = options.clone().custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
    match direct {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => {
            Ok((options.open(path)?, false))
        }
        opened => Ok((opened?, true)),
    }
}

/// Reads what the page cache holds; `false` if that is not all.
pub(crate) fn read_at_nowait(file: &File, offset: u64, out: &mut [u8]) -> io::Result<bool> {
    let wanted = out.len();
    let mut slices = [io::IoSliceMut::new(out)];
    let read =
        retry_on_intr(|| rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT));
    match read {
        Ok(n) => Ok(n == wanted),
        Err(Errno::AGAIN | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Memory that begins where direct I/O wants it to, used again and again.
#[derive(Debug, Default)]
pub(crate) struct AlignedMemory(Vec<u8>);

impl AlignedMemory {
    /// Memory that nothing was taken of yet.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// So many bytes, which hold anything.
    pub(crate) fn bytes(&mut self, len: usize) -> &mut [u8] {
        let block = BLOCK_BYTES as usize;
        self.0.resize(self.0.len().max(len + block), 0);
        let skip = self.0.as_ptr().align_offset(block);
        &mut self.0[skip..skip + len]
    }
}
