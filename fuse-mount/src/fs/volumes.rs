//! The volumes of a store, as a mount and as the commands act on them. Every call may wait.
//!
//! This is the one place that opens, resizes, renames and deletes: the file system calls it
//! from its pool, the control socket from its own threads, a command without a daemon directly.
//! So the file system's knowledge is never behind what a command did.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lsvd_volume::{
    BLOCK_BYTES, Close, Engine, Error, FileAttrs, Result, SIZE_MAX, Volume, VolumeInfo, VolumeName,
};
use parking_lot::Mutex;

use super::directory::{Directory, Known};
use super::inode::Node;

/// Least and most bytes by which a volume is grown ahead of a program that appends to it.
const GROW_AHEAD: (u64, u64) = (16 << 20, 1 << 30);

/// How long a store that did not answer is not asked for what is known already: each try may take
/// half a minute, and `ls` makes one for each file.
const AWAY_PAUSE: Duration = Duration::from_secs(60);

/// How long the end of a mount waits for an operation on a volume to finish.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

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

    /// Makes a volume.
    pub(crate) fn create(
        &self,
        name: &VolumeName,
        size_bytes: u64,
        attrs: FileAttrs,
        sync_remote: Option<bool>,
    ) -> Result<Arc<Node>> {
        self.refuse_if_read_only(name)?;
        let info = self.engine.create_with(name, size_bytes, attrs, sync_remote)?;
        Ok(self.directory.lock().created(name.clone(), &info))
    }

    /// Notes a new user and opens the volume as they need it; [`Volumes::release`] undoes it.
    pub(crate) fn open(&self, node: &Arc<Node>, write: bool) -> Result<()> {
        if self.open_at_once(node, write)? {
            return Ok(());
        }
        let opened = self.ensure_open(node, write);
        if opened.is_err() {
            self.leave(node, write);
        }
        opened.map(drop)
    }

    /// As [`Volumes::open`] where that needs no waiting: `Ok(true)` if it is open now. After
    /// `Ok(false)` the user is noted and [`Volumes::finish_open`] must follow.
    pub(crate) fn open_at_once(&self, node: &Node, write: bool) -> Result<bool> {
        let mut meta = node.meta.lock();
        if write && self.read_only {
            return Err(Error::ReadOnly(meta.name.to_string()));
        }
        if meta.deleting {
            return Err(Error::NoSuchVolume(meta.name.to_string()));
        }
        meta.users += 1;
        meta.writers += u32::from(write);
        drop(meta);
        let at_once = |volume: &Volume| !volume.needs_refresh();
        Ok(node.volume().is_some_and(
            |volume| {
                if write { !volume.is_read_only() } else { at_once(&volume) }
            },
        ))
    }

    /// The part of [`Volumes::open`] that waits.
    pub(crate) fn finish_open(&self, node: &Arc<Node>, write: bool) -> Result<()> {
        let opened = self.ensure_open(node, write);
        if opened.is_err() {
            self.leave(node, write);
        }
        opened.map(drop)
    }

    /// A user is gone. `true` if it was the last one that could write: see [`Volumes::settle`].
    pub(crate) fn release(&self, node: &Node, write: bool) -> bool {
        self.leave(node, write)
    }

    fn leave(&self, node: &Node, write: bool) -> bool {
        let mut meta = node.meta.lock();
        meta.users = meta.users.saturating_sub(1);
        meta.writers = meta.writers.saturating_sub(u32::from(write));
        let (unused, unwritten) = (meta.users == 0, write && meta.writers == 0);
        drop(meta);
        // A reader grows old: the next one sees the store as it is then. A writer is kept, as
        // loop devices come back.
        if unused && node.volume().is_some_and(|volume| volume.is_read_only()) {
            node.set_volume(None);
        }
        unwritten
    }

    /// The volume, opened as needed.
    fn ensure_open(&self, node: &Node, write: bool) -> Result<Arc<Volume>> {
        let _shape = node.shape.lock();
        self.ensure_open_in_shape(node, write)
    }

    fn ensure_open_in_shape(&self, node: &Node, write: bool) -> Result<Arc<Volume>> {
        if let Some(volume) = node.volume()
            && (!write || !volume.is_read_only())
        {
            volume.refresh()?;
            return Ok(volume);
        }
        let name = node.name();
        let volume = match self.engine.opened(&name) {
            Some(writer) => writer,
            None if write => self.engine.open_writer(&name)?,
            None => self.engine.open_reader(&name)?,
        };
        if write {
            self.directory.lock().log_is_open(node.uuid);
        }
        node.set_volume(Some(volume.clone()));
        Ok(volume)
    }

    /// The volume, open for writing, for an operation that is not part of an open file.
    pub(crate) fn writer(&self, node: &Node) -> Result<Arc<Volume>> {
        self.refuse_if_read_only(&node.name())?;
        self.ensure_open(node, true)
    }

    /// Sets the size.
    pub(crate) fn resize(&self, node: &Node, bytes: u64, force: bool) -> Result<()> {
        let name = node.name();
        self.refuse_if_read_only(&name)?;
        check_size(bytes)?;
        let _shape = node.shape.lock();
        let volume = self.ensure_open_in_shape(node, true)?;
        volume.resize(bytes, force)?;
        node.end_with_volume();
        node.touch();
        node.meta.lock().size_bytes = bytes;
        self.directory.lock().changed();
        Ok(())
    }

    /// Makes room for a write that ends at `end`. The volume grows ahead of the file, so that
    /// a program that appends does not pay for a resize with every write.
    pub(crate) fn grow_for(&self, node: &Node, end: u64) -> Result<Arc<Volume>> {
        let _shape = node.shape.lock();
        let volume = self.ensure_open_in_shape(node, true)?;
        let size = volume.size_bytes();
        if end <= size {
            return Ok(volume);
        }
        let file_end = node.size_in(&volume);
        volume.resize(grown_size(end)?, false)?;
        node.end_before_volume(file_end);
        Ok(volume)
    }

    /// After the last writer: cuts off what was grown ahead, keeps the time of change.
    pub(crate) fn settle(&self, node: &Node) -> Result<()> {
        let _shape = node.shape.lock();
        if node.meta.lock().writers > 0 {
            return Ok(());
        }
        self.cut_to_end(node)?;
        self.keep_times(node)
    }

    /// Settles every volume, before the engine closes. Without `store`, only what needs none.
    pub(crate) fn settle_all(&self, store: bool) {
        if store {
            // Whoever waits for the end expects everything in the store.
            self.resume_uploads();
        }
        for node in self.known_nodes() {
            // Somebody may hold it who waits for a store that is gone.
            let Some(_shape) = node.shape.try_lock_for(SETTLE_PATIENCE) else { continue };
            let settled = self
                .cut_to_end(&node)
                .and_then(|()| if store { self.keep_times(&node) } else { Ok(()) });
            if let Err(error) = settled {
                log::warn!("{}: {error}", node.name());
            }
        }
    }

    /// Opens the volumes for writing of which a log on this host holds what the store lacks, so
    /// that it gets there. Those that cannot be opened are named in the daemon's log.
    pub(crate) fn resume_uploads(&self) {
        if self.read_only {
            return;
        }
        let infos = match self.engine.list() {
            Ok(infos) => infos,
            Err(error) => return log::warn!("cannot look for uploads to go on with: {error}"),
        };
        for info in infos {
            if info.live.is_some() || info.log.is_none_or(|log| log.clean) {
                continue;
            }
            let node = VolumeName::new(&info.name).and_then(|name| self.find(&name));
            if let Err(error) = node.and_then(|node| self.writer(&node)) {
                log::error!("volume {:?}: its log stays as it is: {error}", info.name);
            }
        }
    }

    /// Makes the volume as short as its file; `shape` is held.
    fn cut_to_end(&self, node: &Node) -> Result<()> {
        let (Some(volume), Some(end)) = (node.volume(), node.early_end()) else { return Ok(()) };
        let bytes = end.next_multiple_of(BLOCK_BYTES).min(volume.size_bytes());
        volume.resize(bytes, true)?;
        node.end_with_volume();
        node.meta.lock().size_bytes = bytes;
        Ok(())
    }

    /// Keeps the time of change in the store; `shape` is held.
    fn keep_times(&self, node: &Node) -> Result<()> {
        let (name, attrs) = (node.name(), node.attrs_now());
        if self.read_only || attrs == node.meta.lock().attrs {
            return Ok(());
        }
        self.engine.set_attrs(&name, attrs)?;
        self.directory.lock().changed();
        node.meta.lock().attrs = attrs;
        Ok(())
    }

    /// Keeps owner, group, mode and time of change.
    pub(crate) fn set_attrs(&self, node: &Node, change: impl FnOnce(&mut FileAttrs)) -> Result<()> {
        let _shape = node.shape.lock();
        let name = node.name();
        self.refuse_if_read_only(&name)?;
        let mut attrs = node.attrs_now();
        change(&mut attrs);
        self.engine.set_attrs(&name, attrs)?;
        // First this, so that no older answer comes over what is noted next.
        self.directory.lock().changed();
        node.meta.lock().attrs = attrs;
        node.set_modified(attrs.modified_ms);
        Ok(())
    }

    /// Gives a volume another name.
    pub(crate) fn rename(&self, node: &Arc<Node>, to: &VolumeName) -> Result<()> {
        let _shape = node.shape.lock();
        let from = node.name();
        self.refuse_if_read_only(&from)?;
        if from == *to {
            return Ok(());
        }
        self.engine.rename(&from, to)?;
        self.directory.lock().renamed(node, to);
        Ok(())
    }

    /// Deletes a volume that nobody uses.
    pub(crate) fn delete(&self, node: &Arc<Node>) -> Result<()> {
        let _shape = node.shape.lock();
        let name = node.name();
        self.refuse_if_read_only(&name)?;
        {
            let mut meta = node.meta.lock();
            if meta.users > 0 {
                let by = format!(
                    "{} open file{} of the mount",
                    meta.users,
                    if meta.users == 1 { "" } else { "s" }
                );
                return Err(Error::InUse { volume: name.to_string(), by });
            }
            meta.deleting = true;
        }
        node.set_volume(None);
        let deleted = self.close_if_open(&name).and_then(|()| self.engine.delete(&name));
        match &deleted {
            Ok(()) => self.directory.lock().deleted(node),
            Err(_) => node.meta.lock().deleting = false,
        }
        deleted
    }

    /// Makes a volume that nobody uses what it was when a snapshot was made.
    pub(crate) fn roll_back(&self, node: &Arc<Node>, snapshot: &VolumeName) -> Result<()> {
        let _shape = node.shape.lock();
        let name = node.name();
        self.refuse_if_read_only(&name)?;
        // Before the volume is closed.
        self.engine.snapshot_exists(&name, snapshot)?;
        let users = node.meta.lock().users;
        if users > 0 {
            let by = format!("{users} open file{} of the mount", if users == 1 { "" } else { "s" });
            return Err(Error::InUse { volume: name.to_string(), by });
        }
        self.ensure_open_in_shape(node, true)?;
        node.set_volume(None);
        self.engine.close(&name, Close::Drain)?;
        let rolled = self.engine.roll_back(&name, snapshot);
        self.directory.lock().changed();
        let info = self.engine.info(&name)?;
        node.end_with_volume();
        node.touch();
        node.meta.lock().size_bytes = info.size_bytes;
        rolled
    }

    /// Notes that a volume was made.
    pub(crate) fn made(&self, name: &VolumeName, info: &VolumeInfo) {
        self.directory.lock().created(name.clone(), info);
    }

    /// As [`Volumes::delete`]; with `force` also one whose superblock is damaged or missing.
    pub(crate) fn delete_by_name(&self, name: &VolumeName, force: bool) -> Result<()> {
        match self.find(name).and_then(|node| self.delete(&node)) {
            Err(Error::Damaged { .. } | Error::NewerFormat { .. } | Error::NoSuchVolume(_))
                if force =>
            {
                self.delete_damaged(name)
            }
            Err(Error::Damaged { what, detail }) => {
                let hint =
                    format!("`lsvd-fuse delete {name} --force` deletes the volume all the same");
                Err(Error::Damaged { what, detail: format!("{detail}; {hint}") })
            }
            deleted => deleted,
        }
    }

    fn delete_damaged(&self, name: &VolumeName) -> Result<()> {
        self.refuse_if_read_only(name)?;
        self.engine.delete_damaged(name)?;
        match self.known(name) {
            Known::Sure(node) | Known::Ask(Some(node)) => self.directory.lock().deleted(&node),
            Known::Absent | Known::Ask(None) => self.directory.lock().changed(),
        }
        Ok(())
    }

    /// Gives up a stale log.
    pub(crate) fn discard_log(&self, node: &Node) -> Result<u64> {
        let _shape = node.shape.lock();
        let name = node.name();
        self.refuse_if_read_only(&name)?;
        let discarded = self.engine.discard_log(&name)?;
        self.directory.lock().log_is_open(node.uuid);
        Ok(discarded)
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

    fn close_if_open(&self, name: &VolumeName) -> Result<()> {
        match self.engine.opened(name) {
            // What is deleted next need not reach the store.
            Some(_) => self.engine.close(name, Close::Keep),
            None => Ok(()),
        }
    }

    fn refuse_if_read_only(&self, name: &VolumeName) -> Result<()> {
        if self.read_only { Err(Error::ReadOnly(name.to_string())) } else { Ok(()) }
    }
}

