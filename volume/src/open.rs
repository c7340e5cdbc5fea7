//! Opening a volume: the parts put together.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lsvd_store::{Requests, Traffic};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use crate::batch::{Position, WINDOW};
use crate::cache::ReadCache;
use crate::cache_dir::CacheDir;
use crate::config::{MAX_DIRTY_BYTES_MIN, VolumeConfig};
use crate::core::{Core, step_of};
use crate::error::{Error, Result};
use crate::follow::{Follower, OnTop};
use crate::format::{Nonce, ShortText, Snapshot, Stamp, StoreId, VolumeState};
use crate::gc::Readers;
use crate::health::Health;
use crate::history_window::HistoryWindow;
use crate::leaf_loader::LeafLoader;
use crate::log::{Limits, LogOnDisk, LogParams, Start};
use crate::map::{LeafStore, Maps};
use crate::memory::{LeafMemory, MemoryBudget};
use crate::object_index::ObjectIndex;
use crate::platform::Platform;
use crate::poison::Poison;
use crate::pool::Pool;
use crate::read::Reader;
use crate::recover::{Ownership, StreamState, Takeover, Won, ownership, replay};
use crate::reenter::Claim;
use crate::request_stats::RequestStats;
use crate::rollback::Rollback;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::threads;
use crate::units::{Epoch, LogSeq, ObjectSeq};
use crate::volume::{Role, Volume};

/// What the engine lends to each of its volumes.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) cache: Arc<dyn ReadCache>,
    pub(crate) leaves: Arc<LeafStore>,
    /// What map leaves may take up altogether.
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) log_dir: std::path::PathBuf,
    /// The lock of the cache directory, where this engine does not hold it.
    pub(crate) foreign_lock: Option<std::path::PathBuf>,
    /// How old a view may be.
    pub(crate) follow_interval: Duration,
    pub(crate) store_id: StoreId,
}

impl Surroundings {
    /// What it takes to find or make a volume's log.
    pub(crate) fn log_params(&self, name: &str, volume: Uuid, config: &VolumeConfig) -> LogParams {
        LogParams {
            platform: Arc::clone(&self.platform),
            dir: self.log_dir.clone(),
            name: name.to_owned(),
            volume,
            store_id: self.store_id,
            ring_bytes: config.log_bytes,
            window_bytes: config.buffer_bytes,
        }
    }
}

/// A volume about to be opened.
pub(crate) struct Opening<'a> {
    pub(crate) around: &'a Surroundings,
    pub(crate) stream: Stream,
    /// The stream without patience: the uploaders have their own.
    pub(crate) uploads: Stream,
    pub(crate) loader: Arc<LeafLoader>,
    pub(crate) superblock: SuperblockCell,
    pub(crate) config: VolumeConfig,
    /// Requests for the volume's objects, and how many there were before.
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) traffic_before: Requests,
}

