//! The map as objects of the stream.
//!
//! A checkpoint holds the leaves that changed since the one before, and the root: for every
//! leaf the checkpoint that holds its present content. It is exactly true for the number it
//! `covers`, the highest one committed when it was taken; objects in flight then come after.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::format::{
    CheckpointHeader, CheckpointRef, FenceRecord, LeafRef, ObjectHeader, ObjectRecord, ShortText,
    Stamp, Superblock, VolumeState,
};
use crate::map::{LeafChange, LeafIndex};
use crate::stream::Stream;
use crate::units::{Epoch, ObjectSeq, SECTOR_BYTES};

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

/// A leaf in a checkpoint's body, or one that vanished.
#[derive(Clone, Debug)]
pub(crate) struct KeptLeaf {
    pub(crate) index: LeafIndex,
    pub(crate) last_change: ObjectSeq,
    /// Where it is in the body.
    pub(crate) place: Option<Range<usize>>,
}

/// A checkpoint ready to be created.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Arc<Vec<u8>>,
    /// The root once it is committed.
    pub(crate) root: Root,
    /// What changed, for the local store.
    pub(crate) changes: Vec<KeptLeaf>,
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
    /// Size of the volume then.
    pub(crate) sectors: u64,
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

    /// Where each leaf is, by its index.
    pub(crate) fn leaves(&self) -> &BTreeMap<u64, LeafRef> {
        &self.leaves
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
    /// which objects hold leaves then, and says what is known of all. `is_rollback` says that the map
    /// before it does not count.
    pub(crate) fn prepare(
        &self,
        facts: &Facts<'_>,
        is_rollback: bool,
        changed: Vec<LeafChange>,
        objects: impl FnOnce(&BTreeMap<ObjectSeq, u64>) -> Vec<ObjectRecord>,
    ) -> Result<Prepared> {
        let Facts { stamp, clean, covers, sectors, fences } = *facts;
        let leaves = self.leaves.clone();
        let mut root = Self { seq: stamp.seq, covers, leaves, fences: fences.to_vec() };
        let mut body = Vec::new();
        let mut changes = Vec::with_capacity(changed.len());
        for change in changed {
            let LeafChange { index, leaf, last_change } = change;
            let mut place = None;
            match &leaf {
                Some(leaf) => {
                    let bytes = leaf.encode().map_err(|e| e.of(format!("leaf {}", index.get())))?;
                    root.leaves.insert(
                        index.get(),
                        LeafRef {
                            index: index.get(),
                            last_change,
                            object: stamp.seq,
                            offset: body.len() as u64,
                            len: bytes.len() as u32,
                            sum: xxh3_64(&bytes),
                        },
                    );
                    place = Some(body.len()..body.len() + bytes.len());
                    body.extend_from_slice(&bytes);
                }
                None => {
                    root.leaves.remove(&index.get());
                }
            }
            changes.push(KeptLeaf { index, last_change, place });
        }
        let header = CheckpointHeader {
            stamp,
            clean,
            covers,
            sectors,
            is_rollback,
            leaves: root.leaves.values().copied().collect(),
            fences: root.fences.clone(),
            objects: objects(&root.held()),
            body_len: body.len() as u64,
        };
        let head = header.encode().map_err(|e| e.of(format!("checkpoint {}", stamp.seq)))?;
        let condemned = header.objects.iter().filter(|o| o.condemned).map(|o| o.seq).collect();
        Ok(Prepared { head, body: Arc::new(body), root, changes, condemned })
    }
}

/// Fails if the writer of `epoch`, whose newest checkpoint this is, has the volume no more.
pub(crate) fn check_owner(
    superblock: &Superblock,
    epoch: Epoch,
    checkpoint: CheckpointRef,
) -> Result<()> {
    let volume = || superblock.name.as_str().to_owned();
    if superblock.state == VolumeState::Deleting {
        return Err(Error::Deleted(volume()));
    }
    // A newer checkpoint than ours is another writer's, too.
    let newer = superblock.checkpoint.is_some_and(|found| found.covers > checkpoint.covers);
    if superblock.epoch > epoch || newer {
        let by = format!("host {:?}", superblock.last_host.as_str());
        return Err(Error::Fenced { volume: volume(), by });
    }
    Ok(())
}

/// Names a checkpoint in the superblock: from now on volumes are entered there.
pub(crate) fn name_checkpoint(
    superblock: &mut Superblock,
    stamp: &Stamp,
    checkpoint: CheckpointRef,
    host: &ShortText,
) {
    superblock.previous_checkpoint = superblock.checkpoint;
    superblock.checkpoint = Some(checkpoint);
    superblock.committed = superblock.committed.max(stamp.seq);
    superblock.epoch = stamp.epoch;
    superblock.size_bytes = stamp.size_sectors * SECTOR_BYTES;
    superblock.last_host = host.clone();
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
