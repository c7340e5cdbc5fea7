//! The stores that the suite runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lsvd_store::{
    CountingStore, DirStore, FaultPlan, FaultyStore, MemStore, ObjectStore, Odds, RetryPolicy,
    RetryStore, S3Options, Sleeper, Stop, StoreOptions,
};

use crate::Fixture;

pub(crate) fn mem() -> Fixture {
    alone(Arc::new(MemStore::new()))
}

pub(crate) fn dir() -> Fixture {
    in_directory(|store| Arc::new(store))
}

/// In the pool that `LSVD_TEST_RADOS_POOL` names, of the cluster of `LSVD_TEST_RADOS_CONF`, as
/// `LSVD_TEST_RADOS_USER` (default `admin`). What the tests write stays there, below `lsvd-test/`.
#[cfg(feature = "rados")]
pub(crate) fn rados() -> Option<Fixture> {
    use std::hash::{BuildHasher, RandomState};

    let setting = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(conf), Some(pool)) =
        (setting("LSVD_TEST_RADOS_CONF"), setting("LSVD_TEST_RADOS_POOL"))
    else {
        return skipped("LSVD_TEST_RADOS_CONF and LSVD_TEST_RADOS_POOL name no Ceph cluster");
    };
    let mut options = lsvd_store::StoreOptions::default();
    options.rados.conf = Some(conf.into());
    options.rados.user = setting("LSVD_TEST_RADOS_USER");
    let run = RandomState::new().hash_one("run");
    let url = format!("rados://{pool}/lsvd-test/{run:016x}");
    Some(alone(lsvd_store::open(&url, &options).unwrap()))
}

#[cfg(not(feature = "rados"))]
pub(crate) fn rados() -> Option<Fixture> {
    skipped("built without the feature rados")
}

/// Past the capture of the test harness: nobody should take this for a test that ran.
fn skipped(reason: &str) -> Option<Fixture> {
    use std::io::Write;

    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    None
}

pub(crate) fn retry_mem() -> Fixture {
    alone(Arc::new(retry(MemStore::new())))
}

/// A tenth of all requests is lost. Replies are not: a repeated create may then meet itself.
pub(crate) fn retry_faulty_mem() -> Fixture {
    let odds = Odds { before_per_mille: 100, ..Odds::default() };
    let plan = FaultPlan::seeded(20, odds);
    alone(Arc::new(retry(FaultyStore::new(MemStore::new(), plan))))
}

pub(crate) fn faulty_dir() -> Fixture {
    in_directory(|store| Arc::new(FaultyStore::new(store, FaultPlan::none())))
}

/// The server that `LSVD_TEST_S3_ENDPOINT`, `_BUCKET`, `_ACCESS_KEY` and `_SECRET_KEY` name;
/// `_CA` is a file of certificates, if it has one of its own.
pub(crate) fn s3() -> Option<Fixture> {
    s3_server("LSVD_TEST_S3")
}

/// A second one, of another make; the variables begin with `LSVD_TEST_RGW_`.
pub(crate) fn radosgw() -> Option<Fixture> {
    s3_server("LSVD_TEST_RGW")
}

/// Behind retries, as in the product: moto fails listings while objects come and go.
fn s3_server(variables: &str) -> Option<Fixture> {
    let known = |name: &str| {
        let value = std::env::var(format!("{variables}_{name}")).ok();
        value.filter(|value| !value.is_empty())
    };
    let needed = ["ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY"];
    if let Some(missing) = needed.into_iter().find(|name| known(name).is_none()) {
        return skipped(&format!("{variables}_{missing} is not set"));
    }
    let s3 = S3Options {
        endpoint: known("ENDPOINT"),
        access_key_id: known("ACCESS_KEY"),
        secret_access_key: known("SECRET_KEY"),
        ca_file: known("CA").map(Into::into),
        ..S3Options::default()
    };
    let options = StoreOptions { s3, ..StoreOptions::default() };
    let url = format!("s3://{}/contract", known("BUCKET")?);
    let store = lsvd_store::open(&url, &options).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let prefix = format!("{now:x}-{}", std::process::id());
    Some(Fixture { prefix, ..alone(Arc::new(retry(store))) })
}

pub(crate) fn counting_mem() -> Fixture {
    alone(Arc::new(CountingStore::new(MemStore::new())))
}

fn alone(store: Arc<dyn ObjectStore>) -> Fixture {
    Fixture { store, prefix: "contract".to_owned(), _dir: None }
}

fn in_directory(wrap: impl FnOnce(DirStore) -> Arc<dyn ObjectStore>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path().join("store"), true).unwrap();
    Fixture { _dir: Some(dir), ..alone(wrap(store)) }
}

fn retry<S: ObjectStore>(inner: S) -> RetryStore<S> {
    let policy =
        RetryPolicy { attempts_max: 20, deadline: Duration::MAX, ..RetryPolicy::default() };
    RetryStore::new(inner, policy, Arc::new(Sleepless::default()), Stop::new())
}

/// Pauses take no time.
#[derive(Debug, Default)]
struct Sleepless(AtomicU64);

impl Sleeper for Sleepless {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _pause: Duration, stop: &Stop) -> bool {
        !stop.is_set()
    }

    fn random(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
