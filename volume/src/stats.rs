//! What an open volume shows of itself.

use std::sync::atomic::Ordering;

use crate::core::Core;
use crate::error::Error;
use crate::gc::GcReport;
use crate::history_window::HistoryBegin;
use crate::request_stats::RequestStats;
use crate::units::SECTOR_BYTES;
use crate::writer::Writer;

/// Counters since the volume was opened, and gauges.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct VolumeStats {
    /// `healthy`, `degraded` (the store does not answer), `failed` (takes no more writes),
    /// `fenced` (another host has it), `deleted` (by another host), `read-only`.
    pub state: String,
    /// The last error of the store, or what poisoned the volume.
    pub last_error: Option<String>,
    /// Since when the store does not answer, in milliseconds since 1970.
    pub degraded_since_ms: Option<u64>,
    /// Bytes of log not yet committed in the store.
    pub dirty_bytes: u64,
    /// Size of the log's ring.
    pub log_bytes: u64,
    /// How long the oldest dirty byte has been waiting; 0 if there is none.
    pub oldest_dirty_age_ms: u64,
    /// Bytes of log that the store takes in a second, smoothed over the last uploads.
    pub upload_bytes_per_s: u64,
    /// How long the store needs for what is dirty; absent while that cannot be known.
    pub drain_seconds: Option<u64>,
    /// Whether a flush waits for the store.
    pub sync_remote: bool,
    /// Bytes that hold data.
    pub allocated_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read requests.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Discard requests.
    pub trims: u64,
    /// Objects created.
    pub objects_put: u64,
    /// Bytes of objects created.
    pub object_bytes_put: u64,
    /// Bytes written that were not sent, because a later write of the same batch replaced them.
    #[serde(default)]
    pub coalesced_bytes: u64,
    /// The highest object committed.
    pub committed_object: u64,
    /// From where on any moment can be had, if history is kept.
    #[serde(default)]
    pub history: Option<HistoryBegin>,
    /// Space in the store, and what was done for it.
    #[serde(default)]
    pub gc: GcReport,
    /// Requests for this volume's objects since its opening began.
    pub requests: RequestStats,
    /// Those that opening it took.
    pub opening: RequestStats,
}

impl VolumeStats {
    /// The state in which all is well.
    pub const HEALTHY: &str = "healthy";
    /// The state in which the store does not answer.
    pub const DEGRADED: &str = "degraded";

    pub(crate) fn of(core: &Core, writer: Option<&Writer>) -> Self {
        let health = &core.health;
        let trouble = health.trouble();
        let poison = core.poison.cause();
        let state = match (poison, writer, trouble.since_ms) {
            (Some(Error::Fenced { .. }), ..) => "fenced",
            (Some(Error::Deleted(_)), ..) => "deleted",
            (Some(_), ..) => "failed",
            (None, None, _) => "read-only",
            (None, Some(_), Some(_)) => Self::DEGRADED,
            (None, Some(_), None) => Self::HEALTHY,
        };
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let age = writer
            .and_then(|w| w.log.oldest())
            .map_or(0, |since| core.platform.monotonic().saturating_sub(since).as_millis() as u64);
        // Each takes the maps' lock, which must not be taken twice.
        let allocated_bytes = core.maps.read().allocated_sectors() * SECTOR_BYTES;
        let gc = crate::gc::report(core);
        let dirty_bytes = writer.map_or(0, |w| w.log.backlog().0);
        let rate = health.upload_rate();
        let drain_seconds = match (dirty_bytes, rate) {
            (0, _) => Some(0),
            (_, 0) => None,
            _ if trouble.since_ms.is_some() => None,
            (dirty, rate) => Some(dirty.div_ceil(rate)),
        };
        Self {
            state: state.to_owned(),
            last_error: poison.map(ToString::to_string).or(trouble.last_error),
            degraded_since_ms: trouble.since_ms,
            dirty_bytes,
            upload_bytes_per_s: rate,
            drain_seconds,
            sync_remote: core.sync_remote,
            log_bytes: writer.map_or(0, |w| w.log.ring_bytes()),
            oldest_dirty_age_ms: age,
            allocated_bytes,
            writes: load(&health.writes),
            write_bytes: load(&health.write_bytes),
            reads: load(&health.reads),
            read_bytes: load(&health.read_bytes),
            flushes: load(&health.flushes),
            trims: load(&health.trims),
            objects_put: load(&health.objects_put),
            object_bytes_put: load(&health.object_bytes_put),
            coalesced_bytes: load(&health.coalesced_bytes),
            history: writer.and_then(|w| w.orders.history()),
            gc,
            requests: RequestStats::new(&core.requests(), load(&health.write_bytes)),
            opening: core
                .opening
                .get()
                .map_or_else(RequestStats::default, |r| RequestStats::new(r, 0)),
            committed_object: writer.map_or(0, |w| w.orders.committed_object().get()),
        }
    }
}
