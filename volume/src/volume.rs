//! An open volume: read, write, trim, flush, resize, close.
//!
//! Requests carry a `done` that is called exactly once: on the caller's thread where nothing
//! has to be waited for, otherwise on one of the engine's. Offsets and lengths are bytes of
//! any alignment; whole sectors are the fast path.

mod reads;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::gc::{GcReport, Wish};
use crate::health::count;
use crate::log::{Entry, Pass, Refused, Wait};
use crate::map::{Absent, Maps};
use crate::pool::Pool;
use crate::read::Reader;
use crate::stats::VolumeStats;
use crate::units::{BLOCK_BYTES, Lba, LogSeq, SECTOR_BYTES};
use crate::writer::Writer;

/// How long a blocking call waits before it looks whether the volume failed.
const TICK: Duration = Duration::from_millis(100);

/// Largest volume in bytes: what a file offset can say, in whole blocks.
pub const SIZE_MAX: u64 = (1 << 63) - BLOCK_BYTES;

/// See the module.
#[derive(Debug)]
pub struct Volume {
    pub(crate) core: Arc<Core>,
    reader: Reader,
    role: Role,
    pool: Arc<Pool>,
}

/// What a volume is open for.
#[derive(Debug)]
pub(crate) enum Role {
    /// It is written here.
    Writes(Writer),
    /// It is only read here, and may be written elsewhere.
    Follows(Box<Follower>),
    /// It is a snapshot, of this identity, which never changes.
    Stands { snapshot: u64 },
}

impl Volume {
    pub(crate) fn new(core: Arc<Core>, reader: Reader, role: Role, pool: Arc<Pool>) -> Self {
        Self { core, reader, role, pool }
    }

    /// The volume's present name.
    pub fn name(&self) -> String {
        self.core.name().to_string()
    }

    /// The volume's identity, which a rename does not change.
    pub fn uuid(&self) -> Uuid {
        self.core.uuid
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.core.maps.read().sectors() * SECTOR_BYTES
    }

    /// Whether it is open for reading only.
    pub fn is_read_only(&self) -> bool {
        self.writer_parts().is_none()
    }

    /// Whether [`Self::refresh`] would ask the store.
    pub fn needs_refresh(&self) -> bool {
        self.follower().is_some_and(|follower| follower.is_due(&self.core))
    }

    /// Takes in what another host has written, if the volume is open for reading only and was
    /// not looked after for the follow interval. May wait for the store.
    ///
    /// # Errors
    /// [`Error::Deleted`], or the volume is damaged. A store that does not answer is no error.
    pub fn refresh(&self) -> Result<()> {
        self.follower().map_or(Ok(()), |follower| follower.refresh(&self.core))
    }

    /// What it is open for.
    pub(crate) fn role(&self) -> &Role {
        &self.role
    }

    fn follower(&self) -> Option<&Follower> {
        match &self.role {
            Role::Follows(follower) => Some(follower),
            Role::Writes(_) | Role::Stands { .. } => None,
        }
    }

    /// Makes everything acknowledged before safe on the local SSD and, if the volume says
    /// `sync=remote`, in the store.
    pub fn flush(self: &Arc<Self>, done: impl FnOnce(Result<()>) + Send + 'static) {
        count(&self.core.health.flushes, 1);
        let Some(writer) = self.writer_parts() else { return done(Ok(())) };
        if !self.core.sync_remote {
            return writer.log.flush(Box::new(done));
        }
        let through = writer.log.last_seq();
        let deadline = Deadline::start(&self.core);
        // The upload begins at once, beside the sync.
        writer.drain_to(through);
        let (orders, log) = (Arc::clone(&writer.orders), Arc::clone(&writer.log));
        writer.log.flush(Box::new(move |synced| match synced {
            Ok(()) => {
                orders.when_committed(through, deadline, Box::new(done));
                log.wake_tail();
            }
            Err(error) => done(Err(error)),
        }));
    }

