//! Snapshots, clones and rollback through a real mount.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::Path;

use common::rng::Rng;
use common::{Lab, MIB, bytes_below, make_volume, wait_for};

const SIZE: u64 = 16 * MIB;
const FLAGS: &[&str] = &["--batch-size=1M", "--batch-age=100ms", "--compression=none"];

fn open(path: &std::path::Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn fill(file: &File, seed: u64) -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    Rng::new(seed).fill(&mut disk);
    file.write_all_at(&disk, 0).unwrap();
    disk
}

fn names_in(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_stays_while_the_volume_is_overwritten_and_comes_back() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, "v.img", SIZE);
    let file = open(&path);
    let monday = fill(&file, 1);
    // Not flushed: a snapshot has whatever was acknowledged.
    lab.ok(&["snapshot", "create", "v.img@monday"]);
    lab.run(&["snapshot", "create", "v.img@monday"]).failure(1, &["monday", "already"]);
    fill(&file, 2);

    let kept = mount.path().join(".snapshots/v.img/monday");
    assert_eq!(names_in(&mount.path().join(".snapshots")), ["v.img"]);
    assert_eq!(names_in(&mount.path().join(".snapshots/v.img")), ["monday"]);
    assert!(fs::read(&kept).unwrap() == monday);
    assert_eq!(
        File::options().write(true).open(&kept).unwrap_err().raw_os_error(),
        Some(libc::EROFS)
    );
    assert_eq!(fs::remove_file(&kept).unwrap_err().raw_os_error(), Some(libc::EROFS));

    let shown = lab.json(&["snapshot", "list", "v.img"]);
    assert_eq!(shown[0]["name"], "monday");
    assert_eq!(shown[0]["size_bytes"], SIZE);
    lab.ok(&["flush", "v.img", "--wait"]);
    lab.ok(&["gc", "v.img", "--now"]);
    assert!(fs::read(&kept).unwrap() == monday, "collecting leaves it alone");
    let exclusive = lab.json(&["snapshot", "list", "v.img"])[0]["exclusive_bytes"].clone();
    assert!(exclusive.as_u64().unwrap() >= SIZE, "{exclusive}");
    lab.ok(&["check", "v.img", "--deep"]);

    lab.run(&["snapshot", "rollback", "v.img@monday"]).failure(1, &["in use"]);
    lab.run(&["snapshot", "rollback", "v.img@friday"]).failure(1, &["friday"]);
    drop(file);
    wait_for("the file to be closed", || {
        lab.run(&["snapshot", "rollback", "v.img@monday"]).0.status.success().then_some(())
    });
    assert!(fs::read(&path).unwrap() == monday);
    let file = open(&path);
    let wednesday = fill(&file, 3);
    drop(file);
    mount.unmount();

    // From the store alone.
    lab.lose_cache();
    let mount = lab.mount(FLAGS);
    assert!(fs::read(&path).unwrap() == wednesday);
    assert!(fs::read(&kept).unwrap() == monday);
    lab.ok(&["snapshot", "protect", "v.img@monday"]);
    lab.run(&["snapshot", "delete", "v.img@monday"]).failure(1, &["protected"]);
    lab.run(&["delete", "v.img"]).failure(1, &["its snapshot \"monday\""]);
    lab.ok(&["snapshot", "unprotect", "v.img@monday"]);
    wait_for("nobody to read the snapshot", || {
        lab.run(&["snapshot", "delete", "v.img@monday"]).0.status.success().then_some(())
    });
    assert!(!kept.exists());
    lab.ok(&["gc", "v.img", "--now"]);
    let report = lab.json(&["check", "v.img", "--deep"]);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0, "{report}");
    lab.ok(&["delete", "v.img"]);
    mount.unmount();
}

