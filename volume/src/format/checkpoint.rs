//! Checkpoint objects: the map as of one number of the stream.
//!
//! The header holds the **root**: for each leaf that maps anything, which checkpoint object
//! holds it and where. The body holds only those leaves that changed since the last checkpoint,
//! each encoded by [`super::leaf`], one after the other.
//!
//! Tables in the header, after the common part:
//!
//! | encoding | field |
//! |---|---|
//! | varint | `covers` |
//! | varint | size of the volume then, in sectors |
//! | u8 | 1 if the map before it does not count: the volume was rolled back |
//! | varint | number of leaves |
//! | | of each, in ascending order: |
//! | varint | indices skipped between the one before and it |
//! | varint | number of its last change |
//! | varint | how far the object that holds it lies before this one; 0 is this one |
//! | varint, varint | offset in that object's body, length |
//! | u64 | checksum of the encoded leaf |
//! | varint | number of fences, and of each, in ascending order: |
//! | varint, varint, u128, varint | its ObjectSeq, epoch, nonce, LogSeq |
//! | text | its host |
//! | varint | number of objects, and of each, in ascending order: |
//! | varint | how far its number lies after that of the one before it |
//! | varint, varint, varint | its bytes in the store, sectors of data, sectors that the map points at |
//! | varint | 0 if it is needed; else how far its last use lies before `covers`, times 2, plus 1, and one more if it is condemned |
//!
//! The **objects** are all those up to `covers` that are in the store, but for fences and fillers,
//! which stay for ever. An object that nothing points at any more is *dead*; one that a checkpoint
//! names as *condemned* may be deleted as soon as the superblock names that checkpoint, by whoever
//! has the volume then, and will never be pointed at again.

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult};
use super::ids::{FenceId, Nonce, ShortText};
use super::leaf::LEAF_SECTORS;
use super::object_header::{
    CommonHeader, ObjectKind, Stamp, decode_with_tables, encode_with_tables, header_len,
};
use crate::units::{Epoch, Extent, LogSeq, ObjectSeq};

/// One past the highest index of a leaf.
pub const LEAF_INDEX_LIMIT: u64 = Extent::LBA_LIMIT / LEAF_SECTORS as u64;

const LEAF_REF_BYTES_MIN: usize = 13;
const FENCE_RECORD_BYTES_MIN: usize = 20;
const OBJECT_RECORD_BYTES_MIN: usize = 5;

/// Largest object in bytes, so that no sum of sizes overflows.
const OBJECT_BYTES_MAX: u64 = 1 << 42;

/// Where a leaf of the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRef {
    /// Which part of the disk it maps: [`LEAF_SECTORS`] from `index * LEAF_SECTORS` on.
    pub index: u64,
    /// Number of the object that changed it last.
    pub last_change: ObjectSeq,
    /// The checkpoint object that holds it.
    pub object: ObjectSeq,
    /// Where in that object's body.
    pub offset: u64,
    /// Bytes of the encoded leaf.
    pub len: u32,
    /// Checksum of the encoded leaf.
    pub sum: u64,
}

/// A fence that the stream went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceRecord {
    /// Which.
    pub id: FenceId,
    /// Highest LogSeq in the stream up to it.
    pub log_seq: LogSeq,
    /// Who made it.
    pub host: ShortText,
}

/// What is known of an object in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Its number.
    pub seq: ObjectSeq,
    /// Its size in bytes.
    pub stored_bytes: u64,
    /// Sectors of data that it holds.
    pub data_sectors: u64,
    /// Of them those that the map points at.
    pub live_sectors: u64,
    /// The number from which on nothing points at it, if so.
    pub dead_since: Option<ObjectSeq>,
    /// Whether it may be deleted.
    pub condemned: bool,
}

/// The header of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// What its writer says.
    pub stamp: Stamp,
    /// Written by a drained close: nothing was in flight after it.
    pub clean: bool,
    /// The map is exactly that of the stream up to and with this number.
    pub covers: ObjectSeq,
    /// Size of the volume up to there, in sectors.
    pub sectors: u64,
    /// Whether it takes the place of the map before it, and does not only say it again.
    pub is_rollback: bool,
    /// The root, by ascending index.
    pub leaves: Vec<LeafRef>,
    /// All fences so far, by ascending number.
    pub fences: Vec<FenceRecord>,
    /// All objects, by ascending number.
    pub objects: Vec<ObjectRecord>,
    /// Bytes of the body: the leaves that this object holds.
    pub body_len: u64,
}

