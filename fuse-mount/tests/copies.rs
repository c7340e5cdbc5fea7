//! Copies between volumes are made by the daemon, and are what reading and writing would give.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::thread;

use common::copying::{copies_hold_what_a_model_holds, copy, copy_once, open};
use common::disk::StoreDisk;
use common::rng::Rng;
use common::store::Kind;
use common::{Lab, MIB, Mount, Story, bytes_below, make_volume, tool, wait_for};

const DEV_FUSE: &[&str] = &["--transport=dev-fuse"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn random(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

#[test]
fn random_copies_hold_what_a_model_holds() {
    need_mount!();
    let lab = Lab::new();
    let seed = Rng::seed_of_the_day();
    let _story = Story(seed, &lab);
    let mount = lab.mount(DEV_FUSE);
    copies_hold_what_a_model_holds(&lab, &mount, &mut Rng::new(seed));
    mount.unmount();
}

#[test]
fn holes_are_not_copied_but_made() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let size = 64 << 30;
    let source = open(&make_volume(&mount, "source", size));
    let data = random(3 * MIB, 1);
    for at in [5 * MIB + 512, size / 2, size - 3 * MIB] {
        source.write_all_at(&data, at).unwrap();
    }
    let blocks = source.metadata().unwrap().blocks();
    assert_eq!(blocks * 512, 9 * MIB);

    // What was there before goes.
    let target = open(&make_volume(&mount, "target", size));
    target.write_all_at(&data, size / 4).unwrap();
    assert_eq!(copy((&source, 0), (&target, 0), size), Ok(size));
    assert_eq!(target.metadata().unwrap().blocks(), blocks);
    // A file that is too short grows, also by holes.
    let grown = open(&make_volume(&mount, "grown", 0));
    assert_eq!(copy((&source, 0), (&grown, 0), size - 4 * MIB), Ok(size - 4 * MIB));
    let shown = grown.metadata().unwrap();
    assert_eq!((shown.len(), shown.blocks() * 512), (size - 4 * MIB, 6 * MIB));
    let mut found = vec![0; data.len()];
    for (file, at) in [(&target, 5 * MIB + 512), (&target, size - 3 * MIB), (&grown, size / 2)] {
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == data);
    }
    target.read_exact_at(&mut found, size / 4).unwrap();
    assert!(found.iter().all(|byte| *byte == 0));
    drop((source, target, grown));
    mount.unmount();
}

#[test]
fn one_request_is_no_longer_than_16_mib_of_data() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let data = random(40 * MIB, 2);
    let source = open(&make_volume(&mount, "source", 40 * MIB));
    source.write_all_at(&data, 0).unwrap();
    let target = open(&make_volume(&mount, "target", 41 * MIB));
    // At another place nothing can be shared.
    assert_eq!(copy_once((&source, 0), (&target, MIB), 40 * MIB), Ok(16 * MIB));
    assert_eq!(copy((&source, 0), (&target, MIB), 40 * MIB), Ok(40 * MIB));
    assert!(fs::read(mount.file("target")).unwrap()[MIB as usize..] == data);
    drop((source, target));
    mount.unmount();
}

#[test]
fn cp_makes_a_volume_as_sparse_as_the_first() {
    need_mount!("cp", "cmp", "du");
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let (first, second) = (make_volume(&mount, "img1", 256 * MIB), mount.file("img2"));
    let file = open(&first);
    for at in [0, 100 * MIB + 1, 255 * MIB] {
        file.write_all_at(&random(MIB, at), at).unwrap();
    }
    drop(file);
    tool("cp", &["--reflink=auto", "--sparse=auto", text(&first), text(&second)]);
    tool("cmp", &[text(&first), text(&second)]);
    let used = |path: &Path| tool("du", &["-k", text(path)]).split('\t').next().unwrap().to_owned();
    assert_eq!(used(&second), used(&first));
    assert_eq!(fs::metadata(&second).unwrap().size(), 256 * MIB);

    // A snapshot is a source like any other.
    lab.ok(&["snapshot", "create", "img1@then"]);
    open(&first).write_all_at(&random(MIB, 7), 0).unwrap();
    let (then, third) = (mount.path().join(".snapshots/img1/then"), mount.file("img3"));
    tool("cp", &["--reflink=auto", "--sparse=auto", text(&then), text(&third)]);
    tool("cmp", &[text(&second), text(&third)]);
    mount.unmount();
}

