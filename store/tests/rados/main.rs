//! What only the RADOS store promises, beyond the suite of `tests/contract`.
//!
//! Most of it needs a cluster: `LSVD_TEST_RADOS_CONF` is its configuration file,
//! `LSVD_TEST_RADOS_POOL` a replicated pool to write to, `LSVD_TEST_RADOS_USER` who does (default
//! `admin`). `LSVD_TEST_RADOS_OSD_PID` is the process of its only OSD, which one test stops for a
//! moment. What is not there is said, by the names of the tests that are skipped.
#![expect(clippy::unwrap_used, reason = "in a test the message of a failed unwrap is what we want")]

mod cluster;
mod index;
mod outage;
mod race;

use std::hash::{BuildHasher, RandomState};
use std::io::{IoSlice, Write};
use std::time::Duration;

use lsvd_store::{Key, ObjectStore, RadosStore, StoreOptions, StoreResult};

/// A place in the pool that belongs to one test.
struct Lab {
    pool: String,
    prefix: String,
    options: StoreOptions,
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // Past the capture of the test harness: nobody should take this for a test that ran.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

impl Lab {
    /// `None`, and a word about it, if there is no cluster.
    fn new() -> Option<Self> {
        let (Some(conf), Some(pool)) =
            (setting("LSVD_TEST_RADOS_CONF"), setting("LSVD_TEST_RADOS_POOL"))
        else {
            skip("LSVD_TEST_RADOS_CONF and LSVD_TEST_RADOS_POOL name no Ceph cluster");
            return None;
        };
        let mut options = StoreOptions::default();
        options.rados.conf = Some(conf.into());
        options.rados.user = setting("LSVD_TEST_RADOS_USER");
        let run = RandomState::new().hash_one("run");
        Some(Self { pool, prefix: format!("lsvd-test/{run:016x}"), options })
    }

    /// A client of its own.
    fn store(&self) -> RadosStore {
        RadosStore::new(&self.pool, &self.prefix, &self.options).unwrap()
    }

    /// A client that sees this lab's objects as its own, but knows nothing of its index.
    fn store_above(&self) -> (RadosStore, String) {
        let (above, last) = self.prefix.rsplit_once('/').unwrap();
        (RadosStore::new(&self.pool, above, &self.options).unwrap(), last.to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let store = self.store();
        loop {
            let page = store.list("", None, 1000).unwrap();
            let keys: Vec<Key> = page.objects.into_iter().map(|object| object.key).collect();
            store.delete_many(&keys).unwrap();
            if !page.truncated {
                return;
            }
        }
    }
}

fn key(text: impl Into<String>) -> Key {
    Key::new(text).unwrap()
}

fn create(store: &dyn ObjectStore, text: &str, body: &[u8]) -> StoreResult<()> {
    store.create(&key(text), &[IoSlice::new(body)])
}

fn names(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let page = store.list(prefix, None, usize::MAX).unwrap();
    page.objects.iter().map(|object| object.key.to_string()).collect()
}

/// Polls until `condition` gives a value; fails after a minute.
fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
