//! File operations mean what a person expects.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use common::{Lab, make_volume, tool, wait_for};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap()
}

fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> Result<(), i32> {
    // SAFETY: the descriptor is open over the call.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } {
        0 => Ok(()),
        _ => Err(errno(std::io::Error::last_os_error())),
    }
}

fn seek(file: &File, whence: i32, offset: i64) -> Result<i64, i32> {
    // SAFETY: the descriptor is open over the call.
    match unsafe { libc::lseek(file.as_raw_fd(), offset, whence) } {
        -1 => Err(errno(std::io::Error::last_os_error())),
        found => Ok(found),
    }
}

#[test]
fn truncate_makes_and_resizes_volumes() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 10 << 30);
    let file = open(&path);
    file.set_len(20 << 30).unwrap();
    assert_eq!(lab.json(&["info", "a.img"])["size_bytes"], 20u64 << 30);
    file.write_all_at(b"tail", (20 << 30) - 4).unwrap();
    // As with any file, what is cut off is gone, and does not come back.
    file.set_len(1 << 20).unwrap();
    file.set_len(20 << 30).unwrap();
    let mut tail = [1; 4];
    file.read_exact_at(&mut tail, (20 << 30) - 4).unwrap();
    assert_eq!(tail, [0; 4]);
    assert_eq!(errno(file.set_len(1000).unwrap_err()), libc::EINVAL);
    drop(file);
    mount.unmount();
}

#[test]
fn shrinking_below_data_by_command_needs_force() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    open(&path).write_all_at(b"data", 8 << 20).unwrap();
    lab.run(&["resize", "a.img", "4M"]).failure(1, &["a.img", "--force"]);
    assert_eq!(fs::metadata(&path).unwrap().size(), 16 << 20);
    lab.ok(&["resize", "a.img", "4M", "--force"]);
    assert_eq!(fs::metadata(&path).unwrap().size(), 4 << 20);
    mount.unmount();
}

#[test]
fn a_copied_file_grows_the_volume_to_whole_blocks() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = mount.file("copy.img");
    let data: Vec<u8> = (0..3_000_001u32).map(|n| (n / 7) as u8).collect();
    let mut file = File::create(&path).unwrap();
    for part in data.chunks(100_000) {
        file.write_all(part).unwrap();
    }
    drop(file);
    let size = 3_000_001u64.next_multiple_of(4096);
    assert_eq!(fs::metadata(&path).unwrap().size(), size);
    // The room that was grown ahead is cut off after the last writer has gone.
    wait_for("the volume to be as long as the file", || {
        (lab.json(&["info", "copy.img"])["size_bytes"] == size).then_some(())
    });
    let read = fs::read(&path).unwrap();
    assert_eq!(read.len() as u64, size);
    assert!(read[..data.len()] == data[..] && read[data.len()..].iter().all(|byte| *byte == 0));
    fs::write(&path, b"short").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().size(), 4096);
    mount.unmount();
}

#[test]
fn appending_never_shows_what_was_grown_ahead() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(mount.file("a"))
        .unwrap();
    file.write_all(&[7; 8192]).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 8192);
    let mut beyond = [1; 16];
    assert_eq!(file.read_at(&mut beyond, 8192).unwrap(), 0);
    assert_eq!(seek(&file, libc::SEEK_HOLE, 0), Ok(8192));
    assert_eq!(seek(&file, libc::SEEK_DATA, 8192), Err(libc::ENXIO));
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 8192);
    drop(file);
    mount.unmount();
}

#[test]
fn rename_and_remove() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let (a, b) = (make_volume(&mount, "a.img", 16 << 20), mount.file("b.img"));
    let file = open(&a);
    file.write_all_at(b"mine", 0).unwrap();
    let ino = file.metadata().unwrap().ino();
    fs::rename(&a, &b).unwrap();
    assert!(!a.exists());
    file.write_all_at(b"still", 4096).unwrap();
    assert_eq!(fs::metadata(&b).unwrap().ino(), ino);
    make_volume(&mount, "c.img", 16 << 20);
    assert_eq!(errno(fs::rename(&b, mount.file("c.img")).unwrap_err()), libc::EEXIST);
    assert_eq!(errno(fs::remove_file(&b).unwrap_err()), libc::EBUSY);
    drop(file);
    wait_for("the kernel to release the file", || fs::remove_file(&b).ok());
    assert_eq!(errno(fs::metadata(&b).unwrap_err()), libc::ENOENT);
    let names: Vec<_> =
        fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [".lsvd", ".snapshots", "c.img"]);
    mount.unmount();
}

#[test]
fn inodes_owners_modes_and_times_are_kept() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&path, Some(1234), Some(5678)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    open(&path).set_modified(time).unwrap();
    let ino = fs::metadata(&path).unwrap().ino();
    mount.unmount();
    let mount = lab.mount(&[]);
    let meta = fs::metadata(mount.file("a.img")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 1234, 5678));
    assert_eq!(meta.modified().unwrap(), time);
    assert_eq!(meta.ino(), ino);
    mount.unmount();
}

