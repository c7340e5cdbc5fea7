//! The directory store: what is on the disk after a kill at any step, and who may touch it.
#![expect(clippy::unwrap_used, reason = "in a test the message of a failed unwrap is what we want")]

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use lsvd_store::dir::FAILPOINTS;
use lsvd_store::{DirStore, Key, ListPage, ObjectStore, StoreError, StoreResult};
use parking_lot::Mutex;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn open(path: &Path) -> DirStore {
    DirStore::open(path, true).unwrap()
}

fn create(store: &DirStore, name: &str, body: &[u8]) -> StoreResult<()> {
    store.create(&key(name), &[IoSlice::new(body)])
}

fn names(page: &ListPage) -> Vec<&str> {
    page.objects.iter().map(|o| o.key.as_str()).collect()
}

/// A store that is killed at its `nth` passing of `failpoint`.
fn killed_at(path: &Path, failpoint: &'static str, nth: usize) -> DirStore {
    let passed = Mutex::new(0);
    open(path).with_failpoints(Arc::new(move |name| {
        if name != failpoint {
            return Ok(());
        }
        let mut passed = passed.lock();
        *passed += 1;
        if *passed > nth {
            return Err(io::Error::other("killed here"));
        }
        Ok(())
    }))
}

/// The half-written files of all sessions.
fn temp_files(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.join(".tmp")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".live") && !name.ends_with(".lock") && name != "gate")
        .collect()
}

fn of_operation(operation: &str) -> impl Iterator<Item = &'static str> {
    let prefix = format!("dir.{operation}.");
    let failpoints: Vec<_> =
        FAILPOINTS.iter().copied().filter(|name| name.starts_with(&prefix)).collect();
    assert!(!failpoints.is_empty());
    failpoints.into_iter()
}

#[test]
fn a_create_that_is_killed_left_all_or_nothing() {
    // The large one goes past the page cache, in pieces and with a tail that is no whole block.
    let large: Vec<u8> = (0..(2 << 20) + 77).map(|n: u32| (n % 251) as u8).collect();
    for (failpoint, whole) in of_operation("create")
        .flat_map(|failpoint| [(failpoint, &b"whole"[..]), (failpoint, &large)])
    {
        let dir = tempfile::tempdir().unwrap();
        let store = killed_at(dir.path(), failpoint, 0);
        let error = create(&store, "data/o/1", whole).unwrap_err();
        assert!(error.is_retryable(), "{failpoint}: {error}");
        // Dead is dead: also for those who come later.
        assert!(create(&store, "data/o/2", b"x").is_err());
        assert!(store.get(&key("data/o/1")).is_err());
        drop(store);

        let is_published = failpoint.ends_with("published") || failpoint.ends_with("dir_synced");
        assert_eq!(temp_files(dir.path()).is_empty(), is_published, "{failpoint}");
        let store = open(dir.path());
        assert_eq!(temp_files(dir.path()), [""; 0], "{failpoint}");
        let listed = store.list("", None, 10).unwrap();
        if is_published {
            assert_eq!(names(&listed), ["data/o/1"], "{failpoint}");
            let again = create(&store, "data/o/1", b"other").unwrap_err();
            assert!(again.is_already_exists(), "{failpoint}: {again}");
        } else {
            assert_eq!(listed, ListPage::default(), "{failpoint}");
            create(&store, "data/o/1", whole).unwrap();
        }
        assert!(store.get(&key("data/o/1")).unwrap().0 == whole, "{failpoint}");
    }
}

#[test]
fn a_create_killed_between_its_directories_can_be_repeated() {
    for nth in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let store = killed_at(dir.path(), "dir.create.dir_made", nth);
        assert!(create(&store, "a/b/c/o", b"x").is_err());
        drop(store);
        assert!(dir.path().join(["a", "a/b", "a/b/c"][nth]).is_dir());
        let store = open(dir.path());
        create(&store, "a/b/c/o", b"x").unwrap();
        assert_eq!(names(&store.list("", None, 10).unwrap()), ["a/b/c/o"]);
    }
}

