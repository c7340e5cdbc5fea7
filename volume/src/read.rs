//! Reading: cut an extent by where its content is, then log, cache and store in this order.
//!
//! The plan is made under the maps' lock and carried out without it. What the log gives up
//! meanwhile is in the store, so such a piece is planned again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use crate::cache::{CacheRead, FrameKey, Origin};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::decompress_frame;
use crate::log::{Fetched, LogData};
use crate::map::MapPiece;
use crate::object_index::ObjectFrames;
use crate::units::{Extent, Lba, ObjectSeq, SECTOR_BYTES};

/// How often a piece is planned again before the read gives up: each time a whole ring was
/// overwritten in between.
const REPLANS: usize = 100;

/// A volume's bytes, for reading.
#[derive(Debug)]
pub(crate) struct Reader {
    core: Arc<Core>,
    log: Option<Arc<LogData>>,
    fetching: Mutex<HashMap<FrameKey, Arc<Fetching>>>,
}

/// A frame that somebody is fetching; others wait for it.
#[derive(Debug, Default)]
struct Fetching {
    outcome: Mutex<Option<Result<Arc<Vec<u8>>>>>,
    done: Condvar,
}

/// Whether a read may wait for the SSD and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It may not: a FUSE worker asks.
    None,
    /// It may wait for the SSD.
    Local,
    /// It may wait for both.
    Full,
}

/// A read that was not patient enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Yes,
    /// Ask again, with patience.
    WouldWait,
}

thread_local! {
    static PIECES: RefCell<Vec<MapPiece>> = const { RefCell::new(Vec::new()) };
}

impl Reader {
    pub(crate) fn new(core: Arc<Core>, log: Option<Arc<LogData>>) -> Self {
        Self { core, log, fetching: Mutex::default() }
    }

    /// Fills `out` with the sectors of `extent`.
    pub(crate) fn read(
        &self,
        extent: Extent,
        out: &mut [u8],
        patience: Patience,
    ) -> Result<Filled> {
        let _reading = self.core.readers.begin();
        let mut pieces = PIECES.take();
        let filled = self.read_planned(extent, out, patience, &mut pieces, REPLANS);
        pieces.clear();
        PIECES.set(pieces);
        filled
    }

    fn read_planned(
        &self,
        extent: Extent,
        out: &mut [u8],
        patience: Patience,
        pieces: &mut Vec<MapPiece>,
        replans: usize,
    ) -> Result<Filled> {
        loop {
            pieces.clear();
            let looked = self.core.maps.read().lookup(extent, pieces);
            match looked {
                Ok(()) => break,
                Err(_) if patience != Patience::Full => return Ok(Filled::WouldWait),
                Err(absent) => self.core.fetch_leaf(absent)?,
            }
        }
        let planned = pieces.len();
        for i in 0..planned {
            let Some(piece) = pieces.get(i).copied() else { break };
            let at = byte_offset(extent, piece.extent());
            let len = piece.extent().bytes() as usize;
            let Some(part) = out.get_mut(at..at + len) else { break };
            let filled = match piece {
                MapPiece::Zero { .. } | MapPiece::Hole { .. } => {
                    part.fill(0);
                    Filled::Yes
                }
                MapPiece::Log { record, seq, sector, extent: piece } => {
                    let log = self.log.as_ref().ok_or_else(|| self.no_log(piece))?;
                    match log.fetch(record, seq, sector, part, patience != Patience::None)? {
                        Fetched::Filled => Filled::Yes,
                        Fetched::WouldWait => Filled::WouldWait,
                        Fetched::Recycled if replans == 0 => return Err(self.no_log(piece)),
                        Fetched::Recycled => {
                            let mut again = Vec::new();
                            self.read_planned(piece, part, patience, &mut again, replans - 1)?
                        }
                    }
                }
                MapPiece::Object { object, object_sector, .. } => {
                    self.read_object(object, object_sector, part, patience)?
                }
            };
            if filled == Filled::WouldWait {
                return Ok(filled);
            }
        }
        Ok(Filled::Yes)
    }

    fn no_log(&self, extent: Extent) -> Error {
        let what = format!("the map of volume {:?}", self.core.name());
        Error::damaged(what, format!("sectors {extent:?} should be in the log and are not"))
    }

    /// Reads from an object's logical space.
    fn read_object(
        &self,
        object: ObjectSeq,
        sector: u64,
        out: &mut [u8],
        patience: Patience,
    ) -> Result<Filled> {
        let frames = match (self.core.index.peek(object), patience) {
            (Some(frames), _) => frames,
            (None, Patience::None | Patience::Local) => return Ok(Filled::WouldWait),
            (None, Patience::Full) => self.core.index.get(&self.core.stream, object)?,
        };
        let frame_bytes = u64::from(frames.frame_bytes);
        let mut offset = sector * SECTOR_BYTES;
        let mut done = 0;
        while done < out.len() {
            let wanted = out.len() - done;
            let frame = (offset / frame_bytes) as u32;
            let skip = offset % frame_bytes;
            let in_frame = wanted.min((frame_bytes - skip) as usize);
            let Some(part) = out.get_mut(done..done + in_frame) else { break };
            let key = self.key(object, &frames, frame);
            let n = match self.core.cache.read(&key, skip as u32, part, patience != Patience::None)
            {
                CacheRead::Filled => in_frame,
                _ if patience != Patience::Full => return Ok(Filled::WouldWait),
                _ => {
                    // Everything that this read still wants of the object, in one request.
                    let last = (offset + wanted as u64 - 1) / frame_bytes;
                    let bytes = self.fetch(object, &frames, frame, last as u32)?;
                    let found = bytes.get(skip as usize..).unwrap_or_default();
                    let n = found.len().min(wanted);
                    match (out.get_mut(done..done + n), found.get(..n)) {
                        (Some(part), Some(found)) if n > 0 => part.copy_from_slice(found),
                        _ => return Err(self.beyond(object)),
                    }
                    n
                }
            };
            done += n;
            offset += n as u64;
        }
        Ok(Filled::Yes)
    }

