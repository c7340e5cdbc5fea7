//! A copy of map leaves on the local SSD, in sled. It saves reads from the store, no more.
//!
//! ```text
//!   key    volume uuid (16) | leaf index (8, big-endian)
//!   value  last change (8) | xxh3 of key, last change and leaf (8) | encoded leaf (little-endian)
//! ```
//!
//! **Discardable.** Nothing depends on what is in here: a leaf is used only if its last change
//! is the one that the root names, and our own checksum covers it together with its key. If
//! sled fails in any way the folder is deleted and the engine goes on without it; no error
//! reaches a caller.
//!
//! sled runs on a thread of its own, and every request to it has a time limit, because of how
//! it fails: damaged files can make it panic, but also retry a page for ever, and its recovery
//! calls `sync`, which waits for every file system of the machine. Its own flush thread must
//! stay off (`flush_every_ms`): it answers an I/O error with `abort`.
//!
//! The folder belongs to the holder of the cache directory's lock alone.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::leaf::LeafIndex;
use crate::units::ObjectSeq;

/// Leaves per sled page: few, for a leaf takes a few KiB.
const FANOUT: usize = 16;

/// Memory for sled's own cache. Each leaf is read once, at recovery.
const SLED_CACHE_BYTES: usize = 16 << 20;

/// How long a request may take before sled is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a value before the encoded leaf.
const HEADER_BYTES: usize = 16;

/// Keys removed per batch.
const REMOVE_KEYS: usize = 1024;

type LeafDb = sled::Db<FANOUT>;
type Job = Box<dyn FnOnce(&LeafDb) -> io::Result<()> + Send>;

/// A leaf that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLeaf {
    /// The object whose commit changed it last.
    pub last_change: ObjectSeq,
    /// The encoded leaf.
    pub bytes: Vec<u8>,
}

/// A leaf to put or to remove.
#[derive(Clone, Debug)]
pub struct LeafItem {
    /// The leaf.
    pub index: LeafIndex,
    /// The object whose commit changed it last.
    pub last_change: ObjectSeq,
    /// The encoded leaf; `None` removes it.
    pub bytes: Option<Vec<u8>>,
}

/// The leaves of all volumes of a cache directory. See the module's description.
#[derive(Debug)]
pub struct LeafStore {
    dir: PathBuf,
    patience: Duration,
    /// `None` once sled was given up.
    jobs: Mutex<Option<Sender<Job>>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl LeafStore {
    /// Opens the store in the folder `dir`, which is created, or emptied if sled cannot read
    /// it. Returns at once; the work is done in the background.
    pub fn open(dir: &Path) -> Self {
        Self::with_patience(dir, PATIENCE)
    }

    /// In place of a store: holds nothing.
    pub fn none() -> Self {
        Self {
            dir: PathBuf::new(),
            patience: PATIENCE,
            jobs: Mutex::new(None),
            ended: bounded(0).1,
        }
    }

    fn with_patience(dir: &Path, patience: Duration) -> Self {
        let (jobs, queue) = unbounded();
        let (end, ended) = bounded(0);
        let worker_dir = dir.to_path_buf();
        let spawned = thread::Builder::new().name("lsvd-leaves".into()).spawn(move || {
            work(&worker_dir, &queue);
            drop(end);
        });
        let jobs = match spawned {
            Ok(_) => Some(jobs),
            Err(error) => {
                log::warn!(
                    "{}: no thread for map leaves, going on without them: {error}",
                    dir.display()
                );
                None
            }
        };
        Self { dir: dir.to_path_buf(), patience, jobs: Mutex::new(jobs), ended }
    }

    /// The leaf `index` of `volume`, if it is here and whole.
    pub fn get(&self, volume: Uuid, index: LeafIndex) -> Option<StoredLeaf> {
        self.run(move |db| {
            let key = key(volume, index);
            Ok(db.get(key)?.and_then(|value| decode(&key, &value)))
        })?
    }

    /// Puts and removes leaves of `volume`. They survive a crash after the next [`Self::flush`].
    pub fn put_batch(&self, volume: Uuid, items: Vec<LeafItem>) {
        self.run(move |db| {
            let mut batch = sled::Batch::default();
            for item in items {
                let key = key(volume, item.index);
                match item.bytes {
                    Some(bytes) => batch.insert(key, encode(&key, item.last_change, &bytes)),
                    None => batch.remove(key),
                }
            }
            db.apply_batch(batch)
        });
    }

    /// Removes all leaves of `volume`.
    pub fn remove_volume(&self, volume: Uuid) {
        self.run(move |db| {
            loop {
                let keys = db.scan_prefix(volume.as_bytes()).keys().take(REMOVE_KEYS);
                let keys = keys.collect::<io::Result<Vec<_>>>()?;
                if keys.is_empty() {
                    return Ok(());
                }
                let mut batch = sled::Batch::default();
                keys.into_iter().for_each(|key| batch.remove(key));
                db.apply_batch(batch)?;
            }
        });
    }

    /// Makes what was put durable.
    pub fn flush(&self) {
        self.run(|db| db.flush().map(drop));
    }

    /// Whether sled was given up.
    pub fn is_off(&self) -> bool {
        self.jobs.lock().is_none()
    }

    /// Does `job` on sled's thread; `None` if that failed or took too long.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&LeafDb) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = bounded(1);
        let job = move |db: &LeafDb| {
            // The caller may have given up meanwhile; then nobody listens.
            let _ = reply.send(job(db)?);
            Ok(())
        };
        let jobs = self.jobs.lock().clone()?;
        if jobs.send(Box::new(job)).is_ok()
            && let Ok(value) = answer.recv_timeout(self.patience)
        {
            return Some(value);
        }
        self.give_up();
        None
    }

