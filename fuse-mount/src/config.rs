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
mod parse;
mod store;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lsvd_store::StoreOptions;
use lsvd_volume::{EngineConfig, VolumeConfig};
use serde_json::{Value, json};

use crate::cli::{GlobalFlags, MountFlags};
use crate::exit::usage;
use crate::fs::transport::Transport;
use crate::schedule::Schedules;
use crate::sizes::{parse_bytes, parse_duration, show_bytes, show_duration};

use layers::{Layers, in_file};
use parse::{at_least, parse_bool};
use store::StoreSettings;
use volume::VolumeSettings;

pub(crate) use parse::{parse_percent, parse_sync};

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

    /// For a command that has the store to itself for a moment: where nothing is said of history, what
    /// a mount has kept of it stays.
    pub(crate) fn leave_history(mut self) -> Self {
        let own = self.per_volume.values_mut();
        own.chain([&mut self.volume]).for_each(VolumeSettings::leave_history);
        self
    }

    /// The volumes that have settings of their own.
    pub(crate) fn volume_configs(&self) -> impl Iterator<Item = (&str, VolumeConfig)> {
        self.per_volume.iter().map(|(name, settings)| (name.as_str(), settings.config()))
    }

    /// Which snapshots are taken of which volume.
    pub(crate) fn schedules(&self) -> Schedules {
        let own = self.per_volume.iter().map(|(name, own)| (name.clone(), own.schedule()));
        Schedules { of_all: self.volume.schedule(), own: own.collect() }
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

fn row<T>(key: &str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> Value {
    json!({ "key": in_file(key), "value": show(&setting.value), "source": setting.source.to_string() })
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
