//! The life of a volume on a real cache directory and a store in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use lsvd_store::MemStore;
use lsvd_volume::{
    Close, Compression, Engine, EngineConfig, Error, FileAttrs, Volume, VolumeConfig, VolumeName,
};

fn config(dir: &Path) -> EngineConfig {
    EngineConfig {
        cache_dir: dir.to_owned(),
        cache_bytes: 16 << 20,
        map_memory_bytes: 64 << 20,
        no_fencing: false,
        follow_interval: std::time::Duration::ZERO,
        volume: VolumeConfig {
            log_bytes: 32 << 20,
            buffer_bytes: 4 << 20,
            batch_bytes: 1 << 20,
            compression: Compression::Lz4,
            checkpoint_objects: 4,
            ..VolumeConfig::default()
        },
    }
}

fn attrs() -> FileAttrs {
    FileAttrs { mode: 0o600, uid: 0, gid: 0, created_ms: 1, modified_ms: 1 }
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn wait<T: Send + 'static>(start: impl FnOnce(Box<dyn FnOnce(T) + Send>)) -> T {
    let (tell, told) = channel();
    start(Box::new(move |value| tell.send(value).unwrap()));
    told.recv().unwrap()
}

fn write(volume: &Arc<Volume>, offset: u64, data: &[u8]) -> Result<(), Error> {
    wait(|done| volume.write(offset, data, done))
}

fn read(volume: &Arc<Volume>, offset: u64, len: usize) -> Vec<u8> {
    wait(|done: Box<dyn FnOnce(Result<Vec<u8>, Error>) + Send>| {
        volume.read(offset, len, move |bytes| done(bytes.map(<[u8]>::to_vec)))
    })
    .unwrap()
}

fn trim(volume: &Arc<Volume>, offset: u64, len: u64) {
    wait(|done| volume.trim(offset, len, done)).unwrap();
}

fn flush(volume: &Arc<Volume>) {
    wait(|done| volume.flush(done)).unwrap();
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(step).collect()
}

#[test]
fn data_survives_an_orderly_close_and_the_loss_of_the_cache() {
    let store = MemStore::new();
    let dir = tempfile::tempdir().unwrap();
    let data = pattern(1, 3 << 20);
    {
        let engine = Engine::open(Arc::new(store.clone()), config(dir.path())).unwrap();
        engine.create(&name("a"), 64 << 20, attrs()).unwrap();
        let volume = engine.open_writer(&name("a")).unwrap();
        write(&volume, 4096, &data).unwrap();
        assert_eq!(read(&volume, 4096, data.len()), data);
        flush(&volume);
        trim(&volume, 8192, 4096);
        engine.shutdown(Close::Drain, &mut |_| true).unwrap();
    }
    let other = tempfile::tempdir().unwrap();
    for dir in [dir.path(), other.path()] {
        let engine = Engine::open(Arc::new(store.clone()), config(dir)).unwrap();
        let volume = engine.open_reader(&name("a")).unwrap();
        assert_eq!(volume.size_bytes(), 64 << 20);
        assert_eq!(read(&volume, 4096, 4096), data[..4096]);
        assert_eq!(read(&volume, 8192, 4096), vec![0; 4096]);
        assert_eq!(read(&volume, 12288, data.len() - 8192), data[8192..]);
        assert_eq!(wait(|done| volume.seek_data(0, done)).unwrap(), Some(4096));
        assert_eq!(wait(|done| volume.seek_hole(4096, done)).unwrap(), 8192);
    }
}

#[test]
fn what_a_killed_engine_acknowledged_is_there_again() {
    let store = MemStore::new();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_u64 {
        let engine = Engine::open(Arc::new(store.clone()), config(dir.path())).unwrap();
        if round == 0 {
            engine.create(&name("a"), 64 << 20, attrs()).unwrap();
        }
        let volume = engine.open_writer(&name("a")).unwrap();
        for earlier in 0..round {
            let expected = pattern(earlier, 1 << 20);
            assert_eq!(read(&volume, earlier << 21, expected.len()), expected, "round {round}");
        }
        write(&volume, round << 21, &pattern(round, 1 << 20)).unwrap();
        engine.shutdown(Close::Keep, &mut |_| true).unwrap();
    }
}

