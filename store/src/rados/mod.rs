//! A store in a pool of a Ceph cluster, through librados.
//!
//! ```text
//!   rados://pool/prefix
//!   <prefix>/<key>          an object: content, and the attributes lsvd.version and lsvd.entry
//!   <prefix>//<node>        index objects: which keys there are, in their omaps
//! ```
//! * **Create** is one write operation on the object's OSD: make it exclusively, write all of it,
//!   set its attributes. Either all of that happens or nothing; of several creates one wins.
//!   The key's entry in the index comes before it, so that nothing is ever there unlisted.
//! * **Replace** compares the attribute `lsvd.version` and writes all of the content and a new
//!   version in one operation. A version is a random UUID, new with each create and replace, so an
//!   object that was deleted and made again has another one.
//! * **Reads** bring content, size and version of one state of the object.
//! * **Listing** reads the index and asks for the size of each object it names, several at a time.
//!   An entry without an object is passed over.
//!
//! The pool has to be a replicated one, for erasure-coded pools have no omap. It may hold other
//! things and other stores. Whoever copies a store has to copy attributes and omaps, as
//! `rados export` and mirroring do.
//!
//! **Connecting** happens at the first operation, not when the store is opened: a daemon can start
//! while the cluster is away, and a process may fork before. An operation that cannot connect
//! within [`Timeouts::connect`](crate::Timeouts) says `Unavailable`, and the next one tries again.
//! librados follows a cluster that restarts or moves by itself; a client that the cluster has put
//! on its blocklist connects anew. That is safe, as whoever may write a volume is decided by its
//! fence objects, not by who is connected.
//!
//! Each request to an OSD ends within [`Timeouts::request`](crate::Timeouts), counted in whole
//! seconds, with `Unavailable` if the OSD did not answer. A write that ended so may still happen.
//! One operation is several requests: a create writes index entries before the object, a listing
//! asks for the size of each object.

mod cluster;
mod failure;
mod index;
mod link;
mod names;
mod target;
mod walk;

use std::ffi::{CStr, CString};
use std::fmt;
use std::io::IoSlice;

use rustix::io::Errno;
use uuid::Uuid;

use crate::parts::joined;
use crate::{
    ByteRange, Front, Key, ListPage, ObjectMeta, ObjectStore, StoreError, StoreOptions,
    StoreResult, Version, parallel,
};
use cluster::{Connection, WriteOp};
use failure::{Failure, Step};
use index::Index;
use link::Link;
use target::Target;
use walk::Walk;

/// Changes with every write of the object's content.
const VERSION: &CStr = c"lsvd.version";
/// The nonce of the object's entry in the index.
const ENTRY: &CStr = c"lsvd.entry";

/// How much of an object is read before its size is known.
const FIRST_READ_BYTES: usize = 64 << 10;
/// A longer range is allocated only once the object is known to be that long.
const RANGE_UNCHECKED_BYTES_MAX: u64 = 16 << 20;
/// No cluster takes larger objects, and librados counts in 32 bits.
const OBJECT_BYTES_MAX: usize = 1 << 30;
/// Objects whose sizes are asked for before the next part of the index is read.
const LIST_BATCH: usize = 512;

/// Objects below a prefix in a pool of a Ceph cluster.
pub struct RadosStore {
    url: String,
    /// The URL, and the namespace if there is one.
    identity: String,
    /// What the names of objects begin with: empty, or ends with a slash.
    name_prefix: String,
    index: Index,
    link: Link,
}

impl RadosStore {
    /// The store at `prefix`, a [`Key`] or empty, in `pool`. Slashes after it do not count.
    /// Nothing is connected to yet.
    ///
    /// # Errors
    /// `BadUrl` if a name cannot be one.
    pub fn new(pool: &str, prefix: &str, options: &StoreOptions) -> StoreResult<Self> {
        let prefix = prefix.trim_end_matches('/');
        let url = if prefix.is_empty() {
            format!("rados://{pool}")
        } else {
            format!("rados://{pool}/{prefix}")
        };
        let bad = |reason: String| StoreError::BadUrl { url: url.clone(), reason };
        if pool.is_empty() || pool.contains('/') {
            return Err(bad("it names no pool: write rados://pool/prefix".to_owned()));
        }
        let name_prefix = match Key::new(prefix) {
            _ if prefix.is_empty() => String::new(),
            Ok(prefix) => format!("{prefix}/"),
            Err(_) => {
                return Err(bad(format!(
                    "{prefix:?} cannot be a prefix: write names with single slashes between them, \
                     none of them . or .."
                )));
            }
        };
        let link = Link::new(Target::new(pool, options).map_err(bad)?);
        let identity = match &options.rados.namespace {
            Some(namespace) => format!("{url} in namespace {namespace}"),
            None => url.clone(),
        };
        Ok(Self { index: Index::new(prefix), url, identity, name_prefix, link })
    }