    /// Waits until everything acknowledged so far is committed in the store.
    ///
    /// # Errors
    /// The volume failed before.
    pub fn flush_to_store(&self) -> Result<()> {
        let Some(writer) = self.writer_parts() else { return Ok(()) };
        self.core.poison.check_deposed()?;
        let through = writer.log.last_seq();
        let deadline = Deadline::start(&self.core);
        writer.drain_to(through);
        while !writer.orders.wait_committed(through, TICK) {
            deadline.check(&self.core, &writer.log, "a flush to the store")?;
            if writer.orders.ended() {
                self.core.poison.check()?;
                return Err(Error::Closing(self.name()));
            }
        }
        Ok(())
    }

    /// Cleans what the store holds until `target` percent of its data are needed, and deletes what
    /// is not any more; `now` without regard to the bandwidth set and to writers. `progress` is told
    /// how things stand, and may break it off by returning false. What it reports as moved and deleted counts from the volume's opening.
    ///
    /// # Errors
    /// The volume cannot be written, or the store fails.
    pub fn collect(
        &self,
        target: u64,
        now: bool,
        progress: &mut dyn FnMut(GcReport) -> bool,
    ) -> Result<GcReport> {
        self.wish(Wish { target: target.min(100), now, leave_base: false }, progress)
    }

    /// Has the cleaner do something; `progress` may break it off.
    pub(crate) fn wish(
        &self,
        wish: Wish,
        progress: &mut dyn FnMut(GcReport) -> bool,
    ) -> Result<GcReport> {
        let cleaner = &self.writer()?.cleaner;
        let asked = cleaner.ask(wish);
        loop {
            if let Some(outcome) = cleaner.wait(asked, TICK) {
                return match outcome {
                    // Why it ends, if the volume failed.
                    Err(Error::Closing(_)) => Err(self.core.end_cause()),
                    outcome => outcome.map(|()| cleaner.report()),
                };
            }
            if !progress(cleaner.report()) {
                cleaner.take_back(asked);
                return Ok(cleaner.report());
            }
        }
    }

    /// Bytes acknowledged but not yet committed in the store.
    pub fn dirty_bytes(&self) -> u64 {
        self.writer_parts().map_or(0, |writer| writer.log.backlog().0)
    }

    /// Changes the size, which must be a multiple of 4096. A shrink that cuts data off needs
    /// `force`. The new size is durable on return.
    ///
    /// # Errors
    /// `BadSize`, `ShrinkLosesData`, or the volume cannot be written.
    pub fn resize(self: &Arc<Self>, bytes: u64, force: bool) -> Result<()> {
        check_size(bytes)?;
        let writer = self.writer()?;
        let sectors = bytes / SECTOR_BYTES;
        let _alone = writer.resizing.lock();
        if self.core.maps.read().sectors() == sectors {
            return Ok(());
        }
        let beyond = Lba::new(sectors);
        if !force && self.core.ask_maps(|maps| maps.next_data(beyond))?.is_some() {
            return Err(Error::ShrinkLosesData { volume: self.name(), bytes });
        }
        let seq = self.append_patiently(writer, Entry::Resize { sectors }, Pass::Waited)?;
        self.flush_and_wait(writer)?;
        // What other hosts see of the size is in the superblock, with the next checkpoint.
        writer.drain_to(seq);
        writer.orders.checkpoint(false);
        writer.log.wake_tail();
        Ok(())
    }

    fn flush_and_wait(&self, writer: &Writer) -> Result<()> {
        let (tell, told) = crossbeam::channel::bounded(1);
        writer.log.flush(Box::new(move |outcome| {
            // Nobody stops listening before the answer.
            let _ = tell.send(outcome);
        }));
        told.recv().unwrap_or_else(|_| Err(Error::Closing(self.name())))
    }

    /// The first byte at or after `offset` that holds data, if there is any.
    pub fn seek_data(
        self: &Arc<Self>,
        offset: u64,
        done: impl FnOnce(Result<Option<u64>>) + Send + 'static,
    ) {
        let from = Lba::new(offset / SECTOR_BYTES);
        self.ask_maps(
            move |maps| {
                let found = maps.next_data(from)?;
                Ok(found.map(|found| (found.get() * SECTOR_BYTES).max(offset)))
            },
            done,
        );
    }

