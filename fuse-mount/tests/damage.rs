//! Damaged bytes, through the real binary: an error that names the thing, or the right data.
//!
//! One byte is changed in a file of the store or the cache directory, then the volume is looked
//! at (`inspect`), mounted and read. Whatever the byte was, no wrong data comes back, nothing
//! panics, the mount goes on answering, and with the byte put back everything is as it was.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::copying::{copy_once, open};
use common::rng::Rng;
use common::{Lab, Mount, make_volume, scale, tool, wait_for};

const BLOCK: usize = 64 << 10;
const BLOCKS: u64 = 48;
const VOLUME: &str = "v.img";
const FLAGS: &[&str] = &[
    "--log-size=32M",
    "--log-memory=8M",
    "--cache-size=0",
    "--batch-size=1M",
    "--checkpoint-objects=2",
];

fn block(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    Rng::new(number + 1).fill(&mut bytes);
    bytes
}

/// A volume with blocks in it, synced to the SSD.
fn fill(mount: &Mount) {
    let path = make_volume(mount, VOLUME, BLOCKS * BLOCK as u64);
    let file = File::options().write(true).open(path).unwrap();
    for number in 0..BLOCKS {
        file.write_all_at(&block(number), number * BLOCK as u64).unwrap();
    }
    file.sync_all().unwrap();
}

/// What a reading of the whole volume came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Right,
    NotOpened,
    ReadFailed,
}

/// Reads everything, and fails if anything but the right data or EIO comes.
fn read_all(mount: &Mount, write: bool) -> Outcome {
    let opened = File::options().read(true).write(write).open(mount.file(VOLUME));
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
            return Outcome::NotOpened;
        }
    };
    let mut outcome = Outcome::Right;
    let mut found = vec![0; BLOCK];
    for number in 0..BLOCKS {
        match file.read_exact_at(&mut found, number * BLOCK as u64) {
            Ok(()) => assert!(found == block(number), "block {number} is wrong, without an error"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                outcome = Outcome::ReadFailed;
            }
        }
    }
    outcome
}

/// A changed bit of a file; put back when dropped.
struct Flipped<'a> {
    path: &'a Path,
    offset: u64,
    bit: u8,
}

impl<'a> Flipped<'a> {
    fn new(path: &'a Path, offset: u64, bit: u8) -> Self {
        flip(path, offset, bit);
        Self { path, offset, bit }
    }
}

impl Drop for Flipped<'_> {
    fn drop(&mut self) {
        flip(self.path, self.offset, self.bit);
    }
}

fn flip(path: &Path, offset: u64, bit: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
}

/// Changes one bit, runs, puts it back.
fn with_flipped(path: &Path, offset: u64, bit: u8, run: impl FnOnce()) {
    let flipped = Flipped::new(path, offset, bit);
    run();
    drop(flipped);
}

/// The files of the stream, by number.
fn objects(lab: &Lab) -> Vec<PathBuf> {
    let volumes = fs::read_dir(lab.store_dir().join("data")).unwrap();
    let volume = volumes.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut objects: Vec<PathBuf> =
        fs::read_dir(volume.join("o")).unwrap().map(|entry| entry.unwrap().path()).collect();
    objects.sort();
    objects
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What `inspect` says about the whole: nothing, or one line that names `part`.
fn inspect(lab: &Lab, flags: &[&str], part: &str) -> bool {
    let ran = lab.run(&[&["inspect", VOLUME], flags].concat());
    match ran.0.status.success() {
        true => true,
        false => {
            ran.failure(1, &[part, "damaged"]);
            false
        }
    }
}

fn no_panic(lab: &Lab) {
    assert!(!lab.daemon_log().contains("panicked"), "{}", lab.daemon_log());
}

/// Mounts without the local log, reads everything, and ends whatever is there.
fn read_from_store(lab: &Lab) -> Outcome {
    let mount = lab.mount(FLAGS);
    let outcome = read_all(&mount, false);
    // The mount itself must not suffer.
    assert_eq!(mount.status()["daemon"]["pid"], mount.pid());
    mount.kill();
    lab.lose_cache();
    outcome
}

#[test]
fn damaged_objects_are_named() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    fill(&mount);
    mount.unmount();
    lab.lose_cache();
    let seed = Rng::seed_of_the_day();
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut read_failed = 0;
    for object in objects(&lab) {
        let name = file_name(&object);
        let number = u64::from_str_radix(&name, 16).unwrap().to_string();
        let bytes = fs::metadata(&object).unwrap().len();
        // Any byte; and the last one, which is data, or a part of the map.
        for offset in [rng.below(bytes), bytes - 1] {
            with_flipped(&object, offset, rng.below(8) as u8, || {
                let is_fine = inspect(&lab, &["--object", &number], &name);
                assert!(!is_fine, "{name}: byte {offset} is wrong, and inspect does not see it");
                inspect(&lab, &[], &name);
                read_failed += u64::from(read_from_store(&lab) != Outcome::Right);
            });
        }
    }
    assert!(read_failed > 0, "no damage was ever in the way");
    assert_eq!(read_from_store(&lab), Outcome::Right);
    no_panic(&lab);
}

