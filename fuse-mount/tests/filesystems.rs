//! Real file systems on loop devices over a volume's file.
//!
//! ```text
//!   mkfs, unpack, fstrim, umount, fsck, detach     (daemon ends in order)
//!   compare, remove, unpack, fstrim, …, fsck       (daemon starts again)
//!   write and fsync files … kill -9                (in the middle)
//!   compare everything, every fsynced file, fsck
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use common::disk::FsMount;
use common::rng::Rng;
use common::tree::Tree;
use common::{Lab, Loop, Mount, make_volume, tool};

/// Files that must be fsynced before the daemon is killed.
const FSYNCED_MIN: usize = 60;

/// A kind of file system.
struct Kind {
    mkfs: &'static [&'static str],
    /// Checks without repairing; fails on anything that is not clean.
    fsck: &'static [&'static str],
}

const EXT4: Kind = Kind { mkfs: &["mkfs.ext4", "-q", "-F"], fsck: &["e2fsck", "-f", "-n"] };
const XFS: Kind = Kind { mkfs: &["mkfs.xfs", "-q", "-f"], fsck: &["xfs_repair", "-n"] };
const BTRFS: Kind =
    Kind { mkfs: &["mkfs.btrfs", "-q", "-f"], fsck: &["btrfs", "check", "--readonly"] };

const BUFFERED: &[&str] = &["--direct-io=off"];
const DIRECT: &[&str] = &["--direct-io=on"];

#[test]
fn ext4_buffered() {
    need_mount!("losetup", "mkfs.ext4", "e2fsck", "fstrim", "tar", "diff");
    Bench::new(&EXT4, BUFFERED).run();
}

#[test]
fn ext4_direct() {
    need_mount!("losetup", "mkfs.ext4", "e2fsck", "fstrim", "tar", "diff");
    Bench::new(&EXT4, DIRECT).run();
}

#[test]
fn xfs_buffered() {
    need_mount!("losetup", "mkfs.xfs", "xfs_repair", "fstrim", "tar", "diff");
    Bench::new(&XFS, BUFFERED).run();
}

#[test]
fn xfs_direct() {
    need_mount!("losetup", "mkfs.xfs", "xfs_repair", "fstrim", "tar", "diff");
    Bench::new(&XFS, DIRECT).run();
}

#[test]
fn btrfs_buffered() {
    need_mount!("losetup", "mkfs.btrfs", "btrfs", "fstrim", "tar", "diff");
    Bench::new(&BTRFS, BUFFERED).run();
}

#[test]
fn btrfs_direct() {
    need_mount!("losetup", "mkfs.btrfs", "btrfs", "fstrim", "tar", "diff");
    Bench::new(&BTRFS, DIRECT).run();
}

/// A volume, and how it is used.
struct Bench {
    lab: Lab,
    kind: &'static Kind,
    loop_flags: &'static [&'static str],
}

/// A file system in use, with what is below it.
struct Stack {
    daemon: Mount,
    device: Loop,
    fs: FsMount,
}

impl Bench {
    fn new(kind: &'static Kind, loop_flags: &'static [&'static str]) -> Self {
        Self { lab: Lab::new(), kind, loop_flags }
    }

    fn run(&self) {
        let tree = Tree::gather(self.lab.path());
        self.first_life(&tree);
        self.second_life(&tree);
        let fsynced = self.killed_life();
        self.after_the_crash(&tree, &fsynced);
    }

    fn first_life(&self, tree: &Tree) {
        let daemon = self.daemon();
        let device = self.attach(&make_volume(&daemon, "fs.img", 1 << 30));
        tool(self.kind.mkfs[0], &[&self.kind.mkfs[1..], &[device.device()]].concat());
        let stack = self.mount(daemon, device);
        tree.unpack(&stack.fs.path().join("first"));
        tree.compare(&stack.fs.path().join("first"));
        self.put_away(stack);
    }

    fn second_life(&self, tree: &Tree) {
        let stack = self.bring_up();
        let root = stack.fs.path();
        tree.compare(&root.join("first"));
        tree.unpack(&root.join("second"));
        fs::remove_dir_all(root.join("first")).unwrap();
        self.put_away(stack);
    }

    /// Returns the files that were fsynced before the daemon died.
    fn killed_life(&self) -> Vec<u64> {
        let stack = self.bring_up();
        let root = stack.fs.path();
        let (writer, reports) = Writer::start(root);
        // Something large is under way, too, and never synced.
        let large = root.join("large");
        let bulk = std::thread::spawn(move || drop(fs::write(large, vec![3; 200 << 20])));
        let wanted = FSYNCED_MIN + Rng::new(Rng::seed_of_the_day()).below(100) as usize;
        let mut fsynced: Vec<u64> = reports.iter().take(wanted).collect();
        stack.daemon.kill_only();
        fsynced.extend(reports);
        let Stack { daemon, device, fs } = stack;
        daemon.kill();
        writer.join().unwrap();
        bulk.join().unwrap();
        fs.unmount();
        device.detach();
        fsynced
    }

    fn after_the_crash(&self, tree: &Tree, fsynced: &[u64]) {
        assert!(fsynced.len() >= FSYNCED_MIN);
        let stack = self.bring_up();
        let root = stack.fs.path();
        for number in fsynced {
            let found = fs::read(file_path(root, *number)).unwrap();
            assert!(found == content(*number), "fsynced file {number} is not what was written");
        }
        tree.compare(&root.join("second"));
        println!("{} fsynced files are there", fsynced.len());
        self.put_away(stack);
    }

    fn daemon(&self) -> Mount {
        self.lab.mount(&["--log-size", "128M", "--cache-size", "128M", "--log-memory", "8M"])
    }

    fn attach(&self, file: &Path) -> Loop {
        Loop::attach(file, self.loop_flags)
    }

    fn mount(&self, daemon: Mount, device: Loop) -> Stack {
        let fs = FsMount::new(device.device(), &self.lab.path().join("fs"));
        Stack { daemon, device, fs }
    }

    fn bring_up(&self) -> Stack {
        let daemon = self.daemon();
        let device = self.attach(&daemon.file("fs.img"));
        self.mount(daemon, device)
    }

    /// Trims, unmounts, checks and ends in order.
    fn put_away(&self, stack: Stack) {
        let Stack { daemon, device, fs } = stack;
        tool("fstrim", &[fs.path().to_str().unwrap()]);
        fs.unmount();
        tool(self.kind.fsck[0], &[&self.kind.fsck[1..], &[device.device()]].concat());
        device.detach();
        daemon.unmount();
    }
}

/// Writes and fsyncs one file after the other, until that fails.
struct Writer;

impl Writer {
    fn start(root: &Path) -> (JoinHandle<()>, Receiver<u64>) {
        let (report, reports) = channel();
        let root = root.to_owned();
        fs::create_dir(root.join("files")).unwrap();
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if write_durably(&root, number).is_err() || report.send(number).is_err() {
                    break;
                }
            }
        });
        (thread, reports)
    }
}

fn write_durably(root: &Path, number: u64) -> io::Result<()> {
    let mut file = File::create_new(file_path(root, number))?;
    file.write_all(&content(number))?;
    file.sync_all()?;
    // The name, too.
    File::open(root.join("files"))?.sync_all()
}

fn file_path(root: &Path, number: u64) -> PathBuf {
    root.join("files").join(number.to_string())
}

fn content(number: u64) -> Vec<u8> {
    let mut rng = Rng::new(number);
    let mut bytes = vec![0; rng.below(100_000) as usize];
    rng.fill(&mut bytes);
    bytes
}
