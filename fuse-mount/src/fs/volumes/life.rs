//! How a volume comes to be, gets another name or an older state, and ends.

use std::sync::Arc;

use lsvd_volume::{Close, Error, FileAttrs, Result, VolumeInfo, VolumeName};

use super::Volumes;
use crate::fs::directory::Known;
use crate::fs::inode::{Meta, Node};

impl Volumes {
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
            refuse_if_used(&meta)?;
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
        refuse_if_used(&node.meta.lock())?;
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

    fn close_if_open(&self, name: &VolumeName) -> Result<()> {
        match self.engine.opened(name) {
            // What is deleted next need not reach the store.
            Some(_) => self.engine.close(name, Close::Keep),
            None => Ok(()),
        }
    }
}

fn refuse_if_used(meta: &Meta) -> Result<()> {
    let users = meta.users;
    if users == 0 {
        return Ok(());
    }
    let by = format!("{users} open file{} of the mount", if users == 1 { "" } else { "s" });
    Err(Error::InUse { volume: meta.name.to_string(), by })
}
