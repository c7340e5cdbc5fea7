//! Random operations on volumes, their snapshots and clones, beside a model in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use lsvd_store::MemStore;
use lsvd_volume::check::{Finding, Severity};
use lsvd_volume::{
    Check, Close, Compression, Engine, EngineConfig, Error, HistoryRetention, Moment, ObjectSeq,
    Volume, VolumeConfig,
};
use tempfile::TempDir;

use crate::rng::Rng;
use crate::seeds::for_seeds;
use crate::shared::{attrs, named};
use crate::sharing::ALL;

const BLOCK: u64 = 4096;
/// Over the edge of two leaves of the map.
const BASE: u64 = (16 << 20) - 64 * BLOCK;
const BLOCKS: u64 = 128;

/// Blocks from [`BASE`] on, by what was written there.
type Content = Vec<u64>;

#[derive(Clone, Debug, Default)]
struct Expected {
    blocks: Content,
    snapshots: BTreeMap<String, Content>,
    /// What objects of the stream contain all before them, and whether they are to be kept.
    moments: Vec<(u64, Content, bool)>,
}

struct Model {
    rng: Rng,
    store: MemStore,
    dir: TempDir,
    engine: Option<Arc<Engine>>,
    expected: BTreeMap<String, Expected>,
    /// Which snapshot a clone comes from.
    origins: BTreeMap<String, (String, String)>,
    next: u64,
    memory: u64,
    history: HistoryRetention,
}

fn wait<T: Send + 'static>(start: impl FnOnce(Box<dyn FnOnce(T) + Send>)) -> T {
    let (tell, told) = channel();
    start(Box::new(move |value| tell.send(value).unwrap()));
    told.recv().unwrap()
}

fn block(stamp: u64) -> Vec<u8> {
    let word = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    if stamp == 0 { vec![0; BLOCK as usize] } else { word.repeat(BLOCK as usize / 8) }
}

fn read(volume: &Arc<Volume>, offset: u64, len: usize) -> Vec<u8> {
    let read: Result<Vec<u8>, Error> =
        wait(|done: Box<dyn FnOnce(Result<Vec<u8>, Error>) + Send>| {
            volume.read(offset, len, move |bytes| done(bytes.map(<[u8]>::to_vec)))
        });
    read.unwrap()
}

