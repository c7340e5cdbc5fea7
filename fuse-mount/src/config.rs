//! Settings: flags beat variables beat the file beat defaults, and each value remembers where
//! it came from.
//!
//! ```text
//!   KEYS ──┐
//!   flags ─┼─ Layers::text(key) ── parse ── Setting { value, source } ── Settings
//!   LSVD_* ┤
//!   file ──┘   (file.rs: unknown keys are errors that name the key and the file)
//! ```

mod file;
mod layers;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lsvd_store::StoreOptions;
use lsvd_volume::{Compression, EngineConfig, HistoryRetention, MAX_DIRTY_BYTES_MIN, VolumeConfig};
use serde_json::{Value, json};

use crate::cli::{GlobalFlags, MountFlags};
use crate::exit::usage;
use crate::fs::transport::Transport;
use crate::sizes::{parse_bytes, parse_duration, show_bytes, show_duration};

use layers::{Layers, in_file};
use store::StoreSettings;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file; with the section, if it is a volume's own.
    File(PathBuf, Option<String>),
    /// An `LSVD_*` variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path, None) => write!(f, "{}", path.display()),
            Source::File(path, Some(volume)) => write!(f, "{} [volume.{volume}]", path.display()),
            Source::Variable(name) => f.write_str(name),
            Source::Flag(name) => f.write_str(name),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

/// The settings that a volume can have of its own.
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
}

/// All settings in force.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) store: Setting<String>,
    pub(crate) cache_dir: Setting<PathBuf>,
    pub(crate) read_only: Setting<bool>,
    pub(crate) allow_other: Setting<bool>,
    pub(crate) transport: Setting<Transport>,
    no_fencing: Setting<bool>,
    follow_interval: Setting<Duration>,
    pub(crate) fail_fast: Setting<bool>,
    cache_size: Setting<u64>,
    memory: Setting<u64>,
    store_access: StoreSettings,
    volume: VolumeSettings,
    per_volume: BTreeMap<String, VolumeSettings>,
    file: Option<PathBuf>,
}

/// How old a view of a volume that is only read may be.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(5);

/// Smallest write log: room for a few large writes.
const LOG_BYTES_MIN: u64 = lsvd_volume::RING_BYTES_MIN;

/// Less than this makes the leaves of the map come and go all the time.
const MAP_MEMORY_BYTES_MIN: u64 = 16 << 20;

impl Settings {
    /// Layers flags, variables, file and defaults.
    pub(crate) fn load(global: &GlobalFlags, mount: &MountFlags) -> Result<Self> {
        let layers = Layers::gather(global, mount)?;
        let per_volume = layers
            .volumes()
            .map(|name| Ok((name.to_owned(), VolumeSettings::read(&layers, Some(name))?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            store: layers.get("store", None, default_store, |text| Ok(text.to_owned()))?,
            cache_dir: layers.get("cache-dir", None, default_cache_dir, parse_dir)?,
            read_only: layers.get("read-only", None, || false, parse_bool)?,
            allow_other: layers.get("allow-other", None, || false, parse_bool)?,
            transport: layers.get("transport", None, || Transport::Auto, Transport::parse)?,
            no_fencing: layers.get("no-fencing", None, || false, parse_bool)?,
            follow_interval: layers.get(
                "follow-interval",
                None,
                || FOLLOW_INTERVAL,
                parse_duration,
            )?,
            fail_fast: layers.get("fail-fast", None, || false, parse_bool)?,
            cache_size: layers.get("cache-size", None, || 10 << 30, parse_bytes)?,
            memory: layers.get(
                "memory",
                None,
                || 256 << 20,
                |text| at_least(parse_bytes(text)?, MAP_MEMORY_BYTES_MIN),
            )?,
            store_access: StoreSettings::read(&layers)?,
            volume: VolumeSettings::read(&layers, None)?,
            per_volume,
            file: layers.file_path(),
        })
    }

    /// How the store is reached.
    pub(crate) fn store_options(&self) -> StoreOptions {
        self.store_access.options()
    }

    /// What the engine needs to know.
    pub(crate) fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            cache_dir: self.cache_dir.value.clone(),
            cache_bytes: self.cache_size.value,
            map_memory_bytes: self.memory.value,
            no_fencing: self.no_fencing.value,
            follow_interval: self.follow_interval.value,
            volume: self.volume.config(),
        }
    }

    /// The volumes that have settings of their own.
    pub(crate) fn volume_configs(&self) -> impl Iterator<Item = (&str, VolumeConfig)> {
        self.per_volume.iter().map(|(name, settings)| (name.as_str(), settings.config()))
    }

    /// Every value and its source, for `info --effective-config`.
    pub(crate) fn effective(&self, volume: Option<&str>) -> Value {
        let own = volume.and_then(|name| self.per_volume.get(name)).unwrap_or(&self.volume);
        let mut rows = vec![row("store", &self.store, Clone::clone)];
        rows.extend(self.store_access.rows(&self.store.value));
        rows.extend([
            row("cache-dir", &self.cache_dir, |path| path.display().to_string()),
            row("cache-size", &self.cache_size, |bytes| show_bytes(*bytes)),
            row("memory", &self.memory, |bytes| show_bytes(*bytes)),
            row("read-only", &self.read_only, ToString::to_string),
            row("allow-other", &self.allow_other, ToString::to_string),
            row("transport", &self.transport, ToString::to_string),
            row("no-fencing", &self.no_fencing, ToString::to_string),
            row("follow-interval", &self.follow_interval, |age| show_duration(*age)),
            row("fail-fast", &self.fail_fast, ToString::to_string),
        ]);
        rows.extend(own.rows());
        json!({
            "file": self.file.as_ref().map(|path| path.display().to_string()),
            "volume": volume,
            "settings": rows,
        })
    }
}

