//! The volumes of a store, as a mount and as the commands act on them. Every call may wait.
//!
//! ```text
//!   volumes   what is known and told       opening   users, opening, closing
//!   shape     sizes, attributes            life      create, rename, roll back, delete
//! ```
//! This is the one place that opens, resizes, renames and deletes: the file system calls it
//! from its pool, the control socket from its own threads, a command without a daemon directly.
//! So the file system's knowledge is never behind what a command did.

mod life;
mod opening;
mod shape;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lsvd_volume::{Engine, Error, Result, VolumeInfo, VolumeName};
use parking_lot::Mutex;

use super::directory::{Directory, Known};
use super::inode::Node;

/// How long a store that did not answer is not asked for what is known already: each try may take
/// half a minute, and `ls` makes one for each file.
const AWAY_PAUSE: Duration = Duration::from_secs(60);

/// The volumes.
pub(crate) struct Volumes {
    engine: Arc<Engine>,
    directory: Mutex<Directory>,
    read_only: bool,
    /// When the store did not answer last.
    away: Mutex<Option<Instant>>,
}

impl Volumes {
    /// The volumes of `engine`'s store.
    pub(crate) fn new(engine: Arc<Engine>, read_only: bool) -> Arc<Self> {
        Arc::new(Self { engine, directory: Mutex::default(), read_only, away: Mutex::default() })
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Whether nothing may be changed.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What is known without asking the store.
    pub(crate) fn known(&self, name: &VolumeName) -> Known {
        self.directory.lock().find(name)
    }

    /// The volume with this inode, if the kernel was ever told of it.
    pub(crate) fn by_ino(&self, ino: u64) -> Option<Arc<Node>> {
        self.directory.lock().by_ino(ino)
    }

    /// The volumes as last known, without asking.
    pub(crate) fn known_nodes(&self) -> Vec<Arc<Node>> {
        self.directory.lock().nodes()
    }

    /// The volume of this name; asks the store if what is known is old.
    pub(crate) fn find(&self, name: &VolumeName) -> Result<Arc<Node>> {
        let (known, asked_at) = {
            let directory = self.directory.lock();
            (directory.find(name), directory.changes())
        };
        let before = match known {
            Known::Sure(node) => {
                if let Some(volume) = node.volume() {
                    // What another host writes shows in the file's size.
                    volume.refresh()?;
                }
                return Ok(node);
            }
            Known::Absent => return Err(Error::NoSuchVolume(name.to_string())),
            Known::Ask(before) => before,
        };
        if let Some(node) = before.as_ref().filter(|_| self.is_away()) {
            return Ok(Arc::clone(node));
        }
        match self.info(name) {
            Ok(info) => Ok(self.directory.lock().absorb(name.clone(), &info, asked_at)),
            Err(error @ Error::NoSuchVolume(_)) => {
                self.directory.lock().is_absent(name.clone(), asked_at);
                Err(error)
            }
            Err(error) => match before {
                // A store that does not answer must not take `ls` with it.
                Some(node) if matches!(error, Error::Store(_)) => {
                    self.went_away();
                    log::warn!("{name}: showing what was known before: {error}");
                    Ok(node)
                }
                _ => Err(error),
            },
        }
    }

    /// As [`Volumes::find`] where that needs no waiting.
    pub(crate) fn find_at_once(&self, name: &VolumeName) -> Known {
        match self.known(name) {
            Known::Sure(node) if node.volume().is_some_and(|volume| volume.needs_refresh()) => {
                Known::Ask(Some(node))
            }
            known => known,
        }
    }

    /// Whether the store is not worth asking for what is known already: it just did not answer, or an
    /// open volume waits for it.
    fn is_away(&self) -> bool {
        let silent = self.away.lock().is_some_and(|since| since.elapsed() < AWAY_PAUSE);
        silent || self.engine.waits_for_store()
    }

    fn went_away(&self) {
        *self.away.lock() = Some(Instant::now());
    }

    /// All volumes; asks the store if the last listing is old.
    pub(crate) fn list_nodes(&self) -> Result<Vec<Arc<Node>>> {
        let asked_at = {
            let directory = self.directory.lock();
            if directory.is_listed() {
                return Ok(directory.nodes());
            }
            directory.changes()
        };
        let known = self.known_nodes();
        if !known.is_empty() && self.is_away() {
            return Ok(known);
        }
        match self.infos() {
            Ok(infos) => {
                // What cannot be read is no file.
                let named = infos
                    .into_iter()
                    .filter(|info| info.damaged.is_none())
                    .filter_map(|info| Some((VolumeName::new(&info.name).ok()?, info)));
                let named = named.collect();
                let mut directory = self.directory.lock();
                directory.absorb_list(named, asked_at);
                Ok(directory.nodes())
            }
            Err(error @ Error::Store(_)) => {
                if known.is_empty() {
                    return Err(error);
                }
                self.went_away();
                log::warn!("listing what was known before: {error}");
                Ok(known)
            }
            Err(error) => Err(error),
        }
    }

    /// What is to be told of a volume.
    pub(crate) fn info(&self, name: &VolumeName) -> Result<VolumeInfo> {
        Ok(self.with_size_in_log(self.engine.info(name)?))
    }

    /// What is to be told of all volumes, those included that cannot be read.
    pub(crate) fn infos(&self) -> Result<Vec<VolumeInfo>> {
        Ok(self.engine.list()?.into_iter().map(|info| self.with_size_in_log(info)).collect())
    }

    /// After a crash the newest size may be in the local log alone. Looking for it reads the
    /// log, so what was found is kept until the volume is opened for writing.
    fn with_size_in_log(&self, mut info: VolumeInfo) -> VolumeInfo {
        if info.live.is_some() || info.log.as_ref().is_none_or(|log| log.clean) {
            return info;
        }
        let known = self.directory.lock().size_in_log(info.uuid);
        let found = known.or_else(|| {
            let name = VolumeName::new(&info.name).ok()?;
            match self.engine.open_reader(&name) {
                Ok(volume) => Some(volume.size_bytes()),
                Err(error) => {
                    log::debug!("{name}: showing the size in the store: {error}");
                    None
                }
            }
        });
        if let Some(bytes) = found {
            info.size_bytes = bytes;
            self.directory.lock().found_in_log(info.uuid, bytes);
        }
        info
    }

    fn refuse_if_read_only(&self, name: &VolumeName) -> Result<()> {
        if self.read_only { Err(Error::ReadOnly(name.to_string())) } else { Ok(()) }
    }
}