fn check(volume: &Arc<Volume>, expected: &Content, what: &str) {
    let size = volume.size_bytes();
    assert_eq!(size, BASE + expected.len() as u64 * BLOCK, "size of {what}");
    let bytes = read(volume, BASE, expected.len() * BLOCK as usize);
    for (nth, stamp) in expected.iter().enumerate() {
        let at = nth * BLOCK as usize;
        let found = &bytes[at..at + BLOCK as usize];
        let held = || (0..100_000).find(|stamp| block(*stamp)[..] == *found);
        assert!(*found == block(*stamp)[..], "{what}: block {nth} is {:?}, not {stamp}", held());
    }
    assert!(read(volume, 0, 1 << 16).iter().all(|byte| *byte == 0), "{what}: its beginning");
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut model = Self {
            rng: Rng::new(seed),
            store: MemStore::new(),
            dir: tempfile::tempdir().unwrap(),
            engine: None,
            expected: BTreeMap::new(),
            origins: BTreeMap::new(),
            next: 1,
            history: HistoryRetention {
                age: seed.is_multiple_of(3).then_some(Duration::from_hours(24)),
                bytes: (seed % 3 == 1).then_some(200 << 10),
                as_it_is: false,
            },
            memory: if seed.is_multiple_of(2) { 0 } else { 64 << 20 },
        };
        model.boot();
        model.engine().create(&named("v0"), BASE + BLOCKS * BLOCK, attrs()).unwrap();
        let blocks = vec![0; BLOCKS as usize];
        model.expected.insert("v0".into(), Expected { blocks, ..Expected::default() });
        model
    }

    fn boot(&mut self) {
        let volume = VolumeConfig {
            log_bytes: 32 << 20,
            buffer_bytes: 4 << 20,
            batch_bytes: 128 << 10,
            compression: Compression::Lz4,
            checkpoint_objects: 3,
            gc_start_percent: if self.rng.below(2) == 0 { 90 } else { 0 },
            gc_stop_percent: 95,
            gc_bytes_per_s: None,
            history: self.history,
            ..VolumeConfig::default()
        };
        let config = EngineConfig {
            cache_dir: self.dir.path().to_owned(),
            cache_bytes: 4 << 20,
            map_memory_bytes: self.memory,
            no_fencing: true,
            follow_interval: Duration::ZERO,
            volume,
        };
        self.engine = Some(Engine::open(Arc::new(self.store.clone()), config).unwrap());
    }

    fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().unwrap()
    }

    fn pick(&mut self) -> String {
        let nth = self.rng.below(self.expected.len() as u64) as usize;
        self.expected.keys().nth(nth).unwrap().clone()
    }

    fn pick_snapshot(&mut self) -> Option<(String, String)> {
        let all: Vec<_> = self
            .expected
            .iter()
            .flat_map(|(v, e)| e.snapshots.keys().map(|s| (v.clone(), s.clone())))
            .collect();
        let count = all.len() as u64;
        (count > 0).then(|| all[self.rng.below(count) as usize].clone())
    }

    fn volume(&self, of: &str) -> Arc<Volume> {
        self.engine().open_writer(&named(of)).unwrap()
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    fn write(&mut self, of: &str) {
        let volume = self.volume(of);
        let blocks = self.expected[of].blocks.len() as u64;
        let start = self.rng.below(blocks);
        let count = 1 + self.rng.below(16.min(blocks - start));
        let is_trim = self.rng.below(5) == 0;
        let mut bytes = Vec::new();
        for nth in start..start + count {
            self.next += 1;
            let stamp = if is_trim { 0 } else { self.next };
            bytes.extend(block(stamp));
            self.expected.get_mut(of).unwrap().blocks[nth as usize] = stamp;
        }
        let (offset, len) = (BASE + start * BLOCK, count * BLOCK);
        let done: Result<(), Error> = match is_trim {
            true => wait(|done| volume.trim(offset, len, done)),
            false => wait(|done| volume.write(offset, &bytes, done)),
        };
        done.unwrap();
    }

    fn resize(&mut self, of: &str) {
        let blocks = 8 + self.rng.below(2 * BLOCKS);
        self.volume(of).resize(BASE + blocks * BLOCK, true).unwrap();
        self.expected.get_mut(of).unwrap().blocks.resize(blocks as usize, 0);
    }

    fn snapshot(&mut self, of: &str) {
        let snapshot = self.fresh("s");
        self.volume(of).create_snapshot(&named(&snapshot)).unwrap();
        let expected = self.expected.get_mut(of).unwrap();
        expected.snapshots.insert(snapshot, expected.blocks.clone());
    }

    fn has_clones(&self, of: &str, snapshot: &str) -> bool {
        self.origins.values().any(|(volume, origin)| volume == of && origin == snapshot)
    }

    fn delete_snapshot(&mut self) {
        let Some((of, snapshot)) = self.pick_snapshot() else { return };
        let deleted = self.engine().delete_snapshot(&named(&of), &named(&snapshot));
        if self.has_clones(&of, &snapshot) {
            assert!(matches!(deleted, Err(Error::SnapshotKept { .. })), "{deleted:?}");
        } else {
            deleted.unwrap();
            self.expected.get_mut(&of).unwrap().snapshots.remove(&snapshot);
        }
    }

    fn roll_back(&mut self) {
        let Some((of, snapshot)) = self.pick_snapshot() else { return };
        // Its log may hold something that the store lacks.
        drop(self.volume(&of));
        self.engine().close(&named(&of), Close::Drain).unwrap();
        if self.rng.below(4) == 0 {
            self.restart(Close::Drain);
        }
        self.engine().roll_back(&named(&of), &named(&snapshot)).unwrap();
        let expected = self.expected.get_mut(&of).unwrap();
        expected.blocks = expected.snapshots[&snapshot].clone();
        expected.moments.clear();
    }

    fn clone_it(&mut self) {
        if self.expected.len() > 5 {
            return;
        }
        let new = self.fresh("v");
        let (of, blocks) = match self.pick_snapshot().filter(|_| !self.next.is_multiple_of(3)) {
            Some((of, snapshot)) => {
                let (base, kept) = (named(&of), named(&snapshot));
                self.engine().clone_volume(&base, Some(&kept), &named(&new), attrs()).unwrap();
                let blocks = self.expected[&of].snapshots[&snapshot].clone();
                (Some((of, snapshot)), blocks)
            }
            None => {
                let of = self.pick();
                drop(self.volume(&of));
                self.engine().clone_volume(&named(&of), None, &named(&new), attrs()).unwrap();
                let blocks = self.expected[&of].blocks.clone();
                (Some((of, String::new())), blocks)
            }
        };
        self.origins.extend(of.map(|of| (new.clone(), of)));
        self.expected.insert(new, Expected { blocks, ..Expected::default() });
    }

    fn note_moment(&mut self, of: &str) {
        let volume = self.volume(of);
        volume.flush_to_store().unwrap();
        let stats = volume.stats();
        let object = stats.committed_object;
        let is_kept = stats.history.is_some_and(|begin| begin.object <= object);
        let expected = self.expected.get_mut(of).unwrap();
        expected.moments.push((object, expected.blocks.clone(), is_kept));
    }

    fn clone_moment(&mut self) {
        let of = self.pick();
        let count = self.expected[&of].moments.len().max(1) as u64;
        // The later one of two.
        let nth = self.rng.below(count).max(self.rng.below(count)) as usize;
        let moment = self.expected[&of].moments.get(nth).cloned();
        let Some((object, blocks, is_kept)) = moment else { return };
        if self.expected.len() > 5 {
            return;
        }
        let new = self.fresh("v");
        let moment = Moment::Object(ObjectSeq::new(object));
        match self.engine().clone_moment(&named(&of), moment, &named(&new), attrs()) {
            Ok(_) => {
                self.origins.insert(new.clone(), (of, String::new()));
                self.expected.insert(new, Expected { blocks, ..Expected::default() });
            }
            // It was collected.
            Err(Error::NoSuchMoment { .. }) => {
                let begin = self.volume(&of).stats().history;
                let is_in_window = begin.is_some_and(|begin| begin.object <= object);
                assert!(!is_in_window, "{of}: object {object}, and all is kept since {begin:?}");
                let is_forever = self.history.age.is_some();
                assert!(!(is_kept && is_forever), "{of}: object {object}");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn flatten(&mut self) {
        let of = self.pick();
        let flattened = self.engine().flatten(&named(&of), &mut |_| true);
        let has_snapshots = !self.expected[&of].snapshots.is_empty()
            || self.origins.values().any(|(volume, _)| *volume == of);
        match flattened {
            Ok(done) => {
                assert!(done && !has_snapshots && self.origins.remove(&of).is_some(), "{of}");
                // They need the base.
                self.expected.get_mut(&of).unwrap().moments.clear();
            }
            Err(Error::NoClone(_)) => assert!(!self.origins.contains_key(&of), "{of}"),
            Err(Error::InUse { .. }) => assert!(has_snapshots, "{of}"),
            Err(error) => panic!("{of}: {error}"),
        }
    }

    /// Has a volume share a part of another one or of a snapshot.
    fn share(&mut self) {
        let (source, theirs) = match self.pick_snapshot().filter(|_| self.rng_even()) {
            Some((of, snapshot)) => {
                let view = self.engine().open_snapshot(&named(&of), &named(&snapshot)).unwrap();
                let blocks = self.expected[&of].snapshots[&snapshot].clone();
                (view, blocks)
            }
            None => {
                let of = self.pick();
                (self.volume(&of), self.expected[&of].blocks.clone())
            }
        };
        let of = self.pick();
        let target = self.volume(&of);
        if target.uuid() == source.uuid() && !source.is_read_only() {
            return;
        }
        let start = self.rng.below(theirs.len() as u64);
        let count = 1 + self.rng.below(theirs.len() as u64 - start);
        let (offset, len) = (BASE + start * BLOCK, count * BLOCK);
        for range in target.share(&source, offset, len, ALL).unwrap() {
            assert!(range.start >= offset && range.end <= offset + len, "{range:?}");
            assert!(range.start % BLOCK == 0 && range.end % BLOCK == 0, "{range:?}");
            let nth = |at: u64| ((at - BASE) / BLOCK) as usize;
            let blocks = nth(range.start)..nth(range.end);
            let ours = &mut self.expected.get_mut(&of).unwrap().blocks;
            ours[blocks.clone()].copy_from_slice(&theirs[blocks]);
        }
        // Whoever answered the last read may hold it still.
        while source.is_read_only() && Arc::strong_count(&source) > 1 {
            std::thread::yield_now();
        }
    }

    fn rng_even(&mut self) -> bool {
        self.rng.below(2) == 0
    }

    fn delete(&mut self) {
        let of = self.pick();
        self.engine().close(&named(&of), Close::Keep).unwrap();
        let kept = !self.expected[&of].snapshots.is_empty()
            || self.origins.values().any(|(volume, _)| *volume == of);
        let deleted = self.engine().delete(&named(&of));
        if kept {
            assert!(matches!(deleted, Err(Error::InUse { .. })), "{of}: {deleted:?}");
        } else if self.expected.len() > 1 {
            deleted.unwrap();
            self.expected.remove(&of);
            self.origins.remove(&of);
        } else {
            deleted.unwrap();
            self.engine().create(&named(&of), BASE + BLOCKS * BLOCK, attrs()).unwrap();
            let blocks = vec![0; BLOCKS as usize];
            self.expected.insert(of.clone(), Expected { blocks, ..Expected::default() });
            self.origins.remove(&of);
        }
    }

    fn restart(&mut self, how: Close) {
        self.engine().shutdown(how, &mut |_| true).unwrap();
        self.engine = None;
        self.boot();
    }

    fn check_all(&self) {
        for (of, expected) in &self.expected {
            check(&self.volume(of), &expected.blocks, of);
            for (snapshot, blocks) in &expected.snapshots {
                let view = self.engine().open_snapshot(&named(of), &named(snapshot)).unwrap();
                check(&view, blocks, &format!("{of}@{snapshot}"));
                // Whoever answered the last read may hold it still.
                while Arc::strong_count(&view) > 1 {
                    std::thread::yield_now();
                }
            }
            let shown = self.engine().snapshots(&named(of)).unwrap();
            let named = shown.iter().filter(|snapshot| !snapshot.for_clones).count();
            assert_eq!(named, expected.snapshots.len(), "snapshots of {of}");
        }
    }

    /// The store proves itself, every frame of it.
    fn check_store(&self) {
        let options = Check { deep: true, ..Check::default() };
        let report = self.engine().check(None, options, &mut |_| true).unwrap();
        let bad = |finding: &&Finding| finding.severity != Severity::Note;
        let found: Vec<_> = report.findings.iter().filter(bad).collect();
        assert!(found.is_empty(), "{found:#?}");
    }

    fn step(&mut self) {
        let of = self.pick();
        let what = self.rng.below(43);
        println!("{what} on {of}, next {}", self.next);
        match what {
            0..=19 => self.write(&of),
            20 => self.resize(&of),
            21 | 22 => self.volume(&of).flush_to_store().unwrap(),
            23 | 24 => self.snapshot(&of),
            25 | 26 => self.clone_it(),
            27 => self.delete_snapshot(),
            28 => self.roll_back(),
            29 => self.delete(),
            30 | 31 => drop(self.volume(&of).collect(95, true, &mut |_| true).unwrap()),
            32 => self.restart(Close::Drain),
            33 => self.restart(Close::Keep),
            34 => {
                // Another host, once the store has what the logs here hold.
                self.expected.keys().for_each(|of| drop(self.volume(of)));
                self.engine().shutdown(Close::Drain, &mut |_| true).unwrap();
                self.engine = None;
                self.dir = tempfile::tempdir().unwrap();
                self.boot();
            }
            40..=42 => self.share(),
            37 => self.check_store(),
            38 => self.flatten(),
            35 => self.note_moment(&of),
            36 => self.clone_moment(),
            _ => self.check_all(),
        }
    }
}

/// Whatever is done, volumes and snapshots hold what was written.
#[test]
fn volumes_snapshots_and_clones_are_what_a_model_says() {
    for_seeds("volumes_snapshots_and_clones", 1, 24, |seed| {
        let mut model = Model::new(seed);
        for _ in 0..120 {
            model.step();
        }
        model.check_all();
        model.restart(Close::Drain);
        model.check_all();
        model.check_store();
        model.engine().shutdown(Close::Drain, &mut |_| true).unwrap();
    });
}
