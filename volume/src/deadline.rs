//! How long a request waits for a store that does nothing.

use std::time::Duration;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::log::WriteLog;

/// Since when a request waits. Its time begins anew whenever the store takes something: a slow
/// store makes nobody fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    since: Duration,
}

impl Deadline {
    /// From now on.
    pub(crate) fn start(core: &Core) -> Self {
        Self { since: core.platform.monotonic() }
    }

    /// Whether the time is over, if there is a limit.
    pub(crate) fn is_over(&self, core: &Core, log: &WriteLog) -> bool {
        let since = self.since.max(log.progress());
        let waited = core.platform.monotonic().saturating_sub(since);
        core.config.store_timeout.is_some_and(|limit| waited >= limit)
    }

    /// Fails once the time is over, and notes that a request was failed.
    ///
    /// # Errors
    /// [`Error::StoreTimeout`].
    pub(crate) fn check(&self, core: &Core, log: &WriteLog, what: &'static str) -> Result<()> {
        let Some(limit) = core.config.store_timeout.filter(|_| self.is_over(core, log)) else {
            return Ok(());
        };
        let error = Error::StoreTimeout {
            volume: core.name().to_string(),
            what,
            seconds: limit.as_secs_f64(),
        };
        core.health.gave_up(log.progress(), &error);
        Err(error)
    }
}
