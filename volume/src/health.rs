//! How a volume fares: counters, and the state of its store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    pub(crate) coalesced_bytes: AtomicU64,
    pub(crate) gc_moved_bytes: AtomicU64,
    pub(crate) gc_deleted_objects: AtomicU64,
    pub(crate) gc_deleted_bytes: AtomicU64,
    trouble: Mutex<Trouble>,
    rate: Mutex<Rate>,
}

/// What is known of the store's present trouble.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble {
    /// Since when, in milliseconds since 1970; `None` when all is well.
    pub(crate) since_ms: Option<u64>,
    /// The last error seen, whether or not it is over.
    pub(crate) last_error: Option<String>,
    /// When the log last said so.
    told_ms: u64,
    /// The store's last sign of life when requests were last failed for its silence.
    gave_up: Option<Duration>,
}

/// How fast the store takes data, smoothed.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    at: Duration,
    bytes_per_s: f64,
}

/// How often the log says that an outage goes on, in milliseconds.
const TELL_EVERY_MS: u64 = 60_000;

/// The time in which an older rate counts half.
const RATE_HALF_LIFE: Duration = Duration::from_secs(10);

impl Health {
    /// Notes that the store failed; `dirty` bytes wait for it. An outage is an event in the log:
    /// a line when it begins, one a minute while it lasts, one when it ends.
    pub(crate) fn store_failed(
        &self,
        now_ms: u64,
        volume: &str,
        dirty: u64,
        error: &dyn std::fmt::Display,
    ) {
        let mut trouble = self.trouble.lock();
        match trouble.since_ms {
            None => {
                log::warn!("volume {volume:?}: the store fails, trying on: {error}");
                trouble.since_ms = Some(now_ms);
                trouble.told_ms = now_ms;
            }
            Some(since) if now_ms.saturating_sub(trouble.told_ms) >= TELL_EVERY_MS => {
                let seconds = now_ms.saturating_sub(since) / 1000;
                log::warn!(
                    "volume {volume:?}: the store has been failing for {seconds} s, {dirty} bytes \
                     wait in the log: {error}"
                );
                trouble.told_ms = now_ms;
            }
            Some(_) => {}
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

    /// Notes that a request was failed because the store did nothing since `progress`. Says so in
    /// the log once until the store does something.
    pub(crate) fn gave_up(&self, progress: Duration, error: &dyn std::fmt::Display) {
        let mut trouble = self.trouble.lock();
        if trouble.gave_up != Some(progress) {
            trouble.gave_up = Some(progress);
            log::error!("{error}; requests that need the store fail until then");
        }
    }

    /// Notes that the store took `bytes` of log by `now`, on which it worked since `begun`.
    pub(crate) fn uploaded(&self, now: Duration, begun: Duration, bytes: u64) {
        let mut rate = self.rate.lock();
        let took = now.saturating_sub(rate.at.max(begun)).max(Duration::from_millis(1));
        let seen = bytes as f64 / took.as_secs_f64();
        let keep = 0.5_f64.powf(took.as_secs_f64() / RATE_HALF_LIFE.as_secs_f64());
        let first = rate.bytes_per_s == 0.0;
        rate.bytes_per_s = if first { seen } else { rate.bytes_per_s * keep + seen * (1.0 - keep) };
        rate.at = now;
    }

    /// Bytes of log that the store takes in a second; 0 if it has taken none yet.
    pub(crate) fn upload_rate(&self) -> u64 {
        self.rate.lock().bytes_per_s as u64
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
