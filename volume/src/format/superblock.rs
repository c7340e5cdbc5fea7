//! The superblock, `data/<uuid>/super`: what a volume is, and where its stream may be entered.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LSVDSUPR` |
//! | 8 | 4 | version |
//! | 12 | 4 | length of the whole superblock |
//! | 16 | 8 | checksum: xxh3 of bytes 24.., seeded with the xxh3 of bytes 0..16 |
//! | 24 | | sections, each: tag u16, length u32, content |
//!
//! | tag | section | content |
//! |---|---|---|
//! | 0x8001 | volume | uuid, generation u64, state u8, name text |
//! | 0x8002 | stream | size in bytes u64, epoch u64, committed u64, checkpoint, the one before it |
//! | 0x8003 | options | compression u8, sync_remote u8 |
//! | 0x0004 | attributes | mode u32, uid u32, gid u32, created u64, modified u64 (milliseconds since 1970) |
//! | 0x0005 | last host | text |
//! | 0x8006 | snapshots | see [`super::snapshot`]; absent if there are none |
//! | 0x8007 | bases | of a clone, the farthest first, likewise |
//! | 0x8008 | history | u64: what died after this number is kept; only if any is |
//!
//! A checkpoint is a byte 0, or a byte 1, its number and what it covers. Text is a length byte
//! and that many bytes of UTF-8.
//!
//! Sections are how later versions add to this one. Tag bit 15 says "must be understood": a
//! reader that does not know such a section refuses the volume. Other unknown sections are kept
//! as they are.

use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult, check_version};
use super::ids::ShortText;
use super::snapshot::{
    Base, Snapshot, decode_bases, decode_snapshots, encode_bases, encode_snapshots,
};
use crate::config::Compression;
use crate::units::{Epoch, ObjectSeq};

/// Longest superblock in bytes.
pub const SUPERBLOCK_BYTES_MAX: usize = 16 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"LSVDSUPR");
const VERSION: u32 = 1;
const START_BYTES: usize = 16;
const SECTIONS_OFFSET: usize = 24;

const MUST_UNDERSTAND: u16 = 1 << 15;
const TAG_VOLUME: u16 = MUST_UNDERSTAND | 1;
const TAG_STREAM: u16 = MUST_UNDERSTAND | 2;
const TAG_OPTIONS: u16 = MUST_UNDERSTAND | 3;
const TAG_ATTRS: u16 = 4;
const TAG_LAST_HOST: u16 = 5;
const TAG_SNAPSHOTS: u16 = MUST_UNDERSTAND | 6;
const TAG_BASES: u16 = MUST_UNDERSTAND | 7;
const TAG_HISTORY: u16 = MUST_UNDERSTAND | 8;

/// Owner, group, permission bits, and times of the volume's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileAttrs {
    /// Permission bits only.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of creation, in milliseconds since 1970.
    pub created_ms: u64,
    /// Time of the last change, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// Settings that stay with the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredOptions {
    /// How its frames are compressed.
    pub compression: Compression,
    /// Whether `fsync` waits for the store.
    pub sync_remote: bool,
}

/// A checkpoint that the stream may be entered at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    /// Its number.
    pub seq: ObjectSeq,
    /// The number that its map is exactly true for.
    pub covers: ObjectSeq,
}

/// Whether the volume is there to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// It is.
    Live,
    /// Its deletion has begun.
    Deleting,
}

/// A section that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    tag: u16,
    content: Vec<u8>,
}

/// What the store says of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The volume.
    pub volume: Uuid,
    /// Its name.
    pub name: ShortText,
    /// One higher in each superblock written, so that no two are equal.
    pub generation: u64,
    /// Whether it is there to be used.
    pub state: VolumeState,
    /// Its size.
    pub size_bytes: u64,
    /// Highest epoch known when this was written.
    pub epoch: Epoch,
    /// Highest number known committed when this was written.
    pub committed: ObjectSeq,
    /// The newest checkpoint.
    pub checkpoint: Option<CheckpointRef>,
    /// The one before it.
    pub previous_checkpoint: Option<CheckpointRef>,
    /// Settings that stay with the volume.
    pub options: StoredOptions,
    /// What its file looks like.
    pub attrs: FileAttrs,
    /// The host that opened it last for writing; empty if none did.
    pub last_host: ShortText,
    /// Points of its history that are kept, the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Where the history of a clone comes from, the farthest first.
    pub bases: Vec<Base>,
    /// What died after this number is kept as history, if anything is.
    pub history: Option<ObjectSeq>,
    /// What a later version added and this one may ignore; empty in a new superblock.
    pub unknown: Vec<Section>,
}

