//! Objects without a body: fences, which begin a writer's reign, and fillers, which take a
//! number so that a delayed create of a deposed writer cannot.
//!
//! | kind | tables in the header, after the common part |
//! |---|---|
//! | fence | length (u8) and text of the host's name |
//! | filler | none |

use super::codec::Writer;
use super::error::{FormatError, FormatResult};
use super::ids::{FenceId, ShortText};
use super::object_header::{
    CommonHeader, ObjectKind, Stamp, decode_with_tables, encode_with_tables, header_len,
};

/// A fence; its stamp's epoch is the one that it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceHeader {
    /// What its writer says.
    pub stamp: Stamp,
    /// Who made it.
    pub host: ShortText,
}

impl FenceHeader {
    /// Which fence this is.
    pub fn id(&self) -> FenceId {
        let Stamp { seq, epoch, nonce, .. } = self.stamp;
        FenceId { seq, epoch, nonce }
    }

    /// The whole object's bytes.
    pub fn encode(&self) -> FormatResult<Vec<u8>> {
        let mut w = Writer::default();
        self.host.encode(&mut w);
        encode_bodyless(ObjectKind::Fence, self.stamp, w.as_slice())
    }

    /// Decodes the object.
    ///
    /// # Errors
    /// Whatever makes the bytes anything but a fence.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let (common, mut r) = decode_with_tables(bytes, ObjectKind::Fence)?;
        let host = ShortText::decode(&mut r)?;
        r.finish()?;
        Ok(Self { stamp: bodyless(&common)?, host })
    }
}

/// A filler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FillerHeader {
    /// What its writer says.
    pub stamp: Stamp,
}

impl FillerHeader {
    /// The whole object's bytes.
    pub fn encode(&self) -> FormatResult<Vec<u8>> {
        encode_bodyless(ObjectKind::Filler, self.stamp, &[])
    }

    /// Decodes the object.
    ///
    /// # Errors
    /// Whatever makes the bytes anything but a filler.
    pub fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let (common, r) = decode_with_tables(bytes, ObjectKind::Filler)?;
        r.finish()?;
        Ok(Self { stamp: bodyless(&common)? })
    }
}

pub(super) fn encode_bodyless(
    kind: ObjectKind,
    stamp: Stamp,
    tables: &[u8],
) -> FormatResult<Vec<u8>> {
    let header_len = header_len(tables)?;
    let common = CommonHeader { kind, clean: false, header_len, body_len: 0, stamp };
    Ok(encode_with_tables(&common, tables))
}

pub(super) fn bodyless(common: &CommonHeader) -> FormatResult<Stamp> {
    if common.body_len == 0 {
        Ok(common.stamp)
    } else {
        Err(FormatError::Invalid("an object of this kind has no body"))
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::format::object_header::COMMON_BYTES;
    use crate::format::testing::{assert_damage_is_seen, assert_golden, reseal_object, stamp};

    fn fence() -> FenceHeader {
        FenceHeader { stamp: stamp(), host: ShortText::truncated("node1") }
    }

    #[test]
    fn golden() {
        let bytes = fence().encode().unwrap();
        assert_golden(&bytes[COMMON_BYTES..], "056e6f646531");
        assert_eq!(FenceHeader::decode(&bytes), Ok(fence()));
        assert_eq!(fence().id().epoch, stamp().epoch);
    }

    #[test]
    fn fillers_round_trip() {
        let filler = FillerHeader { stamp: stamp() };
        assert_eq!(FillerHeader::decode(&filler.encode().unwrap()), Ok(filler));
    }

    #[test]
    fn damage_is_seen() {
        assert_damage_is_seen(&fence().encode().unwrap(), FenceHeader::decode);
        let filler = FillerHeader { stamp: stamp() }.encode().unwrap();
        assert_damage_is_seen(&filler, FillerHeader::decode);
    }

    #[test]
    fn another_kind_or_a_body_is_refused() {
        let mut bytes = fence().encode().unwrap();
        FillerHeader::decode(&bytes).expect_err("a fence is no filler");
        bytes[112] = 1;
        reseal_object(&mut bytes);
        FenceHeader::decode(&bytes).expect_err("a fence with a body");
    }
}
