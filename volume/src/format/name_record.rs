//! `volumes/<name>`: which volume has that name. Small, so that renaming is cheap.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LSVDNAME` |
//! | 8 | 4 | version |
//! | 12 | 4 | zero |
//! | 16 | 16 | volume uuid |
//! | 32 | 8 | checksum of bytes 0..32 |

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult, check_version};

/// Bytes of an encoded record.
pub const NAME_RECORD_BYTES: usize = 40;

const MAGIC: u64 = u64::from_le_bytes(*b"LSVDNAME");
const VERSION: u32 = 1;
const CHECKSUM_OFFSET: usize = 32;

/// The volume behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRecord {
    /// The volume.
    pub volume: Uuid,
}

impl NameRecord {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(NAME_RECORD_BYTES);
        w.u64(MAGIC);
        w.u32(VERSION);
        w.u32(0);
        w.uuid(self.volume);
        w.u64(xxh3_64(w.as_slice()));
        w.into_vec()
    }

    /// Decodes exactly `bytes`.
    ///
    /// # Errors
    /// Whatever makes the bytes anything but a name record.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let (covered, rest) =
            bytes.split_at_checked(CHECKSUM_OFFSET).ok_or(FormatError::Truncated)?;
        let mut r = Reader::new(covered);
        if r.u64()? != MAGIC {
            return Err(FormatError::BadMagic);
        }
        let mut tail = Reader::new(rest);
        if tail.u64()? != xxh3_64(covered) {
            return Err(FormatError::BadChecksum);
        }
        check_version(r.u32()?, VERSION)?;
        tail.finish()?;
        r.u32()?;
        Ok(Self { volume: r.uuid()? })
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::format::testing::{UUID, assert_damage_is_seen, assert_golden};

    #[test]
    fn golden() {
        let record = NameRecord { volume: UUID };
        let bytes = record.encode();
        assert_golden(
            &bytes,
            "\
             4c5356444e414d45 0100000000000000 0011223344556677 8899aabbccddeeff \
             b193036b99786bf4",
        );
        assert_eq!(bytes.len(), NAME_RECORD_BYTES);
        assert_eq!(NameRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn damage_is_seen() {
        let mut bytes = NameRecord { volume: UUID }.encode();
        assert_damage_is_seen(&bytes, NameRecord::decode);
        bytes.push(0);
        NameRecord::decode(&bytes).expect_err("too long");
    }

    #[test]
    fn a_later_version_is_named() {
        let mut bytes = NameRecord { volume: UUID }.encode();
        bytes[8] = 9;
        let sum = xxh3_64(&bytes[..CHECKSUM_OFFSET]);
        bytes[CHECKSUM_OFFSET..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(
            NameRecord::decode(&bytes),
            Err(FormatError::NewerVersion { found: 9, known: 1 })
        );
    }
}