impl Superblock {
    /// The superblock's bytes.
    ///
    /// # Errors
    /// `Invalid` if it would be too long.
    pub fn encode(&self) -> FormatResult<Vec<u8>> {
        let mut sections = Writer::with_capacity(256);
        put_section(&mut sections, TAG_VOLUME, |w| {
            w.uuid(self.volume);
            w.u64(self.generation);
            w.u8(match self.state {
                VolumeState::Live => 0,
                VolumeState::Deleting => 1,
            });
            self.name.encode(w);
        });
        put_section(&mut sections, TAG_STREAM, |w| {
            w.u64(self.size_bytes);
            w.u64(self.epoch.get());
            w.u64(self.committed.get());
            put_checkpoint(w, self.checkpoint);
            put_checkpoint(w, self.previous_checkpoint);
        });
        put_section(&mut sections, TAG_OPTIONS, |w| {
            w.u8(match self.options.compression {
                Compression::None => 0,
                Compression::Lz4 => 1,
                Compression::Zstd => 2,
            });
            w.bool(self.options.sync_remote);
        });
        put_section(&mut sections, TAG_ATTRS, |w| {
            w.u32(self.attrs.mode);
            w.u32(self.attrs.uid);
            w.u32(self.attrs.gid);
            w.u64(self.attrs.created_ms);
            w.u64(self.attrs.modified_ms);
        });
        put_section(&mut sections, TAG_LAST_HOST, |w| self.last_host.encode(w));
        if !self.snapshots.is_empty() {
            put_section(&mut sections, TAG_SNAPSHOTS, |w| encode_snapshots(w, &self.snapshots));
        }
        if !self.bases.is_empty() {
            put_section(&mut sections, TAG_BASES, |w| encode_bases(w, &self.bases));
        }
        if let Some(since) = self.history {
            put_section(&mut sections, TAG_HISTORY, |w| w.u64(since.get()));
        }
        for Section { tag, content } in &self.unknown {
            put_section(&mut sections, *tag, |w| w.bytes(content));
        }

        let sections = sections.into_vec();
        let len = SECTIONS_OFFSET + sections.len();
        if len > SUPERBLOCK_BYTES_MAX {
            return Err(FormatError::Invalid("the superblock would be too long"));
        }
        let mut w = Writer::with_capacity(len);
        w.u64(MAGIC);
        w.u32(VERSION);
        w.u32(len as u32);
        w.u64(checksum_of(w.as_slice(), &sections));
        w.bytes(&sections);
        Ok(w.into_vec())
    }

    /// Decodes exactly `bytes`.
    ///
    /// # Errors
    /// `NewerVersion` and `UnknownSection` of an intact one that a later version wrote; whatever
    /// else makes the bytes anything but a superblock.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let mut found = Sections::default();
        let mut r = Reader::new(verified_sections(bytes)?);
        while r.remaining() > 0 {
            let tag = r.u16()?;
            let len = r.u32()?;
            found.add(tag, r.bytes(len as usize)?)?;
        }
        found.into_superblock()
    }
}

fn put_section(out: &mut Writer, tag: u16, content: impl FnOnce(&mut Writer)) {
    let mut w = Writer::default();
    content(&mut w);
    out.u16(tag);
    // A longer one makes the whole superblock too long, which is refused.
    out.u32(w.as_slice().len() as u32);
    out.bytes(w.as_slice());
}

fn put_checkpoint(w: &mut Writer, checkpoint: Option<CheckpointRef>) {
    w.bool(checkpoint.is_some());
    if let Some(CheckpointRef { seq, covers }) = checkpoint {
        w.u64(seq.get());
        w.u64(covers.get());
    }
}

