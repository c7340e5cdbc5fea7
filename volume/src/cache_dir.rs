//! The directory on the local SSD: one daemon at a time, one store for ever.
//!
//! ```text
//! lock          held while a daemon uses the directory; says which process
//! store         the identity of the store that it belongs to
//! probed        says that this store was tried and keeps two hosts apart
//! logs/         <uuid>.log, one write log per volume
//! read-cache    frames of objects
//! leaves/       map leaves (sled)
//! ```
//!
//! The identity holds more than the URL where that is not enough: buckets of one name on two
//! servers are two stores. A server may get another address, though, with everything still in
//! it: then the user removes the file `store`, and the next opening binds the directory anew and
//! tries the store again. Logs know their store by its URL alone, so they stay usable.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::format::StoreId;

/// What stands in `probed`; another text, for a stricter probe, has the store tried again.
const PROBED: &str = "exclusive create and conditional replace, version 1";

/// A cache directory in use.
#[derive(Debug)]
pub(crate) struct CacheDir {
    path: PathBuf,
    /// Held until drop; `None` for a look only.
    _lock: Option<File>,
}

impl CacheDir {
    /// Makes the directory if need be, locks it and binds it to the store.
    ///
    /// # Errors
    /// Another process holds it, it belongs to another store, or it cannot be used.
    pub(crate) fn lock(path: &Path, store_identity: &str) -> Result<Self> {
        let failed = |what: &'static str| move |e| Error::local(path, what, e);
        fs::create_dir_all(path.join("logs")).map_err(failed("create the directory"))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|e| Error::local(&lock_path, "open", e))?;
        if !try_lock(&lock) {
            let mut holder = String::new();
            // Without the number the message is still right.
            let _ = lock.read_to_string(&mut holder);
            return Err(Error::CacheDir {
                path: path.to_owned(),
                reason: format!(
                    "process {} uses it; unmount that one first, or give --cache-dir another \
                     directory",
                    if holder.trim().is_empty() { "another" } else { holder.trim() }
                ),
            });
        }
        let dir = Self { path: path.to_owned(), _lock: None };
        dir.check_store(store_identity)?;
        let note = format!("{}\n", std::process::id());
        lock.set_len(0).map_err(|e| Error::local(&lock_path, "write", e))?;
        lock.write_all(note.as_bytes()).map_err(|e| Error::local(&lock_path, "write", e))?;
        if !dir.binding().exists() {
            // What was tried was a store at another address, and maybe another server.
            forget(&dir.probed()).map_err(|e| Error::local(dir.probed(), "remove", e))?;
            write_whole(&dir.binding(), store_identity)
                .map_err(|e| Error::local(dir.binding(), "write", e))?;
        }
        Ok(Self { _lock: Some(lock), ..dir })
    }

    /// The directory for a look only.
    ///
    /// # Errors
    /// It belongs to another store.
    pub(crate) fn look(path: &Path, store_identity: &str) -> Result<Self> {
        let dir = Self { path: path.to_owned(), _lock: None };
        dir.check_store(store_identity)?;
        Ok(dir)
    }

    fn check_store(&self, store_identity: &str) -> Result<()> {
        match fs::read_to_string(self.binding()) {
            Ok(bound) if bound.trim_end() != store_identity => Err(Error::CacheDir {
                path: self.path.clone(),
                reason: format!(
                    "it belongs to the store {}, not to {store_identity}; use a cache directory \
                     of its own for each store (or, if the same store has only moved, remove {})",
                    bound.trim_end(),
                    self.binding().display()
                ),
            }),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::local(self.binding(), "read", e))
            }
            _ => Ok(()),
        }
    }

    fn binding(&self) -> PathBuf {
        self.path.join("store")
    }

    fn probed(&self) -> PathBuf {
        self.path.join("probed")
    }

    /// Whether another process serves the directory.
    pub(crate) fn is_served(lock: &Path) -> bool {
        let Ok(file) = File::open(lock) else { return false };
        // Whoever wants the whole lock at this very moment tries again.
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// The lock's file.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Whether this store was tried and keeps two hosts apart.
    pub(crate) fn is_probed(&self) -> bool {
        let says = fs::read_to_string(self.probed());
        says.is_ok_and(|text| text.trim_end() == PROBED)
    }

    /// Notes that the store keeps two hosts apart.
    pub(crate) fn note_probed(&self) -> std::io::Result<()> {
        write_whole(&self.probed(), PROBED)
    }

    /// Where the write logs are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The read cache's file.
    pub(crate) fn read_cache(&self) -> PathBuf {
        self.path.join("read-cache")
    }

    /// Where the map leaves are.
    pub(crate) fn leaves(&self) -> PathBuf {
        self.path.join("leaves")
    }
}

/// How often a lock is tried that somebody holds, and the pause between.
const LOCK_ATTEMPTS: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Locks, unless another process holds the lock for some seconds: a look does for a moment, whoever
/// lists the open files of a process that has just closed it as well, and a daemon that was killed
/// until the kernel has taken it down.
fn try_lock(lock: &File) -> bool {
    (0..LOCK_ATTEMPTS).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(LOCK_PAUSE);
        }
        flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

/// Removes a file that may be missing.
fn forget(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes a line of text so that it is there as a whole or not at all.
fn write_whole(path: &Path, line: &str) -> std::io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished)?;
    file.write_all(line.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// The number by which logs know their store.
pub(crate) fn store_id(store_url: &str) -> StoreId {
    StoreId::new(xxh3_64(store_url.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a crash leaves of binding it: nothing, or a file that was not given its name.
    #[test]
    fn a_binding_that_was_cut_short_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(CacheDir::lock(dir.path(), "mem:a").expect("it is free"));
        for name in ["store", "probed"] {
            std::fs::write(dir.path().join(name).with_extension("new"), "mem:").expect("a file");
        }
        std::fs::remove_file(dir.path().join("store")).expect("it was bound");
        let bound = CacheDir::lock(dir.path(), "mem:b").expect("it belongs to nobody");
        assert!(!bound.is_probed());
        drop(bound);
        CacheDir::lock(dir.path(), "mem:a").expect_err("it is bound to another store");
    }

    #[test]
    fn a_store_at_another_address_is_tried_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = |identity| CacheDir::lock(dir.path(), identity);
        let first = lock("s3://a at old:1").expect("it is free");
        assert!(!first.is_probed());
        first.note_probed().expect("it is written");
        drop(first);
        let again = lock("s3://a at old:1").expect("it is the same store");
        assert!(again.is_probed());
        drop(again);
        lock("s3://a at new:1").expect_err("it is another store");
        std::fs::remove_file(dir.path().join("store")).expect("it was bound");
        let moved = lock("s3://a at new:1").expect("it is bound anew");
        assert!(!moved.is_probed());
    }
}
