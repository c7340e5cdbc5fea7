//! How objects come, change and go, durably. The order of the steps is the point.
//!
//! ```text
//! create    write temp -> sync it -> make + sync directories -> rename if free -> sync directory
//! replace   write temp -> sync it -> [lock: compare -> rename -> sync directory]
//! delete    [shared lock: unlink] -> sync directory
//! ```
//!
//! A name may appear only once the content is durable, and success may be told only once the
//! name is. The same holds for "it exists already": the caller may take the object for its own
//! earlier attempt, which was perhaps cut off before its last step, so that step is done again.

use std::collections::HashSet;
use std::io::IoSlice;

use parking_lot::Mutex;
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64;

use super::root::Lock;
use super::session::{Session, TempFile, private};
use super::step_error::StepError;
use super::{DirStore, failpoint};
use crate::{Key, Version};

/// Locks that keep two replaces, or a replace and a delete, of one object apart: so many share all
/// objects. A process that is stopped while it holds one holds up only a few objects of others.
const REPLACE_LOCKS: u64 = 64;

/// Directories that this store has seen to be durable.
///
/// That a directory exists proves nothing: whoever made it may not have synced its parent yet.
#[derive(Default)]
pub(super) struct KnownDirs(Mutex<HashSet<String>>);

impl KnownDirs {
    fn contains(&self, dir: &str) -> bool {
        self.0.lock().contains(dir)
    }

    fn add(&self, dir: &str) {
        self.0.lock().insert(dir.to_owned());
    }

    fn forget(&self, dir: &str) {
        self.0.lock().remove(dir);
    }
}

/// The directory that holds `name`; empty for the root.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// All directories above `name` except the root, outermost first.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

impl DirStore {
    /// Creates the object; `false` if its name is taken.
    pub(super) fn create_file(&self, key: &Key, parts: &[IoSlice<'_>]) -> Result<bool, StepError> {
        let name = key.as_str();
        if self.root.object_size(name).is_ok() {
            return self.found_taken(name);
        }
        let temp = self.session(name)?.write_file(&self.root, parts)?;
        let published = self.publish_new(&temp, name);
        if !matches!(published, Ok(true)) {
            self.discard(&temp);
        }
        if !published? {
            return self.found_taken(name);
        }
        self.root.sync_dir(parent(name))?;
        self.failpoints.pass(failpoint::CREATE_DIR_SYNCED)?;
        Ok(true)
    }

    fn publish_new(&self, temp: &TempFile, name: &str) -> Result<bool, StepError> {
        self.failpoints.pass(failpoint::CREATE_TEMP_WRITTEN)?;
        self.root.sync_file(&temp.file, &temp.name)?;
        self.failpoints.pass(failpoint::CREATE_TEMP_SYNCED)?;
        self.make_dirs(name)?;
        let is_new = match self.root.publish(&temp.name, name) {
            // Somebody removed a directory that we knew: once more from the beginning.
            Err(error) if error.errno() == Errno::NOENT => {
                ancestors(name).for_each(|dir| self.known_dirs.forget(dir));
                self.make_dirs(name)?;
                self.root.publish(&temp.name, name)?
            }
            published => published?,
        };
        if is_new {
            self.failpoints.pass(failpoint::CREATE_PUBLISHED)?;
        }
        Ok(is_new)
    }

    /// Makes all directories above `name` exist durably.
    fn make_dirs(&self, name: &str) -> Result<(), StepError> {
        for dir in ancestors(name) {
            if !self.known_dirs.contains(dir) {
                self.root.make_dir(dir)?;
                self.failpoints.pass(failpoint::CREATE_DIR_MADE)?;
                self.root.sync_dir(parent(dir))?;
                self.known_dirs.add(dir);
            }
        }
        Ok(())
    }

    /// The name is taken; makes that durable, or tells that no object took it.
    fn found_taken(&self, name: &str) -> Result<bool, StepError> {
        match self.root.object_size(name) {
            Err(error) if error.errno() == Errno::NOENT && self.root.is_foreign(name) => {
                Err(StepError::new("replace", self.root.full(name), Errno::ISDIR))
            }
            // Deleted meanwhile: it did exist.
            _ => {
                self.make_dirs(name)?;
                self.root.sync_dir(parent(name))?;
                Ok(false)
            }
        }
    }

    /// Replaces the object; `false` if it is of another version.
    pub(super) fn replace_file(
        &self,
        key: &Key,
        body: &[u8],
        expected: &Version,
    ) -> Result<bool, StepError> {
        let session = self.session(key.as_str())?;
        let temp = session.write_file(&self.root, &[IoSlice::new(body)])?;
        let replaced = self.publish_over(&temp, key, expected);
        if !matches!(replaced, Ok(true)) {
            // Gone already if the rename was done and a later step failed.
            self.discard(&temp);
        }
        replaced
    }

    fn publish_over(
        &self,
        temp: &TempFile,
        key: &Key,
        expected: &Version,
    ) -> Result<bool, StepError> {
        let name = key.as_str();
        self.failpoints.pass(failpoint::REPLACE_TEMP_WRITTEN)?;
        self.root.sync_file(&temp.file, &temp.name)?;
        self.failpoints.pass(failpoint::REPLACE_TEMP_SYNCED)?;
        let _lock = self.lock_replace(key, Lock::Exclusive)?;
        let is_expected = Version::of_content(&self.read_whole(key)?) == *expected;
        if is_expected {
            self.root.rename(&temp.name, name)?;
            self.failpoints.pass(failpoint::REPLACE_PUBLISHED)?;
        }
        self.root.sync_dir(parent(name))?;
        if is_expected {
            self.failpoints.pass(failpoint::REPLACE_DIR_SYNCED)?;
        }
        Ok(is_expected)
    }

    /// Deletes the object, if it exists.
    pub(super) fn delete_file(&self, key: &Key) -> Result<(), StepError> {
        let name = key.as_str();
        self.session(name)?;
        {
            // A replace that has compared must not bring the object back.
            let _lock = self.lock_replace(key, Lock::Shared)?;
            self.root.remove(name)?;
            self.failpoints.pass(failpoint::DELETE_UNLINKED)?;
        }
        match self.root.sync_dir(parent(name)) {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => {}
            synced => synced?,
        }
        self.failpoints.pass(failpoint::DELETE_DIR_SYNCED)
    }

    fn session(&self, name: &str) -> Result<&Session, StepError> {
        let refused = |errno: &Errno| StepError::new("write", self.root.full(name), *errno);
        self.session.as_ref().map_err(refused)
    }

    fn lock_replace(&self, key: &Key, how: Lock) -> Result<rustix::fd::OwnedFd, StepError> {
        let number = xxh3_64(key.as_str().as_bytes()) % REPLACE_LOCKS;
        self.root.lock(&private(&format!("replace.{number}.lock")), how)
    }

    fn discard(&self, temp: &TempFile) {
        if !self.failpoints.is_killed() {
            // What stays is cleaned up by a later opening.
            let _ = self.root.remove(&temp.name);
        }
    }
}
