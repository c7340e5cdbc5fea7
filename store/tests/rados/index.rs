//! The index names what there is, whoever was interrupted or interfered.

use std::sync::Barrier;
use std::thread;

use lsvd_store::{ObjectStore, StoreError};

use super::*;

#[test]
fn an_entry_without_its_object_is_passed_over() {
    let Some(lab) = Lab::new() else { return };
    let store = lab.store();
    for name in ["d/a", "d/b", "d/c", "d/0123456789abcdef"] {
        create(&store, name, b"x").unwrap();
    }
    // As a create leaves it that is cut short after the entry: this client deletes the objects,
    // but looks for their entries in another index.
    let (above, dir) = lab.store_above();
    for name in ["d/b", "d/0123456789abcdef"] {
        above.delete(&key(format!("{dir}/{name}"))).unwrap();
    }
    assert_eq!(names(&store, "d/"), ["d/a", "d/c"]);
    let page = store.list("d/", None, 1).unwrap();
    assert_eq!((page.objects[0].key.as_str(), page.truncated), ("d/a", true));
    let page = store.list("d/", Some(&key("d/a")), 1).unwrap();
    assert_eq!((page.objects[0].key.as_str(), page.truncated), ("d/c", false));
    store.delete(&key("d/b")).unwrap();
    create(&store, "d/b", b"again").unwrap();
    assert_eq!(names(&store, "d/"), ["d/a", "d/b", "d/c"]);
}

/// Two hosts create and delete the same keys in every order; whenever nobody is at it, what can be
/// read is what is listed.
#[test]
fn creates_and_deletes_of_two_hosts_lose_no_name() {
    let Some(lab) = Lab::new() else { return };
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 60;
    const KEYS: u64 = 6;
    let stores = [lab.store(), lab.store()];
    let name = |n: u64| format!("d/{n}-0123456789abcdef");
    let begin = Barrier::new(THREADS as usize + 1);
    let end = Barrier::new(THREADS as usize + 1);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (stores, begin, end) = (&stores, &begin, &end);
            scope.spawn(move || {
                let store = &stores[thread as usize % 2];
                let mut state = thread + 1;
                for _ in 0..ROUNDS {
                    begin.wait();
                    for _ in 0..20 {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let name = name((state >> 40) % KEYS);
                        let done = if (state >> 33) & 1 == 0 {
                            store.delete(&key(name.as_str()))
                        } else {
                            create(store, &name, name.as_bytes())
                        };
                        match done {
                            Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    end.wait();
                }
            });
        }
        for round in 0..ROUNDS {
            begin.wait();
            end.wait();
            let exists = |name: &String| stores[0].head(&key(name.as_str())).is_ok();
            let there: Vec<String> = (0..KEYS).map(name).filter(exists).collect();
            // A panic would leave the others at the barrier.
            if names(&stores[1], "") != there {
                eprintln!("round {round}: listed {:?}, there {there:?}", names(&stores[1], ""));
                std::process::abort();
            }
        }
    });
}

#[test]
fn a_lost_create_leaves_the_entry_to_the_winner() {
    let Some(lab) = Lab::new() else { return };
    let (first, second) = (lab.store(), lab.store());
    create(&first, "d/o", b"first").unwrap();
    assert!(create(&second, "d/o", b"second").unwrap_err().is_already_exists());
    assert_eq!(names(&first, ""), ["d/o"]);
    first.delete(&key("d/o")).unwrap();
    assert_eq!(names(&second, ""), [""; 0]);
    create(&second, "d/o", b"third").unwrap();
    assert_eq!(names(&first, ""), ["d/o"]);
}

#[test]
fn a_version_does_not_outlive_its_object() {
    let Some(lab) = Lab::new() else { return };
    let store = lab.store();
    create(&store, "super", b"same").unwrap();
    let (_, version) = store.get(&key("super")).unwrap();
    store.delete(&key("super")).unwrap();
    create(&store, "super", b"same").unwrap();
    let error = store.replace(&key("super"), b"other", &version).unwrap_err();
    assert!(matches!(error, StoreError::Precondition { .. }), "{error}");
}

/// More than one page of an omap and more than one node of a stream.
#[test]
fn long_listings_are_whole() {
    let Some(lab) = Lab::new() else { return };
    let store = lab.store();
    let all: Vec<String> = (0..2500u64).map(|n| format!("data/u/o/{:016x}", n * 100)).collect();
    thread::scope(|scope| {
        for part in all.chunks(all.len() / 8 + 1) {
            let store = &store;
            scope.spawn(move || part.iter().for_each(|name| create(store, name, b"x").unwrap()));
        }
    });
    assert_eq!(names(&store, "data/u/o/"), all);
    assert_eq!(
        names(&store, &all[2000][..20]),
        all.iter().filter(|n| n.starts_with(&all[2000][..20])).cloned().collect::<Vec<_>>()
    );
    let page = store.list("data/u/o/", Some(&key(all[1233].as_str())), 700).unwrap();
    assert!(page.truncated);
    assert!(
        page.objects.iter().map(|o| o.key.as_str()).eq(all[1234..1934].iter().map(String::as_str))
    );
}

#[test]
fn namespaces_are_apart() {
    let Some(mut lab) = Lab::new() else { return };
    let store = lab.store();
    lab.options.rados.namespace = Some("elsewhere".to_owned());
    let elsewhere = lab.store();
    assert_ne!(store.identity(), elsewhere.identity());
    create(&store, "o", b"here").unwrap();
    create(&elsewhere, "o", b"there").unwrap();
    assert_eq!(store.get(&key("o")).unwrap().0, b"here");
    store.delete(&key("o")).unwrap();
    assert_eq!(names(&store, ""), [""; 0]);
    assert_eq!(names(&elsewhere, ""), ["o"]);
}
