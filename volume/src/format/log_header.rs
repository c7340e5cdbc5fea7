//! The header of a log file: where its records begin, and whose they are.
//!
//! A log file has two headers, written in turn: while one is being written, the other holds.
//! The valid one with the higher generation counts.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LSVDLOGH` |
//! | 8 | 4 | version |
//! | 12 | 4 | zero |
//! | 16 | 8 | generation: one higher in each header written |
//! | 24 | 16 | log id |
//! | 40 | 16 | volume uuid |
//! | 56 | 8 | store id |
//! | 64 | 8 | bytes of the ring |
//! | 72 | 8 | bytes of the buffer |
//! | 80 | 8 | incarnation |
//! | 88 | 8 + 8 | LogPos and LogSeq that the incarnation started from |
//! | 104 | 8 + 8 | tail: LogPos and LogSeq of the oldest record kept |
//! | 120 | 8 + 8 | LogPos that all before is known durable, next LogSeq there |
//! | 136 | 8 | highest ObjectSeq known committed |
//! | 144 | 8 + 8 + 16 | confirmed fence: ObjectSeq, epoch, nonce |
//! | 176 | 16 | pending nonce |
//! | 192 | 1 | flags: 1 closed clean, 2 fence present, 4 pending nonce present |
//! | 193 | 1 + n | length and text of the host's name |
//! | | | zeroes |
//! | 4088 | 8 | checksum of bytes 0..4088 |

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult, check_version};
use super::ids::{FenceId, LogId, Nonce, ShortText, StoreId};
use crate::units::{Epoch, Incarnation, LogPos, LogSeq, ObjectSeq};

/// Bytes of an encoded header.
pub const LOG_HEADER_BYTES: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"LSVDLOGH");
const VERSION: u32 = 1;
const CHECKSUM_OFFSET: usize = LOG_HEADER_BYTES - 8;

const FLAG_CLEAN: u8 = 1;
const FLAG_FENCE: u8 = 2;
const FLAG_PENDING: u8 = 4;
const FLAGS_KNOWN: u8 = FLAG_CLEAN | FLAG_FENCE | FLAG_PENDING;

/// A place in the log, and the LogSeq of the record that is or will be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogPoint {
    /// The place.
    pub pos: LogPos,
    /// The record's number.
    pub seq: LogSeq,
}

/// What a log file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// One higher in each header written.
    pub generation: u64,
    /// The log's identity.
    pub log_id: LogId,
    /// The volume whose writes it holds.
    pub volume: Uuid,
    /// The store in which the volume lives.
    pub store_id: StoreId,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Bytes of the buffer of the newest records.
    pub buffer_bytes: u64,
    /// Number of this opening of the log.
    pub incarnation: Incarnation,
    /// Where this opening's first record goes.
    pub start: LogPoint,
    /// The oldest record kept.
    pub tail: LogPoint,
    /// Everything before is known durable.
    pub durable: LogPoint,
    /// Closed with nothing left that the store does not hold.
    pub clean: bool,
    /// Highest number in the stream known committed.
    pub committed: ObjectSeq,
    /// The fence under which the log's records were written.
    pub fence: Option<FenceId>,
    /// Nonce of a fence that is about to be created, or was and is not confirmed yet.
    pub pending: Option<Nonce>,
    /// The host that wrote this.
    pub host: ShortText,
}

impl LogHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; LOG_HEADER_BYTES] {
        let mut w = Writer::with_capacity(512);
        w.u64(MAGIC);
        w.u32(VERSION);
        w.u32(0);
        w.u64(self.generation);
        w.u128(self.log_id.get());
        w.uuid(self.volume);
        w.u64(self.store_id.get());
        w.u64(self.ring_bytes);
        w.u64(self.buffer_bytes);
        w.u64(self.incarnation.get());
        for point in [self.start, self.tail, self.durable] {
            w.u64(point.pos.get());
            w.u64(point.seq.get());
        }
        w.u64(self.committed.get());
        w.u64(self.fence.map_or(0, |f| f.seq.get()));
        w.u64(self.fence.map_or(0, |f| f.epoch.get()));
        w.u128(self.fence.map_or(0, |f| f.nonce.get()));
        w.u128(self.pending.map_or(0, Nonce::get));
        w.u8((if self.clean { FLAG_CLEAN } else { 0 })
            | (if self.fence.is_some() { FLAG_FENCE } else { 0 })
            | (if self.pending.is_some() { FLAG_PENDING } else { 0 }));
        self.host.encode(&mut w);

