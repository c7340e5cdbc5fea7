//! Snapshots by the clock, through a real mount. Old ones are made by hand, with the names that the
//! schedule would have given them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use common::disk::StoreDisk;
use common::rng::Rng;
use common::{Lab, Mount, make_volume, wait_for};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;
const FLAGS: &[&str] = &["--log-size=32M", "--batch-age=50ms", "--compression=none"];
const SCHEDULE: &str = "--snapshot-schedule=hourly=2 daily=1";

/// How long an idle volume is watched, more than two looks at the clock: the thing under test, not a
/// wait for something.
const IDLE: Duration = Duration::from_secs(11);

fn names(lab: &Lab) -> Vec<String> {
    let all = lab.json(&["snapshot", "list", "v.img"]);
    let all = all.as_array().unwrap().iter();
    let mut names: Vec<String> = all.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// What is there besides `old`.
fn newer(lab: &Lab, old: &[&str]) -> Vec<String> {
    names(lab).into_iter().filter(|name| !old.contains(&name.as_str())).collect()
}

/// Nothing is asked of the store for a while, once what was begun is done.
fn assert_idle(mount: &Mount) {
    let asked = || mount.status()["requests"].clone();
    let mut last = (asked(), Instant::now());
    wait_for("the mount to be idle", || {
        let now = asked();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(6)).then_some(())
    });
    std::thread::sleep(IDLE);
    assert_eq!(asked(), last.0, "an idle volume costs requests");
}

/// A volume with a block written, and snapshots of these names.
fn with_snapshots(lab: &Lab, names: &[&str]) {
    let mount = lab.mount(FLAGS);
    let path = make_volume(&mount, "v.img", SIZE);
    File::options().write(true).open(&path).unwrap().write_all_at(&[1; 4096], 0).unwrap();
    for name in names {
        lab.ok(&["snapshot", "create", &format!("v.img@{name}")]);
    }
    mount.unmount();
}

#[test]
fn the_clock_makes_and_deletes_snapshots_of_what_is_written() {
    need_mount!();
    let lab = Lab::new();
    let old = [
        "hourly-2020-01-01T00-00Z",
        "hourly-2020-01-01T01-00Z",
        "hourly-2020-01-01T02-00Z",
        "hourly-by-hand",
        "monday",
    ];
    with_snapshots(&lab, &old);
    lab.ok(&["snapshot", "protect", "v.img@hourly-2020-01-01T00-00Z"]);
    let mount = lab.mount(&[FLAGS, &[SCHEDULE]].concat());
    let file = File::options().write(true).open(mount.file("v.img")).unwrap();
    assert_idle(&mount);
    // Nothing was written since the newest of those that are hourly; a daily one there was never.
    let first = newer(&lab, &old);
    assert!(matches!(&*first, [daily] if daily.starts_with("daily-20")), "{first:?}");

    file.write_all_at(&[2; 4096], 0).unwrap();
    wait_for("the oldest to go", || (!names(&lab).contains(&old[1].to_owned())).then_some(()));
    let made = newer(&lab, &old);
    let [daily, hourly] = &*made else { panic!("{made:?}") };
    assert!(daily.starts_with("daily-20") && hourly.starts_with("hourly-20"), "{made:?}");
    assert_eq!(names(&lab).len(), old.len() + 1, "{:?}", names(&lab));
    for (name, content) in [(daily, 1), (hourly, 2)] {
        let kept = fs::read(mount.path().join(".snapshots/v.img").join(name)).unwrap();
        assert!(kept[..4096] == [content; 4096], "{name}");
    }
    assert_idle(&mount);
    assert_eq!(newer(&lab, &old), made);
    drop(file);
    mount.unmount();
}

#[test]
fn a_schedule_waits_for_a_store_that_is_away() {
    need_mount!("mkfs.ext4");
    let disk = StoreDisk::new(64);
    let lab = Lab::with_store_on(&disk);
    let old = "hourly-2020-01-01T00-00Z";
    with_snapshots(&lab, &[old]);
    let mount = lab.mount(&[FLAGS, &[SCHEDULE]].concat());
    let file = File::options().write(true).open(mount.file("v.img")).unwrap();
    let filler = disk.fill_up();
    let mut data = vec![0; 4 << 20];
    Rng::new(7).fill(&mut data);
    file.write_all_at(&data, 0).unwrap();
    wait_for("the store to fail", || {
        (mount.status()["volumes"][0]["stats"]["state"] == "degraded").then_some(())
    });
    std::thread::sleep(IDLE);
    assert!(mount.is_running());
    fs::remove_file(filler).unwrap();
    wait_for("both snapshots", || (newer(&lab, &[old]).len() == 2).then_some(()));
    let told = lab.daemon_log().matches("scheduled snapshots wait").count();
    assert!(told <= 1, "{}", lab.daemon_log());
    let hourly = newer(&lab, &[old]).into_iter().filter(|name| name.starts_with("hourly-"));
    for name in hourly {
        let kept = fs::read(mount.path().join(".snapshots/v.img").join(name)).unwrap();
        assert!(kept[..data.len()] == data);
    }
    drop(file);
    mount.unmount();
}

#[test]
fn a_section_says_which_volumes_have_a_schedule() {
    need_mount!();
    let lab = Lab::new();
    let config = lab.path().join("lsvd.toml");
    fs::write(
        &config,
        "snapshot-schedule = \"daily=3\"\n[volume.\"w.img\"]\nsnapshot-schedule = \"none\"\n",
    )
    .unwrap();
    let mount = lab.mount(&[FLAGS, &["--config", config.to_str().unwrap()]].concat());
    for name in ["w.img", "v.img"] {
        let path = make_volume(&mount, name, SIZE);
        File::options().write(true).open(&path).unwrap().write_all_at(&[1; 4096], 0).unwrap();
    }
    wait_for("the first snapshot", || (names(&lab).len() == 1).then_some(()));
    assert!(names(&lab)[0].starts_with("daily-20"));
    assert_idle(&mount);
    assert_eq!(lab.json(&["snapshot", "list", "w.img"]).as_array().unwrap().len(), 0);
    mount.unmount();
}
