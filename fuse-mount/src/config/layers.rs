//! The layers of settings as plain text, looked up by key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::file::ConfigFile;
use super::{Setting, Source, bad_setting};
use crate::cli::{GlobalFlags, MountFlags};
use crate::exit::usage;

/// Keys of the file's top level; each is also `--key` and `LSVD_KEY`.
pub(super) const KEYS: [&str; 25] = [
    "store",
    "cache-dir",
    "cache-size",
    "memory",
    "read-only",
    "allow-other",
    "transport",
    "no-fencing",
    "follow-interval",
    "log-size",
    "log-memory",
    "batch-size",
    "batch-age",
    "compression",
    "checkpoint-objects",
    "gc-start",
    "gc-stop",
    "gc-bandwidth",
    "history-retention",
    "store-timeout",
    "max-dirty-bytes",
    "max-dirty-age",
    "sync",
    "snapshot-schedule",
    "fail-fast",
];

/// Those that a `[volume.NAME]` section may hold.
pub(super) const VOLUME_KEYS: [&str; 15] = [
    "log-size",
    "log-memory",
    "batch-size",
    "batch-age",
    "compression",
    "checkpoint-objects",
    "gc-start",
    "gc-stop",
    "gc-bandwidth",
    "history-retention",
    "store-timeout",
    "max-dirty-bytes",
    "max-dirty-age",
    "sync",
    "snapshot-schedule",
];

/// Those of a section `[s3]` or `[rados]`, as `section-key`; each is also `LSVD_SECTION_KEY`, and
/// all but the two keys of S3 are `--section-key`, too.
pub(super) const STORE_KEYS: [&str; 11] = [
    "s3-endpoint",
    "s3-region",
    "s3-path-style",
    "s3-ca-file",
    "s3-profile",
    "s3-access-key-id",
    "s3-secret-access-key",
    "rados-conf",
    "rados-user",
    "rados-keyring",
    "rados-namespace",
];

/// The sections in which [`STORE_KEYS`] stand.
pub(super) const STORE_SECTIONS: [&str; 2] = ["s3", "rados"];

/// A key as the file spells it: `s3-ca-file` is `s3.ca-file`.
pub(super) fn in_file(key: &str) -> String {
    match key.split_once('-') {
        Some((section, rest)) if STORE_SECTIONS.contains(&section) => format!("{section}.{rest}"),
        _ => key.to_owned(),
    }
}

/// Flags, variables and the file.
pub(super) struct Layers {
    flags: BTreeMap<&'static str, String>,
    variables: BTreeMap<&'static str, String>,
    file: Option<ConfigFile>,
}

impl Layers {
    /// Reads the variables and the file.
    pub(super) fn gather(global: &GlobalFlags, mount: &MountFlags) -> Result<Self> {
        let mut variables = BTreeMap::new();
        for key in KEYS.into_iter().chain(STORE_KEYS) {
            if let Some(text) = variable(&variable_name(key))? {
                variables.insert(key, text);
            }
        }
        Ok(Self { flags: flags(global, mount)?, variables, file: config_file(global)? })
    }

    /// The volumes that have a section in the file.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &str> {
        self.file.iter().flat_map(ConfigFile::volumes)
    }

    /// The file, if one is used.
    pub(super) fn file_path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|file| file.path().to_owned())
    }

    /// The value of `key` from the strongest layer that has one.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        volume: Option<&str>,
        default: impl FnOnce() -> T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Setting<T>> {
        let Some((text, source)) = self.text(key, volume) else {
            return Ok(Setting { value: default(), source: Source::Default });
        };
        let value = parse(text).map_err(|reason| bad_setting(key, &source, &reason))?;
        Ok(Setting { value, source })
    }

    fn text(&self, key: &'static str, volume: Option<&str>) -> Option<(&str, Source)> {
        if let Some(text) = self.flags.get(key) {
            return Some((text, Source::Flag(format!("--{key}"))));
        }
        if let Some(text) = self.variables.get(key) {
            return Some((text, Source::Variable(variable_name(key))));
        }
        let file = self.file.as_ref()?;
        let path = || file.path().to_owned();
        if let Some(volume) = volume
            && let Some(text) = file.of_volume(volume, key)
        {
            return Some((text, Source::File(path(), Some(volume.to_owned()))));
        }
        file.top(key).map(|text| (text, Source::File(path(), None)))
    }
}

