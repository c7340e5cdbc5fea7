//! Names for the moments at which a crash would matter, and a hook that can make it happen.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::step_error::StepError;

/// Called with the name of each durability step just passed; an error stops the store there.
pub type FailpointHook = Arc<dyn Fn(&'static str) -> io::Result<()> + Send + Sync>;

/// All durability steps, in the order in which an operation passes them.
pub const FAILPOINTS: &[&str] = &[
    CREATE_TEMP_WRITTEN,
    CREATE_TEMP_SYNCED,
    CREATE_DIR_MADE,
    CREATE_PUBLISHED,
    CREATE_DIR_SYNCED,
    REPLACE_TEMP_WRITTEN,
    REPLACE_TEMP_SYNCED,
    REPLACE_PUBLISHED,
    REPLACE_DIR_SYNCED,
    DELETE_UNLINKED,
    DELETE_DIR_SYNCED,
];

pub(super) const CREATE_TEMP_WRITTEN: &str = "dir.create.temp_written";
pub(super) const CREATE_TEMP_SYNCED: &str = "dir.create.temp_synced";
/// Passed once for each directory that the object's name needs and that was not known before.
pub(super) const CREATE_DIR_MADE: &str = "dir.create.dir_made";
pub(super) const CREATE_PUBLISHED: &str = "dir.create.published";
pub(super) const CREATE_DIR_SYNCED: &str = "dir.create.dir_synced";
pub(super) const REPLACE_TEMP_WRITTEN: &str = "dir.replace.temp_written";
pub(super) const REPLACE_TEMP_SYNCED: &str = "dir.replace.temp_synced";
pub(super) const REPLACE_PUBLISHED: &str = "dir.replace.published";
pub(super) const REPLACE_DIR_SYNCED: &str = "dir.replace.dir_synced";
pub(super) const DELETE_UNLINKED: &str = "dir.delete.unlinked";
pub(super) const DELETE_DIR_SYNCED: &str = "dir.delete.dir_synced";

/// The hook of one store, if any, and whether it has struck.
#[derive(Default)]
pub(super) struct Failpoints {
    hook: Option<FailpointHook>,
    killed: AtomicBool,
}

impl Failpoints {
    pub(super) fn new(hook: FailpointHook) -> Self {
        Self { hook: Some(hook), killed: AtomicBool::new(false) }
    }

    /// Passes the step `name`.
    pub(super) fn pass(&self, name: &'static str) -> Result<(), StepError> {
        self.check_alive()?;
        if let Some(hook) = &self.hook
            && let Err(error) = hook(name)
        {
            self.killed.store(true, Ordering::SeqCst);
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            return Err(StepError::new("pass failpoint", name.into(), errno));
        }
        Ok(())
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    pub(super) fn check_alive(&self) -> Result<(), StepError> {
        if self.is_killed() {
            let name = "stopped at a failpoint".into();
            return Err(StepError::new("go on", name, Errno::IO));
        }
        Ok(())
    }
}
