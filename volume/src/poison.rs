//! A failed background thread poisons the volume: later writes fail loudly, reads of good
//! data go on. If another host has taken the volume over, reads fail as well: what they would
//! show is no longer the volume's content.

use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::units::LogSeq;

/// The first failure of a volume, if there was one.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    cause: OnceLock<Error>,
    deposed: OnceLock<Deposed>,
}

/// How this host lost the volume.
#[derive(Debug)]
pub(crate) struct Deposed {
    /// [`Error::Fenced`] or [`Error::Deleted`].
    pub(crate) error: Error,
    /// The highest record of this host's log that the stream held then, if that is known.
    pub(crate) held: Option<LogSeq>,
}

impl Poison {
    /// Notes a failure; the first one stays.
    pub(crate) fn set(&self, error: Error) {
        if self.cause.set(error.clone()).is_ok() {
            log::error!("no more writes: {error}");
        }
    }

    /// Notes that this host lost the volume, whatever failed before.
    pub(crate) fn depose(&self, error: Error, held: Option<LogSeq>) {
        if self.deposed.set(Deposed { error: error.clone(), held }).is_ok() {
            log::error!("{error}");
        }
        // Said already.
        let _ = self.cause.set(error);
    }

    /// How this host lost the volume, if it did.
    pub(crate) fn deposed(&self) -> Option<&Deposed> {
        self.deposed.get()
    }

    /// The failure, if there was one. To have lost the volume outweighs all others.
    pub(crate) fn cause(&self) -> Option<&Error> {
        self.deposed.get().map(|deposed| &deposed.error).or(self.cause.get())
    }

    /// Fails if there was a failure.
    pub(crate) fn check(&self) -> Result<()> {
        match self.cause() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Fails if this host lost the volume.
    pub(crate) fn check_deposed(&self) -> Result<()> {
        match self.deposed.get() {
            Some(deposed) => Err(deposed.error.clone()),
            None => Ok(()),
        }
    }
}

/// Runs the body of a background thread; its error or panic poisons the volume.
pub(crate) fn guard(
    poison: &Poison,
    volume: &str,
    thread: &str,
    body: impl FnOnce() -> Result<()>,
) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => poison.set(error),
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            poison.set(Error::Poisoned {
                volume: volume.to_owned(),
                cause: format!("the thread {thread} panicked: {text}").into(),
            });
        }
    }
}
