//! Space in the store comes back: by the command, and by itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::rng::Rng;
use common::{Lab, MIB, bytes_below, make_volume, wait_for};

const SIZE: u64 = 32 * MIB;
const FLAGS: &[&str] = &["--batch-size=1M", "--batch-age=100ms", "--compression=none"];

/// Fills the file, and overwrites three of four blocks; returns what it holds then.
fn wear(file: &File) -> Vec<u8> {
    let mut rng = Rng::new(7);
    let mut disk = vec![0; SIZE as usize];
    rng.fill(&mut disk);
    file.write_all_at(&disk, 0).unwrap();
    for (nth, block) in disk.chunks_mut(4096).enumerate() {
        if nth % 4 != 0 {
            rng.fill(block);
            file.write_all_at(block, nth as u64 * 4096).unwrap();
        }
    }
    disk
}

#[test]
fn the_command_gives_space_back_and_keeps_every_byte() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[FLAGS, &["--gc-start=0"]].concat());
    let path = make_volume(&mount, "v.img", SIZE);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let disk = wear(&file);
    lab.ok(&["flush", "v.img", "--wait"]);
    let before = bytes_below(&lab.store_dir());
    let told = lab.json(&["gc", "v.img", "--target", "95%", "--now"]);
    let after = bytes_below(&lab.store_dir());
    assert!(after < before && after < SIZE * 11 / 10, "{before} bytes before, {after} after");
    assert!(told["utilisation_percent"].as_u64().unwrap() >= 95, "{told}");
    assert!(told["moved_bytes"].as_u64().unwrap() > 0, "{told}");
    assert!(told["deleted_objects"].as_u64().unwrap() > 20, "{told}");
    let mut found = vec![0; SIZE as usize];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == disk);

    for (wrong, hint) in [
        (&["gc", "v.img", "--target", "120%"][..], "from 0% to 100%"),
        (&["gc", "other.img"][..], "other.img"),
    ] {
        let refused = lab.run(wrong);
        assert!(!refused.0.status.success());
        assert!(refused.stderr().contains(hint), "{}", refused.stderr());
    }
    drop(file);
    mount.unmount();
    // Without a mount, and from the store alone.
    lab.lose_cache();
    lab.ok(&["gc", "v.img"]);
    let mount = lab.mount(FLAGS);
    assert!(fs::read(mount.file("v.img")).unwrap() == disk);
    mount.unmount();
}

#[test]
fn a_mount_cleans_by_itself_and_a_kill_in_the_middle_loses_nothing() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, "v.img", SIZE);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let disk = wear(&file);
    let moved = |status: &serde_json::Value| {
        status["volumes"][0]["stats"]["gc"]["moved_bytes"].as_u64().filter(|bytes| *bytes > 0)
    };
    wait_for("data to be moved", || moved(&mount.status()));
    drop(file);
    mount.kill();
    let mount = lab.mount(FLAGS);
    assert!(fs::read(mount.file("v.img")).unwrap() == disk);
    File::options().write(true).open(mount.file("v.img")).unwrap().sync_all().unwrap();
    let settled = |status: &serde_json::Value| {
        let percent = status["volumes"][0]["stats"]["gc"]["utilisation_percent"].as_u64();
        percent.filter(|percent| *percent >= 70)
    };
    wait_for("the store to be clean", || settled(&mount.status()));
    wait_for("what is dead to be deleted", || {
        (bytes_below(&lab.store_dir()) < SIZE * 3 / 2).then_some(())
    });
    assert!(fs::read(mount.file("v.img")).unwrap() == disk);
    mount.unmount();
}
