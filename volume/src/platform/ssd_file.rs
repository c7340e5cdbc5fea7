//! A log file on a real SSD: large direct writes, and reads of two kinds.
//!
//! Writes bypass the page cache (`O_DIRECT`), because a log is written once and read from
//! memory. What is read on behalf of a reader of the volume, who may come again, goes through the page
//! cache; the kernel drops cached pages that a direct write overwrites. What is read once, in order,
//! bypasses it: filling the cache costs more than the read. Where a file system has no direct I/O
//! (tmpfs), all goes through the cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};
use rustix::io::{ReadWriteFlags, retry_on_intr};

use super::LogFile;
use super::aio::Aio;

/// What direct I/O wants offsets, lengths and memory to be multiples of.
const BLOCK: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct SsdFile {
    reader: File,
    /// None if the file is only looked at.
    writer: Option<Writer>,
    bytes: u64,
    /// Memory for direct reads.
    landing: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    is_direct: bool,
    /// None where writes cannot go on in the background.
    aio: Option<Aio>,
}

impl SsdFile {
    /// Opens an existing file.
    pub(super) fn open(path: &Path, write: bool) -> io::Result<Self> {
        let reader = File::open(path)?;
        fadvise(&reader, 0, None, Advice::Random)?;
        let writer = if write { Some(Writer::open(path)?) } else { None };
        let bytes = reader.metadata()?.len();
        Ok(Self { reader, writer, bytes, landing: Mutex::default() })
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
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let direct = options.clone().custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
        match direct {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                Ok(Self { file: options.open(path)?, is_direct: false, aio: None })
            }
            opened => Ok(Self { file: opened?, is_direct: true, aio: Aio::open() }),
        }
    }
}

/// Fills `out` from `offset` of `file`, by way of `landing`.
fn read_direct(file: &File, offset: u64, out: &mut [u8], landing: &mut Vec<u8>) -> io::Result<()> {
    let start = offset / BLOCK * BLOCK;
    let end = (offset + out.len() as u64).next_multiple_of(BLOCK);
    let len = (end - start) as usize;
    landing.resize(landing.len().max(len + BLOCK as usize), 0);
    let skip = landing.as_ptr().align_offset(BLOCK as usize);
    let blocks = landing.get_mut(skip..skip + len).ok_or(io::ErrorKind::OutOfMemory)?;
    file.read_exact_at(blocks, start)?;
    let from = (offset - start) as usize;
    let wanted = blocks.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
    out.copy_from_slice(wanted);
    Ok(())
}

impl LogFile for SsdFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact_at(out, offset)
    }

    fn read_at_nowait(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        let wanted = out.len();
        let mut slices = [io::IoSliceMut::new(out)];
        let read = retry_on_intr(|| {
            rustix::io::preadv2(&self.reader, &mut slices, offset, ReadWriteFlags::NOWAIT)
        });
        match read {
            Ok(n) => Ok(n == wanted),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::OPNOTSUPP) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn read_once_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &self.writer {
            Some(writer) if writer.is_direct => {
                read_direct(&writer.file, offset, out, &mut self.landing.lock())
            }
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

    fn finish_write(&self) -> io::Result<()> {
        let aio = self.writer.as_ref().and_then(|writer| writer.aio.as_ref());
        aio.map_or(Ok(()), Aio::finish)
    }

    fn sync(&self) -> io::Result<()> {
        self.writer()?.sync_data()
    }
}
