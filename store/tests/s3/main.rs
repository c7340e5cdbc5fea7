//! What the S3 store asks for, and what it makes of answers that go wrong.
//!
//! A server with answers made by hand says what no well-behaved one does; how the store gets on
//! with those that exist is in the contract suite.
#![expect(clippy::unwrap_used, reason = "in a test the message of a failed unwrap is what we want")]

mod answers;
mod listings;
mod requests;
mod server;
mod tls;

use std::io::IoSlice;
use std::time::Duration;

use lsvd_store::{
    ByteRange, Key, ObjectStore, S3Options, S3Store, StoreError, StoreResult, Timeouts, Version,
};

use server::{Reply, Request, Server};

/// The store in the bucket `disks` below `vols` of a server.
fn store_at(url: &str) -> S3Store {
    store_within(url, Duration::from_secs(60))
}

/// The same, with a limit for each request.
fn store_within(url: &str, request: Duration) -> S3Store {
    let options = S3Options {
        endpoint: Some(url.to_owned()),
        region: Some("somewhere".to_owned()),
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some("secret".to_owned()),
        ..S3Options::default()
    };
    let timeouts = Timeouts { connect: Duration::from_secs(60), request };
    S3Store::open("s3://disks/vols", &options, timeouts).unwrap()
}

/// A server that says the same to everything, and the store on it.
fn always(reply: Reply) -> (Server, S3Store) {
    let server = Server::start(move |_| reply.clone());
    let store = store_at(&server.url());
    (server, store)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn create(store: &S3Store) -> StoreResult<()> {
    store.create(&key("o"), &[IoSlice::new(b"one"), IoSlice::new(b"two")])
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len).unwrap()
}

/// The errors of every call, by name.
fn errors_of_all(store: &S3Store) -> Vec<(&'static str, StoreError)> {
    let version = Version("\"tag\"".to_owned());
    vec![
        ("create", create(store).unwrap_err()),
        ("replace", store.replace(&key("o"), b"x", &version).unwrap_err()),
        ("get", store.get(&key("o")).unwrap_err()),
        ("get_range", store.get_range(&key("o"), range(0, 4)).unwrap_err()),
        ("get_front", store.get_front(&key("o"), 4).unwrap_err()),
        ("head", store.head(&key("o")).unwrap_err()),
        ("list", store.list("a", None, 10).unwrap_err()),
        ("delete", store.delete(&key("o")).unwrap_err()),
        ("delete_many", store.delete_many(&[key("o"), key("p")]).unwrap_err()),
    ]
}

/// How many calls [`errors_of_all`] makes.
const CALLS: usize = 9;

fn is_refused(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { .. })
}
