//! How a volume fares: counters, and the state of its store.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Counters and the last trouble of one volume.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) writes: AtomicU64,
    pub(crate) write_bytes: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) trims: AtomicU64,
    pub(crate) objects_put: AtomicU64,
    pub(crate) object_bytes_put: AtomicU64,
    trouble: Mutex<Trouble>,
}

/// What is known of the store's present trouble.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble {
    /// Since when, in milliseconds since 1970; `None` when all is well.
    pub(crate) since_ms: Option<u64>,
    /// The last error seen, whether or not it is over.
    pub(crate) last_error: Option<String>,
}

impl Health {
    /// Notes that the store failed. Says so in the log once per outage.
    pub(crate) fn store_failed(&self, now_ms: u64, volume: &str, error: &dyn std::fmt::Display) {
        let mut trouble = self.trouble.lock();
        if trouble.since_ms.is_none() {
            log::warn!("volume {volume:?}: {error}; trying on");
            trouble.since_ms = Some(now_ms);
        }
        trouble.last_error = Some(error.to_string());
    }

    /// Notes that the store answered.
    pub(crate) fn store_answered(&self, now_ms: u64, volume: &str) {
        let mut trouble = self.trouble.lock();
        if let Some(since) = trouble.since_ms.take() {
            let seconds = now_ms.saturating_sub(since) / 1000;
            log::info!("volume {volume:?}: the store answers again after {seconds} s");
        }
    }

    /// The store's present trouble.
    pub(crate) fn trouble(&self) -> Trouble {
        self.trouble.lock().clone()
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
