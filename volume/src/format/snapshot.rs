//! Points of a volume's history that are kept, and where the history of a clone comes from.
//!
//! | encoding | field of a snapshot |
//! |---|---|
//! | u64 | its identity within the volume |
//! | text | name |
//! | u8 | 1: protected; 2: made for clones only |
//! | u64, u64 | time (milliseconds since 1970), size of the volume in bytes |
//! | u64, u64 | number of the checkpoint it is entered at, and what that covers |
//! | u64 | the last object of the stream that it contains |
//! | varint, uuids | its clones |
//!
//! | encoding | field of a base |
//! |---|---|
//! | uuid | the volume |
//! | u64 | identity of the snapshot there |
//! | u64 | the last object of it that counts |
//! | u64 | the last number that is the base's; the next one is the first of the clone's own |

use uuid::Uuid;

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult};
use super::ids::ShortText;
use super::superblock::CheckpointRef;
use crate::units::ObjectSeq;

const PROTECTED: u8 = 1;
const FOR_CLONES: u8 = 2;

const SNAPSHOT_BYTES_MIN: usize = 51;
const BASE_BYTES: usize = 40;

/// A point of a volume's history that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identity within the volume; never given again.
    pub id: u64,
    /// Its name.
    pub name: ShortText,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Size of the volume then.
    pub size_bytes: u64,
    /// The checkpoint that it is entered at.
    pub checkpoint: CheckpointRef,
    /// The last object of the stream that it contains.
    pub at: ObjectSeq,
    /// Whether it must not be deleted.
    pub protected: bool,
    /// Whether it goes with its last clone.
    pub for_clones: bool,
    /// Volumes whose history begins with it.
    pub clones: Vec<Uuid>,
}

/// Where the history of a clone comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The volume.
    pub volume: Uuid,
    /// The snapshot there.
    pub snapshot: u64,
    /// The last object of it that counts.
    pub at: ObjectSeq,
    /// The last number that is the base's.
    pub through: ObjectSeq,
}

impl Base {
    /// In the place of bases that are not needed any more: nobody has the numbers up to `through`.
    pub fn cut(through: ObjectSeq) -> Self {
        Self { volume: Uuid::nil(), snapshot: 0, at: through, through }
    }

    /// Whether nobody has its numbers.
    pub fn is_cut(&self) -> bool {
        self.volume.is_nil()
    }
}

impl Snapshot {
    /// The last number of the stream that may be needed to read it.
    pub fn through(&self) -> ObjectSeq {
        self.at.max(self.checkpoint.seq)
    }

    fn encode(&self, w: &mut Writer) {
        w.u64(self.id);
        self.name.encode(w);
        w.u8(if self.protected { PROTECTED } else { 0 }
            | if self.for_clones { FOR_CLONES } else { 0 });
        w.u64(self.created_ms);
        w.u64(self.size_bytes);
        w.u64(self.checkpoint.seq.get());
        w.u64(self.checkpoint.covers.get());
        w.u64(self.at.get());
        w.count(self.clones.len());
        self.clones.iter().for_each(|clone| w.uuid(*clone));
    }

    fn decode(r: &mut Reader<'_>) -> FormatResult<Self> {
        let (id, name, flags) = (r.u64()?, ShortText::decode(r)?, r.u8()?);
        let (created_ms, size_bytes) = (r.u64()?, r.u64()?);
        let seq = ObjectSeq::new(r.u64()?);
        let checkpoint = CheckpointRef { seq, covers: ObjectSeq::new(r.u64()?) };
        let at = ObjectSeq::new(r.u64()?);
        if flags & !(PROTECTED | FOR_CLONES) != 0 || at < checkpoint.covers {
            return Err(FormatError::Invalid("the superblock has an impossible snapshot"));
        }
        let clones = r.count(size_of::<Uuid>())?;
        Ok(Self {
            id,
            name,
            created_ms,
            size_bytes,
            checkpoint,
            at,
            protected: flags & PROTECTED != 0,
            for_clones: flags & FOR_CLONES != 0,
            clones: (0..clones).map(|_| r.uuid()).collect::<FormatResult<_>>()?,
        })
    }
}

pub(super) fn encode_snapshots(w: &mut Writer, snapshots: &[Snapshot]) {
    w.count(snapshots.len());
    snapshots.iter().for_each(|snapshot| snapshot.encode(w));
}

pub(super) fn decode_snapshots(r: &mut Reader<'_>) -> FormatResult<Vec<Snapshot>> {
    let count = r.count(SNAPSHOT_BYTES_MIN)?;
    (0..count).map(|_| Snapshot::decode(r)).collect()
}

pub(super) fn encode_bases(w: &mut Writer, bases: &[Base]) {
    w.count(bases.len());
    for base in bases {
        w.uuid(base.volume);
        w.u64(base.snapshot);
        w.u64(base.at.get());
        w.u64(base.through.get());
    }
}

/// Decodes the bases of a clone, the farthest first.
pub(super) fn decode_bases(r: &mut Reader<'_>) -> FormatResult<Vec<Base>> {
    let count = r.count(BASE_BYTES)?;
    let mut bases: Vec<Base> = Vec::with_capacity(count);
    for _ in 0..count {
        let (volume, snapshot) = (r.uuid()?, r.u64()?);
        let (at, through) = (ObjectSeq::new(r.u64()?), ObjectSeq::new(r.u64()?));
        let before = bases.last().map_or(ObjectSeq::ZERO, |base| base.through);
        if at > through || through <= before || through.get() == u64::MAX {
            return Err(FormatError::Invalid("the superblock has an impossible base"));
        }
        bases.push(Base { volume, snapshot, at, through });
    }
    Ok(bases)
}
