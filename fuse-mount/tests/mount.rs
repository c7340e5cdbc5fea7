//! Mounting, serving and ending, with the real binary on /dev/fuse.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Lab, Loop, Ran, is_mounted, make_volume, tool, wait_for};

#[test]
fn background_mount_answers_when_the_command_returns() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount_in_background(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    fs::write(&path, b"hello").unwrap();
    assert!(lab.cache_dir().join("lsvd-fuse.log").exists());
    mount.unmount();
    let mount = lab.mount_in_background(&[]);
    assert_eq!(&fs::read(mount.file("a.img")).unwrap()[..5], b"hello");
    mount.unmount();
}

#[test]
fn a_daemon_that_cannot_start_says_so_through_the_command() {
    need_mount!();
    let lab = Lab::new();
    let store = format!("file://{}/a/b/c", lab.path().display());
    lab.run(&["--store", &store, "mount", lab.mountpoint().to_str().unwrap()])
        .failure(1, &["a/b/c"]);
    assert!(!is_mounted(&lab.mountpoint()));
}

#[test]
fn sigterm_ends_in_order() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    make_volume(&mount, "a.img", 16 << 20);
    mount.signal(libc::SIGTERM);
    mount.expect_end();
    assert!(!lab.cache_dir().join("control.sock").exists(), "the socket was left behind");
}

#[test]
fn a_busy_mount_survives_a_signal_and_a_second_one_leaves() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    fs::write(&path, b"kept").unwrap();
    let held = File::open(&path).unwrap();
    mount.signal(libc::SIGTERM);
    wait_for("the daemon to say who is busy", || {
        lab.daemon_log().contains("is busy").then_some(())
    });
    assert!(is_mounted(mount.path()));
    assert!(
        lab.daemon_log().contains(&format!("process {}", std::process::id())),
        "{}",
        lab.daemon_log()
    );
    mount.signal(libc::SIGTERM);
    mount.expect_end();
    drop(held);
    let mount = lab.mount(&[]);
    assert_eq!(&fs::read(mount.file("a.img")).unwrap()[..4], b"kept");
    mount.unmount();
}

#[test]
fn plain_umount_ends_the_daemon_too() {
    need_mount!("umount");
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    make_volume(&mount, "a.img", 16 << 20);
    tool("umount", &[mount.path().to_str().unwrap()]);
    mount.expect_end();
    assert_eq!(lab.json(&["info", "a.img"])["size_bytes"], 16 << 20);
}

#[test]
fn kill_9_leaves_a_mount_that_unmount_clears() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    make_volume(&mount, "a.img", 16 << 20);
    mount.signal(libc::SIGKILL);
    wait_for("the mount to be dead", || fs::metadata(mount.path()).err());
    let shown = mount.path().to_str().unwrap().to_owned();
    lab.run(&["mount", &shown]).failure(1, &["daemon is gone", "lsvd-fuse unmount"]);
    assert!(lab.ok(&["unmount", &shown]).contains("gone already"));
    assert!(!is_mounted(mount.path()));
    mount.kill();
    let mount = lab.mount(&[]);
    assert_eq!(fs::metadata(mount.file("a.img")).unwrap().len(), 16 << 20);
    mount.unmount();
}

#[test]
fn an_unmount_without_a_socket_does_not_take_a_living_mount_for_dead() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    // Moved, and not removed: the daemon makes files there while it lives.
    fs::rename(lab.cache_dir(), lab.cache_dir().with_extension("gone")).unwrap();
    let ran = lab.run(&["unmount", mount.path().to_str().unwrap()]);
    ran.failure(1, &["socket of its daemon is gone", &format!("kill {}", mount.pid())]);
    assert!(is_mounted(mount.path()));
    mount.signal(libc::SIGTERM);
    mount.wait_for_end();
}

