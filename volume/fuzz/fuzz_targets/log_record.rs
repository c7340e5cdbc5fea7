#![no_main]

use libfuzzer_sys::fuzz_target;
use lsvd_volume::format::{RecordHead, RecordPrefix, VolumeTag};
use lsvd_volume::units::{Incarnation, LogSeq};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const TAG: VolumeTag = VolumeTag::new(7);
const INCARNATION: Incarnation = Incarnation::new(3);

fuzz_target!(|data: &[u8]| {
    let _ = RecordHead::decode(data, TAG);
    let _ = RecordPrefix::decode(data, TAG, INCARNATION);

    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(72), 0);
    let total_len = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let prefix = RecordPrefix {
        seq: LogSeq::new(9),
        total_len,
    }
    .encode(TAG, INCARNATION);
    bytes[..16].copy_from_slice(&prefix);
    bytes[16..21].copy_from_slice(b"LSVR\x01");
    bytes[24..32].copy_from_slice(&TAG.get().to_le_bytes());
    bytes[32..40].copy_from_slice(&INCARNATION.get().to_le_bytes());
    let chunks = usize::from(u16::from_le_bytes([bytes[22], bytes[23]])).div_ceil(128);
    let end = bytes.len().min(72 + 8 * chunks);
    let sum = xxh3_64_with_seed(&bytes[72..end], xxh3_64(&bytes[..64]));
    bytes[64..72].copy_from_slice(&sum.to_le_bytes());
    if let Ok((head, sums)) = RecordHead::decode(&bytes, TAG) {
        let mut again = vec![0; head.payload_offset() as usize];
        head.encode_into(TAG, sums.as_slice(), &mut again).unwrap();
        assert_eq!(again, bytes[..again.len()]);
    }
});
