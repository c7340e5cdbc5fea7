//! What a retrying store tries again, how long, and what it leaves to its caller.
#![expect(clippy::unwrap_used, reason = "in a test the message of a failed unwrap is what we want")]

use std::io::IoSlice;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lsvd_store::{
    Fault, FaultPlan, FaultyStore, Key, MemStore, ObjectStore, Op, RetryPolicy, RetryStore, Rule,
    Sleeper, Stop, StoreError, SystemSleeper, Version,
};
use parking_lot::Mutex;

/// A clock on which only pauses take time, and which remembers them.
#[derive(Debug, Default)]
struct TestSleeper(Mutex<Vec<Duration>>);

impl Sleeper for TestSleeper {
    fn now(&self) -> Duration {
        self.0.lock().iter().sum()
    }

    fn sleep(&self, pause: Duration, stop: &Stop) -> bool {
        if stop.is_set() {
            return false;
        }
        self.0.lock().push(pause);
        true
    }

    fn random(&self) -> u64 {
        0
    }
}

struct Setup {
    store: RetryStore<Arc<FaultyStore<MemStore>>>,
    faulty: Arc<FaultyStore<MemStore>>,
    sleeper: Arc<TestSleeper>,
    stop: Stop,
}

fn setup(rule: Rule) -> Setup {
    let policy = RetryPolicy {
        attempts_max: 5,
        deadline: Duration::from_secs(10),
        backoff_initial: Duration::from_secs(1),
        backoff_max: Duration::from_secs(3),
        jitter_percent: 0,
    };
    let plan = FaultPlan::script([rule]);
    let faulty = Arc::new(FaultyStore::new(MemStore::new(), plan));
    let sleeper = Arc::new(TestSleeper::default());
    let stop = Stop::new();
    Setup {
        store: RetryStore::new(faulty.clone(), policy, sleeper.clone(), stop.clone()),
        faulty,
        sleeper,
        stop,
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn seconds(pauses: &TestSleeper) -> Vec<u64> {
    pauses.0.lock().iter().map(Duration::as_secs).collect()
}

#[test]
fn goes_on_until_it_works_with_growing_pauses() {
    let setup = setup(Rule::next(Op::Create, "*", Fault::Before).times(3));
    setup.store.create(&key("o"), &[IoSlice::new(b"x")]).unwrap();
    assert_eq!(seconds(&setup.sleeper), [1, 2, 3]);
    assert_eq!(setup.faulty.count(Op::Create).calls, 4);
    assert_eq!(setup.faulty.inner().get(&key("o")).unwrap().0, b"x");
}

#[test]
fn gives_up_after_the_last_attempt() {
    let setup = setup(Rule::next(Op::Get, "*", Fault::Before).times(100));
    let error = setup.store.get(&key("o")).unwrap_err();
    assert!(error.is_retryable(), "{error}");
    // The deadline of 10 s cuts the fifth attempt off: 1 + 2 + 3 + 3 = 9, and 3 more is too long.
    assert_eq!(seconds(&setup.sleeper), [1, 2, 3, 3]);
    assert_eq!(setup.faulty.count(Op::Get).calls, 5);
}

#[test]
fn no_attempt_begins_after_the_deadline() {
    let faulty = Arc::new(FaultyStore::new(MemStore::new(), FaultPlan::none()));
    faulty.set_down(true);
    let sleeper = Arc::new(TestSleeper::default());
    let policy = RetryPolicy {
        attempts_max: u32::MAX,
        deadline: Duration::from_secs(8),
        backoff_initial: Duration::from_secs(1),
        backoff_max: Duration::from_secs(3),
        jitter_percent: 0,
    };
    let store = RetryStore::new(faulty, policy, sleeper.clone(), Stop::new());
    assert!(store.head(&key("o")).unwrap_err().is_retryable());
    assert_eq!(seconds(&sleeper), [1, 2, 3]);
}

#[test]
fn other_errors_go_straight_through() {
    let setup = setup(Rule::next(Op::Create, "nothing", Fault::Before));
    setup.store.create(&key("o"), &[]).unwrap();
    let version = Version("other".to_owned());
    let taken = setup.store.create(&key("o"), &[]).unwrap_err();
    let missing = setup.store.get(&key("missing")).unwrap_err();
    let changed = setup.store.replace(&key("o"), b"x", &version).unwrap_err();
    assert!(taken.is_already_exists());
    assert!(missing.is_not_found());
    assert!(matches!(changed, StoreError::Precondition { .. }));
    assert!(seconds(&setup.sleeper).is_empty());
}

#[test]
fn a_create_that_meets_its_own_earlier_attempt_says_so() {
    let setup = setup(Rule::next(Op::Create, "*", Fault::After));
    let created = setup.store.create(&key("o"), &[IoSlice::new(b"mine")]);
    assert!(created.unwrap_err().is_already_exists());
    assert_eq!(setup.store.get(&key("o")).unwrap().0, b"mine");
}

#[test]
fn a_replace_that_meets_its_own_earlier_attempt_says_so() {
    let setup = setup(Rule::next(Op::Replace, "*", Fault::After));
    setup.store.create(&key("o"), &[]).unwrap();
    let (_, version) = setup.store.get(&key("o")).unwrap();
    let replaced = setup.store.replace(&key("o"), b"mine", &version);
    assert!(matches!(replaced, Err(StoreError::Precondition { .. })));
    assert_eq!(setup.store.get(&key("o")).unwrap().0, b"mine");
}

#[test]
fn once_stopped_each_operation_is_tried_once() {
    let setup = setup(Rule::next(Op::Create, "*", Fault::Before));
    setup.stop.set();
    assert!(setup.store.create(&key("o"), &[]).unwrap_err().is_retryable());
    assert!(seconds(&setup.sleeper).is_empty());
    setup.store.create(&key("o"), &[]).unwrap();
}

#[test]
fn a_stop_wakes_those_who_wait() {
    let faulty = Arc::new(FaultyStore::new(MemStore::new(), FaultPlan::none()));
    let gate = faulty.hold(Op::Get, "*");
    let policy = RetryPolicy {
        backoff_initial: Duration::from_secs(1_000_000),
        backoff_max: Duration::from_secs(1_000_000),
        deadline: Duration::MAX,
        ..RetryPolicy::default()
    };
    let stop = Stop::new();
    let sleeper = Arc::new(SystemSleeper::new());
    let store = RetryStore::new(faulty.clone(), policy, sleeper, stop.clone());
    thread::scope(|scope| {
        let reader = scope.spawn(|| store.get(&key("o")));
        gate.wait_until_reached();
        faulty.set_down(true);
        gate.release();
        // Whether the reader sleeps already or comes to it later: it must not wait.
        stop.set();
        assert!(reader.join().unwrap().unwrap_err().is_retryable());
    });
    assert_eq!(faulty.count(Op::Get).calls, 1);
}

#[test]
fn jitter_only_shortens_pauses() {
    let policy = RetryPolicy {
        backoff_initial: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        jitter_percent: 50,
        ..RetryPolicy::default()
    };
    let pauses: Vec<Duration> = (0..1000).map(|random| policy.pause(3, random)).collect();
    assert_eq!(pauses.iter().max(), Some(&Duration::from_secs(4)));
    assert_eq!(pauses.iter().min(), Some(&Duration::from_secs(2)));
    assert!(policy.pause(u32::MAX, 0) == Duration::from_secs(60));
}
