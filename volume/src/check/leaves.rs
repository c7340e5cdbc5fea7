//! Reading the leaves of a root, without keeping them.
//!
//! What lies close together in a checkpoint is read together. Every leaf is verified by the
//! checksum in the root, and its length before memory is taken for it.

use lsvd_store::parallel;
use xxhash_rust::xxh3::xxh3_64;

use super::survey::{Looked, survey};
use crate::error::{Error, Result};
use crate::format::{CommonHeader, LeafExtent, LeafRef, decode_leaf};
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// Longest read, and longest leaf: a leaf of single sectors, each in an object of its own, is shorter.
const READ_BYTES_MAX: u64 = 4 << 20;

/// What lies between two leaves is read with them if it is at most this long.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// A leaf that was looked at.
pub(crate) type Leaf = (LeafRef, std::result::Result<Vec<LeafExtent>, Error>);

/// Leaves that one request reads; all in one checkpoint, in the order of their places.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) leaves: &'a [LeafRef],
}

impl Group<'_> {
    /// The checkpoint that holds them.
    pub(crate) fn object(&self) -> Option<ObjectSeq> {
        self.leaves.first().map(|leaf| leaf.object)
    }

    /// Bytes to be read for it.
    pub(crate) fn bytes(&self) -> u64 {
        let (Some(first), Some(last)) = (self.leaves.first(), self.leaves.last()) else { return 0 };
        end(last).saturating_sub(first.offset)
    }
}

fn end(leaf: &LeafRef) -> u64 {
    leaf.offset.saturating_add(leaf.len.into())
}

/// Cuts leaves, sorted by object and offset, into groups.
pub(crate) fn groups(leaves: &[LeafRef]) -> Vec<Group<'_>> {
    let mut groups = Vec::new();
    let mut rest = leaves;
    while let Some(first) = rest.first() {
        let fits = |pair: &&[LeafRef]| match pair {
            [before, leaf] => {
                leaf.object == first.object
                    && leaf.offset >= end(before)
                    && leaf.offset - end(before) <= GAP_BYTES_MAX
                    && end(leaf) - first.offset <= READ_BYTES_MAX
            }
            _ => false,
        };
        let (group, later) = rest.split_at(1 + rest.windows(2).take_while(fits).count());
        groups.push(Group { leaves: group });
        rest = later;
    }
    groups
}

/// Reads groups at the same time. A group whose checkpoint is missing fails as a whole, as one with
/// a damaged header does.
pub(crate) fn read(stream: &Stream, groups: &[Group<'_>]) -> Result<Vec<Vec<Leaf>>> {
    parallel::map(groups, |group| read_group(stream, group))
}

fn read_group(stream: &Stream, group: &Group<'_>) -> Result<Vec<Leaf>> {
    let Some(object) = group.object() else { return Ok(Vec::new()) };
    let all = |error: Error| group.leaves.iter().map(|leaf| (*leaf, Err(error.clone()))).collect();
    let missing = || Error::damaged(stream.describe(object), "it is missing");
    let peeked = survey(stream, &[object], |stream, seq| stream.peek(seq))?.pop();
    let common = match peeked {
        Some(Looked::Found((common, _))) => common,
        Some(Looked::Damaged(error)) => return Ok(all(error)),
        Some(Looked::Missing) | None => return Ok(all(missing())),
    };
    let read = || -> Result<Option<Vec<u8>>> {
        let Some(first) = group.leaves.first().filter(|_| group.bytes() <= READ_BYTES_MAX) else {
            return Ok(None);
        };
        let outside = || Error::damaged(stream.describe(object), "a leaf lies outside of it");
        let range = common.body_range(first.offset, group.bytes()).ok_or_else(outside)?;
        stream.read(object, range).map(Some)
    };
    match Looked::of(read())? {
        Looked::Found(bytes) => Ok(decode(stream, &common, group, &bytes)),
        Looked::Damaged(error) => Ok(all(error)),
        Looked::Missing => {
            Ok(all(Error::damaged(stream.describe(object), "a leaf has an impossible length")))
        }
    }
}

fn decode(stream: &Stream, common: &CommonHeader, group: &Group<'_>, bytes: &[u8]) -> Vec<Leaf> {
    let start = group.leaves.first().map_or(0, |leaf| leaf.offset);
    let leaves = group.leaves.iter().map(|leaf| {
        let what = || format!("{}, leaf {} of the map", stream.describe(leaf.object), leaf.index);
        let own = usize::try_from(leaf.offset.saturating_sub(start))
            .ok()
            .and_then(|from| bytes.get(from..)?.get(..leaf.len as usize));
        let decoded = match own {
            None => Err(Error::damaged(what(), "it is too short")),
            Some(own) if xxh3_64(own) != leaf.sum => {
                Err(Error::damaged(what(), "its checksum is wrong"))
            }
            Some(own) => decode_leaf(own).map_err(|e| e.of(what())),
        };
        debug_assert_eq!(common.stamp.seq, leaf.object);
        (*leaf, decoded)
    });
    leaves.collect()
}
