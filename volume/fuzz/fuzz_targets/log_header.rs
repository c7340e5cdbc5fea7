#![no_main]

use libfuzzer_sys::fuzz_target;
use lsvd_volume::format::LogHeader;

fuzz_target!(|data: &[u8]| {
    let _ = LogHeader::decode(data);
    let mut bytes = lsvd_volume_fuzz::begin(data, b"LSVDLOGH", 4, 4096);
    lsvd_volume_fuzz::plain(&mut bytes, 4088);
    if let Ok(header) = LogHeader::decode(&bytes) {
        assert_eq!(LogHeader::decode(&header.encode()), Ok(header));
    }
});
