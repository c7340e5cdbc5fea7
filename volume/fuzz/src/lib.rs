//! Makes checksums right, so that a fuzzer gets past them to what they guard.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// `len` bytes at least, beginning with `magic` and a version of 1 in `version_bytes` bytes.
pub fn begin(data: &[u8], magic: &[u8], version_bytes: usize, len: usize) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(len), 0);
    bytes[..magic.len()].copy_from_slice(magic);
    bytes[magic.len()..magic.len() + version_bytes].fill(0);
    bytes[magic.len()] = 1;
    bytes
}

/// Puts the checksum of all before `at` there.
pub fn plain(bytes: &mut [u8], at: usize) {
    let sum = xxh3_64(&bytes[..at]);
    bytes[at..at + 8].copy_from_slice(&sum.to_le_bytes());
}

/// Puts the checksum of all before `at` and all after it there.
pub fn seeded(bytes: &mut [u8], at: usize) {
    let sum = xxh3_64_with_seed(&bytes[at + 8..], xxh3_64(&bytes[..at]));
    bytes[at..at + 8].copy_from_slice(&sum.to_le_bytes());
}
