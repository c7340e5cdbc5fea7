//! A disk of 2 TiB costs what is on it, not its size.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::disk::FsMount;
use common::{Lab, Loop, make_volume, tool};

/// What the daemon may ever have had resident.
const RESIDENT_MAX_KIB: u64 = 200 << 10;

/// After this something hangs; how fast it is belongs into a benchmark.
const HANGS_AFTER: Duration = Duration::from_secs(120);

fn timed(what: &str, run: impl FnOnce()) {
    let started = Instant::now();
    run();
    let took = started.elapsed();
    println!("{what}: {:.2} s", took.as_secs_f64());
    assert!(took < HANGS_AFTER, "{what} took {took:?}");
}

#[test]
fn two_tib_are_made_formatted_and_discarded() {
    need_mount!("losetup", "mkfs.ext4", "blkdiscard", "e2fsck");
    let lab = Lab::new();
    let mount = lab.mount(&["--log-size", "256M", "--cache-size", "64M"]);
    let path = make_volume(&mount, "big.img", 2 << 40);
    let device = Loop::attach(&path, &["--direct-io=on"]);
    let shown = device.device().to_owned();
    // First over the whole device, so that mkfs's own discard is not the first ever.
    timed("blkdiscard of 2 TiB, never written", || drop(tool("blkdiscard", &[&shown])));
    timed("mkfs.ext4 with its discard", || drop(tool("mkfs.ext4", &["-q", "-F", &shown])));
    timed("e2fsck", || drop(tool("e2fsck", &["-f", "-n", &shown])));
    {
        let fs = FsMount::new(&shown, &lab.path().join("fs"));
        std::fs::write(fs.path().join("file"), vec![7; 16 << 20]).unwrap();
        timed("fstrim", || drop(tool("fstrim", &[fs.path().to_str().unwrap()])));
        fs.unmount();
    }
    timed("blkdiscard of 2 TiB, in use", || drop(tool("blkdiscard", &["-f", &shown])));
    // What was discarded in the log counts once the store has it, too.
    lab.ok(&["flush", "big.img", "--wait"]);
    let allocated = lab.json(&["info", "big.img"])["live"]["allocated_bytes"].as_u64();
    assert_eq!(allocated, Some(0), "a discarded disk holds nothing");
    device.detach();
    let resident = mount.memory_kib("VmHWM");
    println!("most ever resident: {} MiB", resident >> 10);
    timed("unmount", || mount.unmount());

    let mount = lab.mount(&[]);
    let info = lab.json(&["info", "big.img"]);
    assert_eq!(info["size_bytes"], 2u64 << 40);
    timed("reading 1 MiB at the far end", || {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![1; 1 << 20];
        let file = std::fs::File::open(&path).unwrap();
        file.read_exact_at(&mut bytes, (2 << 40) - (1 << 20)).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    });
    mount.unmount();
    assert!(resident < RESIDENT_MAX_KIB, "{} MiB were resident", resident >> 10);
}