    /// The first byte at or after `offset` that holds none; the size if there is none before.
    pub fn seek_hole(
        self: &Arc<Self>,
        offset: u64,
        done: impl FnOnce(Result<u64>) + Send + 'static,
    ) {
        let mut from = Lba::new(offset / SECTOR_BYTES);
        self.ask_maps(
            move |maps| {
                // Of a large file the leaves that were passed need not stay until the last is here.
                let found = maps.next_hole(from).map_err(|halted| {
                    from = halted.at;
                    halted.absent
                })?;
                let found = found.get() * SECTOR_BYTES;
                Ok(found.max(offset).min(maps.sectors() * SECTOR_BYTES))
            },
            done,
        );
    }

    /// Asks the maps; elsewhere, if leaves have to be fetched for the answer.
    fn ask_maps<T>(
        self: &Arc<Self>,
        mut ask: impl FnMut(&Maps) -> std::result::Result<T, Absent> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        if let Err(error) = self.core.poison.check_deposed() {
            return done(Err(error));
        }
        let answer = ask(&self.core.maps.read());
        match answer {
            Ok(answer) => done(Ok(answer)),
            Err(_) => {
                let volume = Arc::clone(self);
                self.pool.remote(move || {
                    let answer = volume.core.ask_maps(ask);
                    done(answer.map_err(|error| match &volume.role {
                        Role::Writes(writer) => writer.explain(&volume.core, error),
                        Role::Follows(_) | Role::Stands { .. } => error,
                    }));
                });
            }
        }
    }

    /// Counters and gauges.
    pub fn stats(&self) -> VolumeStats {
        VolumeStats::of(&self.core, self.writer_parts())
    }

    /// Tells the cleaner that there may be something to do.
    pub(crate) fn stir_cleaner(&self) {
        if let Some(writer) = self.writer_parts() {
            writer.cleaner.committed(false);
        }
    }

    pub(crate) fn writer(&self) -> Result<&Writer> {
        self.writer_parts().ok_or_else(|| Error::ReadOnly(self.name()))
    }

    pub(crate) fn writer_parts(&self) -> Option<&Writer> {
        match &self.role {
            Role::Writes(writer) => Some(writer),
            Role::Follows(_) | Role::Stands { .. } => None,
        }
    }

    fn check_range(&self, offset: u64, bytes: u64) -> Result<&Writer> {
        let writer = self.writer()?;
        let size = self.size_bytes();
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(Error::OutOfRange { volume: self.name(), offset, bytes, size });
        }
        Ok(writer)
    }

    /// Appends, waiting as long as it takes or `store-timeout` allows.
    pub(crate) fn append_patiently(
        &self,
        writer: &Writer,
        entry: Entry<'_>,
        pass: Pass,
    ) -> Result<LogSeq> {
        let deadline = Deadline::start(&self.core);
        loop {
            match writer.publisher.append(&writer.log, entry, pass) {
                Ok(seq) => return Ok(seq),
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::Wait(Wait::Range)) => writer.log.wait_for_room(TICK),
                Err(Refused::Wait(_)) => {
                    writer.publisher.in_time(&deadline, &writer.log)?;
                    writer.log.wait_for_room(TICK);
                }
            }
        }
    }

    /// Records the volume's new name, for messages.
    pub(crate) fn renamed(&self, name: &str) {
        *self.core.name.lock() = name.into();
    }
}

/// Whether a volume can have this size.
pub(crate) fn check_size(bytes: u64) -> Result<()> {
    let reason = if !bytes.is_multiple_of(BLOCK_BYTES) {
        "it must be a multiple of 4096"
    } else if bytes > SIZE_MAX {
        "it must be below 2^63 bytes"
    } else {
        return Ok(());
    };
    Err(Error::BadSize { bytes, reason })
}
