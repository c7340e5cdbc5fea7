//! Data objects: a batch of writes and trims.
//!
//! The data extents' content, one after the other in the order of the list, is the object's
//! *logical* space; the map points there. It is cut into frames of `frame bytes` (the last one
//! may be shorter), each compressed on its own; the body is the stored frames one after the
//! other.
//!
//! ```text
//!   extents   [lba 8 +16 data] [lba 100 +8 trim] [lba 400 +200 data]
//!   logical   |--- 16 ----|------------- 200 --------------|
//!   frames    |----------- 0 -----------|------- 1 --------|
//!   body      |---- stored 0 ----|-- stored 1 --|
//! ```
//!
//! Tables in the header, after the common part:
//!
//! | encoding | field |
//! |---|---|
//! | u32 | frame bytes: a power of two, 4 KiB to 1 MiB |
//! | varint | number of extents |
//! | varint, varint | of each: sectors between the one before and it; its sectors * 2 + 1 if trim |
//! | varint | number of frames |
//! | varint, u8, u64 | of each: stored length, codec, checksum of the stored bytes |
//! | varint, varint | of each extent of an object with moved data: how far the object that it comes from lies before this one, and the sector there |
//!
//! Extents are in ascending order and do not overlap. An object with **moved data** (kind 2) holds
//! copies of what the map points at in older objects, and nothing else. Whoever applies it points
//! the map at the copy only where it still points at the original: what was written meanwhile is
//! newer, whatever the numbers of the objects.

use lsvd_store::ByteRange;

use super::codec::{Reader, Writer};
pub use super::compress::FRAME_BYTES_MAX;
use super::compress::FrameCodec;
use super::error::{FormatError, FormatResult};
use super::object_header::{
    CommonHeader, ObjectKind, Stamp, decode_with_tables, encode_with_tables, header_len, peek,
};
use crate::units::{Extent, Lba, ObjectSeq, SECTOR_BYTES};

/// Logical bytes of a frame, unless something else is asked for.
pub const FRAME_BYTES_DEFAULT: u32 = 64 << 10;

/// Fewest logical bytes of a frame.
pub const FRAME_BYTES_MIN: u32 = 4 << 10;

const EXTENT_BYTES_MIN: usize = 2;
const FRAME_REF_BYTES_MIN: usize = 10;

/// What an object does to an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// It holds its content.
    Data,
    /// It discards it.
    Trim,
}

/// One extent of the disk that an object changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectExtent {
    /// Where.
    pub extent: Extent,
    /// What.
    pub kind: ExtentKind,
}

/// A place in the data of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The object.
    pub object: ObjectSeq,
    /// Offset in its data, in sectors.
    pub sector: u32,
}

/// A copy, in an object, of what the map pointed at elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedExtent {
    /// The sectors on the disk.
    pub extent: Extent,
    /// Offset in the data of the object that holds the copy, in sectors.
    pub object_sector: u32,
    /// What was copied.
    pub from: Place,
}

/// One stored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Bytes it takes in the body.
    pub stored_len: u32,
    /// How it is compressed.
    pub codec: FrameCodec,
    /// Checksum of the stored bytes.
    pub sum: u64,
}

impl FrameRef {
    /// Checks a stored frame that was read.
    ///
    /// # Errors
    /// `BadChecksum` if it is not the frame that was written.
    pub fn verify(&self, stored: &[u8]) -> FormatResult<()> {
        let intact = stored.len() == self.stored_len as usize
            && xxhash_rust::xxh3::xxh3_64(stored) == self.sum;
        if intact { Ok(()) } else { Err(FormatError::BadChecksum) }
    }
}

/// The header of a data object; always consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataHeader {
    common: CommonHeader,
    frame_bytes: u32,
    extents: Vec<ObjectExtent>,
    frames: Vec<FrameRef>,
    /// Of each extent where its content comes from, if this is moved data.
    moved_from: Option<Vec<Place>>,
    logical_sectors: u32,
}

