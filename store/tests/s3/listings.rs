//! Listings that are damaged, out of order, foreign or without an end.

use lsvd_store::ObjectStore;

use crate::{Reply, Request, Server, always, is_refused, key, store_at};

fn page(names: &[&str], truncated: bool) -> Reply {
    let object = |name: &&str| format!("<Contents><Key>{name}</Key><Size>5</Size></Contents>");
    let objects: String = names.iter().map(object).collect();
    Reply::new(
        200,
        &[],
        format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{truncated}</IsTruncated>\
             {objects}</ListBucketResult>"
        ),
    )
}

#[test]
fn what_is_no_listing_is_refused() {
    for body in [
        "",
        "<html><body>Welcome to the hotel's network</body></html>",
        "<ListBucketResult><Contents><Key>vols/a</Key>",
        "<ListBucketResult><Contents><Key>vols/a</Key><Size>many</Size></Contents></ListBucketResult>",
        "{\"objects\": []}",
        "\u{0}\u{1}",
    ] {
        let (_server, store) = always(Reply::new(200, &[], body));
        let error = store.list("", None, 10).unwrap_err();
        assert!(is_refused(&error), "{body:?}: {error:?}");
    }
}

#[test]
fn pages_that_lie_are_refused() {
    for names in [
        &["vols/b", "vols/a"][..],
        &["vols/a", "vols/a"],
        &["other/a"],
        &["vols"],
        &["vols/a", "volt/a"],
    ] {
        let (_server, store) = always(page(names, false));
        let error = store.list("", None, 10).unwrap_err();
        assert!(is_refused(&error), "{names:?}: {error}");
    }
    // What was asked to come after b does not come before it.
    let (_server, store) = always(page(&["vols/a"], false));
    assert!(is_refused(&store.list("", Some(&key("b")), 10).unwrap_err()));
    // The prefix was a longer one.
    let (_server, store) = always(page(&["vols/a"], false));
    assert!(is_refused(&store.list("b", None, 10).unwrap_err()));
}

#[test]
fn a_truncated_page_is_never_empty() {
    let server = Server::start(|request| {
        let starts = |name: &str| request.target.contains(&format!("start-after=vols%2F{name}"));
        if starts("b%2F") { page(&["vols/c"], true) } else { page(&["vols/a/", "vols/b/"], true) }
    });
    let store = store_at(&server.url());
    let found = store.list("", None, 10).unwrap();
    assert_eq!(found.objects.len(), 1);
    assert_eq!(found.objects[0].key, key("c"));
    assert!(found.truncated);
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_listing_goes_on_by_token_where_a_page_has_no_names() {
    let empty = "<ListBucketResult><IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>go+on</NextContinuationToken></ListBucketResult>";
    let server = Server::start(move |request| {
        let goes_on = request.target.contains("continuation-token=go%2Bon");
        if goes_on { page(&["vols/c"], false) } else { Reply::new(200, &[], empty) }
    });
    let store = store_at(&server.url());
    assert_eq!(store.list("", None, 10).unwrap().objects.len(), 1);
}

#[test]
fn a_listing_without_an_end_ends() {
    let (_server, store) = always(page(&[], true));
    assert!(is_refused(&store.list("", None, 10).unwrap_err()));
    // A page that is always the same does not go on after its own last name.
    let (server, store) = always(page(&["vols/a/"], true));
    assert!(is_refused(&store.list("", None, 10).unwrap_err()));
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_page_that_nothing_can_be_on_is_not_asked_for() {
    let (server, store) = always(page(&[], false));
    assert!(store.list("a", Some(&key("b")), 10).unwrap().objects.is_empty());
    assert_eq!(server.asked().len(), 0);
    store.list("b", Some(&key("a")), 10).unwrap();
    let asked: Vec<Request> = server.asked();
    assert!(!asked[0].target.contains("start-after"), "{}", asked[0].target);
}