#[test]
fn cut_off_objects_are_named() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    fill(&mount);
    mount.unmount();
    lab.lose_cache();
    let saved = lab.path().join("saved");
    for object in objects(&lab) {
        let name = file_name(&object);
        let number = u64::from_str_radix(&name, 16).unwrap().to_string();
        fs::copy(&object, &saved).unwrap();
        let bytes = fs::metadata(&object).unwrap().len();
        File::options().write(true).open(&object).unwrap().set_len(bytes / 2).unwrap();
        lab.run(&["inspect", VOLUME, "--object", &number]).failure(1, &[&name]);
        read_from_store(&lab);
        fs::copy(&saved, &object).unwrap();
    }
    // One that is missing in the middle is damage, too, and nothing is deleted over it.
    let before = objects(&lab);
    let last_data = before.iter().rfind(|object| fs::metadata(object).unwrap().len() > 1 << 19);
    let missing = last_data.unwrap();
    fs::rename(missing, &saved).unwrap();
    assert_ne!(read_from_store(&lab), Outcome::Right);
    fs::rename(&saved, missing).unwrap();
    for object in &before {
        assert!(object.exists(), "{} was deleted", object.display());
    }
    assert_eq!(read_from_store(&lab), Outcome::Right);
    no_panic(&lab);
}

#[test]
fn a_damaged_superblock_or_name_is_named() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    fill(&mount);
    mount.unmount();
    let data = objects(&lab)[0].parent().unwrap().parent().unwrap().to_owned();
    let superblock = data.join("super");
    let record = lab.store_dir().join("volumes").join(VOLUME);
    let seed = Rng::seed_of_the_day();
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for (path, part) in [(superblock, "super"), (record, VOLUME)] {
        let bytes = fs::metadata(&path).unwrap().len();
        for _ in 0..3 * scale() {
            with_flipped(&path, rng.below(bytes), rng.below(8) as u8, || {
                assert!(!inspect(&lab, &[], part), "inspect does not see it");
                lab.run(&["info", VOLUME]).failure(1, &[part]);
                let mount = lab.mount(FLAGS);
                for write in [false, true] {
                    assert_eq!(read_all(&mount, write), Outcome::NotOpened);
                }
                // Others are not affected.
                make_volume(&mount, "other.img", 1 << 20);
                let other = mount.file("other.img");
                wait_for("the kernel to release the file", || fs::remove_file(&other).ok());
                mount.unmount();
            });
        }
    }
    let mount = lab.mount(FLAGS);
    assert_eq!(read_all(&mount, true), Outcome::Right);
    mount.unmount();
    no_panic(&lab);
}

/// Bytes of a log file before its ring.
const LOG_HEADERS_BYTES: u64 = 8192;

/// Files as a crash left them, to be brought back for each new trial.
struct Template<'a> {
    lab: &'a Lab,
    kept: PathBuf,
}

impl<'a> Template<'a> {
    fn of(lab: &'a Lab) -> Self {
        let kept = lab.path().join("kept");
        fs::create_dir(&kept).unwrap();
        for dir in [lab.store_dir(), lab.cache_dir()] {
            tool("cp", &["-a", dir.to_str().unwrap(), kept.to_str().unwrap()]);
        }
        Self { lab, kept }
    }

    fn restore(&self) {
        self.lab.lose_cache();
        fs::remove_dir_all(self.lab.store_dir()).unwrap();
        for dir in ["store", "cache"] {
            let kept = self.kept.join(dir);
            tool("cp", &["-a", kept.to_str().unwrap(), self.lab.path().to_str().unwrap()]);
        }
    }
}

fn log_of(lab: &Lab) -> PathBuf {
    let logs = fs::read_dir(lab.cache_dir().join("logs")).unwrap();
    let mut logs = logs.map(|entry| entry.unwrap().path());
    logs.find(|path| path.extension().is_some_and(|end| end == "log")).unwrap()
}

