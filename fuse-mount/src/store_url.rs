//! Opening the store that the settings name.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use lsvd_store::{ObjectStore, StoreError};

use crate::config::{Settings, Source};

/// Opens the store for a daemon or for `create`. The default one is made where it is missing;
/// one that the user named must have a parent.
pub(crate) fn open(settings: &Settings) -> Result<Arc<dyn ObjectStore>> {
    let url = &settings.store.value;
    if settings.store.source == Source::Default
        && let Some(parent) = url.strip_prefix("file://").and_then(|path| Path::new(path).parent())
    {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {} for the default store", parent.display()))?;
    }
    Ok(lsvd_store::open(url, &settings.store_options())?)
}

/// Opens the store for a command that expects volumes in it, so that a typing error does not make
/// a new empty store.
pub(crate) fn open_existing(settings: &Settings) -> Result<Arc<dyn ObjectStore>> {
    let url = &settings.store.value;
    let opened = lsvd_store::open_existing(url, &settings.store_options());
    match opened {
        Err(error @ (StoreError::BadUrl { .. } | StoreError::Unavailable { .. })) => {
            Err(error.into())
        }
        opened => {
            opened.with_context(|| format!("no store at {url}; `mount` and `create` make one"))
        }
    }
}
