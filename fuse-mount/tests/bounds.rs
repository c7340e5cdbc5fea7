//! What the settings bound: how long somebody waits for a store, how far it may lag behind, and
//! what `fsync` means.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::disk::StoreDisk;
use common::rng::Rng;
use common::{Lab, Mount, Ran, make_volume, wait_for};
use serde_json::Value;

const BLOCK: usize = 64 << 10;
const VOLUME: &str = "v.img";
const VOLUME_BYTES: u64 = 256 << 20;
const FLAGS: &[&str] = &["--log-memory=8M", "--cache-size=0", "--compression=none"];

fn block(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    Rng::new(number + 1).fill(&mut bytes);
    bytes
}

fn stats(mount: &Mount) -> Value {
    mount.status()["volumes"][0]["stats"].clone()
}

fn flags<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [FLAGS, more].concat()
}

#[test]
fn a_writer_that_waits_too_long_gets_eio_and_goes_on_when_the_store_does() {
    need_mount!("mkfs.ext4", "losetup");
    let disk = StoreDisk::new(128);
    let lab = Lab::with_store_on(&disk);
    let mount = lab.mount(&flags(&["--log-size=32M", "--store-timeout=2s"]));
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&block(0), 0).unwrap();
    file.sync_all().unwrap();
    let filler = disk.fill_up();
    let mut written = 1;
    let error = loop {
        match file.write_all_at(&block(written), written * BLOCK as u64) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < VOLUME_BYTES / BLOCK as u64, "no write failed");
    };
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    // The SSD has what was acknowledged, and shows it.
    file.sync_all().unwrap();
    let mut found = vec![0; BLOCK];
    for number in 0..written {
        file.read_exact_at(&mut found, number * BLOCK as u64).unwrap();
        assert!(found == block(number), "block {number} is not what was written");
    }
    let stats = stats(&mount);
    assert_eq!(stats["state"], "degraded", "{stats}");
    assert!(stats["last_error"].as_str().unwrap().contains("No space left"), "{stats}");
    assert!(stats["oldest_dirty_age_ms"].as_u64().unwrap() >= 2000, "{stats}");
    let told = lab.daemon_log().lines().filter(|line| line.contains("store-timeout")).count();
    assert_eq!(told, 1, "{}", lab.daemon_log());
    lab.ok(&["info", VOLUME]);
    fs::remove_file(filler).unwrap();
    wait_for("writes to go on", || {
        file.write_all_at(&block(written), written * BLOCK as u64).is_ok().then_some(())
    });
    for number in 0..=written {
        file.read_exact_at(&mut found, number * BLOCK as u64).unwrap();
        assert!(found == block(number), "block {number} is not what was written");
    }
    drop(file);
    mount.unmount();
    assert!(lab.daemon_log().contains("the store answers again after"), "{}", lab.daemon_log());
}

#[test]
fn no_more_is_dirty_than_the_setting_says() {
    need_mount!("mkfs.ext4", "losetup");
    let disk = StoreDisk::new(128);
    let lab = Lab::with_store_on(&disk);
    let limit = 8 << 20;
    let mount = lab.mount(&flags(&["--max-dirty-bytes=8M", "--store-timeout=2s"]));
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    let file = File::options().write(true).open(&path).unwrap();
    let _filler = disk.fill_up();
    let mut written = 0;
    while file.write_all_at(&block(written), written * BLOCK as u64).is_ok() {
        written += 1;
        let dirty = stats(&mount)["dirty_bytes"].as_u64().unwrap();
        assert!(dirty <= limit + 4096, "{dirty} bytes are dirty");
    }
    assert!(written >= 64, "only {written} blocks fitted");
    mount.kill();
}

