//! Clusters that do not answer: at first, or any more.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use lsvd_store::{ObjectStore, StoreError, Timeouts};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

fn entries_of(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Options for a cluster whose only monitor is an address where nobody listens.
fn dead_cluster(dir: &std::path::Path) -> StoreOptions {
    // Free a moment ago; whoever might take it meanwhile is no monitor.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let conf = dir.join("ceph.conf");
    let text = format!(
        "[global]\nmon host = [v2:127.0.0.1:{port}]\nauth client required = none\n\
         auth cluster required = none\nauth service required = none\nlog file = /dev/null\n\
         log to stderr = false\nerr to stderr = false\n"
    );
    std::fs::write(&conf, text).unwrap();
    let mut options = StoreOptions::default();
    options.rados.conf = Some(conf);
    options.timeouts =
        Timeouts { connect: Duration::from_secs(1), request: Duration::from_secs(1) };
    options
}

/// One hundred attempts, on stores that are kept and on stores that are dropped at once.
#[test]
fn a_dead_cluster_is_unavailable_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = dead_cluster(dir.path());
    let new_store = || RadosStore::new("pool", "prefix", &options).unwrap();
    let attempts = |count: usize| {
        let left = AtomicUsize::new(count);
        let one_less = || {
            let take = |n: usize| n.checked_sub(1);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        };
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let kept = new_store();
                    while one_less() {
                        let errors = [
                            create(&kept, "o", b"x").unwrap_err(),
                            new_store().head(&key("o")).unwrap_err(),
                        ];
                        for error in errors {
                            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
                            assert!(error.to_string().contains("client.admin"), "{error}");
                        }
                    }
                });
            }
        });
    };
    // What librados sets up once is set up then.
    attempts(10);
    let before = (entries_of("/proc/self/fd"), entries_of("/proc/self/task"));
    attempts(50);
    let grown = |what: &str, before: usize| {
        wait_for(&format!("fewer entries of {what}"), || {
            (entries_of(what) < before + 20).then_some(())
        });
    };
    grown("/proc/self/fd", before.0);
    grown("/proc/self/task", before.1);
}

#[test]
fn threads_wait_for_one_attempt_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = RadosStore::new("pool", "prefix", &dead_cluster(dir.path())).unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let error = store.head(&key("o")).unwrap_err();
                assert!(error.is_retryable(), "{error}");
            });
        }
    });
}

/// Lets a stopped process go on, whatever happens.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn a_paused_cluster_is_unavailable_and_goes_on() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(pid) = setting("LSVD_TEST_RADOS_OSD_PID") else {
        return skip("LSVD_TEST_RADOS_OSD_PID names no OSD that may be stopped for a moment");
    };
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let patient = lab.store();
    lab.options.timeouts.request = Duration::from_secs(1);
    let store = lab.store();
    create(&store, "d/before", b"before").unwrap();
    create(&patient, "d/patient", b"x").unwrap();
    thread::scope(|scope| {
        let stopped = Stopped::new(pid);
        let waiting = scope.spawn(|| patient.get(&key("d/before")));
        let errors = [
            create(&store, "d/during", b"during").unwrap_err(),
            store.get(&key("d/before")).unwrap_err(),
            store.list("d/", None, 10).unwrap_err(),
            store.delete(&key("d/before")).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        }
        drop(stopped);
        // Whose time is not over yet gets its answer.
        assert_eq!(waiting.join().unwrap().unwrap().0, b"before");
    });
    // The create may have happened after all, or may still: only then the key is taken.
    wait_for("the cluster to go on", || match create(&store, "d/during", b"during") {
        Ok(()) => Some(()),
        Err(error) if error.is_already_exists() => Some(()),
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            None
        }
    });
    assert_eq!(store.get(&key("d/during")).unwrap().0, b"during");
    assert_eq!(names(&store, "d/"), ["d/before", "d/during", "d/patient"]);
}
