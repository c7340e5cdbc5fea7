//! Where the frames of recently used objects are, so that a read costs one request, not two.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use lsvd_store::ByteRange;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::{DataHeader, FrameRef, Nonce, ObjectHeader};
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// Objects remembered; about 3 KiB each.
const OBJECTS_MAX: usize = 8192;

/// The frames of one object.
#[derive(Debug)]
pub(crate) struct ObjectFrames {
    pub(crate) nonce: Nonce,
    pub(crate) frame_bytes: u32,
    frames: Vec<Frame>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    at: FrameRef,
    offset: u64,
    logical_len: u32,
}

impl ObjectFrames {
    fn of(header: &DataHeader) -> Self {
        let mut offset = u64::from(header.common().header_len);
        let frames = header.frames().iter().enumerate().map(|(i, at)| {
            let logical_len = header.frame_logical_len(i).unwrap_or(0);
            let frame = Frame { at: *at, offset, logical_len };
            offset += u64::from(at.stored_len);
            frame
        });
        Self {
            nonce: header.common().stamp.nonce,
            frame_bytes: header.frame_bytes(),
            frames: frames.collect(),
        }
    }

    /// How frame `index` is stored, and its length before compression.
    pub(crate) fn frame(&self, index: u32) -> Option<(FrameRef, u32)> {
        self.frames.get(index as usize).map(|f| (f.at, f.logical_len))
    }

    /// The bytes of the object in which frames `first..=last` lie.
    pub(crate) fn range(&self, first: u32, last: u32) -> Option<ByteRange> {
        let start = self.frames.get(first as usize)?.offset;
        let end = self.frames.get(last as usize)?;
        ByteRange::new(start, (end.offset + u64::from(end.at.stored_len)).checked_sub(start)?)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ObjectIndex {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    frames: HashMap<ObjectSeq, Arc<ObjectFrames>>,
    order: VecDeque<ObjectSeq>,
}

impl ObjectIndex {
    /// Remembers an object.
    pub(crate) fn add(&self, header: &DataHeader) -> Arc<ObjectFrames> {
        let seq = header.common().stamp.seq;
        let frames = Arc::new(ObjectFrames::of(header));
        let mut known = self.known.lock();
        if known.frames.insert(seq, Arc::clone(&frames)).is_none() {
            known.order.push_back(seq);
            if known.order.len() > OBJECTS_MAX
                && let Some(oldest) = known.order.pop_front()
            {
                known.frames.remove(&oldest);
            }
        }
        frames
    }

    /// Forgets objects that are gone.
    pub(crate) fn forget(&self, seqs: &[ObjectSeq]) {
        let mut known = self.known.lock();
        let known = &mut *known;
        let before = known.frames.len();
        for seq in seqs {
            known.frames.remove(seq);
        }
        if known.frames.len() < before {
            known.order.retain(|seq| known.frames.contains_key(seq));
        }
    }

    /// The frames of an object, if remembered.
    pub(crate) fn peek(&self, seq: ObjectSeq) -> Option<Arc<ObjectFrames>> {
        self.known.lock().frames.get(&seq).cloned()
    }

    /// The frames of an object, read from its header if need be.
    pub(crate) fn get(&self, stream: &Stream, seq: ObjectSeq) -> Result<Arc<ObjectFrames>> {
        if let Some(frames) = self.peek(seq) {
            return Ok(frames);
        }
        match stream.header(seq)? {
            Some(ObjectHeader::Data(header)) => Ok(self.add(&header)),
            Some(_) => Err(Error::damaged(
                stream.describe(seq),
                "the map points at it, but it holds no data",
            )),
            None => {
                Err(Error::damaged(stream.describe(seq), "the map points at it, but it is missing"))
            }
        }
    }
}
