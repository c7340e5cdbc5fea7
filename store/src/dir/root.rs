//! System calls on files below the store's root, each with an error that names the file.
//!
//! All names are relative to a descriptor of the root: a store does not change its place when
//! the directory is moved, and is not taken for empty when a disk is mounted over it. Names are
//! `/`-separated as keys are; the empty name is the root itself. Symbolic links are no objects.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};

use super::step_error::StepError;

/// An entry of a directory that may be an object or lead to some.
pub(super) struct DirEntry {
    pub(super) name: String,
    pub(super) is_dir: bool,
}

/// How long a lock is waited for.
const LOCK_TIME: Duration = Duration::from_secs(5);

/// How often it is looked whether it is free.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Who else may hold a lock at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// Others that share it.
    Shared,
    /// Nobody.
    Exclusive,
}

/// The store's directory.
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Root {
    /// Opens `path`; with `create`, makes it if it is missing, durably.
    pub(super) fn open(path: &Path, create: bool) -> Result<Self, StepError> {
        let fail = |step, path: &Path, errno| StepError::new(step, path.to_owned(), errno);
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => path,
        };
        if create {
            let made = rustix::fs::mkdir(path, Mode::from_raw_mode(0o777));
            let synced = rustix::fs::open(parent, DIRECTORY, Mode::empty())
                .and_then(rustix::fs::fsync)
                .map_err(|errno| fail("sync directory", parent, errno));
            match made {
                Ok(()) => synced?,
                // Whoever made it may have been cut off before syncing; where we are not allowed
                // to do so, neither was it made lately by one like us. On a read-only file system
                // a directory that exists may come out as one of the latter two.
                Err(Errno::EXIST | Errno::ROFS | Errno::ACCESS) => {}
                Err(errno) => return Err(fail("make directory", path, errno)),
            }
        }
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|errno| fail("open directory", path, errno))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The path of `name`, for messages.
    pub(super) fn full(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn named<T>(
        &self,
        step: &'static str,
        name: &str,
        result: rustix::io::Result<T>,
    ) -> Result<T, StepError> {
        result.map_err(|errno| StepError::new(step, self.full(name), errno).about(name))
    }

    fn open_at(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let name = if name.is_empty() { "." } else { name };
        let mode = Mode::from_raw_mode(0o666);
        retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC, mode))
    }

    /// Opens an object for reading. What is no regular file does not exist.
    pub(super) fn open_file(&self, name: &str) -> Result<File, StepError> {
        // Non-blocking, lest a foreign FIFO be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = self.open_at(name, flags).map_err(absent);
        self.named("open", name, opened).map(File::from)
    }

    /// The size of an opened object.
    pub(super) fn file_size(&self, file: &File, name: &str) -> Result<u64, StepError> {
        let size = rustix::fs::fstat(file).and_then(|stat| regular_size(&stat));
        self.named("look at", name, size)
    }

    /// The size of an object.
    pub(super) fn object_size(&self, name: &str) -> Result<u64, StepError> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(absent);
        let size = stat.and_then(|stat| regular_size(&stat));
        self.named("look at", name, size)
    }

    /// Whether `name` is taken by something that is no object.
    pub(super) fn is_foreign(&self, name: &str) -> bool {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| regular_size(&stat).is_err())
    }

    /// Creates the file `name`, which must not exist, for writing.
    pub(super) fn create_file(&self, name: &str) -> Result<File, StepError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let created = self.open_at(name, flags);
        self.named("create", name, created).map(File::from)
    }

    /// Syncs the content of `file`.
    pub(super) fn sync_file(&self, file: &File, name: &str) -> Result<(), StepError> {
        self.named("sync", name, rustix::fs::fsync(file))
    }

    /// Makes a directory; one that exists is as good.
    pub(super) fn make_dir(&self, name: &str) -> Result<(), StepError> {
        let made = match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        };
        self.named("make directory", name, made)
    }

    /// Makes durable which names the directory `name` holds.
    pub(super) fn sync_dir(&self, name: &str) -> Result<(), StepError> {
        let synced = self.open_at(name, DIRECTORY).and_then(rustix::fs::fsync);
        self.named("sync directory", name, synced)
    }

    /// Renames `from` to `to` unless `to` exists; tells whether it did.
    pub(super) fn publish(&self, from: &str, to: &str) -> Result<bool, StepError> {
        let moved = rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE);
        match moved {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.publish_by_link(from, to),
            moved => self.named("create", to, unless_taken(moved)),
        }
    }

    /// As [`Self::publish`], for file systems that cannot rename without replacing.
    fn publish_by_link(&self, from: &str, to: &str) -> Result<bool, StepError> {
        let linked = rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty());
        let is_new = self.named("create", to, unless_taken(linked))?;
        if is_new {
            // Left over if this fails or is cut off, and cleaned up as any other.
            let _ = self.remove(from);
        }
        Ok(is_new)
    }

    /// Renames `from` to `to`, replacing it.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), StepError> {
        let moved = rustix::fs::renameat(&self.fd, from, &self.fd, to);
        self.named("replace", to, moved)
    }

    /// Removes the file `name`; tells whether there was one.
    pub(super) fn remove(&self, name: &str) -> Result<bool, StepError> {
        let removed = match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => Ok(false),
            Err(errno) => Err(errno),
        };
        self.named("remove", name, removed)
    }

    /// Opens (or makes) the file `name` and takes its lock, which dropping gives back. Nobody holds one
    /// for long, but for a process that was stopped in between: after [`LOCK_TIME`] this is
    /// `WOULDBLOCK`.
    pub(super) fn lock(&self, name: &str, how: Lock) -> Result<OwnedFd, StepError> {
        let begun = Instant::now();
        loop {
            match self.lock_now(name, how) {
                Err(error) if error.errno() == Errno::WOULDBLOCK && begun.elapsed() < LOCK_TIME => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                locked => return locked,
            }
        }
    }

    /// As [`Self::lock`] for an exclusive lock, but `None` if somebody else holds one.
    pub(super) fn try_lock(&self, name: &str) -> Result<Option<OwnedFd>, StepError> {
        match self.lock_now(name, Lock::Exclusive) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.errno() == Errno::WOULDBLOCK => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock_now(&self, name: &str, how: Lock) -> Result<OwnedFd, StepError> {
        let how = match how {
            Lock::Shared => FlockOperation::NonBlockingLockShared,
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let locked = self.open_at(name, OFlags::RDWR | OFlags::CREATE).and_then(|fd| {
            retry_on_intr(|| rustix::fs::flock(&fd, how))?;
            Ok(fd)
        });
        self.named("lock", name, locked)
    }

    /// Calls `visit` with each file and directory in the directory `name`, in no order. A
    /// missing directory is empty. Names that cannot be part of a key are passed over.
    pub(super) fn each_entry(
        &self,
        name: &str,
        mut visit: impl FnMut(DirEntry),
    ) -> Result<(), StepError> {
        let fd = match self.open_at(name, DIRECTORY).map_err(absent) {
            Err(Errno::NOENT) => return Ok(()),
            opened => self.named("open directory", name, opened)?,
        };
        for entry in self.named("read directory", name, Dir::read_from(&fd))? {
            let entry = self.named("read directory", name, entry)?;
            let raw = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            let Ok(file_name) = raw.into_string() else {
                continue;
            };
            if matches!(file_name.as_str(), "." | "..") {
                continue;
            }
            let is_dir = match known_type(&fd, &file_name, entry.file_type()) {
                FileType::Directory => true,
                FileType::RegularFile => false,
                _ => continue,
            };
            visit(DirEntry { name: file_name, is_dir });
        }
        Ok(())
    }
}

/// The type of a directory's entry, asked for where the file system did not tell.
fn known_type(dir: impl AsFd, name: &str, told: FileType) -> FileType {
    if told != FileType::Unknown {
        return told;
    }
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(_) => FileType::Unknown,
    }
}

/// A name behind a file, or a symbolic link, is as good as none.
fn absent(errno: Errno) -> Errno {
    match errno {
        Errno::NOTDIR | Errno::LOOP => Errno::NOENT,
        errno => errno,
    }
}

fn regular_size(stat: &rustix::fs::Stat) -> rustix::io::Result<u64> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::NOENT);
    }
    u64::try_from(stat.st_size).map_err(|_| Errno::IO)
}

fn unless_taken(moved: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match moved {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_by_link_does_not_replace() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), false).unwrap();
        for body in ["one", "two"] {
            std::fs::write(dir.path().join(body), body).unwrap();
        }
        assert!(root.publish_by_link("one", "object").unwrap());
        assert!(!root.publish_by_link("two", "object").unwrap());
        assert_eq!(std::fs::read(dir.path().join("object")).unwrap(), b"one");
        assert!(!dir.path().join("one").exists());
    }
}