#[test]
fn a_damaged_log_is_refused_or_recovered_in_full() {
    need_mount!();
    let lab = Lab::new();
    // Nothing goes to the store by itself: the log is the only copy.
    let flags = [
        "--log-size=32M",
        "--log-memory=8M",
        "--cache-size=0",
        "--batch-size=64M",
        "--batch-age=1h",
    ];
    let mount = lab.mount(&flags);
    fill(&mount);
    // Only what a later sync vouches for can be told from a write that the crash tore.
    let file = File::options().write(true).open(mount.file(VOLUME)).unwrap();
    for _ in 0..2 {
        file.write_all_at(&block(0), 0).unwrap();
        file.sync_all().unwrap();
    }
    drop(file);
    mount.kill();
    // As after a power failure: what was in memory is gone, what was synced is on the SSD.
    lab.lose_memory();
    let template = Template::of(&lab);

    let seed = Rng::seed_of_the_day();
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let (mut refused, mut recovered) = (0, 0);
    for round in 0..12 * scale() {
        // Records for the most part, and the headers before them.
        let offset = match round % 4 {
            3 => rng.below(LOG_HEADERS_BYTES),
            _ => LOG_HEADERS_BYTES + rng.below(BLOCKS * BLOCK as u64),
        };
        let (log, bit) = (log_of(&lab), rng.below(8) as u8);
        println!("byte {offset}, bit {bit}");
        flip(&log, offset, bit);
        let is_fine = inspect(&lab, &[], &file_name(&log));
        let mount = lab.mount(&flags);
        let outcomes = [read_all(&mount, false), read_all(&mount, true)];
        mount.kill();
        println!("  inspect {is_fine}, reading {outcomes:?}");
        if outcomes[1] == Outcome::Right {
            recovered += 1;
        } else {
            refused += 1;
            assert!(!is_fine, "inspect finds nothing wrong with a log that is refused");
            assert!(lab.daemon_log().contains(&file_name(&log)), "{}", lab.daemon_log());
        }
        template.restore();
    }
    println!("{refused} refused, {recovered} recovered");
    assert!(refused > 0 && recovered > 0, "{refused} refused, {recovered} recovered");
    let mount = lab.mount(&flags);
    assert_eq!(read_all(&mount, true), Outcome::Right, "the undamaged log");
    mount.unmount();
    no_panic(&lab);
}

#[test]
fn a_damaged_cache_mends_itself() {
    need_mount!();
    let lab = Lab::new();
    let flags = ["--log-size=32M", "--log-memory=8M", "--cache-size=16M", "--checkpoint-objects=2"];
    let mount = lab.mount(&flags);
    fill(&mount);
    mount.unmount();
    let seed = Rng::seed_of_the_day();
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for _ in 0..4 * scale() {
        // All but the logs, which are no cache: the read cache and the map's leaves.
        let leaves =
            tool("find", &[lab.cache_dir().join("leaves").to_str().unwrap(), "-type", "f"]);
        let leaves = leaves.lines().map(PathBuf::from);
        for file in leaves.chain([lab.cache_dir().join("read-cache")]) {
            let bytes = fs::metadata(&file).map_or(0, |meta| meta.len());
            for _ in 0..8 {
                if bytes > 0 {
                    flip(&file, rng.below(bytes), rng.below(8) as u8);
                }
            }
        }
        let mount = lab.mount(&flags);
        assert_eq!(read_all(&mount, true), Outcome::Right);
        mount.unmount();
    }
    no_panic(&lab);
}

#[test]
fn a_copy_ends_where_its_source_is_damaged() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    fill(&mount);
    mount.unmount();
    lab.lose_cache();
    let objects = objects(&lab);
    let full: Vec<_> =
        objects.iter().filter(|path| fs::metadata(path).unwrap().len() > 600_000).collect();
    let _flipped = Flipped::new(full[full.len() / 2], 300_000, 3);
    let mount = lab.mount(FLAGS);
    let (source, target) = (open(&mount.file(VOLUME)), open(&make_volume(&mount, "copy.img", 0)));
    let size = BLOCKS * BLOCK as u64;
    let copied = copy_once((&source, 0), (&target, 0), size).unwrap();
    assert!(copied > 0 && copied < size, "{copied} bytes");
    assert_eq!(copy_once((&source, copied), (&target, copied), size), Err(libc::EIO));
    assert_eq!(target.metadata().unwrap().len(), copied.next_multiple_of(4096));
    let (mut wanted, mut found) = (vec![0; copied as usize], vec![0; copied as usize]);
    source.read_exact_at(&mut wanted, 0).unwrap();
    target.read_exact_at(&mut found, 0).unwrap();
    assert!(found == wanted);
    drop((source, target));
    mount.kill();
}

/// The memory of the only log, which a daemon holds mapped.
fn memory_of(mount: &Mount) -> PathBuf {
    let mut found = mount.memory_held();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Where the memory lies in a file of the cache directory, a file system that goes away and comes
/// back without a reboot can show older pages of it than were last written.
#[test]
fn memory_older_than_its_log_is_not_believed() {
    need_mount!();
    let lab = Lab::new();
    let flags = ["--log-size=32M", "--log-memory=8M", "--batch-size=64M", "--batch-age=1h"];
    let mount = lab.mount(&flags);
    let path = make_volume(&mount, "v.img", 16 << 20);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let older = lab.path().join("memory");
    for block in 0..200 {
        file.write_all_at(&[block as u8 + 1; 4096], block * 4096).unwrap();
        file.sync_data().unwrap();
        if block == 80 {
            fs::copy(memory_of(&mount), &older).unwrap();
        }
    }
    let memory = memory_of(&mount);
    mount.kill_only();
    drop(file);
    fs::copy(&older, &memory).unwrap();
    mount.kill();

    let mount = lab.mount(&flags);
    let seen = fs::read(mount.file("v.img")).unwrap();
    for block in 0..200_usize {
        assert_eq!(seen[block * 4096], (block as u8).wrapping_add(1), "block {block}");
    }
}