#[test]
fn a_log_in_use_is_inspected_without_a_scan_and_counted_at_rest() {
    need_mount!();
    let lab = Lab::new();
    // What is written stays in the log.
    let mount = lab.mount(&["--batch-age", "10m"]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    let end = |log: &serde_json::Value| log["end"]["seq"].as_u64().unwrap();
    let before = lab.json(&["inspect", "a.img"])["log"].clone();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(&[1; 8192]).unwrap();
    drop(file);
    let after = lab.json(&["inspect", "a.img"])["log"].clone();
    assert!(end(&after) > end(&before) && after["writes"].is_null(), "{before} {after}");
    lab.ok(&["unmount", "--no-drain", mount.path().to_str().unwrap()]);
    mount.wait_for_end();
    let rest = lab.json(&["inspect", "a.img"])["log"].clone();
    assert!(
        rest["writes"].as_u64() > Some(0) && rest["data_bytes"].as_u64() >= Some(8192),
        "{rest}"
    );
}

#[test]
fn a_busy_unmount_names_processes_and_leaves_the_mount() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    let held = File::open(&path).unwrap();
    let shown = mount.path().to_str().unwrap().to_owned();
    let me = format!("process {}", std::process::id());
    let asked = Instant::now();
    lab.run(&["unmount", &shown]).failure(1, &["busy", &me, "a.img"]);
    assert!(asked.elapsed() < Duration::from_secs(5), "there is nothing to wait for");
    assert!(is_mounted(mount.path()));
    assert_eq!(held.metadata().unwrap().len(), 16 << 20);
    drop(held);
    mount.unmount();
}

#[test]
fn a_busy_unmount_names_loop_devices() {
    need_mount!("losetup");
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    let device = Loop::attach(&path, &["--direct-io=on"]);
    let shown = mount.path().to_str().unwrap().to_owned();
    lab.run(&["unmount", &shown]).failure(1, &["busy", device.device(), "a.img"]);
    lab.run(&["delete", "a.img"]).failure(1, &["a.img", "in use"]);
    assert_eq!(fs::remove_file(&path).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    let name = device.device().to_owned();
    drop(device);
    wait_for("the loop device to let go", || {
        let backing = fs::read_to_string(format!("/sys/block/{}/loop/backing_file", &name[5..]));
        backing.map_or(true, |file| !file.contains("a.img")).then_some(())
    });
    mount.unmount();
}

#[test]
fn a_live_resize_reaches_a_loop_device() {
    need_mount!("losetup", "blockdev");
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    let device = Loop::attach(&path, &["--direct-io=on"]);
    lab.ok(&["resize", "a.img", "32M"]);
    tool("losetup", &["-c", device.device()]);
    assert_eq!(tool("blockdev", &["--getsize64", device.device()]), (32 << 20).to_string());
}

#[test]
fn a_second_daemon_on_the_cache_directory_is_refused() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let other = lab.path().join("other");
    fs::create_dir(&other).unwrap();
    let (pid, shown) = (mount.pid().to_string(), mount.path().to_str().unwrap().to_owned());
    lab.run(&["mount", other.to_str().unwrap()])
        .failure(1, &["in use", &pid, &shown, "--cache-dir"]);
    lab.run(&["mount", &shown]).failure(1, &["busy"]);
    mount.unmount();
}

#[test]
fn commands_act_live_through_the_socket() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let mode = fs::metadata(lab.cache_dir().join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    lab.ok(&["create", "a.img", "--size", "16M"]);
    assert_eq!(fs::metadata(mount.file("a.img")).unwrap().len(), 16 << 20);
    let held = File::options().write(true).open(mount.file("a.img")).unwrap();
    lab.ok(&["resize", "a.img", "32M"]);
    assert_eq!(held.metadata().unwrap().len(), 32 << 20);
    lab.ok(&["rename", "a.img", "b.img"]);
    assert!(!mount.file("a.img").exists() && mount.file("b.img").exists());
    assert_eq!(lab.json(&["info", "b.img"])["live"]["state"], "healthy");
    lab.run(&["delete", "b.img"]).failure(1, &["b.img", "in use"]);
    lab.ok(&["flush", "b.img", "--wait"]);
    drop(held);
    wait_for("the kernel to release the file", || {
        lab.run(&["delete", "b.img"]).0.status.success().then_some(())
    });
    assert!(!mount.file("b.img").exists());
    let wrong = format!("file://{}/elsewhere", lab.path().display());
    lab.run(&["--store", &wrong, "list"]).failure(2, &["elsewhere", &mount.pid().to_string()]);
    mount.unmount();
}

#[test]
fn a_socket_without_a_listener_is_no_daemon() {
    need_mount!();
    let lab = Lab::new();
    fs::create_dir(lab.cache_dir()).unwrap();
    drop(UnixListener::bind(lab.cache_dir().join("control.sock")).unwrap());
    lab.ok(&["list"]);
    lab.mount(&[]).unmount();
}

