//! A decorator that counts requests: how many, how many failed, how many bytes.
//!
//! ```text
//!   RetryStore | uploads
//!        |          |        each attempt is a request of its own
//!      CountingStore         one Traffic for all, one for each group of keys
//!        |
//!   DirStore | MemStore | ...
//! ```
//! It belongs right above a backend and below whatever tries again. One call counts as one request,
//! except that deleting many objects is as many as the backend says
//! ([`ObjectStore::requests_to_delete`]); what a backend counts of its own, for rare answers that
//! take a second look ([`ObjectStore::further_requests`]), is in the sum of all, and in no group. So
//! for S3 the figures are what is billed; RADOS, whose index is not counted, does more.
//!
//! An answer that says no (there is no such object, there is one already) is not an error: those
//! are the requests that the store failed or refused.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::{
    ByteRange, Front, Key, ListPage, ObjectMeta, ObjectStore, StoreError, StoreResult, Version,
};

/// What one kind of operation cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OpTraffic {
    /// Requests sent.
    pub requests: u64,
    /// Requests that the store failed or refused.
    pub errors: u64,
    /// Bytes of objects sent, also in vain.
    pub bytes_up: u64,
    /// Bytes of objects received.
    pub bytes_down: u64,
}

impl OpTraffic {
    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: with(self.requests, other.requests),
            errors: with(self.errors, other.errors),
            bytes_up: with(self.bytes_up, other.bytes_up),
            bytes_down: with(self.bytes_down, other.bytes_down),
        }
    }
}

impl std::ops::Add for OpTraffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }
}

impl std::ops::Sub for OpTraffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }
}

/// What all kinds of operations cost, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Requests {
    /// [`ObjectStore::create`].
    pub create: OpTraffic,
    /// [`ObjectStore::replace`].
    pub replace: OpTraffic,
    /// [`ObjectStore::get`].
    pub get: OpTraffic,
    /// [`ObjectStore::get_range`] and [`ObjectStore::get_front`].
    pub get_range: OpTraffic,
    /// [`ObjectStore::head`].
    pub head: OpTraffic,
    /// [`ObjectStore::list`].
    pub list: OpTraffic,
    /// [`ObjectStore::delete`].
    pub delete: OpTraffic,
    /// [`ObjectStore::delete_many`].
    pub delete_many: OpTraffic,
}

impl Requests {
    /// By the classes in which stores bill them: `put`, `get`, `head`, `list`, `delete`.
    pub fn classes(&self) -> [(&'static str, OpTraffic); 5] {
        [
            ("put", self.create + self.replace),
            ("get", self.get + self.get_range),
            ("head", self.head),
            ("list", self.list),
            ("delete", self.delete + self.delete_many),
        ]
    }

    /// All of them together.
    pub fn total(&self) -> OpTraffic {
        self.classes().into_iter().fold(OpTraffic::default(), |sum, (_, class)| sum + class)
    }

    /// What came after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        self.zip(earlier, |now, then| now - then)
    }

    /// Both together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.zip(other, |one, other| one + other)
    }

    fn zip(&self, other: &Self, with: impl Fn(OpTraffic, OpTraffic) -> OpTraffic) -> Self {
        Self {
            create: with(self.create, other.create),
            replace: with(self.replace, other.replace),
            get: with(self.get, other.get),
            get_range: with(self.get_range, other.get_range),
            head: with(self.head, other.head),
            list: with(self.list, other.list),
            delete: with(self.delete, other.delete),
            delete_many: with(self.delete_many, other.delete_many),
        }
    }
}

/// Counters of one kind of operation.
#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counter {
    fn add(&self, cost: OpTraffic) {
        self.requests.fetch_add(cost.requests, Ordering::Relaxed);
        self.errors.fetch_add(cost.errors, Ordering::Relaxed);
        self.bytes_up.fetch_add(cost.bytes_up, Ordering::Relaxed);
        self.bytes_down.fetch_add(cost.bytes_down, Ordering::Relaxed);
    }

    fn get(&self) -> OpTraffic {
        OpTraffic {
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
        }
    }
}

/// Running counters of all kinds of operations.
#[derive(Debug, Default)]
pub struct Traffic {
    create: Counter,
    replace: Counter,
    get: Counter,
    get_range: Counter,
    head: Counter,
    list: Counter,
    delete: Counter,
    delete_many: Counter,
}

