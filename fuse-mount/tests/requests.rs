//! What a mount asks of an S3 server, as the server sees it; and S3 over TLS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use common::proxy::Proxy;
use common::rng::Rng;
use common::servers::Server;
use common::store::Kind;
use common::{Lab, MIB, Mount, make_volume, scale, wait_for};

/// How long an idle mount is watched: the thing under test, not a wait for something.
const IDLE: Duration = Duration::from_secs(6);

/// Incompressible, and different at each place.
fn block(nth: u64) -> Vec<u8> {
    let mut bytes = vec![0; MIB as usize];
    Rng::new(nth + 1).fill(&mut bytes);
    bytes
}

/// A figure of the daemon's count of its requests.
fn told(mount: &Mount, class: &str) -> u64 {
    mount.status()["requests"][class].as_u64().unwrap()
}

/// The daemon's count of each class is what came to the server, within a twentieth; and where
/// nobody does anything, nothing comes.
fn counts_are_true(kind: Kind) {
    let lab = lab_on!(kind);
    let proxy = Proxy::before(&lab.store().endpoint().unwrap(), 0);
    let lab = Lab::with_store(lab.store().by_way_of(&proxy.endpoint()));
    let mebibytes = 256 * scale();
    let mount = lab.mount(&["--log-size=64M", "--cache-size=32M", "--log-memory=32M"]);
    let path = make_volume(&mount, "v.img", mebibytes * MIB);
    let file = File::options().read(true).write(true).open(path).unwrap();
    for nth in 0..mebibytes {
        file.write_all_at(&block(nth), nth * MIB).unwrap();
    }
    lab.ok(&["flush", "v.img", "--wait"]);
    // Most of it comes from the store, for the cache is small.
    let mut found = vec![0; MIB as usize];
    for nth in 0..mebibytes {
        file.read_exact_at(&mut found, nth * MIB).unwrap();
        assert!(found == block(nth), "MiB {nth} is not what was written");
    }
    drop(file);
    lab.json(&["info", "v.img"]);

    // The newest of them may still be under way.
    let mut last = (proxy.requests(), Instant::now());
    wait_for("the mount to be idle", || {
        if proxy.requests() != last.0 {
            last = (proxy.requests(), Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(2)).then_some(())
    });
    let seen = proxy.counts();
    let seen = |kind: &str| seen.get(kind).copied().unwrap_or(0);
    let classes = [
        ("put", seen("PUT")),
        ("get", seen("GET")),
        ("head", seen("HEAD")),
        // The first one asks whether the store answers at all, before there is anything to count.
        ("list", seen("LIST") - 1),
        ("delete", seen("DELETE") + seen("POST")),
    ];
    for (class, at_server) in classes {
        let counted = told(&mount, class);
        println!("{class}: the daemon counts {counted}, the server {at_server}");
        let allowed = at_server / 20;
        assert!(counted.abs_diff(at_server) <= allowed, "{class}: {counted}, {at_server}");
    }
    assert!(seen("PUT") >= mebibytes / 8, "too few objects for what was written");

    let before = proxy.requests();
    std::thread::sleep(IDLE);
    assert_eq!(proxy.requests(), before, "an idle mount asks for something");
    mount.unmount();
}

#[test]
fn requests_are_counted_as_s3_sees_them() {
    need_mount!();
    counts_are_true(Kind::S3);
}

#[test]
fn requests_are_counted_as_radosgw_sees_them() {
    need_mount!();
    counts_are_true(Kind::Radosgw);
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    need_mount!("openssl");
    // Where that server is to be had, one of its kind can be started.
    drop(lab_on!(Kind::S3));
    let server = Server::s3_over_tls();
    let store = server.s3();
    assert!(store.endpoint().unwrap().starts_with("https://"));

    let stranger = Lab::with_store(store.clone());
    let refused = stranger.run(&["list"]);
    assert!(!refused.0.status.success(), "a server that nobody vouches for was believed");
    let said = refused.stderr().to_lowercase();
    assert!(said.contains("certificate") || said.contains("issuer"), "{said}");

    let lab = Lab::with_store(store.trusting(&server.ca_file()));
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "v.img", MIB);
    File::options().write(true).open(path).unwrap().write_all_at(&block(7), 0).unwrap();
    mount.unmount();
    lab.lose_cache();
    let mount = lab.mount(&[]);
    assert!(fs::read(mount.file("v.img")).unwrap() == block(7));
    mount.unmount();
}