    /// Runs `act` on the object of `key`.
    fn on_object<T>(
        &self,
        key: &Key,
        act: impl FnOnce(&Connection, &CStr) -> Result<T, Errno>,
    ) -> Result<T, Failure> {
        let name = CString::new(format!("{}{key}", self.name_prefix))
            .map_err(|_| self.link.failed(Step::Object, Errno::INVAL))?;
        self.link.with(Step::Object, |connection| act(connection, &name))
    }

    /// `failure` of an `operation` that wants the object to be there.
    fn error(&self, operation: &'static str, key: &Key, failure: Failure) -> StoreError {
        if failure.is(Errno::NOENT) {
            StoreError::not_found(&self.url, key)
        } else {
            failure.into_store_error(&self.url, operation, key.as_str())
        }
    }

    fn create_object(&self, key: &Key, body: &[u8]) -> Result<(), Failure> {
        if body.len() > OBJECT_BYTES_MAX {
            return Err(self.link.failed(Step::Object, Errno::FBIG));
        }
        let nonce = random();
        self.index.announce(&self.link, key.as_str(), &nonce)?;
        let op = WriteOp::new()
            .create_exclusive()
            .write_full(body)
            .set_xattr(VERSION, nonce.as_bytes())
            .set_xattr(ENTRY, nonce.as_bytes());
        let created = self.on_object(key, |connection, name| connection.write(name, &op));
        if created.as_ref().is_err_and(|failure| failure.is(Errno::EXIST)) {
            // Only tidiness: left out, a delete of the object would leave the entry behind.
            if let Err(failure) = self.restore_entry(key, &nonce) {
                log::debug!("{}: index entry of {key}: {failure}", self.url);
            }
        }
        created
    }

    /// After a lost create: the entry is the other object's again.
    fn restore_entry(&self, key: &Key, mine: &str) -> Result<(), Failure> {
        let holder = self.on_object(key, |connection, name| connection.xattr(name, ENTRY))?;
        self.index.hand_over(&self.link, key.as_str(), mine, &holder)
    }

    fn delete_object(&self, key: &Key) -> Result<(), Failure> {
        let nonce = match self.on_object(key, |connection, name| connection.xattr(name, ENTRY)) {
            Ok(nonce) => Some(nonce),
            Err(failure) if failure.is(Errno::NOENT) => return Ok(()),
            // Not made by this program, so it has no entry either.
            Err(failure) if failure.is(Errno::NODATA) => None,
            Err(failure) => return Err(failure),
        };
        let op = WriteOp::new();
        let op = match &nonce {
            Some(nonce) => op.compare_xattr(ENTRY, nonce),
            None => op,
        };
        let op = op.remove();
        match self.on_object(key, |connection, name| connection.write(name, &op)) {
            Ok(()) => {}
            // Somebody else deleted it first, and may have made another one, which is not ours to
            // delete. In either case the object that was here is gone.
            Err(failure) if failure.is(Errno::NOENT) || failure.is(Errno::CANCELED) => {}
            Err(failure) => return Err(failure),
        }
        match nonce {
            Some(nonce) => self.index.withdraw(&self.link, key.as_str(), &nonce),
            None => Ok(()),
        }
    }

