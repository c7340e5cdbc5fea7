//! The faults must be the ones ordered: no more, no fewer, and at the point that was named.
#![expect(clippy::unwrap_used, reason = "in a test the message of a failed unwrap is what we want")]

use std::io::IoSlice;
use std::thread;

use lsvd_store::{
    Fault, FaultPlan, FaultyStore, Key, MemStore, ObjectStore, Odds, Op, OpCount, Point, Rule,
    StoreResult,
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn create(store: &impl ObjectStore, name: &str) -> StoreResult<()> {
    store.create(&key(name), &[IoSlice::new(name.as_bytes())])
}

fn has(store: &FaultyStore<MemStore>, name: &str) -> bool {
    store.inner().head(&key(name)).is_ok()
}

fn scripted(rules: impl IntoIterator<Item = Rule>) -> FaultyStore<MemStore> {
    FaultyStore::new(MemStore::new(), FaultPlan::script(rules))
}

#[test]
fn faults_strike_before_after_or_late() {
    let store = scripted([
        Rule::next(Op::Create, "before", Fault::Before),
        Rule::next(Op::Create, "after", Fault::After),
        Rule::next(Op::Create, "late", Fault::Late),
    ]);
    for name in ["before", "after", "late"] {
        assert!(create(&store, name).unwrap_err().is_retryable(), "{name}");
    }
    assert_eq!(["before", "after", "late"].map(|n| has(&store, n)), [false, true, false]);
    assert!(store.land_late().into_iter().all(|landed| landed.is_ok()));
    assert_eq!(store.get(&key("late")).unwrap().0, b"late");
    assert!(store.land_late().is_empty());
}

#[test]
fn a_late_write_may_find_that_the_world_went_on() {
    let store = scripted([
        Rule::next(Op::Create, "o", Fault::Late),
        Rule::next(Op::Replace, "super", Fault::Late),
        Rule::next(Op::Delete, "gone", Fault::Late),
    ]);
    create(&store, "super").unwrap();
    create(&store, "gone").unwrap();
    let (_, version) = store.get(&key("super")).unwrap();
    assert!(create(&store, "o").is_err());
    assert!(store.replace(&key("super"), b"old", &version).is_err());
    assert!(store.delete(&key("gone")).is_err());
    create(&store, "o").unwrap();
    store.replace(&key("super"), b"new", &version).unwrap();
    store.crash();
    let landed: Vec<bool> = store.land_late().iter().map(Result::is_ok).collect();
    assert_eq!(landed, [false, false, true]);
    assert_eq!(store.inner().get(&key("super")).unwrap().0, b"new");
    assert!(!has(&store, "gone"));
}

#[test]
fn rules_may_come_later() {
    let store = scripted([]);
    create(&store, "a").unwrap();
    store.inject(Rule::next(Op::Create, "*", Fault::Before).skip(1));
    create(&store, "b").unwrap();
    assert!(create(&store, "c").is_err());
    create(&store, "d").unwrap();
}

#[test]
fn a_gate_holds_before_or_after_the_effect() {
    for (point, visible) in [(Point::BeforeEffect, false), (Point::AfterEffect, true)] {
        let store = scripted([]);
        let gate = store.hold_at(point, Op::Create, "o*");
        thread::scope(|scope| {
            let writer = scope.spawn(|| create(&store, "o1"));
            gate.wait_until_reached();
            assert_eq!(has(&store, "o1"), visible, "{point:?}");
            create(&store, "free").unwrap();
            assert!(!writer.is_finished());
            gate.release();
            writer.join().unwrap().unwrap();
        });
        assert!(has(&store, "o1"));
        create(&store, "o2").unwrap();
        assert_eq!(gate.reached(), 1);
    }
}

#[test]
fn an_outage_loses_requests_and_replies() {
    let store = scripted([]);
    let before = store.hold(Op::Create, "before");
    let after = store.hold_at(Point::AfterEffect, Op::Create, "after");
    thread::scope(|scope| {
        let lost_request = scope.spawn(|| create(&store, "before"));
        let lost_reply = scope.spawn(|| create(&store, "after"));
        before.wait_until_reached();
        after.wait_until_reached();
        store.set_down(true);
        assert!(store.list("", None, 1).unwrap_err().is_retryable());
        before.release();
        after.release();
        assert!(lost_request.join().unwrap().unwrap_err().is_retryable());
        assert!(lost_reply.join().unwrap().unwrap_err().is_retryable());
    });
    store.set_down(false);
    assert_eq!((has(&store, "before"), has(&store, "after")), (false, true));
    create(&store, "before").unwrap();
}

#[test]
fn after_a_crash_nothing_happens_any_more() {
    let store = scripted([]);
    create(&store, "kept").unwrap();
    let gate = store.hold(Op::Create, "held");
    thread::scope(|scope| {
        let held = scope.spawn(|| create(&store, "held"));
        gate.wait_until_reached();
        store.crash();
        assert!(held.join().unwrap().is_err());
    });
    store.set_down(false);
    assert!(create(&store, "new").is_err());
    assert!(store.delete(&key("kept")).is_err());
    assert!(store.get(&key("kept")).is_err());
    let left = store.inner().list("", None, 10).unwrap().objects;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].key, key("kept"));
}

#[test]
fn counters_tell_calls_effects_and_bytes() {
    let store = scripted([Rule::next(Op::Create, "lost", Fault::Before)]);
    create(&store, "four").unwrap();
    assert!(create(&store, "lost").is_err());
    assert!(create(&store, "four").is_err());
    store.get(&key("four")).unwrap();
    let (calls, effects, bytes) = (3, 1, 4);
    let expected = OpCount { calls, effects, bytes };
    assert_eq!(store.count(Op::Create), expected);
    assert_eq!(store.count(Op::Get).bytes, 4);
    assert_eq!(store.count(Op::Delete), OpCount::default());
    assert_eq!(store.calls(), 4);
}

#[test]
fn one_seed_is_one_run_however_the_threads_go() {
    let run = |seed| {
        let odds = Odds { before_per_mille: 200, after_per_mille: 200, late_per_mille: 200 };
        let store = FaultyStore::new(MemStore::new(), FaultPlan::seeded(seed, odds));
        let outcomes = thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let store = &store;
                    let name = move |n| format!("{writer}/{n}");
                    scope.spawn(move || (0..50).map(|n| create(store, &name(n)).is_ok()).collect())
                })
                .collect();
            let outcomes: Vec<Vec<bool>> = writers.into_iter().map(|w| w.join().unwrap()).collect();
            outcomes
        });
        (outcomes, store.inner().list("", None, 1000).unwrap())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
