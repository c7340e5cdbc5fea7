//! Records into the log and, with their number, into the dirty map.

use std::sync::Arc;
use std::time::Duration;

use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::log::{Entry, Pass, Refused, WriteLog};
use crate::units::{Extent, LogSeq, SECTOR_BYTES};

/// Appends on behalf of a volume.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    core: Arc<Core>,
}

impl Publisher {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Appends `entry` and makes it readable.
    pub(crate) fn append(
        &self,
        log: &WriteLog,
        entry: Entry<'_>,
        pass: Pass,
    ) -> Result<LogSeq, Refused> {
        let maps = &self.core.maps;
        log.append(entry, pass, |seq, pos| match entry {
            Entry::Write { start, data } => {
                if let Some(extent) = Extent::new(start, data.len() as u64 / SECTOR_BYTES) {
                    maps.write().write(extent, seq, pos, 0);
                }
            }
            Entry::Trim(extent) => maps.write().trim(extent, seq),
            Entry::Resize { sectors } => maps.write().resize(sectors, seq),
        })
    }

    /// Fails if the volume was poisoned.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.core.poison.check()
    }

    /// Whether a request has waited too long for the store.
    pub(crate) fn is_over(&self, deadline: &Deadline, log: &WriteLog) -> bool {
        deadline.is_over(&self.core, log)
    }

    /// Fails if a request has waited too long for the store.
    pub(crate) fn in_time(&self, deadline: &Deadline, log: &WriteLog) -> Result<(), Error> {
        deadline.check(&self.core, log, "a write found no room in the log")
    }

    /// The volume's name, for errors.
    pub(crate) fn volume(&self) -> String {
        self.core.name().to_string()
    }

    /// The time, from an arbitrary start.
    pub(crate) fn now(&self) -> Duration {
        self.core.platform.monotonic()
    }
}