/// `log-size` is `LSVD_LOG_SIZE`.
fn variable_name(key: &str) -> String {
    format!("LSVD_{}", key.to_ascii_uppercase().replace('-', "_"))
}

fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(usage(format!("variable {name} is not UTF-8")))
        }
    }
}

fn flags(global: &GlobalFlags, mount: &MountFlags) -> Result<BTreeMap<&'static str, String>> {
    let path = |flag: &str, path: &Option<PathBuf>| {
        let text = path.as_ref().map(|path| {
            path.to_str().map(str::to_owned).ok_or_else(|| usage(format!("{flag}: not UTF-8")))
        });
        text.transpose()
    };
    let store = &global.store_flags;
    let given = [
        ("store", global.store.clone()),
        ("cache-dir", path("--cache-dir", &global.cache_dir)?),
        ("s3-endpoint", store.s3_endpoint.clone()),
        ("s3-region", store.s3_region.clone()),
        ("s3-path-style", store.s3_path_style.clone()),
        ("s3-ca-file", path("--s3-ca-file", &store.s3_ca_file)?),
        ("s3-profile", store.s3_profile.clone()),
        ("rados-conf", path("--rados-conf", &store.rados_conf)?),
        ("rados-user", store.rados_user.clone()),
        ("rados-keyring", path("--rados-keyring", &store.rados_keyring)?),
        ("rados-namespace", store.rados_namespace.clone()),
        ("cache-size", mount.cache_size.clone()),
        ("memory", mount.memory.clone()),
        ("read-only", mount.read_only.then(|| "true".to_owned())),
        ("allow-other", mount.allow_other.then(|| "true".to_owned())),
        ("transport", mount.transport.clone()),
        ("no-fencing", global.no_fencing.then(|| "true".to_owned())),
        ("follow-interval", mount.follow_interval.clone()),
        ("log-size", mount.log_size.clone()),
        ("log-memory", mount.log_memory.clone()),
        ("batch-size", mount.batch_size.clone()),
        ("batch-age", mount.batch_age.clone()),
        ("compression", mount.compression.clone()),
        ("checkpoint-objects", mount.checkpoint_objects.clone()),
        ("gc-start", mount.gc_start.clone()),
        ("gc-stop", mount.gc_stop.clone()),
        ("gc-bandwidth", mount.gc_bandwidth.clone()),
        ("history-retention", mount.history_retention.clone()),
        ("store-timeout", mount.store_timeout.clone()),
        ("max-dirty-bytes", mount.max_dirty_bytes.clone()),
        ("max-dirty-age", mount.max_dirty_age.clone()),
        ("sync", mount.sync.clone()),
        ("snapshot-schedule", mount.snapshot_schedule.clone()),
        ("fail-fast", mount.fail_fast.then(|| "true".to_owned())),
    ];
    Ok(given.into_iter().filter_map(|(key, text)| Some((key, text?))).collect())
}

/// The file that was named must be there; a default one need not.
fn config_file(global: &GlobalFlags) -> Result<Option<ConfigFile>> {
    if let Some(path) = &global.config {
        return ConfigFile::read(path).map(Some);
    }
    if let Some(path) = variable("LSVD_CONFIG")? {
        return ConfigFile::read(Path::new(&path)).map(Some);
    }
    match default_file() {
        Some(path) if path.exists() => ConfigFile::read(&path).map(Some),
        _ => Ok(None),
    }
}

fn default_file() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/etc/lsvd.toml"));
    }
    let xdg =
        std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    Some(xdg.or_else(home)?.join("lsvd.toml"))
}