    fn give_up(&self) {
        if self.jobs.lock().take().is_some() {
            log::warn!(
                "{}: the copy of map leaves failed or hangs; going on without it",
                self.dir.display()
            );
            // Whatever is wrong with the files, the next start shall not meet it.
            discard(&self.dir);
        }
    }
}

impl Drop for LeafStore {
    fn drop(&mut self) {
        // Given up: its thread may hang, and nothing of it is wanted.
        if self.jobs.lock().take().is_some() {
            let _ = self.ended.recv_timeout(self.patience);
        }
    }
}

/// sled's thread: opens it, does jobs until the first that fails.
fn work(dir: &Path, queue: &Receiver<Job>) {
    let db = guarded(|| open_sled(dir)).or_else(|error| {
        log::warn!(
            "{}: cannot read the copy of map leaves, starting it anew: {error}",
            dir.display()
        );
        discard(dir);
        guarded(|| open_sled(dir))
    });
    let outcome = db.and_then(|db| {
        let outcome = queue.iter().try_for_each(|job| guarded(|| job(&db)));
        // Dropping flushes, which may panic as well.
        outcome.and(guarded(move || {
            drop(db);
            Ok(())
        }))
    });
    if let Err(error) = outcome {
        log::warn!("{}: the copy of map leaves failed: {error}", dir.display());
    }
}

fn open_sled(dir: &Path) -> io::Result<LeafDb> {
    fs::create_dir_all(dir)?;
    sled::Config::new()
        .path(dir)
        .cache_capacity_bytes(SLED_CACHE_BYTES)
        .flush_every_ms(None)
        .zstd_compression_level(1)
        .open::<FANOUT>()
}

/// Turns a panic into an error.
fn guarded<T>(action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(action))
        .unwrap_or_else(|_| Err(io::Error::other("sled panicked")))
}

fn discard(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{}: cannot delete the copy of map leaves: {error}", dir.display());
        }
        _ => {}
    }
}

fn key(volume: Uuid, index: LeafIndex) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(volume.as_bytes());
    key[16..].copy_from_slice(&index.get().to_be_bytes());
    key
}

fn checksum(key: &[u8; 24], last_change: &[u8], leaf: &[u8]) -> [u8; 8] {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.update(last_change);
    hash.update(leaf);
    hash.digest().to_le_bytes()
}

fn encode(key: &[u8; 24], last_change: ObjectSeq, leaf: &[u8]) -> Vec<u8> {
    let last_change = last_change.get().to_le_bytes();
    let mut value = Vec::with_capacity(HEADER_BYTES + leaf.len());
    value.extend_from_slice(&last_change);
    value.extend_from_slice(&checksum(key, &last_change, leaf));
    value.extend_from_slice(leaf);
    value
}

