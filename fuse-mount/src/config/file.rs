//! The configuration file: TOML, flat, with the sections `[s3]`, `[rados]` and `[volume.NAME]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::layers::{KEYS, STORE_KEYS, STORE_SECTIONS, VOLUME_KEYS};
use crate::exit::usage;

/// Largest file that is read; a configuration is a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A read file: every key known, every value text.
pub(super) struct ConfigFile {
    path: PathBuf,
    top: BTreeMap<String, String>,
    volumes: BTreeMap<String, BTreeMap<String, String>>,
}

impl ConfigFile {
    /// Reads and checks the file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let meta = std::fs::metadata(path)
            .with_context(|| format!("cannot read the configuration file {shown}"))?;
        if meta.len() > FILE_BYTES_MAX {
            return Err(usage(format!(
                "configuration file {shown}: larger than 1 MiB, surely not a configuration"
            )));
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {shown}"))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let shown = path.display();
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| text.get(..span.start).unwrap_or("").lines().count().max(1));
            usage(format!("configuration file {shown}, line {line}: {}", error.message()))
        })?;
        let mut file =
            Self { path: path.to_owned(), top: BTreeMap::new(), volumes: BTreeMap::new() };
        for (key, value) in table {
            match (key.as_str(), value) {
                ("volume", Value::Table(sections)) => file.volumes = sections_of(path, sections)?,
                (section, Value::Table(settings)) if STORE_SECTIONS.contains(&section) => {
                    file.top.extend(store_section(path, section, settings)?);
                }
                (known, value) if KEYS.contains(&known) => {
                    let value = plain(path, &key, value)?;
                    file.top.insert(key, value);
                }
                _ => {
                    let known = KEYS.join(", ");
                    return Err(usage(format!(
                        "configuration file {shown}: unknown key {key:?}; the keys are {known} and the sections [s3], [rados] and [volume.NAME]"
                    )));
                }
            }
        }
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &str> {
        self.volumes.keys().map(String::as_str)
    }

    pub(super) fn top(&self, key: &str) -> Option<&str> {
        self.top.get(key).map(String::as_str)
    }

    pub(super) fn of_volume(&self, volume: &str, key: &str) -> Option<&str> {
        self.volumes.get(volume)?.get(key).map(String::as_str)
    }
}

fn sections_of(path: &Path, sections: Table) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let shown = path.display();
    let mut volumes = BTreeMap::new();
    for (name, section) in sections {
        let Value::Table(section) = section else {
            return Err(usage(format!(
                "configuration file {shown}: [volume.{name}] must be a section"
            )));
        };
        let mut settings = BTreeMap::new();
        for (key, value) in section {
            if !VOLUME_KEYS.contains(&key.as_str()) {
                let known = VOLUME_KEYS.join(", ");
                return Err(usage(format!(
                    "configuration file {shown}: unknown key {key:?} in [volume.{name}]; the keys there are {known}"
                )));
            }
            let value = plain(path, &key, value)?;
            settings.insert(key, value);
        }
        volumes.insert(name, settings);
    }
    Ok(volumes)
}

/// The keys of `[s3]` or `[rados]`, each with the section before it.
fn store_section(path: &Path, section: &str, settings: Table) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (key, value) in settings {
        let full = format!("{section}-{key}");
        if !STORE_KEYS.contains(&full.as_str()) {
            let known = STORE_KEYS.iter().filter_map(|known| {
                known.strip_prefix(section).and_then(|rest| rest.strip_prefix('-'))
            });
            return Err(usage(format!(
                "configuration file {}: unknown key {key:?} in [{section}]; the keys there are {}",
                path.display(),
                known.collect::<Vec<_>>().join(", ")
            )));
        }
        found.push((full, plain(path, &format!("{section}.{key}"), value)?));
    }
    Ok(found)
}

/// The value as the text that a flag would have carried.
fn plain(path: &Path, key: &str, value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(truth) => Ok(truth.to_string()),
        _ => Err(usage(format!(
            "configuration file {}: {key} must be text, a number, true or false",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    fn parse(text: &str) -> Result<ConfigFile> {
        ConfigFile::parse(Path::new("/etc/test.toml"), text)
    }

    #[test]
    fn sections_and_top_level() {
        let file =
            parse("log-size = 65536\nread-only = true\n[volume.\"a b.img\"]\nlog-size = \"2G\"\n")
                .unwrap();
        assert_eq!(file.top("log-size"), Some("65536"));
        assert_eq!(file.top("read-only"), Some("true"));
        assert_eq!(file.of_volume("a b.img", "log-size"), Some("2G"));
        assert_eq!(file.of_volume("other", "log-size"), None);
    }

    #[test]
    fn sections_of_stores() {
        let file =
            parse("[s3]\nendpoint = \"http://h:1\"\npath-style = false\n[rados]\nuser = \"me\"\n")
                .unwrap();
        assert_eq!(file.top("s3-endpoint"), Some("http://h:1"));
        assert_eq!(file.top("s3-path-style"), Some("false"));
        assert_eq!(file.top("rados-user"), Some("me"));
        assert_eq!(file.top("rados-conf"), None);
    }

    #[test]
    fn mistakes_name_the_key_and_the_file() {
        for (text, needle) in [
            ("lgo-size = 1", "\"lgo-size\""),
            ("[volume.x]\nstore = \"mem:\"", "\"store\" in [volume.x]"),
            ("[volume]\nx = 1", "[volume.x]"),
            ("volume = 3", "\"volume\""),
            ("s3 = 3", "unknown key \"s3\""),
            ("s3-region = \"x\"", "unknown key \"s3-region\""),
            ("[s3]\nreigon = \"x\"", "\"reigon\" in [s3]; the keys there are endpoint, region"),
            ("[rados]\nregion = \"x\"", "\"region\" in [rados]; the keys there are conf"),
            ("[s3]\nregion = []", "s3.region must be"),
            ("store = [1]", "store must be"),
            ("store = \"mem:\"\nstore", "line 2"),
        ] {
            let error = parse(text).err().unwrap();
            let line = exit::one_line(&error);
            assert!(line.contains("/etc/test.toml") && line.contains(needle), "{line}");
            assert_eq!(exit::code_of(&error), exit::USAGE);
        }
    }
}
