//! Objects by which a volume takes over data that other objects hold already: nothing is copied.
//!
//! | tables in the header, after the common part |
//! |---|
//! | number of holders (varint), then of each: distance of its ObjectSeq from this one (varint), sectors of data that it holds (varint), its bytes in the store (varint) |
//! | number of extents (varint), then of each: distance from the end of the one before and sectors (varints), which holder (varint), offset in its data in sectors (varint) |
//!
//! There is no body. An extent lies where its holder has it as well: data never moves on the disk by
//! being shared, so whoever looks for what is needed of an object looks where its own header says.

use std::collections::BTreeSet;

use super::codec::{Reader, Writer};
use super::data_object::Place;
use super::error::{FormatError, FormatResult};
use super::fence::{bodyless, encode_bodyless};
use super::object_header::{HEADER_BYTES_MAX, ObjectKind, Stamp, decode_with_tables};
use crate::units::{Extent, Lba, ObjectSeq, SECTOR_BYTES};

/// Extents of one object at most.
pub const SHARED_EXTENTS_MAX: usize = 1 << 16;

/// Bytes of an object in the store at most: its header, and its data, none of which grows by compression.
const STORED_BYTES_MAX: u64 = HEADER_BYTES_MAX as u64 + SECTOR_BYTES * u32::MAX as u64;

/// Least bytes of a holder and of an extent.
const HOLDER_BYTES_MIN: usize = 3;
const EXTENT_BYTES_MIN: usize = 4;

/// An object whose data is shared, and its size, as whoever has it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The object.
    pub object: ObjectSeq,
    /// Sectors of data that it holds.
    pub data_sectors: u64,
    /// Its bytes in the store.
    pub stored_bytes: u64,
}

/// Data that another object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExtent {
    /// The sectors on the disk.
    pub extent: Extent,
    /// Where they are.
    pub from: Place,
}

/// The header, which is the whole object; always consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedHeader {
    stamp: Stamp,
    holders: Vec<Holder>,
    extents: Vec<SharedExtent>,
}

impl SharedHeader {
    /// Puts a header together.
    ///
    /// # Errors
    /// `Invalid` if there are no extents or too many, if they are not in ascending order or overlap, if
    /// one is not within the data of one of the holders, or if those do not ascend, are no older objects,
    /// are of impossible size, or hold nothing that is shared.
    pub fn new(
        stamp: Stamp,
        holders: Vec<Holder>,
        extents: Vec<SharedExtent>,
    ) -> FormatResult<Self> {
        if extents.is_empty() || extents.len() > SHARED_EXTENTS_MAX {
            return Err(FormatError::Invalid("it shares nothing, or too much at once"));
        }
        if !extents.is_sorted_by(|a, b| a.extent.end() <= b.extent.start()) {
            return Err(FormatError::Invalid("the object's extents are out of order or overlap"));
        }
        let is_sane = |holder: &Holder| {
            holder.data_sectors <= u32::MAX.into() && holder.stored_bytes <= STORED_BYTES_MAX
        };
        if !holders.iter().all(is_sane) {
            return Err(FormatError::Invalid("it shares data of an object of impossible size"));
        }
        let used: BTreeSet<_> = extents.iter().map(|shared| shared.from.object).collect();
        if used.len() != holders.len() {
            return Err(FormatError::Invalid("it names objects of which it shares nothing"));
        }
        let ascend = holders.is_sorted_by(|a, b| a.object < b.object);
        if !ascend || holders.last().is_none_or(|last| last.object >= stamp.seq) {
            return Err(FormatError::Invalid("it shares what no older object holds"));
        }
        let is_held = |shared: &SharedExtent| {
            let found = holders.binary_search_by_key(&shared.from.object, |holder| holder.object);
            let holder = found.ok().and_then(|at| holders.get(at));
            let end = u64::from(shared.from.sector).checked_add(shared.extent.sectors());
            holder.zip(end).is_some_and(|(holder, end)| end <= holder.data_sectors)
        };
        if !extents.iter().all(is_held) {
            return Err(FormatError::Invalid("it shares what lies beyond the end of an object"));
        }
        Ok(Self { stamp, holders, extents })
    }

    /// What its writer says.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The objects whose data is shared, in ascending order.
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// What is shared, in the order of the disk.
    pub fn extents(&self) -> &[SharedExtent] {
        &self.extents
    }

    /// The whole object's bytes.
    pub fn encode(&self) -> FormatResult<Vec<u8>> {
        let mut w = Writer::with_capacity(8 + self.holders.len() * 8 + self.extents.len() * 8);
        w.count(self.holders.len());
        for holder in &self.holders {
            w.varint(self.stamp.seq.since(holder.object));
            w.varint(holder.data_sectors);
            w.varint(holder.stored_bytes);
        }
        w.count(self.extents.len());
        let mut end = Lba::ZERO;
        for SharedExtent { extent, from } in &self.extents {
            let nth = self.holders.binary_search_by_key(&from.object, |holder| holder.object);
            w.varint(extent.start().since(end));
            w.varint(extent.sectors());
            // That it is there was seen when the header was made.
            w.varint(nth.unwrap_or_default() as u64);
            w.varint(from.sector.into());
            end = extent.end();
        }
        encode_bodyless(ObjectKind::Shared, self.stamp, w.as_slice())
    }