#[test]
fn unaligned_writes_land_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Arc::new(MemStore::new()), config(dir.path())).unwrap();
    engine.create(&name("a"), 1 << 20, attrs()).unwrap();
    let volume = engine.open_writer(&name("a")).unwrap();
    let mut oracle = vec![0; 1 << 20];
    for i in 0..200_u64 {
        let offset = (i * 7919) as usize % (1 << 19);
        let len = 1 + (i * 131) as usize % 9000;
        let data = pattern(i, len);
        oracle[offset..offset + len].copy_from_slice(&data);
        write(&volume, offset as u64, &data).unwrap();
        if i % 9 == 0 {
            // Also less than a sector, and across one boundary.
            let (from, len) = ((offset + 100) as u64, [3000, 1, 300, 512][i as usize % 4]);
            trim(&volume, from, len);
            oracle[from as usize..(from + len) as usize].fill(0);
        }
    }
    assert_eq!(read(&volume, 0, 1 << 20), oracle);
    assert!(matches!(write(&volume, (1 << 20) - 1, &[1, 2]), Err(Error::OutOfRange { .. })));
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn a_log_much_smaller_than_the_data_slows_writers_but_fails_none() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Arc::new(MemStore::new()), config(dir.path())).unwrap();
    engine.create(&name("a"), 1 << 30, attrs()).unwrap();
    let volume = engine.open_writer(&name("a")).unwrap();
    let data = pattern(3, 1 << 20);
    for i in 0..200 {
        write(&volume, i << 20, &data).unwrap();
    }
    for i in (0..200).step_by(17) {
        assert_eq!(read(&volume, i << 20, 1 << 20), data);
    }
    volume.flush_to_store().unwrap();
    assert_eq!(volume.dirty_bytes() / 4096, 0);
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn resizing_keeps_data_and_what_is_cut_off_stays_gone() {
    let store = MemStore::new();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(Arc::new(store.clone()), config(dir.path())).unwrap();
    engine.create(&name("a"), 8 << 20, attrs()).unwrap();
    let volume = engine.open_writer(&name("a")).unwrap();
    write(&volume, 0, &pattern(1, 8 << 20)).unwrap();
    assert!(matches!(volume.resize(4 << 20, false), Err(Error::ShrinkLosesData { .. })));
    volume.resize(4 << 20, true).unwrap();
    volume.resize(16 << 20, false).unwrap();
    assert_eq!(read(&volume, 4 << 20, 4 << 20), vec![0; 4 << 20]);
    assert_eq!(read(&volume, 0, 4 << 20), pattern(1, 8 << 20)[..4 << 20]);
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
    drop((volume, engine));
    let engine = Engine::open(Arc::new(store), config(dir.path())).unwrap();
    let volume = engine.open_reader(&name("a")).unwrap();
    assert_eq!(volume.size_bytes(), 16 << 20);
    assert_eq!(read(&volume, 4 << 20, 4 << 20), vec![0; 4 << 20]);
}

/// The checkpoint that a resize asks for is cut while the shrink is still in flight: it knows
/// the new size, its map does not.
#[test]
fn a_shrink_behind_a_checkpoint_is_not_forgotten_by_a_reopening() {
    let (store, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = || {
        let store = lsvd_store::DirStore::open(store.path(), true).unwrap();
        Engine::open(Arc::new(store), config(dir.path())).unwrap()
    };
    let engine = open();
    engine.create(&name("a"), 8 << 20, attrs()).unwrap();
    let volume = engine.open_writer(&name("a")).unwrap();
    write(&volume, 0, &vec![9; 8 << 20]).unwrap();
    volume.flush_to_store().unwrap();
    volume.resize(4 << 20, true).unwrap();
    volume.flush_to_store().unwrap();
    engine.shutdown(Close::Keep, &mut |_| true).unwrap();
    drop((volume, engine));
    let engine = open();
    let volume = engine.open_writer(&name("a")).unwrap();
    volume.resize(8 << 20, false).unwrap();
    assert_eq!(read(&volume, 4 << 20, 4 << 20), vec![0; 4 << 20]);
}

/// A reader's view of the log is not moved on by the writer; what it reads is old or an error.
#[test]
fn a_reader_opened_before_the_writer_never_sees_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemStore::new();
    let mut slow = config(dir.path());
    slow.volume.batch_age = std::time::Duration::from_secs(3600);
    slow.volume.batch_bytes = 64 << 20;
    let engine = Engine::open(Arc::new(store.clone()), slow).unwrap();
    engine.create(&name("a"), 256 << 20, attrs()).unwrap();
    let volume = engine.open_writer(&name("a")).unwrap();
    for i in 0..16 {
        write(&volume, i << 20, &[1; 4096]).unwrap();
    }
    engine.shutdown(Close::Keep, &mut |_| true).unwrap();
    drop((volume, engine));

    let engine = Engine::open(Arc::new(store), config(dir.path())).unwrap();
    let reader = engine.open_reader(&name("a")).unwrap();
    assert_eq!(read(&reader, 0, 4096), [1; 4096]);
    let volume = engine.open_writer(&name("a")).unwrap();
    for i in 0..100 {
        write(&volume, (32 + i) << 20, &vec![2; 1 << 20]).unwrap();
    }
    volume.flush_to_store().unwrap();
    for i in 0..16 {
        let seen = wait(|done: Box<dyn FnOnce(Result<Vec<u8>, Error>) + Send>| {
            reader.read(i << 20, 4096, move |bytes| done(bytes.map(<[u8]>::to_vec)));
        });
        match seen {
            Ok(bytes) => assert_eq!(bytes, [1; 4096]),
            Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error}"),
        }
    }
}

