//! Writing an object's content into a file.
//!
//! A small object goes through the page cache. A large one goes past it: it is written once and
//! synced at once, so that pages for it would only drive out what others read, and filling them takes
//! more processor time than all else about a put, most of all where memory that is free has gone back
//! to the host of a virtual machine. Direct I/O wants whole blocks of aligned memory, so the parts
//! are gathered piece by piece in a buffer small enough for the processor's cache. Where a file
//! system has no direct I/O, the pieces go through the page cache as well.

use std::fs::File;
use std::io::{self, IoSlice, Write};

use parking_lot::Mutex;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, ftruncate};
use rustix::io::Errno;

/// Most slices that one system call takes.
const SLICES_MAX: usize = 1024;

/// On nearly all devices direct I/O wants addresses, lengths and offsets to be multiples of this, or of
/// less.
const BLOCK_BYTES: usize = 4096;

/// Bytes of one direct write.
const PIECE_BYTES: usize = 1 << 20;

/// Content from this size on is large.
const LARGE_BYTES: usize = 256 << 10;

/// Writes content, with buffers that are used again.
#[derive(Debug, Default)]
pub(super) struct ContentWriter {
    pieces: Mutex<Vec<Piece>>,
}

impl ContentWriter {
    /// Writes the concatenation of `parts` to `file`, which is empty.
    pub(super) fn write(&self, file: &mut File, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len < LARGE_BYTES || set_direct(file, true).is_err() {
            return write_vectored(file, parts);
        }
        let used = self.pieces.lock().pop();
        let mut piece = used.unwrap_or_else(Piece::new);
        for part in parts {
            let mut rest = &**part;
            while !rest.is_empty() {
                rest = piece.take(rest);
                if piece.filled == PIECE_BYTES {
                    piece.write_to(file)?;
                }
            }
        }
        if piece.filled > 0 {
            piece.write_to(file)?;
            ftruncate(&*file, len as u64)?;
        }
        self.pieces.lock().push(piece);
        Ok(())
    }
}

/// A part of the content.
#[derive(Debug)]
struct Piece {
    memory: Vec<u8>,
    filled: usize,
}

impl Piece {
    fn new() -> Self {
        Self { memory: vec![0; PIECE_BYTES + BLOCK_BYTES], filled: 0 }
    }

    fn aligned(&mut self) -> &mut [u8] {
        let skip = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        &mut self.memory[skip..skip + PIECE_BYTES]
    }

    /// Takes what there is room for; returns the rest.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let at = self.filled;
        let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - at));
        self.aligned()[at..at + now.len()].copy_from_slice(now);
        self.filled += now.len();
        later
    }

    /// Writes what it holds, stretched to whole blocks by zeroes, and is empty afterwards.
    fn write_to(&mut self, file: &mut File) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        let end = filled.next_multiple_of(BLOCK_BYTES);
        let blocks = &mut self.aligned()[..end];
        blocks[filled..].fill(0);
        write_direct(file, blocks)
    }
}

/// Writes all of `bytes` to a direct file. It becomes an ordinary one if it wants other blocks than
/// these, be it from the beginning or after a write that was cut short.
fn write_direct(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if is_direct(file)? && Errno::from_io_error(&error) == Some(Errno::INVAL) =>
            {
                set_direct(file, false)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_direct(file: &File) -> io::Result<bool> {
    Ok(fcntl_getfl(file)?.contains(OFlags::DIRECT))
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

/// Writes all of `parts` in as few calls as possible and without copying them together.
fn write_vectored(file: &mut impl Write, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let filled: Vec<IoSlice<'_>> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    for chunk in filled.chunks(SLICES_MAX) {
        let mut chunk = chunk.to_vec();
        let mut rest = &mut chunk[..];
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Takes a few bytes at a time, and now and then none.
    #[derive(Default)]
    struct Stingy {
        taken: Vec<u8>,
        calls: usize,
    }

    impl Write for Stingy {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let taken = bytes.len().min(7);
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n % 251) as u8).collect()
    }

    fn empty_file(dir: &TempDir, name: &str) -> File {
        File::create_new(dir.path().join(name)).unwrap()
    }

    fn content_of(dir: &TempDir, name: &str) -> Vec<u8> {
        std::fs::read(dir.path().join(name)).unwrap()
    }

    #[test]
    fn short_writes_are_carried_on() {
        let whole = content(10_000);
        let parts: Vec<_> = whole.chunks(5).chain([&[][..]]).map(IoSlice::new).collect();
        let mut stingy = Stingy::default();
        write_vectored(&mut stingy, &parts).unwrap();
        assert!(stingy.taken == whole);
        let mut stingy = Stingy::default();
        write_vectored(&mut stingy, &[IoSlice::new(&whole)]).unwrap();
        assert!(stingy.taken == whole);
    }

    #[test]
    fn content_of_any_size_is_written_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let writer = ContentWriter::default();
        let around = |size: usize| [size - 1, size, size + 1];
        let sizes = [LARGE_BYTES, PIECE_BYTES, 2 * PIECE_BYTES + BLOCK_BYTES].map(around);
        // The longest first: what a buffer held before must not come along.
        for size in sizes.into_iter().flatten().rev().chain([0, 1]) {
            let whole = content(size);
            for part_bytes in [1 << 12, 77_777, usize::MAX] {
                let name = format!("{size}-{part_bytes}");
                let parts: Vec<_> = whole.chunks(part_bytes).map(IoSlice::new).collect();
                let mut file = empty_file(&dir, &name);
                writer.write(&mut file, &parts).unwrap();
                assert!(content_of(&dir, &name) == whole, "{name}");
            }
        }
        assert!(writer.pieces.lock().len() <= 1, "one buffer is enough");
    }

    #[test]
    fn large_content_goes_past_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let writer = ContentWriter::default();
        if set_direct(&empty_file(&dir, "probe"), true).is_err() {
            eprintln!("skipped: {} has no direct I/O", dir.path().display());
            return;
        }
        for (size, past) in [(LARGE_BYTES - 1, false), (LARGE_BYTES, true)] {
            let mut file = empty_file(&dir, &size.to_string());
            writer.write(&mut file, &[IoSlice::new(&content(size))]).unwrap();
            assert_eq!(is_direct(&file).unwrap(), past, "{size}");
        }
    }

    #[test]
    fn a_file_that_wants_other_blocks_is_written_nevertheless() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = empty_file(&dir, "file");
        if set_direct(&file, true).is_err() {
            eprintln!("skipped: {} has no direct I/O", dir.path().display());
            return;
        }
        // Whole blocks, then what no device takes.
        let mut piece = Piece::new();
        piece.take(&content(PIECE_BYTES));
        piece.write_to(&mut file).unwrap();
        write_direct(&mut file, &content(99)).unwrap();
        let whole = [content(PIECE_BYTES), content(99)].concat();
        assert!(content_of(&dir, "file") == whole);
    }
}
