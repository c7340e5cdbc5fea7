//! The volumes that are open: at most once for writing, any number of times for reading.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lsvd_store::{ObjectStore, RetryStore, SystemSleeper};
use uuid::Uuid;

use super::{Engine, patience};
use crate::error::{Error, Result};
use crate::leaf_loader::LeafLoader;
use crate::name::VolumeName;
use crate::open::Opening;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::threads::{Close, close};
use crate::volume::Volume;

impl Engine {
    pub(crate) fn opening(&self, name: &VolumeName, superblock: SuperblockCell) -> Opening<'_> {
        let config = self.volume_config(name);
        let patient: Arc<dyn ObjectStore> = Arc::new(RetryStore::new(
            Arc::clone(&self.store),
            patience(config.read_patience()),
            Arc::new(SystemSleeper::new()),
            self.stop.clone(),
        ));
        let traffic = self.store.group(&superblock.get().volume.to_string());
        let bases = superblock.get().bases;
        let stream = Stream::new(patient, superblock.get().volume).on(&bases);
        let loader = LeafLoader::new(stream.clone(), Arc::clone(&self.around.leaves));
        Opening {
            around: &self.around,
            traffic_before: traffic.requests(),
            traffic,
            stream,
            loader: Arc::new(loader),
            uploads: Stream::new(self.store(), superblock.get().volume).on(&bases),
            superblock,
            config,
        }
    }

    /// Opens a volume for reading. Fences nobody; shows what the store holds and, where this
    /// host wrote last, its log on top, and follows whoever writes it. If the volume is open for
    /// writing here, that one.
    ///
    /// # Errors
    /// There is none of that name, it is damaged, or the store fails.
    pub fn open_reader(&self, name: &VolumeName) -> Result<Arc<Volume>> {
        let _alone = self.transition(name)?;
        let found = self.catalog.find(name)?;
        if let Some(open) = self.writers.lock().get(&found.get().volume) {
            return Ok(Arc::clone(open));
        }
        Ok(Arc::new(self.opening(name, found).read_only()?))
    }

    /// Opens a volume for writing: fences other hosts, recovers the log. A second call returns
    /// the same volume.
    ///
    /// # Errors
    /// As [`Self::open_reader`]; [`Error::StaleLog`] where this host's log cannot be replayed.
    pub fn open_writer(&self, name: &VolumeName) -> Result<Arc<Volume>> {
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        let found = self.catalog.find(name)?;
        let uuid = found.get().volume;
        if let Some(open) = self.writers.lock().get(&uuid) {
            return Ok(Arc::clone(open));
        }
        if self.config.no_fencing {
            log::warn!(
                "volume {:?}: opened for writing with --no-fencing: if a second host opens it as well, \
                 both write and the volume is destroyed",
                name.as_str()
            );
        }
        let volume = Arc::new(self.opening(name, found).read_write()?);
        self.writers.lock().insert(uuid, Arc::clone(&volume));
        Ok(volume)
    }

    /// Remembers that a snapshot is open.
    pub(crate) fn note_view(&self, snapshot: u64, volume: &Arc<Volume>) {
        let mut views = self.views.lock();
        views.retain(|(_, view)| view.strong_count() > 0);
        views.push((snapshot, Arc::downgrade(volume)));
    }

    /// Whether a snapshot is open.
    pub(crate) fn is_viewed(&self, snapshot: u64) -> bool {
        let views = self.views.lock();
        views.iter().any(|(id, view)| *id == snapshot && view.strong_count() > 0)
    }

    /// The volume, if it is open for writing here.
    pub fn opened(&self, name: &VolumeName) -> Option<Arc<Volume>> {
        self.writers.lock().values().find(|volume| volume.name() == name.as_str()).cloned()
    }

    /// All volumes that are open for writing here.
    pub fn all_opened(&self) -> Vec<Arc<Volume>> {
        self.writers.lock().values().cloned().collect()
    }

    /// Closes a volume that is open for writing; others are left alone. A shutdown meanwhile
    /// turns a drain into [`Close::Keep`].
    ///
    /// # Errors
    /// The volume had failed, or the SSD does now; it is closed all the same.
    pub fn close(&self, name: &VolumeName, how: Close) -> Result<()> {
        let _alone = self.transition(name)?;
        let Some(volume) = self.opened(name) else { return Ok(()) };
        self.writers.lock().remove(&volume.uuid());
        close(&volume, how, &mut |_| !self.ending.load(Ordering::SeqCst)).map(drop)
    }

    /// Closes all volumes and ends the engine's threads; returns the bytes left in the logs. `progress` is told a few times a
    /// second how many bytes are still to be uploaded; returning false leaves the rest in the
    /// logs.
    ///
    /// # Errors
    /// The first error of a volume; all are closed.
    pub fn shutdown(&self, how: Close, progress: &mut dyn FnMut(u64) -> bool) -> Result<u64> {
        self.ending.store(true, Ordering::SeqCst);
        if how == Close::Keep {
            self.stop.set();
        }
        let _alone = self.transition.lock();
        let mut open: Vec<_> = self.writers.lock().drain().map(|(_, volume)| volume).collect();
        for volume in &open {
            if let (Close::Drain, Some(writer)) = (how, volume.writer_parts()) {
                // All drain at once; each is then waited for in turn.
                writer.drain_to(writer.log.last_seq());
            }
        }
        let mut outcome = Ok(0);
        let mut how = how;
        while let Some(volume) = open.pop() {
            let rest: u64 = open.iter().map(|v| v.dirty_bytes()).sum();
            let mut go_on = true;
            let closed = close(&volume, how, &mut |left| {
                go_on = go_on && progress(left + rest);
                if !go_on {
                    self.stop.set();
                }
                go_on
            });
            if !go_on {
                how = Close::Keep;
            }
            match closed {
                Ok(left) => outcome = outcome.map(|sum| sum + left),
                Err(error) => {
                    log::error!("volume {:?}: {error}", volume.name());
                    outcome = outcome.and(Err(error));
                }
            }
        }
        self.stop.set();
        self.around.pool.stop();
        outcome
    }

    pub(crate) fn check_closed(&self, name: &VolumeName, volume: Uuid) -> Result<()> {
        if !self.writers.lock().contains_key(&volume) {
            return Ok(());
        }
        let by = "this daemon has it open for writing".to_owned();
        Err(Error::InUse { volume: name.to_string(), by })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // After an orderly shutdown there is nothing left to do.
        if let Err(error) = self.shutdown(Close::Keep, &mut |_| true) {
            log::error!("{error}");
        }
    }
}
