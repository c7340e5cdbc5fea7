//! What a cluster does not take, and what it does not have.

use lsvd_store::{ByteRange, ObjectStore, StoreError};

use super::*;

/// It is refused, with these words.
fn assert_refused(error: StoreError, words: &[&str]) {
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn a_pool_that_is_not_there_is_named() {
    let Some(lab) = Lab::new() else { return };
    let store = RadosStore::new("no-such-pool", "p", &lab.options).unwrap();
    for error in [create(&store, "o", b"x").unwrap_err(), store.get(&key("o")).unwrap_err()] {
        assert_refused(error, &["no-such-pool", "ceph osd pool create"]);
    }
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let mut options = StoreOptions::default();
    options.rados.conf = Some("/no/such/ceph.conf".into());
    let store = RadosStore::new("pool", "", &options).unwrap();
    assert_refused(store.head(&key("o")).unwrap_err(), &["/no/such/ceph.conf"]);
}

#[test]
fn an_object_that_is_too_large_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let store = lab.store();
    // Beyond osd_max_write_size, 90 MiB where nobody changed it.
    let error = create(&store, "d/large", &vec![7; 100 << 20]).unwrap_err();
    assert_refused(error, &["d/large", "osd_max_write_size", "batch-size"]);
    assert!(store.head(&key("d/large")).unwrap_err().is_not_found());
    assert_eq!(names(&store, ""), [""; 0]);
    create(&store, "d/large", b"small").unwrap();
}

#[test]
fn ranges_that_no_memory_holds_are_out_of_range() {
    let Some(lab) = Lab::new() else { return };
    let store = lab.store();
    create(&store, "o", b"0123456789").unwrap();
    for (start, len) in [(0, 1 << 50), (1 << 50, 1 << 50), (u64::MAX - 1, 1), (5, 6), (11, 0)] {
        let range = ByteRange::new(start, len).unwrap();
        let error = store.get_range(&key("o"), range).unwrap_err();
        assert!(matches!(error, StoreError::OutOfRange { size: 10, .. }), "{start}+{len}: {error}");
    }
}

#[test]
fn names_too_long_for_the_cluster_are_refused() {
    let Some(lab) = Lab::new() else { return };
    let prefix = ["p".repeat(900), lab.prefix.clone()].join("/");
    let store = RadosStore::new(&lab.pool, &prefix, &lab.options).unwrap();
    let long = "k".repeat(1000);
    create(&store, &long, b"x").unwrap();
    assert_eq!(names(&store, ""), [long.as_str()]);
    store.delete(&key(long)).unwrap();
}
