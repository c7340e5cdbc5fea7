//! The settings that a volume can have of its own.

use std::time::Duration;

use anyhow::Result;
use lsvd_volume::{Compression, HistoryRetention, MAX_DIRTY_BYTES_MIN, VolumeConfig};
use serde_json::Value;

use super::layers::Layers;
use super::parse::{
    at_least, or_none, parse_batch_size, parse_compression, parse_count, parse_percent,
    parse_retention, parse_some_duration, parse_sync, show_compression, show_retention,
};
use super::{Setting, Source, bad_setting, row};
use crate::schedule::Schedule;
use crate::sizes::{parse_bytes, parse_duration, show_bytes, show_duration};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct VolumeSettings {
    log_size: Setting<u64>,
    log_memory: Setting<u64>,
    batch_size: Setting<u64>,
    batch_age: Setting<Duration>,
    compression: Setting<Compression>,
    checkpoint_objects: Setting<u64>,
    gc_start: Setting<u64>,
    gc_stop: Setting<u64>,
    gc_bandwidth: Setting<Option<u64>>,
    history_retention: Setting<HistoryRetention>,
    store_timeout: Setting<Option<Duration>>,
    max_dirty_bytes: Setting<Option<u64>>,
    max_dirty_age: Setting<Option<Duration>>,
    sync: Setting<Option<bool>>,
    snapshot_schedule: Setting<Schedule>,
}

/// Smallest write log: room for a few large writes.
const LOG_BYTES_MIN: u64 = lsvd_volume::RING_BYTES_MIN;

impl VolumeSettings {
    pub(super) fn read(layers: &Layers, volume: Option<&str>) -> Result<Self> {
        let default = VolumeConfig::default();
        let settings = Self {
            log_size: layers.get(
                "log-size",
                volume,
                || default.log_bytes,
                |text| at_least(parse_bytes(text)?, LOG_BYTES_MIN),
            )?,
            log_memory: layers.get(
                "log-memory",
                volume,
                || default.buffer_bytes,
                |text| at_least(parse_bytes(text)?, lsvd_volume::WINDOW_BYTES_MIN),
            )?,
            batch_size: layers.get(
                "batch-size",
                volume,
                || default.batch_bytes,
                parse_batch_size,
            )?,
            batch_age: layers.get("batch-age", volume, || default.batch_age, parse_duration)?,
            compression: layers.get(
                "compression",
                volume,
                || default.compression,
                parse_compression,
            )?,
            checkpoint_objects: layers.get(
                "checkpoint-objects",
                volume,
                || default.checkpoint_objects,
                parse_count,
            )?,
            gc_start: layers.get("gc-start", volume, || default.gc_start_percent, parse_percent)?,
            gc_stop: layers.get("gc-stop", volume, || default.gc_stop_percent, parse_percent)?,
            gc_bandwidth: layers.get(
                "gc-bandwidth",
                volume,
                || default.gc_bytes_per_s,
                |text| or_none(text, |text| at_least(parse_bytes(text)?, 1)),
            )?,
            history_retention: layers.get(
                "history-retention",
                volume,
                || default.history,
                parse_retention,
            )?,
            store_timeout: layers.get(
                "store-timeout",
                volume,
                || None,
                |text| or_none(text, parse_some_duration),
            )?,
            max_dirty_bytes: layers.get(
                "max-dirty-bytes",
                volume,
                || None,
                |text| or_none(text, |text| at_least(parse_bytes(text)?, MAX_DIRTY_BYTES_MIN)),
            )?,
            max_dirty_age: layers.get(
                "max-dirty-age",
                volume,
                || None,
                |text| or_none(text, parse_some_duration),
            )?,
            sync: layers.get("sync", volume, || None, |text| parse_sync(text).map(Some))?,
            snapshot_schedule: layers.get(
                "snapshot-schedule",
                volume,
                Schedule::default,
                Schedule::parse,
            )?,
        };
        settings.check_ages()?;
        settings.check_gc()?;
        Ok(settings)
    }

