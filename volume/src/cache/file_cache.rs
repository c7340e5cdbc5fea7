//! The read cache in one file.
//!
//! The index is cut into shards by key, each with its own lock and its own slots, interleaved
//! in the file. No lock is held across I/O: a reader looks up, reads, and asks whether the slot
//! was given away meanwhile; a writer claims a slot, fills it, and publishes it.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::index::{Found, Index};
use super::slots::{FrameSums, SLOT_BYTES, SlotFile, SlotRead};
use super::{CacheRead, CacheStats, FRAME_BYTES_MAX, FrameKey, Origin, ReadCache};
use crate::error::{Error, Result};

/// Shards at most; a small cache has fewer, so that each can choose among enough slots.
const SHARDS_MAX: u64 = 64;
const SLOTS_PER_SHARD_MIN: u64 = 64;

/// After so many failures the cache turns itself off.
const FAILURES_MAX: u64 = 64;

/// A read cache in one file. See the module's description.
#[derive(Debug)]
pub struct FileCache {
    path: PathBuf,
    slots: SlotFile,
    shards: Box<[Mutex<Index>]>,
    hasher: RandomState,
    capacity_slots: u64,
    counters: Counters,
    off: AtomicBool,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    inserts: AtomicU64,
    evictions: AtomicU64,
    failures: AtomicU64,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

impl FileCache {
    /// Opens the cache in the file `path`, which may grow to `bytes`. The file is made if it
    /// does not exist; what it holds from before is not used.
    ///
    /// # Errors
    /// `CacheDir` if there is not even room for one frame, `Local` if the file cannot be used.
    /// The caller goes on with [`super::NoCache`].
    pub fn open(path: &Path, bytes: u64) -> Result<Self> {
        let capacity_slots = bytes / SLOT_BYTES;
        if capacity_slots == 0 {
            let reason = format!("a read cache needs at least {SLOT_BYTES} bytes, not {bytes}");
            return Err(Error::CacheDir { path: path.to_path_buf(), reason });
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)
                .map_err(|e| Error::local(dir, "create the directory of the read cache", e))?;
        }
        let slots = SlotFile::open(path, capacity_slots)
            .map_err(|e| Error::local(path, "open the read cache", e))?;
        let shards = (capacity_slots / SLOTS_PER_SHARD_MIN).clamp(1, SHARDS_MAX);
        let share = |shard: u64| (capacity_slots - shard).div_ceil(shards) as usize;
        Ok(Self {
            path: path.to_path_buf(),
            slots,
            shards: (0..shards).map(|shard| Mutex::new(Index::new(share(shard)))).collect(),
            hasher: RandomState::new(),
            capacity_slots,
            counters: Counters::default(),
            off: AtomicBool::new(false),
        })
    }

    fn shard_of(&self, key: &FrameKey) -> usize {
        (self.hasher.hash_one(key) % self.shards.len() as u64) as usize
    }

