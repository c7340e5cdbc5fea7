//! One engine per daemon: a store, a cache directory, and the volumes opened on them.

mod opened;
mod upkeep;
mod volumes;

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
use crate::format::Superblock;
use crate::keys;
use crate::map::LeafStore;
use crate::memory::MemoryBudget;
use crate::name::VolumeName;
use crate::open::Surroundings;
use crate::platform::{Host, Platform};
use crate::pool::Pool;
use crate::probe::probe;
use crate::stream::Stream;
use crate::volume::Volume;

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
