//! A leaf of the map: where the content of 16 MiB of disk lies in the stream.
//!
//! | encoding | field |
//! |---|---|
//! | u32 | magic `LSVL` |
//! | u32 | version |
//! | u64 | checksum: xxh3 of all that follows, seeded with the xxh3 of bytes 0..8 |
//! | varint | number of objects |
//! | varint | of each, in ascending order: how far its ObjectSeq lies beyond the one before |
//! | varint | number of extents |
//! | | of each, in ascending order: |
//! | varint | sectors between the one before and it |
//! | varint | its sectors |
//! | varint | its object, as an index into the list of objects |
//! | varint | first sector in that object's logical space |
//!
//! What no extent names was never written, or was trimmed.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult, check_version};
use crate::units::ObjectSeq;

/// Sectors of disk that a leaf maps: 16 MiB.
pub const LEAF_SECTORS: u32 = 32 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"LSVL");
const VERSION: u32 = 1;
const EXTENT_BYTES_MIN: usize = 4;

/// A run of sectors within a leaf, and where its content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafExtent {
    /// First sector, counted from the leaf's first: below [`LEAF_SECTORS`].
    pub start: u16,
    /// Sectors, at least one; the run ends within the leaf.
    pub sectors: u16,
    /// First sector in the object's logical space.
    pub object_sector: u32,
    /// The object.
    pub object: ObjectSeq,
}

impl LeafExtent {
    /// One past the last sector; at most [`LEAF_SECTORS`].
    pub fn end(&self) -> u32 {
        u32::from(self.start) + u32::from(self.sectors)
    }
}

/// Encodes a leaf.
///
/// # Errors
/// `Invalid` if the extents are not in ascending order, overlap, or reach out of the leaf.
pub fn encode_leaf(extents: &[LeafExtent]) -> FormatResult<Vec<u8>> {
    validate(extents)?;
    let mut objects: Vec<u64> = extents.iter().map(|e| e.object.get()).collect();
    objects.sort_unstable();
    objects.dedup();

    let mut w = Writer::with_capacity(8 + objects.len() * 4 + extents.len() * 8);
    w.count(objects.len());
    let mut before = 0;
    for object in &objects {
        w.varint(object - before);
        before = *object;
    }
    w.count(extents.len());
    let mut end = 0u32;
    for extent in extents {
        let index = objects.partition_point(|object| *object < extent.object.get());
        w.varint(u32::from(extent.start).saturating_sub(end).into());
        w.varint(extent.sectors.into());
        w.varint(index as u64);
        w.varint(extent.object_sector.into());
        end = extent.end();
    }
    let content = w.into_vec();

    let mut w = Writer::with_capacity(16 + content.len());
    w.u32(MAGIC);
    w.u32(VERSION);
    w.u64(checksum_of(w.as_slice(), &content));
    w.bytes(&content);
    Ok(w.into_vec())
}

/// Decodes a leaf from exactly `bytes`.
///
/// # Errors
/// Whatever makes the bytes anything but a leaf.
pub fn decode_leaf(bytes: &[u8]) -> FormatResult<Vec<LeafExtent>> {
    let (start, rest) = bytes.split_at_checked(8).ok_or(FormatError::Truncated)?;
    let mut s = Reader::new(start);
    if s.u32()? != MAGIC {
        return Err(FormatError::BadMagic);
    }
    let version = s.u32()?;
    let (checksum, content) = rest.split_first_chunk().ok_or(FormatError::Truncated)?;
    if u64::from_le_bytes(*checksum) != checksum_of(start, content) {
        return Err(FormatError::BadChecksum);
    }
    check_version(version, VERSION)?;
    let mut r = Reader::new(content);
    let objects = decode_objects(&mut r)?;
    let extents = decode_extents(&mut r, &objects)?;
    r.finish()?;
    validate(&extents)?;
    Ok(extents)
}

fn checksum_of(start: &[u8], content: &[u8]) -> u64 {
    xxh3_64_with_seed(content, xxh3_64(start))
}

fn decode_objects(r: &mut Reader<'_>) -> FormatResult<Vec<ObjectSeq>> {
    let count = r.count(1)?;
    let mut objects = Vec::with_capacity(count);
    let mut before = 0u64;
    for position in 0..count {
        let step = r.varint()?;
        if step == 0 && position > 0 {
            return Err(FormatError::Invalid("the leaf names an object twice"));
        }
        before = before
            .checked_add(step)
            .ok_or(FormatError::Invalid("the leaf names an impossible object"))?;
        objects.push(ObjectSeq::new(before));
    }
    Ok(objects)
}

fn decode_extents(r: &mut Reader<'_>, objects: &[ObjectSeq]) -> FormatResult<Vec<LeafExtent>> {
    let count = r.count(EXTENT_BYTES_MIN)?;
    let mut extents = Vec::with_capacity(count);
    let mut end = 0u32;
    for _ in 0..count {
        let out_of_range = FormatError::Invalid("the leaf's extents reach out of it");
        let start = end.checked_add(r.varint_u32()?).and_then(|s| u16::try_from(s).ok());
        let sectors = u16::try_from(r.varint_u32()?).ok();
        let (Some(start), Some(sectors)) = (start, sectors) else {
            return Err(out_of_range);
        };
        let index = r.varint_u32()?;
        let object = *objects
            .get(index as usize)
            .ok_or(FormatError::Invalid("the leaf refers to an object that it does not name"))?;
        let extent = LeafExtent { start, sectors, object_sector: r.varint_u32()?, object };
        end = extent.end();
        extents.push(extent);
    }
    Ok(extents)
}

