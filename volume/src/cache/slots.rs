//! The cache's file: an array of slots, each for one frame.
//!
//! ```text
//!   slot n at n * 68 KiB:   header (4 KiB, 96 bytes used) | frame (up to 64 KiB)
//!
//!   header   0  magic "LSVDSLOT"        8
//!            8  version, frame length   4 + 4
//!           16  volume                 16
//!           32  object                  8
//!           40  nonce                  16
//!           56  frame number            4, zero 4
//!           64  xxh3 of the frame       8
//!           72  zero                   16
//!           88  xxh3 of bytes 0..88     8
//! ```
//! All little-endian. The file is sparse and grows as slots are used. A slot says itself what
//! it holds, so that an index can be made from the file alone.
//!
//! Reads are verified by sums that the index keeps, one per block of 4 KiB, so that a short
//! read does not have to fetch its whole frame.
//!
//! The page cache is for what is read. A frame that nobody has read is written past it; pages for all
//! that is ever written would take more processor time than all else about an upload, and drive out
//! what others read.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::RwLock;
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64;

use super::{FRAME_BYTES_MAX, FrameKey, Origin};
use crate::ssd_io::{AlignedMemory, open_direct, read_at_nowait};

/// Bytes of a block: the unit of verification.
const BLOCK: usize = 4096;

/// Bytes of a slot in the file: a block for the header and room for a frame.
pub(super) const SLOT_BYTES: u64 = (BLOCK + FRAME_BYTES_MAX) as u64;

const MAGIC: [u8; 8] = *b"LSVDSLOT";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 96;

/// Length of a frame and a 32-bit sum of each of its blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrameSums {
    len: u32,
    blocks: Box<[u32]>,
}

impl FrameSums {
    /// The sums of `frame`.
    pub(super) fn of(frame: &[u8]) -> Self {
        Self { len: frame.len() as u32, blocks: frame.chunks(BLOCK).map(sum).collect() }
    }

    /// The whole blocks around `len` bytes from `offset`; `None` if they are not in the frame.
    fn blocks_around(&self, offset: usize, len: usize) -> Option<std::ops::Range<usize>> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len as usize)?;
        Some(offset / BLOCK * BLOCK..end.next_multiple_of(BLOCK).min(self.len as usize))
    }

    /// Whether `bytes`, which start at the block boundary `start`, are the frame's.
    fn verify(&self, start: usize, bytes: &[u8]) -> bool {
        let sums = &self.blocks[start / BLOCK..];
        bytes.chunks(BLOCK).zip(sums).all(|(block, &expected)| sum(block) == expected)
    }
}

fn sum(block: &[u8]) -> u32 {
    xxh3_64(block) as u32
}

/// What a read of a slot came to.
#[derive(Debug)]
pub(super) enum SlotRead {
    /// The bytes are there and verified.
    Filled,
    /// The frame is shorter than what was asked for.
    OutOfFrame,
    /// The bytes in the file are not the frame's.
    Mismatch,
    /// They are not in memory, and nobody may wait for the SSD.
    WouldWait,
}

thread_local! {
    static SLOT: RefCell<AlignedMemory> = const { RefCell::new(AlignedMemory::new()) };
}

/// The file.
#[derive(Debug)]
pub(super) struct SlotFile {
    file: File,
    /// The same, past the page cache where the file system can do that.
    writer: File,
    /// Held shared by who writes past the page cache, alone by who writes through it: a page may be
    /// larger than a block and hold a part of the next slot, which would stay as it was if the page
    /// was written to while that slot is.
    turns: RwLock<()>,
}

impl SlotFile {
    /// Opens or makes the file, for at most `slots` slots; a longer one is cut.
    pub(super) fn open(path: &Path, slots: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = slots * SLOT_BYTES;
        if file.metadata()?.len() > bytes {
            file.set_len(bytes)?;
        }
        let (writer, _) = open_direct(path)?;
        Ok(Self { file, writer, turns: RwLock::new(()) })
    }

    /// Writes a frame and its header into a slot.
    pub(super) fn write(
        &self,
        slot: u64,
        key: &FrameKey,
        frame: &[u8],
        origin: Origin,
    ) -> io::Result<()> {
        SLOT.with_borrow_mut(|memory| {
            let len = BLOCK + frame.len();
            let blocks = memory.bytes(len.next_multiple_of(BLOCK));
            let (head, rest) = blocks.split_at_mut(BLOCK);
            let (body, slack) = rest.split_at_mut(frame.len());
            head[..HEADER_BYTES].copy_from_slice(&header(key, frame));
            head[HEADER_BYTES..].fill(0);
            body.copy_from_slice(frame);
            slack.fill(0);
            let at = slot * SLOT_BYTES;
            if origin == Origin::Written {
                let _turn = self.turns.read();
                match self.writer.write_all_at(blocks, at) {
                    // It has direct I/O, but of larger blocks: that is rare, and asking again costs
                    // little beside the write.
                    Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => {}
                    written => return written,
                }
            }
            let _turn = self.turns.write();
            self.file.write_all_at(blocks, at)
        })
    }