fn check_size(bytes: u64) -> Result<()> {
    if !bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(Error::BadSize { bytes, reason: "not a multiple of 4096" });
    }
    if bytes > SIZE_MAX {
        return Err(Error::BadSize { bytes, reason: "2^63 bytes or more" });
    }
    Ok(())
}

/// The size to grow to for a write that ends at `end`.
fn grown_size(end: u64) -> Result<u64> {
    let (least, most) = GROW_AHEAD;
    let exact = end.checked_next_multiple_of(BLOCK_BYTES).filter(|bytes| *bytes <= SIZE_MAX);
    let exact = exact.ok_or(Error::BadSize { bytes: end, reason: "2^63 bytes or more" })?;
    Ok(exact.saturating_add(exact.next_power_of_two().clamp(least, most)).min(SIZE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_ahead_aligned_and_bounded() {
        for end in [1, 4096, 4097, 1 << 30, 1 << 40, SIZE_MAX - 1, SIZE_MAX] {
            let grown = grown_size(end).unwrap();
            assert!(
                grown >= end && grown.is_multiple_of(BLOCK_BYTES) && grown <= SIZE_MAX,
                "{end}"
            );
            assert!(grown - end <= GROW_AHEAD.1 + BLOCK_BYTES);
        }
        assert!(grown_size(SIZE_MAX + 1).is_err());
        assert!(grown_size(u64::MAX).is_err());
    }
}