fn validate(extents: &[LeafExtent]) -> FormatResult<()> {
    if !extents.is_sorted_by(|a, b| a.end() <= b.start.into()) {
        return Err(FormatError::Invalid("the leaf's extents are out of order or overlap"));
    }
    let possible = |e: &LeafExtent| {
        e.sectors > 0
            && e.end() <= LEAF_SECTORS
            && e.object_sector.checked_add(e.sectors.into()).is_some()
    };
    if !extents.iter().all(possible) {
        return Err(FormatError::Invalid("an extent of the leaf is empty or reaches too far"));
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::testing::{assert_damage_is_seen, assert_golden, scribble};

    fn extent(start: u16, sectors: u16, object: u64, object_sector: u32) -> LeafExtent {
        LeafExtent { start, sectors, object_sector, object: ObjectSeq::new(object) }
    }

    fn example() -> Vec<LeafExtent> {
        vec![extent(0, 8, 500, 0), extent(8, 8, 20, 300), extent(32760, 8, 500, 8)]
    }

    fn reseal(bytes: &mut [u8]) {
        let sum = checksum_of(&bytes[..8], &bytes[16..]);
        bytes[8..16].copy_from_slice(&sum.to_le_bytes());
    }

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut bytes = encode_leaf(&[]).unwrap();
        bytes.truncate(16);
        bytes.extend_from_slice(content);
        reseal(&mut bytes);
        bytes
    }

    #[test]
    fn golden() {
        let bytes = encode_leaf(&example()).unwrap();
        assert_golden(
            &bytes,
            "\
             4c53564c01000000 a1c555b49bb91fa1 0214e00303000801 00000800ac02e8ff \
             01080108",
        );
        assert_eq!(decode_leaf(&bytes), Ok(example()));
    }

    #[test]
    fn damage_is_seen() {
        assert_damage_is_seen(&encode_leaf(&example()).unwrap(), decode_leaf);
    }

    #[test]
    fn a_later_version_is_named() {
        let mut bytes = encode_leaf(&example()).unwrap();
        bytes[4] = 2;
        reseal(&mut bytes);
        assert_eq!(decode_leaf(&bytes), Err(FormatError::NewerVersion { found: 2, known: 1 }));
    }

    #[test]
    fn limits() {
        let whole = vec![extent(0, 32768, u64::MAX, 0)];
        assert_eq!(decode_leaf(&encode_leaf(&whole).unwrap()), Ok(whole));
        assert_eq!(decode_leaf(&encode_leaf(&[]).unwrap()), Ok(vec![]));
        let refused = [
            vec![extent(0, 0, 1, 0)],
            vec![extent(1, 32768, 1, 0)],
            vec![extent(u16::MAX, u16::MAX, 1, 0)],
            vec![extent(0, 8, 1, u32::MAX)],
            vec![extent(0, 8, 1, 0), extent(7, 8, 1, 8)],
            vec![extent(8, 8, 1, 0), extent(0, 8, 1, 8)],
        ];
        for extents in refused {
            encode_leaf(&extents).expect_err("out of range or out of order");
        }
    }

    #[test]
    fn sealed_contradictions_are_refused() {
        // objects, then extents of {gap, sectors, object index, object sector}
        let good = [1, 5, 1, 0, 8, 0, 0];
        assert_eq!(decode_leaf(&sealed(&good)), Ok(vec![extent(0, 8, 5, 0)]));
        let refused: [&[u8]; 5] = [
            &[1, 5, 1, 0, 8, 1, 0],
            &[1, 5, 1, 0, 0, 0, 0],
            &[2, 5, 0, 1, 0, 8, 0, 0],
            &[1, 5, 1, 0xff, 0xff, 3, 8, 0, 0],
            &[1, 5, 1, 0, 8, 0, 0, 0],
        ];
        for content in refused {
            let error = decode_leaf(&sealed(content)).expect_err("contradiction");
            assert!(matches!(error, FormatError::Invalid(_)), "{content:?}: {error:?}");
        }
    }

    #[test]
    fn huge_counts_do_not_allocate() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        for content in [huge.to_vec(), [&[0], &huge[..]].concat()] {
            assert_eq!(decode_leaf(&sealed(&content)), Err(FormatError::Truncated));
        }
    }

    fn any_leaf() -> impl Strategy<Value = Vec<LeafExtent>> {
        let run = (0u16..200, 1u16..200, 0u64..20, 0u32..1 << 20);
        prop::collection::vec(run, 0..80).prop_map(|runs| {
            let mut next = 0;
            let mut extents = Vec::new();
            for (gap, sectors, object, object_sector) in runs {
                extents.push(extent(next + gap, sectors, object << 40, object_sector));
                next += gap + sectors;
            }
            extents
        })
    }

    proptest! {
        #[test]
        fn leaves_round_trip(extents in any_leaf()) {
            prop_assert_eq!(decode_leaf(&encode_leaf(&extents).unwrap()), Ok(extents));
        }

        #[test]
        fn sealed_nonsense_is_refused_or_sound(
            extents in any_leaf(), changes in prop::collection::vec(any::<(usize, u8)>(), 1..4),
        ) {
            let mut bytes = encode_leaf(&extents).unwrap();
            scribble(&mut bytes, 16, &changes);
            reseal(&mut bytes);
            if let Ok(decoded) = decode_leaf(&bytes) {
                prop_assert_eq!(decode_leaf(&encode_leaf(&decoded).unwrap()), Ok(decoded));
            }
        }
    }
}
