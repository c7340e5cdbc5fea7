//! Names of volumes.

use std::fmt;

use crate::error::{Error, Result};

/// A name that a volume can have: 1 to 255 bytes, no `/` or `@`, no control character, no dot first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct VolumeName(Box<str>);

impl VolumeName {
    /// Longest name in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Checks and wraps `text`.
    ///
    /// # Errors
    /// [`Error::BadName`], saying why.
    pub fn new(text: &str) -> Result<Self> {
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > Self::BYTES_MAX {
            "it is longer than 255 bytes"
        } else if text.contains('/') {
            "it must not contain '/'"
        } else if text.contains('@') {
            "it must not contain '@', which sets off snapshots"
        } else if text.starts_with('.') {
            "it must not begin with '.'"
        } else if text.chars().any(char::is_control) {
            "it must not contain control characters"
        } else {
            return Ok(Self(text.into()));
        };
        Err(Error::BadName { name: text.to_owned(), reason })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused() {
        for bad in ["", ".", "..", ".lsvd", "a/b", "a\nb", "a\0b", &"x".repeat(256)] {
            assert!(VolumeName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "disk 1", "größe", "a.b", &"x".repeat(255)] {
            assert!(VolumeName::new(good).is_ok(), "{good:?}");
        }
    }
}
