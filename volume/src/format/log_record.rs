//! The record: what the write log's ring is filled with, one per write, trim or resize.
//!
//! ```text
//!   0 +--------------------+
//!     | prefix, 16 bytes   |  written when the space is reserved, never changed
//!  16 +--------------------+
//!     | body, 56 bytes     |  written when the record is filled
//!  72 +--------------------+
//!     | chunk sums, 8 * N  |  N = payload length / 64 KiB, rounded up
//!     +--------------------+
//!     | payload            |  whole sectors, at most 1 MiB
//!     +--------------------+
//!     | padding            |  of any content; too little for a record of its own
//!     +--------------------+  total length: a multiple of 8
//! ```
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | LogSeq |
//! | 8 | 4 | total length: head, chunk sums, payload (or padding) |
//! | 12 | 4 | check: low half of xxh3 of {LogSeq, total length, incarnation, volume tag} |
//! | 16 | 4 | magic `LSVR` |
//! | 20 | 1 | version |
//! | 21 | 1 | kind |
//! | 22 | 2 | payload length in sectors |
//! | 24 | 8 | volume tag: the first 8 bytes of the volume's uuid |
//! | 32 | 8 | incarnation of the log |
//! | 40 | 8 | first sector |
//! | 48 | 8 | sectors; of a resize: the new size |
//! | 56 | 8 | highest LogSeq known durable when this was written |
//! | 64 | 8 | checksum: xxh3 of the chunk sums, seeded with the xxh3 of bytes 0..64 |
//! | 72 | 8 * N | xxh3 of each 64 KiB of the payload |
//!
//! The check binds the prefix to one incarnation of one volume's log, so that a scan can step
//! over a slot that was reserved and never filled, and is not led astray by what the ring held
//! before. Payload chunks have sums of their own so that a part of a record can be verified
//! without reading all of it.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub use super::chunk_sums::{CHUNK_BYTES, CHUNKS_MAX, ChunkSums, PAYLOAD_MAX};
use super::chunk_sums::{SUM_BYTES, chunk_count};
use super::codec::{Reader, SliceWriter};
use super::error::{FormatError, FormatResult, check_version};
use super::ids::VolumeTag;
use crate::units::{Extent, Incarnation, Lba, LogSeq, SECTOR_BYTES};

/// Bytes of prefix and body.
pub const RECORD_HEAD_BYTES: u32 = 72;

/// Bytes of the prefix.
pub const PREFIX_BYTES: usize = 16;

/// Longest head with chunk sums.
pub const HEAD_AND_TABLE_BYTES_MAX: usize = payload_offset(PAYLOAD_MAX) as usize;

/// Lengths of records are multiples of this.
pub const RECORD_ALIGN: u32 = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"LSVR");
const VERSION: u8 = 1;
const CHECKSUM_OFFSET: usize = 64;

const _: () = assert!(RECORD_HEAD_BYTES.is_multiple_of(RECORD_ALIGN));

/// Where the payload begins in a record: the length of the head and the chunk sums.
#[inline]
pub const fn payload_offset(payload_len: u32) -> u32 {
    RECORD_HEAD_BYTES + SUM_BYTES * chunk_count(payload_len)
}

/// Total length of a record; `None` if the payload is too long or not whole sectors.
#[inline]
pub const fn record_len(payload_len: u32) -> Option<u32> {
    if payload_len > PAYLOAD_MAX || !payload_len.is_multiple_of(SECTOR_BYTES as u32) {
        return None;
    }
    Some((payload_offset(payload_len) + payload_len).next_multiple_of(RECORD_ALIGN))
}

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// Puts the payload at an extent.
    Write = 1,
    /// Discards an extent; it reads as zeroes afterwards.
    Trim = 2,
    /// Changes the volume's size to `sectors`.
    Resize = 3,
    /// A reservation that was never filled. Uses up its LogSeq, has no effect.
    Void = 4,
    /// Fills a block, or the ring's end. Uses up *no* LogSeq: it carries the next one to be used.
    Pad = 5,
}

impl RecordKind {
    fn from_raw(raw: u8) -> FormatResult<Self> {
        Ok(match raw {
            1 => Self::Write,
            2 => Self::Trim,
            3 => Self::Resize,
            4 => Self::Void,
            5 => Self::Pad,
            _ => return Err(FormatError::UnknownKind(raw)),
        })
    }
}

