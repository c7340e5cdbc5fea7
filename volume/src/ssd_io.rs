//! What the files on the local SSD have in common: I/O past the page cache, and reads that do not wait
//! for the device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use crate::units::BLOCK_BYTES;

/// Opens a file for I/O past the page cache; tells whether its file system has that. If not, all goes
/// through the page cache.
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

/// Reads what the page cache holds; `false` if that is not all. Then the kernel has mostly begun to
/// read the rest, so that whoever waits for it afterwards waits for less. Where a file system cannot
/// say what would wait (tmpfs), it is always `false`.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn memory_is_aligned_and_keeps_its_place() {
        let mut memory = AlignedMemory::new();
        for len in [1, 4096, 69_632, 8192, 1 << 20] {
            let bytes = memory.bytes(len);
            assert_eq!((bytes.len(), bytes.as_ptr().align_offset(4096)), (len, 0));
        }
    }

    #[test]
    fn what_lies_behind_the_end_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        let (file, _) = open_direct(&path).unwrap();
        let file_of_pages = File::open(&path).unwrap();
        assert!(!read_at_nowait(&file_of_pages, 0, &mut [0; 101]).unwrap());
        assert!(!read_at_nowait(&file_of_pages, 4096, &mut [0; 1]).unwrap());
        let mut memory = AlignedMemory::new();
        assert_eq!(file.read_at(memory.bytes(4096), 0).unwrap(), 100);
        assert_eq!(memory.bytes(100), [7; 100]);
    }
}
