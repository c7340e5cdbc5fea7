//! Stamped sectors: each says which volume, which sector, which write.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | the test's seed, in place of the volume |
//! | 8 | 8 | sector address |
//! | 16 | 8 | write number |
//! | 24 | 480 | filling, decided by the three |
//! | 504 | 8 | xxh3 of all before |

use xxhash_rust::xxh3::xxh3_64;

pub(crate) const SECTOR: usize = 512;

/// What a sector shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Zero,
    Write(u64),
}

/// Fills `out`, whole sectors from `lba` on, with the stamp of write `number`.
pub(crate) fn stamp(volume: u64, lba: u64, number: u64, out: &mut [u8]) {
    for (lba, sector) in (lba..).zip(out.chunks_exact_mut(SECTOR)) {
        // Every other write compresses well, the rest not at all.
        let step = if number.is_multiple_of(2) { 0 } else { 0x9e37_79b9_7f4a_7c15 };
        let mut word = number.rotate_left(40) ^ lba;
        for field in sector.chunks_exact_mut(8) {
            word = (word ^ (word >> 29)).wrapping_mul(step | 1).wrapping_add(step);
            field.copy_from_slice(&word.to_le_bytes());
        }
        for (field, value) in sector.chunks_exact_mut(8).zip([volume, lba, number]) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        let (body, sum) = sector.split_at_mut(SECTOR - 8);
        sum.copy_from_slice(&xxh3_64(body).to_le_bytes());
    }
}

/// What the sector `lba` shows.
///
/// # Errors
/// It shows something that was never written there.
pub(crate) fn decode(volume: u64, lba: u64, sector: &[u8]) -> Result<Shown, String> {
    if sector.iter().all(|byte| *byte == 0) {
        return Ok(Shown::Zero);
    }
    let (body, sum) = sector.split_at(SECTOR - 8);
    if sum != xxh3_64(body).to_le_bytes() {
        return Err(format!("sector {lba}: bytes that nobody wrote: {:02x?}...", &sector[..32]));
    }
    let field = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
    if (field(0), field(8)) != (volume, lba) {
        let (of, at, number) = (field(0), field(8), field(16));
        return Err(format!("sector {lba}: shows write {number} of sector {at} of volume {of}"));
    }
    Ok(Shown::Write(field(16)))
}
