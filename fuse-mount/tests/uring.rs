//! Mounts over io_uring, where this kernel can: what is written is read, however a mount ends.
//!
//! The kernel's switch holds for the machine, and for the moment of a mount: it is on while one of
//! these is made, and then as it was. Other tests mount as they find it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use common::copying::{copies_hold_what_a_model_holds, open, punch};
use common::disk::FsMount;
use common::rng::Rng;
use common::{Lab, Loop, MIB, Mount, Story, make_volume, tool, wait_for};

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
const FLAGS: &[&str] = &["--transport=uring", "--log-size=64M", "--cache-size=64M"];
/// What one thread of the random trial has for itself.
const REGION: u64 = MIB;

/// The kernel's switch, for as long as this lives; one process at a time.
struct Switch {
    was: Option<String>,
    _lock: File,
}

impl Switch {
    fn set(to: &str) -> Self {
        let path = std::env::temp_dir().join("lsvd-test-uring-switch.lock");
        let lock = File::options().create(true).truncate(false).write(true).open(path).unwrap();
        lock.lock().unwrap();
        let now = fs::read_to_string(SWITCH).unwrap().trim().to_owned();
        let was = (now != to).then_some(now);
        if was.is_some() {
            fs::write(SWITCH, to).unwrap();
        }
        Self { was, _lock: lock }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some(was) = &self.was {
            let _ = fs::write(SWITCH, was);
        }
    }
}

/// Ends the calling test with a note unless this kernel can do it.
macro_rules! need_uring {
    ($($tool:literal),*) => {
        need_mount!($($tool),*);
        let forbidden = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        let reason = if !Path::new(SWITCH).exists() {
            Some("this kernel has no FUSE over io_uring")
        } else if forbidden.trim() == "2" {
            Some("io_uring is forbidden here")
        } else if File::options().write(true).open(SWITCH).is_err() {
            Some("the kernel's switch cannot be set")
        } else {
            None
        };
        if let Some(reason) = reason {
            eprintln!("SKIPPED {}: {reason}", thread::current().name().unwrap_or("?"));
            return;
        }
    };
}

fn mount(lab: &Lab) -> Mount {
    let _switch = Switch::set("Y");
    let mount = lab.mount(FLAGS);
    assert_eq!(mount.status()["daemon"]["transport"], "uring");
    mount
}

/// Writes, holes, reads and syncs at random in a region of the file; returns what it holds then.
fn exercise(file: &File, region: u64, mut rng: Rng) -> Vec<u8> {
    let base = region * REGION;
    let mut model = vec![0; REGION as usize];
    file.read_exact_at(&mut model, base).unwrap();
    for _ in 0..300 {
        let offset = rng.below(REGION - 1);
        let longest = if rng.below(8) == 0 { REGION } else { 20_000 };
        let mut len = 1 + rng.below(longest.min(REGION - offset));
        let mut offset = offset;
        if rng.below(2) == 0 {
            offset &= !4095;
            len = len.next_multiple_of(4096).min(REGION - offset);
        }
        let range = offset as usize..(offset + len) as usize;
        match rng.below(8) {
            0..4 => {
                rng.fill(&mut model[range.clone()]);
                file.write_all_at(&model[range], base + offset).unwrap();
            }
            4 => {
                model[range].fill(0);
                punch(file, base + offset, len);
            }
            5 => file.sync_all().unwrap(),
            _ => {
                let mut found = vec![0; len as usize];
                file.read_exact_at(&mut found, base + offset).unwrap();
                assert!(found == model[range], "{len} bytes at {} are wrong", base + offset);
            }
        }
    }
    model
}