    /// Fills `out` from `offset` of the frame in a slot and verifies it against `sums`.
    pub(super) fn read(
        &self,
        slot: u64,
        sums: &FrameSums,
        offset: u32,
        out: &mut [u8],
        may_wait: bool,
    ) -> io::Result<SlotRead> {
        let offset = offset as usize;
        let Some(blocks) = sums.blocks_around(offset, out.len()) else {
            return Ok(SlotRead::OutOfFrame);
        };
        let at = slot * SLOT_BYTES + (BLOCK + blocks.start) as u64;
        let verified = |is_same| if is_same { SlotRead::Filled } else { SlotRead::Mismatch };
        if blocks.start == offset && blocks.len() == out.len() {
            return Ok(match self.read_at(at, out, may_wait)? {
                true => verified(sums.verify(blocks.start, out)),
                false => SlotRead::WouldWait,
            });
        }
        let mut bytes = vec![0; blocks.len()];
        if !self.read_at(at, &mut bytes, may_wait)? {
            return Ok(SlotRead::WouldWait);
        }
        let skip = offset - blocks.start;
        out.copy_from_slice(&bytes[skip..skip + out.len()]);
        Ok(verified(sums.verify(blocks.start, &bytes)))
    }

    /// Fills `out`, if that needs no waiting or waiting is allowed; tells whether it did.
    fn read_at(&self, at: u64, out: &mut [u8], may_wait: bool) -> io::Result<bool> {
        if may_wait {
            return self.file.read_exact_at(out, at).map(|()| true);
        }
        read_at_nowait(&self.file, at, out)
    }

    /// Gives the file's space back.
    pub(super) fn empty(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

fn header(key: &FrameKey, frame: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    header[16..32].copy_from_slice(key.volume.as_bytes());
    header[32..40].copy_from_slice(&key.object.get().to_le_bytes());
    header[40..56].copy_from_slice(&key.nonce.get().to_le_bytes());
    header[56..60].copy_from_slice(&key.frame.to_le_bytes());
    header[64..72].copy_from_slice(&xxh3_64(frame).to_le_bytes());
    let sum = xxh3_64(&header[..88]);
    header[88..].copy_from_slice(&sum.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Nonce;
    use crate::units::ObjectSeq;
    use uuid::Uuid;

    #[test]
    fn a_slot_begins_with_its_description() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames");
        let slots = SlotFile::open(&path, 4).unwrap();
        let key = FrameKey {
            volume: Uuid::from_u128(1),
            object: ObjectSeq::new(2),
            nonce: Nonce::new(3),
            frame: 4,
        };
        slots.write(2, &key, b"frame", Origin::Written).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let slot = &bytes[2 * SLOT_BYTES as usize..];
        let mut golden = Vec::new();
        golden.extend_from_slice(b"LSVDSLOT\x01\0\0\0\x05\0\0\0");
        golden.extend_from_slice(&1u128.to_be_bytes());
        golden.extend_from_slice(&2u64.to_le_bytes());
        golden.extend_from_slice(&3u128.to_le_bytes());
        golden.extend_from_slice(&4u64.to_le_bytes());
        golden.extend_from_slice(&xxh3_64(b"frame").to_le_bytes());
        golden.extend_from_slice(&[0; 16]);
        golden.extend_from_slice(&xxh3_64(&golden[..88]).to_le_bytes());
        assert_eq!(slot[..96], golden);
        assert_eq!(slot[BLOCK..BLOCK + 5], *b"frame");
    }

    #[test]
    fn every_byte_of_a_read_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames");
        let slots = SlotFile::open(&path, 1).unwrap();
        let key = FrameKey {
            volume: Uuid::from_u128(1),
            object: ObjectSeq::new(2),
            nonce: Nonce::new(3),
            frame: 4,
        };
        let frame: Vec<u8> = (0..10_000u32).map(|i| (i * 7 / 5) as u8).collect();
        let sums = FrameSums::of(&frame);
        slots.write(0, &key, &frame, Origin::Written).unwrap();
        for (offset, len) in
            [(0, 10_000), (0, 4096), (4096, 4096), (8192, 1808), (5, 1), (4000, 200), (9999, 1)]
        {
            let mut out = vec![0; len];
            assert!(matches!(slots.read(0, &sums, offset, &mut out, true), Ok(SlotRead::Filled)));
            assert_eq!(out, frame[offset as usize..offset as usize + len]);
            // A changed byte anywhere in what is handed out is noticed.
            let at = BLOCK + offset as usize + len / 2;
            let byte = frame[at - BLOCK];
            slots.file.write_all_at(&[byte ^ 1], at as u64).unwrap();
            assert!(matches!(slots.read(0, &sums, offset, &mut out, true), Ok(SlotRead::Mismatch)));
            slots.file.write_all_at(&[byte], at as u64).unwrap();
        }
        for (offset, len) in [(0, 10_001), (10_000, 1), (u32::MAX, 1)] {
            assert!(matches!(
                slots.read(0, &sums, offset, &mut vec![0; len], true),
                Ok(SlotRead::OutOfFrame)
            ));
        }
    }
}
