//! The header of any object of the stream.

use super::checkpoint::CheckpointHeader;
use super::data_object::DataHeader;
use super::error::FormatResult;
use super::fence::{FenceHeader, FillerHeader};
use super::object_header::{ObjectKind, Stamp, peek};
use super::shared_object::SharedHeader;

/// A decoded header, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectHeader {
    /// Writes and trims, or data that was moved.
    Data(DataHeader),
    /// The map.
    Checkpoint(CheckpointHeader),
    /// The beginning of a reign.
    Fence(FenceHeader),
    /// Nothing but its number.
    Filler(FillerHeader),
    /// Data that other objects hold.
    Shared(SharedHeader),
}

impl ObjectHeader {
    /// Decodes a header; `bytes` are at least all of it.
    ///
    /// # Errors
    /// `Truncated` if [`peek`] says that the header is longer; whatever else makes it anything
    /// but an object's header.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        Ok(match peek(bytes)?.kind {
            ObjectKind::Data | ObjectKind::Moved => Self::Data(DataHeader::decode(bytes)?),
            ObjectKind::Checkpoint => Self::Checkpoint(CheckpointHeader::decode(bytes)?),
            ObjectKind::Fence => Self::Fence(FenceHeader::decode(bytes)?),
            ObjectKind::Filler => Self::Filler(FillerHeader::decode(bytes)?),
            ObjectKind::Shared => Self::Shared(SharedHeader::decode(bytes)?),
        })
    }

    /// What its writer says.
    pub fn stamp(&self) -> &Stamp {
        match self {
            Self::Data(header) => &header.common().stamp,
            Self::Checkpoint(header) => &header.stamp,
            Self::Fence(header) => &header.stamp,
            Self::Filler(header) => &header.stamp,
            Self::Shared(header) => header.stamp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::error::FormatError;
    use crate::format::ids::ShortText;
    use crate::format::testing::stamp;
    use crate::format::{Holder, Place, SharedExtent};
    use crate::units::{Extent, Lba, ObjectSeq};

    fn shared() -> SharedHeader {
        let object = ObjectSeq::new(7);
        let extent = Extent::new(Lba::new(8), 16).unwrap();
        let holder = Holder { object, data_sectors: 16, stored_bytes: 9000 };
        let extents = vec![SharedExtent { extent, from: Place { object, sector: 0 } }];
        SharedHeader::new(stamp(), vec![holder], extents).unwrap()
    }

    #[test]
    fn every_kind_is_told_apart() {
        let headers = [
            ObjectHeader::Data(DataHeader::new(stamp(), 4096, vec![], vec![]).unwrap()),
            ObjectHeader::Checkpoint(CheckpointHeader {
                stamp: stamp(),
                clean: false,
                covers: ObjectSeq::ZERO,
                sectors: 0,
                is_rollback: false,
                leaves: vec![],
                fences: vec![],
                objects: vec![],
                body_len: 0,
            }),
            ObjectHeader::Fence(FenceHeader { stamp: stamp(), host: ShortText::default() }),
            ObjectHeader::Filler(FillerHeader { stamp: stamp() }),
            ObjectHeader::Shared(shared()),
        ];
        for header in headers {
            let bytes = match &header {
                ObjectHeader::Data(header) => header.encode(),
                ObjectHeader::Checkpoint(header) => header.encode().unwrap(),
                ObjectHeader::Fence(header) => header.encode().unwrap(),
                ObjectHeader::Filler(header) => header.encode().unwrap(),
                ObjectHeader::Shared(header) => header.encode().unwrap(),
            };
            assert_eq!(header.stamp(), &stamp());
            assert_eq!(ObjectHeader::decode(&bytes), Ok(header));
        }
        assert_eq!(ObjectHeader::decode(&[0; 128]), Err(FormatError::BadMagic));
    }
}
