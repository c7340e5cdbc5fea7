//! Errors, half answers and none: which of them are worth another try.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lsvd_store::{ObjectStore, RetryPolicy, RetryStore, Sleeper, Stop, StoreError, Version};
use parking_lot::Mutex;

use crate::{
    CALLS, Reply, Server, always, create, errors_of_all, is_refused, key, range, store_at,
    store_within,
};

#[test]
fn a_server_in_trouble_is_unavailable_and_asked_once_per_call() {
    for reply in [
        Reply::new(500, &[], ""),
        Reply::error(500, "InternalError"),
        Reply::error(503, "SlowDown"),
        Reply::new(502, &[("content-type", "text/html")], "<html>a proxy</html>"),
        Reply::new(429, &[], ""),
        Reply::error(409, "ConditionalRequestConflict"),
        Reply::Bytes(Vec::new()),
        Reply::Bytes(b"HTTP/1.1 200".to_vec()),
        Reply::Bytes(b"what?\r\n\r\n".to_vec()),
    ] {
        let shown = format!("{reply:?}");
        let (server, store) = always(reply);
        for (call, error) in errors_of_all(&store) {
            assert!(error.is_retryable(), "{call}: {shown}: {error}");
        }
        assert_eq!(server.asked().len(), CALLS, "{shown}");
    }
}

#[test]
fn a_refusal_is_no_reason_to_wait() {
    for (reply, hint) in [
        (Reply::new(403, &[], ""), "403; check the credentials"),
        (Reply::error(403, "AccessDenied"), "AccessDenied"),
        (Reply::error(403, "RequestTimeTooSkewed"), "clock"),
        (Reply::error(404, "NoSuchBucket"), "no bucket disks at http://127.0.0.1"),
        (Reply::new(301, &[("x-amz-bucket-region", "eu-1")], ""), "in the region eu-1"),
        (Reply::error(501, "NotImplemented"), "conditional writes"),
        (Reply::new(400, &[], "<not xml"), "400"),
    ] {
        let (server, store) = always(reply);
        for (call, error) in errors_of_all(&store) {
            // A HEAD has no body, so a missing bucket cannot be told from a missing object.
            if call == "head" && hint.contains("no bucket") {
                continue;
            }
            assert!(is_refused(&error), "{call}: {error:?}");
            let said = error.to_string();
            let has_no_body = call == "head";
            assert!(has_no_body || said.contains(hint), "{call}: {said}");
            assert!(said.starts_with("s3://disks/vols: cannot "), "{said}");
        }
        assert_eq!(server.asked().len(), CALLS);
    }
}

#[test]
fn half_a_body_is_unavailable() {
    let half = |status, headers: &[(&str, &str)]| Reply::announcing(status, headers, 100, "half");
    let tagged = [("etag", "\"tag\"")];
    for reply in [half(200, &tagged), half(503, &[]), half(403, &[])] {
        let (_server, store) = always(reply);
        assert!(store.get(&key("o")).unwrap_err().is_retryable());
        assert!(store.list("", None, 10).unwrap_err().is_retryable());
        assert!(store.delete_many(&[key("o")]).unwrap_err().is_retryable());
    }
    let (_server, store) = always(half(206, &[("content-range", "bytes 0-99/1000")]));
    let error = store.get_range(&key("o"), range(0, 100)).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("broke off"), "{error}");
}

#[test]
fn a_body_beyond_all_measure_is_refused_before_it_comes() {
    let (_server, store) = always(Reply::announcing(200, &[("etag", "\"tag\"")], 2 << 30, "x"));
    let error = store.get(&key("o")).unwrap_err();
    assert!(is_refused(&error) && error.to_string().contains("2147483648"), "{error}");
}

#[test]
fn a_body_of_another_length_than_the_range_is_unavailable() {
    let (_server, store) =
        always(Reply::new(206, &[("content-range", "bytes 0-9/1000")], "only six"));
    assert!(store.get_range(&key("o"), range(0, 10)).unwrap_err().is_retryable());
}

#[test]
fn a_server_that_hangs_is_given_up() {
    for reply in [Reply::Silence, Reply::Bytes(Vec::new())] {
        let server = Server::start(move |_| reply.clone());
        let store = store_within(&server.url(), Duration::from_millis(300));
        for (call, error) in errors_of_all(&store) {
            assert!(error.is_retryable(), "{call}: {error}");
        }
    }
}

#[test]
fn nobody_there_is_unavailable_and_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = store_at(&url);
    for (call, error) in errors_of_all(&store) {
        assert!(error.is_retryable(), "{call}: {error}");
        assert!(error.to_string().contains(&url), "{error}");
    }
}