#[test]
fn clones_share_what_neither_has_overwritten() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, "base.img", SIZE);
    let file = open(&path);
    let first = fill(&file, 1);
    lab.ok(&["snapshot", "create", "base.img@golden"]);
    let before = bytes_below(&lab.store_dir());
    for clone in ["a.img", "b.img"] {
        lab.ok(&["clone", "base.img@golden", clone]);
        assert!(fs::read(mount.file(clone)).unwrap() == first, "{clone}");
    }
    let after = bytes_below(&lab.store_dir());
    assert!(after < before + MIB, "two clones of {before} bytes made {after} of them");
    let second = fill(&file, 2);
    lab.ok(&["clone", "base.img", "now.img"]);
    lab.run(&["clone", "base.img", "a.img"]).failure(1, &["a.img", "exists"]);
    assert!(fs::read(mount.file("now.img")).unwrap() == second);

    // Each goes its own way.
    let a = open(&mount.file("a.img"));
    a.write_all_at(&[7; 4096], 5 * MIB).unwrap();
    let mut own = first.clone();
    own[5 * MIB as usize..][..4096].fill(7);
    drop(a);
    lab.ok(&["clone", "a.img", "grandchild.img"]);
    assert!(fs::read(mount.file("grandchild.img")).unwrap() == own);
    assert!(fs::read(mount.file("b.img")).unwrap() == first);
    assert!(fs::read(&path).unwrap() == second);

    lab.run(&["snapshot", "delete", "base.img@golden"])
        .failure(1, &["snapshot base.img@golden", "clones \"a.img\", \"b.img\" need it"]);
    drop(file);
    lab.run(&["delete", "base.img"])
        .failure(1, &["\"base.img\"", "\"a.img\", \"b.img\", \"now.img\" need its snapshots"]);
    let base = lab.json(&["info", "a.img"])["base"].clone();
    assert_eq!((&base["point"], &base["volume"]), (&"base.img@golden".into(), &"base.img".into()));
    assert!(lab.ok(&["info", "a.img"]).contains("point: base.img@golden\n"));
    let point = lab.json(&["info", "now.img"])["base"]["point"].clone();
    assert!(point.as_str().unwrap().starts_with("base.img@#"), "{point}");
    assert!(lab.json(&["info", "base.img"])["base"].is_null());
    let report = lab.json(&["check", "--all", "--deep"]);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0, "{report}");
    mount.unmount();

    lab.lose_cache();
    let mount = lab.mount(FLAGS);
    assert!(fs::read(mount.file("grandchild.img")).unwrap() == own);
    assert!(fs::read(mount.file("b.img")).unwrap() == first);
    for gone in ["grandchild.img", "a.img", "b.img", "now.img"] {
        wait_for("nobody to use it", || {
            lab.run(&["delete", gone]).0.status.success().then_some(())
        });
    }
    lab.ok(&["snapshot", "delete", "base.img@golden"]);
    assert!(fs::read(mount.file("base.img")).unwrap() == second);
    mount.unmount();
    lab.ok(&["gc", "base.img", "--now"]);
    let report = lab.json(&["check", "--all", "--deep"]);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0, "{report}");
    lab.ok(&["delete", "base.img"]);
}

#[test]
fn the_past_can_be_had_until_it_is_collected() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[FLAGS, &["--gc-start=0"]].concat());
    let path = make_volume(&mount, "v.img", SIZE);
    let file = open(&path);
    let first = fill(&file, 1);
    lab.ok(&["flush", "v.img", "--wait"]);
    let object = lab.json(&["info", "v.img"])["live"]["committed_object"].as_u64().unwrap();
    // Enough of it stays for none of its objects to die.
    let mut rng = Rng::new(9);
    let mut block = vec![0; 4096];
    for nth in 0..64 {
        rng.fill(&mut block);
        file.write_all_at(&block, nth * (SIZE / 64)).unwrap();
    }
    lab.ok(&["flush", "v.img", "--wait"]);
    lab.ok(&["clone", &format!("v.img@#{object}"), "then.img"]);
    assert!(fs::read(mount.file("then.img")).unwrap() == first);
    let later = format!("v.img@#{}", object + 100_000);
    lab.run(&["clone", &later, "never.img"]).failure(1, &["not written yet"]);
    lab.run(&["clone", "v.img@{2001-01-01T00:00:00Z}", "never.img"])
        .failure(1, &["history", "collected"]);
    lab.run(&["clone", "v.img@{2099-01-01T00:00:00Z}", "never.img"])
        .failure(1, &["v.img", "not there yet"]);
    lab.run(&["clone", "v.img@{monday}", "never.img"]).failure(2, &["UTC"]);
    drop(file);
    mount.unmount();
}