#[test]
fn what_a_clone_gets_back_from_its_base_takes_no_room() {
    need_mount!();
    let lab = Lab::new();
    // What is moved takes up room as well.
    let mount = lab.mount(&["--gc-start=0"]);
    let size = 4 << 30;
    let path = make_volume(&mount, "base", size);
    let base = open(&path);
    let data = [(MIB + 512, 20 * MIB), (size / 2, 300 << 10), (size - 8 * MIB, 7 * MIB + 5000)];
    for (at, len) in data {
        base.write_all_at(&random(len, at), at).unwrap();
    }
    lab.ok(&["snapshot", "create", "base@then"]);
    lab.ok(&["clone", "base@then", "twin"]);
    // Both go their own ways.
    base.write_all_at(&random(5 * MIB, 3), 2 * MIB).unwrap();
    let twin = open(&mount.file("twin"));
    twin.write_all_at(&random(30 * MIB, 4), 0).unwrap();
    lab.ok(&["flush", "base", "--wait"]);
    lab.ok(&["flush", "twin", "--wait"]);

    let before = bytes_below(&lab.store_dir());
    let then = File::open(mount.path().join(".snapshots/base/then")).unwrap();
    assert_eq!(copy((&then, 0), (&twin, 0), size), Ok(size));
    lab.ok(&["flush", "twin", "--wait"]);
    let more = bytes_below(&lab.store_dir()).saturating_sub(before);
    assert!(more < MIB, "{more} bytes more in the store");
    let assert_same = |twin: &File| {
        let mut found = vec![0; 40 * MIB as usize];
        twin.read_exact_at(&mut found, 0).unwrap();
        let (hole, found_data) = found.split_at(MIB as usize + 512);
        let (first, rest) = found_data.split_at(20 * MIB as usize);
        assert!(first == random(20 * MIB, MIB + 512));
        assert!(hole.iter().chain(rest).all(|byte| *byte == 0), "holes stay holes");
        for (at, len) in data.into_iter().skip(1) {
            let found = &mut found[..len as usize];
            twin.read_exact_at(found, at).unwrap();
            assert!(*found == random(len, at), "at {at}");
        }
    };
    assert_same(&twin);
    let sectors: u64 = data.iter().map(|(_, len)| len.div_ceil(512)).sum();
    assert_eq!(twin.metadata().unwrap().blocks(), sectors);
    drop((then, twin, base));
    mount.unmount();

    // What is shared is safe without the SSD, and without the base once it is flattened.
    lab.lose_cache();
    let mount = lab.mount(&[]);
    assert_same(&open(&mount.file("twin")));
    lab.ok(&["flatten", "twin"]);
    lab.ok(&["snapshot", "delete", "base@then"]);
    fs::remove_file(mount.file("base")).unwrap();
    assert_same(&open(&mount.file("twin")));
    lab.ok(&["check", "--deep"]);
    mount.unmount();
}

/// What `cp` brings back from a snapshot takes no room, and is there without the SSD.
fn cp_brings_back_a_snapshot(lab: Lab) {
    let mount = lab.mount(&["--gc-start=0"]);
    let path = make_volume(&mount, "img1", 64 * MIB);
    open(&path).write_all_at(&random(40 * MIB, 1), 0).unwrap();
    lab.ok(&["snapshot", "create", "img1@then"]);
    open(&path).write_all_at(&random(30 * MIB, 2), 5 * MIB).unwrap();
    lab.ok(&["flush", "img1", "--wait"]);
    let sent = |mount: &Mount| mount.status()["requests"]["sent_bytes"].as_u64().unwrap();
    let before = sent(&mount);
    assert!(before > 60 * MIB, "{before} bytes sent");
    let then = mount.path().join(".snapshots/img1/then");
    tool("cp", &[text(&then), text(&path)]);
    tool("cmp", &[text(&then), text(&path)]);
    lab.ok(&["flush", "img1", "--wait"]);
    let more = sent(&mount) - before;
    assert!(more < 2 * MIB, "{more} bytes more sent");
    assert!(lab.json(&["info", "img1"])["base"].is_null());
    mount.unmount();

    lab.lose_cache();
    let mount = lab.mount(&[]);
    lab.ok(&["snapshot", "delete", "img1@then"]);
    let mut found = vec![0; 40 * MIB as usize];
    open(&mount.file("img1")).read_exact_at(&mut found, 0).unwrap();
    assert!(found == random(40 * MIB, 1));
    lab.ok(&["check", "img1", "--deep"]);
    mount.unmount();
}

#[test]
fn cp_brings_back_a_snapshot_in_a_directory() {
    need_mount!("cp", "cmp");
    cp_brings_back_a_snapshot(Lab::new());
}