/// All regions at once, by more threads than there are cores.
fn exercise_all(path: &Path, threads: u64, rng: &mut Rng) -> Vec<u8> {
    let crew: Vec<_> = (0..threads)
        .map(|region| {
            let (path, rng) = (path.to_owned(), Rng::new(rng.any()));
            thread::spawn(move || exercise(&open(&path), region, rng))
        })
        .collect();
    crew.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn random_operations_hold_what_a_model_holds() {
    need_uring!();
    let lab = Lab::new();
    let seed = Rng::seed_of_the_day();
    let _story = Story(seed, &lab);
    let mut rng = Rng::new(seed);
    let threads = 16;
    let uring = mount(&lab);
    let path = make_volume(&uring, "v.img", threads * REGION);
    let model = exercise_all(&path, threads, &mut rng);
    assert!(fs::read(&path).unwrap() == model);
    uring.unmount();

    // The same, as the other transport sees it; and on from there.
    let dev_fuse = lab.mount(&["--transport=dev-fuse"]);
    assert_eq!(dev_fuse.status()["daemon"]["transport"], "dev-fuse");
    assert!(fs::read(dev_fuse.file("v.img")).unwrap() == model);
    dev_fuse.unmount();
    let uring = mount(&lab);
    let model = exercise_all(&uring.file("v.img"), threads, &mut rng);
    assert!(fs::read(uring.file("v.img")).unwrap() == model);
    uring.unmount();
}

#[test]
fn random_copies_hold_what_a_model_holds() {
    need_uring!();
    let lab = Lab::new();
    let seed = Rng::seed_of_the_day();
    let _story = Story(seed, &lab);
    let mount = mount(&lab);
    copies_hold_what_a_model_holds(&lab, &mount, &mut Rng::new(seed));
    mount.unmount();
}

#[test]
fn more_requests_than_entries_are_all_answered() {
    need_uring!();
    let lab = Lab::new();
    let mount = mount(&lab);
    let path = make_volume(&mount, "v.img", 600 * 4096);
    let file = open(&path);
    thread::scope(|scope| {
        for nth in 0..600u64 {
            let file = &file;
            let body = move || {
                let block = [1 + (nth % 251) as u8; 4096];
                file.write_all_at(&block, nth * 4096).unwrap();
                file.sync_data().unwrap();
                let mut found = [0; 4096];
                file.read_exact_at(&mut found, nth * 4096).unwrap();
                assert!(found == block);
            };
            thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, body).unwrap();
        }
    });
    drop(file);
    mount.unmount();
}

