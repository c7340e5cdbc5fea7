//! The store as one process sees it, until the process dies.

use std::io::IoSlice;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

use lsvd_store::{
    ByteRange, FaultPlan, FaultyStore, Front, Key, ListPage, MemStore, ObjectMeta, ObjectStore,
    StoreError, StoreResult, Version,
};

/// A store with faults. After the crash of its process its errors are of a kind that nobody
/// waits for to pass: a dead process does not try again, and the test goes on at once.
#[derive(Debug)]
pub(crate) struct MortalStore {
    faulty: FaultyStore<MemStore>,
    dead: AtomicBool,
}

impl MortalStore {
    pub(crate) fn new(store: MemStore, plan: FaultPlan) -> Self {
        Self { faulty: FaultyStore::new(store, plan), dead: AtomicBool::new(false) }
    }

    /// From now on nothing has an effect.
    pub(crate) fn crash(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.faulty.crash();
    }

    fn last_word<T>(&self, reply: StoreResult<T>) -> StoreResult<T> {
        match reply {
            Err(StoreError::Unavailable { store, source, .. })
                if self.dead.load(Ordering::SeqCst) =>
            {
                Err(StoreError::BadUrl { url: store, reason: source.to_string() })
            }
            other => other,
        }
    }
}

impl Deref for MortalStore {
    type Target = FaultyStore<MemStore>;

    fn deref(&self) -> &Self::Target {
        &self.faulty
    }
}

impl ObjectStore for MortalStore {
    fn url(&self) -> &str {
        self.faulty.url()
    }

    fn identity(&self) -> &str {
        self.faulty.identity()
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        self.last_word(self.faulty.create(key, parts))
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        self.last_word(self.faulty.replace(key, body, expected))
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        self.last_word(self.faulty.get(key))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        self.last_word(self.faulty.get_range(key, range))
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        self.last_word(self.faulty.get_front(key, limit))
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        self.last_word(self.faulty.head(key))
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        self.last_word(self.faulty.list(prefix, after, limit))
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        self.last_word(self.faulty.delete(key))
    }
}