/// The part of a record that is written with its reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPrefix {
    /// The record's number.
    pub seq: LogSeq,
    /// Its whole length in bytes.
    pub total_len: u32,
}

impl RecordPrefix {
    fn check(self, tag: VolumeTag, incarnation: Incarnation) -> u32 {
        let mut bytes = [0; 28];
        let mut w = SliceWriter::new(&mut bytes);
        w.u64(self.seq.get());
        w.u32(self.total_len);
        w.u64(incarnation.get());
        w.u64(tag.get());
        xxh3_64(&bytes) as u32
    }

    /// The prefix's bytes in a log of that volume and incarnation.
    pub fn encode(self, tag: VolumeTag, incarnation: Incarnation) -> [u8; PREFIX_BYTES] {
        let mut out = [0; PREFIX_BYTES];
        let mut w = SliceWriter::new(&mut out);
        w.u64(self.seq.get());
        w.u32(self.total_len);
        w.u32(self.check(tag, incarnation));
        out
    }

    /// Decodes the first [`PREFIX_BYTES`] of `bytes`.
    ///
    /// # Errors
    /// `BadChecksum` unless they are a prefix of that volume and incarnation.
    pub fn decode(bytes: &[u8], tag: VolumeTag, incarnation: Incarnation) -> FormatResult<Self> {
        let mut r = Reader::new(bytes);
        let prefix = Self { seq: LogSeq::new(r.u64()?), total_len: r.u32()? };
        if r.u32()? != prefix.check(tag, incarnation) {
            return Err(FormatError::BadChecksum);
        }
        if prefix.total_len < RECORD_HEAD_BYTES || !prefix.total_len.is_multiple_of(RECORD_ALIGN) {
            return Err(FormatError::Invalid("the record's length is impossible"));
        }
        Ok(prefix)
    }
}

/// A filled record, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// The record's number.
    pub seq: LogSeq,
    /// Its whole length in bytes, a multiple of 8: for a write, a trim and a resize
    /// [`record_len`], or up to [`RECORD_HEAD_BYTES`] more, where the record is stretched to
    /// the end of its block; from [`RECORD_HEAD_BYTES`] on for the others.
    pub total_len: u32,
    /// What it does.
    pub kind: RecordKind,
    /// First sector of a write or trim; otherwise zero.
    pub lba: Lba,
    /// Length of a write or trim, new size of a resize; otherwise zero.
    pub sectors: u64,
    /// Bytes of payload: `sectors` of a write; otherwise zero.
    pub payload_len: u32,
    /// The opening of the log in which it was reserved.
    pub incarnation: Incarnation,
    /// Highest LogSeq known durable when it was written.
    pub durable: LogSeq,
}

impl RecordHead {
    /// The extent of a write or trim.
    pub fn extent(&self) -> Option<Extent> {
        match self.kind {
            RecordKind::Write | RecordKind::Trim => Extent::new(self.lba, self.sectors),
            RecordKind::Resize | RecordKind::Void | RecordKind::Pad => None,
        }
    }

    /// What `bytes` say is a record's whole length; not verified.
    pub fn peek_total_len(bytes: &[u8]) -> Option<u32> {
        let len = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        (len >= RECORD_HEAD_BYTES && len.is_multiple_of(RECORD_ALIGN)).then_some(len)
    }

    /// Where `bytes` say that a record's payload begins; not verified.
    pub fn peek_payload_offset(bytes: &[u8]) -> Option<u32> {
        let sectors = u16::from_le_bytes(*bytes.get(PREFIX_BYTES + 6..)?.first_chunk()?);
        Some(payload_offset(u32::from(sectors) * SECTOR_BYTES as u32))
    }

    /// Where the payload begins in the record.
    pub fn payload_offset(&self) -> u32 {
        payload_offset(self.payload_len)
    }

    /// The part that is written at reservation.
    pub fn prefix(&self) -> RecordPrefix {
        RecordPrefix { seq: self.seq, total_len: self.total_len }
    }

