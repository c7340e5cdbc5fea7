//! What can be wrong with encoded bytes.

use crate::error::Error;

/// The result of an encoding or decoding.
pub type FormatResult<T> = Result<T, FormatError>;

/// Why bytes could not be decoded, or values not encoded. It does not know where the bytes
/// came from: [`FormatError::of`] adds that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end too early.
    #[error("it ends too early")]
    Truncated,
    /// The bytes are of another format, or of none.
    #[error("its magic number is wrong")]
    BadMagic,
    /// Intact, but written by a later version of this program.
    #[error("its format version is {found}, known are versions up to {known}")]
    NewerVersion {
        /// The version found.
        found: u32,
        /// The latest version known.
        known: u32,
    },
    /// Intact, but of a kind that this version does not know.
    #[error("it is of kind {0}, which only a later version knows: use a newer lsvd-fuse")]
    UnknownKind(u8),
    /// Intact, but with a section that this version does not know and must not ignore.
    #[error(
        "it has a section {0:#06x}, which only a later version understands: use a newer lsvd-fuse"
    )]
    UnknownSection(u16),
    /// The bytes are not those that were written.
    #[error("its checksum is wrong")]
    BadChecksum,
    /// The values contradict each other, or exceed a limit.
    #[error("{0}")]
    Invalid(&'static str),
}

impl FormatError {
    /// The engine's error, saying that `what` (an object, a file) is the thing that is wrong.
    pub fn of(self, what: impl ToString) -> Error {
        match self {
            FormatError::NewerVersion { found, known } => {
                Error::NewerFormat { what: what.to_string(), found, known }
            }
            other => Error::damaged(what, other),
        }
    }
}

/// Refuses a version that an intact format has and this program does not know.
pub(super) const fn check_version(found: u32, known: u32) -> FormatResult<()> {
    match found {
        0 => Err(FormatError::Invalid("its format version is 0, which never was")),
        _ if found > known => Err(FormatError::NewerVersion { found, known }),
        _ => Ok(()),
    }
}