impl CheckpointHeader {
    /// The header's bytes; the body goes after them.
    ///
    /// # Errors
    /// `Invalid` if lists are out of order, a leaf lies outside the body, or the header would
    /// be too long.
    pub fn encode(&self) -> FormatResult<Vec<u8>> {
        self.validate()?;
        let tables = self.encode_tables();
        let common = CommonHeader {
            kind: ObjectKind::Checkpoint,
            clean: self.clean,
            header_len: header_len(&tables)?,
            body_len: self.body_len,
            stamp: self.stamp,
        };
        Ok(encode_with_tables(&common, &tables))
    }

    /// Decodes the header; `bytes` are at least all of it.
    ///
    /// # Errors
    /// `Truncated` if [`super::peek`] says that the header is longer; whatever else makes it
    /// anything but a checkpoint's.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let (common, mut r) = decode_with_tables(bytes, ObjectKind::Checkpoint)?;
        let header = Self {
            stamp: common.stamp,
            clean: common.clean,
            covers: ObjectSeq::new(r.varint()?),
            sectors: r.varint()?,
            is_rollback: r.bool()?,
            leaves: decode_leaves(&mut r, common.stamp.seq)?,
            fences: decode_fences(&mut r)?,
            objects: Vec::new(),
            body_len: common.body_len,
        };
        let objects = decode_objects(&mut r, header.covers)?;
        r.finish()?;
        let header = Self { objects, ..header };
        header.validate()?;
        Ok(header)
    }

    fn validate(&self) -> FormatResult<()> {
        if self.covers >= self.stamp.seq {
            return Err(FormatError::Invalid("the checkpoint covers more than lies before it"));
        }
        if self.sectors > Extent::LBA_LIMIT {
            return Err(FormatError::Invalid("the checkpoint gives an impossible size"));
        }
        if !self.leaves.is_sorted_by(|a, b| a.index < b.index) {
            return Err(FormatError::Invalid("the checkpoint's leaves are out of order"));
        }
        if !self.fences.is_sorted_by(|a, b| a.id.seq < b.id.seq) {
            return Err(FormatError::Invalid("the checkpoint's fences are out of order"));
        }
        if !self.objects.is_sorted_by(|a, b| a.seq < b.seq) {
            return Err(FormatError::Invalid("the checkpoint's objects are out of order"));
        }
        for object in &self.objects {
            let possible = object.seq <= self.covers
                && object.live_sectors <= object.data_sectors
                && object.data_sectors <= u32::MAX.into()
                && object.stored_bytes <= OBJECT_BYTES_MAX
                && match object.dead_since {
                    Some(since) => {
                        object.live_sectors == 0 && (object.seq..=self.covers).contains(&since)
                    }
                    None => !object.condemned,
                };
            if !possible {
                return Err(FormatError::Invalid("an object of the checkpoint is impossible"));
            }
        }
        for leaf in &self.leaves {
            let end = leaf.offset.checked_add(leaf.len.into());
            let in_body =
                end.is_some_and(|end| leaf.object != self.stamp.seq || end <= self.body_len);
            let possible = leaf.index < LEAF_INDEX_LIMIT
                && leaf.object <= self.stamp.seq
                && leaf.last_change <= self.covers
                && in_body;
            if !possible {
                return Err(FormatError::Invalid("a leaf of the checkpoint is impossible"));
            }
        }
        Ok(())
    }

    fn encode_tables(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(32 + self.leaves.len() * 24 + self.fences.len() * 48);
        w.varint(self.covers.get());
        w.varint(self.sectors);
        w.bool(self.is_rollback);
        w.count(self.leaves.len());
        let mut next_index = 0u64;
        for leaf in &self.leaves {
            w.varint(leaf.index.saturating_sub(next_index));
            w.varint(leaf.last_change.get());
            w.varint(self.stamp.seq.since(leaf.object));
            w.varint(leaf.offset);
            w.varint(leaf.len.into());
            w.u64(leaf.sum);
            next_index = leaf.index.saturating_add(1);
        }
        w.count(self.fences.len());
        for fence in &self.fences {
            w.varint(fence.id.seq.get());
            w.varint(fence.id.epoch.get());
            w.u128(fence.id.nonce.get());
            w.varint(fence.log_seq.get());
            fence.host.encode(&mut w);
        }
        w.count(self.objects.len());
        let mut before = ObjectSeq::ZERO;
        for object in &self.objects {
            w.varint(object.seq.since(before));
            w.varint(object.stored_bytes);
            w.varint(object.data_sectors);
            w.varint(object.live_sectors);
            w.varint(match object.dead_since {
                None => 0,
                Some(since) => (self.covers.since(since) << 1) + 1 + u64::from(object.condemned),
            });
            before = object.seq;
        }
        w.into_vec()
    }
}