    /// Place in the file of a shard's slot.
    fn slot_in_file(&self, shard: usize, slot: usize) -> u64 {
        (slot * self.shards.len() + shard) as u64
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    fn try_read(&self, key: &FrameKey, offset: u32, out: &mut [u8], may_wait: bool) -> CacheRead {
        let shard = self.shard_of(key);
        let Some(found) = self.shards[shard].lock().find(key) else {
            return CacheRead::Absent;
        };
        self.read_found(shard, &found, offset, out, may_wait)
    }

    /// Reads a slot that was found a moment ago, without the lock; much may have happened.
    fn read_found(
        &self,
        shard: usize,
        found: &Found,
        offset: u32,
        out: &mut [u8],
        may_wait: bool,
    ) -> CacheRead {
        let slot = self.slot_in_file(shard, found.slot);
        let outcome = self.slots.read(slot, &found.sums, offset, out, may_wait);
        let mut index = self.shards[shard].lock();
        if !index.unchanged(found) {
            // Given to another frame while it was read: a plain miss.
            return CacheRead::Absent;
        }
        let (what, error) = match outcome {
            Ok(SlotRead::Filled) => return CacheRead::Filled,
            Ok(SlotRead::OutOfFrame) => return CacheRead::Absent,
            Ok(SlotRead::WouldWait) => return CacheRead::WouldWait,
            Ok(SlotRead::Mismatch) => ("a frame is not what was written", None),
            Err(error) => ("cannot read", Some(error)),
        };
        index.discard(found);
        drop(index);
        self.failed(what, error);
        CacheRead::Absent
    }

    /// Counts a failure; one too many turns the cache off.
    fn failed(&self, what: &str, error: Option<io::Error>) {
        let detail = error.map(|e| format!(": {e}")).unwrap_or_default();
        let path = self.path.display();
        match count(&self.counters.failures) {
            1 => log::warn!("read cache {path}: {what}{detail}; reading from the store instead"),
            n if n >= FAILURES_MAX && !self.off.swap(true, Ordering::Relaxed) => {
                log::warn!("read cache {path}: {what}{detail}; turned off after {n} failures");
                self.shards.iter().for_each(|shard| shard.lock().clear());
                // It may well fail as everything before did.
                let _ = self.slots.empty();
            }
            _ => {}
        }
    }
}

impl ReadCache for FileCache {
    fn read(&self, key: &FrameKey, offset: u32, out: &mut [u8], may_wait: bool) -> CacheRead {
        let read = match self.is_off() {
            true => CacheRead::Absent,
            false => self.try_read(key, offset, out, may_wait),
        };
        match read {
            CacheRead::Filled => _ = count(&self.counters.hits),
            CacheRead::Absent => _ = count(&self.counters.misses),
            CacheRead::WouldWait => {}
        }
        read
    }

    fn insert(&self, key: FrameKey, frame: &[u8], origin: Origin) {
        if self.is_off() || frame.is_empty() || frame.len() > FRAME_BYTES_MAX {
            return;
        }
        let shard = self.shard_of(&key);
        let Some(claim) = self.shards[shard].lock().claim(key) else {
            return;
        };
        if claim.evicted {
            count(&self.counters.evictions);
        }
        let sums = FrameSums::of(frame);
        let slot = self.slot_in_file(shard, claim.slot);
        match self.slots.write(slot, &key, frame, origin) {
            Ok(()) => {
                self.shards[shard].lock().publish(&claim, sums);
                count(&self.counters.inserts);
            }
            Err(error) => {
                self.shards[shard].lock().abandon(&claim);
                self.failed("cannot write", Some(error));
            }
        }
    }

    fn contains(&self, key: &FrameKey) -> bool {
        self.shards[self.shard_of(key)].lock().contains(key)
    }

