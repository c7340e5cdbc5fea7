//! A sealed batch as the bytes of an object. Pure.

use xxhash_rust::xxh3::xxh3_64;

use crate::config::Compression;
use crate::format::data_object::FRAME_BYTES_DEFAULT;
use crate::format::{
    DataHeader, ExtentKind, FormatResult, FrameRef, ObjectExtent, Stamp, compress_frame,
};

use super::builder::{Batch, Source};

/// An object ready to be created.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Its header, decoded.
    pub(super) header: DataHeader,
    /// Its header, encoded.
    pub(super) head: Vec<u8>,
    /// Its stored frames, one after the other.
    pub(super) body: Vec<u8>,
}

/// Lays the batch's data out in address order, cuts it into frames and compresses them.
/// `each_frame` sees every frame as it is before. The object's body is written to `body`, which is
/// empty.
pub(super) fn encode(
    batch: &Batch,
    stamp: Stamp,
    compression: Compression,
    mut body: Vec<u8>,
    mut each_frame: impl FnMut(u32, &[u8]),
) -> FormatResult<Encoded> {
    let frame_bytes = FRAME_BYTES_DEFAULT as usize;
    let mut frames: Vec<FrameRef> = Vec::new();
    let mut extents = Vec::with_capacity(batch.extents.len());
    let mut frame = Vec::with_capacity(frame_bytes);
    let mut finish = |frame: &mut Vec<u8>| {
        let before = body.len();
        let codec = compress_frame(compression, frame, &mut body);
        let stored = body.get(before..).unwrap_or_default();
        each_frame(frames.len() as u32, frame);
        frames.push(FrameRef { stored_len: stored.len() as u32, codec, sum: xxh3_64(stored) });
        frame.clear();
    };
    for (extent, source) in &batch.extents {
        let kind = match source {
            Source::Trim => ExtentKind::Trim,
            Source::Data(_) => ExtentKind::Data,
        };
        extents.push(ObjectExtent { extent: *extent, kind });
        let Source::Data(from) = *source else { continue };
        let data = batch.data.get(from..from + extent.bytes() as usize);
        let mut rest = data.unwrap_or_default();
        while !rest.is_empty() {
            let n = rest.len().min(frame_bytes - frame.len());
            let (now, later) = rest.split_at(n);
            frame.extend_from_slice(now);
            rest = later;
            if frame.len() == frame_bytes {
                finish(&mut frame);
            }
        }
    }
    if !frame.is_empty() {
        finish(&mut frame);
    }
    let header = match &batch.moved_from {
        None => DataHeader::new(stamp, FRAME_BYTES_DEFAULT, extents, frames)?,
        Some(places) => {
            DataHeader::of_moved(stamp, FRAME_BYTES_DEFAULT, extents, frames, places.clone())?
        }
    };
    let head = header.encode();
    Ok(Encoded { header, head, body })
}
