//! An error that names the step and the file, and which of the store's errors it is.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::StoreError;

/// One step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {source}", path.display())]
pub(super) struct StepError {
    step: &'static str,
    path: PathBuf,
    /// The key or private name it is about; empty where the path is none below the root.
    name: String,
    source: io::Error,
    errno: Errno,
}

impl StepError {
    pub(super) fn new(step: &'static str, path: PathBuf, errno: Errno) -> Self {
        Self { step, path, name: String::new(), source: errno.into(), errno }
    }

    /// A step that is not even tried.
    pub(super) fn refused(step: &'static str, name: &str) -> Self {
        Self::new(step, name.into(), Errno::PERM)
    }

    /// Says which file below the root the step was about.
    pub(super) fn about(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub(super) fn errno(&self) -> Errno {
        self.errno
    }

    /// Whether the step was about the file `name`.
    pub(super) fn is_about(&self, name: &str) -> bool {
        self.name == name
    }

    /// Whether only a change of permissions, names or mounts would help. A full disk is none:
    /// space can be freed, and a writer that waits then goes on.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.errno,
            Errno::ACCESS
                | Errno::PERM
                | Errno::ROFS
                | Errno::NAMETOOLONG
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::LOOP
                | Errno::INVAL
                | Errno::XDEV
                | Errno::NOSYS
                | Errno::OPNOTSUPP
                | Errno::FBIG
        )
    }

    pub(super) fn into_store_error(
        self,
        store: &str,
        operation: &'static str,
        key: &str,
    ) -> StoreError {
        let (store, key) = (store.to_owned(), key.to_owned());
        // No such directory at open: nobody should wait for it. Later it means that the store's
        // directories were taken away under it; they may come back.
        let is_refusal = self.is_refusal() || (operation == "open" && self.errno == Errno::NOENT);
        let source = Box::new(self);
        if is_refusal {
            StoreError::Refused { store, key, operation, source }
        } else {
            StoreError::Unavailable { store, key, operation, source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_may_heal_and_permissions_do_not() {
        let is_retryable = |errno| {
            let error = StepError::new("write", "x".into(), errno);
            let error = error.into_store_error("file:///s", "create", "x");
            error.is_retryable()
        };
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::MFILE, Errno::NOENT] {
            assert!(is_retryable(errno), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::NAMETOOLONG] {
            assert!(!is_retryable(errno), "{errno}");
        }
    }
}