impl DataHeader {
    /// Puts a header together.
    ///
    /// # Errors
    /// `Invalid` if the extents are not in ascending order or overlap, if the frames do not fit
    /// them, or if the header would be too long.
    pub fn new(
        stamp: Stamp,
        frame_bytes: u32,
        extents: Vec<ObjectExtent>,
        frames: Vec<FrameRef>,
    ) -> FormatResult<Self> {
        Self::build(stamp, frame_bytes, extents, frames, None)
    }

    /// As [`Self::new`], for copies of what lies at `moved_from`, one place for each extent.
    ///
    /// # Errors
    /// As [`Self::new`]; also if there is a trim, or a place that is not in an older object.
    pub fn of_moved(
        stamp: Stamp,
        frame_bytes: u32,
        extents: Vec<ObjectExtent>,
        frames: Vec<FrameRef>,
        moved_from: Vec<Place>,
    ) -> FormatResult<Self> {
        Self::build(stamp, frame_bytes, extents, frames, Some(moved_from))
    }

    fn build(
        stamp: Stamp,
        frame_bytes: u32,
        extents: Vec<ObjectExtent>,
        frames: Vec<FrameRef>,
        moved_from: Option<Vec<Place>>,
    ) -> FormatResult<Self> {
        let kind = if moved_from.is_some() { ObjectKind::Moved } else { ObjectKind::Data };
        let body_len = frames.iter().map(|f| u64::from(f.stored_len)).sum();
        let common = CommonHeader { kind, clean: false, header_len: 0, body_len, stamp };
        let mut header = Self::checked(common, frame_bytes, extents, frames, moved_from)?;
        header.common.header_len = header_len(&header.encode_tables())?;
        Ok(header)
    }

    /// The header's bytes; the stored frames go after them.
    pub fn encode(&self) -> Vec<u8> {
        encode_with_tables(&self.common, &self.encode_tables())
    }

