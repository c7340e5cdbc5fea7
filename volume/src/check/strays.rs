//! Objects of a stream that has no superblock.

use std::sync::Arc;

use lsvd_store::ObjectStore;
use uuid::Uuid;

use super::Desk;
use super::listing::Listing;
use super::survey::{AT_ONCE, Looked, survey};
use crate::error::Result;
use crate::format::ObjectKind;
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// What is there of a volume without a superblock.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    /// Fences and fillers, and what cannot be read: they keep writers out that know nothing.
    pub(crate) guards: u64,
    /// All others.
    pub(crate) others: Vec<ObjectSeq>,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Whether a volume could be made of them. That takes a checkpoint, or the stream from its
    /// beginning on; without either nobody can ever have its map again.
    pub(crate) may_be_volume: bool,
}

/// Looks at the objects of the volume `uuid`.
pub(crate) fn look_at_strays(
    store: &Arc<dyn ObjectStore>,
    uuid: Uuid,
    desk: &Desk,
) -> Result<Strays> {
    desk.begin("looking at objects without a superblock", 0)?;
    let stream = Stream::new(Arc::clone(store), uuid);
    let listing = Listing::read(&stream, |objects| desk.done(objects as u64))?;
    let mut strays = Strays::default();
    for some in listing.after(ObjectSeq::ZERO).chunks(AT_ONCE) {
        let seqs: Vec<_> = some.iter().map(|(seq, _)| *seq).collect();
        let looked = survey(&stream, &seqs, |stream, seq| stream.peek(seq))?;
        for ((seq, bytes), looked) in some.iter().zip(looked) {
            let kind = match looked {
                Looked::Found((common, _)) => common.kind,
                Looked::Missing => continue,
                Looked::Damaged(_) => {
                    strays.guards += 1;
                    strays.may_be_volume |= *seq == ObjectSeq::new(1);
                    continue;
                }
            };
            strays.may_be_volume |= kind == ObjectKind::Checkpoint || *seq == ObjectSeq::new(1);
            match kind {
                ObjectKind::Fence | ObjectKind::Filler => strays.guards += 1,
                ObjectKind::Data
                | ObjectKind::Moved
                | ObjectKind::Shared
                | ObjectKind::Checkpoint => {
                    strays.others.push(*seq);
                    strays.bytes += bytes;
                }
            }
        }
        desk.done(some.len() as u64)?;
    }
    Ok(strays)
}
