//! Names of volumes and of snapshots.

use std::fmt;

use crate::error::{Error, Result};

/// A name that a volume or a snapshot can have: 1 to 255 bytes, no `/` or `@`, no control character, no
/// dot first.
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
        Self::checked("volume", text, flaw_of(text))
    }

    /// As [`Self::new`], for the name of a snapshot, which must not look like a moment either.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_snapshot(text: &str) -> Result<Self> {
        let is_moment = text.starts_with(['#', '{']);
        let moment = "it must not begin with '#' or '{', which set off moments";
        Self::checked("snapshot", text, flaw_of(text).or(is_moment.then_some(moment)))
    }

    fn checked(kind: &'static str, text: &str, flaw: Option<&'static str>) -> Result<Self> {
        match flaw {
            None => Ok(Self(text.into())),
            Some(reason) => Err(Error::BadName { kind, name: text.to_owned(), reason }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What keeps `text` from being a name.
fn flaw_of(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > VolumeName::BYTES_MAX {
        Some("it is longer than 255 bytes")
    } else if text.contains('/') {
        Some("it must not contain '/'")
    } else if text.contains('@') {
        Some("it must not contain '@', which sets off snapshots")
    } else if text.starts_with('.') {
        Some("it must not begin with '.'")
    } else if text.chars().any(char::is_control) {
        Some("it must not contain control characters")
    } else {
        None
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

    #[test]
    fn a_snapshot_is_not_named_like_a_moment() {
        for bad in ["#4711", "{monday}", "a@b", ""] {
            let error = VolumeName::of_snapshot(bad).expect_err(bad).to_string();
            assert!(error.starts_with("snapshot name"), "{error}");
        }
        assert!(VolumeName::of_snapshot("a#1 {b}").is_ok());
    }
}
