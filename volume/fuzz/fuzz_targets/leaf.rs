#![no_main]

use libfuzzer_sys::fuzz_target;
use lsvd_volume::format::{decode_leaf, encode_leaf};

fuzz_target!(|data: &[u8]| {
    let _ = decode_leaf(data);
    let mut bytes = lsvd_volume_fuzz::begin(data, b"LSVL", 4, 16);
    lsvd_volume_fuzz::seeded(&mut bytes, 8);
    if let Ok(leaf) = decode_leaf(&bytes) {
        assert_eq!(decode_leaf(&encode_leaf(&leaf).unwrap()), Ok(leaf));
    }
});