    /// Writes head and chunk sums to the front of `out`, [`payload_offset`] bytes. `chunk_sums`
    /// are those of [`ChunkSums::of`] the payload. Does not allocate.
    ///
    /// # Errors
    /// `Truncated` if `out` is too short, `Invalid` if the fields contradict each other.
    pub fn encode_into(
        &self,
        tag: VolumeTag,
        chunk_sums: &[u64],
        out: &mut [u8],
    ) -> FormatResult<()> {
        self.validate()?;
        if chunk_sums.len() != chunk_count(self.payload_len) as usize {
            return Err(FormatError::Invalid("the record's chunk sums do not fit its payload"));
        }
        let (head, rest) =
            out.split_at_mut_checked(CHECKSUM_OFFSET).ok_or(FormatError::Truncated)?;
        let (checksum, rest) = rest.split_first_chunk_mut().ok_or(FormatError::Truncated)?;
        let table = rest.get_mut(..size_of_val(chunk_sums)).ok_or(FormatError::Truncated)?;

        let mut w = SliceWriter::new(head);
        w.array(self.prefix().encode(tag, self.incarnation));
        w.u32(MAGIC);
        w.u8(VERSION);
        w.u8(self.kind as u8);
        w.u16((u64::from(self.payload_len) / SECTOR_BYTES) as u16);
        w.u64(tag.get());
        w.u64(self.incarnation.get());
        w.u64(self.lba.get());
        w.u64(self.sectors);
        w.u64(self.durable.get());
        w.finish()?;
        let mut w = SliceWriter::new(table);
        for sum in chunk_sums {
            w.u64(*sum);
        }
        w.finish()?;
        *checksum = checksum_of(head, table).to_le_bytes();
        Ok(())
    }

    /// Decodes head and chunk sums from the front of `bytes`.
    ///
    /// # Errors
    /// Whatever makes the bytes anything but a record of that volume.
    pub fn decode(bytes: &[u8], tag: VolumeTag) -> FormatResult<(Self, ChunkSums)> {
        let (head, rest) = bytes.split_at_checked(CHECKSUM_OFFSET).ok_or(FormatError::Truncated)?;
        let mut r = Reader::new(head);
        let prefix: [u8; PREFIX_BYTES] = r.array()?;
        if r.u32()? != MAGIC {
            return Err(FormatError::BadMagic);
        }
        let version = r.u8()?;
        let kind = r.u8()?;
        let payload_len = u32::from(r.u16()?) * SECTOR_BYTES as u32;
        if payload_len > PAYLOAD_MAX {
            return Err(FormatError::Invalid("the record's payload is too long"));
        }

        let mut tail = Reader::new(rest);
        let checksum = tail.u64()?;
        let table = tail.bytes((SUM_BYTES * chunk_count(payload_len)) as usize)?;
        if checksum != checksum_of(head, table) {
            return Err(FormatError::BadChecksum);
        }
        check_version(version.into(), VERSION.into())?;
        if r.u64()? != tag.get() {
            return Err(FormatError::Invalid("the record is another volume's"));
        }
        let incarnation = Incarnation::new(r.u64()?);
        let RecordPrefix { seq, total_len } = RecordPrefix::decode(&prefix, tag, incarnation)?;
        let head = Self {
            seq,
            total_len,
            kind: RecordKind::from_raw(kind)?,
            lba: Lba::new(r.u64()?),
            sectors: r.u64()?,
            payload_len,
            incarnation,
            durable: LogSeq::new(r.u64()?),
        };
        head.validate()?;
        Ok((head, ChunkSums::decode(table)?))
    }

    fn validate(&self) -> FormatResult<()> {
        let Some(natural_len) = record_len(self.payload_len) else {
            return Err(FormatError::Invalid(
                "the record's payload is too long or not whole sectors",
            ));
        };
        let payload_sectors = u64::from(self.payload_len) / SECTOR_BYTES;
        let extent_fits = Extent::new(self.lba, self.sectors).is_some();
        let fields_fit = match self.kind {
            RecordKind::Write => extent_fits && self.sectors == payload_sectors,
            RecordKind::Trim => extent_fits && payload_sectors == 0,
            RecordKind::Resize => {
                self.lba == Lba::ZERO && self.sectors <= Extent::LBA_LIMIT && payload_sectors == 0
            }
            RecordKind::Void | RecordKind::Pad => {
                self.lba == Lba::ZERO && self.sectors == 0 && payload_sectors == 0
            }
        };
        let len_fits = match self.kind {
            RecordKind::Write | RecordKind::Trim | RecordKind::Resize => {
                let slack = self.total_len.checked_sub(natural_len);
                slack.is_some_and(|s| s < RECORD_HEAD_BYTES && s.is_multiple_of(RECORD_ALIGN))
            }
            RecordKind::Void | RecordKind::Pad => {
                self.total_len >= natural_len && self.total_len.is_multiple_of(RECORD_ALIGN)
            }
        };
        if !fields_fit {
            return Err(FormatError::Invalid("the record's extent is impossible for its kind"));
        }
        if !len_fits {
            return Err(FormatError::Invalid("the record's length is impossible for its payload"));
        }
        Ok(())
    }
}

