//! The trait that every backend implements and every decorator wraps.

use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;

use crate::{Key, Requests, StoreResult};

/// A half-open range of bytes of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `start..start + len`; `None` if that overflows.
    pub fn new(start: u64, len: u64) -> Option<Self> {
        Some(Self { start, end: start.checked_add(len)? })
    }

    /// First byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// One past the last byte.
    pub fn end(self) -> u64 {
        self.end
    }

    /// Number of bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Opaque token of one version of an object's content (an ETag, a content hash, …).
/// Two versions with equal tokens have equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

impl Version {
    /// The version of `content` in stores that have none of their own: its xxh3-128 in hex.
    pub(crate) fn of_content(content: &[u8]) -> Self {
        Self(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(content)))
    }
}

/// What [`ObjectStore::head`] and a listing tell about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The object.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
}

/// How an object begins, and how long it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
}

/// One page of a listing, in ascending byte order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects of this page.
    pub objects: Vec<ObjectMeta>,
    /// Whether a further page may follow; ask for it with `after` = the last key of this one.
    /// A truncated page is never empty.
    pub truncated: bool,
}

/// A flat store of immutable-by-convention objects.
///
/// All calls block. All may be made from several threads at once. A call that returned `Ok`
/// is durable: it survives the loss of power on the store's side.
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// The store's URL, for messages.
    fn url(&self) -> &str;

    /// What tells this store from all others: the URL, and whatever else says where it is, such as
    /// the address of the service. The same for as long as the store stays where it is.
    fn identity(&self) -> &str {
        self.url()
    }

    /// Creates `key` with the concatenation of `parts`, atomically, only if it does not exist.
    /// Of several concurrent creates of one key exactly one succeeds.
    ///
    /// # Errors
    /// `AlreadyExists` if the key is taken: by somebody else, or by an earlier attempt of the same
    /// create whose reply was lost. No store can tell these apart, so the caller compares a nonce.
    /// The object found is as durable as if this call had made it. After any other error the
    /// object may or may not exist, now or later.
    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()>;

    /// Replaces `key` atomically if its current version is `expected`; returns the new version.
    ///
    /// # Errors
    /// `Precondition` if the version differs, `NotFound` if there is no such object. As with
    /// `create`, a replace that is tried again may meet its own earlier attempt.
    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version>;

    /// The whole object and its version.
    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)>;

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    /// `OutOfRange` if the object ends before `range` does.
    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>>;

    /// The first `limit` bytes of the object, or all of a shorter one, and its size.
    ///
    /// By default a `head` and a `get_range`: two requests. Stores should need one.
    ///
    /// # Errors
    /// `NotFound` if there is no such object.
    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        let size = self.head(key)?.size;
        let range = ByteRange { start: 0, end: limit.min(size) };
        Ok(Front { bytes: self.get_range(key, range)?, size })
    }

    /// Size of the object, without its content.
    fn head(&self, key: &Key) -> StoreResult<ObjectMeta>;

    /// Up to `limit` objects whose keys start with `prefix` (any string, not only whole
    /// segments) and are greater than `after`, in ascending order. A store may return fewer than
    /// `limit` and say `truncated`; a `limit` of 0 counts as 1.
    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage>;

    /// Deletes the object; a missing one is no error.
    fn delete(&self, key: &Key) -> StoreResult<()>;

    /// Deletes all of `keys`, in as few requests as the store allows. After an error any of them
    /// may be gone.
    fn delete_many(&self, keys: &[Key]) -> StoreResult<()> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// How many requests [`ObjectStore::delete_many`] makes for so many keys.
    fn requests_to_delete(&self, keys: usize) -> u64 {
        keys as u64
    }

    /// The requests made so far beyond one for each call (and those of
    /// [`ObjectStore::requests_to_delete`]), where the store counts them.
    fn further_requests(&self) -> Requests {
        Requests::default()
    }
}

/// A shared store is a store, so that decorators can wrap an `Arc<dyn ObjectStore>`.
impl<S: ObjectStore + ?Sized> ObjectStore for Arc<S> {
    fn url(&self) -> &str {
        (**self).url()
    }

    fn identity(&self) -> &str {
        (**self).identity()
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        (**self).create(key, parts)
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        (**self).replace(key, body, expected)
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        (**self).get(key)
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        (**self).get_range(key, range)
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        (**self).get_front(key, limit)
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        (**self).head(key)
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        (**self).list(prefix, after, limit)
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        (**self).delete(key)
    }

    fn delete_many(&self, keys: &[Key]) -> StoreResult<()> {
        (**self).delete_many(keys)
    }

    fn requests_to_delete(&self, keys: usize) -> u64 {
        (**self).requests_to_delete(keys)
    }

    fn further_requests(&self) -> Requests {
        (**self).further_requests()
    }
}