fn decode_leaves(r: &mut Reader<'_>, holder: ObjectSeq) -> FormatResult<Vec<LeafRef>> {
    let count = r.count(LEAF_REF_BYTES_MIN)?;
    let mut leaves = Vec::with_capacity(count);
    let mut next_index = 0u64;
    for _ in 0..count {
        let impossible = FormatError::Invalid("a leaf of the checkpoint is impossible");
        let index = next_index.checked_add(r.varint()?).ok_or(impossible.clone())?;
        let last_change = ObjectSeq::new(r.varint()?);
        let object = holder.get().checked_sub(r.varint()?).ok_or(impossible.clone())?;
        leaves.push(LeafRef {
            index,
            last_change,
            object: ObjectSeq::new(object),
            offset: r.varint()?,
            len: r.varint_u32()?,
            sum: r.u64()?,
        });
        next_index = index.checked_add(1).ok_or(impossible)?;
    }
    Ok(leaves)
}

fn decode_fences(r: &mut Reader<'_>) -> FormatResult<Vec<FenceRecord>> {
    let count = r.count(FENCE_RECORD_BYTES_MIN)?;
    let mut fences = Vec::with_capacity(count);
    for _ in 0..count {
        fences.push(FenceRecord {
            id: FenceId {
                seq: ObjectSeq::new(r.varint()?),
                epoch: Epoch::new(r.varint()?),
                nonce: Nonce::new(r.u128()?),
            },
            log_seq: LogSeq::new(r.varint()?),
            host: ShortText::decode(r)?,
        });
    }
    Ok(fences)
}