#[test]
fn a_killed_replace_left_the_old_or_the_new() {
    for failpoint in of_operation("replace") {
        let dir = tempfile::tempdir().unwrap();
        let store = killed_at(dir.path(), failpoint, 0);
        create(&store, "v/super", b"old").unwrap();
        let (_, version) = store.get(&key("v/super")).unwrap();
        assert!(store.replace(&key("v/super"), b"new", &version).is_err());
        drop(store);

        let is_published = failpoint.ends_with("published") || failpoint.ends_with("dir_synced");
        let store = open(dir.path());
        assert_eq!(temp_files(dir.path()), [""; 0], "{failpoint}");
        let (body, _) = store.get(&key("v/super")).unwrap();
        assert_eq!(body, if is_published { b"new" } else { b"old" }, "{failpoint}");
        let again = store.replace(&key("v/super"), b"new", &version);
        assert_eq!(again.is_ok(), !is_published, "{failpoint}");
    }
}

#[test]
fn a_killed_delete_can_be_repeated() {
    for failpoint in of_operation("delete") {
        let dir = tempfile::tempdir().unwrap();
        let store = killed_at(dir.path(), failpoint, 0);
        create(&store, "v/o", b"x").unwrap();
        assert!(store.delete(&key("v/o")).is_err());
        drop(store);
        let store = open(dir.path());
        store.delete(&key("v/o")).unwrap();
        assert!(store.get(&key("v/o")).unwrap_err().is_not_found());
    }
}

#[test]
fn each_step_comes_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    let store = open(dir.path()).with_failpoints(Arc::new(move |name| {
        seen.lock().push(name);
        Ok(())
    }));
    create(&store, "v/o", b"x").unwrap();
    let (_, version) = store.get(&key("v/o")).unwrap();
    store.replace(&key("v/o"), b"y", &version).unwrap();
    store.delete(&key("v/o")).unwrap();
    assert_eq!(*steps.lock(), FAILPOINTS);
    // A second object in a directory known to be durable needs no more of that.
    steps.lock().clear();
    create(&store, "v/p", b"x").unwrap();
    assert!(!steps.lock().contains(&"dir.create.dir_made"));
}

#[test]
fn files_of_the_living_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Written by a living session: this one, whose number is the first.
    fs::write(dir.path().join(".tmp/0.99"), b"half").unwrap();
    // Of a dead session with and without its mark, and what is none of ours.
    for name in ["7.live", "7.0", "8.3", "notes.txt", "7.x"] {
        fs::write(dir.path().join(".tmp").join(name), b"").unwrap();
    }
    let other = open(dir.path());
    let mut left = temp_files(dir.path());
    left.sort_unstable();
    assert_eq!(left, ["0.99", "7.x", "notes.txt"]);
    create(&store, "a", b"x").unwrap();
    create(&other, "b", b"x").unwrap();
    drop(store);
    drop(other);
    open(dir.path());
    assert!(!dir.path().join(".tmp/0.99").exists());
    assert!(!dir.path().join(".tmp/0.live").exists());
}

#[test]
fn two_stores_of_one_directory_are_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open(dir.path()), open(dir.path())];
    create(&stores[0], "super", b"start").unwrap();
    for round in 0..20 {
        let name = format!("race/{round}");
        let (_, version) = stores[0].get(&key("super")).unwrap();
        let results = thread::scope(|scope| {
            let threads = stores.each_ref().map(|store| {
                let (name, version) = (&name, &version);
                scope.spawn(move || {
                    let body = format!("{round} {store:p}").into_bytes();
                    let created = create(store, name, &body).is_ok();
                    let replaced = store.replace(&key("super"), &body, version).is_ok();
                    (created, replaced)
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        assert_ne!(results[0].0, results[1].0, "one create wins");
        assert_ne!(results[0].1, results[1].1, "one replace wins");
    }
    assert_eq!(temp_files(dir.path()), [""; 0]);
}

#[test]
fn a_delete_keeps_replaces_out() {
    let dir = tempfile::tempdir().unwrap();
    let locks = dir.path().join(".tmp");
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let seen = outcomes.clone();
    let store = open(dir.path()).with_failpoints(Arc::new(move |name| {
        if matches!(name, "dir.delete.unlinked" | "dir.replace.published") {
            let held = fs::read_dir(&locks)?.filter(|entry| {
                let path = entry.as_ref().unwrap().path();
                let is_lock = path.extension().is_some_and(|end| end == "lock");
                is_lock && File::open(path).unwrap().try_lock().is_err()
            });
            seen.lock().push(held.count());
        }
        Ok(())
    }));
    create(&store, "o", b"x").unwrap();
    let (_, version) = store.get(&key("o")).unwrap();
    store.replace(&key("o"), b"y", &version).unwrap();
    store.delete(&key("o")).unwrap();
    assert_eq!(*outcomes.lock(), [1, 1], "somebody else got the lock");
}

/// A process that is stopped while it holds a lock is not waited for for ever.
#[test]
fn a_lock_that_is_not_given_back_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    create(&store, "o", b"x").unwrap();
    let (_, version) = store.get(&key("o")).unwrap();
    store.delete(&key("other")).unwrap();
    let locks: Vec<_> = (0..64)
        .map(|number| {
            let path = dir.path().join(format!(".tmp/replace.{number}.lock"));
            let lock = File::options().append(true).create(true).open(path).unwrap();
            lock.try_lock().unwrap();
            lock
        })
        .collect();
    let error = store.replace(&key("o"), b"y", &version).unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let told = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(told.contains("lock") && told.contains(".tmp/replace."), "{told}");
    drop(locks);
    store.replace(&key("o"), b"y", &version).unwrap();
    assert_eq!(temp_files(dir.path()), [""; 0]);
}

#[test]
fn a_delete_cannot_be_undone_by_a_replace() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for round in 0..50 {
        create(&store, "o", b"x").unwrap();
        let (_, version) = store.get(&key("o")).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(error) = store.replace(&key("o"), b"y", &version) {
                    assert!(error.is_not_found(), "{round}: {error}");
                }
            });
            store.delete(&key("o")).unwrap();
        });
        assert!(store.get(&key("o")).unwrap_err().is_not_found(), "{round}");
    }
}