#[test]
fn holes_are_punched_zeroed_found_and_counted() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 64 << 20);
    let file = open(&path);
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    assert_eq!(seek(&file, libc::SEEK_DATA, 0), Err(libc::ENXIO));
    file.write_all_at(&vec![9; 4 << 20], 8 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().blocks() * 512, 4 << 20);
    assert_eq!(seek(&file, libc::SEEK_DATA, 0), Ok(8 << 20));
    assert_eq!(seek(&file, libc::SEEK_HOLE, 8 << 20), Ok(12 << 20));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&file, punch, 9 << 20, 1 << 20), Ok(()));
    assert_eq!(file.metadata().unwrap().blocks() * 512, 3 << 20);
    assert_eq!(seek(&file, libc::SEEK_HOLE, 8 << 20), Ok(9 << 20));
    assert_eq!(seek(&file, libc::SEEK_DATA, 9 << 20), Ok(10 << 20));
    let mut read = vec![1; 1 << 20];
    file.read_exact_at(&mut read, 9 << 20).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    assert_eq!(fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, (63 << 20) + 4096, 1 << 20), Ok(()));
    assert_eq!(file.metadata().unwrap().size(), (64 << 20) + 4096);
    assert_eq!(fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 30), Ok(()));
    assert_eq!(file.metadata().unwrap().size(), (64 << 20) + 4096);
    assert_eq!(fallocate(&file, 0, 0, 128 << 20), Ok(()));
    assert_eq!(file.metadata().unwrap().size(), 128 << 20);
    assert_eq!(fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096), Err(libc::EOPNOTSUPP));
    assert_eq!(fallocate(&file, libc::FALLOC_FL_INSERT_RANGE, 0, 4096), Err(libc::EOPNOTSUPP));
    drop(file);
    mount.unmount();
}

#[test]
fn open_file_description_locks_work() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let path = make_volume(&mount, "a.img", 16 << 20);
    let lock = |file: &File| {
        let request = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 100,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open and `request` lives over the call.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) }
    };
    let (first, second) = (open(&path), open(&path));
    assert_eq!(lock(&first), 0);
    assert_eq!(lock(&second), -1);
    drop(first);
    assert_eq!(lock(&second), 0);
    drop(second);
    mount.unmount();
}

#[test]
fn qemu_tools_lock_and_convert() {
    need_mount!("qemu-img", "qemu-io");
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let raw = lab.path().join("raw.img");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    tool("qemu-img", &["create", "-q", "-f", "raw", &text(&raw), "16M"]);
    tool("qemu-io", &["-f", "raw", "-c", "write -P 7 4M 2M", &text(&raw)]);
    let volume = text(&mount.file("v.img"));
    tool("qemu-img", &["convert", "-f", "raw", "-O", "raw", &text(&raw), &volume]);
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &text(&raw), &volume]);
    tool("qemu-io", &["-f", "raw", "-t", "none", "-n", "-c", "read -P 7 4M 2M", &volume]);
    mount.unmount();
}

#[test]
fn statfs_tells_of_what_holds_the_store() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let total = |path: &Path| tool("stat", &["-f", "-c", "%b %S", path.to_str().unwrap()]);
    assert_eq!(total(mount.path()), total(&lab.store_dir()));
    mount.unmount();
}

#[test]
fn what_is_not_a_volume_is_refused() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(&[]);
    let create =
        |name: &[u8]| File::create(mount.path().join(std::ffi::OsStr::from_bytes(name))).map(drop);
    assert_eq!(errno(create(b".hidden").unwrap_err()), libc::EINVAL);
    assert_eq!(errno(create(b"bad\xff").unwrap_err()), libc::EINVAL);
    assert_eq!(errno(create(&[b'x'; 256]).unwrap_err()), libc::ENAMETOOLONG);
    create(&[b'x'; 255]).unwrap();
    assert_eq!(errno(fs::create_dir(mount.file("dir")).unwrap_err()), libc::EPERM);
    assert_eq!(
        errno(std::os::unix::fs::symlink("x", mount.file("link")).unwrap_err()),
        libc::EPERM
    );
    make_volume(&mount, "a.img", 16 << 20);
    assert_eq!(
        errno(fs::hard_link(mount.file("a.img"), mount.file("b.img")).unwrap_err()),
        libc::EPERM
    );
    assert_eq!(
        errno(fs::rename(mount.file("a.img"), mount.path().join(".lsvd/a")).unwrap_err()),
        libc::EPERM
    );
    assert_eq!(errno(fs::metadata(mount.file("ghost")).unwrap_err()), libc::ENOENT);
    mount.unmount();
}
