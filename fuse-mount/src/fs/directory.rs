//! What is known of the store's volumes, so that `stat` and `ls` need not ask the store.
//!
//! Knowledge is used for [`FRESH`] and then asked for again, but only if somebody wants to
//! know: an idle mount makes no requests. What came in while the store was being asked (a
//! create, a rename) is never overwritten by the older answer; `changes` tells.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsvd_volume::{Uuid, VolumeInfo, VolumeName};

use super::inode::{Node, ino_of};

/// How long an answer of the store is believed.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// Names remembered as absent; beyond that all are forgotten.
const ABSENT_MAX: usize = 1024;

/// What is known.
#[derive(Default)]
pub(crate) struct Directory {
    by_name: BTreeMap<VolumeName, Arc<Node>>,
    by_ino: HashMap<u64, Arc<Node>>,
    absent: HashMap<VolumeName, Instant>,
    listed: Option<Instant>,
    /// Sizes of volumes whose last word is in the local log, not yet replayed.
    sizes_in_logs: HashMap<Uuid, u64>,
    changes: u64,
}

/// What is known of a name.
pub(crate) enum Known {
    /// The volume, and nothing needs asking.
    Sure(Arc<Node>),
    /// There is none, and nothing needs asking.
    Absent,
    /// Ask the store; this is what it said last.
    Ask(Option<Arc<Node>>),
}

impl Directory {
    /// A mark to compare with when an answer arrives.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// What is known of `name`.
    pub(crate) fn find(&self, name: &VolumeName) -> Known {
        match self.by_name.get(name) {
            Some(node) if node.volume().is_some() || node.meta.lock().seen.elapsed() < FRESH => {
                Known::Sure(node.clone())
            }
            Some(node) => Known::Ask(Some(node.clone())),
            None if self.absent.get(name).is_some_and(|at| at.elapsed() < FRESH) => Known::Absent,
            None => Known::Ask(None),
        }
    }

    /// The volume with this inode.
    pub(crate) fn by_ino(&self, ino: u64) -> Option<Arc<Node>> {
        self.by_ino.get(&ino).cloned()
    }

    /// All volumes, by name.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.by_name.values().cloned().collect()
    }

    /// Whether the last listing is still believed.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Takes in what the store said of one volume, asked when `changes` was `asked_at`.
    pub(crate) fn absorb(
        &mut self,
        name: VolumeName,
        info: &VolumeInfo,
        asked_at: u64,
    ) -> Arc<Node> {
        self.absent.remove(&name);
        if let Some(node) = self.by_ino.get(&ino_of(info.uuid)).cloned() {
            if asked_at == self.changes {
                self.rename_node(&node, &name);
                let mut meta = node.meta.lock();
                meta.attrs = info.attrs;
                meta.size_bytes = info.size_bytes;
                meta.seen = Instant::now();
                // The file's own time is newer while somebody writes.
                if meta.writers == 0 {
                    node.set_modified(info.attrs.modified_ms);
                }
            }
            return node;
        }
        let node = Node::new(name.clone(), info);
        if let Some(replaced) = self.by_name.insert(name, node.clone()) {
            self.by_ino.remove(&replaced.ino);
        }
        self.by_ino.insert(node.ino, node.clone());
        node
    }

    /// Takes in a listing, asked for when `changes` was `asked_at`.
    pub(crate) fn absorb_list(&mut self, infos: Vec<(VolumeName, VolumeInfo)>, asked_at: u64) {
        let mut gone: Vec<VolumeName> = self.by_name.keys().cloned().collect();
        for (name, info) in infos {
            self.absorb(name.clone(), &info, asked_at);
            gone.retain(|known| *known != name);
        }
        if asked_at == self.changes {
            for name in gone {
                self.forget_unless_open(&name);
            }
            self.listed = Some(Instant::now());
        }
    }

    /// The store said that there is no such volume.
    pub(crate) fn is_absent(&mut self, name: VolumeName, asked_at: u64) {
        if asked_at != self.changes {
            return;
        }
        self.forget_unless_open(&name);
        if self.absent.len() >= ABSENT_MAX {
            self.absent.clear();
        }
        self.absent.insert(name, Instant::now());
    }

    /// A volume was made here.
    pub(crate) fn created(&mut self, name: VolumeName, info: &VolumeInfo) -> Arc<Node> {
        self.changes += 1;
        let now = self.changes;
        self.absorb(name, info, now)
    }

    /// A volume was renamed here.
    pub(crate) fn renamed(&mut self, node: &Arc<Node>, to: &VolumeName) {
        self.changes += 1;
        self.absent.remove(to);
        self.rename_node(node, to);
    }

    /// A volume was deleted here.
    pub(crate) fn deleted(&mut self, node: &Arc<Node>) {
        self.changes += 1;
        self.by_name.retain(|_, known| known.ino != node.ino);
        self.by_ino.remove(&node.ino);
        self.sizes_in_logs.remove(&node.uuid);
    }

    /// The size that the volume's local log says, if it was looked up before.
    pub(crate) fn size_in_log(&self, uuid: Uuid) -> Option<u64> {
        self.sizes_in_logs.get(&uuid).copied()
    }

    /// The volume's local log was read.
    pub(crate) fn found_in_log(&mut self, uuid: Uuid, bytes: u64) {
        self.sizes_in_logs.insert(uuid, bytes);
    }

    /// The volume's local log was replayed, or given up.
    pub(crate) fn log_is_open(&mut self, uuid: Uuid) {
        self.sizes_in_logs.remove(&uuid);
    }

    /// A volume's attributes or size were changed here.
    pub(crate) fn changed(&mut self) {
        self.changes += 1;
    }

    fn rename_node(&mut self, node: &Arc<Node>, to: &VolumeName) {
        let from = std::mem::replace(&mut node.meta.lock().name, to.clone());
        if from != *to {
            if self.by_name.get(&from).is_some_and(|known| known.ino == node.ino) {
                self.by_name.remove(&from);
            }
            self.by_name.insert(to.clone(), node.clone());
        }
    }

    fn forget_unless_open(&mut self, name: &VolumeName) {
        let Some(node) = self.by_name.get(name) else { return };
        if node.volume().is_none() && node.meta.lock().users == 0 {
            let ino = node.ino;
            self.by_name.remove(name);
            self.by_ino.remove(&ino);
        }
    }
}