#[test]
fn names_and_attributes_are_as_over_dev_fuse() {
    need_uring!();
    let lab = Lab::new();
    let mount = mount(&lab);
    let path = make_volume(&mount, "a.img", MIB);
    let errno = |error: std::io::Error| error.raw_os_error().unwrap();
    assert_eq!(errno(fs::metadata(mount.file("b.img")).unwrap_err()), libc::ENOENT);
    assert_eq!(errno(fs::create_dir(mount.file("d")).unwrap_err()), libc::EPERM);
    assert_eq!(errno(fs::hard_link(&path, mount.file("l")).unwrap_err()), libc::EPERM);
    let other = make_volume(&mount, "other.img", MIB);
    assert_eq!(errno(fs::rename(&path, &other).unwrap_err()), libc::EEXIST);
    fs::remove_file(other).unwrap();
    fs::rename(&path, mount.file("b.img")).unwrap();
    let path = mount.file("b.img");
    let time = "2001-02-03 04:05:06.007";
    tool("touch", &["-m", "-d", time, path.to_str().unwrap()]);
    let shown = tool("date", &["-r", path.to_str().unwrap(), "+%Y-%m-%d %H:%M:%S.%3N"]);
    assert_eq!(shown, time);
    tool("chmod", &["600", path.to_str().unwrap()]);
    assert_eq!(
        tool("stat", &["-c", "%a %s %F", path.to_str().unwrap()]),
        "600 1048576 regular file"
    );
    let many: Vec<String> = (0..40).map(|nth| format!("{nth:03}-{}", "n".repeat(100))).collect();
    for name in &many {
        make_volume(&mount, name, 4096);
    }
    let mut names: Vec<String> = fs::read_dir(mount.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let fixed = [".lsvd".to_owned(), ".snapshots".to_owned()];
    let wanted: Vec<String> = fixed.into_iter().chain(many).chain(["b.img".to_owned()]).collect();
    assert_eq!(names, wanted);
    mount.unmount();
}

#[test]
fn kill_9_keeps_what_was_synced() {
    need_uring!();
    let lab = Lab::new();
    let seed = Rng::seed_of_the_day();
    let _story = Story(seed, &lab);
    let mut rng = Rng::new(seed);
    let first = mount(&lab);
    make_volume(&first, "v.img", 4 * REGION);
    let mut model = exercise_all(&first.file("v.img"), 4, &mut rng);
    let file = open(&first.file("v.img"));
    file.sync_all().unwrap();
    // Somebody is in the middle of something when it happens.
    let busy = thread::spawn(move || {
        let mut block = vec![0; 4096];
        while file.read_exact_at(&mut block, 0).is_ok() {}
    });
    first.kill_only();
    busy.join().unwrap();
    first.kill();
    let second = mount(&lab);
    assert!(fs::read(second.file("v.img")).unwrap() == model);
    model = exercise_all(&second.file("v.img"), 4, &mut rng);
    assert!(fs::read(second.file("v.img")).unwrap() == model);
    second.unmount();
}

#[test]
fn mounts_end_as_they_do_over_dev_fuse() {
    need_uring!("umount");
    let lab = Lab::new();
    let by_umount = mount(&lab);
    make_volume(&by_umount, "v.img", MIB);
    tool("umount", &[by_umount.path().to_str().unwrap()]);
    by_umount.expect_end();

    let by_signal = mount(&lab);
    let user = open(&by_signal.file("v.img"));
    by_signal.signal(libc::SIGTERM);
    wait_for("the daemon to say who is in the way", || {
        lab.daemon_log().contains("busy").then_some(())
    });
    user.write_all_at(&[1; 512], 0).unwrap();
    drop(user);
    by_signal.signal(libc::SIGTERM);
    by_signal.expect_end();

    let by_command = mount(&lab);
    assert_eq!(fs::read(by_command.file("v.img")).unwrap()[..512], [1; 512]);
    by_command.unmount();
}

#[test]
fn an_ext4_on_a_loop_device_survives_kill_9() {
    need_uring!("losetup", "mkfs.ext4", "e2fsck");
    let lab = Lab::new();
    let daemon = mount(&lab);
    let device = Loop::attach(&make_volume(&daemon, "fs.img", 64 * MIB), &["--direct-io=on"]);
    tool("mkfs.ext4", &["-q", "-F", device.device()]);
    let fs_mount = FsMount::new(device.device(), &fs_directory(&lab));
    let mut rng = Rng::new(1);
    let files: Vec<(PathBuf, Vec<u8>)> = (0..32)
        .map(|nth| {
            let mut content = vec![0; 1 + rng.below(300_000) as usize];
            rng.fill(&mut content);
            (PathBuf::from(format!("file-{nth}")), content)
        })
        .collect();
    for (name, content) in &files {
        let mut file = File::create(fs_mount.path().join(name)).unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        file.sync_all().unwrap();
    }
    daemon.kill_only();
    drop(fs_mount);
    device.detach();
    daemon.kill();

    let daemon = mount(&lab);
    let device = Loop::attach(&daemon.file("fs.img"), &["--direct-io=on"]);
    let fs_mount = FsMount::new(device.device(), &fs_directory(&lab));
    for (name, content) in &files {
        assert!(fs::read(fs_mount.path().join(name)).unwrap() == *content, "{}", name.display());
    }
    drop(fs_mount);
    tool("e2fsck", &["-f", "-n", device.device()]);
    device.detach();
    daemon.unmount();
}

fn fs_directory(lab: &Lab) -> PathBuf {
    let path = lab.path().join("fs");
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_refusal_says_how_to_have_it() {
    need_uring!();
    let lab = Lab::new();
    let _switch = Switch::set("N");
    let mountpoint = lab.mountpoint();
    let args = ["mount", mountpoint.to_str().unwrap(), "--transport=uring"];
    lab.run(&args).failure(1, &["transport uring", "echo Y >", SWITCH]);
    let automatic = lab.mount(&["--transport=auto"]);
    assert_eq!(automatic.status()["daemon"]["transport"], "dev-fuse");
    automatic.unmount();
}
