#![no_main]

use libfuzzer_sys::fuzz_target;
use lsvd_volume::format::{FrameCodec, decompress_frame};

fuzz_target!(|input: (u16, &[u8])| {
    let (len, stored) = input;
    for codec in [FrameCodec::Raw, FrameCodec::Lz4, FrameCodec::Zstd] {
        let mut out = Vec::new();
        let decoded = decompress_frame(codec, stored, len.into(), &mut out).is_ok();
        assert_eq!(out.len(), if decoded { len.into() } else { 0 });
    }
});