        let mut out = [0; LOG_HEADER_BYTES];
        for (to, from) in out.iter_mut().zip(w.as_slice()) {
            *to = *from;
        }
        if let Some((covered, checksum)) = out.split_last_chunk_mut() {
            *checksum = xxh3_64(covered).to_le_bytes();
        }
        out
    }

    /// Decodes the first [`LOG_HEADER_BYTES`] of `bytes`.
    ///
    /// # Errors
    /// Whatever makes the bytes anything but a header.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let (covered, rest) =
            bytes.split_at_checked(CHECKSUM_OFFSET).ok_or(FormatError::Truncated)?;
        let checksum = Reader::new(rest).u64()?;
        let mut r = Reader::new(covered);
        if r.u64()? != MAGIC {
            return Err(FormatError::BadMagic);
        }
        if checksum != xxh3_64(covered) {
            return Err(FormatError::BadChecksum);
        }
        check_version(r.u32()?, VERSION)?;
        r.u32()?;
        let generation = r.u64()?;
        let log_id = LogId::new(r.u128()?);
        let volume = r.uuid()?;
        let store_id = StoreId::new(r.u64()?);
        let ring_bytes = r.u64()?;
        let buffer_bytes = r.u64()?;
        let incarnation = Incarnation::new(r.u64()?);
        let start = decode_point(&mut r)?;
        let tail = decode_point(&mut r)?;
        let durable = decode_point(&mut r)?;
        let committed = ObjectSeq::new(r.u64()?);
        let fence = FenceId {
            seq: ObjectSeq::new(r.u64()?),
            epoch: Epoch::new(r.u64()?),
            nonce: Nonce::new(r.u128()?),
        };
        let pending = Nonce::new(r.u128()?);
        let flags = r.u8()?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(FormatError::Invalid("the log header has unknown flags"));
        }
        let host = ShortText::decode(&mut r)?;
        Ok(Self {
            generation,
            log_id,
            volume,
            store_id,
            ring_bytes,
            buffer_bytes,
            incarnation,
            start,
            tail,
            durable,
            clean: flags & FLAG_CLEAN != 0,
            committed,
            fence: (flags & FLAG_FENCE != 0).then_some(fence),
            pending: (flags & FLAG_PENDING != 0).then_some(pending),
            host,
        })
    }
}

fn decode_point(r: &mut Reader<'_>) -> FormatResult<LogPoint> {
    Ok(LogPoint { pos: LogPos::new(r.u64()?), seq: LogSeq::new(r.u64()?) })
}

/// One of a log file's two places for a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderSlot {
    /// The first.
    A,
    /// The second.
    B,
}

impl HeaderSlot {
    /// The other one: where the next header goes.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The header that counts, and what the other place holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickedHeader {
    /// The valid header with the highest generation.
    pub newest: LogHeader,
    /// Where it is.
    pub slot: HeaderSlot,
    /// The other header, or what is wrong with it.
    pub other: FormatResult<LogHeader>,
}

