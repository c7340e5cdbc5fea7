//! How bytes of a volume are read: from memory at once, from the SSD and the store elsewhere.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Role, Volume};
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::health::count;
use crate::read::{Filled, Patience, covering};
use crate::units::SECTOR_BYTES;

/// Views that a reader tries, each of which was collected before it was read.
const VIEWS_MAX: u32 = 16;

thread_local! {
    static SECTORS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Volume {
    /// Reads up to `len` bytes: fewer, or none, at the end of the volume. Of a volume that is open
    /// for reading only, what is shown is at most the follow interval old.
    pub fn read(
        self: &Arc<Self>,
        offset: u64,
        len: usize,
        done: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        if !self.needs_refresh() {
            return self.read_view(offset, len, done);
        }
        let volume = Arc::clone(self);
        self.pool.remote(move || match volume.refresh() {
            Ok(()) => volume.read_view(offset, len, done),
            Err(error) => done(Err(error)),
        });
    }

    /// Reads what is known.
    fn read_view(
        self: &Arc<Self>,
        offset: u64,
        len: usize,
        done: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        let len = (len as u64).min(self.size_bytes().saturating_sub(offset)) as usize;
        let Some(cover) = covering(offset, len as u64) else { return done(Ok(&[])) };
        if let Err(error) = self.core.poison.check_deposed() {
            return done(Err(error));
        }
        count(&self.core.health.reads, 1);
        count(&self.core.health.read_bytes, len as u64);
        let skip = (offset - cover.start().get() * SECTOR_BYTES) as usize;
        let mut sectors = SECTORS.take();
        sectors.resize(sectors.len().max(cover.bytes() as usize), 0);
        let filled = match sectors.get_mut(..cover.bytes() as usize) {
            Some(out) => self.reader.read(cover, out, Patience::None),
            None => Ok(Filled::WouldWait),
        };
        match filled {
            Ok(Filled::Yes) => done(Ok(sectors.get(skip..skip + len).unwrap_or_default())),
            Ok(Filled::WouldWait) => {
                let volume = Arc::clone(self);
                self.pool.local(move || volume.read_patiently(offset, len, done));
            }
            Err(error) => self.read_again(offset, len, error, done),
        }
        SECTORS.set(sectors);
    }

    /// First from what is local, which is quick and must not queue behind a slow store.
    fn read_patiently(
        self: &Arc<Self>,
        offset: u64,
        len: usize,
        done: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        match self.reader.read_bytes(offset, len, Patience::Local) {
            Ok(Some(bytes)) => done(Ok(&bytes)),
            Err(error) => self.read_again(offset, len, error, done),
            Ok(None) => {
                let volume = Arc::clone(self);
                let asked = self.core.platform.monotonic();
                self.pool.remote(move || {
                    if let Err(error) = volume.still_in_time(asked) {
                        return done(Err(error));
                    }
                    match volume.reader.read_bytes(offset, len, Patience::Full) {
                        Ok(bytes) => done(Ok(&bytes.unwrap_or_default())),
                        Err(error) => volume.read_again(offset, len, error, done),
                    }
                });
            }
        }
    }

    /// After an error: what cannot be found may have been collected by whoever writes the volume.
    fn read_again(
        self: &Arc<Self>,
        offset: u64,
        len: usize,
        error: Error,
        done: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        if !matches!(error, Error::Damaged { .. }) {
            return done(Err(error));
        }
        let volume = Arc::clone(self);
        self.pool.remote(move || {
            let again = match &volume.role {
                Role::Writes(writer) => Err(writer.explain(&volume.core, error)),
                Role::Follows(follower) => volume.read_newer(follower, offset, len, error),
                Role::Stands { .. } => Err(error),
            };
            match again {
                Ok(bytes) => done(Ok(&bytes)),
                Err(error) => done(Err(error)),
            }
        });
    }

    /// Reads from newer views than the one that met `error`.
    fn read_newer(
        &self,
        follower: &Follower,
        offset: u64,
        len: usize,
        error: Error,
    ) -> Result<Vec<u8>> {
        let mut last = error;
        for _ in 0..VIEWS_MAX {
            follower.refresh_now(&self.core)?;
            let left = self.size_bytes().saturating_sub(offset);
            let len = (len as u64).min(left) as usize;
            match self.reader.read_bytes(offset, len, Patience::Full) {
                Ok(bytes) => return Ok(bytes.unwrap_or_default()),
                Err(error) if is_same_damage(&error, &last) => return Err(error),
                Err(error @ Error::Damaged { .. }) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Outrun(self.name()))
    }

    /// While the store is away reads queue up; none waits its turn and then its full time again.
    fn still_in_time(&self, asked: Duration) -> Result<()> {
        let limit = self.core.config.read_patience();
        let waited = self.core.platform.monotonic().saturating_sub(asked);
        if waited < limit || !self.core.reads_fail.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (volume, seconds) = (self.name(), limit.as_secs_f64());
        Err(Error::StoreTimeout { volume, what: "a read", seconds })
    }
}

/// Whether two errors are damage of one thing. A view that was made after something was collected
/// does not point there any more.
fn is_same_damage(a: &Error, b: &Error) -> bool {
    matches!((a, b), (Error::Damaged { what: a, .. }, Error::Damaged { what: b, .. }) if a == b)
}
