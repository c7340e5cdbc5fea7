//! Identities that appear in encoded bytes, and short text.

use std::fmt;

use uuid::Uuid;

use super::codec::{Reader, Writer};
use super::error::{FormatError, FormatResult};
use crate::units::{Epoch, ObjectSeq};

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name($raw);

        impl $name {
            /// Wraps a raw number.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The raw number.
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

identity! {
    /// A random number that no two attempts to write an object share.
    Nonce, u128, "32"
}
identity! {
    /// Identity of one log file, random at its creation.
    LogId, u128, "32"
}
identity! {
    /// Which store a log belongs to: a hash of the store's URL and prefix.
    StoreId, u64, "16"
}
identity! {
    /// The part of a volume's uuid that every log record carries.
    VolumeTag, u64, "16"
}

impl VolumeTag {
    /// The first eight bytes of `uuid`.
    pub const fn of(uuid: Uuid) -> Self {
        Self(((uuid.as_u128() >> 64) as u64).swap_bytes())
    }
}

/// Names one fence, and so one reign over the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FenceId {
    /// Its number in the stream.
    pub seq: ObjectSeq,
    /// The epoch that it began.
    pub epoch: Epoch,
    /// The nonce that its writer gave it.
    pub nonce: Nonce,
}

/// Text of at most [`ShortText::BYTES_MAX`] bytes: a host's or a volume's name.
///
/// Encoded as a length byte and that many bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct ShortText(Box<str>);

impl ShortText {
    /// Longest text in bytes.
    pub const BYTES_MAX: usize = u8::MAX as usize;

    /// Wraps `text`; `None` if it is too long.
    pub fn new(text: &str) -> Option<Self> {
        (text.len() <= Self::BYTES_MAX).then(|| Self(text.into()))
    }

    /// Wraps as many of the first characters of `text` as fit.
    pub fn truncated(text: &str) -> Self {
        let end = text.floor_char_boundary(Self::BYTES_MAX);
        Self(text.get(..end).unwrap_or_default().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        // Both constructors keep the length within a byte.
        w.u8(self.0.len() as u8);
        w.bytes(self.0.as_bytes());
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> FormatResult<Self> {
        let len = r.u8()?;
        let text = std::str::from_utf8(r.bytes(len.into())?)
            .map_err(|_| FormatError::Invalid("a text in it is not UTF-8"))?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::UUID;

    #[test]
    fn a_tag_is_the_first_bytes_of_the_uuid() {
        assert_eq!(VolumeTag::of(UUID).get().to_le_bytes(), UUID.as_bytes()[..8]);
    }

    #[test]
    fn text_is_cut_between_characters() {
        let long = "ä".repeat(200);
        assert_eq!(ShortText::new(&long), None);
        assert_eq!(ShortText::truncated(&long).as_str(), "ä".repeat(127));
        assert_eq!(ShortText::truncated("host").as_str(), "host");
    }

    #[test]
    fn text_must_be_utf8() {
        ShortText::decode(&mut Reader::new(&[1, 0xff])).expect_err("not UTF-8");
        assert_eq!(ShortText::decode(&mut Reader::new(&[2, b'a'])), Err(FormatError::Truncated));
    }
}