    /// Decodes the header; `bytes` are at least all of it.
    ///
    /// # Errors
    /// `Truncated` if [`super::peek`] says that the header is longer; whatever else makes it
    /// anything but a data object's.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let kind = if peek(bytes)?.kind == ObjectKind::Moved {
            ObjectKind::Moved
        } else {
            ObjectKind::Data
        };
        let (common, mut r) = decode_with_tables(bytes, kind)?;
        let frame_bytes = r.u32()?;
        let extents = decode_extents(&mut r)?;
        let frames = decode_frames(&mut r)?;
        let moved_from = match kind {
            ObjectKind::Moved => Some(decode_places(&mut r, common.stamp.seq, extents.len())?),
            _ => None,
        };
        r.finish()?;
        Self::checked(common, frame_bytes, extents, frames, moved_from)
    }

    fn checked(
        common: CommonHeader,
        frame_bytes: u32,
        extents: Vec<ObjectExtent>,
        frames: Vec<FrameRef>,
        moved_from: Option<Vec<Place>>,
    ) -> FormatResult<Self> {
        if !frame_bytes.is_power_of_two()
            || !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame_bytes)
        {
            return Err(FormatError::Invalid("the object's frame size is impossible"));
        }
        if !extents.is_sorted_by(|a, b| a.extent.end() <= b.extent.start()) {
            return Err(FormatError::Invalid("the object's extents are out of order or overlap"));
        }
        let logical_sectors = extents
            .iter()
            .filter(|e| e.kind == ExtentKind::Data)
            .try_fold(0u32, |sum, e| sum.checked_add(u32::try_from(e.extent.sectors()).ok()?))
            .ok_or(FormatError::Invalid("the object's extents hold too much data"))?;
        if let Some(places) = &moved_from
            && (places.is_empty()
                || places.len() != extents.len()
                || extents.iter().any(|e| e.kind == ExtentKind::Trim)
                || places.iter().any(|p| p.object >= common.stamp.seq))
        {
            return Err(FormatError::Invalid("the object says impossible things of moved data"));
        }
        let header = Self { common, frame_bytes, extents, frames, moved_from, logical_sectors };
        if header.frames.len() as u64 != header.logical_bytes().div_ceil(frame_bytes.into()) {
            return Err(FormatError::Invalid("the object's frames do not match its extents"));
        }
        let mut body_len = 0u64;
        for (index, frame) in header.frames.iter().enumerate() {
            let logical_len = header.frame_logical_len(index).unwrap_or(0);
            let stored_len_fits = match frame.codec {
                FrameCodec::Raw => frame.stored_len == logical_len,
                FrameCodec::Lz4 | FrameCodec::Zstd => (1..logical_len).contains(&frame.stored_len),
            };
            if !stored_len_fits {
                return Err(FormatError::Invalid("a frame's stored length is impossible"));
            }
            body_len = body_len.saturating_add(frame.stored_len.into());
        }
        if body_len != common.body_len {
            return Err(FormatError::Invalid("the object's body length does not match its frames"));
        }
        Ok(header)
    }

    /// The common part.
    pub fn common(&self) -> &CommonHeader {
        &self.common
    }

    /// Logical bytes of a frame; the last one may have fewer.
    pub fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// What the object changes, in ascending order.
    pub fn extents(&self) -> &[ObjectExtent] {
        &self.extents
    }

    /// The extents, those with data together with their place in logical space, in sectors.
    pub fn placements(&self) -> impl Iterator<Item = (Extent, Option<u32>)> + '_ {
        let mut next = 0u32;
        self.extents.iter().map(move |e| match e.kind {
            ExtentKind::Trim => (e.extent, None),
            ExtentKind::Data => {
                let at = next;
                // The sum of all fits; that was checked when the header was made.
                next = next.wrapping_add(e.extent.sectors() as u32);
                (e.extent, Some(at))
            }
        })
    }

    /// Of each extent where its content was before, if this object holds moved data.
    pub fn moved_from(&self) -> Option<&[Place]> {
        self.moved_from.as_deref()
    }

    /// The extents of an object with moved data, and where their content was and is.
    pub fn moved(&self) -> impl Iterator<Item = MovedExtent> + '_ {
        let places = self.moved_from.as_deref().unwrap_or_default();
        self.placements().zip(places).filter_map(|((extent, at), from)| {
            Some(MovedExtent { extent, object_sector: at?, from: *from })
        })
    }

    /// The stored frames, in order.
    pub fn frames(&self) -> &[FrameRef] {
        &self.frames
    }

    /// Size of the logical space in sectors.
    pub fn logical_sectors(&self) -> u32 {
        self.logical_sectors
    }

    fn logical_bytes(&self) -> u64 {
        u64::from(self.logical_sectors) * SECTOR_BYTES
    }

    /// Logical bytes of frame `index`; `None` if there is no such frame.
    pub fn frame_logical_len(&self, index: usize) -> Option<u32> {
        let start = (index as u64).checked_mul(self.frame_bytes.into())?;
        let left = self.logical_bytes().checked_sub(start).filter(|left| *left > 0)?;
        Some(left.min(self.frame_bytes.into()) as u32)
    }

    /// Where frame `index` is stored in the object; `None` if there is no such frame. Adds up
    /// the lengths of the frames before it.
    pub fn frame_range(&self, index: usize) -> Option<ByteRange> {
        let len = self.frames.get(index)?.stored_len;
        let offset = self.frames.iter().take(index).map(|f| u64::from(f.stored_len)).sum();
        self.common.body_range(offset, len.into())
    }

    fn encode_tables(&self) -> Vec<u8> {
        let places = self.moved_from.as_deref().unwrap_or_default();
        let bytes = 16 + self.extents.len() * 6 + self.frames.len() * 12 + places.len() * 6;
        let mut w = Writer::with_capacity(bytes);
        w.u32(self.frame_bytes);
        w.count(self.extents.len());
        let mut end = Lba::ZERO;
        for ObjectExtent { extent, kind } in &self.extents {
            w.varint(extent.start().since(end));
            // Extents are shorter than 2^54 sectors.
            w.varint(extent.sectors() << 1 | u64::from(*kind == ExtentKind::Trim));
            end = extent.end();
        }
        w.count(self.frames.len());
        for frame in &self.frames {
            w.varint(frame.stored_len.into());
            w.u8(frame.codec as u8);
            w.u64(frame.sum);
        }
        for place in places {
            w.varint(self.common.stamp.seq.since(place.object));
            w.varint(place.sector.into());
        }
        w.into_vec()
    }
}

