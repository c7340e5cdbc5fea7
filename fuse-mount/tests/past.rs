//! Clones that are cut off from their base, and the window of history, through a real mount.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::rng::Rng;
use common::{Lab, MIB, make_volume, wait_for};

const SIZE: u64 = 16 * MIB;
const FLAGS: &[&str] = &["--batch-size=1M", "--batch-age=100ms", "--compression=none"];

/// Overwrites the whole disk, in the store as well; returns its content.
fn fill(lab: &Lab, path: &Path, seed: u64) -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    Rng::new(seed).fill(&mut disk);
    File::options().write(true).open(path).unwrap().write_all_at(&disk, 0).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    lab.ok(&["flush", name, "--wait"]);
    disk
}

#[test]
fn a_flattened_clone_outlives_its_base() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    let base = make_volume(&mount, "base.img", SIZE);
    let monday = fill(&lab, &base, 1);
    lab.run(&["flatten", "base.img"]).failure(1, &["\"base.img\" is no clone"]);
    lab.ok(&["snapshot", "create", "base.img@monday"]);
    lab.ok(&["clone", "base.img@monday", "copy.img"]);
    assert_eq!(lab.json(&["info", "copy.img"])["base"]["point"], "base.img@monday");
    lab.run(&["delete", "base.img"]).failure(1, &["copy.img"]);

    let copy = mount.file("copy.img");
    let mut expected = monday;
    let file = File::options().write(true).open(&copy).unwrap();
    file.write_all_at(&[7; 5000], 12_345).unwrap();
    expected[12_345..17_345].fill(7);
    lab.ok(&["snapshot", "create", "copy.img@own"]);
    lab.run(&["flatten", "copy.img"]).failure(1, &["copy.img", "own"]);
    lab.ok(&["snapshot", "delete", "copy.img@own"]);
    let told = lab.ok(&["flatten", "copy.img"]);
    assert!(told.contains("needs no other volume"), "{told}");
    assert!(lab.json(&["info", "copy.img"])["base"].is_null());
    lab.run(&["flatten", "copy.img"]).failure(1, &["is no clone"]);
    drop(file);

    lab.ok(&["snapshot", "delete", "base.img@monday"]);
    wait_for("the base to be closed", || {
        lab.run(&["delete", "base.img"]).0.status.success().then_some(())
    });
    assert!(fs::read(&copy).unwrap() == expected);
    mount.unmount();
    // From the store alone.
    fs::remove_dir_all(lab.cache_dir()).unwrap();
    let mount = lab.mount(FLAGS);
    assert!(fs::read(mount.file("copy.img")).unwrap() == expected);
    lab.ok(&["check", "--deep"]);
    mount.unmount();
}

#[test]
fn a_moment_in_the_window_of_history_is_had_whatever_was_cleaned() {
    need_mount!();
    let lab = Lab::new();
    let flags = [FLAGS, &["--history-retention=1h 1G"]].concat();
    let mount = lab.mount(&flags);
    let path = make_volume(&mount, "v.img", SIZE);
    // From the first write on.
    let then = fill(&lab, &path, 2);
    let file = File::open(&path).unwrap();
    let stats = lab.json(&["info", "v.img"])["live"].clone();
    let object = stats["committed_object"].as_u64().unwrap();
    assert!(stats["history"]["object"].as_u64().unwrap() <= object, "{stats}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(stats["history"]["since_ms"].as_u64().unwrap() <= now, "{stats}");
    for seed in 3..6 {
        fill(&lab, &path, seed);
        lab.ok(&["gc", "v.img", "--now"]);
    }
    drop(file);
    let moment = format!("v.img@#{object}");
    lab.ok(&["clone", &moment, "undo.img"]);
    assert!(fs::read(mount.file("undo.img")).unwrap() == then);
    lab.ok(&["delete", "undo.img"]);
    mount.unmount();
    // Commands without a mount leave it alone.
    lab.ok(&["snapshot", "create", "v.img@late"]);
    lab.ok(&["gc", "v.img", "--now"]);
    lab.ok(&["clone", &moment, "undo.img"]);
    lab.ok(&["delete", "undo.img"]);
    lab.ok(&["snapshot", "delete", "v.img@late"]);

    // A mount without it collects the past.
    let mount = lab.mount(FLAGS);
    let file = File::options().write(true).open(mount.file("v.img")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    lab.ok(&["gc", "v.img", "--now"]);
    lab.run(&["clone", &moment, "undo.img"]).failure(1, &["collected already"]);
    drop(file);
    mount.unmount();
    for bad in ["1h 2h", "512m", "yesterday", "0s", "0", ""] {
        let flag = format!("--history-retention={bad}");
        let refused = lab.run(&["mount", lab.mountpoint().to_str().unwrap(), &flag]);
        refused.failure(2, &["history-retention"]);
    }
}
