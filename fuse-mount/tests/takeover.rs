//! Two hosts and one volume: two daemons, each with a cache directory of its own.
//!
//! ```text
//!   first    writes ───── stands still (SIGSTOP) ─────┬─ goes on: ESTALE, "fenced", unmounts
//!   second         opens: a prefix ── writes ─────────┴── writes ── everything of its own is there
//!                                                         └─ is the first of the next round
//! ```
//! In some rounds the first runs on instead, or has written everything to the store before. The
//! second is a new host, or one that was deposed in an earlier round and still has its log, which
//! must be refused, never replayed. Every sector is judged as in `crash_oracle.rs`.
//! `LSVD_TEST_SCALE=5` makes it 100 rounds on a directory, `LSVD_TEST_SEED=n` repeats the choices of
//! one campaign.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use common::history::{History, Promise, SECTOR, Tick};
use common::rng::Rng;
use common::store::Kind;
use common::workload::{Clock, Crew, FLAGS, SECTORS, read_disk};
use common::{Lab, Mount, Ran, make_volume, scale};

const VOLUME: &str = "v.img";
/// Requests acknowledged before the other host comes, and before the first one goes on, at most.
const ACKED_MAX: u64 = 1500;

fn campaign(kind: Kind, rounds: u64) {
    let lab = lab_on!(kind);
    let mut drill = Drill::new(Rng::seed_of_the_day(), lab);
    println!("takeover on {kind:?}: {rounds} rounds, seed {}", drill.seed);
    for round in 0..rounds {
        drill.round(round);
    }
    println!("{:?}", drill.seen);
}

#[test]
fn hosts_depose_each_other_on_a_directory() {
    need_mount!();
    campaign(Kind::Directory, 20 * scale());
}

#[test]
fn hosts_depose_each_other_on_s3() {
    need_mount!();
    campaign(Kind::S3, 4 * scale());
}

#[test]
fn hosts_depose_each_other_on_radosgw() {
    need_mount!();
    campaign(Kind::Radosgw, 4 * scale());
}

#[test]
fn hosts_depose_each_other_on_rados() {
    need_mount!();
    campaign(Kind::Rados, 4 * scale());
}

/// A host with the volume open for writing.
struct Holder {
    // Before the lab, so that it is gone before its directories are.
    mount: Mount,
    lab: Lab,
}

/// What the rounds share.
struct Drill {
    seed: u64,
    clock: Clock,
    history: History,
    /// Acknowledged before this: in the store for sure.
    drained: Tick,
    holder: Option<Holder>,
    /// Hosts that were deposed.
    deposed: Vec<Lab>,
    seen: BTreeMap<String, u64>,
}

impl Drop for Drill {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("LSVD_TEST_SEED={} repeats the choices of this campaign", self.seed);
            let hosts = self.holder.iter().map(|holder| &holder.lab).chain(&self.deposed);
            hosts.for_each(print_log);
        }
    }
}

/// The volume, with its size in the store: growing it is a write like others.
fn make_disk(lab: &Lab, mount: &Mount) -> PathBuf {
    let path = make_volume(mount, VOLUME, SECTORS * SECTOR as u64);
    lab.ok(&["flush", VOLUME, "--wait"]);
    path
}

fn print_log(lab: &Lab) {
    let said = lab.daemon_log();
    let newest: Vec<&str> = said.lines().rev().take(30).collect();
    eprintln!("what {} said, newest first:\n{}", lab.path().display(), newest.join("\n"));
}

