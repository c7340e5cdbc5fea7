//! A store in a directory: each object is a file, each segment of its key a directory.
//!
//! ```text
//!   <root>/volumes/alpha                   objects, complete and durable
//!   <root>/data/<uuid>/o/0000000000000001
//!   <root>/.tmp/gate                       lock: sessions begin and are cleaned up after
//!   <root>/.tmp/replace.7.lock             lock of some objects: compare-and-replace, against delete
//!   <root>/.tmp/3.live                     held locked while session 3 lives
//!   <root>/.tmp/3.17                       a file that session 3 is writing
//! ```
//!
//! Invariants, whatever is killed and wherever the power fails:
//! * a file outside `.tmp` is a whole object, its content durable before its name appeared;
//! * a call that returned `Ok` (or `AlreadyExists`) made durable every directory on the way;
//! * a file in `.tmp` is touched only by the session that it names, or, once that is dead, by
//!   the clean-up of the next opening.
//!
//! Several processes may use one directory, also on a network file system that knows `flock`.
//! Every durability step has a name, see [`FAILPOINTS`].
//!
//! What to wait for and what not: a full disk (`ENOSPC`, `EDQUOT`) is `Unavailable`, for room
//! can be made and then the writer goes on; so are `EIO`, too many open files and whatever else
//! may pass. Permissions, a read-only file system, a name too long or a directory in the
//! way are `Refused`. Keys below `.tmp` are refused, too, and so is a key of which another one is a
//! whole leading part (`a` beside `a/b`).

mod content;
mod failpoint;
mod listing;
mod root;
mod session;
mod step_error;
mod write;

use std::fmt;
use std::fs::File;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

pub use failpoint::{FAILPOINTS, FailpointHook};

use crate::{
    ByteRange, Front, Key, ListPage, ObjectMeta, ObjectStore, StoreError, StoreResult, Version,
};
use failpoint::Failpoints;
use root::Root;
use session::Session;
use step_error::StepError;
use write::KnownDirs;

/// The directory below the root that holds everything which is no object.
const PRIVATE_DIR: &str = ".tmp";

/// An object store in a local (or mounted) directory.
pub struct DirStore {
    url: String,
    root: Root,
    /// Why nothing can be written here, where that is so.
    session: Result<Session, Errno>,
    known_dirs: KnownDirs,
    failpoints: Failpoints,
}

impl DirStore {
    /// Opens the directory at `path`, making it first if `create` is set and its parent exists,
    /// and removes what dead processes left half written.
    ///
    /// Where the directory cannot be written to, the store can still be read.
    ///
    /// # Errors
    /// `Refused` if there is no such directory or it may not be used, `Unavailable` on I/O errors.
    pub fn open(path: impl AsRef<Path>, create: bool) -> StoreResult<Self> {
        let path = path.as_ref();
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let shown = absolute.display().to_string();
        let url = format!("file://{shown}");
        let failed = |error: StepError| error.into_store_error(&url, "open", &shown);
        let root = Root::open(path, create).map_err(failed)?;
        let session = match Session::start(&root) {
            Ok(session) => Ok(session),
            Err(error) if error.is_refusal() => {
                log::info!("{url}: read-only: {error}");
                Err(error.errno())
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            url,
            root,
            session,
            known_dirs: KnownDirs::default(),
            failpoints: Failpoints::default(),
        })
    }

    /// Calls `hook` at each durability step. Once it fails, the store behaves as a killed
    /// process: nothing more is done, nothing is tidied up, and all later calls fail.
    #[must_use]
    pub fn with_failpoints(mut self, hook: FailpointHook) -> Self {
        self.failpoints = Failpoints::new(hook);
        self
    }

    /// Runs one operation on an object and gives its errors the store's words.
    fn on_object<T>(
        &self,
        operation: &'static str,
        key: &Key,
        run: impl FnOnce() -> Result<T, StepError>,
    ) -> StoreResult<T> {
        let checked = if is_private(key.as_str()) {
            Err(StepError::refused("use private name", key.as_str()))
        } else {
            self.failpoints.check_alive()
        };
        checked.and_then(|()| run()).map_err(|error| match error.errno() {
            // In a create the missing thing is a directory that somebody took away.
            Errno::NOENT if operation != "create" && error.is_about(key.as_str()) => {
                StoreError::not_found(&self.url, key)
            }
            _ => error.into_store_error(&self.url, operation, key.as_str()),
        })
    }

    /// The file of an object and its size.
    fn open_object(&self, key: &Key) -> Result<(File, u64), StepError> {
        let file = self.root.open_file(key.as_str())?;
        let size = self.root.file_size(&file, key.as_str())?;
        Ok((file, size))
    }

    /// The bytes `start..start + len` of an object, known to have them.
    fn read(&self, file: &File, key: &Key, start: u64, len: u64) -> Result<Vec<u8>, StepError> {
        let fail = |errno| StepError::new("read", self.root.full(key.as_str()), errno);
        let len = usize::try_from(len).map_err(|_| fail(Errno::FBIG))?;
        let mut bytes = Vec::new();
        // Asked for politely: a damaged or foreign file may claim any size.
        bytes.try_reserve_exact(len).map_err(|_| fail(Errno::NOMEM))?;
        while bytes.len() < len {
            let at = start + bytes.len() as u64;
            match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
                // The file shrank: nobody may do that to an object.
                Ok(0) => return Err(fail(Errno::IO)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn read_whole(&self, key: &Key) -> Result<Vec<u8>, StepError> {
        let (file, size) = self.open_object(key)?;
        self.read(&file, key, 0, size)
    }
}

impl ObjectStore for DirStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn create(&self, key: &Key, parts: &[std::io::IoSlice<'_>]) -> StoreResult<()> {
        let is_new = self.on_object("create", key, || self.create_file(key, parts))?;
        if is_new { Ok(()) } else { Err(StoreError::already_exists(&self.url, key)) }
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        let is_done = self.on_object("replace", key, || self.replace_file(key, body, expected))?;
        if is_done {
            Ok(Version::of_content(body))
        } else {
            Err(StoreError::precondition(&self.url, key))
        }
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        let body = self.on_object("read", key, || self.read_whole(key))?;
        let version = Version::of_content(&body);
        Ok((body, version))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        let (file, size) = self.on_object("read", key, || self.open_object(key))?;
        if range.end() > size {
            return Err(StoreError::out_of_range(&self.url, key, size, range));
        }
        self.on_object("read", key, || self.read(&file, key, range.start(), range.len()))
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        self.on_object("read", key, || {
            let (file, size) = self.open_object(key)?;
            Ok(Front { bytes: self.read(&file, key, 0, limit.min(size))?, size })
        })
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        let size = self.on_object("look at", key, || self.root.object_size(key.as_str()))?;
        Ok(ObjectMeta { key: key.clone(), size })
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        self.failpoints
            .check_alive()
            .and_then(|()| listing::list(&self.root, prefix, after, limit))
            .map_err(|error| error.into_store_error(&self.url, "list", prefix))
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        self.on_object("delete", key, || self.delete_file(key))
    }
}

impl Drop for DirStore {
    fn drop(&mut self) {
        if let (Ok(session), false) = (&self.session, self.failpoints.is_killed()) {
            session.end(&self.root);
        }
    }
}

impl fmt::Debug for DirStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirStore")
            .field("url", &self.url)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// Whether a key or a directory of keys lies in the part of the root that holds no objects.
fn is_private(path: &str) -> bool {
    path.split('/').next() == Some(PRIVATE_DIR)
}
