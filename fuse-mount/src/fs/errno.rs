//! What a failed operation tells the program that asked: one table from errors to errno.
//!
//! The errno is all that crosses the kernel; the sentence with the reason and the way out goes
//! to the daemon's log.

use lsvd_store::StoreError;
use lsvd_volume::Error;

/// A Linux error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(i32);

macro_rules! numbers {
    ($($name:ident),* $(,)?) => {
        $(pub(crate) const $name: Self = Self(libc::$name);)*
    };
}

impl Errno {
    numbers! {
        EPERM, ENOENT, EIO, ENXIO, EBADF, EBUSY, EEXIST, ENOTDIR, EISDIR, EINVAL, EFBIG, ENOSPC,
        EROFS, ENAMETOOLONG, ENOSYS, EOPNOTSUPP, ESTALE, ESHUTDOWN,
    }

    /// The number.
    pub(crate) fn code(self) -> i32 {
        self.0
    }

    /// The number for `error`, which happened while doing `what`; logs the sentence.
    pub(crate) fn of(what: &str, error: &Error) -> Self {
        let errno = table(error);
        match errno {
            // Answers to questions, not incidents.
            Self::ENOENT | Self::EEXIST => log::debug!("{what}: {error}"),
            // The engine says it once per outage.
            _ if matches!(error, Error::StoreTimeout { .. }) => log::debug!("{what}: {error}"),
            // So does the daemon when it ends, and there may be many requests under way then.
            Self::ESHUTDOWN => log::debug!("{what}: {error}"),
            _ => log::warn!("{what}: {error} (errno {})", errno.0),
        }
        errno
    }
}

/// The whole table.
fn table(error: &Error) -> Errno {
    match error {
        Error::NoSuchVolume(_)
        | Error::NoSuchObject(_)
        | Error::NoSuchSnapshot { .. }
        | Error::NoSuchMoment { .. } => Errno::ENOENT,
        Error::VolumeExists(_) | Error::SnapshotExists { .. } => Errno::EEXIST,
        Error::BadName { name, .. } if name.len() > 255 => Errno::ENAMETOOLONG,
        Error::BadName { .. } | Error::BadSize { .. } | Error::NoClone(_) | Error::LogNeeded(_) => {
            Errno::EINVAL
        }
        Error::ShrinkLosesData { .. } => Errno::EPERM,
        Error::InUse { .. } | Error::SnapshotKept { .. } | Error::Outrun(_) => Errno::EBUSY,
        Error::ReadOnly(_) => Errno::EROFS,
        Error::OutOfRange { .. } => Errno::EFBIG,
        Error::Damaged { .. } | Error::NewerFormat { .. } => Errno::EIO,
        Error::StaleLog { .. } | Error::Fenced { .. } | Error::Deleted(_) => Errno::ESTALE,
        Error::NoFencing { .. } => Errno::EROFS,
        Error::Poisoned { .. } => Errno::EIO,
        Error::StoreTimeout { .. } => Errno::EIO,
        Error::Store(source) => of_store(source),
        Error::Local { source, .. } => source.raw_os_error().map_or(Errno::EIO, of_local),
        Error::CacheDir { .. } => Errno::EIO,
        Error::Closing(_) => Errno::ESHUTDOWN,
    }
}

fn of_store(error: &StoreError) -> Errno {
    match error {
        StoreError::Refused { .. } | StoreError::Unavailable { .. } => {
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                    return io.raw_os_error().map_or(Errno::EIO, of_local);
                }
                cause = inner.source();
            }
            Errno::EIO
        }
        StoreError::NotFound { .. }
        | StoreError::AlreadyExists { .. }
        | StoreError::Precondition { .. }
        | StoreError::OutOfRange { .. }
        | StoreError::BadUrl { .. } => Errno::EIO,
    }
}

/// Of the SSD's own numbers only "full" means anything to a program on the volume.
fn of_local(code: i32) -> Errno {
    match code {
        libc::ENOSPC | libc::EDQUOT => Errno::ENOSPC,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ssd_is_no_space_and_nothing_else_is() {
        let local =
            |code| Error::local("/ssd/log", "write", std::io::Error::from_raw_os_error(code));
        assert_eq!(table(&local(libc::ENOSPC)), Errno::ENOSPC);
        assert_eq!(table(&local(libc::EACCES)), Errno::EIO);
    }

    #[test]
    fn long_names_are_too_long_and_bad_names_invalid() {
        let bad = |name: String| Error::BadName { kind: "volume", name, reason: "test" };
        assert_eq!(table(&bad("x".repeat(256))), Errno::ENAMETOOLONG);
        assert_eq!(table(&bad(".hidden".into())), Errno::EINVAL);
    }
}
