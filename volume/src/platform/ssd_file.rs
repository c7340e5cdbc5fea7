//! A log file on a real SSD: direct writes, and reads of two kinds.
//!
//! Writes bypass the page cache (`O_DIRECT`), because a log is written once and read from
//! memory; one at a time may go on while its thread does something else. What is read on behalf of
//! a reader of the volume, who may come again, goes through the page cache; the kernel drops cached
//! pages that a direct write overwrites. What is read once, in order, bypasses it: filling the cache
//! costs more than the read. Where a file system has no direct I/O, all goes through it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{ReadWriteFlags, retry_on_intr};

use super::LogFile;
use super::aio::Aio;
use crate::ssd_io::{AlignedMemory, open_direct, read_at_nowait};
use crate::units::BLOCK_BYTES;

/// See the module.
#[derive(Debug)]
pub(super) struct SsdFile {
    reader: File,
    /// None if the file is only looked at.
    writer: Option<Writer>,
    bytes: u64,
}

#[derive(Debug)]
struct Writer {
    file: File,
    is_direct: bool,
    /// None where no write can go on by itself.
    aio: Option<Aio>,
    /// Memory for direct reads.
    landing: Mutex<AlignedMemory>,
}

impl SsdFile {
    /// Opens an existing file.
    pub(super) fn open(path: &Path, write: bool) -> io::Result<Self> {
        let reader = File::open(path)?;
        fadvise(&reader, 0, None, Advice::Random)?;
        let writer = if write { Some(Writer::open(path)?) } else { None };
        let bytes = reader.metadata()?.len();
        Ok(Self { reader, writer, bytes })
    }

    /// Makes a file of `bytes` at `path`, allocated and written throughout, beginning with
    /// `head`, and syncs it. An ordinary fallocated file would cost each first write of a
    /// block a journal commit.
    pub(super) fn create(path: &Path, bytes: u64, head: &[u8]) -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
        let zeroes = vec![0_u8; 4 << 20];
        let mut at = 0;
        while at < bytes {
            let n = (bytes - at).min(zeroes.len() as u64) as usize;
            file.write_all_at(zeroes.get(..n).unwrap_or_default(), at)?;
            at += n as u64;
        }
        file.write_all_at(head, 0)?;
        file.sync_all()
    }

    fn writer(&self) -> io::Result<&File> {
        let writer =
            self.writer.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        Ok(&writer.file)
    }
}

impl Writer {
    fn open(path: &Path) -> io::Result<Self> {
        let (file, is_direct) = open_direct(path)?;
        let aio = if is_direct { Aio::open() } else { None };
        Ok(Self { file, is_direct, aio, landing: Mutex::default() })
    }

    /// Fills `out` from `offset` of a direct file, which wants whole blocks and aligned memory.
    fn read_direct(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset / BLOCK_BYTES * BLOCK_BYTES;
        let end = (offset + out.len() as u64).next_multiple_of(BLOCK_BYTES);
        let len = (end - start) as usize;
        let mut landing = self.landing.lock();
        let blocks = landing.bytes(len);
        self.file.read_exact_at(blocks, start)?;
        let from = (offset - start) as usize;
        let wanted = blocks.get(from..from + out.len()).ok_or(io::ErrorKind::InvalidInput)?;
        out.copy_from_slice(wanted);
        Ok(())
    }
}

impl LogFile for SsdFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact_at(out, offset)
    }

    fn read_at_nowait(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        read_at_nowait(&self.reader, offset, out)
    }

    fn read_once_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &self.writer {
            Some(writer) if writer.is_direct => writer.read_direct(offset, out),
            _ => self.read_at(offset, out),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let file = self.writer()?;
        if !durable {
            return file.write_all_at(data, offset);
        }
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let n = retry_on_intr(|| {
                rustix::io::pwritev2(file, &[io::IoSlice::new(rest)], at, ReadWriteFlags::DSYNC)
            })?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += n;
        }
        Ok(())
    }

    fn begin_write(&self, offset: u64, data: &[u8]) -> bool {
        let Some(Writer { file, aio: Some(aio), .. }) = &self.writer else { return false };
        aio.begin(file, offset, data)
    }

    fn finish_write(&self) -> io::Result<bool> {
        let aio = self.writer.as_ref().and_then(|writer| writer.aio.as_ref());
        aio.map_or(Ok(true), Aio::finish)
    }

    fn sync(&self) -> io::Result<()> {
        self.writer()?.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::super::AlignedBlock;
    use super::*;

    /// A file of `blocks` blocks, each with its number in all bytes.
    fn file_of(blocks: u8) -> (tempfile::TempDir, SsdFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        SsdFile::create(&path, u64::from(blocks) * BLOCK_BYTES, &[]).unwrap();
        let file = SsdFile::open(&path, true).unwrap();
        for n in 0..blocks {
            let block = AlignedBlock([n; 4096]);
            file.write_at(u64::from(n) * BLOCK_BYTES, &block.0, n % 2 == 0).unwrap();
        }
        (dir, file)
    }

    #[test]
    fn both_kinds_of_reads_agree() {
        let (_dir, file) = file_of(9);
        let end = 9 * BLOCK_BYTES as usize;
        for (offset, len) in
            [(0, 1), (0, end), (4095, 2), (5000, 20_000), (end - 1, 1), (end - 4096, 4096), (3, 0)]
        {
            let (mut one, mut other) = (vec![1; len], vec![2; len]);
            file.read_at(offset as u64, &mut one).unwrap();
            file.read_once_at(offset as u64, &mut other).unwrap();
            assert_eq!(one, other, "{len} bytes at {offset}");
        }
        let mut beyond = [0; 2];
        assert!(file.read_once_at(end as u64 - 1, &mut beyond).is_err());
    }

    #[test]
    fn a_write_that_was_begun_is_read_back_after_its_end() {
        let (_dir, file) = file_of(4);
        let mut found = [0; 4096];
        for n in 100..120_u8 {
            let block = AlignedBlock([n; 4096]);
            if file.begin_write(BLOCK_BYTES, &block.0) {
                assert!(!file.begin_write(0, &block.0), "one at a time");
                assert!(file.finish_write().unwrap());
            } else {
                file.write_at(BLOCK_BYTES, &block.0, false).unwrap();
            }
            file.sync().unwrap();
            file.read_once_at(BLOCK_BYTES, &mut found).unwrap();
            assert_eq!(found, block.0);
            file.read_at(BLOCK_BYTES, &mut found).unwrap();
            assert_eq!(found, block.0);
        }
    }
}
