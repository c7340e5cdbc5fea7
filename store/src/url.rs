//! From what a user writes to a store: `file:///srv/vols`, `/srv/vols`, `s3://bucket/prefix`,
//! `rados://pool/prefix`, `mem:`.

use std::sync::Arc;

use crate::{DirStore, MemStore, ObjectStore, S3Store, StoreError, StoreOptions, StoreResult};

const KNOWN: &str = "known are file:///absolute/path (or just the path), s3://bucket/prefix, \
                     rados://pool/prefix and mem:";

/// Opens the store that `url` names. A directory is created if its parent exists; a bucket is
/// never made, and nothing is asked of a server yet.
///
/// # Errors
/// As [`open_existing`].
pub fn open(url: &str, options: &StoreOptions) -> StoreResult<Arc<dyn ObjectStore>> {
    open_url(url, options, true)
}

/// Opens the store that `url` names; a directory must be there.
///
/// What follows the scheme is taken as it stands: no percent-decoding, no options.
///
/// # Errors
/// `BadUrl` where the text names no store, otherwise what opening the store says.
pub fn open_existing(url: &str, options: &StoreOptions) -> StoreResult<Arc<dyn ObjectStore>> {
    open_url(url, options, false)
}

fn open_url(url: &str, options: &StoreOptions, create: bool) -> StoreResult<Arc<dyn ObjectStore>> {
    let bad = |reason: String| StoreError::BadUrl { url: url.to_owned(), reason };
    match url.split_once(':') {
        _ if url.starts_with('/') => directory(url, url, create),
        Some(("file", rest)) => match rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => directory(url, path, create),
            Some(path) => Err(bad(format!("the path must be absolute: file:///{path}"))),
            None => Err(bad(format!("write file:///{}", rest.trim_start_matches('/')))),
        },
        Some(("s3", rest)) if rest.starts_with("//") => {
            Ok(Arc::new(S3Store::open(url, &options.s3, options.timeouts)?))
        }
        Some(("s3", rest)) => Err(bad(format!("write s3://{}", rest.trim_start_matches('/')))),
        Some(("rados", rest)) => open_rados(url, rest, options),
        Some(("mem", "")) => Ok(Arc::new(MemStore::new())),
        Some(("mem", _)) => Err(bad("mem: takes nothing after the colon".to_owned())),
        Some((scheme, _)) => Err(bad(format!("unknown kind of store {scheme:?}; {KNOWN}"))),
        None => Err(bad(format!("neither a URL nor an absolute path; {KNOWN}"))),
    }
}

fn directory(url: &str, path: &str, create: bool) -> StoreResult<Arc<dyn ObjectStore>> {
    if path.contains('\0') {
        let reason = "a path cannot hold a NUL character".to_owned();
        return Err(StoreError::BadUrl { url: url.to_owned(), reason });
    }
    Ok(Arc::new(DirStore::open(path, create)?))
}

/// `rest` is what follows `rados:`. Nothing is connected to yet, so this never waits.
#[cfg(feature = "rados")]
fn open_rados(url: &str, rest: &str, options: &StoreOptions) -> StoreResult<Arc<dyn ObjectStore>> {
    let Some(path) = rest.strip_prefix("//") else {
        let reason = "write rados://pool/prefix".to_owned();
        return Err(StoreError::BadUrl { url: url.to_owned(), reason });
    };
    let (pool, prefix) = path.split_once('/').unwrap_or((path, ""));
    Ok(Arc::new(crate::RadosStore::new(pool, prefix, options)?))
}

#[cfg(not(feature = "rados"))]
fn open_rados(
    url: &str,
    _rest: &str,
    _options: &StoreOptions,
) -> StoreResult<Arc<dyn ObjectStore>> {
    let reason = "this program was built without RADOS; install librados-dev and build it with \
                  `cargo build --release --features rados`";
    Err(StoreError::BadUrl { url: url.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> StoreOptions {
        StoreOptions::default()
    }

    #[test]
    fn opens_each_known_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let url = format!("file://{path}/store");
        assert_eq!(open(&url, &none()).unwrap().url(), url);
        assert_eq!(open(&format!("{path}/store"), &none()).unwrap().url(), url);
        assert_eq!(open("mem:", &none()).unwrap().url(), "mem:");
        let mut options = none();
        options.s3.endpoint = Some("http://Localhost:9000/".to_owned());
        options.s3.access_key_id = Some("id".to_owned());
        options.s3.secret_access_key = Some("secret".to_owned());
        let store = open("s3://bucket/vols/", &options).unwrap();
        assert_eq!(store.url(), "s3://bucket/vols");
        assert_eq!(store.identity(), "s3://bucket/vols at localhost:9000");
        #[cfg(feature = "rados")]
        assert_eq!(open("rados://pool/vols/", &options).unwrap().url(), "rados://pool/vols");
    }

    #[test]
    fn a_store_that_should_be_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("{}/typo", dir.path().display());
        assert!(open_existing(&url, &none()).is_err());
        assert!(!dir.path().join("typo").exists());
    }

    #[test]
    fn a_directory_without_a_parent_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(&format!("{}/a/b", dir.path().display()), &none()).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn bad_urls_say_what_would_be_right() {
        for (url, hint) in [
            ("file://relative/x", "file:///relative/x"),
            ("file:/x", "file:///x"),
            ("mem:x", "nothing after"),
            ("s3:bucket", "write s3://bucket"),
            ("s3://", "no bucket"),
            ("s3://Bucket/x", "is no bucket name"),
            ("ftp://host/x", "known are file:///"),
            ("relative/x", "known are file:///"),
            ("", "known are file:///"),
            #[cfg(feature = "rados")]
            ("rados:pool/x", "rados://pool/prefix"),
            #[cfg(feature = "rados")]
            ("rados:///x", "names no pool"),
            #[cfg(feature = "rados")]
            ("rados://pool/a//b", "single slashes"),
            #[cfg(not(feature = "rados"))]
            ("rados://pool/x", "--features rados"),
        ] {
            let error = open(url, &none()).unwrap_err();
            assert!(matches!(error, StoreError::BadUrl { .. }), "{url}");
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
}
