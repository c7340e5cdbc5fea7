//! The map as objects of the stream.
//!
//! A checkpoint holds the leaves that changed since the one before, and the root: for every
//! leaf the checkpoint that holds its present content. It is exactly true for the number it
//! `covers`, the highest one committed when it was taken; objects in flight then come after.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::format::{
    CheckpointHeader, CommonHeader, FenceRecord, LeafRef, ObjectHeader, ObjectRecord, Stamp,
};
use crate::map::{CleanMap, Leaf, LeafChange, LeafIndex, LeafItem, LeafStore};
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// The root of the newest checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Root {
    /// The checkpoint's own number; zero if there is none.
    seq: ObjectSeq,
    /// The number that it is true for.
    pub(crate) covers: ObjectSeq,
    /// Where each leaf is.
    leaves: BTreeMap<u64, LeafRef>,
    /// All fences of the stream.
    pub(crate) fences: Vec<FenceRecord>,
}

/// A checkpoint ready to be created.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
    /// The root once it is committed.
    pub(crate) root: Root,
    /// Its leaves, for the local store.
    pub(crate) leaves: Vec<LeafItem>,
    /// What may be deleted once the superblock names it.
    pub(crate) condemned: Vec<ObjectSeq>,
}

/// What a checkpoint says besides the map.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) stamp: Stamp,
    /// Whether nothing is in flight after it.
    pub(crate) clean: bool,
    /// The number that the map is true for.
    pub(crate) covers: ObjectSeq,
    pub(crate) fences: &'a [FenceRecord],
}

impl Root {
    /// The root that a checkpoint object carries.
    pub(crate) fn of(header: &CheckpointHeader) -> Self {
        Self {
            seq: header.stamp.seq,
            covers: header.covers,
            leaves: header.leaves.iter().map(|leaf| (leaf.index, *leaf)).collect(),
            fences: header.fences.clone(),
        }
    }

    /// The checkpoint's own number; zero if there is none.
    pub(crate) fn seq(&self) -> ObjectSeq {
        self.seq
    }

    /// The leaves that `object` still holds.
    pub(crate) fn leaves_in(&self, object: ObjectSeq) -> impl Iterator<Item = LeafIndex> + '_ {
        let held = self.leaves.values().filter(move |leaf| leaf.object == object);
        held.map(|leaf| LeafIndex::new(leaf.index))
    }

    /// Checks that none of `objects` is condemned that the root or the fences need.
    pub(crate) fn check_condemned(
        &self,
        objects: &[ObjectRecord],
        fences: &[FenceRecord],
    ) -> std::result::Result<(), &'static str> {
        let held = self.held();
        let needed = |seq| held.contains_key(&seq) || fences.iter().any(|f| f.id.seq == seq);
        if objects.iter().any(|object| object.dead_since.is_some() && needed(object.seq)) {
            return Err("it says that nobody needs an object of the map, or a fence");
        }
        Ok(())
    }

    /// How many bytes of leaves each object holds.
    pub(crate) fn held(&self) -> BTreeMap<ObjectSeq, u64> {
        let mut held = BTreeMap::new();
        for leaf in self.leaves.values() {
            *held.entry(leaf.object).or_default() += u64::from(leaf.len);
        }
        held
    }

    /// Makes the checkpoint that follows this one, with what `changed` since. `objects` is told
    /// which objects hold leaves then, and says what is known of all.
    pub(crate) fn prepare(
        &self,
        facts: &Facts<'_>,
        changed: Vec<LeafChange>,
        objects: impl FnOnce(&BTreeMap<ObjectSeq, u64>) -> Vec<ObjectRecord>,
    ) -> Result<Prepared> {
        let Facts { stamp, clean, covers, fences } = *facts;
        let leaves = self.leaves.clone();
        let mut root = Self { seq: stamp.seq, covers, leaves, fences: fences.to_vec() };
        let mut body = Vec::new();
        let mut items = Vec::with_capacity(changed.len());
        for change in changed {
            let LeafChange { index, leaf, last_change } = change;
            let bytes = match &leaf {
                Some(leaf) => {
                    Some(leaf.encode().map_err(|e| e.of(format!("leaf {}", index.get())))?)
                }
                None => None,
            };
            match &bytes {
                Some(bytes) => {
                    root.leaves.insert(
                        index.get(),
                        LeafRef {
                            index: index.get(),
                            last_change,
                            object: stamp.seq,
                            offset: body.len() as u64,
                            len: bytes.len() as u32,
                            sum: xxh3_64(bytes),
                        },
                    );
                    body.extend_from_slice(bytes);
                }
                None => {
                    root.leaves.remove(&index.get());
                }
            }
            items.push(LeafItem { index, last_change, bytes });
        }
        let header = CheckpointHeader {
            stamp,
            clean,
            covers,
            leaves: root.leaves.values().copied().collect(),
            fences: root.fences.clone(),
            objects: objects(&root.held()),
            body_len: body.len() as u64,
        };
        let head = header.encode().map_err(|e| e.of(format!("checkpoint {}", stamp.seq)))?;
        let condemned = header.objects.iter().filter(|o| o.condemned).map(|o| o.seq).collect();
        Ok(Prepared { head, body, root, leaves: items, condemned })
    }

    /// Loads all leaves: from the local store where it has them as the root says, otherwise
    /// from the checkpoints that hold them.
    pub(crate) fn load(&self, stream: &Stream, local: &LeafStore) -> Result<CleanMap> {
        let mut map = CleanMap::new();
        let mut missing = Vec::new();
        for leaf_ref in self.leaves.values() {
            let index = LeafIndex::new(leaf_ref.index);
            let kept = local.get(stream.volume(), index).filter(|kept| {
                kept.last_change == leaf_ref.last_change && xxh3_64(&kept.bytes) == leaf_ref.sum
            });
            match kept.and_then(|kept| Leaf::decode(&kept.bytes).ok()) {
                Some(leaf) => map.set_leaf(index, leaf, leaf_ref.last_change),
                None => missing.push(*leaf_ref),
            }
        }
        fetch_all(stream, missing, &mut map)?;
        Ok(map)
    }
}

