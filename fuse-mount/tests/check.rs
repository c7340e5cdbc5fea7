//! `check`, `scrub` and `delete --force`, through the real binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::rng::Rng;
use common::{Lab, MIB, make_volume, wait_for};
use serde_json::Value;

const SIZE: u64 = 32 * MIB;
const FLAGS: &[&str] = &[
    "--log-size=32M",
    "--log-memory=8M",
    "--batch-size=1M",
    "--batch-age=50ms",
    "--checkpoint-objects=4",
    "--gc-start=90%",
    "--gc-stop=95%",
];

/// The files of the stream, by number.
fn objects(lab: &Lab) -> Vec<PathBuf> {
    let volume = data_dir(lab);
    let mut found: Vec<_> =
        fs::read_dir(volume.join("o")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn data_dir(lab: &Lab) -> PathBuf {
    let mut volumes = fs::read_dir(lab.store_dir().join("data")).unwrap();
    volumes.next().unwrap().unwrap().path()
}

fn flip(path: &PathBuf, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

/// A lab with a volume that is in the store and nowhere else.
fn filled() -> Lab {
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    let file = File::options().write(true).open(make_volume(&mount, "v.img", SIZE)).unwrap();
    let mut disk = vec![0; SIZE as usize];
    Rng::new(5).fill(&mut disk);
    file.write_all_at(&disk, 0).unwrap();
    drop(file);
    mount.unmount();
    lab
}

fn tally(report: &Value, kind: &str) -> u64 {
    report["tally"][kind].as_u64().unwrap()
}

/// What a check that finds damage prints.
fn damaged(lab: &Lab, args: &[&str]) -> Value {
    let ran = lab.run(&[args, &["--json"]].concat());
    ran.failure(1, &["damaged"]);
    serde_json::from_str(&ran.stdout()).unwrap()
}

#[test]
fn a_volume_that_is_written_and_cleaned_checks_clean() {
    need_mount!();
    let lab = Lab::new();
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, "v.img", SIZE);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            let (mut rng, mut block) = (Rng::new(3), vec![0; 64 << 10]);
            while !stop.load(Ordering::Relaxed) {
                rng.fill(&mut block);
                file.write_all_at(&block, rng.below(SIZE / MIB * 15) * (64 << 10)).unwrap();
            }
        });
        let moved = |status: &Value| {
            let gc = &status["volumes"][0]["stats"]["gc"];
            gc["deleted_objects"].as_u64().filter(|deleted| *deleted > 3)
        };
        wait_for("objects to be deleted", || moved(&mount.status()));
        for flags in [&["--deep"][..], &["--repair"], &[], &["--deep", "--repair"]] {
            // By the daemon, and by another host.
            let here = lab.json(&[&["check", "v.img"][..], flags].concat());
            let elsewhere = Lab::with_store(lab.store().clone());
            let there = elsewhere.json(&[&["check"][..], flags].concat());
            for report in [here, there] {
                let found = (tally(&report, "damage"), tally(&report, "leaks"));
                assert_eq!((found, report["complete"] == true), ((0, 0), true), "{report:#}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    mount.unmount();
    let report = lab.json(&["check", "--all", "--deep"]);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0, "{report:#}");
    assert!(report["volumes"][0]["frames"].as_u64().unwrap() > 100, "{report:#}");
    assert!(lab.ok(&["check"]).contains("no damage; 0 leaked"));
}

#[test]
fn damage_leaks_and_wrong_usage_have_their_exit_codes() {
    need_mount!();
    let lab = filled();
    let all = objects(&lab);
    let data = all.iter().find(|path| fs::metadata(path).unwrap().len() > MIB / 2).unwrap();
    let name = data.file_name().unwrap().to_str().unwrap();
    let last = fs::metadata(data).unwrap().len() - 1;
    flip(data, last);
    lab.ok(&["check", "v.img"]);
    for args in [&["check", "v.img", "--deep"][..], &["scrub", "v.img", "--rate=1G"]] {
        let report = damaged(&lab, args);
        let what = report["findings"][0]["what"].as_str().unwrap();
        assert!(what.contains(name) && what.contains("frame"), "{report:#}");
        assert_eq!(report["findings"][0]["severity"], "damage");
    }
    flip(data, last);
    let saved = lab.path().join("saved");
    fs::rename(data, &saved).unwrap();
    let ran = lab.run(&["check", "v.img"]);
    ran.failure(1, &["damaged"]);
    assert!(ran.stdout().contains(name) && ran.stdout().contains("DAMAGE"), "{}", ran.stdout());
    fs::rename(&saved, data).unwrap();
    lab.ok(&["check", "--deep"]);

    lab.run(&["check", "v.img", "--all"]).failure(2, &["--all"]);
    lab.run(&["scrub", "v.img", "--rate=0"]).failure(2, &["--rate"]);
    lab.run(&["scrub", "v.img", "--rate=fast"]).failure(2, &["--rate"]);
    lab.run(&["scrub"]).failure(2, &["NAME"]);
    lab.run(&["check", "ghost"]).failure(1, &["ghost", "does not exist"]);
}

/// Starts a scrub that would take an hour, interrupts it when it reads, and returns what it printed.
fn interrupted(lab: &Lab) -> (i32, Value) {
    let mut command = lab.command();
    command.args(["scrub", "v.img", "--rate=10K", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = child.stderr.take().unwrap();
    // The first line of progress.
    said.read_exact(&mut [0]).unwrap();
    // SAFETY: the pid is of a child that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    wait_for("the scrub to end", || child.try_wait().unwrap());
    let done = child.wait_with_output().unwrap();
    (done.status.code().unwrap(), serde_json::from_slice(&done.stdout).unwrap())
}

#[test]
fn a_scrub_that_is_interrupted_prints_what_it_has() {
    need_mount!();
    let lab = filled();
    let (code, report) = interrupted(&lab);
    assert_eq!((code, report["complete"] == false), (1, true), "{report:#}");
    let mount = lab.mount(FLAGS);
    let (code, report) = interrupted(&lab);
    assert_eq!((code, report["complete"] == false), (1, true), "{report:#}");
    // The daemon goes on, and so does its volume.
    lab.json(&["check", "v.img", "--deep"]);
    mount.unmount();
}

#[test]
fn a_damaged_volume_is_deleted_by_force_only() {
    need_mount!();
    for is_mounted in [false, true] {
        let lab = filled();
        let mount = is_mounted.then(|| lab.mount(FLAGS));
        flip(&data_dir(&lab).join("super"), 40);
        let report = damaged(&lab, &["check"]);
        assert_eq!(tally(&report, "damage"), 1, "{report:#}");
        let what = report["findings"][0]["what"].as_str().unwrap();
        assert!(what.starts_with("volume \"v.img\": ") && what.contains("/super"), "{what}");
        let what = damaged(&lab, &["check", "v.img"])["findings"][0]["what"].clone();
        assert!(what.as_str().unwrap().starts_with("volume \"v.img\": "), "{what}");
        let listed = damaged(&lab, &["list"]);
        assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&"v.img".into(), &"damaged".into()));
        lab.run(&["delete", "v.img"]).failure(1, &["super", "damaged", "delete v.img --force"]);
        assert!(objects(&lab).len() > 30);
        lab.ok(&["delete", "v.img", "--force"]);
        assert!(objects(&lab).iter().all(|path| fs::metadata(path).unwrap().len() < 512));
        lab.run(&["info", "v.img"]).failure(1, &["does not exist"]);
        lab.run(&["delete", "v.img", "--force"]).failure(1, &["does not exist"]);
        lab.ok(&["create", "v.img", "--size", "64M"]);
        lab.ok(&["check"]);
        if let Some(mount) = mount {
            mount.unmount();
        }
    }
    // In use is in use.
    let lab = filled();
    let mount = lab.mount(FLAGS);
    let file = File::options().write(true).open(mount.file("v.img")).unwrap();
    lab.run(&["delete", "v.img", "--force"]).failure(1, &["in use"]);
    drop(file);
    mount.unmount();
}
