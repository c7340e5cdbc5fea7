//! What goes over the wire.

use std::io::IoSlice;

use lsvd_store::{ObjectStore, StoreError, Version};

use crate::{Reply, Server, always, create, key, range, store_at};

#[test]
fn a_create_is_one_signed_put_that_must_not_overwrite() {
    let (server, store) = always(Reply::new(200, &[("etag", "\"tag\"")], ""));
    create(&store).unwrap();
    let asked = server.asked();
    let [put] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(put.method, "PUT");
    assert_eq!(put.target.split('?').next(), Some("/disks/vols/o"));
    assert_eq!(put.header("if-none-match"), Some("*"));
    assert_eq!(put.body, b"onetwo");
    assert_eq!(put.header("content-length"), Some("6"));
    // Many services know neither trailers nor checksums in headers.
    for unwanted in ["transfer-encoding", "content-encoding", "x-amz-trailer", "expect"] {
        assert_eq!(put.header(unwanted), None, "{unwanted}");
    }
    // Without TLS the body is signed: the SHA-256 of "onetwo".
    let sum = "25b6746d5172ed6352966a013d93ac846e1110d5a25e8f183b5931f4688842a1";
    assert_eq!(put.header("x-amz-content-sha256"), Some(sum));
    assert!(put.header("authorization").unwrap().contains("/somewhere/s3/"));
}

#[test]
fn a_replace_wants_the_version_in_quotes() {
    let (server, store) = always(Reply::new(200, &[("etag", "\"new\"")], ""));
    for told in ["\"old\"", "old"] {
        let new = store.replace(&key("o"), b"x", &Version(told.to_owned())).unwrap();
        assert_eq!(new, Version("\"new\"".to_owned()));
    }
    for put in server.asked() {
        assert_eq!(put.header("if-match"), Some("\"old\""));
        assert_eq!(put.header("if-none-match"), None);
    }
}

#[test]
fn a_range_is_exactly_what_was_asked_for() {
    let told = [("content-range", "bytes 2-5/6")];
    let (server, store) = always(Reply::new(206, &told, "cdef"));
    assert_eq!(store.get_range(&key("o"), range(2, 4)).unwrap(), b"cdef");
    assert_eq!(server.asked()[0].header("range"), Some("bytes=2-5"));
    // The same answer to another question.
    let error = store.get_range(&key("o"), range(2, 6)).unwrap_err();
    assert!(matches!(error, StoreError::OutOfRange { size: 6, .. }), "{error}");
    for (start, len) in [(2, 3), (1, 4), (3, 3)] {
        let error = store.get_range(&key("o"), range(start, len)).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    }
}

#[test]
fn a_range_that_was_cut_short_on_the_way_is_no_object_that_ends() {
    let told = [("content-range", "bytes 2-3/6")];
    let (_server, store) = always(Reply::new(206, &told, "cd"));
    let error = store.get_range(&key("o"), range(2, 4)).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    // The server contradicts itself, so the object may be whole.
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n".to_vec()),
        _ => Reply::error(416, "InvalidRange"),
    });
    let store = store_at(&server.url());
    let error = store.get_range(&key("o"), range(2, 4)).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("2..6"), "{error}");
}

#[test]
fn a_server_that_ignores_ranges_is_noticed() {
    let (_server, store) = always(Reply::new(200, &[], "abcdef"));
    assert_eq!(store.get_range(&key("o"), range(0, 6)).unwrap(), b"abcdef");
    let past = store.get_range(&key("o"), range(0, 7)).unwrap_err();
    assert!(matches!(past, StoreError::OutOfRange { size: 6, .. }), "{past}");
    for (start, len) in [(0, 5), (1, 5)] {
        let error = store.get_range(&key("o"), range(start, len)).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    }
}

#[test]
fn a_range_past_the_end_says_how_long_the_object_is() {
    let server = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n".to_vec()),
        _ => Reply::error(416, "InvalidRange"),
    });
    let store = store_at(&server.url());
    let error = store.get_range(&key("o"), range(6, 1)).unwrap_err();
    assert!(matches!(error, StoreError::OutOfRange { size: 6, .. }), "{error}");
}

#[test]
fn nothing_is_asked_for_with_a_head() {
    let (server, store) =
        always(Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n".to_vec()));
    assert_eq!(store.get_range(&key("o"), range(6, 0)).unwrap(), b"");
    assert!(store.get_range(&key("o"), range(7, 0)).is_err());
    assert!(server.asked().iter().all(|request| request.method == "HEAD"));
}

#[test]
fn deletions_are_a_thousand_to_a_request() {
    let (server, store) = always(Reply::new(200, &[], "<DeleteResult></DeleteResult>"));
    let keys: Vec<_> = (0..2_001).map(|n| key(&format!("o{n}<&>"))).collect();
    store.delete_many(&keys).unwrap();
    store.delete_many(&[]).unwrap();
    let asked = server.asked();
    let counts: Vec<usize> = asked
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body).matches("<Key>vols/o").count())
        .collect();
    assert_eq!(counts, [1000, 1000, 1]);
    assert!(String::from_utf8_lossy(&asked[2].body).contains("vols/o2000&lt;&amp;&gt;"));
}

#[test]
fn opening_asks_nothing() {
    let (server, store) = always(Reply::new(500, &[], ""));
    assert_eq!(store.url(), "s3://disks/vols");
    assert!(store.identity().starts_with("s3://disks/vols at 127.0.0.1:"));
    drop(store);
    assert!(server.asked().is_empty());
}

#[test]
fn parts_may_be_empty() {
    let (server, store) = always(Reply::new(200, &[("etag", "\"tag\"")], ""));
    store.create(&key("o"), &[]).unwrap();
    store.create(&key("o"), &[IoSlice::new(b""), IoSlice::new(b"x"), IoSlice::new(b"")]).unwrap();
    let bodies: Vec<_> = server.asked().into_iter().map(|put| put.body).collect();
    assert_eq!(bodies, [b"".to_vec(), b"x".to_vec()]);
}
