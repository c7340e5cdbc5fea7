//! How the store is reached: the sections `[s3]` and `[rados]`.
//!
//! They say where a store is and who asks, never which volumes it has; so a command that finds a
//! daemon on its cache directory does not need them.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use lsvd_store::{RadosOptions, S3Options, StoreOptions, Timeouts};
use serde_json::Value;

use super::layers::Layers;
use super::{Setting, parse_bool, parse_dir, row};

/// Something that is not shown.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The settings of all kinds of stores.
#[derive(Clone, Debug)]
pub(super) struct StoreSettings {
    s3_endpoint: Setting<Option<String>>,
    s3_region: Setting<Option<String>>,
    s3_path_style: Setting<Option<bool>>,
    s3_ca_file: Setting<Option<PathBuf>>,
    s3_profile: Setting<Option<String>>,
    s3_access_key_id: Setting<Option<String>>,
    s3_secret_access_key: Setting<Option<Secret>>,
    rados_conf: Setting<Option<PathBuf>>,
    rados_user: Setting<Option<String>>,
    rados_keyring: Setting<Option<PathBuf>>,
    rados_namespace: Setting<Option<String>>,
}

impl StoreSettings {
    pub(super) fn read(layers: &Layers) -> Result<Self> {
        let text = |key| layers.get(key, None, || None, |text| Ok(Some(text.to_owned())));
        let path = |key| layers.get(key, None, || None, |text| parse_dir(text).map(Some));
        Ok(Self {
            s3_endpoint: text("s3-endpoint")?,
            s3_region: text("s3-region")?,
            s3_path_style: layers.get(
                "s3-path-style",
                None,
                || None,
                |text| parse_bool(text).map(Some),
            )?,
            s3_ca_file: path("s3-ca-file")?,
            s3_profile: text("s3-profile")?,
            s3_access_key_id: text("s3-access-key-id")?,
            s3_secret_access_key: layers.get(
                "s3-secret-access-key",
                None,
                || None,
                |text| Ok(Some(Secret(text.to_owned()))),
            )?,
            rados_conf: path("rados-conf")?,
            rados_user: text("rados-user")?,
            rados_keyring: path("rados-keyring")?,
            rados_namespace: text("rados-namespace")?,
        })
    }

    pub(super) fn options(&self) -> StoreOptions {
        StoreOptions {
            s3: S3Options {
                endpoint: self.s3_endpoint.value.clone(),
                region: self.s3_region.value.clone(),
                path_style: self.s3_path_style.value,
                ca_file: self.s3_ca_file.value.clone(),
                profile: self.s3_profile.value.clone(),
                access_key_id: self.s3_access_key_id.value.clone(),
                secret_access_key: self
                    .s3_secret_access_key
                    .value
                    .as_ref()
                    .map(|secret| secret.0.clone()),
            },
            rados: RadosOptions {
                conf: self.rados_conf.value.clone(),
                user: self.rados_user.value.clone(),
                keyring: self.rados_keyring.value.clone(),
                namespace: self.rados_namespace.value.clone(),
            },
            timeouts: Timeouts::default(),
        }
    }

    /// For `info --effective-config`: what is set, and of the rest only what the store at `url`
    /// could use.
    pub(super) fn rows(&self, url: &str) -> Vec<Value> {
        let path = |path: &PathBuf| path.display().to_string();
        let rows = [
            shown("s3-endpoint", &self.s3_endpoint, Clone::clone),
            shown("s3-region", &self.s3_region, Clone::clone),
            shown("s3-path-style", &self.s3_path_style, ToString::to_string),
            shown("s3-ca-file", &self.s3_ca_file, path),
            shown("s3-profile", &self.s3_profile, Clone::clone),
            shown("s3-access-key-id", &self.s3_access_key_id, Clone::clone),
            shown("s3-secret-access-key", &self.s3_secret_access_key, |_| {
                "(set, not shown)".to_owned()
            }),
            shown("rados-conf", &self.rados_conf, path),
            shown("rados-user", &self.rados_user, Clone::clone),
            shown("rados-keyring", &self.rados_keyring, path),
            shown("rados-namespace", &self.rados_namespace, Clone::clone),
        ];
        let kind = url.split(':').next().unwrap_or_default();
        let wanted = |key: &str, is_set| is_set || key.split('-').next() == Some(kind);
        rows.into_iter()
            .filter(|(key, is_set, _)| wanted(key, *is_set))
            .map(|(_, _, row)| row)
            .collect()
    }
}

fn shown<T>(
    key: &'static str,
    setting: &Setting<Option<T>>,
    show: impl Fn(&T) -> String,
) -> (&'static str, bool, Value) {
    let text = |value: &Option<T>| value.as_ref().map_or_else(|| "(not set)".to_owned(), &show);
    (key, setting.value.is_some(), row(key, setting, text))
}