    /// Decodes the object.
    ///
    /// # Errors
    /// Whatever makes the bytes anything but such an object.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let (common, mut r) = decode_with_tables(bytes, ObjectKind::Shared)?;
        let stamp = bodyless(&common)?;
        let holders = decode_holders(&mut r, stamp.seq)?;
        let extents = decode_extents(&mut r, &holders)?;
        r.finish()?;
        Self::new(stamp, holders, extents)
    }
}

fn decode_holders(r: &mut Reader<'_>, at: ObjectSeq) -> FormatResult<Vec<Holder>> {
    let count = r.count(HOLDER_BYTES_MIN)?;
    let mut holders = Vec::with_capacity(count);
    for _ in 0..count {
        let object = at.get().checked_sub(r.varint()?);
        let object = object.ok_or(FormatError::Invalid("it shares what no older object holds"))?;
        let (data_sectors, stored_bytes) = (r.varint()?, r.varint()?);
        holders.push(Holder { object: ObjectSeq::new(object), data_sectors, stored_bytes });
    }
    Ok(holders)
}

fn decode_extents(r: &mut Reader<'_>, holders: &[Holder]) -> FormatResult<Vec<SharedExtent>> {
    let count = r.count(EXTENT_BYTES_MIN)?;
    let mut extents = Vec::with_capacity(count);
    let mut end = 0u64;
    for _ in 0..count {
        let (gap, sectors, nth, sector) = (r.varint()?, r.varint()?, r.varint()?, r.varint_u32()?);
        let extent = end.checked_add(gap).and_then(|start| Extent::new(Lba::new(start), sectors));
        let holder = usize::try_from(nth).ok().and_then(|nth| holders.get(nth));
        let (Some(extent), Some(holder)) = (extent, holder) else {
            return Err(FormatError::Invalid("an extent of the object is impossible"));
        };
        extents.push(SharedExtent { extent, from: Place { object: holder.object, sector } });
        end = extent.end().get();
    }
    Ok(extents)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::format::object_header::COMMON_BYTES;
    use crate::format::testing::{assert_damage_is_seen, assert_golden, stamp};

    fn holder(object: u64, data_sectors: u64) -> Holder {
        Holder { object: ObjectSeq::new(object), data_sectors, stored_bytes: 70_000 }
    }

    fn shared(start: u64, sectors: u64, object: u64, sector: u32) -> SharedExtent {
        let extent = Extent::new(Lba::new(start), sectors).unwrap();
        SharedExtent { extent, from: Place { object: ObjectSeq::new(object), sector } }
    }

    fn build(holders: Vec<Holder>, extents: Vec<SharedExtent>) -> FormatResult<SharedHeader> {
        SharedHeader::new(stamp(), holders, extents)
    }

    fn example() -> SharedHeader {
        let extents = vec![shared(8, 16, 7, 0), shared(400, 200, 3, 56), shared(600, 1, 7, 299)];
        build(vec![holder(3, 256), holder(7, 300)], extents).unwrap()
    }

    #[test]
    fn golden() {
        let bytes = example().encode().unwrap();
        assert_golden(
            &bytes[COMMON_BYTES..],
            "02e5078002f0a204 e107ac02f0a20403 08100100f802c801 0038000101ab02",
        );
        assert_eq!(SharedHeader::decode(&bytes), Ok(example()));
    }

    #[test]
    fn damage_is_seen() {
        assert_damage_is_seen(&example().encode().unwrap(), SharedHeader::decode);
    }

    #[test]
    fn impossible_values_are_refused() {
        let good = || shared(8, 16, 7, 0);
        let refused = [
            (vec![holder(7, 300)], vec![]),
            (vec![], vec![good()]),
            (vec![holder(7, 300), holder(3, 300)], vec![good()]),
            (vec![holder(7, 300), holder(1000, 300)], vec![good()]),
            (vec![holder(6, 300)], vec![good()]),
            (vec![holder(6, 300), holder(7, 300)], vec![good()]),
            (vec![holder(7, 1 << 32)], vec![good()]),
            (vec![Holder { stored_bytes: u64::MAX, ..holder(7, 300) }], vec![good()]),
            (vec![holder(7, 15)], vec![good()]),
            (vec![holder(7, 300)], vec![shared(8, 16, 7, 285)]),
            (vec![holder(7, 300)], vec![shared(8, 16, 7, u32::MAX)]),
            (vec![holder(7, 300)], vec![good(), shared(23, 1, 7, 0)]),
        ];
        for (holders, extents) in refused {
            let outcome = build(holders, extents);
            assert!(matches!(outcome, Err(FormatError::Invalid(_))), "{outcome:?}");
        }
        assert_eq!(stamp().seq.get(), 1000);
    }
}
