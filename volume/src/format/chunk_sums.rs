//! Checksums of a log record's payload, one for each 64 KiB of it.
//!
//! They are made for every write, so they live in a fixed array: no allocation.

use xxhash_rust::xxh3::xxh3_64;

use super::codec::Reader;
use super::error::{FormatError, FormatResult};

/// Longest payload in bytes.
pub const PAYLOAD_MAX: u32 = 1 << 20;

/// Bytes of payload under one checksum.
pub const CHUNK_BYTES: u32 = 64 << 10;

/// Most chunks of a record.
pub const CHUNKS_MAX: usize = (PAYLOAD_MAX / CHUNK_BYTES) as usize;

/// Bytes of one encoded sum.
pub(super) const SUM_BYTES: u32 = 8;

/// Chunks of a payload.
#[inline]
pub(super) const fn chunk_count(payload_len: u32) -> u32 {
    payload_len.div_ceil(CHUNK_BYTES)
}

/// The checksums of a payload's chunks, [`CHUNK_BYTES`] each; the last one may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSums {
    sums: [u64; CHUNKS_MAX],
    count: usize,
}

impl ChunkSums {
    /// No chunks: the sums of a record without payload.
    pub const EMPTY: Self = Self { sums: [0; CHUNKS_MAX], count: 0 };

    /// The sums of `payload`; `None` if it is longer than [`PAYLOAD_MAX`].
    pub fn of(payload: &[u8]) -> Option<Self> {
        let chunks = payload.chunks(CHUNK_BYTES as usize);
        let mut all = Self { count: chunks.len(), ..Self::EMPTY };
        if all.count > CHUNKS_MAX {
            return None;
        }
        for (sum, chunk) in all.sums.iter_mut().zip(chunks) {
            *sum = xxh3_64(chunk);
        }
        Some(all)
    }

    pub(super) fn decode(table: &[u8]) -> FormatResult<Self> {
        let mut r = Reader::new(table);
        let mut all = Self::EMPTY;
        for sum in all.sums.iter_mut().take(table.len() / SUM_BYTES as usize) {
            *sum = r.u64()?;
            all.count += 1;
        }
        r.finish()?;
        Ok(all)
    }

    /// The sums in order.
    pub fn as_slice(&self) -> &[u64] {
        self.sums.get(..self.count).unwrap_or_default()
    }

    /// Checks a whole payload.
    ///
    /// # Errors
    /// `BadChecksum` if it is not the payload that the sums were made of.
    pub fn verify_payload(&self, payload: &[u8]) -> FormatResult<()> {
        if Self::of(payload).is_some_and(|sums| sums == *self) {
            Ok(())
        } else {
            Err(FormatError::BadChecksum)
        }
    }

    /// Checks a part of a payload that begins with chunk `first` and ends with the end of a
    /// chunk.
    ///
    /// # Errors
    /// `BadChecksum` if it is not that part of the payload that the sums were made of.
    pub fn verify_chunks(&self, first: usize, part: &[u8]) -> FormatResult<()> {
        let chunks = part.chunks(CHUNK_BYTES as usize);
        let sums = first
            .checked_add(chunks.len())
            .and_then(|end| self.as_slice().get(first..end))
            .ok_or(FormatError::BadChecksum)?;
        if sums.iter().copied().eq(chunks.map(xxh3_64)) {
            Ok(())
        } else {
            Err(FormatError::BadChecksum)
        }
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;

    const CHUNK: usize = CHUNK_BYTES as usize;

    fn payload() -> Vec<u8> {
        (0..CHUNK * 3 + 512).map(|i| (i / 7) as u8).collect()
    }

    #[test]
    fn the_whole_payload_and_nothing_else_is_accepted() {
        let mut payload = payload();
        let sums = ChunkSums::of(&payload).unwrap();
        assert_eq!(sums.as_slice().len(), 4);
        assert_eq!(sums.verify_payload(&payload), Ok(()));
        sums.verify_payload(&payload[..CHUNK * 3]).expect_err("too short");
        payload[CHUNK] ^= 1;
        sums.verify_payload(&payload).expect_err("damaged");
    }

    #[test]
    fn a_part_is_verified_without_the_rest() {
        let payload = payload();
        let sums = ChunkSums::of(&payload).unwrap();
        assert_eq!(sums.verify_chunks(1, &payload[CHUNK..CHUNK * 3]), Ok(()));
        assert_eq!(sums.verify_chunks(3, &payload[CHUNK * 3..]), Ok(()));
        sums.verify_chunks(2, &payload[CHUNK..CHUNK * 2]).expect_err("another chunk");
        sums.verify_chunks(1, &payload[CHUNK..CHUNK + 512]).expect_err("half a chunk");
        sums.verify_chunks(4, &payload[..512]).expect_err("no such chunk");
        sums.verify_chunks(usize::MAX, &payload).expect_err("no such chunk");
    }

    #[test]
    fn there_is_a_longest_payload() {
        let longest = vec![0; PAYLOAD_MAX as usize + 1];
        assert!(ChunkSums::of(&longest[1..]).is_some());
        assert!(ChunkSums::of(&longest).is_none());
    }
}
