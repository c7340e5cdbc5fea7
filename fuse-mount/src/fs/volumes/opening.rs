//! Who uses a volume, and whether it is open as they need it.

use std::sync::Arc;

use lsvd_volume::{Error, Result, Volume, VolumeName};

use super::Volumes;
use crate::fs::inode::Node;

impl Volumes {
    /// Notes a new user and opens the volume as they need it; [`Volumes::release`] undoes it.
    pub(crate) fn open(&self, node: &Arc<Node>, write: bool) -> Result<()> {
        if self.open_at_once(node, write)? { Ok(()) } else { self.finish_open(node, write) }
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
            self.release(node, write);
        }
        opened.map(drop)
    }

    /// A user is gone. `true` if it was the last one that could write: see [`Volumes::settle`].
    pub(crate) fn release(&self, node: &Node, write: bool) -> bool {
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

    /// As `ensure_open`; `shape` is held.
    pub(super) fn ensure_open_in_shape(&self, node: &Node, write: bool) -> Result<Arc<Volume>> {
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
}