/// Chooses between the two headers of a log file.
///
/// # Errors
/// What is wrong with the first header if neither is valid; `NewerVersion` if either was written
/// by a later version, as the other one is then out of date; `Invalid` if they contradict each
/// other.
pub fn pick(a: &[u8], b: &[u8]) -> FormatResult<PickedHeader> {
    let (a, b) = (LogHeader::decode(a), LogHeader::decode(b));
    for header in [&a, &b] {
        if let Err(newer @ FormatError::NewerVersion { .. }) = header {
            return Err(newer.clone());
        }
    }
    match (a, b) {
        (Ok(a), Ok(b)) if a.generation == b.generation && a != b => {
            Err(FormatError::Invalid("its two headers differ and have the same generation"))
        }
        (Ok(a), Ok(b)) if a.generation >= b.generation => {
            Ok(PickedHeader { newest: a, slot: HeaderSlot::A, other: Ok(b) })
        }
        (Ok(a), Err(b)) => Ok(PickedHeader { newest: a, slot: HeaderSlot::A, other: Err(b) }),
        (a, Ok(b)) => Ok(PickedHeader { newest: b, slot: HeaderSlot::B, other: a }),
        (Err(a), Err(_)) => Err(a),
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::testing::{UUID, assert_damage_is_seen, assert_golden};

    fn point(pos: u64, seq: u64) -> LogPoint {
        LogPoint { pos: LogPos::new(pos), seq: LogSeq::new(seq) }
    }

    fn header(generation: u64) -> LogHeader {
        LogHeader {
            generation,
            log_id: LogId::new(0xd00d),
            volume: UUID,
            store_id: StoreId::new(0x51),
            ring_bytes: 1 << 30,
            buffer_bytes: 32 << 20,
            incarnation: Incarnation::new(4),
            start: point(4096, 10),
            tail: point(8192, 20),
            durable: point(12288, 30),
            clean: false,
            committed: ObjectSeq::new(99),
            fence: Some(FenceId {
                seq: ObjectSeq::new(90),
                epoch: Epoch::new(2),
                nonce: Nonce::new(0xfe),
            }),
            pending: Some(Nonce::new(0xfd)),
            host: ShortText::truncated("node1"),
        }
    }

    fn reseal(bytes: &mut [u8]) {
        let sum = xxh3_64(&bytes[..CHECKSUM_OFFSET]);
        bytes[CHECKSUM_OFFSET..].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn golden() {
        let bytes = header(7).encode();
        assert_golden(
            &bytes[..200],
            "\
             4c5356444c4f4748 0100000000000000 0700000000000000 0dd0000000000000 \
             0000000000000000 0011223344556677 8899aabbccddeeff 5100000000000000 \
             0000004000000000 0000000200000000 0400000000000000 0010000000000000 \
             0a00000000000000 0020000000000000 1400000000000000 0030000000000000 \
             1e00000000000000 6300000000000000 5a00000000000000 0200000000000000 \
             fe00000000000000 0000000000000000 fd00000000000000 0000000000000000 \
             06056e6f64653100",
        );
        assert!(bytes[200..CHECKSUM_OFFSET].iter().all(|b| *b == 0));
        assert_golden(&bytes[CHECKSUM_OFFSET..], "c366d7b7b9a32cd1");
    }

    #[test]
    fn damage_is_seen() {
        assert_damage_is_seen(&header(7).encode(), LogHeader::decode);
    }

    #[test]
    fn later_versions_and_unknown_flags_are_refused() {
        let mut bytes = header(7).encode();
        bytes[8] = 2;
        reseal(&mut bytes);
        assert_eq!(
            LogHeader::decode(&bytes),
            Err(FormatError::NewerVersion { found: 2, known: 1 })
        );
        let mut bytes = header(7).encode();
        bytes[192] |= 8;
        reseal(&mut bytes);
        LogHeader::decode(&bytes).expect_err("unknown flag");
    }

    #[test]
    fn the_newest_valid_header_is_picked() {
        let (old, new) = (header(7).encode(), header(8).encode());
        let picked = pick(&old, &new).unwrap();
        assert_eq!((picked.newest.generation, picked.slot), (8, HeaderSlot::B));
        assert_eq!(picked.other, Ok(header(7)));
        let picked = pick(&new, &old).unwrap();
        assert_eq!((picked.newest.generation, picked.slot), (8, HeaderSlot::A));
        assert_eq!(picked.slot.other(), HeaderSlot::B);

        let picked = pick(&old, &[0; LOG_HEADER_BYTES]).unwrap();
        assert_eq!((picked.newest.generation, picked.slot), (7, HeaderSlot::A));
        assert_eq!(picked.other, Err(FormatError::BadMagic));
        let mut torn = new;
        torn[512..].fill(0);
        let picked = pick(&torn, &old).unwrap();
        assert_eq!((picked.newest.generation, picked.slot), (7, HeaderSlot::B));
        assert_eq!(picked.other, Err(FormatError::BadChecksum));
        assert_eq!(pick(&torn, &torn), Err(FormatError::BadChecksum));
    }

    #[test]
    fn headers_that_cannot_be_compared_are_refused() {
        let other = LogHeader { clean: true, ..header(7) };
        pick(&header(7).encode(), &other.encode()).expect_err("two of one generation");
        assert!(pick(&header(7).encode(), &header(7).encode()).is_ok());

        let mut newer = header(1).encode();
        newer[8] = 2;
        reseal(&mut newer);
        assert_eq!(
            pick(&header(7).encode(), &newer),
            Err(FormatError::NewerVersion { found: 2, known: 1 })
        );
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            numbers in any::<[u64; 12]>(), ids in any::<[u128; 3]>(), clean in any::<bool>(),
            fenced in any::<bool>(), pending in any::<bool>(), host in ".{0,255}",
        ) {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = numbers;
            let header = LogHeader {
                generation: a,
                log_id: LogId::new(ids[0]),
                ring_bytes: b,
                start: point(c, d),
                tail: point(e, f),
                durable: point(g, h),
                committed: ObjectSeq::new(i),
                incarnation: Incarnation::new(j),
                clean,
                fence: fenced.then_some(FenceId {
                    seq: ObjectSeq::new(k),
                    epoch: Epoch::new(l),
                    nonce: Nonce::new(ids[1]),
                }),
                pending: pending.then_some(Nonce::new(ids[2])),
                host: ShortText::truncated(&host),
                ..header(0)
            };
            prop_assert_eq!(LogHeader::decode(&header.encode()), Ok(header));
        }
    }
}