#[test]
fn status_names_the_daemon_and_its_volumes() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    make_volume(&mount, "a.img", 16 << 20);
    let status = mount.status();
    assert_eq!(status["daemon"]["pid"], mount.pid());
    assert_eq!(status["daemon"]["store"], lab.store_url());
    assert_eq!(
        status["daemon"]["control_socket"],
        lab.cache_dir().join("control.sock").to_str().unwrap()
    );
    assert_eq!(status["volumes"][0]["name"], "a.img");
    assert_eq!(status["volumes"][0]["stats"]["state"], "healthy");
    let denied =
        File::options().write(true).open(mount.path().join(".lsvd/status.json")).unwrap_err();
    assert_eq!(denied.raw_os_error(), Some(libc::EPERM));
    mount.unmount();
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    fs::write(make_volume(&mount, "a.img", 16 << 20), b"data").unwrap();
    mount.unmount();
    let mount = lab.mount(&["--read-only"]);
    let path = mount.file("a.img");
    assert_eq!(&fs::read(&path).unwrap()[..4], b"data");
    let code = |error: std::io::Error| error.raw_os_error();
    assert_eq!(code(File::options().write(true).open(&path).unwrap_err()), Some(libc::EROFS));
    assert_eq!(code(File::create(mount.file("new.img")).unwrap_err()), Some(libc::EROFS));
    assert_eq!(code(fs::remove_file(&path).unwrap_err()), Some(libc::EROFS));
    assert_eq!(code(fs::rename(&path, mount.file("b.img")).unwrap_err()), Some(libc::EROFS));
    let mode = fs::Permissions::from_mode(0o600);
    assert_eq!(code(fs::set_permissions(&path, mode).unwrap_err()), Some(libc::EROFS));
    mount.unmount();
}

#[test]
fn a_mount_waits_until_a_daemon_that_was_killed_is_gone() {
    need_mount!();
    let lab = Lab::new();
    let next = lab.path().join("next");
    fs::create_dir(&next).unwrap();
    let killed = lab.mount(&[]);
    fs::write(make_volume(&killed, "a.img", 16 << 20), b"data").unwrap();
    killed.kill_only();
    let mount = lab.mount_at(&next, &[]);
    assert_eq!(&fs::read(mount.file("a.img")).unwrap()[..4], b"data");
    mount.unmount();
    drop(killed);

    // It held the directory for longer than a moment.
    let lock = File::open(lab.cache_dir().join("lock")).unwrap();
    // SAFETY: the descriptor is open as long as `lock` is.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        drop(lock);
    });
    lab.mount(&[]).unmount();
    holder.join().unwrap();
}

#[test]
fn no_drain_returns_and_keeps_the_log() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&["--batch-age", "1h"]);
    fs::write(make_volume(&mount, "a.img", 16 << 20), b"in the log").unwrap();
    let ran = Ran(Command::new(common::BINARY)
        .arg("unmount")
        .arg(mount.path())
        .arg("--no-drain")
        .output()
        .unwrap());
    ran.success();
    mount.expect_end();
    let mount = lab.mount(&[]);
    assert_eq!(&fs::read(mount.file("a.img")).unwrap()[..10], b"in the log");
    mount.unmount();
}

/// What a mount left in its log goes to the store from the next mount on, though nobody opens the
/// file there; and `unmount` does not say that all is in the store before it is.
#[test]
fn the_next_mount_goes_on_with_the_uploads() {
    need_mount!();
    let lab = Lab::new();
    let data: Vec<u8> = (0..3 << 20).map(|i: u32| (i / 7) as u8).collect();
    {
        let mount = lab.mount(&["--batch-age", "1h"]);
        let file = make_volume(&mount, "a", 16 << 20);
        OpenOptions::new().write(true).open(&file).unwrap().write_all(&data).unwrap();
        mount.kill();
    }
    lab.mount(&["--batch-age", "1h"]).unmount();
    lab.lose_cache();
    let mount = lab.mount(&[]);
    assert_eq!(fs::read(mount.file("a")).unwrap()[..data.len()], data);
}

#[test]
fn a_forced_unmount_ends_a_busy_mount_and_loses_nothing() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let file = make_volume(&mount, "a", 16 << 20);
    let mut used = OpenOptions::new().write(true).open(&file).unwrap();
    used.write_all(&[7; 8192]).unwrap();
    let mountpoint = lab.mountpoint();
    let mountpoint = mountpoint.to_str().unwrap();
    lab.run(&["unmount", mountpoint]).failure(1, &["busy", "--force"]);
    lab.ok(&["unmount", "--force", mountpoint]);
    mount.expect_end();
    assert!(used.write_all(&[8; 4096]).is_err());
    let mount = lab.mount(&[]);
    assert_eq!(fs::read(mount.file("a")).unwrap()[..8192], [7; 8192]);
}