    /// A batch that may wait for as long as a write may be dirty would stop every writer.
    fn check_ages(&self) -> Result<()> {
        let Some(limit) = self.max_dirty_age.value else { return Ok(()) };
        if self.batch_age.source == Source::Default || self.batch_age.value < limit {
            return Ok(());
        }
        let reason = format!(
            "{} is not less than max-dirty-age, {} (from {}); leave time for the upload",
            show_duration(self.batch_age.value),
            show_duration(limit),
            self.max_dirty_age.source
        );
        Err(bad_setting("batch-age", &self.batch_age.source, &reason))
    }

    fn check_gc(&self) -> Result<()> {
        let (start, stop) = (self.gc_start.value, self.gc_stop.value);
        if start <= stop {
            return Ok(());
        }
        // Whichever was set is wrong; if both were, the later of the two.
        let (key, setting) = match self.gc_stop.source {
            Source::Default => ("gc-start", &self.gc_start),
            _ => ("gc-stop", &self.gc_stop),
        };
        let reason = format!(
            "cleaning would begin at {start}% and be over at {stop}% already; gc-stop must not be \
             less than gc-start"
        );
        Err(bad_setting(key, &setting.source, &reason))
    }

    pub(super) fn config(&self) -> VolumeConfig {
        VolumeConfig {
            log_bytes: self.log_size.value,
            buffer_bytes: self.log_memory.value,
            batch_bytes: self.batch_size.value,
            batch_age: self.batch_age.value,
            compression: self.compression.value,
            checkpoint_objects: self.checkpoint_objects.value,
            gc_start_percent: self.gc_start.value,
            gc_stop_percent: self.gc_stop.value,
            gc_bytes_per_s: self.gc_bandwidth.value,
            history: self.history_retention.value,
            store_timeout: self.store_timeout.value,
            max_dirty_bytes: self.max_dirty_bytes.value,
            max_dirty_age: self.max_dirty_age.value,
            sync_remote: self.sync.value,
        }
    }

    pub(super) fn leave_history(&mut self) {
        self.history_retention.value.as_it_is |= self.history_retention.source == Source::Default;
    }

    pub(super) fn schedule(&self) -> Schedule {
        self.snapshot_schedule.value.clone()
    }

    pub(super) fn rows(&self) -> [Value; 15] {
        [
            row("log-size", &self.log_size, |bytes| show_bytes(*bytes)),
            row("log-memory", &self.log_memory, |bytes| show_bytes(*bytes)),
            row("batch-size", &self.batch_size, |bytes| show_bytes(*bytes)),
            row("batch-age", &self.batch_age, |age| show_duration(*age)),
            row("compression", &self.compression, |kind| show_compression(*kind).to_owned()),
            row("checkpoint-objects", &self.checkpoint_objects, ToString::to_string),
            row("gc-start", &self.gc_start, |percent| format!("{percent}%")),
            row("gc-stop", &self.gc_stop, |percent| format!("{percent}%")),
            row("gc-bandwidth", &self.gc_bandwidth, |bytes| shown(*bytes, show_bytes)),
            row("history-retention", &self.history_retention, |keep| show_retention(*keep)),
            row("store-timeout", &self.store_timeout, |time| shown(*time, show_duration)),
            row("max-dirty-bytes", &self.max_dirty_bytes, |bytes| shown(*bytes, show_bytes)),
            row("max-dirty-age", &self.max_dirty_age, |age| shown(*age, show_duration)),
            row("sync", &self.sync, |remote| match remote {
                Some(true) => "remote".to_owned(),
                Some(false) => "local".to_owned(),
                None => "as created".to_owned(),
            }),
            row("snapshot-schedule", &self.snapshot_schedule, ToString::to_string),
        ]
    }
}

fn shown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "none".to_owned(), show)
}
