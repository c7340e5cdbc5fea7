//! Clones on a store in memory: what they share, and what is too late to clone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use lsvd_store::{MemStore, ObjectStore};
use lsvd_volume::{
    Close, Engine, EngineConfig, Error, FileAttrs, Moment, ObjectSeq, Volume, VolumeConfig,
    VolumeName,
};

const SIZE: u64 = 16 << 20;
const CLONES: u64 = 100;
const PIECE: usize = 1 << 20;

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn attrs() -> FileAttrs {
    FileAttrs { mode: 0o600, uid: 0, gid: 0, created_ms: 1, modified_ms: 1 }
}

fn read(volume: &Arc<Volume>, offset: u64, len: usize) -> Vec<u8> {
    let (tell, told) = channel();
    let done = move |bytes: Result<&[u8], Error>| tell.send(bytes.map(<[u8]>::to_vec)).unwrap();
    volume.read(offset, len, done);
    told.recv().unwrap().unwrap()
}

fn write(volume: &Arc<Volume>, offset: u64, data: &[u8]) {
    let (tell, told) = channel();
    volume.write(offset, data, move |done| tell.send(done).unwrap());
    told.recv().unwrap().unwrap();
}

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..PIECE).map(step).collect()
}

fn stored_bytes(store: &MemStore) -> u64 {
    let all = store.list("data/", None, usize::MAX).unwrap();
    all.objects.iter().map(|object| object.size).sum()
}

fn config(cache_dir: &Path) -> EngineConfig {
    EngineConfig {
        cache_dir: cache_dir.to_owned(),
        cache_bytes: 64 << 20,
        map_memory_bytes: 16 << 20,
        no_fencing: true,
        follow_interval: std::time::Duration::ZERO,
        volume: VolumeConfig {
            log_bytes: 32 << 20,
            buffer_bytes: 1 << 20,
            batch_bytes: 1 << 20,
            ..VolumeConfig::default()
        },
    }
}

/// Writes to these places, one object of the stream each, and takes a checkpoint; the object of each.
fn life(store: &MemStore, places: &[u64]) -> Vec<ObjectSeq> {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Arc::new(store.clone()), config(dir.path())).unwrap();
    let volume = engine.open_writer(&name("base")).unwrap();
    let write = |at: &u64| {
        write(&volume, *at, &noise(*at));
        volume.flush_to_store().unwrap();
        ObjectSeq::new(volume.stats().committed_object)
    };
    let objects = places.iter().map(write).collect();
    drop(volume);
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
    objects
}

#[test]
fn a_moment_whose_leaves_were_collected_is_too_late() {
    const LEAF: u64 = 16 << 20;
    let store = MemStore::new();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Arc::new(store.clone()), config(dir.path())).unwrap();
    engine.create(&name("base"), 2 * LEAF, attrs()).unwrap();
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
    drop(engine);
    life(&store, &[0, LEAF]);
    // This checkpoint says where its first leaf is, but does not hold it.
    life(&store, &[LEAF]);
    let objects = life(&store, &[PIECE as u64, 0]);
    // Nobody needs the one that does any more.
    for _ in 0..4 {
        life(&store, &[0]);
    }
    let engine = Engine::open(Arc::new(store.clone()), config(dir.path())).unwrap();
    let moment = Moment::Object(objects[0]);
    let made = engine.clone_moment(&name("base"), moment, &name("clone"), attrs());
    assert!(matches!(made, Err(Error::NoSuchMoment { .. })), "{made:?}");
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn a_hundred_clones_share_objects_and_cached_frames() {
    let store = MemStore::new();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Arc::new(store.clone()), config(dir.path())).unwrap();
    engine.create(&name("base"), SIZE, attrs()).unwrap();
    let base = engine.open_writer(&name("base")).unwrap();
    for at in 0..SIZE / PIECE as u64 {
        write(&base, at * PIECE as u64, &noise(at + 1));
    }
    base.create_snapshot(&name("golden")).unwrap();
    drop(base);
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
    drop(engine);
    let before = stored_bytes(&store);

    // Elsewhere, so that nothing is cached.
    let other = tempfile::tempdir().unwrap();
    let engine = Engine::open(Arc::new(store.clone()), config(other.path())).unwrap();
    let mut ratios = Vec::new();
    for nth in 0..CLONES {
        let clone = name(&format!("clone-{nth}"));
        engine.clone_volume(&name("base"), Some(&name("golden")), &clone, attrs()).unwrap();
        let volume = engine.open_writer(&clone).unwrap();
        let cache = engine.cache_stats();
        write(&volume, 4096 * nth, &[nth as u8; 4096]);
        for at in 0..SIZE / PIECE as u64 {
            let mut expected = noise(at + 1);
            if at == 4096 * nth / PIECE as u64 {
                let skip = (4096 * nth) as usize % PIECE;
                expected[skip..skip + 4096].fill(nth as u8);
            }
            assert!(read(&volume, at * PIECE as u64, PIECE) == expected, "{clone}, piece {at}");
        }
        let now = engine.cache_stats();
        let (hits, misses) = (now.hits - cache.hits, now.misses - cache.misses);
        ratios.push(hits as f64 / (hits + misses) as f64);
        drop(volume);
        engine.close(&clone, Close::Drain).unwrap();
    }
    let own = (stored_bytes(&store) - before) / CLONES;
    println!("cache hits of the first clone {:.2}, of the second {:.2}", ratios[0], ratios[1]);
    println!("the base has {before} bytes in the store, each clone {own} of its own");
    assert!(ratios[0] < 0.5 && ratios[1..].iter().all(|ratio| *ratio > 0.95), "{ratios:?}");
    assert!(own < 32 << 10, "{own}");
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}
