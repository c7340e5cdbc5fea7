//! One engine per daemon: a store, a cache directory, and the volumes opened on them.

mod upkeep;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lsvd_store::{
    CountingStore, ObjectStore, Requests, RetryPolicy, RetryStore, Stop, SystemSleeper,
};
use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::cache::{CacheStats, FileCache, NoCache, ReadCache};
use crate::cache_dir::{CacheDir, store_id};
use crate::catalog::Catalog;
use crate::config::{EngineConfig, VolumeConfig};
use crate::error::{Error, Result};
use crate::format::{FileAttrs, ShortText, StoredOptions, Superblock, VolumeState};
use crate::info::{LogInfo, VolumeInfo};
use crate::inspect::{self, Inspect, InspectReport};
use crate::keys;
use crate::leaf_loader::LeafLoader;
use crate::log::LogOnDisk;
use crate::map::LeafStore;
use crate::memory::MemoryBudget;
use crate::name::VolumeName;
use crate::open::{Opening, Surroundings, discard};
use crate::platform::{Host, Platform};
use crate::pool::Pool;
use crate::probe::probe;
use crate::recover::{Ownership, ownership};
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::threads::{Close, close};
use crate::units::{Epoch, ObjectSeq};
use crate::volume::{Volume, check_size};

/// How a read, or an opening, waits for a store that does not answer: for so long, and then for
/// the attempt under way.
fn patience(deadline: Duration) -> RetryPolicy {
    RetryPolicy {
        attempts_max: u32::MAX,
        deadline,
        backoff_initial: Duration::from_millis(50),
        backoff_max: Duration::from_secs(5),
        jitter_percent: 50,
    }
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    /// The store as it is, its requests counted: for uploads, which have a patience of their own.
    store: Arc<CountingStore<Arc<dyn ObjectStore>>>,
    /// The same, trying again for a while: for everything else.
    patient: Arc<dyn ObjectStore>,
    /// Ends the waiting for the store.
    stop: Stop,
    pub(crate) catalog: Catalog,
    config: EngineConfig,
    around: Surroundings,
    read_only: bool,
    writers: Mutex<HashMap<Uuid, Arc<Volume>>>,
    /// Snapshots that were opened, by their identity.
    views: Mutex<Vec<(u64, Weak<Volume>)>>,
    /// Settings of volumes that have their own.
    volume_configs: Mutex<HashMap<String, VolumeConfig>>,
    /// Set once the engine is shutting down: nobody begins to wait any more.
    ending: AtomicBool,
    /// Held while a volume is opened, closed, renamed or deleted.
    transition: Mutex<()>,
    /// What is known of the store's ability to keep two hosts apart.
    fencing: Mutex<Option<Result<()>>>,
    dir: CacheDir,
}

impl Engine {
    /// Opens the store with a cache directory, which is locked for this engine.
    ///
    /// # Errors
    /// Another process has the directory, it belongs to another store, or the SSD fails.
    pub fn open(store: Arc<dyn ObjectStore>, config: EngineConfig) -> Result<Arc<Self>> {
        let dir = CacheDir::lock(&config.cache_dir, store.identity())?;
        Self::assemble(store, config, Arc::new(Host::new()), dir, false)
    }

