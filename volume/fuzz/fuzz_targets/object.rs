#![no_main]

use libfuzzer_sys::fuzz_target;
use lsvd_volume::format::{ObjectHeader, peek};
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|data: &[u8]| {
    let _ = peek(data);
    let mut bytes = lsvd_volume_fuzz::begin(data, b"LSVDOBJ1", 4, 128);
    let len = bytes.len() as u32;
    bytes[16..20].copy_from_slice(&len.to_le_bytes());
    let tables = xxh3_64(&bytes[128..]);
    bytes[24..32].copy_from_slice(&tables.to_le_bytes());
    lsvd_volume_fuzz::plain(&mut bytes, 120);
    match ObjectHeader::decode(&bytes) {
        Ok(ObjectHeader::Data(header)) => {
            for index in 0..header.frames().len() {
                header.frame_range(index).unwrap();
                header.frame_logical_len(index).unwrap();
            }
            assert_eq!(header.placements().count(), header.extents().len());
            assert_eq!(
                ObjectHeader::decode(&header.encode()),
                Ok(ObjectHeader::Data(header))
            );
        }
        Ok(ObjectHeader::Checkpoint(header)) => {
            let again = ObjectHeader::decode(&header.encode().unwrap());
            assert_eq!(again, Ok(ObjectHeader::Checkpoint(header)));
        }
        Ok(ObjectHeader::Fence(_) | ObjectHeader::Filler(_)) | Err(_) => {}
    }
});
