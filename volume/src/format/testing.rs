//! Helpers of the format tests.

use std::fmt::Debug;

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::error::FormatResult;
use super::ids::Nonce;
use super::object_header::{COMMON_BYTES, Stamp};
use crate::units::{Epoch, LogSeq, ObjectSeq};

/// Compares with bytes written as hexadecimal digits, with any white space between them.
#[track_caller]
pub(super) fn assert_golden(actual: &[u8], golden: &str) {
    let actual: String = actual.iter().map(|b| format!("{b:02x}")).collect();
    let golden: String = golden.split_whitespace().collect();
    assert_eq!(actual, golden);
}

/// Every truncation and every single flipped bit of `bytes` must be an error.
#[track_caller]
pub(super) fn assert_damage_is_seen<T: Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> FormatResult<T>,
) {
    decode(bytes).expect("the intact bytes decode");
    for len in 0..bytes.len() {
        decode(&bytes[..len]).expect_err("truncated");
    }
    let mut damaged = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(value) = decode(&damaged) {
            panic!("bit {bit} flipped, decoded {value:?}");
        }
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
}

pub(super) const UUID: Uuid = Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);

pub(super) fn stamp() -> Stamp {
    Stamp {
        volume: UUID,
        seq: ObjectSeq::new(1000),
        epoch: Epoch::new(3),
        nonce: Nonce::new(0xa5),
        window: 4,
        committed: ObjectSeq::new(998),
        log_seq: LogSeq::new(77777),
        size_sectors: 1 << 21,
        written_ms: 1_700_000_000_000,
    }
}

/// Makes both checksums of an object's header right again, as a hostile writer would.
pub(super) fn reseal_object(header: &mut [u8]) {
    let tables = xxh3_64(&header[COMMON_BYTES..]);
    header[24..32].copy_from_slice(&tables.to_le_bytes());
    let common = xxh3_64(&header[..COMMON_BYTES - 8]);
    header[COMMON_BYTES - 8..COMMON_BYTES].copy_from_slice(&common.to_le_bytes());
}

/// An object's header whose tables are replaced.
pub(super) fn with_tables(header: &[u8], tables: &[u8]) -> Vec<u8> {
    let mut out = header[..COMMON_BYTES].to_vec();
    out.extend_from_slice(tables);
    let len = out.len() as u32;
    out[16..20].copy_from_slice(&len.to_le_bytes());
    reseal_object(&mut out);
    out
}

/// Overwrites bytes from `from` on at places given as any numbers.
pub(super) fn scribble(bytes: &mut [u8], from: usize, changes: &[(usize, u8)]) {
    let room = bytes.len() - from;
    for (place, value) in changes {
        bytes[from + place % room] = *value;
    }
}