    /// As [`Self::open`], on a machine of the caller's making: for tests and simulation.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(
        platform: Arc<dyn Platform>,
        store: Arc<dyn ObjectStore>,
        config: EngineConfig,
    ) -> Result<Arc<Self>> {
        let dir = CacheDir::lock(&config.cache_dir, store.identity())?;
        Self::assemble(store, config, platform, dir, false)
    }

    /// Opens the store for looking only; nothing is locked and nothing changed.
    ///
    /// # Errors
    /// The cache directory belongs to another store.
    pub fn open_read_only(store: Arc<dyn ObjectStore>, config: EngineConfig) -> Result<Arc<Self>> {
        let dir = CacheDir::look(&config.cache_dir, store.identity())?;
        Self::assemble(store, config, Arc::new(Host::new()), dir, true)
    }

    fn assemble(
        store: Arc<dyn ObjectStore>,
        config: EngineConfig,
        platform: Arc<dyn Platform>,
        dir: CacheDir,
        read_only: bool,
    ) -> Result<Arc<Self>> {
        let cache: Arc<dyn ReadCache> = if read_only || config.cache_bytes == 0 {
            Arc::new(NoCache)
        } else {
            open_cache(&dir, config.cache_bytes)
        };
        let leaves = if read_only { LeafStore::none() } else { LeafStore::open(&dir.leaves()) };
        let around = Surroundings {
            pool: Arc::new(Pool::start(&platform)?),
            platform,
            cache,
            leaves: Arc::new(leaves),
            memory: Arc::new(MemoryBudget::new(config.map_memory_bytes)),
            log_dir: dir.logs(),
            foreign_lock: read_only.then(|| dir.lock_file()),
            follow_interval: config.follow_interval,
            store_id: store_id(store.url()),
        };
        let store = Arc::new(CountingStore::grouped(store, keys::volume_of));
        let stop = Stop::new();
        let patient: Arc<dyn ObjectStore> = Arc::new(RetryStore::new(
            Arc::clone(&store),
            patience(config.volume.read_patience()),
            Arc::new(SystemSleeper::new()),
            stop.clone(),
        ));
        Ok(Arc::new(Self {
            catalog: Catalog::new(Arc::clone(&patient), Arc::clone(&around.platform)),
            patient,
            store,
            stop,
            config,
            around,
            read_only,
            writers: Mutex::default(),
            views: Mutex::default(),
            volume_configs: Mutex::default(),
            ending: AtomicBool::new(false),
            transition: Mutex::default(),
            fencing: Mutex::default(),
            dir,
        }))
    }

    /// The store's URL.
    pub fn store_url(&self) -> &str {
        self.store.url()
    }

    /// The requests made to the store so far.
    pub fn requests(&self) -> Requests {
        self.store.requests()
    }

    /// Those of them that were for one volume's objects, its name record not counted.
    pub fn requests_of(&self, volume: Uuid) -> Requests {
        self.store.group(&volume.to_string()).requests()
    }

    /// Whether the store does not answer what an open volume asks of it.
    pub fn waits_for_store(&self) -> bool {
        self.writers.lock().values().any(|volume| volume.core.health.trouble().since_ms.is_some())
    }

    /// How the read cache fares.
    pub fn cache_stats(&self) -> CacheStats {
        self.around.cache.stats()
    }

    /// Gives one volume settings of its own, from its next opening on.
    pub fn configure_volume(&self, name: &VolumeName, config: VolumeConfig) {
        self.volume_configs.lock().insert(name.to_string(), config);
    }

    fn volume_config(&self, name: &VolumeName) -> VolumeConfig {
        let own = self.volume_configs.lock().get(name.as_str()).cloned();
        own.unwrap_or_else(|| self.config.volume.clone())
    }

    /// Begins a step that changes which volumes there are or are open. While the engine ends it
    /// is refused at once: the end may wait for the store for long.
    pub(crate) fn transition(&self, name: &VolumeName) -> Result<MutexGuard<'_, ()>> {
        let closing = || Error::Closing(name.to_string());
        if self.ending.load(Ordering::SeqCst) {
            return Err(closing());
        }
        let alone = self.transition.lock();
        if self.ending.load(Ordering::SeqCst) { Err(closing()) } else { Ok(alone) }
    }

    fn check_writable(&self, name: &str) -> Result<()> {
        if self.read_only { Err(Error::ReadOnly(name.to_string())) } else { Ok(()) }
    }

    /// Fails if nothing may be changed, or if the store was tried and cannot keep two hosts apart.
    pub(crate) fn check_may_write(&self, name: &VolumeName) -> Result<()> {
        self.check_may_change(name.as_str())
    }

    fn check_may_change(&self, what: &str) -> Result<()> {
        self.check_writable(what)?;
        if self.config.no_fencing {
            return Ok(());
        }
        let mut known = self.fencing.lock();
        if let Some(verdict) = &*known {
            return verdict.clone();
        }
        if self.dir.is_probed() {
            return known.insert(Ok(())).clone();
        }
        match probe(&self.patient, &self.around.platform) {
            Ok(()) => {
                log::info!("{}: tried, and keeps two hosts apart", self.store.url());
                if let Err(error) = self.dir.note_probed() {
                    log::warn!("the store will be tried again at the next mount: {error}");
                }
                known.insert(Ok(())).clone()
            }
            Err(error @ Error::NoFencing { .. }) => known.insert(Err(error)).clone(),
            Err(error) => Err(error),
        }
    }

    /// Makes a volume of `size_bytes`, a multiple of 4096.
    ///
    /// # Errors
    /// The name is taken, the size is impossible, or the store fails.
    pub fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        attrs: FileAttrs,
    ) -> Result<VolumeInfo> {
        self.create_with(name, size_bytes, attrs, None)
    }

    /// As [`Self::create`]; `sync_remote` says whether a flush waits for the store, wherever the
    /// volume is opened and nothing else is set there. Without a word: as the settings here say.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_with(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        attrs: FileAttrs,
        sync_remote: Option<bool>,
    ) -> Result<VolumeInfo> {
        check_size(size_bytes)?;
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        let uuid = self.fresh_uuid();
        let config = self.volume_config(name);
        let sync_remote = sync_remote.or(config.sync_remote).unwrap_or(false);
        let options = StoredOptions { compression: config.compression, sync_remote };
        let made = self.catalog.create(Superblock {
            volume: uuid,
            name: ShortText::truncated(name.as_str()),
            generation: 1,
            state: VolumeState::Live,
            size_bytes,
            epoch: Epoch::ZERO,
            committed: ObjectSeq::ZERO,
            checkpoint: None,
            previous_checkpoint: None,
            options,
            attrs,
            last_host: ShortText::truncated(&self.host_name()),
            snapshots: Vec::new(),
            bases: Vec::new(),
            history: None,
            unknown: Vec::new(),
        })?;
        Ok(self.describe(&made))
    }

    /// All volumes by name, those included whose superblock cannot be read.
    ///
    /// # Errors
    /// The store fails.
    pub fn list(&self) -> Result<Vec<VolumeInfo>> {
        let mut infos = Vec::new();
        let found =
            self.catalog.list(|name, error| infos.push(VolumeInfo::unreadable(name, &error)))?;
        infos.extend(found.iter().map(|superblock| self.describe(superblock)));
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    /// One volume.
    ///
    /// # Errors
    /// There is none of that name, or the store fails. A volume that is open for writing here is
    /// told of without the store.
    pub fn info(&self, name: &VolumeName) -> Result<VolumeInfo> {
        // What is open here needs no store, which may be away just when one wants to know.
        if let Some(open) = self.opened(name) {
            return Ok(self.describe(&open.core.superblock.get()));
        }
        Ok(self.describe(&self.catalog.find(name)?.get()))
    }

    pub(crate) fn fresh_uuid(&self) -> Uuid {
        let random = self.around.platform.random().to_le_bytes();
        uuid::Builder::from_random_bytes(random).into_uuid()
    }

    /// The store as it is, without patience.
    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as Arc<dyn ObjectStore>
    }

    pub(crate) fn host_name(&self) -> String {
        self.around.platform.host_name()
    }

    pub(crate) fn unix_millis(&self) -> u64 {
        self.around.platform.unix_millis()
    }

    /// Passes a step at which a test may stop the engine.
    pub(crate) fn step(&self, name: &'static str) -> Result<()> {
        self.around.platform.failpoint(name).map_err(|e| Error::local(name, "pass", e))
    }

    /// The stream of a volume, for reading.
    pub(crate) fn stream_of(&self, superblock: &Superblock) -> Stream {
        Stream::new(Arc::clone(&self.patient), superblock.volume).on(&superblock.bases)
    }

    pub(crate) fn describe(&self, superblock: &Superblock) -> VolumeInfo {
        let open = self.writers.lock().get(&superblock.volume).cloned();
        let name = superblock.name.as_str();
        let params = self.around.log_params(name, superblock.volume, &self.config.volume);
        // What cannot be read is reported when the volume is opened.
        let log = LogOnDisk::open(&params, false).ok().flatten().map(|log| LogInfo {
            path: log.path(),
            bytes: log.header().ring_bytes,
            clean: log.header().clean,
        });
        VolumeInfo {
            name: superblock.name.as_str().to_owned(),
            state: state_of(open.as_deref(), log.as_ref()),
            uuid: superblock.volume,
            size_bytes: open.as_ref().map_or(superblock.size_bytes, |v| v.size_bytes()),
            attrs: open.as_ref().map_or(superblock.attrs, |v| v.core.superblock.get().attrs),
            epoch: superblock.epoch.get(),
            last_host: superblock.last_host.as_str().to_owned(),
            sync_remote: superblock.options.sync_remote,
            live: open.map(|volume| volume.stats()),
            log,
            damaged: None,
        }
    }

    /// Gives a volume another name; allowed while it is open.
    ///
    /// # Errors
    /// There is none of the old name or one of the new, or the store fails.
    pub fn rename(&self, from: &VolumeName, to: &VolumeName) -> Result<()> {
        self.check_may_write(from)?;
        let _alone = self.transition(from)?;
        let found = self.catalog.find(from)?;
        let open = self.writers.lock().get(&found.get().volume).cloned();
        match open {
            Some(volume) => {
                self.catalog.rename(&volume.core.superblock, from, to)?;
                volume.renamed(to.as_str());
            }
            None => self.catalog.rename(&found, from, to)?,
        }
        let own = self.volume_configs.lock().remove(from.as_str());
        if let Some(own) = own {
            self.volume_configs.lock().insert(to.to_string(), own);
        }
        Ok(())
    }

    /// Deletes a volume with all its data, here and in the store.
    ///
    /// # Errors
    /// It is open here, there is none of that name, or the store fails.
    pub fn delete(&self, name: &VolumeName) -> Result<()> {
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        self.delete_found(name, &self.catalog.find_to_delete(name)?)
    }

    fn delete_found(&self, name: &VolumeName, found: &SuperblockCell) -> Result<()> {
        let uuid = found.get().volume;
        self.check_closed(name, uuid)?;
        self.check_no_snapshots(name, found)?;
        let params = self.around.log_params(name.as_str(), uuid, &self.config.volume);
        let log = LogOnDisk::open(&params, false);
        self.catalog.delete(found, name, |nonce| {
            log.as_ref().is_ok_and(|log| log.as_ref().is_some_and(|log| log.owns(nonce)))
        })?;
        self.around.leaves.remove_volume(uuid);
        match log {
            Ok(Some(log)) => discard(&params, &log),
            Ok(None) => Ok(()),
            Err(_) => self
                .around
                .platform
                .remove_log(&params.path())
                .map_err(|e| Error::local(params.path(), "remove", e)),
        }
    }

    /// Records owner, mode and times of a volume's file.
    ///
    /// # Errors
    /// There is none of that name, or the store fails.
    pub fn set_attrs(&self, name: &VolumeName, attrs: FileAttrs) -> Result<()> {
        self.check_may_write(name)?;
        let found = self.catalog.find(name)?;
        let open = self.writers.lock().get(&found.get().volume).cloned();
        if let Some(volume) = &open {
            volume.core.poison.check_deposed()?;
        }
        let change = |superblock: &mut Superblock| {
            superblock.attrs = attrs;
            Ok(())
        };
        match open {
            Some(volume) => volume.core.superblock.update(change),
            None => found.update(change),
        }
    }

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

    /// Looks into a volume's parts; changes nothing. Of an open volume the log is not scanned.
    ///
    /// # Errors
    /// There is no such volume or object, or what is looked at is damaged.
    pub fn inspect(&self, name: &VolumeName, what: Inspect) -> Result<InspectReport> {
        let found = self.catalog.find(name)?;
        let superblock = found.get();
        let opening = self.opening(name, found);
        match what {
            Inspect::Object(seq) => inspect::object(&opening.stream, seq),
            Inspect::Map => {
                let mut state = opening.read_stream(None)?;
                inspect::map(&mut state)
            }
            Inspect::Summary => {
                let params = opening.log_params();
                let open = self.writers.lock().contains_key(&superblock.volume);
                let log = if open { None } else { LogOnDisk::open(&params, false)? };
                let state = opening.read_stream(log.as_ref())?;
                inspect::volume(&superblock, &state, log.as_ref())
            }
        }
    }

    /// Gives up what this host's stale log of a volume holds and the store does not; returns
    /// how many bytes of log that were. A log that continues the volume's history is no one's to
    /// give up: opening the volume replays it.
    ///
    /// # Errors
    /// The volume is open, the log is not stale, or the SSD or the store fails.
    pub fn discard_log(&self, name: &VolumeName) -> Result<u64> {
        self.check_writable(name.as_str())?;
        let _alone = self.transition(name)?;
        let found = self.catalog.find(name)?;
        self.check_closed(name, found.get().volume)?;
        let opening = self.opening(name, found);
        let params = opening.log_params();
        let Some(log) = LogOnDisk::open(&params, false)? else { return Ok(0) };
        let owner = match opening.owner_since(&log)? {
            Some(owner) => owner,
            None => ownership(&opening.read_stream(Some(&log))?, &log)?,
        };
        let bytes = match owner {
            Ownership::Stale { bytes, .. } => bytes,
            Ownership::Contained => 0,
            Ownership::Ours => {
                let by = "its log on this host is not stale, but the newest part of the volume; the \
                          next opening replays it";
                return Err(Error::InUse { volume: name.to_string(), by: by.to_owned() });
            }
        };
        discard(&params, &log)?;
        Ok(bytes)
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

/// The state of a volume in a word or two.
fn state_of(open: Option<&Volume>, log: Option<&LogInfo>) -> String {
    match (open, log) {
        (Some(volume), _) => volume.stats().state,
        (None, Some(log)) if !log.clean => "not drained".to_owned(),
        (None, _) => "closed".to_owned(),
    }
}

/// A cache that cannot be had is done without.
fn open_cache(dir: &CacheDir, bytes: u64) -> Arc<dyn ReadCache> {
    match FileCache::open(&dir.read_cache(), bytes) {
        Ok(cache) => Arc::new(cache),
        Err(error) => {
            log::warn!("no read cache: {error}");
            Arc::new(NoCache)
        }
    }
}