impl Traffic {
    /// Counts a write, successful or not, that a store made on its own account.
    pub(crate) fn note_replace(&self, bytes_up: u64, failed: bool) {
        let errors = u64::from(failed);
        self.replace.add(OpTraffic { requests: 1, errors, bytes_up, bytes_down: 0 });
    }

    /// Counts a look at an object that a store made on its own account.
    pub(crate) fn note_head(&self) {
        self.head.add(OpTraffic { requests: 1, ..OpTraffic::default() });
    }

    /// Counts a page of a listing that a store asked for on its own account.
    pub(crate) fn note_list(&self) {
        self.list.add(OpTraffic { requests: 1, ..OpTraffic::default() });
    }

    /// The counters at this moment.
    pub fn requests(&self) -> Requests {
        Requests {
            create: self.create.get(),
            replace: self.replace.get(),
            get: self.get.get(),
            get_range: self.get_range.get(),
            head: self.head.get(),
            list: self.list.get(),
            delete: self.delete.get(),
            delete_many: self.delete_many.get(),
        }
    }
}

/// Says which group of objects a key, or the prefix of a listing, belongs to.
pub type Grouping = fn(&str) -> Option<&str>;

/// Counts what goes to `S`, in all and for each group of keys.
#[derive(Debug)]
pub struct CountingStore<S> {
    inner: S,
    all: Traffic,
    grouping: Grouping,
    groups: RwLock<HashMap<String, Arc<Traffic>>>,
}

impl<S: ObjectStore> CountingStore<S> {
    /// Counts for all objects together.
    pub fn new(inner: S) -> Self {
        Self::grouped(inner, |_| None)
    }

    /// Counts also for each group of objects that `grouping` knows, for as long as this lives.
    pub fn grouped(inner: S, grouping: Grouping) -> Self {
        Self { inner, all: Traffic::default(), grouping, groups: RwLock::default() }
    }

    /// All requests so far.
    pub fn requests(&self) -> Requests {
        self.all.requests().plus(&self.inner.further_requests())
    }

    /// The counters of one group.
    pub fn group(&self, name: &str) -> Arc<Traffic> {
        if let Some(traffic) = self.groups.read().get(name) {
            return Arc::clone(traffic);
        }
        Arc::clone(self.groups.write().entry(name.to_owned()).or_default())
    }

    /// Sends `requests` requests and counts them; `down` says how much came back.
    fn run<T>(
        &self,
        key: &str,
        counter: fn(&Traffic) -> &Counter,
        requests: u64,
        bytes_up: u64,
        call: impl FnOnce(&S) -> StoreResult<T>,
        down: impl FnOnce(&T) -> u64,
    ) -> StoreResult<T> {
        let reply = call(&self.inner);
        let cost = OpTraffic {
            requests,
            errors: u64::from(reply.as_ref().is_err_and(is_failure)),
            bytes_up,
            bytes_down: reply.as_ref().map_or(0, down),
        };
        counter(&self.all).add(cost);
        if let Some(name) = (self.grouping)(key) {
            counter(&self.group(name)).add(cost);
        }
        reply
    }
}

fn is_failure(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. } | StoreError::Refused { .. })
}

fn nothing<T>(_: &T) -> u64 {
    0
}

