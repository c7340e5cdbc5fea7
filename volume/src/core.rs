//! What all threads of one open volume share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use lsvd_store::{Requests, Traffic};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use crate::cache::ReadCache;
use crate::config::VolumeConfig;
use crate::error::{Error, Result};
use crate::gc::Readers;
use crate::health::Health;
use crate::leaf_loader::LeafLoader;
use crate::map::{Absent, LeafStore, Maps};
use crate::memory::LeafMemory;
use crate::object_index::ObjectIndex;
use crate::platform::Platform;
use crate::poison::Poison;
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::units::Epoch;

/// See the module; the crate's documentation has the order of locks.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) name: Mutex<Arc<str>>,
    pub(crate) uuid: Uuid,
    pub(crate) platform: Arc<dyn Platform>,
    /// That of its writer here, if there is one.
    pub(crate) epoch: Epoch,
    pub(crate) config: VolumeConfig,
    /// Whether a flush waits for the store.
    pub(crate) sync_remote: bool,
    /// Whether the last read that needed the store failed.
    pub(crate) reads_fail: AtomicBool,
    pub(crate) stream: Stream,
    /// The stream without patience: the uploaders have their own.
    pub(crate) uploads: Stream,
    pub(crate) superblock: Arc<SuperblockCell>,
    pub(crate) maps: RwLock<Maps>,
    pub(crate) index: ObjectIndex,
    /// Reads under way.
    pub(crate) readers: Readers,
    pub(crate) cache: Arc<dyn ReadCache>,
    pub(crate) leaves: Arc<LeafStore>,
    pub(crate) loader: Arc<LeafLoader>,
    pub(crate) memory: LeafMemory,
    pub(crate) health: Health,
    pub(crate) poison: Arc<Poison>,
    /// Requests for this volume's objects, and how many there were before it was opened.
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) traffic_before: Requests,
    /// What opening it cost.
    pub(crate) opening: OnceLock<Requests>,
}

/// Passes a durability step of what is not a volume's own thread; an error is a simulated crash.
pub(crate) fn step_of(platform: &dyn Platform, name: &'static str) -> Result<()> {
    platform.failpoint(name).map_err(|e| Error::local(name, "pass", e))
}

impl Core {
    /// The volume's present name.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.lock())
    }

    /// Requests for this volume's objects since its opening began.
    pub(crate) fn requests(&self) -> Requests {
        self.traffic.requests().since(&self.traffic_before)
    }

    /// Notes that the volume is open.
    pub(crate) fn opened(&self) -> Requests {
        *self.opening.get_or_init(|| self.requests())
    }

    /// Fetches a leaf of the map that a lookup found absent. The caller counts as a reader, so that the
    /// checkpoint that holds it stays.
    pub(crate) fn fetch_leaf(&self, Absent(at): Absent) -> Result<()> {
        let leaf = self.loader.load(&at)?;
        let mut maps = self.maps.write();
        self.loader.put(&mut maps, &at, leaf)?;
        self.memory.settle(&mut maps);
        Ok(())
    }

    /// Asks the maps, and fetches what leaves the answer needs.
    pub(crate) fn ask_maps<T>(
        &self,
        mut ask: impl FnMut(&Maps) -> std::result::Result<T, Absent>,
    ) -> Result<T> {
        let _reading = self.readers.begin();
        loop {
            let answer = ask(&self.maps.read());
            match answer {
                Ok(answer) => return Ok(answer),
                Err(absent) => self.fetch_leaf(absent)?,
            }
        }
    }

    /// Why a thread of this volume has ended.
    pub(crate) fn end_cause(&self) -> Error {
        match self.poison.cause() {
            Some(cause) => cause.clone(),
            None => Error::Closing(self.name().to_string()),
        }
    }

    /// Passes a durability step; an error is a simulated crash there.
    pub(crate) fn step(&self, name: &'static str) -> Result<()> {
        self.platform.failpoint(name).map_err(|e| Error::Poisoned {
            volume: self.name().to_string(),
            cause: format!("stopped at {name}: {e}").into(),
        })
    }
}
