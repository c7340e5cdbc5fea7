//! What can go wrong in a store, in terms that a caller can act on.

use std::time::Duration;

use crate::{ByteRange, Key};

/// The result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// Boxed cause of a [`StoreError`].
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The cause of an `Unavailable` where the store said for how long.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct Later {
    /// What the store asked for; whoever waits bounds it.
    pub(crate) after: Duration,
    /// The cause itself.
    pub(crate) source: Source,
}

/// Why an operation on an object store failed. Each variant names the object and the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object does not exist.
    #[error("{store}: object {key} does not exist")]
    NotFound {
        /// The store's URL.
        store: String,
        /// The object.
        key: Key,
    },
    /// [`crate::ObjectStore::create`] found the key taken.
    #[error("{store}: object {key} exists already")]
    AlreadyExists {
        /// The store's URL.
        store: String,
        /// The object.
        key: Key,
    },
    /// [`crate::ObjectStore::replace`] found another version than the one expected.
    #[error("{store}: object {key} was changed by somebody else")]
    Precondition {
        /// The store's URL.
        store: String,
        /// The object.
        key: Key,
    },
    /// A ranged read went past the end of the object.
    #[error("{store}: object {key} is {size} bytes, cannot read {start}..{end}")]
    OutOfRange {
        /// The store's URL.
        store: String,
        /// The object.
        key: Key,
        /// The object's size in bytes.
        size: u64,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
    },
    /// The store did not answer, or answered that it cannot just now. Trying again may help.
    /// A write that ends this way is *indeterminate*: it may have happened, or may still happen.
    #[error("{store}: cannot {operation} {key}: {source}")]
    Unavailable {
        /// The store's URL.
        store: String,
        /// The object, or the prefix of a listing.
        key: String,
        /// What was tried: `create`, `read`, `list`…
        operation: &'static str,
        /// The backend's own error.
        source: Source,
    },
    /// The store refused: permissions, a limit, bad configuration. Trying again does not help.
    /// A store that is merely full is `Unavailable`: room can be made, and then it goes on.
    #[error("{store}: cannot {operation} {key}: {source}")]
    Refused {
        /// The store's URL.
        store: String,
        /// The object, or the prefix of a listing.
        key: String,
        /// What was tried: `create`, `read`, `list`…
        operation: &'static str,
        /// The backend's own error.
        source: Source,
    },
    /// The URL or its options make no sense.
    #[error("store URL {url:?}: {reason}")]
    BadUrl {
        /// What the user gave.
        url: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same operation may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }

    /// How long the store asked to be left alone, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            StoreError::Unavailable { source, .. } => {
                source.downcast_ref::<Later>().map(|later| later.after)
            }
            _ => None,
        }
    }

    /// Whether the object is missing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::NotFound { .. })
    }

    /// Whether a create lost against an existing object.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, StoreError::AlreadyExists { .. })
    }

    pub(crate) fn not_found(store: &str, key: &Key) -> Self {
        let (store, key) = (store.to_owned(), key.clone());
        StoreError::NotFound { store, key }
    }

    pub(crate) fn already_exists(store: &str, key: &Key) -> Self {
        let (store, key) = (store.to_owned(), key.clone());
        StoreError::AlreadyExists { store, key }
    }

    pub(crate) fn precondition(store: &str, key: &Key) -> Self {
        let (store, key) = (store.to_owned(), key.clone());
        StoreError::Precondition { store, key }
    }

    pub(crate) fn out_of_range(store: &str, key: &Key, size: u64, range: ByteRange) -> Self {
        StoreError::OutOfRange {
            store: store.to_owned(),
            key: key.clone(),
            size,
            start: range.start(),
            end: range.end(),
        }
    }
}