    fn stats(&self) -> CacheStats {
        let used: usize = self.shards.iter().map(|shard| shard.lock().slots()).sum();
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: value(&self.counters.hits),
            misses: value(&self.counters.misses),
            inserts: value(&self.counters.inserts),
            evictions: value(&self.counters.evictions),
            failures: value(&self.counters.failures),
            used_bytes: used as u64 * SLOT_BYTES,
            capacity_bytes: self.capacity_slots * SLOT_BYTES,
            off: self.is_off(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::thread;
    use uuid::Uuid;

    use super::*;
    use crate::format::Nonce;
    use crate::ssd_io::open_direct;
    use crate::units::ObjectSeq;

    fn key(frame: u32) -> FrameKey {
        FrameKey {
            volume: Uuid::from_u128(1),
            object: ObjectSeq::new(u64::from(frame) / 100),
            nonce: Nonce::new(9),
            frame,
        }
    }

    /// A frame's content, different at every offset and for every key; some are short.
    fn content(frame: u32) -> Vec<u8> {
        let len = if frame.is_multiple_of(3) {
            FRAME_BYTES_MAX
        } else {
            1 + (frame as usize * 7919) % FRAME_BYTES_MAX
        };
        (0..len as u32).map(|i| (i ^ (i >> 8) ^ frame.wrapping_mul(31)) as u8).collect()
    }

    fn cache(dir: &Path, slots: u64) -> FileCache {
        FileCache::open(&dir.join("frames"), slots * SLOT_BYTES + 5).unwrap()
    }

    fn reads(cache: &FileCache, key: &FrameKey, offset: u32, out: &mut [u8]) -> bool {
        cache.read(key, offset, out, true) == CacheRead::Filled
    }

    #[test]
    fn frames_and_parts_of_them_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 300);
        for frame in 0..100 {
            cache.insert(key(frame), &content(frame), Origin::Written);
        }
        for frame in 0..100 {
            let expected = content(frame);
            let mut out = vec![0; expected.len()];
            assert!(cache.contains(&key(frame)) && reads(&cache, &key(frame), 0, &mut out));
            assert_eq!(out, expected);
            let (offset, len) = (expected.len() / 3, expected.len() / 2);
            assert!(reads(&cache, &key(frame), offset as u32, &mut out[..len]));
            assert_eq!(out[..len], expected[offset..offset + len]);
            assert!(!reads(&cache, &key(frame), 1, &mut out), "past the frame's end");
        }
        assert!(!reads(&cache, &FrameKey { nonce: Nonce::new(8), ..key(1) }, 0, &mut [0]));
        cache.insert(key(500), &[], Origin::Written);
        cache.insert(key(501), &vec![0; FRAME_BYTES_MAX + 1], Origin::Written);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.inserts, stats.evictions), (200, 101, 100, 0));
        assert_eq!((stats.used_bytes, stats.capacity_bytes), (100 * SLOT_BYTES, 300 * SLOT_BYTES));
    }

    #[test]
    fn the_file_stays_within_its_size_and_starts_empty() {
        let dir = tempfile::tempdir().unwrap();
        let small = cache(dir.path(), 130);
        for frame in 0..500 {
            small.insert(key(frame), &content(frame), Origin::Written);
        }
        let stats = small.stats();
        assert_eq!((stats.used_bytes, stats.evictions), (130 * SLOT_BYTES, 370));
        let bytes = |dir: &Path| fs::metadata(dir.join("frames")).unwrap().len();
        assert!(bytes(dir.path()) <= 130 * SLOT_BYTES);
        drop(small);

        let smaller = cache(dir.path(), 10);
        assert!(bytes(dir.path()) <= 10 * SLOT_BYTES, "a smaller cache gives space back");
        assert!(!smaller.contains(&key(499)) && !reads(&smaller, &key(499), 0, &mut [0]));
    }

    #[test]
    fn a_damaged_frame_is_a_miss_and_can_be_put_in_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1);
        cache.insert(key(0), &content(0), Origin::Written);
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("frames")).unwrap();
        file.write_all_at(&[0xff; 4096], 3 * 4096).unwrap();
        let mut out = [0; 4096];
        assert!(reads(&cache, &key(0), 0, &mut out), "the block before is whole");
        assert!(!reads(&cache, &key(0), 2 * 4096, &mut out));
        assert!(!cache.contains(&key(0)));
        cache.insert(key(0), &content(0), Origin::Written);
        assert!(reads(&cache, &key(0), 2 * 4096, &mut out));
        assert_eq!((out.as_slice(), cache.stats().failures), (&content(0)[2 * 4096..3 * 4096], 1));
    }

    #[test]
    fn what_is_not_in_memory_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 100);
        let mut out = vec![0; FRAME_BYTES_MAX];
        cache.insert(key(0), &content(0), Origin::Read);
        let read = cache.read(&key(0), 0, &mut out, false);
        if read != CacheRead::Filled || !open_direct(&dir.path().join("frames")).unwrap().1 {
            eprintln!("skipped: {} cannot say what would wait", dir.path().display());
            return;
        }
        // The device may be quick enough for one or the other.
        let mut waits = 0;
        for frame in (3..60).step_by(3) {
            cache.insert(key(frame), &content(frame), Origin::Written);
            let before = cache.stats().hits;
            let waited = match cache.read(&key(frame), 5, &mut out[..100], false) {
                CacheRead::WouldWait => 1,
                CacheRead::Filled => 0,
                CacheRead::Absent => panic!("frame {frame} is gone"),
            };
            assert_eq!(cache.stats().hits, before + 1 - waited);
            waits += waited;
            assert!(reads(&cache, &key(frame), 0, &mut out));
            assert_eq!(cache.read(&key(frame), 0, &mut out, false), CacheRead::Filled, "now it is");
            assert_eq!(out, content(frame));
        }
        assert!(waits > 0, "none had to be waited for");
        assert_eq!((cache.stats().misses, cache.stats().failures), (0, 0));
    }

    #[test]
    fn a_cut_off_file_is_a_miss_also_for_who_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 10);
        cache.insert(key(0), &content(0), Origin::Written);
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("frames")).unwrap();
        file.set_len(4096 + 100).unwrap();
        let mut out = vec![0; FRAME_BYTES_MAX];
        assert_eq!(cache.read(&key(0), 0, &mut out, false), CacheRead::WouldWait);
        assert_eq!(cache.read(&key(0), 0, &mut out, true), CacheRead::Absent);
        assert_eq!((cache.contains(&key(0)), cache.stats().failures), (false, 1));
    }

    /// Pages of a frame that was read, dirty or not, and another frame that goes past them.
    #[test]
    fn frames_of_both_origins_share_slots() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 2);
        let mut out = vec![0; FRAME_BYTES_MAX];
        for round in 0..100_u32 {
            let frame = round * 7 % 20;
            let origin = if round % 3 == 0 { Origin::Read } else { Origin::Written };
            cache.insert(key(frame), &content(frame), origin);
            let out = &mut out[..content(frame).len()];
            if round % 2 == 0 {
                // Begins a read that nobody waits for.
                cache.read(&key(frame), 0, out, false);
            }
            assert!(reads(&cache, &key(frame), 0, out), "round {round}");
            assert!(out == content(frame), "round {round}");
        }
        assert_eq!(cache.stats().failures, 0);
    }

    #[test]
    fn a_failing_device_turns_the_cache_off() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 200);
        let frames = FAILURES_MAX as u32 + 10;
        for frame in 0..frames {
            cache.insert(key(frame), &content(frame), Origin::Written);
        }
        fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("frames"))
            .unwrap()
            .set_len(0)
            .unwrap();
        for frame in 0..frames {
            assert!(!reads(&cache, &key(frame), 0, &mut [0]));
        }
        let stats = cache.stats();
        assert_eq!((stats.off, stats.failures, stats.used_bytes), (true, FAILURES_MAX, 0));
        cache.insert(key(1), &content(1), Origin::Written);
        assert!(!reads(&cache, &key(1), 0, &mut [0]));
    }

    #[test]
    fn a_slot_given_away_during_a_read_never_shows() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 3);
        thread::scope(|scope| {
            for worker in 0..4u32 {
                let cache = &cache;
                scope.spawn(move || {
                    let mut out = vec![0; FRAME_BYTES_MAX];
                    for round in 0..300u32 {
                        let frame = (round * 5 + worker * 3) % 8;
                        let expected = content(frame);
                        let read = round % 2 == 0;
                        let origin = if read { Origin::Read } else { Origin::Written };
                        cache.insert(key(frame), &expected, origin);
                        let out = &mut out[..expected.len()];
                        let may_wait = round % 3 > 0;
                        if cache.read(&key(frame), 0, out, may_wait) == CacheRead::Filled {
                            assert_eq!(out, expected);
                        }
                    }
                });
            }
        });
        let stats = cache.stats();
        assert!(stats.hits > 0 && stats.evictions > 0);
        assert_eq!(stats.failures, 0, "a race is no failure");
    }

    #[test]
    fn a_slot_given_away_between_lookup_and_read_is_a_plain_miss() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1);
        cache.insert(key(0), &content(0), Origin::Written);
        let found = cache.shards[0].lock().find(&key(0)).unwrap();
        cache.insert(key(3), &content(3), Origin::Written);
        let mut out = vec![0; FRAME_BYTES_MAX];
        let read = cache.read_found(0, &found, 0, &mut out, true);
        assert_eq!(read, CacheRead::Absent);
        assert_eq!(cache.stats().failures, 0, "a race is no failure");
        assert!(reads(&cache, &key(3), 0, &mut out), "the new frame stays");
        assert_eq!(out, content(3));
    }

    #[test]
    fn too_small_or_impossible_is_an_error_at_open() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            FileCache::open(&dir.path().join("frames"), 4096),
            Err(Error::CacheDir { .. })
        ));
        assert!(matches!(FileCache::open(dir.path(), 1 << 30), Err(Error::Local { .. })));
    }
}
