//! A failed background thread poisons the volume: later writes fail loudly, reads of good
//! data go on.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The first failure of a volume, if there was one.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    cause: OnceLock<Error>,
}

impl Poison {
    /// Notes a failure; the first one stays.
    pub(crate) fn set(&self, error: Error) {
        if self.cause.set(error.clone()).is_ok() {
            log::error!("no more writes: {error}");
        }
    }

    /// The failure, if there was one.
    pub(crate) fn cause(&self) -> Option<&Error> {
        self.cause.get()
    }

    /// Fails if there was a failure.
    pub(crate) fn check(&self) -> Result<()> {
        match self.cause.get() {
            Some(error) => Err(error.clone()),
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