    /// The whole object and its version, of one moment.
    fn read_whole(&self, key: &Key) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let mut len = FIRST_READ_BYTES;
        loop {
            let read = |connection: &Connection, name: &CStr| {
                connection.read_and_xattr(name, len, VERSION)
            };
            let (read, version) = self.on_object(key, read)?;
            if read.bytes.len() as u64 == read.size {
                let version = version.ok_or(Errno::NODATA);
                let failed = |errno| self.link.failed(Step::Object, errno);
                return Ok((read.bytes, version.map_err(failed)?));
            }
            // Longer than thought, also where it grew between two rounds.
            len = usize::try_from(read.size)
                .ok()
                .filter(|size| *size <= OBJECT_BYTES_MAX && *size > len)
                .ok_or_else(|| self.link.failed(Step::Object, Errno::IO))?;
        }
    }

    fn size(&self, key: &Key) -> Result<u64, Failure> {
        self.on_object(key, |connection, name| connection.size(name))
    }

    /// The objects among `keys` that are there.
    fn metas(&self, keys: &[Key]) -> Result<Vec<ObjectMeta>, Failure> {
        let metas = parallel::map(keys, |key| match self.size(key) {
            Ok(size) => Ok(Some(ObjectMeta { key: key.clone(), size })),
            Err(failure) if failure.is(Errno::NOENT) => Ok(None),
            Err(failure) => Err(failure),
        })?;
        Ok(metas.into_iter().flatten().collect())
    }

    fn list_objects(&self, prefix: &str, after: &str, limit: usize) -> Result<ListPage, Failure> {
        let limit = limit.max(1);
        // One more shows whether there are more.
        let wanted = limit.saturating_add(1);
        let batch = wanted.min(LIST_BATCH);
        let mut walk = Walk::new(prefix, after, |node: &_, after: &[u8], filter: &[u8]| {
            self.index.entries(&self.link, node, after, filter, batch)
        });
        let mut objects: Vec<ObjectMeta> = Vec::new();
        while objects.len() < wanted {
            let count = batch.min(wanted - objects.len());
            let mut candidates = Vec::new();
            while candidates.len() < count
                && let Some(text) = walk.next()?
            {
                match String::from_utf8(text).map_err(drop).and_then(|t| Key::new(t).map_err(drop))
                {
                    Ok(key) => candidates.push(key),
                    Err(()) => log::debug!("{}: an entry of the index is no key", self.url),
                }
            }
            if candidates.is_empty() {
                break;
            }
            objects.extend(self.metas(&candidates)?);
        }
        let truncated = objects.len() > limit;
        objects.truncate(limit);
        Ok(ListPage { objects, truncated })
    }
}

impl ObjectStore for RadosStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        // An OSD stores one large piece better than many small ones.
        self.create_object(key, &joined(parts)).map_err(|failure| {
            if failure.is(Errno::EXIST) {
                StoreError::already_exists(&self.url, key)
            } else {
                failure.into_store_error(&self.url, "create", key.as_str())
            }
        })
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        let version = random();
        let op = WriteOp::new()
            .assert_exists()
            .compare_xattr(VERSION, expected.0.as_bytes())
            .write_full(body)
            .set_xattr(VERSION, version.as_bytes());
        let replaced = if body.len() > OBJECT_BYTES_MAX {
            Err(self.link.failed(Step::Object, Errno::FBIG))
        } else {
            self.on_object(key, |connection, name| connection.write(name, &op))
        };
        match replaced {
            Ok(()) => Ok(Version(version)),
            Err(failure) if failure.is(Errno::CANCELED) => {
                Err(StoreError::precondition(&self.url, key))
            }
            Err(failure) => Err(self.error("replace", key, failure)),
        }
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        let (bytes, version) =
            self.read_whole(key).map_err(|failure| self.error("read", key, failure))?;
        Ok((bytes, Version(String::from_utf8_lossy(&version).into_owned())))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        let failed = |failure| self.error("read", key, failure);
        if range.is_empty() || range.len() > RANGE_UNCHECKED_BYTES_MAX {
            let size = self.size(key).map_err(failed)?;
            if range.end() > size {
                return Err(StoreError::out_of_range(&self.url, key, size, range));
            }
        }
        let len = range.len() as usize;
        let read =
            self.on_object(key, |connection, name| connection.read(name, range.start(), len));
        let read = read.map_err(failed)?;
        if range.end() > read.size {
            return Err(StoreError::out_of_range(&self.url, key, read.size, range));
        }
        if read.bytes.len() != len {
            return Err(failed(self.link.failed(Step::Object, Errno::IO)));
        }
        Ok(read.bytes)
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        let failed = |failure| self.error("read", key, failure);
        let len = usize::try_from(limit).unwrap_or(OBJECT_BYTES_MAX).min(OBJECT_BYTES_MAX);
        let read = self.on_object(key, |connection, name| connection.read(name, 0, len));
        let read = read.map_err(failed)?;
        if read.bytes.len() as u64 != limit.min(read.size) {
            return Err(failed(self.link.failed(Step::Object, Errno::IO)));
        }
        Ok(Front { bytes: read.bytes, size: read.size })
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        let size = self.size(key).map_err(|failure| self.error("look at", key, failure))?;
        Ok(ObjectMeta { key: key.clone(), size })
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        self.list_objects(prefix, after.map_or("", Key::as_str), limit)
            .map_err(|failure| failure.into_store_error(&self.url, "list", prefix))
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        self.delete_object(key)
            .map_err(|failure| failure.into_store_error(&self.url, "delete", key.as_str()))
    }

    /// Several at a time.
    fn delete_many(&self, keys: &[Key]) -> StoreResult<()> {
        parallel::map(keys, |key| self.delete(key)).map(drop)
    }
}

impl fmt::Debug for RadosStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RadosStore").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A text that is never made twice.
fn random() -> String {
    Uuid::new_v4().simple().to_string()
}
