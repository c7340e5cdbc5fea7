//! The cases. Each gets a store in which nothing begins with its prefix yet.

use std::io::IoSlice;
use std::sync::Barrier;
use std::thread;

use lsvd_store::{ByteRange, Front, Key, ListPage, StoreError, StoreResult, Version};

use crate::Fixture;

const MIB: usize = 1 << 20;

impl Fixture {
    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}/{name}", self.prefix)).unwrap()
    }

    fn create(&self, name: &str, body: &[u8]) -> StoreResult<()> {
        self.store.create(&self.key(name), &[IoSlice::new(body)])
    }

    fn get(&self, name: &str) -> StoreResult<(Vec<u8>, Version)> {
        self.store.get(&self.key(name))
    }

    fn range(&self, name: &str, start: u64, len: u64) -> StoreResult<Vec<u8>> {
        let range = ByteRange::new(start, len).unwrap();
        self.store.get_range(&self.key(name), range)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> ListPage {
        let prefix = format!("{}/{prefix}", self.prefix);
        let after = after.map(|name| self.key(name));
        self.store.list(&prefix, after.as_ref(), limit).unwrap()
    }

    /// The names on a page, without the prefix.
    fn names(&self, page: &ListPage) -> Vec<String> {
        let skip = self.prefix.len() + 1;
        let name = |key: &Key| key.as_str()[skip..].to_owned();
        page.objects.iter().map(|o| name(&o.key)).collect()
    }
}

/// Bytes that tell where they belong.
fn pattern(len: usize, salt: u64) -> Vec<u8> {
    let word = |n: usize| (n as u64 * 0x9e37_79b9 + salt).to_le_bytes();
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(len);
    bytes
}

