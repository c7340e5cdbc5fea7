//! QEMU's tools on volume files: convert there and back, compare, map, and raw I/O.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{Lab, make_volume, tool};
use serde_json::Value;

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn qemu_io(flags: &[&str], commands: &[&str], file: &str) {
    let mut args = vec!["-f", "raw"];
    args.extend(flags);
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(file);
    let said = tool("qemu-io", &args);
    // It ends with 0 when a pattern does not match.
    assert!(!said.contains("failed"), "{commands:?}: {said}");
}

/// The ranges of `qemu-img map` that hold data.
fn data_ranges(file: &str) -> Vec<(u64, u64)> {
    let map = tool("qemu-img", &["map", "-f", "raw", "--output=json", file]);
    let map: Vec<Value> = serde_json::from_str(&map).unwrap();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for part in map.iter().filter(|part| part["data"] == true) {
        let (start, len) = (part["start"].as_u64().unwrap(), part["length"].as_u64().unwrap());
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = start + len,
            _ => ranges.push((start, start + len)),
        }
    }
    ranges
}

#[test]
fn an_image_goes_into_a_volume_and_comes_back() {
    need_mount!("qemu-img", "qemu-io");
    let lab = Lab::new();
    let mount = lab.mount(&["--log-size", "256M", "--cache-size", "64M"]);
    let image = text(&lab.path().join("image.qcow2"));
    tool("qemu-img", &["create", "-q", "-f", "qcow2", &image, "256M"]);
    let fill = ["write -P 0x11 0 1M", "write -P 0x22 37M 5M", "write -P 0x33 255M 1M"];
    for command in fill {
        tool("qemu-io", &["-f", "qcow2", "-c", command, &image]);
    }

    let volume = text(&mount.file("v.img"));
    tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &image, &volume]);
    tool("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &image, &volume]);
    let mib = |from: u64, to: u64| (from << 20, to << 20);
    assert_eq!(data_ranges(&volume), [mib(0, 1), mib(37, 42), mib(255, 256)]);

    // Into a volume that is there, without the page cache, several requests at once.
    let there = text(&make_volume(&mount, "there.img", 256 << 20));
    let args = ["convert", "-n", "-W", "-m", "8", "-t", "none", "-f", "qcow2", "-O", "raw"];
    tool("qemu-img", &[&args[..], &[&image, &there]].concat());
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &volume, &there]);
    mount.unmount();

    let mount = lab.mount(&["--cache-size", "64M"]);
    let back = text(&lab.path().join("back.qcow2"));
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &volume, &back]);
    tool("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", &image, &back]);
    tool("qemu-img", &["check", "-q", "-f", "qcow2", &back]);
    assert_eq!(data_ranges(&volume), [mib(0, 1), mib(37, 42), mib(255, 256)]);
    mount.unmount();
}

#[test]
fn raw_requests_without_the_page_cache() {
    need_mount!("qemu-img", "qemu-io");
    let lab = Lab::new();
    let mount = lab.mount(&["--log-size", "64M", "--cache-size", "64M"]);
    let volume = text(&make_volume(&mount, "v.img", 64 << 20));
    let direct = ["-t", "none", "-n", "-d", "unmap"];
    qemu_io(
        &direct,
        &[
            "write -P 0x41 0 8M",
            "flush",
            "discard 1M 1M",
            "write -z 3M 1M",
            "write -z -u 5M 1M",
            "aio_write -P 0x42 7M 64k",
            "aio_write -P 0x43 6M 512k",
            "aio_flush",
            "flush",
            "read -P 0x41 0 1M",
            "read -P 0 1M 1M",
            "read -P 0x41 2M 1M",
            "read -P 0 3M 1M",
            "read -P 0x41 4M 1M",
            "read -P 0 5M 1M",
            "read -P 0x43 6M 512k",
            "read -P 0x42 7M 64k",
        ],
        &volume,
    );
    // Discarded and zeroed ranges take no room.
    let mib = |n: u64| n << 20;
    assert_eq!(
        data_ranges(&volume),
        [(0, mib(1)), (mib(2), mib(3)), (mib(4), mib(5)), (mib(6), mib(8))]
    );
    // Smallest requests at odd sectors, through the page cache of QEMU's own making.
    qemu_io(&["-t", "writeback"], &["write -P 0x44 9000448 512", "flush"], &volume);
    mount.kill();

    let mount = lab.mount(&[]);
    qemu_io(
        &direct,
        &["read -P 0x41 0 1M", "read -P 0 1M 1M", "read -P 0 5M 1M", "read -P 0x42 7M 64k"],
        &volume,
    );
    qemu_io(&[], &["read -P 0x44 9000448 512", "read -P 0 9000960 512"], &volume);
    mount.unmount();
}
