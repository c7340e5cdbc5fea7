//! File systems on loop devices: on a volume's file, and one that holds a store.
//!
//! [`StoreDisk`] is how a test takes a directory store away and brings it back. Frozen, it
//! neither answers nor fails; full, it refuses. Every guard puts things right when dropped, and
//! [`Frozen`] must be made after the [`super::Mount`] that uses the store, so that it goes first:
//! a daemon that waits in a frozen file system cannot even be killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Loop, tool, wait_for};

/// A mounted file system.
pub struct FsMount {
    path: PathBuf,
    mounted: bool,
}

impl FsMount {
    /// Mounts `device` at `path`, which is made if need be.
    pub fn new(device: &str, path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        tool("mount", &[device, path.to_str().unwrap()]);
        Self { path: path.to_owned(), mounted: true }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts; waits for those who are just leaving.
    pub fn unmount(mut self) {
        self.mounted = false;
        wait_for("umount to succeed", || self.try_unmount(&[]).then_some(()));
    }

    fn try_unmount(&self, flags: &[&str]) -> bool {
        let ran = Command::new("umount").args(flags).arg(&self.path).output().unwrap();
        ran.status.success()
    }
}

impl Drop for FsMount {
    fn drop(&mut self) {
        if self.mounted && !self.try_unmount(&[]) {
            self.try_unmount(&["--lazy"]);
        }
    }
}

/// A file system for a store, in an image file of its own.
pub struct StoreDisk {
    // In the order in which they have to go.
    mount: FsMount,
    _device: Loop,
    _dir: tempfile::TempDir,
}

impl StoreDisk {
    /// An ext4 of `mib` MiB.
    pub fn new(mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("lsvd-disk-").tempdir().unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        tool("mkfs.ext4", &["-q", "-F", "-m", "0", image.to_str().unwrap()]);
        let device = Loop::attach(&image, &[]);
        let mount = FsMount::new(device.device(), &dir.path().join("mnt"));
        Self { mount, _device: device, _dir: dir }
    }

    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Stops the store until the guard is dropped.
    pub fn freeze(&self) -> Frozen {
        let path = self.path().to_owned();
        freeze(&path);
        Frozen(path)
    }

    /// Makes the store answer in `of` milliseconds out of each `of + pause` only.
    pub fn slow_down(&self, of: u64, pause: u64) -> Slow {
        let (path, stop) = (self.path().to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                freeze(&path);
                std::thread::sleep(Duration::from_millis(pause));
                thaw(&path);
                std::thread::sleep(Duration::from_millis(of));
            }
        });
        Slow { stop, thread: Some(thread) }
    }

    /// Fills the disk up; the room is free again once the file returned is removed.
    pub fn fill_up(&self) -> PathBuf {
        let filler = self.path().join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        let chunk = vec![0x5a; 1 << 20];
        // Ever smaller pieces, until nothing fits.
        for bytes in [1 << 20, 64 << 10, 4096] {
            while std::io::Write::write_all(&mut file, &chunk[..bytes]).is_ok() {}
        }
        // The data must be allocated, or what is in the page cache is refused only later.
        let _ = file.sync_all();
        filler
    }
}

/// A store that stands still.
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        thaw(&self.0);
    }
}

/// A store that stands still most of the time.
pub struct Slow {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It thaws before it looks whether to stop.
            let _ = thread.join();
        }
    }
}

fn freeze(path: &Path) {
    tool("fsfreeze", &["--freeze", path.to_str().unwrap()]);
}

fn thaw(path: &Path) {
    tool("fsfreeze", &["--unfreeze", path.to_str().unwrap()]);
}