/// Longest read of leaves, in bytes; a single leaf may be longer.
const READ_BYTES_MAX: u64 = 4 << 20;
/// What lies between two leaves is read with them if it is at most this long: a request costs more.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// Reads the leaves that a checkpoint holds itself, and verifies them.
pub(crate) fn verify_leaves(stream: &Stream, checkpoint: &CheckpointHeader) -> Result<()> {
    let own = checkpoint.leaves.iter().filter(|leaf| leaf.object == checkpoint.stamp.seq);
    fetch_all(stream, own.copied().collect(), &mut CleanMap::new())
}

/// Reads leaves: each checkpoint is looked at once, and what lies close together in it is read
/// together. So the requests grow with the checkpoints that hold leaves, and with their bytes.
fn fetch_all(stream: &Stream, mut leaves: Vec<LeafRef>, map: &mut CleanMap) -> Result<()> {
    leaves.sort_unstable_by_key(|leaf| (leaf.object, leaf.offset));
    for of_object in leaves.chunk_by(|a, b| a.object == b.object) {
        let Some(first) = of_object.first() else { continue };
        let found = stream.peek(first.object)?;
        let (common, _) =
            found.ok_or_else(|| Error::damaged(describe(stream, first), "it is missing"))?;
        let mut rest = of_object;
        while !rest.is_empty() {
            let (together, later) = rest.split_at(read_together(rest));
            fetch(stream, &common, together, map)?;
            rest = later;
        }
    }
    Ok(())
}

/// How many of `leaves`, at least one, are read with one request.
fn read_together(leaves: &[LeafRef]) -> usize {
    let Some(first) = leaves.first() else { return 0 };
    let end = |leaf: &LeafRef| leaf.offset.saturating_add(leaf.len.into());
    let fits = |pair: &&[LeafRef]| match pair {
        [before, leaf] => {
            leaf.offset >= end(before)
                && leaf.offset - end(before) <= GAP_BYTES_MAX
                && end(leaf) - first.offset <= READ_BYTES_MAX
        }
        _ => false,
    };
    1 + leaves.windows(2).take_while(fits).count()
}

fn describe(stream: &Stream, leaf: &LeafRef) -> String {
    format!("{} (from leaf {} of the map)", stream.describe(leaf.object), leaf.index)
}

/// Reads leaves that lie close together in a checkpoint.
fn fetch(
    stream: &Stream,
    common: &CommonHeader,
    leaves: &[LeafRef],
    map: &mut CleanMap,
) -> Result<()> {
    let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else { return Ok(()) };
    let len = (last.offset - first.offset).saturating_add(last.len.into());
    let range = common.body_range(first.offset, len).ok_or_else(|| {
        Error::damaged(describe(stream, first), "the root points outside the object")
    })?;
    let bytes = stream.read(first.object, range)?;
    for leaf in leaves {
        let from = (leaf.offset - first.offset) as usize;
        let own = bytes.get(from..).and_then(|own| own.get(..leaf.len as usize));
        let own = own.ok_or_else(|| Error::damaged(describe(stream, leaf), "it is too short"))?;
        if xxh3_64(own) != leaf.sum {
            return Err(Error::damaged(describe(stream, leaf), "the leaf's checksum is wrong"));
        }
        let decoded = Leaf::decode(own).map_err(|e| e.of(describe(stream, leaf)))?;
        map.set_leaf(LeafIndex::new(leaf.index), decoded, leaf.last_change);
    }
    Ok(())
}

/// Reads a checkpoint's header.
pub(crate) fn read_checkpoint(stream: &Stream, seq: ObjectSeq) -> Result<CheckpointHeader> {
    match stream.header(seq)? {
        Some(ObjectHeader::Checkpoint(header)) => Ok(header),
        Some(_) => Err(Error::damaged(stream.describe(seq), "it should be a checkpoint")),
        None => Err(Error::damaged(
            stream.describe(seq),
            "this checkpoint is missing, and the map cannot be had without it",
        )),
    }
}