#[test]
fn missing_objects_taken_keys_and_other_versions() {
    let (_server, store) = always(Reply::error(404, "NoSuchKey"));
    let version = Version("\"tag\"".to_owned());
    assert!(store.get(&key("o")).unwrap_err().is_not_found());
    assert!(store.get_range(&key("o"), range(0, 1)).unwrap_err().is_not_found());
    assert!(store.get_range(&key("o"), range(0, 0)).unwrap_err().is_not_found());
    assert!(store.head(&key("o")).unwrap_err().is_not_found());
    assert!(store.replace(&key("o"), b"", &version).unwrap_err().is_not_found());
    store.delete(&key("o")).unwrap();

    let (_server, store) = always(Reply::error(412, "PreconditionFailed"));
    assert!(create(&store).unwrap_err().is_already_exists());

    // The condition failed, and the object is indeed another one.
    let server = Server::start(|request| match request.method.as_str() {
        "PUT" => Reply::error(412, "PreconditionFailed"),
        _ => Reply::new(200, &[("etag", "\"other\"")], ""),
    });
    let store = store_at(&server.url());
    let error = store.replace(&key("o"), b"", &version).unwrap_err();
    assert!(matches!(error, StoreError::Precondition { .. }), "{error}");
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_server_that_knows_its_tags_only_without_quotes() {
    let server =
        Server::start(|request| match (request.method.as_str(), request.header("if-match")) {
            ("PUT", Some("tag")) => Reply::new(200, &[("etag", "\"tag\"")], ""),
            ("PUT", _) => Reply::new(412, &[], ""),
            _ => Reply::new(200, &[("etag", "\"tag\"")], ""),
        });
    let store = store_at(&server.url());
    let version = Version("\"tag\"".to_owned());
    let version = store.replace(&key("o"), b"x", &version).unwrap();
    assert_eq!(server.asked().len(), 3, "quoted, a look, bare");
    store.replace(&key("o"), b"y", &version).unwrap();
    assert_eq!(server.asked().len(), 4, "the store remembers");
    let other = Version("\"other\"".to_owned());
    let error = store.replace(&key("o"), b"z", &other).unwrap_err();
    assert!(matches!(error, StoreError::Precondition { .. }), "{error}");
}

#[test]
fn errors_of_single_keys_in_a_deletion_are_seen() {
    let failed = |code: &str| {
        let error =
            format!("<Error><Key>vols/p</Key><Code>{code}</Code><Message>m</Message></Error>");
        Reply::new(200, &[], format!("<DeleteResult>{error}</DeleteResult>"))
    };
    let keys = [key("o"), key("p")];
    let (_server, store) = always(failed("AccessDenied"));
    let error = store.delete_many(&keys).unwrap_err();
    assert!(is_refused(&error) && error.to_string().contains("vols/p"), "{error}");
    let (_server, store) = always(failed("InternalError"));
    assert!(store.delete_many(&keys).unwrap_err().is_retryable());
    let (_server, store) = always(failed("NoSuchKey"));
    store.delete_many(&keys).unwrap();
    let (_server, store) =
        always(Reply::new(200, &[], "<Error><Code>InternalError</Code></Error>"));
    store.delete_many(&keys).unwrap_err();
}

#[test]
fn an_object_without_a_tag_is_not_taken_for_one_with() {
    let (_server, store) = always(Reply::new(200, &[], "body"));
    assert!(is_refused(&store.get(&key("o")).unwrap_err()));
}

/// Pauses take no time and are remembered, in seconds.
#[derive(Debug, Default)]
struct Pauses(Mutex<Vec<u64>>);

impl Sleeper for Pauses {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, pause: Duration, _stop: &Stop) -> bool {
        self.0.lock().push(pause.as_secs());
        true
    }

    fn random(&self) -> u64 {
        0
    }
}

#[test]
fn a_server_may_ask_to_be_left_alone_for_a_while() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(503, &[("retry-after", "4")], ""),
        1 => Reply::new(503, &[("retry-after", "4000")], ""),
        2 => Reply::new(503, &[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], ""),
        _ => Reply::new(200, &[("etag", "\"tag\"")], ""),
    });
    let store = store_at(&server.url());
    let policy = RetryPolicy {
        backoff_initial: Duration::from_secs(1),
        backoff_max: Duration::from_secs(9),
        jitter_percent: 0,
        ..RetryPolicy::default()
    };
    let pauses = Arc::new(Pauses::default());
    let store = RetryStore::new(store, policy, pauses.clone(), Stop::new());
    store.create(&key("o"), &[]).unwrap();
    // Asked for 4; for 4,000, of which 9 are allowed; nothing that we read, so the third backoff.
    assert_eq!(*pauses.0.lock(), [4, 9, 4]);
}