fn checksum_of(start: &[u8], sections: &[u8]) -> u64 {
    xxh3_64_with_seed(sections, xxh3_64(start))
}

/// Checks everything that is the same in all versions.
fn verified_sections(bytes: &[u8]) -> FormatResult<&[u8]> {
    let (start, rest) = bytes.split_at_checked(START_BYTES).ok_or(FormatError::Truncated)?;
    let mut r = Reader::new(start);
    if r.u64()? != MAGIC {
        return Err(FormatError::BadMagic);
    }
    let version = r.u32()?;
    let len = r.u32()? as usize;
    if bytes.len() < len {
        return Err(FormatError::Truncated);
    }
    let (checksum, sections) = rest.split_first_chunk().ok_or(FormatError::Truncated)?;
    if bytes.len() != len || u64::from_le_bytes(*checksum) != checksum_of(start, sections) {
        return Err(FormatError::BadChecksum);
    }
    check_version(version, VERSION)?;
    Ok(sections)
}

/// The sections met so far.
#[derive(Default)]
struct Sections<'a> {
    volume: Option<&'a [u8]>,
    stream: Option<&'a [u8]>,
    options: Option<&'a [u8]>,
    attrs: Option<&'a [u8]>,
    last_host: Option<&'a [u8]>,
    snapshots: Option<&'a [u8]>,
    bases: Option<&'a [u8]>,
    history: Option<&'a [u8]>,
    unknown: Vec<Section>,
}

impl<'a> Sections<'a> {
    fn add(&mut self, tag: u16, content: &'a [u8]) -> FormatResult<()> {
        let place = match tag {
            TAG_VOLUME => &mut self.volume,
            TAG_STREAM => &mut self.stream,
            TAG_OPTIONS => &mut self.options,
            TAG_ATTRS => &mut self.attrs,
            TAG_LAST_HOST => &mut self.last_host,
            TAG_SNAPSHOTS => &mut self.snapshots,
            TAG_BASES => &mut self.bases,
            TAG_HISTORY => &mut self.history,
            _ if tag & MUST_UNDERSTAND != 0 => return Err(FormatError::UnknownSection(tag)),
            _ => {
                self.unknown.push(Section { tag, content: content.to_vec() });
                return Ok(());
            }
        };
        if place.replace(content).is_some() {
            return Err(FormatError::Invalid("the superblock has a section twice"));
        }
        Ok(())
    }

    fn into_superblock(self) -> FormatResult<Superblock> {
        let (volume, generation, state, name) = section(self.volume, |r| {
            Ok((r.uuid()?, r.u64()?, decode_state(r)?, ShortText::decode(r)?))
        })?;
        let (size_bytes, epoch, committed, checkpoint, previous_checkpoint) =
            section(self.stream, |r| {
                Ok((r.u64()?, r.u64()?, r.u64()?, decode_checkpoint(r)?, decode_checkpoint(r)?))
            })?;
        let options = section(self.options, |r| {
            Ok(StoredOptions { compression: decode_compression(r)?, sync_remote: r.bool()? })
        })?;
        let attrs = section(self.attrs, |r| {
            Ok(FileAttrs {
                mode: r.u32()?,
                uid: r.u32()?,
                gid: r.u32()?,
                created_ms: r.u64()?,
                modified_ms: r.u64()?,
            })
        })?;
        let last_host = section(self.last_host, ShortText::decode)?;
        let snapshots = self.snapshots.map(|s| section(Some(s), decode_snapshots)).transpose()?;
        let bases = self.bases.map(|s| section(Some(s), decode_bases)).transpose()?;
        let history = self.history.map(|s| section(Some(s), |r| r.u64())).transpose()?;
        Ok(Superblock {
            volume,
            name,
            generation,
            state,
            size_bytes,
            epoch: Epoch::new(epoch),
            committed: ObjectSeq::new(committed),
            checkpoint,
            previous_checkpoint,
            options,
            attrs,
            last_host,
            snapshots: snapshots.unwrap_or_default(),
            bases: bases.unwrap_or_default(),
            history: history.map(ObjectSeq::new),
            unknown: self.unknown,
        })
    }
}