#[test]
fn listings_show_objects_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    create(&store, "d/o", b"x").unwrap();
    create(&store, ".tmpx/o", b"x").unwrap();
    symlink("o", dir.path().join("d/link")).unwrap();
    symlink("d", dir.path().join("e")).unwrap();
    fs::create_dir(dir.path().join("d/.tmp")).unwrap();
    File::create(dir.path().join("d/.tmp/o")).unwrap();
    let foreign = std::ffi::OsString::from("d/\u{fffd}");
    let mut foreign = std::os::unix::ffi::OsStringExt::into_vec(foreign);
    foreign.truncate(3);
    let foreign: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(foreign);
    File::create(dir.path().join(foreign)).unwrap();
    let page = store.list("", None, 10).unwrap();
    assert_eq!(names(&page), [".tmpx/o", "d/.tmp/o", "d/o"]);
    for prefix in [".tmp/", ".tmp/g", ".tmp"] {
        let page = store.list(prefix, None, 10).unwrap();
        assert!(names(&page).iter().all(|name| name.starts_with(".tmpx/")));
    }
    assert!(store.get(&key("d/link")).unwrap_err().is_not_found());
}

#[test]
fn private_and_blocked_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    create(&store, "a/b", b"x").unwrap();
    let long = format!("a/{}", "x".repeat(300));
    for name in [".tmp", ".tmp/gate", ".tmp/0.live", "a", "a/b/c", "a/b/c/d", &long] {
        let error = create(&store, name, b"y").unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(store.delete(&key(".tmp/gate")).is_err());
    assert_eq!(temp_files(dir.path()), [""; 0]);
}

#[test]
fn a_directory_that_was_taken_away_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    create(&store, "a/b/o", b"x").unwrap();
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    create(&store, "a/b/p", b"y").unwrap();
    assert_eq!(names(&store.list("a", None, 10).unwrap()), ["a/b/p"]);
}

#[test]
fn opening_what_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    File::create(&file).unwrap();
    let missing = dir.path().join("missing");
    for error in [
        DirStore::open(&missing, false).unwrap_err(),
        DirStore::open(&file, true).unwrap_err(),
        DirStore::open(missing.join("below"), true).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    }
    assert!(!missing.exists());
}

#[test]
fn a_directory_without_write_permission_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    create(&open(dir.path()), "d/o", b"x").unwrap();
    let private = dir.path().join(".tmp");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o500)).unwrap();
    fs::remove_file(private.join("gate")).ok();
    if File::create(private.join("probe")).is_ok() {
        // Permissions do not bind root, but a file in the place of the directory does.
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_dir_all(&private).unwrap();
        File::create(&private).unwrap();
    }
    let store = open(dir.path());
    assert_eq!(store.get(&key("d/o")).unwrap().0, b"x");
    assert_eq!(names(&store.list("", None, 10).unwrap()), ["d/o"]);
    for error in [create(&store, "d/p", b"y").unwrap_err(), store.delete(&key("d/o")).unwrap_err()]
    {
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    }
}
