//! Many threads on one client, and many clients on one key.

use std::sync::{Arc, Barrier};
use std::thread;

use lsvd_store::{ByteRange, ObjectStore};

use super::*;

#[test]
fn of_16_creates_one_wins_a_thousand_times() {
    let Some(lab) = Lab::new() else { return };
    const WRITERS: usize = 16;
    // Four clients of four threads.
    let stores: Vec<RadosStore> = (0..4).map(|_| lab.store()).collect();
    let barrier = Barrier::new(WRITERS);
    let winners: Vec<Vec<bool>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, barrier) = (&stores[writer % 4], &barrier);
                scope.spawn(move || {
                    let one = |round: usize| {
                        barrier.wait();
                        match create(store, &format!("race/{round:016x}"), &[writer as u8]) {
                            Ok(()) => true,
                            Err(error) if error.is_already_exists() => false,
                            Err(error) => {
                                eprintln!("round {round}: {error}");
                                std::process::abort();
                            }
                        }
                    };
                    (0..1000).map(one).collect()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for round in 0..1000 {
        let won: Vec<usize> = winners
            .iter()
            .enumerate()
            .filter(|(_, won)| won[round])
            .map(|(writer, _)| writer)
            .collect();
        assert_eq!(won.len(), 1, "round {round}: {won:?}");
        let body = stores[0].get(&key(format!("race/{round:016x}"))).unwrap().0;
        assert_eq!(body, [won[0] as u8], "round {round}");
    }
    assert_eq!(names(&stores[1], "race/").len(), 1000);
}

#[test]
fn sixteen_threads_share_a_client() {
    let Some(lab) = Lab::new() else { return };
    let store = Arc::new(lab.store());
    thread::scope(|scope| {
        for thread in 0..16u64 {
            // Each has a handle of its own, and they end at different times.
            let store = Arc::clone(&store);
            scope.spawn(move || {
                for n in 0..(20 + thread * 2) {
                    let name = format!("t{thread}/{n:016x}");
                    let body: Vec<u8> =
                        (0..(n * 4001) % 200_000).map(|i| (i * 7 + n + thread) as u8).collect();
                    create(&*store, &name, &body).unwrap();
                    let (seen, version) = store.get(&key(name.as_str())).unwrap();
                    assert!(seen == body);
                    let half = body.len() / 2;
                    let range = ByteRange::new(half as u64, (body.len() - half) as u64).unwrap();
                    assert!(store.get_range(&key(name.as_str()), range).unwrap() == body[half..]);
                    match n % 3 {
                        0 => store.delete(&key(name.as_str())).unwrap(),
                        1 => drop(store.replace(&key(name.as_str()), b"r", &version).unwrap()),
                        _ => {}
                    }
                }
                let left = (0..(20 + thread * 2)).filter(|n| n % 3 != 0).count();
                assert_eq!(names(&*store, &format!("t{thread}/")).len(), left);
            });
        }
        drop(store);
    });
}

/// Clients come and go while others work: whoever is last ends the connection, no earlier.
#[test]
fn clients_end_while_others_go_on() {
    let Some(lab) = Lab::new() else { return };
    thread::scope(|scope| {
        for thread in 0..8 {
            let lab = &lab;
            scope.spawn(move || {
                for n in 0..6 {
                    let store = Arc::new(lab.store());
                    let clone = Arc::clone(&store);
                    let other =
                        scope.spawn(move || create(&*clone, &format!("{thread}/{n}"), b"x"));
                    let mine = create(&*store, &format!("{thread}/{n}-"), b"y");
                    drop(store);
                    mine.unwrap();
                    other.join().unwrap().unwrap();
                }
            });
        }
    });
    assert_eq!(names(&lab.store(), "").len(), 8 * 6 * 2);
}