impl Drill {
    fn new(seed: u64, lab: Lab) -> Self {
        let mount = lab.mount(FLAGS);
        make_disk(&lab, &mount);
        Self {
            seed,
            clock: Clock::new(),
            history: History::new(SECTORS),
            drained: 0,
            holder: Some(Holder { mount, lab }),
            deposed: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    fn crew(&self, file: &Path, rng: &mut Rng) -> Crew {
        Crew::start(file, rng, &self.clock)
    }

    fn round(&mut self, round: u64) {
        let mut rng = Rng::new(self.seed ^ round.wrapping_mul(0x9e37_79b9));
        let first = self.holder.take().unwrap();
        let mut first_crew = Some(self.crew(&first.mount.file(VOLUME), &mut rng));
        self.work(&mut rng, first_crew.as_ref().unwrap(), &first.lab);
        if rng.below(4) == 0 {
            self.history.extend(first_crew.take().unwrap().stop());
            let now = self.clock.tick();
            first.lab.ok(&["flush", VOLUME, "--wait"]);
            self.drained = now;
            self.count("deposed with nothing to do");
        }
        let paused = (rng.below(4) > 0).then(|| first.mount.pause());
        self.count(if paused.is_some() { "deposed while it stood" } else { "deposed at work" });

        let second = self.open_elsewhere(&mut rng, &first);
        let file = second.mount.file(VOLUME);
        let disk = read_disk(&file, true);
        // Whatever the first host does from here on must not be seen by anybody.
        self.history.extend(first_crew.iter().flat_map(Crew::so_far));
        self.judge(round, &disk, Promise::Prefix { drained: self.drained });

        let mut second_crew = Some(self.crew(&file, &mut rng));
        // The first goes on before, while, or after the second writes.
        match rng.below(3) {
            0 => {
                drop(paused);
                self.work(&mut rng, second_crew.as_ref().unwrap(), &second.lab);
            }
            1 => {
                self.work(&mut rng, second_crew.as_ref().unwrap(), &second.lab);
                drop(paused);
                self.work(&mut rng, second_crew.as_ref().unwrap(), &second.lab);
            }
            _ => {
                self.work(&mut rng, second_crew.as_ref().unwrap(), &second.lab);
                self.history.extend(second_crew.take().unwrap().stop());
                drop(paused);
            }
        }
        if first_crew.is_none() && rng.below(2) == 0 {
            first_crew = Some(self.crew(&first.mount.file(VOLUME), &mut rng));
        }
        if let Some(crew) = first_crew {
            self.see_it_fenced(&first, crew);
        }
        self.see_it_leave(first);
        if let Some(crew) = second_crew {
            self.history.extend(crew.stop());
        }
        let disk = read_disk(&file, true);
        self.judge(round, &disk, Promise::Everything);
        self.holder = Some(second);
    }

    /// Lets a crew work for a while; in half of the cases all is in the store at some moment.
    fn work(&mut self, rng: &mut Rng, crew: &Crew, lab: &Lab) {
        let (end, drain) = (rng.below(ACKED_MAX), rng.below(2 * ACKED_MAX));
        let before = crew.acked();
        if drain < end {
            crew.wait_for_acked(before + drain);
            let now = self.clock.tick();
            lab.ok(&["flush", VOLUME, "--wait"]);
            self.drained = now;
        }
        crew.wait_for_acked(before + end);
    }

    fn judge(&mut self, round: u64, disk: &[u8], promise: Promise) {
        let now = self.clock.tick();
        if let Err(wrong) = self.history.check(disk, promise, now) {
            panic!("seed {}, round {round}, {promise:?}: {wrong}", self.seed);
        }
    }

    /// The volume, taken over by a host that has never seen it or was deposed before.
    fn open_elsewhere(&mut self, rng: &mut Rng, first: &Holder) -> Holder {
        let known = rng.below(3) > 0 && !self.deposed.is_empty();
        let lab = if known {
            let nth = rng.below(self.deposed.len() as u64) as usize;
            self.deposed.swap_remove(nth)
        } else {
            Lab::with_store(first.lab.store().clone())
        };
        let mount = lab.mount(FLAGS);
        let opened = OpenOptions::new().write(true).open(mount.file(VOLUME));
        match opened {
            Ok(_) if known => self.count("came back to a log that the store contains"),
            Ok(_) => self.count("came as a new host"),
            Err(error) => {
                if !known || error.raw_os_error() != Some(libc::ESTALE) {
                    print_log(&lab);
                    panic!("a host (known before: {known}) cannot open it: {error}");
                }
                let said = lab.daemon_log();
                assert!(said.contains("never reached the store"), "no word of the stale log");
                lab.ok(&["discard-log", VOLUME]);
                self.count("came back to a stale log");
            }
        }
        Holder { mount, lab }
    }

    /// The deposed host says so to everybody who writes, in its status and in its log.
    fn see_it_fenced(&mut self, first: &Holder, crew: Crew) {
        let (_, errors) = crew.bury();
        let stale = |error: &std::io::Error| error.raw_os_error() == Some(libc::ESTALE);
        assert!(errors.iter().all(stale), "{errors:?}");
        let status = first.mount.status();
        let stats = &status["volumes"][0]["stats"];
        assert_eq!(stats["state"], "fenced", "{stats:#}");
        let reason = stats["last_error"].as_str().unwrap_or_default();
        assert!(reason.contains("was taken over by"), "{reason}");
        assert!(first.lab.daemon_log().contains("was taken over by"), "its log does not say it");
    }

    /// The deposed host can be unmounted; if its log holds what the store lacks, it says so.
    fn see_it_leave(&mut self, first: Holder) {
        let Holder { mount, lab } = first;
        let left = Ran(lab.command().arg("unmount").arg(mount.path()).output().unwrap());
        if !left.0.status.success() {
            let said = left.stderr();
            let why = said.contains("taken over by") || said.contains("has taken the volume over");
            assert!(why, "{said}");
            self.count("told so when it unmounts");
        }
        mount.wait_for_end();
        self.deposed.push(lab);
    }
}

/// A read-only mount elsewhere shows a prefix, and disturbs nobody.
fn follow(kind: Kind) {
    let lab = lab_on!(kind);
    let mut rng = Rng::new(Rng::seed_of_the_day());
    let clock = Clock::new();
    let mut history = History::new(SECTORS);
    // A disk is read with many requests. All of them see one view only if nothing that it shows is
    // collected meanwhile, so nothing is: no cleaning, and no checkpoint. Each follower then reads the
    // headers of all objects, so they are larger.
    let keep = ["--gc-start=0", "--checkpoint-objects=1000000", "--batch-size=4M"];
    let replaced = |flag: &&str| keep.iter().any(|k| k.split('=').next() == flag.split('=').next());
    let others = FLAGS.iter().filter(|flag| !replaced(flag));
    let mount = lab.mount(&others.copied().chain(keep).collect::<Vec<_>>());
    let path = make_disk(&lab, &mount);
    let crew = Crew::start(&path, &mut rng, &clock);
    let mut drained = 0;
    // A round on a server takes as long as several on a directory.
    let rounds = if kind == Kind::Directory { 5 } else { 3 };
    for round in 0..rounds * scale() {
        crew.wait_for_acked(crew.acked() + rng.below(ACKED_MAX));
        if rng.below(2) == 0 {
            let now = clock.tick();
            lab.ok(&["flush", VOLUME, "--wait"]);
            drained = now;
        }
        let follower = Lab::with_store(lab.store().clone());
        // One view for the whole disk, which takes many requests to read.
        let view = ["--read-only", "--follow-interval=1h"];
        let following = follower.mount(&[FLAGS, &view].concat());
        let disk = read_disk(&following.file(VOLUME), false);
        let mut so_far = history.clone();
        so_far.extend(crew.so_far());
        let promise = Promise::Prefix { drained };
        if let Err(wrong) = so_far.check(&disk, promise, clock.tick()) {
            panic!("round {round}, {promise:?}: {wrong}");
        }
        following.unmount();
    }
    history.extend(crew.stop());
    history.check(&read_disk(&path, true), Promise::Everything, clock.tick()).unwrap();
    mount.unmount();
    // From the store alone.
    let heir = Lab::with_store(lab.store().clone());
    let mount = heir.mount(FLAGS);
    let disk = read_disk(&mount.file(VOLUME), true);
    history.check(&disk, Promise::Everything, clock.tick()).unwrap();
    mount.unmount();
}

#[test]
fn a_follower_sees_a_prefix_on_a_directory() {
    need_mount!();
    follow(Kind::Directory);
}

#[test]
fn a_follower_sees_a_prefix_on_s3() {
    need_mount!();
    follow(Kind::S3);
}

#[test]
fn a_follower_sees_a_prefix_on_radosgw() {
    need_mount!();
    follow(Kind::Radosgw);
}

#[test]
fn a_follower_sees_a_prefix_on_rados() {
    need_mount!();
    follow(Kind::Rados);
}
