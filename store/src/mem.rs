//! A store in memory: for tests, simulation and trying things out.
//!
//! Nothing survives the last clone. Objects are shared, not copied, while they are read.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::parts::joined;
use crate::{
    ByteRange, Front, Key, ListPage, ObjectMeta, ObjectStore, StoreError, StoreResult, Version,
};

const URL: &str = "mem:";

/// Objects in a map; all clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    objects: Arc<RwLock<BTreeMap<Key, Arc<Vec<u8>>>>>,
}

impl MemStore {
    /// An empty store, unlike every other one.
    pub fn new() -> Self {
        Self::default()
    }

    fn object(&self, key: &Key) -> StoreResult<Arc<Vec<u8>>> {
        let objects = self.objects.read();
        let object = objects.get(key).cloned();
        object.ok_or_else(|| StoreError::not_found(URL, key))
    }
}

impl ObjectStore for MemStore {
    fn url(&self) -> &str {
        URL
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        let body = joined(parts).into_owned();
        let mut objects = self.objects.write();
        if objects.contains_key(key) {
            return Err(StoreError::already_exists(URL, key));
        }
        objects.insert(key.clone(), Arc::new(body));
        Ok(())
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        let mut objects = self.objects.write();
        let Some(object) = objects.get_mut(key) else {
            return Err(StoreError::not_found(URL, key));
        };
        if Version::of_content(object) != *expected {
            return Err(StoreError::precondition(URL, key));
        }
        *object = Arc::new(body.to_vec());
        Ok(Version::of_content(body))
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        let object = self.object(key)?;
        Ok((object.to_vec(), Version::of_content(&object)))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        let object = self.object(key)?;
        let (start, end) = (range.start() as usize, range.end() as usize);
        match object.get(start..end) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(StoreError::out_of_range(URL, key, object.len() as u64, range)),
        }
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        let object = self.object(key)?;
        let bytes = object.iter().copied().take(limit as usize).collect();
        Ok(Front { bytes, size: object.len() as u64 })
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        let object = self.object(key)?;
        Ok(meta(key, &object))
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        let from = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let limit = limit.max(1);
        let objects = self.objects.read();
        let mut rest = objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix));
        let page = rest.by_ref().take(limit);
        Ok(ListPage {
            objects: page.map(|(key, object)| meta(key, object)).collect(),
            truncated: rest.next().is_some(),
        })
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        self.objects.write().remove(key);
        Ok(())
    }
}

fn meta(key: &Key, object: &[u8]) -> ObjectMeta {
    ObjectMeta { key: key.clone(), size: object.len() as u64 }
}
