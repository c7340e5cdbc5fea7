//! The name of an object inside a store.

use std::borrow::Borrow;
use std::fmt;

/// A slash-separated object name, relative to the store's prefix.
///
/// Segments are non-empty, never `.` or `..`, and hold no NUL; a key therefore maps to a
/// path below a directory without escaping it. At most 1,000 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

/// A string that cannot be a [`Key`].
#[derive(Debug, thiserror::Error)]
#[error("not an object key: {0:?}")]
pub struct BadKey(String);

impl Key {
    /// Longest key in bytes.
    pub const BYTES_MAX: usize = 1000;

    /// Checks and wraps `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, BadKey> {
        let text = text.into();
        let well_formed = text.len() <= Self::BYTES_MAX
            && !text.contains('\0')
            && text.split('/').all(|s| !matches!(s, "" | "." | ".."));
        if well_formed { Ok(Self(text.into())) } else { Err(BadKey(text)) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets an ordered map of keys be searched by any text; the order of keys is that of their bytes.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_directory() {
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b"] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", "a/.b", "...", "+%?# ", "ä/ö"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn the_longest_key_is_a_thousand_bytes() {
        assert!(Key::new("k".repeat(Key::BYTES_MAX)).is_ok());
        assert!(Key::new("k".repeat(Key::BYTES_MAX + 1)).is_err());
    }
}