impl Opening<'_> {
    pub(crate) fn name(&self) -> String {
        self.superblock.get().name.as_str().to_owned()
    }

    pub(crate) fn log_params(&self) -> LogParams {
        self.around.log_params(&self.name(), self.stream.volume(), &self.config)
    }

    /// The stream from the newest checkpoint on. Objects may be collected while they are read; then
    /// there is a newer checkpoint.
    pub(crate) fn read_stream(&self, log: Option<&LogOnDisk>) -> Result<StreamState> {
        self.read_stream_as(log, None)
    }

    /// As [`Self::read_stream`]; who claims the volume may ask its writer to stop.
    fn read_stream_as(
        &self,
        log: Option<&LogOnDisk>,
        claim: Option<Claim<'_>>,
    ) -> Result<StreamState> {
        let committed = log.map_or(ObjectSeq::ZERO, |log| log.header().committed);
        match self.read_stream_once(committed) {
            Err(error @ Error::Damaged { .. }) => {
                let before = self.superblock.get().checkpoint;
                self.reenter(committed, before, claim)?.ok_or(error)
            }
            read => read,
        }
    }

    pub(crate) fn read_stream_once(&self, committed: ObjectSeq) -> Result<StreamState> {
        let superblock = self.superblock.get();
        if superblock.state == VolumeState::Deleting {
            return Err(Error::NoSuchVolume(self.name()));
        }
        StreamState::read(&self.stream, &superblock, committed, &self.loader)
    }

    pub(crate) fn stale(&self, log: &LogOnDisk, bytes: u64, other: String) -> Error {
        Error::StaleLog { volume: self.name(), path: log.path(), bytes, other }
    }

    fn core(self, maps: Maps, epoch: Epoch, poison: Arc<Poison>) -> Arc<Core> {
        let stored = self.superblock.get().options.sync_remote;
        Arc::new(Core {
            name: Mutex::new(self.name().into()),
            uuid: self.stream.volume(),
            platform: Arc::clone(&self.around.platform),
            epoch,
            sync_remote: self.config.sync_remote.unwrap_or(stored),
            reads_fail: AtomicBool::new(false),
            config: self.config,
            stream: self.stream,
            uploads: self.uploads,
            superblock: Arc::new(self.superblock),
            maps: RwLock::new(maps),
            index: ObjectIndex::default(),
            readers: Readers::default(),
            cache: Arc::clone(&self.around.cache),
            leaves: Arc::clone(&self.around.leaves),
            loader: self.loader,
            memory: LeafMemory::new(Arc::clone(&self.around.memory)),
            health: Health::default(),
            poison,
            traffic: self.traffic,
            traffic_before: self.traffic_before,
            opening: OnceLock::new(),
        })
    }

    /// Opens for reading: the stream, and this host's log on top where it continues it and no
    /// writer is at it. Changes nothing anywhere.
    pub(crate) fn read_only(self) -> Result<Volume> {
        let now = self.around.platform.monotonic();
        let (mut state, log) = self.look()?;
        let mut on_top = None;
        let mut data = None;
        let stream_maps = state.maps.committed_only();
        if let Some(log) = log {
            let replayed = replay(&mut state, &log)?;
            let through = LogSeq::new(replayed.next_seq.get().saturating_sub(1));
            on_top = Some(OnTop { params: self.log_params(), through });
            data = Some(Arc::clone(log.data()));
        }
        let shown = std::mem::replace(&mut state.maps, stream_maps);
        let (pool, interval) = (Arc::clone(&self.around.pool), self.around.follow_interval);
        let core = self.core(shown, Epoch::ZERO, Arc::default());
        core.opened();
        let follower = Follower::new(state, on_top, interval, now);
        Ok(Volume::new(
            Arc::clone(&core),
            Reader::new(core, data),
            Role::Follows(Box::new(follower)),
            pool,
        ))
    }

    /// The stream, and this host's log if it continues the stream and lies still. What a writer in
    /// another process does to its log under a reader's eyes is not to be relied upon.
    fn look(&self) -> Result<(StreamState, Option<LogOnDisk>)> {
        let served = || self.around.foreign_lock.as_deref().is_some_and(CacheDir::is_served);
        if served() {
            return Ok((self.read_stream(None)?, None));
        }
        let found = LogOnDisk::open(&self.log_params(), false).and_then(|log| {
            let state = self.read_stream(log.as_ref())?;
            let Some(log) = log else { return Ok((state, None)) };
            match ownership(&state, &log)? {
                // The scan reads all of it; a writer that began meanwhile shows afterwards.
                Ownership::Ours => log.scan(|_| Ok(())).map(|_| (state, Some(log))),
                Ownership::Contained => Ok((state, None)),
                Ownership::Stale { bytes, other } => {
                    let error = self.stale(&log, bytes, other);
                    log::warn!("reading without the local log: {error}");
                    Ok((state, None))
                }
            }
        });
        if served() { Ok((self.read_stream(None)?, None)) } else { found }
    }

    /// Opens a snapshot for reading. Nothing that happens to the volume changes what it shows.
    pub(crate) fn frozen(self, snapshot: &Snapshot) -> Result<Volume> {
        let state = StreamState::at_snapshot(&self.stream, snapshot, &self.loader)?;
        let pool = Arc::clone(&self.around.pool);
        let core = self.core(state.maps, state.epoch, Arc::default());
        core.opened();
        Ok(Volume::new(
            Arc::clone(&core),
            Reader::new(core, None),
            Role::Stands { snapshot: snapshot.id },
            pool,
        ))
    }

    /// Opens for writing: takes the stream over and recovers the log.
    pub(crate) fn read_write(self) -> Result<Volume> {
        self.write_on(None)
    }

    /// As [`Self::read_write`], and makes the volume what it was at a snapshot.
    pub(crate) fn rolled_back(self, snapshot: &Snapshot) -> Result<Volume> {
        self.write_on(Some(snapshot))
    }

    fn write_on(self, back_to: Option<&Snapshot>) -> Result<Volume> {
        let around = self.around.clone();
        let params = self.log_params();
        let found = LogOnDisk::open(&params, true)?;
        if let Some(log) = &found
            && let Some(Ownership::Stale { bytes, other }) = self.owner_since(log)?
        {
            return Err(self.stale(log, bytes, other));
        }
        let claim = Claim { log: found.as_ref(), ours: false };
        let mut state = self.read_stream_as(found.as_ref(), Some(claim))?;
        self.warn_of_others(&state, found.as_ref());

        let (mut log, ours) = self.own_log(&params, &state, found)?;
        let nonce = log.set_pending(Nonce::new(around.platform.random()))?;
        let won = self.take_over(nonce, &mut state, &log, ours)?;
        // A deletion marks the superblock before it looks for the end of the stream: either it
        // has found this fence, or its mark is found here.
        let found = self.superblock.reread()?;
        if found.is_none_or(|found| found.state == VolumeState::Deleting) {
            return Err(Error::NoSuchVolume(self.name()));
        }
        log::info!(
            "volume {:?}: opened for writing, epoch {}, {} objects read since the checkpoint",
            self.name(),
            state.epoch,
            state.rolled
        );

        let replayed_on = state.maps.sectors();
        let replayed = replay(&mut state, &log)?;
        if replayed.records > 0 {
            log::info!(
                "volume {:?}: {} records of the log replayed",
                self.name(),
                replayed.records
            );
        }
        if let Some(snapshot) = back_to {
            if replayed.records > 0 {
                let by = "its log holds what the store lacks; `lsvd-fuse flush NAME --wait` brings it there".to_owned();
                return Err(Error::InUse { volume: self.name(), by });
            }
            let rollback = Rollback {
                stream: &self.stream,
                loader: &self.loader,
                superblock: &self.superblock,
                platform: &*around.platform,
                snapshot,
            };
            let stamp = self.stamp(won.next, state.epoch, &state);
            rollback.carry_out(&mut state, stamp)?;
        }
        let history = self.history(&mut state)?;
        let has_no_begin = history.is_on() && history.begin().is_none();
        let poison: Arc<Poison> = Arc::default();
        let committed = state.committed();
        let start = Start {
            tail: replayed.tail,
            end: replayed.end,
            next_seq: replayed.next_seq,
            fence: won.fence,
            committed,
            size_sectors: state.maps.sectors(),
        };
        let log = Arc::new(log.start(start, Arc::clone(&poison))?);
        log.begin(Limits {
            bytes: self.config.max_dirty_bytes.map(|bytes| bytes.max(MAX_DIRTY_BYTES_MIN)),
            age: self.config.max_dirty_age,
        });
        let position = Position {
            next: state.next,
            committed,
            epoch: state.epoch,
            log_seq: state.log_seq,
            root: state.root.clone(),
            fences: state.fences.clone(),
            tail: log.header().tail,
            size_sectors: if back_to.is_some() { state.maps.sectors() } else { replayed_on },
            since_checkpoint: state.rolled,
            history,
        };
        let core = self.core(state.maps, state.epoch, poison);
        let cost = RequestStats::new(&core.opened(), 0);
        log::info!("volume {:?}: opening it took {cost}", core.name());
        let writer = threads::start(&core, log, position)?;
        if has_no_begin {
            // What is written from now on is in the window.
            writer.orders.checkpoint(false);
            writer.log.wake_tail();
        }
        let reader = Reader::new(Arc::clone(&core), Some(Arc::clone(writer.log.data())));
        Ok(Volume::new(core, reader, Role::Writes(writer), around.pool))
    }

    /// The log to continue with: the one found, if it is ours, or a new one.
    fn own_log(
        &self,
        params: &LogParams,
        state: &StreamState,
        found: Option<LogOnDisk>,
    ) -> Result<(LogOnDisk, bool)> {
        if let Some(log) = found {
            match ownership(state, &log)? {
                Ownership::Ours => return Ok((log, true)),
                Ownership::Stale { bytes, other } => return Err(self.stale(&log, bytes, other)),
                Ownership::Contained => discard(params, &log)?,
            }
        }
        let nonce = Nonce::new(self.around.platform.random());
        Ok((LogOnDisk::create(params, nonce, state.log_seq.next())?, false))
    }

    /// The window of history, in which nothing is collected.
    fn history(&self, state: &mut StreamState) -> Result<HistoryWindow> {
        let retention = self.config.history;
        let mut window = HistoryWindow::load(
            retention,
            &self.stream,
            &self.superblock.get(),
            state.maps.objects(),
        )?;
        let since = window.advance(self.around.platform.unix_millis(), state.maps.objects());
        state.maps.objects_mut().set_history(since);
        Ok(window)
    }

    /// What an object says that is put at the end of the stream.
    fn stamp(&self, seq: ObjectSeq, epoch: Epoch, state: &StreamState) -> Stamp {
        let platform = &self.around.platform;
        Stamp {
            volume: self.stream.volume(),
            seq,
            epoch,
            nonce: Nonce::new(platform.random()),
            window: WINDOW as u32,
            committed: state.committed(),
            log_seq: state.log_seq,
            size_sectors: state.maps.sectors(),
            written_ms: platform.unix_millis(),
        }
    }

    fn take_over(
        &self,
        nonce: Nonce,
        state: &mut StreamState,
        log: &LogOnDisk,
        ours: bool,
    ) -> Result<Won> {
        let platform = &self.around.platform;
        let stamp = |seq, epoch, state: &StreamState| self.stamp(seq, epoch, state);
        let step = |name| platform.failpoint(name).map_err(|e| Error::local(name, "pass", e));
        let host = ShortText::truncated(&platform.host_name());
        let announce = |epoch: Epoch| self.announce(|found| found.max(epoch));
        let announced = || self.superblock.get().epoch;
        let committed = log.header().committed;
        let claim = Claim { log: Some(log), ours };
        let reenter = |state: &StreamState| self.reenter(committed, state.entered, Some(claim));
        let covered = || {
            let found = self.superblock.reread()?;
            let found = found.ok_or_else(|| Error::NoSuchVolume(self.name()))?;
            Ok(found.checkpoint.map_or(ObjectSeq::ZERO, |checkpoint| checkpoint.covers))
        };
        let takeover = Takeover {
            stream: &self.stream,
            volume: self.name().into(),
            stamp: &stamp,
            host,
            step: &step,
            announce: &announce,
            announced: &announced,
            reenter: &reenter,
            covered: &covered,
        };
        takeover.fence(nonce, state, |state| self.settle(&state.fences, log, ours).map(drop))
    }

    /// Says so if a log that is not here may hold what the store does not.
    fn warn_of_others(&self, state: &StreamState, found: Option<&LogOnDisk>) {
        let Some(newest) = state.newest_fence().filter(|_| !state.clean) else { return };
        let (name, host) = (self.name(), newest.host.as_str());
        if host != self.around.platform.host_name() {
            log::warn!(
                "volume {name:?}: host {host:?} had it open for writing and did not close it: its \
                 log may hold writes that are not in the store and will be refused there from now on"
            );
        } else if found.is_none() {
            log::warn!(
                "volume {name:?}: it was not closed, and its log is not in this cache directory: it \
                 goes on with what the store holds, without writes that were only in the log"
            );
        }
    }
}

/// Removes a log and its memory.
pub(crate) fn discard(params: &LogParams, log: &LogOnDisk) -> Result<()> {
    step_of(&*params.platform, "log.discard")?;
    params.platform.remove_buffer(&params.dir, log.header().log_id.get());
    let removed = params.platform.remove_log(&params.path());
    removed.map_err(|e| Error::local(log.path(), "remove", e))?;
    step_of(&*params.platform, "log.discarded")
}