#[test]
fn with_sync_remote_a_lost_ssd_loses_nothing_before_the_last_fsync() {
    need_mount!();
    let lab = Lab::new();
    lab.ok(&["create", VOLUME, "--size=256M", "--sync=remote"]);
    assert_eq!(lab.json(&["info", VOLUME])["sync_remote"], true);
    let mount = lab.mount(&flags(&["--batch-age=1h"]));
    let file = File::options().write(true).open(mount.file(VOLUME)).unwrap();
    for number in 0..40 {
        file.write_all_at(&block(number), number * BLOCK as u64).unwrap();
        if number % 8 == 7 {
            file.sync_all().unwrap();
        }
    }
    file.write_all_at(&block(99), 99 * BLOCK as u64).unwrap();
    drop(file);
    mount.kill();
    lab.lose_cache();
    let mount = lab.mount(FLAGS);
    let file = File::open(mount.file(VOLUME)).unwrap();
    let mut found = vec![0; BLOCK];
    for number in 0..40 {
        file.read_exact_at(&mut found, number * BLOCK as u64).unwrap();
        assert!(found == block(number), "block {number} was synced and is lost");
    }
    drop(file);
    mount.unmount();
}

#[test]
fn an_idle_mount_makes_no_requests() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, VOLUME, VOLUME_BYTES);
    fs::write(&path, block(1)).unwrap();
    lab.ok(&["flush", VOLUME, "--wait"]);
    let settled = || mount.status()["requests"].clone();
    // What the end of the last writer, and the checkpoint of its resize, still have to say.
    let mut before = settled();
    wait_for("the last request", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = settled();
        let same = now == before;
        before = now;
        same.then_some(())
    });
    assert!(before["put"].as_u64().unwrap() > 0, "{before}");
    // The thing under test: time in which nobody asks for anything.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(settled(), before);
    let info = lab.json(&["info", VOLUME]);
    assert!(info["live"]["requests"]["put"].as_u64().unwrap() > 0, "{info}");
    assert!(info["live"]["opening"].is_object(), "{info}");
    mount.unmount();
}

/// An address at which nobody listens.
fn nobody() -> String {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}")
}

fn mount_of_nobody(lab: &Lab, flags: &[&str]) -> Command {
    let mut command = lab.command();
    command.env("LSVD_STORE", "s3://bucket/prefix").env("LSVD_S3_ENDPOINT", nobody());
    command.env("LSVD_S3_ACCESS_KEY_ID", "key").env("LSVD_S3_SECRET_ACCESS_KEY", "secret");
    command.env("LSVD_S3_REGION", "us-east-1");
    command.arg("mount").arg(lab.mountpoint()).args(flags);
    command
}

#[test]
fn with_fail_fast_a_mount_does_not_wait_for_its_store() {
    let lab = Lab::new();
    let ran = Ran(mount_of_nobody(&lab, &["--fail-fast"]).output().unwrap());
    ran.failure(1, &["s3://bucket/prefix"]);
}

#[test]
fn a_mount_waits_for_its_store_says_so_and_can_be_interrupted() {
    for flags in [&["--foreground"][..], &[]] {
        let lab = Lab::new();
        let mut command = mount_of_nobody(&lab, flags);
        let errors = File::create(lab.path().join("stderr")).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let text = || fs::read_to_string(lab.path().join("stderr")).unwrap();
        wait_for("a word about the store", || {
            assert_eq!(child.try_wait().unwrap(), None, "it did not wait: {}", text());
            text().contains("waiting for the store s3://bucket/prefix").then_some(())
        });
        // SAFETY: the child was started above and is not yet reaped.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
        let status = wait_for("the end", || child.try_wait().unwrap());
        assert!(!status.success());
        // In the background the daemon notices that nobody waits any more.
        let log = || fs::read_to_string(lab.cache_dir().join("lsvd-fuse.log")).unwrap_or_default();
        if flags.is_empty() {
            wait_for("the daemon to end", || log().contains("was ended while").then_some(()));
        }
    }
}

#[test]
fn impossible_bounds_are_refused_in_words() {
    let lab = Lab::new();
    let mountpoint = lab.mountpoint();
    let mount =
        |flags: &[&str]| lab.run(&[&["mount", mountpoint.to_str().unwrap()], flags].concat());
    mount(&["--max-dirty-age=2s", "--batch-age=2s"])
        .failure(2, &["batch-age", "not less than max-dirty-age"]);
    mount(&["--max-dirty-bytes=1M"]).failure(2, &["max-dirty-bytes", "at least"]);
    mount(&["--store-timeout=0"]).failure(2, &["store-timeout", "more than 0"]);
    mount(&["--sync=perhaps"]).failure(2, &["--sync", "neither local nor remote"]);
    lab.run(&["create", "a", "--size=1M", "--sync=x"]).failure(2, &["--sync"]);
}