fn decode_places(r: &mut Reader<'_>, holder: ObjectSeq, count: usize) -> FormatResult<Vec<Place>> {
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        let object = holder.get().checked_sub(r.varint()?);
        let object = object.ok_or(FormatError::Invalid("moved data comes from nowhere"))?;
        places.push(Place { object: ObjectSeq::new(object), sector: r.varint_u32()? });
    }
    Ok(places)
}

fn decode_extents(r: &mut Reader<'_>) -> FormatResult<Vec<ObjectExtent>> {
    let count = r.count(EXTENT_BYTES_MIN)?;
    let mut extents = Vec::with_capacity(count);
    let mut end = 0u64;
    for _ in 0..count {
        let gap = r.varint()?;
        let length_and_kind = r.varint()?;
        let extent = end
            .checked_add(gap)
            .and_then(|start| Extent::new(Lba::new(start), length_and_kind >> 1))
            .ok_or(FormatError::Invalid("an extent of the object is impossible"))?;
        let kind = if length_and_kind & 1 == 1 { ExtentKind::Trim } else { ExtentKind::Data };
        extents.push(ObjectExtent { extent, kind });
        end = extent.end().get();
    }
    Ok(extents)
}

fn decode_frames(r: &mut Reader<'_>) -> FormatResult<Vec<FrameRef>> {
    let count = r.count(FRAME_REF_BYTES_MIN)?;
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        frames.push(FrameRef {
            stored_len: r.varint_u32()?,
            codec: FrameCodec::from_raw(r.u8()?)?,
            sum: r.u64()?,
        });
    }
    Ok(frames)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::testing::{
        assert_damage_is_seen, assert_golden, reseal_object, scribble, stamp, with_tables,
    };

    fn extent(start: u64, sectors: u64, kind: ExtentKind) -> ObjectExtent {
        ObjectExtent { extent: Extent::new(Lba::new(start), sectors).unwrap(), kind }
    }

    fn frame(stored_len: u32, codec: FrameCodec) -> FrameRef {
        FrameRef { stored_len, codec, sum: 0x1122 + u64::from(stored_len) }
    }

    /// 216 sectors of data and a trim: a full frame and one of 45,056 bytes.
    fn example() -> DataHeader {
        let extents = vec![
            extent(8, 16, ExtentKind::Data),
            extent(100, 8, ExtentKind::Trim),
            extent(400, 200, ExtentKind::Data),
        ];
        let frames = vec![frame(30000, FrameCodec::Lz4), frame(45056, FrameCodec::Raw)];
        DataHeader::new(stamp(), FRAME_BYTES_DEFAULT, extents, frames).unwrap()
    }

    #[test]
    fn golden() {
        let bytes = example().encode();
        assert_golden(
            &bytes,
            "\
             4c5356444f424a31 0100000001000000 a600000004000000 4074d9da0cc41aed \
             0011223344556677 8899aabbccddeeff e803000000000000 0300000000000000 \
             a500000000000000 0000000000000000 e603000000000000 d12f010000000000 \
             0000200000000000 0068e5cf8b010000 3025010000000000 f5287fdfe8a5b34b \
             000001000308204c 11a402900302b0ea 0101528600000000 000080e0020022c1 \
             000000000000",
        );
        assert_eq!(DataHeader::decode(&bytes), Ok(example()));
    }

    /// The same data, moved there from two older objects.
    fn moved() -> DataHeader {
        let extents = vec![extent(8, 16, ExtentKind::Data), extent(400, 200, ExtentKind::Data)];
        let frames = vec![frame(30000, FrameCodec::Lz4), frame(45056, FrameCodec::Raw)];
        let place = |object, sector| Place { object: ObjectSeq::new(object), sector };
        let moved_from = vec![place(999, 0), place(3, 70_000)];
        DataHeader::of_moved(stamp(), FRAME_BYTES_DEFAULT, extents, frames, moved_from).unwrap()
    }

    #[test]
    fn golden_of_moved_data() {
        let bytes = moved().encode();
        assert_golden(
            &bytes,
            "\
             4c5356444f424a31 0100000002000000 ab00000004000000 c40a0a8db1fe55b7 \
             0011223344556677 8899aabbccddeeff e803000000000000 0300000000000000 \
             a500000000000000 0000000000000000 e603000000000000 d12f010000000000 \
             0000200000000000 0068e5cf8b010000 3025010000000000 3048ae93d80f8a52 \
             00000100020820f8 02900302b0ea0101 5286000000000000 80e0020022c10000 \
             000000000100e507 f0a204",
        );
        assert_eq!(DataHeader::decode(&bytes), Ok(moved()));
    }

    #[test]
    fn moved_data_comes_from_older_objects_and_is_no_trim() {
        let place = |object| Place { object: ObjectSeq::new(object), sector: 0 };
        let build = |kind, places| {
            DataHeader::of_moved(
                stamp(),
                FRAME_BYTES_DEFAULT,
                vec![extent(8, 1 << 7, kind)],
                vec![frame(65536, FrameCodec::Raw)],
                places,
            )
        };
        build(ExtentKind::Data, vec![place(999)]).expect("it is sound");
        build(ExtentKind::Data, vec![]).expect_err("no place");
        build(ExtentKind::Data, vec![place(1000)]).expect_err("it comes from itself");
        build(ExtentKind::Trim, vec![place(999)]).expect_err("a trim");
    }

    #[test]
    fn damage_is_seen() {
        assert_damage_is_seen(&example().encode(), DataHeader::decode);
    }

    #[test]
    fn places_are_as_drawn() {
        let header = example();
        let places: Vec<_> = header.placements().map(|(e, at)| (e.start().get(), at)).collect();
        assert_eq!(places, [(8, Some(0)), (100, None), (400, Some(16))]);
        assert_eq!(header.logical_sectors(), 216);
        let header_len = u64::from(header.common().header_len);
        assert_eq!(header.encode().len() as u64, header_len);
        assert_eq!(header.frame_range(0), ByteRange::new(header_len, 30000));
        assert_eq!(header.frame_range(1), ByteRange::new(header_len + 30000, 45056));
        assert_eq!(header.frame_range(2), None);
        assert_eq!(header.frame_logical_len(0), Some(65536));
        assert_eq!(header.frame_logical_len(1), Some(45056));
        assert_eq!(header.frame_logical_len(2), None);
        assert_eq!(header.common().body_len, 75056);
    }

    #[test]
    fn a_frame_is_verified() {
        let stored = b"stored";
        let sum = xxhash_rust::xxh3::xxh3_64(stored);
        let frame = FrameRef { stored_len: 6, codec: FrameCodec::Raw, sum };
        assert_eq!(frame.verify(stored), Ok(()));
        assert_eq!(frame.verify(b"storeD"), Err(FormatError::BadChecksum));
        assert_eq!(frame.verify(b"stored."), Err(FormatError::BadChecksum));
    }

    #[test]
    fn contradictions_are_refused() {
        let data = |start, sectors| extent(start, sectors, ExtentKind::Data);
        let raw = |len| frame(len, FrameCodec::Raw);
        let refused = [
            (FRAME_BYTES_MIN / 2, vec![data(0, 1)], vec![raw(512)]),
            (FRAME_BYTES_MAX * 2, vec![data(0, 1)], vec![raw(512)]),
            (FRAME_BYTES_MIN * 3, vec![data(0, 1)], vec![raw(512)]),
            (FRAME_BYTES_MIN, vec![data(1, 1), data(0, 1)], vec![raw(1024)]),
            (FRAME_BYTES_MIN, vec![data(0, 2), data(1, 2)], vec![raw(2048)]),
            (FRAME_BYTES_MIN, vec![data(0, 1)], vec![]),
            (FRAME_BYTES_MIN, vec![], vec![raw(512)]),
            (FRAME_BYTES_MIN, vec![data(0, 1)], vec![raw(512), raw(0)]),
            (FRAME_BYTES_MIN, vec![data(0, 1)], vec![raw(511)]),
            (FRAME_BYTES_MIN, vec![data(0, 1)], vec![frame(512, FrameCodec::Lz4)]),
            (FRAME_BYTES_MIN, vec![data(0, 1)], vec![frame(0, FrameCodec::Zstd)]),
            (FRAME_BYTES_MIN, vec![data(0, 1 << 32)], vec![raw(512)]),
        ];
        for (frame_bytes, extents, frames) in refused {
            let error = DataHeader::new(stamp(), frame_bytes, extents.clone(), frames)
                .expect_err("contradiction");
            assert!(matches!(error, FormatError::Invalid(_)), "{extents:?}: {error:?}");
        }
    }

    #[test]
    fn an_object_may_hold_nothing_or_only_trims() {
        for extents in [vec![], vec![extent(5, 1 << 50, ExtentKind::Trim)]] {
            let header = DataHeader::new(stamp(), FRAME_BYTES_DEFAULT, extents, vec![]).unwrap();
            assert_eq!(DataHeader::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn a_body_length_that_does_not_match_is_refused() {
        let mut bytes = example().encode();
        bytes[112] ^= 1;
        reseal_object(&mut bytes);
        DataHeader::decode(&bytes).expect_err("body length");
    }

    #[test]
    fn huge_counts_do_not_allocate() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let no_extents = [0, 0, 1, 0, 0];
        let of_extents = [&no_extents[..4], &huge[..]].concat();
        let of_frames = [&no_extents[..], &huge[..]].concat();
        for tables in [of_extents, of_frames] {
            let bytes = with_tables(&example().encode(), &tables);
            assert_eq!(DataHeader::decode(&bytes), Err(FormatError::Truncated));
        }
    }

    #[test]
    fn small_random_writes_cost_few_bytes() {
        let extents = (0..2048).map(|i| extent(i * 100_003, 8, ExtentKind::Data)).collect();
        let frames = vec![frame(65536, FrameCodec::Raw); 128];
        let header = DataHeader::new(stamp(), FRAME_BYTES_DEFAULT, extents, frames).unwrap();
        assert!(header.encode().len() < 12 << 10);
    }

    fn any_header() -> impl Strategy<Value = DataHeader> {
        let run = (0u64..1 << 30, 1u64..4096, any::<bool>());
        let frame_bits = 12u32..=20;
        (prop::collection::vec(run, 0..40), frame_bits, any::<u64>()).prop_map(
            |(runs, bits, sum)| {
                let mut next = 0;
                let mut extents = Vec::new();
                for (gap, sectors, is_data) in runs {
                    let kind = if is_data { ExtentKind::Data } else { ExtentKind::Trim };
                    extents.push(extent(next + gap, sectors, kind));
                    next += gap + sectors;
                }
                let bytes: u64 = extents
                    .iter()
                    .filter(|e| e.kind == ExtentKind::Data)
                    .map(|e| e.extent.bytes())
                    .sum();
                let frame_bytes = 1u32 << bits;
                let mut frames = Vec::new();
                let mut left = bytes;
                while left > 0 {
                    let len = left.min(frame_bytes.into());
                    let raw = sum >> (frames.len() % 64) & 1 == 0;
                    let (codec, stored) =
                        if raw { (FrameCodec::Raw, len) } else { (FrameCodec::Lz4, len / 2) };
                    frames.push(FrameRef { stored_len: stored as u32, codec, sum });
                    left -= len;
                }
                DataHeader::new(stamp(), frame_bytes, extents, frames).unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn headers_round_trip(header in any_header()) {
            prop_assert_eq!(DataHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn sealed_nonsense_is_refused_or_canonical(
            header in any_header(),
            changes in prop::collection::vec(any::<(usize, u8)>(), 1..4),
        ) {
            let mut bytes = header.encode();
            scribble(&mut bytes, crate::format::object_header::COMMON_BYTES, &changes);
            reseal_object(&mut bytes);
            if let Ok(decoded) = DataHeader::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }
    }
}