/// Decodes all of a section that must be there.
fn section<T>(
    content: Option<&[u8]>,
    decode: impl FnOnce(&mut Reader<'_>) -> FormatResult<T>,
) -> FormatResult<T> {
    let content = content.ok_or(FormatError::Invalid("the superblock lacks a section"))?;
    let mut r = Reader::new(content);
    let value = decode(&mut r)?;
    r.finish()?;
    Ok(value)
}

fn decode_state(r: &mut Reader<'_>) -> FormatResult<VolumeState> {
    match r.u8()? {
        0 => Ok(VolumeState::Live),
        1 => Ok(VolumeState::Deleting),
        _ => Err(FormatError::Invalid("the superblock has an unknown state")),
    }
}

fn decode_compression(r: &mut Reader<'_>) -> FormatResult<Compression> {
    match r.u8()? {
        0 => Ok(Compression::None),
        1 => Ok(Compression::Lz4),
        2 => Ok(Compression::Zstd),
        _ => Err(FormatError::Invalid("the superblock has an unknown compression")),
    }
}

fn decode_checkpoint(r: &mut Reader<'_>) -> FormatResult<Option<CheckpointRef>> {
    if !r.bool()? {
        return Ok(None);
    }
    Ok(Some(CheckpointRef { seq: ObjectSeq::new(r.u64()?), covers: ObjectSeq::new(r.u64()?) }))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::testing::{UUID, assert_damage_is_seen, assert_golden, scribble};

    fn example() -> Superblock {
        Superblock {
            volume: UUID,
            name: ShortText::truncated("vm1.img"),
            generation: 12,
            state: VolumeState::Live,
            size_bytes: 10 << 30,
            epoch: Epoch::new(3),
            committed: ObjectSeq::new(40),
            checkpoint: Some(CheckpointRef { seq: ObjectSeq::new(39), covers: ObjectSeq::new(38) }),
            previous_checkpoint: None,
            options: StoredOptions { compression: Compression::Lz4, sync_remote: false },
            attrs: FileAttrs { mode: 0o640, uid: 107, gid: 108, created_ms: 1, modified_ms: 2 },
            last_host: ShortText::truncated("node1"),
            snapshots: vec![],
            bases: vec![],
            history: None,
            unknown: vec![],
        }
    }

    fn with_history() -> Superblock {
        let seq = ObjectSeq::new;
        let snapshot = Snapshot {
            id: 7,
            name: ShortText::truncated("monday"),
            created_ms: 5,
            size_bytes: 1 << 30,
            checkpoint: CheckpointRef { seq: seq(20), covers: seq(18) },
            at: seq(25),
            protected: true,
            for_clones: false,
            clones: vec![UUID],
        };
        let other = Snapshot { id: 8, for_clones: true, clones: vec![], ..snapshot.clone() };
        let far = Base { volume: UUID, snapshot: 3, at: seq(4), through: seq(6) };
        let near = Base { snapshot: 9, at: seq(11), through: seq(11), ..far };
        Superblock {
            snapshots: vec![snapshot, other],
            bases: vec![far, near],
            history: Some(ObjectSeq::new(17)),
            ..example()
        }
    }

    #[test]
    fn history_is_kept() {
        let bytes = with_history().encode().unwrap();
        assert_eq!(Superblock::decode(&bytes), Ok(with_history()));
        assert_damage_is_seen(&bytes, Superblock::decode);
    }

    #[test]
    fn impossible_history_is_refused() {
        let mut early = with_history();
        early.snapshots[0].at = ObjectSeq::new(17);
        Superblock::decode(&early.encode().unwrap()).expect_err("before its checkpoint");
        let mut circle = with_history();
        circle.bases.swap(0, 1);
        Superblock::decode(&circle.encode().unwrap()).expect_err("numbers that go back");
    }

    fn reseal(bytes: &mut [u8]) {
        let len = bytes.len() as u32;
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        let sum = checksum_of(&bytes[..START_BYTES], &bytes[SECTIONS_OFFSET..]);
        bytes[START_BYTES..SECTIONS_OFFSET].copy_from_slice(&sum.to_le_bytes());
    }

    fn with_section(tag: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = example().encode().unwrap();
        bytes.extend(tag.to_le_bytes());
        bytes.extend((content.len() as u32).to_le_bytes());
        bytes.extend(content);
        reseal(&mut bytes);
        bytes
    }

    #[test]
    fn golden() {
        let bytes = example().encode().unwrap();
        assert_golden(
            &bytes,
            "\
             4c53564453555052 01000000a5000000 e3c36c350a1b801c 0180210000000011 \
             2233445566778899 aabbccddeeff0c00 0000000000000007 766d312e696d6702 \
             802a000000000000 8002000000030000 0000000000280000 0000000000012700 \
             0000000000002600 0000000000000003 8002000000010004 001c000000a00100 \
             006b0000006c0000 0001000000000000 0002000000000000 0005000600000005 \
             6e6f646531",
        );
        assert_eq!(Superblock::decode(&bytes), Ok(example()));
    }

    #[test]
    fn damage_is_seen() {
        let mut bytes = example().encode().unwrap();
        assert_damage_is_seen(&bytes, Superblock::decode);
        bytes.push(0);
        Superblock::decode(&bytes).expect_err("too long");
    }

    #[test]
    fn unknown_sections_are_kept_or_refused() {
        let optional = with_section(0x0777, b"later");
        let decoded = Superblock::decode(&optional).unwrap();
        assert_eq!(decoded.unknown, [Section { tag: 0x0777, content: b"later".to_vec() }]);
        assert_eq!(decoded.encode(), Ok(optional));
        assert_eq!(
            Superblock::decode(&with_section(0x8777, b"later")),
            Err(FormatError::UnknownSection(0x8777))
        );
    }

    #[test]
    fn sections_are_there_once() {
        Superblock::decode(&with_section(TAG_LAST_HOST, &[0])).expect_err("twice");
        let mut bytes = example().encode().unwrap();
        bytes.truncate(SECTIONS_OFFSET);
        reseal(&mut bytes);
        Superblock::decode(&bytes).expect_err("none");
    }

    #[test]
    fn a_later_version_is_named() {
        let mut bytes = example().encode().unwrap();
        bytes[8] = 2;
        reseal(&mut bytes);
        assert_eq!(
            Superblock::decode(&bytes),
            Err(FormatError::NewerVersion { found: 2, known: 1 })
        );
    }

    proptest! {
        #[test]
        fn superblocks_round_trip(
            numbers in any::<[u64; 8]>(), name in ".{1,255}", deleting in any::<bool>(),
            has_checkpoint in any::<bool>(), compression in 0usize..3, sync_remote in any::<bool>(),
        ) {
            let [a, b, c, d, e, f, g, h] = numbers;
            let checkpoint = CheckpointRef { seq: ObjectSeq::new(a), covers: ObjectSeq::new(b) };
            let superblock = Superblock {
                name: ShortText::truncated(&name),
                generation: c,
                state: if deleting { VolumeState::Deleting } else { VolumeState::Live },
                size_bytes: d,
                epoch: Epoch::new(e),
                committed: ObjectSeq::new(f),
                checkpoint: has_checkpoint.then_some(checkpoint),
                previous_checkpoint: has_checkpoint.then_some(checkpoint),
                options: StoredOptions {
                    compression: [Compression::None, Compression::Lz4, Compression::Zstd]
                        [compression],
                    sync_remote,
                },
                attrs: FileAttrs { created_ms: g, modified_ms: h, ..example().attrs },
                ..example()
            };
            let bytes = superblock.encode().unwrap();
            prop_assert_eq!(Superblock::decode(&bytes), Ok(superblock));
        }

        #[test]
        fn sealed_nonsense_is_refused_or_sound(
            changes in prop::collection::vec(any::<(usize, u8)>(), 1..4),
        ) {
            let mut bytes = with_history().encode().unwrap();
            scribble(&mut bytes, SECTIONS_OFFSET, &changes);
            reseal(&mut bytes);
            if let Ok(decoded) = Superblock::decode(&bytes) {
                let again = decoded.encode().unwrap();
                prop_assert_eq!(Superblock::decode(&again), Ok(decoded));
            }
        }
    }
}