impl<S: ObjectStore> ObjectStore for CountingStore<S> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn identity(&self) -> &str {
        self.inner.identity()
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        let up = parts.iter().map(|part| part.len() as u64).sum();
        self.run(key.as_str(), |t| &t.create, 1, up, |s| s.create(key, parts), nothing)
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        let up = body.len() as u64;
        let call = |s: &S| s.replace(key, body, expected);
        self.run(key.as_str(), |t| &t.replace, 1, up, call, nothing)
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        let down = |(body, _): &(Vec<u8>, Version)| body.len() as u64;
        self.run(key.as_str(), |t| &t.get, 1, 0, |s| s.get(key), down)
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        let down = |body: &Vec<u8>| body.len() as u64;
        self.run(key.as_str(), |t| &t.get_range, 1, 0, |s| s.get_range(key, range), down)
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        let down = |front: &Front| front.bytes.len() as u64;
        self.run(key.as_str(), |t| &t.get_range, 1, 0, |s| s.get_front(key, limit), down)
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        self.run(key.as_str(), |t| &t.head, 1, 0, |s| s.head(key), nothing)
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        self.run(prefix, |t| &t.list, 1, 0, |s| s.list(prefix, after, limit), nothing)
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        self.run(key.as_str(), |t| &t.delete, 1, 0, |s| s.delete(key), nothing)
    }

    fn delete_many(&self, keys: &[Key]) -> StoreResult<()> {
        // Who deletes many deletes them from one group.
        let Some(first) = keys.first() else { return Ok(()) };
        let requests = self.inner.requests_to_delete(keys.len());
        let call = |s: &S| s.delete_many(keys);
        self.run(first.as_str(), |t| &t.delete_many, requests, 0, call, nothing)
    }

    fn requests_to_delete(&self, keys: usize) -> u64 {
        self.inner.requests_to_delete(keys)
    }

    fn further_requests(&self) -> Requests {
        self.inner.further_requests()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FaultPlan, FaultyStore, MemStore, Op, RetryPolicy, RetryStore, Rule, Stop, StoreOptions,
        SystemSleeper,
    };

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn first_segment(key: &str) -> Option<&str> {
        key.split_once('/').map(|(first, _)| first)
    }

    #[test]
    fn requests_are_counted_for_all_and_by_group() {
        let store = CountingStore::grouped(MemStore::new(), first_segment);
        store.create(&key("a/1"), &[IoSlice::new(b"12345")]).unwrap();
        store.create(&key("b/1"), &[IoSlice::new(b"123")]).unwrap();
        store.get_range(&key("a/1"), ByteRange::new(1, 2).unwrap()).unwrap();
        let (_, version) = store.get(&key("a/1")).unwrap();
        store.replace(&key("a/1"), b"1234567", &version).unwrap();
        store.head(&key("a/1")).unwrap();
        store.list("a/", None, 10).unwrap();
        store.delete(&key("b/1")).unwrap();
        store.delete_many(&[key("a/1"), key("a/2")]).unwrap();

        let all = store.requests();
        assert_eq!(all.create, OpTraffic { requests: 2, bytes_up: 8, ..OpTraffic::default() });
        assert_eq!(all.total().requests, 10);
        let a = store.group("a").requests();
        let classes: Vec<_> = a.classes().map(|(name, class)| (name, class.requests)).to_vec();
        assert_eq!(classes, [("put", 2), ("get", 2), ("head", 1), ("list", 1), ("delete", 2)]);
        assert_eq!((a.total().bytes_up, a.total().bytes_down), (12, 7));
        assert_eq!(a.since(&a), Requests::default());
        assert_eq!(store.group("b").requests().total().requests, 2);
        assert_eq!(store.group("c").requests(), Requests::default());
    }

    #[test]
    fn no_decorator_hides_which_store_it_is() {
        let mut options = StoreOptions::default();
        options.s3.endpoint = Some("http://localhost:9000".to_owned());
        options.s3.access_key_id = Some("id".to_owned());
        options.s3.secret_access_key = Some("secret".to_owned());
        let store = crate::open("s3://bucket/vols", &options).unwrap();
        let store = FaultyStore::new(CountingStore::new(store), FaultPlan::none());
        let sleeper = Arc::new(SystemSleeper::new());
        let store = RetryStore::new(store, RetryPolicy::default(), sleeper, Stop::new());
        assert_eq!(store.url(), "s3://bucket/vols");
        assert_eq!(store.identity(), "s3://bucket/vols at localhost:9000");
    }

    #[test]
    fn an_answer_that_says_no_is_not_an_error() {
        let faulty = FaultyStore::new(MemStore::new(), FaultPlan::none());
        faulty.inject(Rule::next(Op::Get, "*", crate::Fault::Before));
        let store = CountingStore::new(faulty);
        assert!(store.get(&key("a")).is_err());
        assert!(store.get(&key("a")).unwrap_err().is_not_found());
        let expected = OpTraffic { requests: 2, errors: 1, ..OpTraffic::default() };
        assert_eq!(store.requests().get, expected);
    }
}