fn decode_objects(r: &mut Reader<'_>, covers: ObjectSeq) -> FormatResult<Vec<ObjectRecord>> {
    let impossible = FormatError::Invalid("an object of the checkpoint is impossible");
    let count = r.count(OBJECT_RECORD_BYTES_MIN)?;
    let mut objects = Vec::with_capacity(count);
    let mut before = 0u64;
    for _ in 0..count {
        before = before.checked_add(r.varint()?).ok_or(impossible.clone())?;
        let (stored_bytes, data_sectors, live_sectors) = (r.varint()?, r.varint()?, r.varint()?);
        let fate = r.varint()?;
        let dead_since = match fate.checked_sub(1) {
            None => None,
            Some(fate) => {
                let since = covers.get().checked_sub(fate >> 1).ok_or(impossible.clone())?;
                Some(ObjectSeq::new(since))
            }
        };
        objects.push(ObjectRecord {
            seq: ObjectSeq::new(before),
            stored_bytes,
            data_sectors,
            live_sectors,
            dead_since,
            condemned: fate > 0 && fate & 1 == 0,
        });
    }
    Ok(objects)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::object_header::COMMON_BYTES;
    use crate::format::testing::{
        assert_damage_is_seen, assert_golden, reseal_object, scribble, stamp, with_tables,
    };

    fn leaf(index: u64, object: u64, offset: u64) -> LeafRef {
        LeafRef {
            index,
            last_change: ObjectSeq::new(object.min(998)),
            object: ObjectSeq::new(object),
            offset,
            len: 300,
            sum: 0xabcd + index,
        }
    }

    fn object(seq: u64, live: u64, dead_since: Option<u64>, condemned: bool) -> ObjectRecord {
        ObjectRecord {
            seq: ObjectSeq::new(seq),
            stored_bytes: 5 << 20,
            data_sectors: 16384,
            live_sectors: live,
            dead_since: dead_since.map(ObjectSeq::new),
            condemned,
        }
    }

    fn example() -> CheckpointHeader {
        CheckpointHeader {
            stamp: stamp(),
            clean: true,
            covers: ObjectSeq::new(998),
            sectors: 1 << 22,
            is_rollback: false,
            leaves: vec![leaf(0, 1000, 0), leaf(1, 900, 5000), leaf(7, 1000, 300)],
            fences: vec![FenceRecord {
                id: FenceId {
                    seq: ObjectSeq::new(1),
                    epoch: Epoch::new(1),
                    nonce: Nonce::new(0x77),
                },
                log_seq: LogSeq::new(0),
                host: ShortText::truncated("node1"),
            }],
            objects: vec![
                object(2, 100, None, false),
                object(900, 0, Some(990), false),
                object(901, 0, Some(998), true),
            ],
            body_len: 600,
        }
    }

    #[test]
    fn golden() {
        let bytes = example().encode().unwrap();
        assert_golden(
            &bytes,
            "\
             4c5356444f424a31 0100000003010000 f100000004000000 9d92d026514d7186 \
             0011223344556677 8899aabbccddeeff e803000000000000 0300000000000000 \
             a500000000000000 0000000000000000 e603000000000000 d12f010000000000 \
             0000200000000000 0068e5cf8b010000 5802000000000000 cc4c21fe93a16cd5 \
             e607808080020003 00e6070000ac02cd ab00000000000000 8407648827ac02ce \
             ab00000000000005 e60700ac02ac02d4 ab00000000000001 0101770000000000 \
             0000000000000000 000000056e6f6465 3103028080c00280 8001640082078080 \
             c002808001001101 8080c00280800100 02",
        );
        assert_eq!(CheckpointHeader::decode(&bytes), Ok(example()));
    }

    #[test]
    fn damage_is_seen() {
        assert_damage_is_seen(&example().encode().unwrap(), CheckpointHeader::decode);
    }

    #[test]
    fn contradictions_are_refused() {
        let with_leaves = |leaves| CheckpointHeader { leaves, ..example() };
        let with_objects = |objects| CheckpointHeader { objects, ..example() };
        let twice = [example().fences, example().fences].concat();
        let late = LeafRef { last_change: ObjectSeq::new(999), ..leaf(0, 1000, 0) };
        let refused = [
            CheckpointHeader { covers: ObjectSeq::new(1000), ..example() },
            CheckpointHeader { body_len: 599, ..example() },
            CheckpointHeader { fences: twice, ..example() },
            with_leaves(vec![leaf(1, 900, 0), leaf(1, 900, 0)]),
            with_leaves(vec![leaf(2, 900, 0), leaf(1, 900, 0)]),
            with_leaves(vec![leaf(0, 1001, 0)]),
            with_leaves(vec![leaf(0, 900, u64::MAX)]),
            with_leaves(vec![leaf(LEAF_INDEX_LIMIT, 900, 0)]),
            with_leaves(vec![late]),
            with_objects(vec![object(5, 1, None, false), object(5, 1, None, false)]),
            with_objects(vec![object(999, 1, None, false)]),
            with_objects(vec![object(5, 16385, None, false)]),
            with_objects(vec![object(5, 1, Some(7), false)]),
            with_objects(vec![object(5, 0, Some(4), false)]),
            with_objects(vec![object(5, 0, Some(999), false)]),
            with_objects(vec![object(5, 0, None, true)]),
        ];
        for header in refused {
            let error = header.encode().expect_err("contradiction");
            assert!(matches!(error, FormatError::Invalid(_)), "{header:?}: {error:?}");
        }
    }

    #[test]
    fn huge_counts_do_not_allocate() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let of_leaves = [&[1, 0, 0], &huge[..]].concat();
        let of_fences = [&[1, 0, 0, 0], &huge[..]].concat();
        let of_objects = [&[1, 0, 0, 0, 0], &huge[..]].concat();
        for tables in [of_leaves, of_fences, of_objects] {
            let bytes = with_tables(&example().encode().unwrap(), &tables);
            assert_eq!(CheckpointHeader::decode(&bytes), Err(FormatError::Truncated));
        }
    }

    #[test]
    fn the_root_of_a_large_volume_is_small() {
        let leaves: Vec<_> = (0..131_072).map(|i| leaf(i, 500 + i % 500, i * 300)).collect();
        let header = CheckpointHeader { leaves, ..example() };
        let bytes = header.encode().unwrap();
        assert!(bytes.len() < 3 << 20, "{}", bytes.len());
        assert_eq!(CheckpointHeader::decode(&bytes), Ok(header));
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            steps in prop::collection::vec((1u64..1 << 20, 0u64..=1000, any::<u32>()), 0..30),
            clean in any::<bool>(), host in ".{0,40}",
        ) {
            let mut index = 0;
            let mut header = CheckpointHeader { clean, body_len: u64::MAX, ..example() };
            header.fences[0].host = ShortText::truncated(&host);
            header.leaves.clear();
            for (step, object, offset) in steps {
                index += step;
                header.leaves.push(leaf(index, object, offset.into()));
            }
            let bytes = header.encode().unwrap();
            prop_assert_eq!(CheckpointHeader::decode(&bytes), Ok(header));
        }

        #[test]
        fn sealed_nonsense_is_refused_or_canonical(
            changes in prop::collection::vec(any::<(usize, u8)>(), 1..4),
        ) {
            let mut bytes = example().encode().unwrap();
            scribble(&mut bytes, COMMON_BYTES, &changes);
            reseal_object(&mut bytes);
            if let Ok(decoded) = CheckpointHeader::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), Ok(bytes));
            }
        }
    }
}
