//! Compression of single frames.
//!
//! A frame that hardly shrinks is stored raw: reading it back then costs nothing. Which codec a
//! frame has is in the object's header; nothing is added to the stored bytes.

use std::cell::RefCell;

use super::error::{FormatError, FormatResult};
use crate::config::Compression;

/// A compressed frame must save at least one part in this many.
const SAVING_PARTS: usize = 16;

const ZSTD_LEVEL: i32 = 1;

/// Most logical bytes of a frame.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;

/// How a stored frame is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameCodec {
    /// As it is.
    Raw = 0,
    /// An LZ4 block.
    Lz4 = 1,
    /// A Zstandard frame.
    Zstd = 2,
}

impl FrameCodec {
    pub(super) fn from_raw(raw: u8) -> FormatResult<Self> {
        Ok(match raw {
            0 => Self::Raw,
            1 => Self::Lz4,
            2 => Self::Zstd,
            _ => return Err(FormatError::Invalid("a frame has an unknown codec")),
        })
    }
}

thread_local! {
    // Setting a Zstandard context up costs as much as compressing a frame.
    static ZSTD: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// Appends `frame` to `out`, compressed if that is worth it; says how it was stored.
pub fn compress_frame(algo: Compression, frame: &[u8], out: &mut Vec<u8>) -> FrameCodec {
    let before = out.len();
    let budget = frame.len().saturating_sub(frame.len().div_ceil(SAVING_PARTS));
    let stored = match algo {
        Compression::None => None,
        Compression::Lz4 => append_lz4(frame, out).map(|len| (len, FrameCodec::Lz4)),
        Compression::Zstd => append_zstd(frame, out).map(|len| (len, FrameCodec::Zstd)),
    };
    match stored {
        Some((len, codec)) if len > 0 && len <= budget => {
            out.truncate(before.saturating_add(len));
            codec
        }
        _ => {
            out.truncate(before);
            out.extend_from_slice(frame);
            FrameCodec::Raw
        }
    }
}

/// Compresses to the end of `out`, which is left longer than that; returns the stored length.
fn append_lz4(frame: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let room = append_room(out, lz4_flex::block::get_maximum_output_size(frame.len()))?;
    lz4_flex::block::compress_into(frame, room).ok()
}

/// As [`append_lz4`].
fn append_zstd(frame: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let room = append_room(out, zstd::zstd_safe::compress_bound(frame.len()))?;
    ZSTD.with_borrow_mut(|compressor| {
        if compressor.is_none() {
            *compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        compressor.as_mut()?.compress_to_buffer(frame, room).ok()
    })
}

fn append_room(out: &mut Vec<u8>, bytes: usize) -> Option<&mut [u8]> {
    let before = out.len();
    out.resize(before.checked_add(bytes)?, 0);
    out.get_mut(before..)
}

/// Appends the `logical_len` bytes of a stored frame to `out`; on error `out` is as before.
///
/// # Errors
/// `Invalid` if `stored` is not exactly such a frame.
pub fn decompress_frame(
    codec: FrameCodec,
    stored: &[u8],
    logical_len: usize,
    out: &mut Vec<u8>,
) -> FormatResult<()> {
    if logical_len > FRAME_BYTES_MAX as usize {
        return Err(FormatError::Invalid("the frame is too long"));
    }
    let before = out.len();
    let decoded_len = match codec {
        FrameCodec::Raw => {
            out.extend_from_slice(stored);
            Some(stored.len())
        }
        FrameCodec::Lz4 => append_room(out, logical_len)
            .and_then(|room| lz4_flex::block::decompress_into(stored, room).ok()),
        FrameCodec::Zstd => append_room(out, logical_len)
            .and_then(|room| zstd::bulk::decompress_to_buffer(stored, room).ok()),
    };
    if decoded_len == Some(logical_len) {
        return Ok(());
    }
    out.truncate(before);
    Err(FormatError::Invalid("the frame does not decompress to its length"))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALGORITHMS: [(Compression, FrameCodec); 2] =
        [(Compression::Lz4, FrameCodec::Lz4), (Compression::Zstd, FrameCodec::Zstd)];

    fn text() -> Vec<u8> {
        (0..64 << 10).map(|i: u32| (i / 100 % 50) as u8).collect()
    }

    /// Bytes that nothing can compress.
    fn noise(len: usize) -> Vec<u8> {
        let word = |i: usize| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()).to_le_bytes();
        (0..len.div_ceil(8)).flat_map(word).take(len).collect()
    }

    #[test]
    fn what_shrinks_is_compressed_and_what_does_not_is_raw() {
        for (algo, codec) in ALGORITHMS {
            let mut out = b"before".to_vec();
            assert_eq!(compress_frame(algo, &text(), &mut out), codec);
            assert!(out.len() < 16 << 10);
            let mut back = b"before".to_vec();
            decompress_frame(codec, &out[6..], 64 << 10, &mut back).unwrap();
            assert_eq!(&back[..6], b"before");
            assert_eq!(back[6..], text());

            let mut out = b"before".to_vec();
            assert_eq!(compress_frame(algo, &noise(65536), &mut out), FrameCodec::Raw);
            assert_eq!(out[6..], noise(65536));
        }
        let mut out = Vec::new();
        assert_eq!(compress_frame(Compression::None, &text(), &mut out), FrameCodec::Raw);
        assert_eq!(out, text());
    }

    #[test]
    fn saving_too_little_is_not_worth_it() {
        // Of 64 KiB, 2 KiB compress to nothing: about 3%.
        let frame = [noise(62 << 10), vec![0; 2 << 10]].concat();
        for (algo, _) in ALGORITHMS {
            assert_eq!(compress_frame(algo, &frame, &mut Vec::new()), FrameCodec::Raw);
        }
    }

    #[test]
    fn a_wrong_length_is_refused_and_leaves_nothing() {
        for (algo, _) in ALGORITHMS {
            let mut stored = Vec::new();
            let codec = compress_frame(algo, &text(), &mut stored);
            for (codec, len) in [
                (codec, (64 << 10) - 1),
                (codec, (64 << 10) + 1),
                (codec, usize::MAX),
                (FrameCodec::Raw, 64 << 10),
            ] {
                let mut out = b"before".to_vec();
                decompress_frame(codec, &stored, len, &mut out).expect_err("wrong length");
                assert_eq!(out, b"before");
            }
        }
    }

    proptest! {
        #[test]
        fn frames_round_trip(
            pieces in prop::collection::vec((any::<u8>(), 1usize..3000), 0..40), salt in any::<u8>(),
        ) {
            let mut frame: Vec<u8> = Vec::new();
            for (byte, len) in pieces {
                frame.extend(if byte < salt { vec![byte; len] } else { noise(len) });
            }
            for (algo, _) in ALGORITHMS {
                let (mut stored, mut back) = (Vec::new(), Vec::new());
                let codec = compress_frame(algo, &frame, &mut stored);
                decompress_frame(codec, &stored, frame.len(), &mut back).unwrap();
                prop_assert_eq!(&back, &frame);
            }
        }

        #[test]
        fn noise_never_panics(
            stored in prop::collection::vec(any::<u8>(), 0..200), len in 0usize..5000,
            place in any::<usize>(), byte in any::<u8>(),
        ) {
            let mut out = Vec::new();
            for (algo, codec) in ALGORITHMS {
                if decompress_frame(codec, &stored, len, &mut out).is_ok() {
                    prop_assert_eq!(out.len(), len);
                }
                out.clear();
                let mut damaged = Vec::new();
                compress_frame(algo, &text(), &mut damaged);
                let place = place % damaged.len();
                damaged[place] = byte;
                if decompress_frame(codec, &damaged, 65536, &mut out).is_ok() {
                    prop_assert_eq!(out.len(), 65536);
                }
                out.clear();
            }
        }
    }
}