#[inline]
fn checksum_of(head: &[u8], table: &[u8]) -> u64 {
    xxh3_64_with_seed(table, xxh3_64(head))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::testing::{UUID, assert_damage_is_seen, assert_golden};

    const TAG: VolumeTag = VolumeTag::of(UUID);

    fn write(payload: &[u8]) -> RecordHead {
        let payload_len = payload.len() as u32;
        RecordHead {
            seq: LogSeq::new(0x0102),
            total_len: record_len(payload_len).unwrap(),
            kind: RecordKind::Write,
            lba: Lba::new(8),
            sectors: u64::from(payload_len) / SECTOR_BYTES,
            payload_len,
            incarnation: Incarnation::new(5),
            durable: LogSeq::new(0x0100),
        }
    }

    fn other(kind: RecordKind, lba: u64, sectors: u64, total_len: u32) -> RecordHead {
        RecordHead {
            kind,
            lba: Lba::new(lba),
            sectors,
            total_len,
            payload_len: 0,
            ..write(&[0; 512])
        }
    }

    fn encode(head: &RecordHead, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; payload_offset(head.payload_len) as usize];
        head.encode_into(TAG, ChunkSums::of(payload).unwrap().as_slice(), &mut out).unwrap();
        out
    }

    #[test]
    fn golden() {
        let payload: Vec<u8> = (0..512u32).map(|i| i as u8).collect();
        let bytes = encode(&write(&payload), &payload);
        assert_golden(
            &bytes,
            "\
             0201000000000000 5002000008cf4881 4c53565201010100 0011223344556677 \
             0500000000000000 0800000000000000 0100000000000000 0001000000000000 \
             c62f260b6a540894 09fa9bd15a105910",
        );
    }

    #[test]
    fn lengths() {
        assert_eq!(record_len(0), Some(72));
        assert_eq!(record_len(4096), Some(72 + 8 + 4096));
        assert_eq!(record_len(PAYLOAD_MAX), Some(72 + 16 * 8 + PAYLOAD_MAX));
        assert_eq!(record_len(PAYLOAD_MAX + 512), None);
        assert_eq!(record_len(100), None);
    }

    #[test]
    fn damage_is_seen() {
        let payload = vec![7; 200 << 10];
        let bytes = encode(&write(&payload), &payload);
        assert_damage_is_seen(&bytes, |bytes| RecordHead::decode(bytes, TAG));
        let prefix = write(&payload).prefix().encode(TAG, Incarnation::new(5));
        assert_damage_is_seen(&prefix, |bytes| {
            RecordPrefix::decode(bytes, TAG, Incarnation::new(5))
        });
    }

    #[test]
    fn every_kind_round_trips() {
        let records = [
            other(RecordKind::Trim, 8, 1 << 40, 72),
            other(RecordKind::Trim, 8, 1, 72 + 64),
            other(RecordKind::Resize, 0, Extent::LBA_LIMIT, 72),
            other(RecordKind::Void, 0, 0, 1 << 20),
            other(RecordKind::Pad, 0, 0, 72),
        ];
        for head in records {
            let bytes = encode(&head, &[]);
            assert_eq!(RecordHead::decode(&bytes, TAG), Ok((head, ChunkSums::EMPTY)));
        }
    }

    #[test]
    fn contradictions_are_refused_by_the_encoder() {
        let block = write(&[0; 4096]);
        let refused = [
            RecordHead { total_len: block.total_len + 72, ..block },
            RecordHead { total_len: block.total_len + 4, ..block },
            RecordHead { total_len: block.total_len - 8, ..block },
            RecordHead { sectors: 7, ..block },
            RecordHead { lba: Lba::new(Extent::LBA_LIMIT - 1), ..block },
            RecordHead { payload_len: PAYLOAD_MAX + 512, ..block },
            RecordHead { payload_len: 100, ..block },
            other(RecordKind::Write, 8, 0, 72),
            other(RecordKind::Trim, 8, 0, 72),
            other(RecordKind::Trim, 8, 1, 144),
            other(RecordKind::Resize, 1, 1, 72),
            other(RecordKind::Resize, 0, Extent::LBA_LIMIT + 1, 72),
            other(RecordKind::Void, 0, 1, 72),
            other(RecordKind::Void, 0, 0, 64),
            other(RecordKind::Pad, 0, 0, 76),
        ];
        let mut out = [0; 80];
        for head in refused {
            let sums = [0; 1];
            let sums = if head.payload_len > 0 { &sums[..] } else { &[] };
            let error = head.encode_into(TAG, sums, &mut out).expect_err("contradiction");
            assert!(matches!(error, FormatError::Invalid(_)), "{head:?}: {error:?}");
        }
        assert_eq!(out, [0; 80]);
    }

    #[test]
    fn contradictions_are_refused_by_the_decoder() {
        // (offset, byte) changes of a good record that is sealed again.
        let changes = [(21, 2), (21, 4), (21, 9), (20, 2), (24, 0xee), (48, 9), (46, 0xff)];
        for (offset, byte) in changes {
            let payload = [0; 4096];
            let mut bytes = encode(&write(&payload), &payload);
            bytes[offset] = byte;
            let sum = checksum_of(&bytes[..64], &bytes[72..]);
            bytes[64..72].copy_from_slice(&sum.to_le_bytes());
            let error = RecordHead::decode(&bytes, TAG).expect_err("contradiction");
            assert_ne!(error, FormatError::BadChecksum, "offset {offset}");
        }
    }

    #[test]
    fn a_record_belongs_to_one_volume_and_a_prefix_to_one_incarnation() {
        let head = write(&[0; 512]);
        let bytes = encode(&head, &[0; 512]);
        RecordHead::decode(&bytes, VolumeTag::new(1)).expect_err("another volume's");
        let decode = |incarnation| RecordPrefix::decode(&bytes, TAG, Incarnation::new(incarnation));
        assert_eq!(decode(5), Ok(head.prefix()));
        assert_eq!(decode(4), Err(FormatError::BadChecksum));
        assert_eq!(
            RecordPrefix::decode(&[0; 16], TAG, Incarnation::ZERO),
            Err(FormatError::BadChecksum)
        );
    }

    #[test]
    fn lengths_can_be_peeked_at() {
        for payload in [vec![], vec![1; 512], vec![1; PAYLOAD_MAX as usize]] {
            let head = match payload.len() {
                0 => other(RecordKind::Pad, 0, 0, 4096),
                _ => write(&payload),
            };
            let bytes = encode(&head, &payload);
            assert_eq!(RecordHead::peek_total_len(&bytes), Some(head.total_len));
            assert_eq!(RecordHead::peek_payload_offset(&bytes), Some(head.payload_offset()));
            assert!(bytes.len() <= HEAD_AND_TABLE_BYTES_MAX);
        }
        assert_eq!(RecordHead::peek_total_len(&[0; 72]), None);
        assert_eq!(RecordHead::peek_total_len(&[0xff; 11]), None);
        assert_eq!(RecordHead::peek_payload_offset(&[0xff; 23]), None);
    }

    #[test]
    fn a_short_buffer_is_refused() {
        let head = write(&[0; 512]);
        let result = head.encode_into(TAG, &[1], &mut [0; 79]);
        assert_eq!(result, Err(FormatError::Truncated));
    }

    proptest! {
        #[test]
        fn writes_round_trip(
            seq in any::<u64>(), lba in 0..Extent::LBA_LIMIT - 2048, sectors in 1usize..=2048,
            incarnation in any::<u64>(), durable in any::<u64>(), fill in any::<u8>(),
        ) {
            let payload = vec![fill; sectors * 512];
            let head = RecordHead {
                seq: LogSeq::new(seq),
                lba: Lba::new(lba),
                incarnation: Incarnation::new(incarnation),
                durable: LogSeq::new(durable),
                ..write(&payload)
            };
            let bytes = encode(&head, &payload);
            let (decoded, sums) = RecordHead::decode(&bytes, TAG).unwrap();
            prop_assert_eq!(decoded, head);
            prop_assert_eq!(sums.verify_payload(&payload), Ok(()));
        }

        #[test]
        fn noise_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(RecordHead::decode(&bytes, TAG).is_err());
        }
    }
}
