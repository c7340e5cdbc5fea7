//! What is still needed of some objects, put together for a new one.

use std::collections::{BTreeMap, BTreeSet};

use super::policy::Victim;
use crate::cache::CacheRead;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::{DataHeader, ObjectHeader, Place};
use crate::read::{beyond, fetch_frames, frame_key};
use crate::units::{Extent, ObjectSeq, SECTOR_BYTES};

/// Frames nobody wants are fetched with those around them if they are no more: a request costs more.
const GAP_FRAMES_MAX: u32 = 2;

/// Data to be moved, in the order of its addresses.
#[derive(Debug)]
pub(crate) struct Relocation {
    /// Where the disk has it, and where it is now.
    pub(crate) extents: Vec<(Extent, Place)>,
    /// All of it, one after the other.
    pub(crate) data: Vec<u8>,
}

/// Reads what the map still points at in `victims`; `None` if there is nothing. An object that
/// cannot be read is named to `unreadable` and left out. Nothing, too, once `is_over` says so.
///
/// # Errors
/// The store's.
pub(super) fn gather(
    core: &Core,
    victims: &[Victim],
    is_over: impl Fn() -> bool,
    mut unreadable: impl FnMut(ObjectSeq, Error),
) -> Result<Option<Relocation>> {
    let mut extents = Vec::new();
    let mut headers = BTreeMap::new();
    for victim in victims {
        if is_over() {
            return Ok(None);
        }
        match data_header(core, victim.object) {
            Ok(header) => {
                needed(core, &header, &mut extents)?;
                headers.insert(victim.object, header);
            }
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => unreadable(victim.object, error),
        }
    }
    extents.sort_unstable_by_key(|(extent, _)| extent.start());
    let bytes: u64 = extents.iter().map(|(extent, _)| extent.bytes()).sum();
    let mut data = vec![0; bytes as usize];
    let mut lost = BTreeSet::new();
    for (object, header) in &headers {
        if is_over() {
            return Ok(None);
        }
        match fill(core, header, &extents, &mut data) {
            Ok(()) => {}
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => {
                lost.insert(*object);
                unreadable(*object, error);
            }
        }
    }
    if !lost.is_empty() {
        (extents, data) = without(&lost, extents, &data);
    }
    Ok((!extents.is_empty()).then_some(Relocation { extents, data }))
}

fn data_header(core: &Core, object: ObjectSeq) -> Result<DataHeader> {
    let what = || core.stream.describe(object);
    match core.stream.header(object)? {
        Some(ObjectHeader::Data(header)) => Ok(header),
        Some(_) => Err(Error::damaged(what(), "the map points at it, but it holds no data")),
        None => Err(Error::damaged(what(), "the map points at it, but it is missing")),
    }
}

/// Adds what the clean map still points at in an object. What is dirty on top of it counts, for the
/// object is needed until that is committed.
fn needed(core: &Core, header: &DataHeader, out: &mut Vec<(Extent, Place)>) -> Result<()> {
    let object = header.common().stamp.seq;
    for (extent, at) in header.placements() {
        let Some(at) = at else { continue };
        let before = out.len();
        // One by one: with many at once, the leaf of the first might be gone when that of the last comes.
        core.ask_maps(|maps| {
            out.truncate(before);
            maps.clean().mapped_in(extent, |found, holder, sector| {
                let skip = found.start().since(extent.start());
                if holder == object && sector == u64::from(at) + skip {
                    // Sectors of an object's data fit; that was checked with its header.
                    out.push((found, Place { object, sector: sector as u32 }));
                }
            })
        })?;
    }
    Ok(())
}

/// Copies the parts of `extents` that lie in this object to their places in `data`.
fn fill(
    core: &Core,
    header: &DataHeader,
    extents: &[(Extent, Place)],
    data: &mut [u8],
) -> Result<()> {
    let object = header.common().stamp.seq;
    let frames = core.index.add(header);
    let frame_bytes = u64::from(frames.frame_bytes);
    // Of each frame: where in it, how much, and where to.
    let mut parts: BTreeMap<u32, Vec<(usize, usize, usize)>> = BTreeMap::new();
    let mut to = 0;
    for (extent, place) in extents {
        let bytes = extent.bytes();
        if place.object == object {
            let mut done = 0;
            while done < bytes {
                let from = u64::from(place.sector) * SECTOR_BYTES + done;
                let skip = from % frame_bytes;
                let n = (frame_bytes - skip).min(bytes - done);
                let part = (skip as usize, n as usize, (to + done) as usize);
                parts.entry((from / frame_bytes) as u32).or_default().push(part);
                done += n;
            }
        }
        to += bytes;
    }
    let beyond = || beyond(core, object);
    let mut copy = |frame: u32, content: &[u8]| {
        for (skip, n, to) in parts.get(&frame).into_iter().flatten() {
            let from = content.get(*skip..skip + n).ok_or_else(beyond)?;
            data.get_mut(*to..to + n).ok_or_else(beyond)?.copy_from_slice(from);
        }
        Ok(())
    };
    let mut missing = Vec::new();
    let mut content = Vec::new();
    for frame in parts.keys() {
        let (_, len) = frames.frame(*frame).ok_or_else(beyond)?;
        content.resize(len as usize, 0);
        let key = frame_key(core, object, &frames, *frame);
        if core.cache.read(&key, 0, &mut content, true) == CacheRead::Filled {
            copy(*frame, &content)?;
        } else {
            missing.push(*frame);
        }
    }
    for run in missing.chunk_by(|a, b| b - a <= GAP_FRAMES_MAX + 1) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            fetch_frames(core, object, &frames, *first, *last, &mut copy)?;
        }
    }
    Ok(())
}

/// What is left without the objects `lost`.
fn without(
    lost: &BTreeSet<ObjectSeq>,
    extents: Vec<(Extent, Place)>,
    data: &[u8],
) -> (Vec<(Extent, Place)>, Vec<u8>) {
    let mut kept = Vec::with_capacity(data.len());
    let mut at = 0;
    let extents = extents.into_iter().filter(|(extent, place)| {
        let bytes = extent.bytes() as usize;
        let keep = !lost.contains(&place.object);
        if keep {
            kept.extend_from_slice(data.get(at..at + bytes).unwrap_or_default());
        }
        at += bytes;
        keep
    });
    (extents.collect(), kept)
}