#[test]
fn cp_brings_back_a_snapshot_on_s3() {
    need_mount!("cp", "cmp");
    cp_brings_back_a_snapshot(lab_on!(Kind::S3));
}

#[test]
fn cp_brings_back_a_snapshot_on_radosgw() {
    need_mount!("cp", "cmp");
    cp_brings_back_a_snapshot(lab_on!(Kind::Radosgw));
}

#[test]
fn cp_brings_back_a_snapshot_on_rados() {
    need_mount!("cp", "cmp");
    cp_brings_back_a_snapshot(lab_on!(Kind::Rados));
}

#[test]
fn what_cannot_be_copied_is_refused() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(DEV_FUSE);
    let source = open(&make_volume(&mount, "source", 4 * MIB));
    source.write_all_at(&random(MIB, 3), 0).unwrap();
    let path = make_volume(&mount, "target", 4 * MIB);
    let target = open(&path);
    assert_eq!(copy_once((&source, 4 * MIB), (&target, 0), 10), Ok(0));
    assert_eq!(copy_once((&source, u64::MAX >> 1), (&target, 0), 10), Ok(0));
    assert_eq!(copy_once((&source, 4 * MIB - 5), (&target, 0), 10), Ok(5));
    assert_eq!(copy_once((&source, 0), (&source, MIB - 1), MIB), Err(libc::EINVAL));
    assert_eq!(copy_once((&source, 0), (&source, MIB), MIB), Ok(MIB));
    let reader = File::open(&path).unwrap();
    assert_eq!(copy_once((&source, 0), (&reader, 0), 10), Err(libc::EBADF));
    // As a write: no file is so large that it ends there.
    let last = (1 << 63) - 512;
    let write = target.write_at(&[1; 100], last).unwrap_err();
    assert_eq!(write.raw_os_error(), Some(libc::EFBIG));
    assert_eq!(copy_once((&source, 0), (&target, last), 100), Err(libc::EFBIG));
    drop((source, target, reader));
    mount.unmount();
}

#[test]
fn copies_that_wait_for_the_store_hold_up_nothing_else() {
    need_mount!("mkfs.ext4", "losetup", "fsfreeze");
    const COPIES: usize = 10;
    let disk = StoreDisk::new(1024);
    let lab = Lab::with_store_on(&disk);
    let flags = ["--log-size=32M", "--log-memory=8M", "--max-dirty-bytes=8M"];
    let mount = lab.mount(&flags);
    let targets: Vec<File> =
        (0..COPIES).map(|nth| open(&make_volume(&mount, &nth.to_string(), 32 * MIB))).collect();
    let path = make_volume(&mount, "source", 4 * MIB);
    let (source, data) = (open(&path), random(4 * MIB, 4));
    let frozen = disk.freeze();
    source.write_all_at(&data, 0).unwrap();
    thread::scope(|scope| {
        let copies: Vec<_> = targets
            .iter()
            .map(|target| {
                let source = &source;
                scope.spawn(move || {
                    (0..8).try_for_each(|nth| {
                        let copied = copy((source, 0), (target, nth * 4 * MIB), 4 * MIB)?;
                        if copied == 4 * MIB { Ok(()) } else { Err(0) }
                    })
                })
            })
            .collect();
        wait_for("copies to fill their logs", || (waiting(&mount) >= 4).then_some(()));
        // Neither what is answered at once nor what a thread of the pool is needed for waits.
        let mut found = vec![0; data.len()];
        File::open(&path).unwrap().read_exact_at(&mut found, 0).unwrap();
        assert!(found == data);
        open(&path).write_all_at(&data[..4096], 0).unwrap();
        let room = Command::new("stat").args(["-f", text(mount.path())]).output().unwrap();
        assert!(room.status.success());
        assert!(copies.iter().all(|copy| !copy.is_finished()));
        drop(frozen);
        for copy in copies {
            assert_eq!(copy.join().unwrap(), Ok(()));
        }
    });
    for nth in 0..COPIES {
        let found = fs::read(mount.file(nth.to_string())).unwrap();
        assert!(found.chunks(data.len()).all(|part| part == data));
    }
    drop((source, targets));
    mount.unmount();
}

/// Volumes whose dirty bytes are near the limit.
fn waiting(mount: &Mount) -> usize {
    let status = mount.status();
    let volumes = status["volumes"].as_array().unwrap();
    let dirty = volumes.iter().filter_map(|volume| volume["stats"]["dirty_bytes"].as_u64());
    dirty.filter(|dirty| *dirty >= 6 * MIB).count()
}
