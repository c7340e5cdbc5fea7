#![no_main]

use libfuzzer_sys::fuzz_target;
use lsvd_volume::format::Superblock;

fuzz_target!(|data: &[u8]| {
    let _ = Superblock::decode(data);
    let mut bytes = lsvd_volume_fuzz::begin(data, b"LSVDSUPR", 4, 24);
    let len = bytes.len() as u32;
    bytes[12..16].copy_from_slice(&len.to_le_bytes());
    lsvd_volume_fuzz::seeded(&mut bytes, 16);
    if let Ok(superblock) = Superblock::decode(&bytes) {
        assert_eq!(
            Superblock::decode(&superblock.encode().unwrap()),
            Ok(superblock)
        );
    }
});
