//! Fetching leaves of the map: from the local copy where that has them as they are wanted, otherwise
//! from the checkpoints that hold them.

use std::collections::HashMap;
use std::sync::Arc;

use lsvd_store::ByteRange;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::format::{CheckpointHeader, CommonHeader, LeafRef};
use crate::map::{Leaf, LeafIndex, LeafItem, LeafStore, Maps};
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// Longest read of leaves, in bytes; a single leaf may be longer.
const READ_BYTES_MAX: u64 = 4 << 20;
/// What lies between two leaves is read with them if it is at most this long: a request costs more.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// Fetches the leaves of one volume.
#[derive(Debug)]
pub(crate) struct LeafLoader {
    stream: Stream,
    local: Arc<LeafStore>,
    /// Of the checkpoints that leaves were fetched from.
    headers: Mutex<HashMap<ObjectSeq, CommonHeader>>,
}

impl LeafLoader {
    pub(crate) fn new(stream: Stream, local: Arc<LeafStore>) -> Self {
        Self { stream, local, headers: Mutex::default() }
    }

    /// One that knows of no local copy.
    pub(crate) fn of_stream(stream: &Stream) -> Arc<Self> {
        Arc::new(Self::new(stream.clone(), Arc::new(LeafStore::none())))
    }

    /// One leaf.
    pub(crate) fn load(&self, at: &LeafRef) -> Result<Leaf> {
        let mut found = None;
        self.load_all(vec![*at], |_, leaf| {
            found = Some(leaf);
            Ok(())
        })?;
        found.ok_or_else(|| Error::damaged(self.describe(at), "it was not found"))
    }

    /// Several leaves, each given to `each`. What lies close together in a checkpoint is read together,
    /// so requests grow with the checkpoints that hold leaves and with their bytes.
    pub(crate) fn load_all(
        &self,
        wanted: Vec<LeafRef>,
        mut each: impl FnMut(&LeafRef, Leaf) -> Result<()>,
    ) -> Result<()> {
        let mut missing = Vec::new();
        for at in wanted {
            match self.kept_here(&at) {
                Some(leaf) => each(&at, leaf)?,
                None => missing.push(at),
            }
        }
        missing.sort_unstable_by_key(|leaf| (leaf.object, leaf.offset));
        for of_object in missing.chunk_by(|a, b| a.object == b.object) {
            let mut rest = of_object;
            while !rest.is_empty() {
                let (together, later) = rest.split_at(read_together(rest));
                self.fetch(together, &mut each)?;
                rest = later;
            }
        }
        Ok(())
    }

    /// Puts a leaf that was fetched into its place.
    ///
    /// # Errors
    /// It contradicts what is known of the objects.
    pub(crate) fn put(&self, maps: &mut Maps, at: &LeafRef, leaf: Leaf) -> Result<()> {
        maps.put_leaf(at, leaf).map_err(|why| Error::damaged(self.describe(at), why))
    }

    /// How messages call what is wrong with a leaf.
    fn describe(&self, leaf: &LeafRef) -> String {
        format!("{} (from leaf {} of the map)", self.stream.describe(leaf.object), leaf.index)
    }

    fn kept_here(&self, at: &LeafRef) -> Option<Leaf> {
        let kept = self.local.get(self.stream.volume(), LeafIndex::new(at.index))?;
        let same = kept.last_change == at.last_change && xxh3_64(&kept.bytes) == at.sum;
        same.then(|| Leaf::decode(&kept.bytes).ok()).flatten()
    }

    /// Reads leaves that lie close together in a checkpoint.
    fn fetch(
        &self,
        leaves: &[LeafRef],
        each: &mut impl FnMut(&LeafRef, Leaf) -> Result<()>,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else { return Ok(()) };
        let len = (last.offset - first.offset).saturating_add(last.len.into());
        let bytes = self.stream.read(first.object, self.body_range(first, len)?)?;
        let mut items = Vec::with_capacity(leaves.len());
        for at in leaves {
            let from = (at.offset - first.offset) as usize;
            let own = bytes.get(from..).and_then(|own| own.get(..at.len as usize));
            let own = own.ok_or_else(|| Error::damaged(self.describe(at), "it is too short"))?;
            if xxh3_64(own) != at.sum {
                return Err(Error::damaged(self.describe(at), "the leaf's checksum is wrong"));
            }
            each(at, Leaf::decode(own).map_err(|e| e.of(self.describe(at)))?)?;
            items.push(LeafItem {
                index: LeafIndex::new(at.index),
                last_change: at.last_change,
                bytes: Some(own.to_vec()),
            });
        }
        if !self.local.is_off() {
            self.local.put_batch(self.stream.volume(), items);
        }
        Ok(())
    }

    fn body_range(&self, first: &LeafRef, len: u64) -> Result<ByteRange> {
        let known = self.headers.lock().get(&first.object).copied();
        let common = match known {
            Some(common) => common,
            None => {
                let found = self.stream.peek(first.object)?;
                let (common, _) =
                    found.ok_or_else(|| Error::damaged(self.describe(first), "it is missing"))?;
                self.headers.lock().insert(first.object, common);
                common
            }
        };
        common.body_range(first.offset, len).ok_or_else(|| {
            Error::damaged(self.describe(first), "the root points outside the object")
        })
    }
}

/// Reads the leaves that a checkpoint holds itself, and verifies them.
pub(crate) fn verify_leaves(stream: &Stream, checkpoint: &CheckpointHeader) -> Result<()> {
    let own = checkpoint.leaves.iter().filter(|leaf| leaf.object == checkpoint.stamp.seq);
    let loader = LeafLoader::of_stream(stream);
    loader.load_all(own.copied().collect(), |_, _| Ok(()))
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