fn decode(key: &[u8; 24], value: &[u8]) -> Option<StoredLeaf> {
    let (last_change, rest) = value.split_first_chunk::<8>()?;
    let (sum, leaf) = rest.split_first_chunk::<8>()?;
    let whole = *sum == checksum(key, last_change, leaf);
    whole.then(|| StoredLeaf {
        last_change: ObjectSeq::new(u64::from_le_bytes(*last_change)),
        bytes: leaf.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    const VOLUMES: [Uuid; 2] = [Uuid::from_u128(7), Uuid::max()];
    const LEAVES: u64 = 40;

    fn content(volume: Uuid, index: u64) -> Vec<u8> {
        (0..1000 + index * 10).map(|i| (i * (index + 3)) as u8 ^ volume.as_bytes()[15]).collect()
    }

    fn fill(store: &LeafStore) {
        for volume in VOLUMES {
            let items = (0..LEAVES).map(|index| LeafItem {
                index: LeafIndex::new(index),
                last_change: ObjectSeq::new(100 + index),
                bytes: Some(content(volume, index)),
            });
            store.put_batch(volume, items.collect());
        }
        store.flush();
    }

    fn found(store: &LeafStore) -> usize {
        let all =
            VOLUMES.into_iter().flat_map(|volume| (0..LEAVES).map(move |index| (volume, index)));
        all.filter(|&(volume, index)| match store.get(volume, LeafIndex::new(index)) {
            Some(leaf) => {
                assert_eq!(leaf.last_change.get(), 100 + index);
                assert_eq!(leaf.bytes, content(volume, index), "a wrong leaf");
                true
            }
            None => false,
        })
        .count()
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else if fs::metadata(&path).unwrap().len() > 0 {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    #[test]
    fn leaves_come_back_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leaves");
        let store = LeafStore::open(&path);
        assert_eq!(found(&store), 0);
        fill(&store);
        assert_eq!(found(&store), 80);
        drop(store);

        let store = LeafStore::open(&path);
        assert_eq!(found(&store), 80);
        let gone =
            LeafItem { index: LeafIndex::new(3), last_change: ObjectSeq::new(200), bytes: None };
        store.put_batch(VOLUMES[0], vec![gone]);
        assert_eq!(found(&store), 79);
        store.remove_volume(VOLUMES[1]);
        assert_eq!(found(&store), 39);
        assert!(!store.is_off());
    }

    #[test]
    fn a_value_under_a_wrong_key_or_changed_is_refused() {
        let own = key(VOLUMES[0], LeafIndex::new(1));
        let value = encode(&own, ObjectSeq::new(5), b"leaf");
        assert!(decode(&own, &value).is_some());
        assert_eq!(decode(&key(VOLUMES[0], LeafIndex::new(2)), &value), None);
        for cut in 0..value.len() {
            assert_eq!(decode(&own, &value[..cut]), None);
            let mut flipped = value.clone();
            flipped[cut] ^= 1;
            assert_eq!(decode(&own, &flipped), None);
        }
    }

    /// Damage to every file that sled keeps: a wrong leaf never comes back, nothing panics
    /// outwards, and the store, or a fresh one after it, works.
    #[test]
    fn damaged_files_cost_leaves_but_never_give_wrong_ones() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good");
        let store = LeafStore::open(&good);
        fill(&store);
        drop(store);

        for (nth, file) in files(&good).into_iter().enumerate() {
            for damage in ["start", "middle", "cut", "gone"] {
                let path = dir.path().join(format!("bad-{nth}-{damage}"));
                copy_dir(&good, &path);
                let victim = path.join(file.strip_prefix(&good).unwrap());
                let len = fs::metadata(&victim).unwrap().len();
                let mut open = fs::OpenOptions::new().write(true).open(&victim).unwrap();
                match damage {
                    "start" => open.write_all(&[0xa5; 32]).unwrap(),
                    "middle" => {
                        open.seek(SeekFrom::Start(len / 2)).unwrap();
                        open.write_all(&[0x5a; 512]).unwrap();
                    }
                    "cut" => open.set_len(len / 2).unwrap(),
                    _ => fs::remove_file(&victim).unwrap(),
                }
                drop(open);
                let store = LeafStore::with_patience(&path, Duration::from_secs(60));
                found(&store);
                let off = store.is_off();
                drop(store);
                let store = LeafStore::with_patience(&path, Duration::from_secs(60));
                if off {
                    fill(&store);
                    assert_eq!(
                        found(&store),
                        80,
                        "works again after {damage} of {}",
                        victim.display()
                    );
                }
            }
        }
    }

    fn copy_dir(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy_dir(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
}