impl VolumeSettings {
    fn read(layers: &Layers, volume: Option<&str>) -> Result<Self> {
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
        let reason = format!("cleaning would begin at {start}% and be over at {stop}% already");
        Err(bad_setting(key, &setting.source, &reason))
    }

    fn config(&self) -> VolumeConfig {
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

    fn rows(&self) -> [Value; 14] {
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
        ]
    }
}

fn row<T>(key: &str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> Value {
    json!({ "key": in_file(key), "value": show(&setting.value), "source": setting.source.to_string() })
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" | "" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

fn shown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "none".to_owned(), show)
}

/// A section may take back with `none` what the file says for all.
fn or_none<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text == "none" { Ok(None) } else { parse(text).map(Some) }
}

fn parse_some_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be more than 0, or none".to_owned()),
        time => Ok(time),
    }
}

/// `80%`, or `80`.
/// `24h`, `10G`, both, or `none`.
fn parse_retention(text: &str) -> Result<HistoryRetention, String> {
    let wrong =
        || format!("{text:?}: write how far back, as in 24h, how many bytes, as in 10G, or both");
    let mut retention = HistoryRetention::default();
    if text.trim() == "none" {
        return Ok(retention);
    }
    for part in text.split_whitespace() {
        let is_second = match parse_some_duration(part) {
            Ok(age) if part.ends_with(char::is_alphabetic) => retention.age.replace(age).is_some(),
            _ => retention.bytes.replace(parse_bytes(part).map_err(|_| wrong())?).is_some(),
        };
        if is_second {
            return Err(wrong());
        }
    }
    if retention.is_on() { Ok(retention) } else { Err(wrong()) }
}

fn show_retention(retention: HistoryRetention) -> String {
    let parts = [retention.age.map(show_duration), retention.bytes.map(show_bytes)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(" ") }
}

pub(crate) fn parse_percent(text: &str) -> Result<u64, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let percent = digits.parse().ok().filter(|percent| *percent <= 100);
    percent.ok_or_else(|| format!("{text:?} is not a percentage from 0% to 100%"))
}

/// Whether a flush waits for the store.
pub(crate) fn parse_sync(text: &str) -> Result<bool, String> {
    match text {
        "local" => Ok(false),
        "remote" => Ok(true),
        other => Err(format!("{other:?} is neither local nor remote")),
    }
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    match text {
        "lz4" => Ok(Compression::Lz4),
        "zstd" => Ok(Compression::Zstd),
        "none" => Ok(Compression::None),
        other => Err(format!("{other:?} is not a compression: lz4, zstd or none")),
    }
}

fn show_compression(kind: Compression) -> &'static str {
    match kind {
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        Compression::None => "none",
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is not a number above 0"))
}

fn parse_batch_size(text: &str) -> Result<u64, String> {
    let bytes = at_least(parse_bytes(text)?, 64 << 10)?;
    // An object is one PUT, and the smallest of the stores' limits leaves room to spare here.
    if bytes > 64 << 20 {
        Err(format!("{text:?} is more than the largest object, 64M"))
    } else {
        Ok(bytes)
    }
}

fn at_least(bytes: u64, least: u64) -> Result<u64, String> {
    if bytes < least {
        Err(format!("{} is too small; at least {}", show_bytes(bytes), show_bytes(least)))
    } else {
        Ok(bytes)
    }
}

/// Directories are made absolute at once: the daemon changes to `/`.
fn parse_dir(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("empty path".to_owned());
    }
    std::path::absolute(text).map_err(|error| error.to_string())
}

fn default_store() -> String {
    format!("file://{}", data_home().join("store").display())
}

fn default_cache_dir() -> PathBuf {
    data_home().join("cache")
}

/// `/var/lib/lsvd` for root, `$XDG_DATA_HOME/lsvd` or `~/.local/share/lsvd` otherwise.
fn data_home() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/lsvd");
    }
    let xdg =
        std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    xdg.or_else(home).unwrap_or_else(|| PathBuf::from("/var/tmp")).join("lsvd")
}

/// A setting that cannot be used, with its source.
fn bad_setting(key: &str, source: &Source, reason: &str) -> anyhow::Error {
    match source {
        Source::Flag(flag) => usage(format!("{flag}: {reason}")),
        Source::Variable(name) => usage(format!("variable {name}: {reason}")),
        Source::File(..) => usage(format!("{source}: {}: {reason}", in_file(key))),
        Source::Default => usage(format!("{}: {reason}", in_file(key))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        assert!(parse_batch_size("65M").is_err());
        assert_eq!(parse_batch_size("8M"), Ok(8 << 20));
        assert!(parse_compression("gzip").unwrap_err().contains("zstd"));
        assert!(parse_count("0").is_err());
        assert_eq!(parse_bool("yes"), Ok(true));
        assert!(parse_bool("perhaps").is_err());
    }
}
