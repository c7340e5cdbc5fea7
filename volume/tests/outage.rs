//! A store that fails, and what of it reaches those who write, read and flush.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lsvd_store::{FaultPlan, FaultyStore, MemStore, Op};
use lsvd_volume::{
    Close, Compression, Engine, EngineConfig, Error, FileAttrs, Volume, VolumeConfig, VolumeName,
};

const MIB: u64 = 1 << 20;
/// Longest wait for what must come; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(60);

type Store = Arc<FaultyStore<MemStore>>;
type Answer<T> = Receiver<Result<T, Error>>;

struct Lab {
    store: Store,
    engine: Arc<Engine>,
    volume: Arc<Volume>,
    _dir: tempfile::TempDir,
}

fn settings() -> VolumeConfig {
    VolumeConfig {
        log_bytes: 32 * MIB,
        buffer_bytes: 8 * MIB,
        batch_bytes: MIB,
        batch_age: Duration::from_millis(50),
        compression: Compression::None,
        ..VolumeConfig::default()
    }
}

fn engine(store: &Store, dir: &Path, volume: VolumeConfig) -> Arc<Engine> {
    let config = EngineConfig {
        cache_dir: dir.to_owned(),
        cache_bytes: 0,
        map_memory_bytes: 64 << 20,
        no_fencing: false,
        follow_interval: Duration::ZERO,
        volume,
    };
    Engine::open(Arc::clone(store) as _, config).unwrap()
}

fn name() -> VolumeName {
    VolumeName::new("a").unwrap()
}

fn lab(config: VolumeConfig, sync_remote: Option<bool>) -> Lab {
    let store: Store = Arc::new(FaultyStore::new(MemStore::new(), FaultPlan::none()));
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&store, dir.path(), config);
    let attrs = FileAttrs { mode: 0o600, uid: 0, gid: 0, created_ms: 1, modified_ms: 1 };
    engine.create_with(&name(), 256 * MIB, attrs, sync_remote).unwrap();
    let volume = engine.open_writer(&name()).unwrap();
    Lab { store, engine, volume, _dir: dir }
}

fn write(volume: &Arc<Volume>, offset: u64, data: &[u8]) -> Answer<()> {
    let (tell, told) = channel();
    volume.write(offset, data, move |outcome| drop(tell.send(outcome)));
    told
}

fn flush(volume: &Arc<Volume>) -> Answer<()> {
    let (tell, told) = channel();
    volume.flush(move |outcome| drop(tell.send(outcome)));
    told
}

fn read(volume: &Arc<Volume>, offset: u64, len: usize) -> Answer<Vec<u8>> {
    let (tell, told) = channel();
    volume.read(offset, len, move |bytes| drop(tell.send(bytes.map(<[u8]>::to_vec))));
    told
}

fn answer<T>(told: &Answer<T>) -> Result<T, Error> {
    told.recv_timeout(PATIENCE).expect("no answer")
}