    fn key(&self, object: ObjectSeq, frames: &ObjectFrames, frame: u32) -> FrameKey {
        frame_key(&self.core, object, frames, frame)
    }

    /// The content of the frames `first..=last`, or of the first few of them: of several readers
    /// that miss one frame one asks the store, and the others get what it asked for.
    fn fetch(
        &self,
        object: ObjectSeq,
        frames: &ObjectFrames,
        first: u32,
        last: u32,
    ) -> Result<Arc<Vec<u8>>> {
        let key = self.key(object, frames, first);
        let (fetching, ours) = {
            let mut all = self.fetching.lock();
            match all.get(&key) {
                Some(other) => (Arc::clone(other), false),
                None => {
                    let new = Arc::new(Fetching::default());
                    all.insert(key, Arc::clone(&new));
                    (new, true)
                }
            }
        };
        if !ours {
            let mut outcome = fetching.outcome.lock();
            loop {
                if let Some(outcome) = &*outcome {
                    return outcome.clone();
                }
                fetching.done.wait(&mut outcome);
            }
        }
        // A panic must not leave the others waiting.
        let fetch = || self.fetch_frames(object, frames, first, last);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fetch))
            .unwrap_or_else(|_| Err(self.beyond(object)));
        self.fetching.lock().remove(&key);
        *fetching.outcome.lock() = Some(outcome.clone());
        fetching.done.notify_all();
        outcome
    }

    fn fetch_frames(
        &self,
        object: ObjectSeq,
        frames: &ObjectFrames,
        first: u32,
        last: u32,
    ) -> Result<Arc<Vec<u8>>> {
        let mut all = Vec::new();
        let fetched = fetch_frames(&self.core, object, frames, first, last, |frame, content| {
            self.core.cache.insert(self.key(object, frames, frame), content, Origin::Read);
            all.extend_from_slice(content);
            Ok(())
        });
        let failed = matches!(fetched, Err(Error::Store(_)));
        self.core.reads_fail.store(failed, Ordering::Relaxed);
        fetched.map(|()| Arc::new(all))
    }

    fn beyond(&self, object: ObjectSeq) -> Error {
        beyond(&self.core, object)
    }

    /// Reads any range of bytes; `None` if that takes more patience.
    pub(crate) fn read_bytes(
        &self,
        offset: u64,
        len: usize,
        patience: Patience,
    ) -> Result<Option<Vec<u8>>> {
        let Some(cover) = covering(offset, len as u64) else { return Ok(Some(Vec::new())) };
        let mut sectors = vec![0; cover.bytes() as usize];
        if self.read(cover, &mut sectors, patience)? == Filled::WouldWait {
            return Ok(None);
        }
        let skip = (offset - cover.start().get() * SECTOR_BYTES) as usize;
        sectors.truncate(skip + len);
        sectors.drain(..skip);
        Ok(Some(sectors))
    }
}

/// Fetches the frames `first..=last` of an object with one request, and gives the content of each
/// to `each`.
///
/// # Errors
/// The store's, damage, or that of `each`.
pub(crate) fn fetch_frames(
    core: &Core,
    object: ObjectSeq,
    frames: &ObjectFrames,
    first: u32,
    last: u32,
    mut each: impl FnMut(u32, &[u8]) -> Result<()>,
) -> Result<()> {
    let range = frames.range(first, last).ok_or_else(|| beyond(core, object))?;
    let stored = core.stream.read(object, range)?;
    let mut rest = &stored[..];
    let mut content = Vec::new();
    for frame in first..=last {
        let located = frames.frame(frame).and_then(|(at, logical_len)| {
            Some((at, logical_len, rest.split_at_checked(at.stored_len as usize)?))
        });
        let (at, logical_len, (bytes, more)) = located.ok_or_else(|| beyond(core, object))?;
        rest = more;
        content.clear();
        at.verify(bytes)
            .and_then(|()| decompress_frame(at.codec, bytes, logical_len as usize, &mut content))
            .map_err(|e| e.of(format!("{}, frame {frame}", core.stream.describe(object))))?;
        each(frame, &content)?;
    }
    Ok(())
}

/// How the cache knows a frame.
pub(crate) fn frame_key(
    core: &Core,
    object: ObjectSeq,
    frames: &ObjectFrames,
    frame: u32,
) -> FrameKey {
    FrameKey { volume: core.stream.owner(object), object, nonce: frames.nonce, frame }
}

/// The error of a map that points where an object has nothing.
pub(crate) fn beyond(core: &Core, object: ObjectSeq) -> Error {
    Error::damaged(core.stream.describe(object), "the map points beyond the end of its data")
}

/// The sectors that `len` bytes at `offset` lie in; `None` for no bytes.
pub(crate) fn covering(offset: u64, len: u64) -> Option<Extent> {
    if len == 0 {
        return None;
    }
    let end = offset.checked_add(len)?;
    Extent::between(Lba::new(offset / SECTOR_BYTES), Lba::new(end.div_ceil(SECTOR_BYTES)))
}

/// Where `part` begins within `whole`, in bytes.
fn byte_offset(whole: Extent, part: Extent) -> usize {
    (part.start().since(whole.start()) * SECTOR_BYTES) as usize
}