#[test]
fn who_keeps_a_snapshot_is_named() {
    let lab = Lab::new();
    lab.ok(&["create", "v.img", "--size", "64M"]);
    let quiet = lab.run(&["snapshot", "create", "v.img@one"]);
    quiet.success();
    assert_eq!(quiet.stderr(), "", "nothing is left to be said");
    lab.run(&["snapshot", "create", "v.img@#one"])
        .failure(2, &["snapshot name \"#one\"", "moments"]);
    lab.run(&["delete", "v.img"]).failure(1, &["\"v.img\"", "its snapshot \"one\""]);

    // Who makes it dies before it has a name.
    let mut maker = lab.command();
    maker.env("LSVD_FAILPOINT", "create.name").args(["clone", "v.img@one", "c.img"]);
    assert!(!maker.output().unwrap().status.success());
    let unfinished = ["c.img", "check --repair", "an hour"];
    lab.run(&["snapshot", "delete", "v.img@one"]).failure(1, &unfinished);
    lab.run(&["delete", "v.img"]).failure(1, &unfinished);

    lab.ok(&["clone", "v.img", "d.img"]);
    let all = lab.json(&["snapshot", "list", "v.img"]);
    let mut all = all.as_array().unwrap().iter();
    let own = all.find(|one| one["for_clones"] == true).unwrap();
    let own = format!("v.img@{}", own["name"].as_str().unwrap());
    for command in ["protect", "unprotect", "delete"] {
        let ran = lab.run(&["snapshot", command, &own]);
        ran.failure(1, &["snapshot v.img@clone-", "made for clones", "goes with the last"]);
    }
    lab.run(&["snapshot", "delete", &own]).failure(1, &["clone \"d.img\" needs it"]);
    lab.ok(&["delete", "d.img"]);
    lab.run(&["snapshot", "delete", &own]).failure(1, &["has no snapshot"]);
}

#[test]
fn snapshots_stay_as_they_are_under_a_read_only_mount() {
    need_mount!();
    let lab = Lab::new();
    lab.ok(&["create", "v.img", "--size", "64M"]);
    lab.ok(&["snapshot", "create", "v.img@one"]);
    let mount = lab.mount(&["--read-only"]);
    let shown = mount.path().to_str().unwrap().to_owned();
    for (command, snapshot) in [
        ("create", "v.img@two"),
        ("delete", "v.img@one"),
        ("rollback", "v.img@one"),
        ("protect", "v.img@one"),
    ] {
        let ran = lab.run(&["snapshot", command, snapshot]);
        ran.failure(1, &["read-only", &shown, &mount.pid().to_string()]);
    }
    assert_eq!(lab.json(&["snapshot", "list", "v.img"]).as_array().unwrap().len(), 1);
    // One that was killed serves nothing.
    mount.kill();
    lab.ok(&["snapshot", "delete", "v.img@one"]);
}

#[test]
fn inodes_of_snapshots_are_given_back() {
    need_mount!();
    let lab = Lab::new();
    let variables = [("RUST_LOG", "info,lsvd_fuse=debug")];
    let mount = lab.launch(&lab.mountpoint(), FLAGS, &variables).unwrap();
    make_volume(&mount, "v.img", SIZE);
    for name in ["v.img@a", "v.img@b"] {
        lab.ok(&["snapshot", "create", name]);
    }
    let (a, b) = (mount.path().join(".snapshots/v.img/a"), mount.path().join(".snapshots/v.img/b"));
    let ino = |path: &Path| fs::metadata(path).unwrap().ino();
    let (ino_a, ino_b) = (ino(&a), ino(&b));
    assert_eq!((ino(&a), ino(&b)), (ino_a, ino_b), "the same file each time");
    let listed: Vec<u64> =
        fs::read_dir(a.parent().unwrap()).unwrap().map(|entry| entry.unwrap().ino()).collect();
    assert_eq!(listed, [ino_a, ino_b]);
    let is_forgotten = |ino| lab.daemon_log().contains(&format!("inode {ino} below .snapshots"));
    assert!(!is_forgotten(ino_a));
    // The kernel gives up what it does not find any more.
    lab.ok(&["snapshot", "delete", "v.img@a"]);
    wait_for("the kernel to forget the file", || {
        assert!(!a.exists());
        is_forgotten(ino_a).then_some(())
    });
    assert!(!is_forgotten(ino_b));
    assert_eq!(ino(&b), ino_b);
    mount.unmount();
}