fn block(i: u64) -> Vec<u8> {
    (0..MIB).map(|n| (n / 512 + i * 31) as u8).collect()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_writer_that_waits_too_long_fails_and_nothing_acknowledged_is_lost() {
    let timeout = Some(Duration::from_millis(500));
    let lab = lab(VolumeConfig { store_timeout: timeout, ..settings() }, None);
    lab.store.set_down(true);
    // More than the log holds, all at once, as a kernel would have them in flight.
    let told: Vec<_> = (0..64).map(|i| write(&lab.volume, i * MIB, &block(i))).collect();
    let answers: Vec<_> = told.iter().map(answer).collect();
    let written: Vec<_> = (0..64).filter(|i| answers[*i as usize].is_ok()).collect();
    assert!(written.len() > 16 && written.len() < 40, "{}", written.len());
    for refused in answers.iter().filter_map(|a| a.as_ref().err()) {
        assert!(matches!(refused, Error::StoreTimeout { .. }), "{refused}");
    }
    let stats = lab.volume.stats();
    assert_eq!(stats.state, "degraded");
    assert!(stats.last_error.is_some() && stats.oldest_dirty_age_ms >= 500, "{stats:?}");
    // A flush is a matter of the SSD alone, and what is local can be read.
    answer(&flush(&lab.volume)).unwrap();
    for i in &written {
        assert!(answer(&read(&lab.volume, i * MIB, MIB as usize)).unwrap() == block(*i));
    }
    lab.store.set_down(false);
    lab.volume.flush_to_store().unwrap();
    assert_eq!(lab.volume.stats().state, "healthy");
    answer(&write(&lab.volume, 100 * MIB, &block(100))).unwrap();
    for i in written {
        assert!(answer(&read(&lab.volume, i * MIB, MIB as usize)).unwrap() == block(i));
    }
    lab.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn a_store_that_hangs_counts_as_one_that_fails() {
    let timeout = Some(Duration::from_millis(300));
    let lab = lab(VolumeConfig { store_timeout: timeout, ..settings() }, None);
    let gate = lab.store.hold(Op::Create, "data/*/o/*");
    let told: Vec<_> = (0..48).map(|i| write(&lab.volume, i * MIB, &block(i))).collect();
    assert!(told.iter().any(|t| matches!(answer(t), Err(Error::StoreTimeout { .. }))));
    gate.release();
    lab.volume.flush_to_store().unwrap();
    lab.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn reads_of_what_only_the_store_has_end_in_time() {
    let timeout = Some(Duration::from_millis(300));
    let lab = lab(VolumeConfig { store_timeout: timeout, ..settings() }, None);
    for i in 0..64 {
        answer(&write(&lab.volume, i * MIB, &block(i))).unwrap();
    }
    lab.volume.flush_to_store().unwrap();
    lab.store.set_down(true);
    let began = Instant::now();
    // Many times as many as there are threads for them.
    let told: Vec<_> = (0..256).map(|i| read(&lab.volume, i * 4096, 4096)).collect();
    for told in &told {
        assert!(matches!(answer(told), Err(Error::Store(_) | Error::StoreTimeout { .. })));
    }
    println!("256 reads failed after {:?}", began.elapsed());
    lab.store.set_down(false);
    assert!(answer(&read(&lab.volume, 0, MIB as usize)).unwrap() == block(0));
    lab.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn no_more_is_dirty_than_may_be() {
    let limit = 6 * MIB;
    let lab = lab(VolumeConfig { max_dirty_bytes: Some(limit), ..settings() }, None);
    lab.store.set_down(true);
    let told: Vec<_> = (0..200).map(|i| write(&lab.volume, i % 250 * MIB, &block(i))).collect();
    let answered = |told: &[Answer<()>]| told.iter().filter(|t| t.try_recv().is_ok()).count();
    wait_for("paced writer", || lab.volume.dirty_bytes() > limit / 4 * 3);
    let mut done = 0;
    for round in 0..40 {
        lab.store.set_down(round % 4 != 3);
        std::thread::sleep(Duration::from_millis(10));
        let dirty = lab.volume.dirty_bytes();
        assert!(dirty <= limit + 4096, "{dirty} bytes are dirty");
        done += answered(&told);
    }
    assert!(done < 200, "nobody had to wait");
    lab.store.set_down(false);
    wait_for("end of the writes", || {
        assert!(lab.volume.dirty_bytes() <= limit + 4096);
        lab.volume.stats().write_bytes == 200 * MIB && lab.volume.flush_to_store().is_ok()
    });
    lab.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn nothing_dirty_grows_older_than_it_may_before_writers_wait() {
    let age = Duration::from_millis(400);
    let lab = lab(VolumeConfig { max_dirty_age: Some(age), ..settings() }, None);
    answer(&write(&lab.volume, 0, &block(0))).unwrap();
    lab.volume.flush_to_store().unwrap();
    assert_eq!(lab.volume.stats().oldest_dirty_age_ms, 0);
    lab.store.set_down(true);
    answer(&write(&lab.volume, 0, &block(1))).unwrap();
    wait_for("age", || lab.volume.stats().oldest_dirty_age_ms > 450);
    let waiting = write(&lab.volume, MIB, &block(2));
    assert!(waiting.recv_timeout(Duration::from_millis(300)).is_err(), "it did not wait");
    lab.store.set_down(false);
    answer(&waiting).unwrap();
    lab.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn with_sync_remote_a_flush_means_the_store() {
    let slow = VolumeConfig { batch_age: Duration::from_secs(3600), ..settings() };
    let lab = lab(slow.clone(), Some(true));
    assert!(lab.engine.info(&name()).unwrap().sync_remote);
    for i in 0..20 {
        answer(&write(&lab.volume, i * MIB, &block(i)[..4096])).unwrap();
        if i % 3 == 0 {
            answer(&flush(&lab.volume)).unwrap();
            // Another host, which has nothing of this one's SSD.
            let dir = tempfile::tempdir().unwrap();
            let copy = engine(&lab.store, dir.path(), slow.clone());
            let other = copy.open_reader(&name()).unwrap();
            for j in 0..=i {
                let found = answer(&read(&other, j * MIB, 4096)).unwrap();
                assert!(found == block(j)[..4096], "{j} of {i} is not in the store");
            }
        }
    }
    // Without anything new there is nothing to wait for.
    lab.volume.flush_to_store().unwrap();
    lab.store.set_down(true);
    answer(&flush(&lab.volume)).unwrap();
    answer(&write(&lab.volume, 0, &block(7))).unwrap();
    let waiting = flush(&lab.volume);
    assert!(waiting.recv_timeout(Duration::from_millis(200)).is_err(), "it did not wait");
    lab.store.set_down(false);
    answer(&waiting).unwrap();
    lab.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}

#[test]
fn a_flush_to_a_store_that_stays_away_fails_in_time_and_others_work_again() {
    let timeout = Some(Duration::from_millis(300));
    let config = VolumeConfig { store_timeout: timeout, sync_remote: Some(true), ..settings() };
    let lab = lab(config, None);
    lab.store.set_down(true);
    answer(&write(&lab.volume, 0, &block(0))).unwrap();
    assert!(matches!(answer(&flush(&lab.volume)), Err(Error::StoreTimeout { .. })));
    lab.store.set_down(false);
    wait_for("upload", || lab.volume.stats().state == "healthy");
    answer(&flush(&lab.volume)).unwrap();
    lab.store.set_down(true);
    answer(&write(&lab.volume, 0, &block(1))).unwrap();
    let waiting = flush(&lab.volume);
    lab.engine.shutdown(Close::Keep, &mut |_| true).unwrap();
    assert!(answer(&waiting).is_err());
}

#[test]
fn the_settings_of_a_host_win_over_what_the_volume_was_created_with() {
    let lab = lab(VolumeConfig { sync_remote: Some(false), ..settings() }, Some(true));
    assert!(!lab.volume.stats().sync_remote);
    lab.store.set_down(true);
    answer(&write(&lab.volume, 0, &block(0))).unwrap();
    answer(&flush(&lab.volume)).unwrap();
    lab.engine.shutdown(Close::Keep, &mut |_| true).unwrap();
}

#[test]
fn requests_are_counted_and_an_idle_volume_makes_none() {
    let lab = lab(settings(), None);
    for i in 0..8 {
        answer(&write(&lab.volume, i * MIB, &block(i))).unwrap();
    }
    lab.volume.flush_to_store().unwrap();
    let stats = lab.volume.stats();
    assert!(stats.opening.get > 0 || stats.opening.head > 0, "{:?}", stats.opening);
    assert!(stats.opening.put > 0 && stats.requests.put > stats.opening.put, "{stats:?}");
    assert!(stats.requests.sent_bytes >= 8 * MIB && stats.requests.per_gib_written.is_some());
    assert!(stats.upload_bytes_per_s > 0 && stats.drain_seconds == Some(0), "{stats:?}");
    let (before, calls) = (lab.engine.requests(), lab.store.calls());
    // The thing under test: time in which nothing is asked for.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(lab.engine.requests(), before);
    assert_eq!(lab.store.calls(), calls);
    assert_eq!(before.total().requests, calls, "every call is counted");
    lab.engine.shutdown(Close::Drain, &mut |_| true).unwrap();
}