/// Runs `act` in `count` threads that start as one.
fn race<T: Send>(count: usize, act: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|n| {
                let (barrier, act) = (&barrier, &act);
                scope.spawn(move || {
                    barrier.wait();
                    act(n)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// How many rounds a race has: `few` times `LSVD_TEST_SCALE`.
fn rounds(few: usize) -> usize {
    let scale = std::env::var("LSVD_TEST_SCALE").ok();
    few * scale.map_or(1, |scale| scale.parse::<usize>().unwrap())
}

pub(crate) fn one_create_wins(fixture: &Fixture) {
    for round in 0..rounds(20) {
        let name = format!("race/{round}");
        let body = |n: usize| pattern(1000 + n, n as u64);
        let results = race(16, |n| fixture.create(&name, &body(n)));
        let winners: Vec<usize> = (0..16).filter(|&n| results[n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        for result in &results {
            if let Err(error) = result {
                assert!(error.is_already_exists(), "{error}");
            }
        }
        assert_eq!(fixture.get(&name).unwrap().0, body(winners[0]));
    }
}

pub(crate) fn creates_of_distinct_keys_all_win(fixture: &Fixture) {
    let name = |n: usize| format!("{}/{}/{n}", n % 3, n % 2);
    for result in race(16, |n| fixture.create(&name(n), &[n as u8])) {
        result.unwrap();
    }
    for n in 0..16 {
        assert_eq!(fixture.get(&name(n)).unwrap().0, [n as u8]);
    }
}

pub(crate) fn an_object_is_the_concatenation_of_its_parts(fixture: &Fixture) {
    let whole = pattern(300_000, 1);
    // More parts than one system call takes, some of them empty, and one large one.
    let (small, large) = whole.split_at(3_000);
    let mut parts: Vec<&[u8]> = vec![&[]];
    parts.extend(small.chunks(2));
    parts.push(&[]);
    parts.push(large);
    parts.push(&[]);
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    fixture.store.create(&fixture.key("o"), &slices).unwrap();
    assert!(fixture.get("o").unwrap().0 == whole);
}

pub(crate) fn an_object_may_be_empty(fixture: &Fixture) {
    fixture.store.create(&fixture.key("none"), &[]).unwrap();
    fixture.create("empty", &[]).unwrap();
    for name in ["none", "empty"] {
        assert_eq!(fixture.get(name).unwrap().0, b"");
        assert_eq!(fixture.range(name, 0, 0).unwrap(), b"");
        assert_eq!(fixture.store.head(&fixture.key(name)).unwrap().size, 0);
    }
    assert!(fixture.create("empty", b"x").unwrap_err().is_already_exists());
}

pub(crate) fn objects_of_8_mib(fixture: &Fixture) {
    let body = pattern(8 * MIB + 13, 2);
    fixture.create("large", &body).unwrap();
    assert!(fixture.get("large").unwrap().0 == body);
    let middle = fixture.range("large", 5_000_001, 2_000_003).unwrap();
    assert!(middle == body[5_000_001..7_000_004]);
}

pub(crate) fn objects_appear_whole(fixture: &Fixture) {
    let body = pattern(8 * MIB, 3);
    for round in 0..4 {
        let name = format!("o{round}");
        thread::scope(|scope| {
            let writer = scope.spawn(|| fixture.create(&name, &body));
            loop {
                let writer_is_done = writer.is_finished();
                match fixture.get(&name) {
                    Ok((seen, _)) => break assert!(seen == body, "a part of an object was seen"),
                    Err(error) => assert!(error.is_not_found(), "{error}"),
                }
                assert!(!writer_is_done, "created, but not to be seen");
            }
            writer.join().unwrap().unwrap();
        });
    }
}

pub(crate) fn a_taken_key_keeps_its_object(fixture: &Fixture) {
    fixture.create("o", b"first").unwrap();
    let before = fixture.get("o").unwrap();
    let error = fixture.create("o", b"second").unwrap_err();
    match &error {
        StoreError::AlreadyExists { store, key } => {
            assert_eq!(store, fixture.store.url());
            assert_eq!(*key, fixture.key("o"));
        }
        _ => panic!("{error}"),
    }
    assert!(!error.is_retryable());
    assert_eq!(fixture.get("o").unwrap(), before);
}

pub(crate) fn ranges_are_exact(fixture: &Fixture) {
    let body = pattern(10_000, 4);
    fixture.create("o", &body).unwrap();
    for (start, len) in [(0, 10_000), (0, 1), (9_999, 1), (1, 4_096), (10_000, 0), (5, 0)] {
        let seen = fixture.range("o", start, len).unwrap();
        assert_eq!(seen, body[start as usize..(start + len) as usize]);
    }
}

pub(crate) fn ranges_past_the_end_are_refused(fixture: &Fixture) {
    fixture.create("o", &pattern(100, 5)).unwrap();
    for (start, len) in [(0, 101), (99, 2), (100, 1), (101, 0), (200, 5), (0, u64::MAX)] {
        let error = fixture.range("o", start, len).unwrap_err();
        match &error {
            StoreError::OutOfRange { key, size, .. } => {
                assert_eq!((key, *size), (&fixture.key("o"), 100));
            }
            _ => panic!("{start}+{len}: {error}"),
        }
        assert!(!error.is_retryable());
    }
}

pub(crate) fn the_front_comes_with_the_size(fixture: &Fixture) {
    let body = pattern(10_000, 8);
    fixture.create("o", &body).unwrap();
    for limit in [0, 1, 9_999, 10_000, 10_001, 1 << 20] {
        let front = fixture.store.get_front(&fixture.key("o"), limit).unwrap();
        assert_eq!(front.size, 10_000, "{limit}");
        assert_eq!(front.bytes, body[..10_000.min(limit as usize)], "{limit}");
    }
    fixture.create("empty", &[]).unwrap();
    for limit in [0, 1, 16 << 10] {
        let front = fixture.store.get_front(&fixture.key("empty"), limit).unwrap();
        assert_eq!(front, Front::default(), "{limit}");
    }
}

pub(crate) fn missing_objects_are_not_found(fixture: &Fixture) {
    fixture.create("dir/other", b"x").unwrap();
    // Also where a segment is an object, or the name is that of a directory.
    for name in ["o", "dir", "dir/o", "no/such/dir/o", "dir/other/o"] {
        let key = fixture.key(name);
        let errors = [
            fixture.store.get(&key).unwrap_err(),
            fixture.range(name, 0, 0).unwrap_err(),
            fixture.store.get_front(&key, 100).unwrap_err(),
            fixture.store.head(&key).unwrap_err(),
            fixture.store.replace(&key, b"x", &Version(String::new())).unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_not_found(), "{name}: {error}");
            assert!(!error.is_retryable());
            assert!(error.to_string().contains(key.as_str()), "{error}");
        }
    }
}

pub(crate) fn replace_wants_the_right_version(fixture: &Fixture) {
    let key = fixture.key("super");
    fixture.create("super", b"one").unwrap();
    let (_, one) = fixture.store.get(&key).unwrap();
    let two = fixture.store.replace(&key, b"two", &one).unwrap();
    assert_ne!(one, two);
    assert_eq!(fixture.store.get(&key).unwrap(), (b"two".to_vec(), two.clone()));

    let error = fixture.store.replace(&key, b"three", &one).unwrap_err();
    assert!(matches!(error, StoreError::Precondition { .. }), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(fixture.store.get(&key).unwrap().0, b"two");

    let longer = pattern(100_000, 6);
    let three = fixture.store.replace(&key, &longer, &two).unwrap();
    assert_eq!(fixture.store.get(&key).unwrap(), (longer, three.clone()));
    fixture.store.replace(&key, b"", &three).unwrap();
    assert_eq!(fixture.store.get(&key).unwrap().0, b"");
}

pub(crate) fn equal_content_may_be_replaced(fixture: &Fixture) {
    let key = fixture.key("super");
    fixture.create("super", b"same").unwrap();
    let (_, version) = fixture.store.get(&key).unwrap();
    let version = fixture.store.replace(&key, b"same", &version).unwrap();
    fixture.store.replace(&key, b"other", &version).unwrap();
    assert_eq!(fixture.store.get(&key).unwrap().0, b"other");
}

pub(crate) fn one_replace_wins(fixture: &Fixture) {
    let key = fixture.key("super");
    fixture.create("super", b"start").unwrap();
    for round in 0..rounds(20) {
        let (_, expected) = fixture.store.get(&key).unwrap();
        let body = |n: usize| format!("round {round} by {n}").into_bytes();
        let results = race(8, |n| fixture.store.replace(&key, &body(n), &expected));
        let winners: Vec<usize> = (0..8).filter(|&n| results[n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        let winner = winners[0];
        for (n, result) in results.into_iter().enumerate() {
            match result {
                Ok(version) => {
                    assert_eq!(fixture.store.get(&key).unwrap(), (body(winner), version));
                }
                Err(StoreError::Precondition { .. }) => assert_ne!(n, winner),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(crate) fn head_tells_the_size(fixture: &Fixture) {
    fixture.create("o", &pattern(12_345, 7)).unwrap();
    let meta = fixture.store.head(&fixture.key("o")).unwrap();
    assert_eq!((meta.key, meta.size), (fixture.key("o"), 12_345));
}

pub(crate) fn delete_is_idempotent(fixture: &Fixture) {
    fixture.create("d/o", b"x").unwrap();
    fixture.create("d/p", b"y").unwrap();
    for _ in 0..2 {
        fixture.store.delete(&fixture.key("d/o")).unwrap();
        assert!(fixture.get("d/o").unwrap_err().is_not_found());
    }
    for name in ["d", "d/p/q", "no/such"] {
        fixture.store.delete(&fixture.key(name)).unwrap();
    }
    assert_eq!(fixture.names(&fixture.list("", None, 10)), ["d/p"]);
}

pub(crate) fn a_deleted_key_is_free(fixture: &Fixture) {
    fixture.create("d/o", b"one").unwrap();
    fixture.store.delete(&fixture.key("d/o")).unwrap();
    fixture.create("d/o", b"two").unwrap();
    assert_eq!(fixture.get("d/o").unwrap().0, b"two");
}

pub(crate) fn many_are_deleted_at_once(fixture: &Fixture) {
    let names = ["a/b c", "a+b", "a%2Fb", "<&>\"'", "é"];
    for name in names.iter().chain(&["z"]) {
        fixture.create(name, b"x").unwrap();
    }
    let mut keys: Vec<Key> = names.iter().map(|name| fixture.key(name)).collect();
    keys.push(fixture.key("missing"));
    fixture.store.delete_many(&[]).unwrap();
    for _ in 0..2 {
        fixture.store.delete_many(&keys).unwrap();
        assert_eq!(fixture.names(&fixture.list("", None, 10)), ["z"]);
    }
}

/// S3 lists and deletes 1,000 at a time.
pub(crate) fn more_objects_than_a_page_holds(fixture: &Fixture) {
    let name = |n: usize| format!("{n:04}");
    let count = 1_100;
    race(10, |thread| {
        for n in (thread..count).step_by(10) {
            fixture.create(&name(n), b"x").unwrap();
        }
    });
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = fixture.list("", seen.last().map(String::as_str), usize::MAX);
        seen.extend(fixture.names(&page));
        if !page.truncated {
            break;
        }
    }
    assert_eq!(seen, (0..count).map(name).collect::<Vec<_>>());
    let keys: Vec<Key> = seen.iter().map(|name| fixture.key(name)).collect();
    fixture.store.delete_many(&keys).unwrap();
    assert_eq!(fixture.list("", None, 10), ListPage::default());
}

/// Names whose order by bytes is not the order of a walk through directories.
const NAMES: [&str; 18] = [
    "a b", "a!", "a%2Fb", "a+b", "a-b", "a.b/x", "a/-", "a/b", "a/b-c", "a/bc/d", "a/c/d/e", "a0",
    "a0b", "b-x", "b/x", "b/x-y", "b/xx/y", "é",
];

fn create_names(fixture: &Fixture) {
    for name in NAMES.iter().rev() {
        fixture.create(name, name.as_bytes()).unwrap();
    }
    // Emptied directories, where there are such, must not disturb.
    for name in ["a/a/gone", "a-/gone", "zz/gone"] {
        fixture.create(name, b"").unwrap();
        fixture.store.delete(&fixture.key(name)).unwrap();
    }
}

pub(crate) fn listings_are_in_byte_order_of_whole_keys(fixture: &Fixture) {
    create_names(fixture);
    assert!(NAMES.is_sorted());
    let page = fixture.list("", None, 1000);
    assert_eq!(fixture.names(&page), NAMES);
    assert!(!page.truncated);
}

pub(crate) fn pages_of_any_size_make_the_whole(fixture: &Fixture) {
    create_names(fixture);
    for limit in (0..=NAMES.len() + 1).chain([usize::MAX]) {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let page = fixture.list("", seen.last().map(String::as_str), limit);
            assert!(page.objects.len() <= limit.max(1));
            seen.extend(fixture.names(&page));
            if !page.truncated {
                break;
            }
            assert!(!page.objects.is_empty(), "a truncated page is never empty");
        }
        assert_eq!(seen, NAMES, "limit {limit}");
    }
}

pub(crate) fn prefixes_and_after_cut_exactly(fixture: &Fixture) {
    create_names(fixture);
    let prefixes = ["", "a", "a/", "a/b", "a0", "a-", "b/x", "b/xx/", "b/xx/y", "é"];
    let afters = ["a", "a/a", "a/a/a", "a/c", "a/c/d", "b", "b/x/y", "zz", " "];
    for prefix in prefixes {
        let afters = afters.iter().chain(&NAMES).copied();
        for after in afters.map(Some).chain([None]) {
            let expected: Vec<&str> = NAMES
                .into_iter()
                .filter(|name| name.starts_with(prefix) && after.is_none_or(|a| *name > a))
                .collect();
            let page = fixture.list(prefix, after, 1000);
            assert_eq!(fixture.names(&page), expected, "{prefix:?} after {after:?}");
            let first = fixture.list(prefix, after, 1);
            let expected_first = &expected[..expected.len().min(1)];
            assert_eq!(fixture.names(&first), expected_first);
        }
    }
}

pub(crate) fn a_prefix_that_nothing_has_lists_nothing(fixture: &Fixture) {
    fixture.create("a/b", b"x").unwrap();
    for prefix in ["b", "a/b/", "a/b/c", "a//", "/", "../", "a/../a/", "./", "a/./"] {
        let page = fixture.list(prefix, None, 10);
        assert_eq!(page, ListPage::default(), "{prefix:?}");
    }
}

pub(crate) fn listings_tell_sizes(fixture: &Fixture) {
    for size in [0, 1, 5000] {
        fixture.create(&format!("o{size}"), &pattern(size, 8)).unwrap();
    }
    let sizes: Vec<u64> =
        fixture.list("o", None, 10).objects.iter().map(|object| object.size).collect();
    assert_eq!(sizes, [0, 1, 5000]);
}

pub(crate) fn odd_characters_in_keys_are_kept(fixture: &Fixture) {
    let names = [
        "%2F",
        "%25",
        "+",
        "a+b%20c d",
        "&=?#",
        "~'\"<>",
        "...",
        ".hidden",
        "-rf",
        "ü/日本",
        "a\\b",
    ];
    for name in names {
        fixture.create(name, name.as_bytes()).unwrap();
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(fixture.names(&fixture.list("", None, 100)), sorted);
    for name in names {
        assert_eq!(fixture.get(name).unwrap().0, name.as_bytes());
        assert_eq!(fixture.names(&fixture.list(name, None, 1)), [name]);
        fixture.store.delete(&fixture.key(name)).unwrap();
        assert!(fixture.get(name).unwrap_err().is_not_found());
    }
}
