//! The connection of a store: made at the first operation, and made again when it is of no use
//! any more.
//!
//! librados itself finds its way back to monitors and OSDs that went away, so a connection is
//! given up only if it cannot heal: the cluster shut this client out, or the pool that it stands
//! for was deleted.
//!
//! Of several threads that want a connection one makes it and the others wait for what comes of
//! it, so that each waits no longer than one attempt takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::cluster::Connection;
use super::failure::{Failure, Step};
use super::target::Target;

pub(super) struct Link {
    target: Target,
    current: RwLock<Option<Arc<Connection>>>,
    /// Held while connecting; what the last attempt failed with.
    attempt: Mutex<Option<Failure>>,
    attempts_ended: AtomicU64,
}

impl Link {
    /// Connects to nothing yet.
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            current: RwLock::default(),
            attempt: Mutex::default(),
            attempts_ended: AtomicU64::new(0),
        }
    }

    /// Runs `act` on a connection. Its errors are said to be of `step`.
    pub(super) fn with<T>(
        &self,
        step: Step,
        act: impl FnOnce(&Connection) -> Result<T, Errno>,
    ) -> Result<T, Failure> {
        let connection = self.connection()?;
        act(&connection).map_err(|errno| self.judge(&connection, step, errno))
    }

    /// `errno` as a failure of the caller's own doing, without a connection.
    pub(super) fn failed(&self, step: Step, errno: Errno) -> Failure {
        self.target.failed(step, errno)
    }

    fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let current = || self.current.read().clone();
        if let Some(connection) = current() {
            return Ok(connection);
        }
        let ended_before = self.attempts_ended.load(Ordering::Acquire);
        let mut last_failure = self.attempt.lock();
        if let Some(connection) = current() {
            return Ok(connection);
        }
        if self.attempts_ended.load(Ordering::Acquire) != ended_before
            && let Some(failure) = &*last_failure
        {
            return Err(failure.clone());
        }
        let opened = Connection::open(&self.target).map(Arc::new);
        *last_failure = opened.as_ref().err().cloned();
        if let Ok(connection) = &opened {
            *self.current.write() = Some(Arc::clone(connection));
        }
        self.attempts_ended.fetch_add(1, Ordering::Release);
        opened
    }

    /// Gives the connection up where it cannot heal.
    fn judge(&self, connection: &Arc<Connection>, step: Step, errno: Errno) -> Failure {
        let pool_is_gone = errno == Errno::NOENT && !connection.has_pool();
        let is_beyond_help = pool_is_gone || matches!(errno, Errno::SHUTDOWN | Errno::NOTCONN);
        let step = if pool_is_gone { Step::OpenPool } else { step };
        let failure = self.target.failed(step, errno);
        if is_beyond_help {
            self.give_up(connection, &failure);
        }
        failure
    }

    fn give_up(&self, connection: &Arc<Connection>, failure: &Failure) {
        let mut current = self.current.write();
        if current.as_ref().is_some_and(|held| Arc::ptr_eq(held, connection)) {
            log::warn!("the next operation connects anew: {failure}");
            let held = current.take();
            // Operations of other threads may still hold it; the last one shuts it down.
            drop(current);
            drop(held);
        }
    }
}
