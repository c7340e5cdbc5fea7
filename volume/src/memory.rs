//! The ceiling on the memory that map leaves take up, shared by all volumes of an engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::map::Maps;

/// What an eviction makes room for beyond what is needed, as a part of the ceiling: each one passes
/// over many leaves.
const SLACK_PARTS: u64 = 32;

/// This part of the ceiling a volume may have also when others hold all of it.
const FLOOR_PARTS: u64 = 16;

/// What all volumes may take up together.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
}

/// What one volume does.
#[derive(Debug)]
pub(crate) struct LeafMemory {
    budget: Arc<MemoryBudget>,
    /// Counted in `budget`; changed under the lock of the volume's maps.
    own: AtomicU64,
}

impl MemoryBudget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }
}

impl LeafMemory {
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, own: AtomicU64::new(0) }
    }

    /// Counts what `maps` take up, and has them let go of leaves if all volumes together are above
    /// the ceiling.
    pub(crate) fn settle(&self, maps: &mut Maps) {
        let MemoryBudget { limit, used } = &*self.budget;
        let all = self.count(maps);
        // However much others hold, it keeps what it works with.
        let spare = maps.clean().resident_bytes().saturating_sub(limit / FLOOR_PARTS);
        if all > *limit && spare > 0 {
            maps.evict(spare.min(all - limit + limit / SLACK_PARTS));
            self.count(maps);
            log::trace!("map leaves: {all} bytes of {limit}, now {}", used.load(Ordering::Relaxed));
        }
    }

    /// Whether what `maps` have to keep until the next checkpoint is more than this part of the
    /// ceiling.
    pub(crate) fn is_pressed(&self, maps: &Maps, parts: u64) -> bool {
        let limit = self.budget.limit / parts;
        maps.clean().resident_bytes() > limit && maps.clean().changed_bytes() > limit
    }

    fn count(&self, maps: &Maps) -> u64 {
        let now = maps.clean().resident_bytes();
        let before = self.own.swap(now, Ordering::Relaxed);
        let used = &self.budget.used;
        if now >= before {
            used.fetch_add(now - before, Ordering::Relaxed) + (now - before)
        } else {
            used.fetch_sub(before - now, Ordering::Relaxed) - (before - now)
        }
    }
}

impl Drop for LeafMemory {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(*self.own.get_mut(), Ordering::Relaxed);
    }
}