/// Every request gets its answer, also one that comes while the engine ends.
#[test]
fn requests_during_a_shutdown_are_all_answered() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(Arc::new(MemStore::new()), config(dir.path())).unwrap();
        engine.create(&name("a"), 64 << 20, attrs()).unwrap();
        let volume = engine.open_writer(&name("a")).unwrap();
        let (tell, told) = channel();
        let writers: Vec<_> = (0..4_u8)
            .map(|i| {
                let (volume, tell) = (Arc::clone(&volume), tell.clone());
                std::thread::spawn(move || {
                    let data = vec![i; 256 << 10];
                    for j in 0..200_u64 {
                        let tell = tell.clone();
                        volume.write((j % 64) << 18, &data, move |outcome| {
                            tell.send(outcome.is_ok()).unwrap();
                        });
                    }
                })
            })
            .collect();
        let mut answers = vec![told.recv().unwrap()];
        engine.shutdown(Close::Keep, &mut |_| true).unwrap();
        for writer in writers {
            writer.join().unwrap();
        }
        drop(tell);
        answers.extend(told.iter());
        assert_eq!(answers.len(), 800);
    }
}

/// What another host has to read to open a volume grows with what changed since the last checkpoint,
/// and not with the size of the map: its leaves are read when they are needed.
#[test]
fn opening_elsewhere_does_not_read_the_map_however_scattered_the_volume_is() {
    let store = MemStore::new();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.volume.checkpoint_objects = 1 << 40;
    {
        let engine = Engine::open(Arc::new(store.clone()), config.clone()).unwrap();
        engine.create(&name("a"), 1 << 30, attrs()).unwrap();
        let volume = engine.open_writer(&name("a")).unwrap();
        // Every fourth block: 64 leaves of the map, and no two blocks one extent.
        for block in 0..1 << 14 {
            write(&volume, block << 16, &pattern(block + 1, 4096)).unwrap();
        }
        engine.shutdown(Close::Drain, &mut |_| true).unwrap();
    }
    let other = tempfile::tempdir().unwrap();
    config.cache_dir = other.path().to_owned();
    let engine = Engine::open(Arc::new(store), config).unwrap();
    let volume = engine.open_reader(&name("a")).unwrap();
    let opening = volume.stats().opening;
    println!("opening 16384 extents in 64 leaves: {opening}");
    assert_eq!(read(&volume, 5 << 16, 4096), pattern(6, 4096));
    assert!(opening.get + opening.head + opening.list <= 8, "{opening}");
    assert!(opening.received_bytes < 64 << 10, "{opening}");
}

/// Every part of the map is needed again and again, and hardly any of it fits: reads, overwrites and a
/// trim of everything are slow then, and nothing worse.
#[test]
fn a_map_much_larger_than_its_memory_works() {
    const BLOCKS: u64 = 1 << 12;
    let store = MemStore::new();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.cache_bytes = 0;
    // A block in each 256 KiB: 64 leaves of 1 KiB each.
    let place = |block: u64| block << 18;
    {
        let engine = Engine::open(Arc::new(store.clone()), config.clone()).unwrap();
        engine.create(&name("a"), BLOCKS << 18, attrs()).unwrap();
        let volume = engine.open_writer(&name("a")).unwrap();
        for block in 0..BLOCKS {
            write(&volume, place(block), &pattern(block, 4096)).unwrap();
        }
        engine.shutdown(Close::Drain, &mut |_| true).unwrap();
    }
    config.map_memory_bytes = 8 << 10;
    let engine = Engine::open(Arc::new(store.clone()), config.clone()).unwrap();
    let volume = engine.open_writer(&name("a")).unwrap();
    // Jumping from leaf to leaf.
    let scattered = || (0..BLOCKS).map(|nth| nth * 2731 % BLOCKS);
    for block in scattered().step_by(7) {
        assert_eq!(read(&volume, place(block), 4096), pattern(block, 4096));
    }
    for block in scattered().step_by(3) {
        write(&volume, place(block), &pattern(block + BLOCKS, 4096)).unwrap();
    }
    volume.flush_to_store().unwrap();
    let written: std::collections::BTreeSet<_> = scattered().step_by(3).collect();
    for block in scattered().step_by(5) {
        let seed = if written.contains(&block) { block + BLOCKS } else { block };
        assert_eq!(read(&volume, place(block), 4096), pattern(seed, 4096));
    }
    assert_eq!(wait(|done| volume.seek_data(4096, done)).unwrap(), Some(place(1)));
    volume.collect(90, true, &mut |_| true).unwrap();
    trim(&volume, 0, (BLOCKS - 1) << 18);
    volume.flush_to_store().unwrap();
    assert_eq!(wait(|done| volume.seek_data(0, done)).unwrap(), Some(place(BLOCKS - 1)));
    assert_eq!(volume.stats().allocated_bytes, 4096);
    engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}
