//! The header that every object of the stream begins with.
//!
//! ```text
//!   0 +-----------------+
//!     | common, 128     |  this file; verifiable on its own
//! 128 +-----------------+
//!     | tables          |  by kind: data_object.rs, shared_object.rs, checkpoint.rs, fence.rs
//!     +-----------------+  header length
//!     | body            |  frames of a data object, leaves of a checkpoint
//!     +-----------------+
//! ```
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LSVDOBJ1` |
//! | 8 | 4 | version |
//! | 12 | 1 | kind |
//! | 13 | 1 | flags: 1 clean |
//! | 14 | 2 | zero |
//! | 16 | 4 | header length: common part and tables |
//! | 20 | 4 | window |
//! | 24 | 8 | checksum of the tables |
//! | 32 | 16 | volume uuid |
//! | 48 | 8 | ObjectSeq |
//! | 56 | 8 | epoch |
//! | 64 | 16 | nonce |
//! | 80 | 8 | highest ObjectSeq that its writer knew committed |
//! | 88 | 8 | highest LogSeq that the stream up to and with this object contains |
//! | 96 | 8 | size of the volume in sectors |
//! | 104 | 8 | time of writing, milliseconds since 1970 |
//! | 112 | 8 | length of the body |
//! | 120 | 8 | checksum of bytes 0..120 |
//!
//! The common part has a checksum of its own, so a short read tells what an object is, and a
//! header length is verified before anybody fetches that many bytes.

use lsvd_store::ByteRange;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult, check_version};
use super::ids::Nonce;
use crate::units::{Epoch, LogSeq, ObjectSeq};

/// Bytes of the common part: what [`peek`] needs.
pub const COMMON_BYTES: usize = 128;

/// Longest header in bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"LSVDOBJ1");
const VERSION: u32 = 1;
const CHECKSUM_OFFSET: usize = COMMON_BYTES - 8;
const FLAG_CLEAN: u8 = 1;

/// What an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// Holds writes and trims.
    Data = 1,
    /// Holds data that was moved there from other objects.
    Moved = 2,
    /// Holds the map.
    Checkpoint = 3,
    /// Begins a writer's reign.
    Fence = 4,
    /// Takes a number so that a delayed create cannot.
    Filler = 5,
    /// Takes over data that other objects hold.
    Shared = 6,
}

impl ObjectKind {
    fn from_raw(raw: u8) -> FormatResult<Self> {
        Ok(match raw {
            1 => Self::Data,
            2 => Self::Moved,
            3 => Self::Checkpoint,
            4 => Self::Fence,
            5 => Self::Filler,
            6 => Self::Shared,
            _ => return Err(FormatError::UnknownKind(raw)),
        })
    }
}

/// What a writer says of itself and of the stream in each object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The volume.
    pub volume: Uuid,
    /// The object's number.
    pub seq: ObjectSeq,
    /// Its writer's epoch.
    pub epoch: Epoch,
    /// Tells this object from every other attempt at its number.
    pub nonce: Nonce,
    /// Its writer creates a number only after the one that is this much lower is committed.
    pub window: u32,
    /// Highest number that its writer knew committed.
    pub committed: ObjectSeq,
    /// Highest LogSeq that the stream up to and with this object contains.
    pub log_seq: LogSeq,
    /// Size of the volume in sectors. It holds before the object's own extents are applied.
    pub size_sectors: u64,
    /// Time of writing, in milliseconds since 1970.
    pub written_ms: u64,
}

/// The common part of an object's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonHeader {
    /// What the object is for.
    pub kind: ObjectKind,
    /// Of a checkpoint: written by a drained close, nothing was in flight after it.
    pub clean: bool,
    /// Bytes of the whole header, at most [`HEADER_BYTES_MAX`]; the body begins there.
    pub header_len: u32,
    /// Bytes of the body.
    pub body_len: u64,
    /// What its writer says.
    pub stamp: Stamp,
}

impl CommonHeader {
    /// Where `len` bytes at `offset` of the body lie in the object; `None` if outside the body.
    pub fn body_range(&self, offset: u64, len: u64) -> Option<ByteRange> {
        let end = offset.checked_add(len)?;
        if end > self.body_len {
            return None;
        }
        ByteRange::new(u64::from(self.header_len).checked_add(offset)?, len)
    }

    /// Bytes of the whole object.
    pub fn object_len(&self) -> u64 {
        u64::from(self.header_len).saturating_add(self.body_len)
    }
}

/// Decodes and verifies the common part from the first [`COMMON_BYTES`] of an object, or more.
///
/// # Errors
/// `UnknownKind` and `NewerVersion` of intact headers that a later version wrote; whatever else
/// makes the bytes anything but an object's beginning.
pub fn peek(bytes: &[u8]) -> FormatResult<CommonHeader> {
    decode_common(bytes).map(|(common, _)| common)
}

/// The common part, and the tables' checksum.
fn decode_common(bytes: &[u8]) -> FormatResult<(CommonHeader, u64)> {
    let (covered, rest) = bytes.split_at_checked(CHECKSUM_OFFSET).ok_or(FormatError::Truncated)?;
    let checksum = Reader::new(rest).u64()?;
    let mut r = Reader::new(covered);
    if r.u64()? != MAGIC {
        return Err(FormatError::BadMagic);
    }
    if checksum != xxh3_64(covered) {
        return Err(FormatError::BadChecksum);
    }
    check_version(r.u32()?, VERSION)?;
    let kind = ObjectKind::from_raw(r.u8()?)?;
    let flags = r.u8()?;
    r.u16()?;
    let header_len = r.u32()?;
    let window = r.u32()?;
    let tables_sum = r.u64()?;
    let stamp = Stamp {
        volume: r.uuid()?,
        seq: ObjectSeq::new(r.u64()?),
        epoch: Epoch::new(r.u64()?),
        nonce: Nonce::new(r.u128()?),
        window,
        committed: ObjectSeq::new(r.u64()?),
        log_seq: LogSeq::new(r.u64()?),
        size_sectors: r.u64()?,
        written_ms: r.u64()?,
    };
    let body_len = r.u64()?;
    if flags & !FLAG_CLEAN != 0 || (flags != 0 && kind != ObjectKind::Checkpoint) {
        return Err(FormatError::Invalid("the object header has impossible flags"));
    }
    if !(COMMON_BYTES..=HEADER_BYTES_MAX).contains(&(header_len as usize)) {
        return Err(FormatError::Invalid("the object header's length is impossible"));
    }
    let clean = flags & FLAG_CLEAN != 0;
    Ok((CommonHeader { kind, clean, header_len, body_len, stamp }, tables_sum))
}

/// The common part of an object of that kind, and its verified tables. `bytes` are the whole
/// header, or more of the object.
pub(super) fn decode_with_tables(
    bytes: &[u8],
    kind: ObjectKind,
) -> FormatResult<(CommonHeader, Reader<'_>)> {
    let (common, tables_sum) = decode_common(bytes)?;
    if common.kind != kind {
        return Err(FormatError::Invalid("the object is of another kind than was expected"));
    }
    let tables =
        bytes.get(COMMON_BYTES..common.header_len as usize).ok_or(FormatError::Truncated)?;
    if tables_sum != xxh3_64(tables) {
        return Err(FormatError::BadChecksum);
    }
    Ok((common, Reader::new(tables)))
}

/// Length of a header with that many bytes of tables.
pub(super) fn header_len(tables: &[u8]) -> FormatResult<u32> {
    match COMMON_BYTES.checked_add(tables.len()) {
        Some(len) if len <= HEADER_BYTES_MAX => Ok(len as u32),
        _ => Err(FormatError::Invalid("the object header would be too long")),
    }
}

/// The bytes of a whole header.
pub(super) fn encode_with_tables(common: &CommonHeader, tables: &[u8]) -> Vec<u8> {
    let stamp = &common.stamp;
    let mut w = Writer::with_capacity(COMMON_BYTES + tables.len());
    w.u64(MAGIC);
    w.u32(VERSION);
    w.u8(common.kind as u8);
    w.u8(if common.clean { FLAG_CLEAN } else { 0 });
    w.u16(0);
    w.u32(common.header_len);
    w.u32(stamp.window);
    w.u64(xxh3_64(tables));
    w.uuid(stamp.volume);
    w.u64(stamp.seq.get());
    w.u64(stamp.epoch.get());
    w.u128(stamp.nonce.get());
    w.u64(stamp.committed.get());
    w.u64(stamp.log_seq.get());
    w.u64(stamp.size_sectors);
    w.u64(stamp.written_ms);
    w.u64(common.body_len);
    w.u64(xxh3_64(w.as_slice()));
    w.bytes(tables);
    w.into_vec()
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::format::testing::{assert_damage_is_seen, assert_golden, reseal_object, stamp};

    fn filler() -> Vec<u8> {
        let common = CommonHeader {
            kind: ObjectKind::Filler,
            clean: false,
            header_len: COMMON_BYTES as u32,
            body_len: 0,
            stamp: stamp(),
        };
        encode_with_tables(&common, &[])
    }

    #[test]
    fn golden() {
        assert_golden(
            &filler(),
            "\
             4c5356444f424a31 0100000005000000 8000000004000000 c294d3380580062d \
             0011223344556677 8899aabbccddeeff e803000000000000 0300000000000000 \
             a500000000000000 0000000000000000 e603000000000000 d12f010000000000 \
             0000200000000000 0068e5cf8b010000 0000000000000000 79764196d72ede41",
        );
        assert_eq!(filler().len(), COMMON_BYTES);
    }

    #[test]
    fn damage_is_seen() {
        assert_damage_is_seen(&filler(), peek);
    }

    #[test]
    fn what_later_versions_write_is_named() {
        let changed = |offset: usize, value: u8| {
            let mut bytes = filler();
            bytes[offset] = value;
            reseal_object(&mut bytes);
            peek(&bytes).expect_err("not of this version")
        };
        assert_eq!(changed(8, 2), FormatError::NewerVersion { found: 2, known: 1 });
        assert_eq!(changed(12, 7), FormatError::UnknownKind(7));
        assert_eq!(changed(12, 200), FormatError::UnknownKind(200));
    }

    #[test]
    fn impossible_values_are_refused() {
        let refused = [(13, 1), (13, 2), (16, 127), (19, 0xff)];
        for (offset, value) in refused {
            let mut bytes = filler();
            bytes[offset] = value;
            reseal_object(&mut bytes);
            let error = peek(&bytes).expect_err("impossible");
            assert!(matches!(error, FormatError::Invalid(_)), "offset {offset}: {error:?}");
        }
    }

    #[test]
    fn body_ranges_stay_in_the_body() {
        let common = CommonHeader { header_len: 200, body_len: 100, ..peek(&filler()).unwrap() };
        assert_eq!(common.body_range(10, 90), ByteRange::new(210, 90));
        assert_eq!(common.body_range(10, 91), None);
        assert_eq!(common.body_range(u64::MAX, 2), None);
        assert_eq!(common.object_len(), 300);
    }
}
