//! Stamped sectors under `kill -9`: the campaign.
//!
//! ```text
//!   round:  threads write, trim and fsync ── kill -9 at a random moment
//!             ├─ half       remount                                      everything is there
//!             ├─ a quarter  killed again at a step of the recovery, remount  everything
//!             └─ a quarter  the cache directory deleted, remount         a prefix is there
//!           verify every sector, go on with the same volume
//! ```
//! One seed decides all operations, kills and failpoints; only the interleaving of the threads is
//! the machine's. `LSVD_TEST_SCALE=5` makes it 200 rounds on a directory, `LSVD_TEST_SEED=n` repeats one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;

use common::history::{History, Kind, Op, Promise, SECTOR, Tick, stamp};
use common::rng::Rng;
use common::store::Kind as StoreKind;
use common::workload::{Clock, Crew, FLAGS, SECTORS, read_disk};
use common::{Lab, Mount, make_volume, scale, tell_after_a_panic};

/// Rounds at `LSVD_TEST_SCALE=1`, chosen to stay well below a minute and a half.
const ROUNDS: u64 = 40;
const ROUNDS_ON_SERVERS: u64 = 10;
/// Requests acknowledged before a kill, at most.
const ACKED_MAX: u64 = 3000;

/// Durability steps on the way from the start to the first uploads after a recovery.
const FAILPOINTS: &[&str] = &[
    "log.pending",
    "log.pending_synced",
    "open.fence",
    "open.fenced",
    "open.fill",
    "log.recover",
    "log.recovered",
    "log.started",
    "log.written",
    "log.synced",
    "log.header_synced",
    "batch.sealed",
    "batch.put",
    "batch.created",
    "batch.commit",
    "checkpoint.begin",
    "checkpoint.put",
    "checkpoint.created",
    "checkpoint.publish",
    "checkpoint.published",
];

fn campaign(kind: StoreKind, rounds: u64) {
    let lab = lab_on!(kind);
    let mut campaign = Campaign::new(Rng::seed_of_the_day(), lab);
    println!("crash oracle on {kind:?}: {rounds} rounds, seed {}", campaign.seed);
    for round in 0..rounds {
        campaign.round(round);
    }
    println!("{} requests acknowledged; killed at: {:?}", campaign.acked, campaign.killed_at);
    let in_recovery = campaign.killed_at.keys().any(|at| at.contains('.'));
    assert!(rounds < 20 || in_recovery, "no failpoint was ever reached");
}

#[test]
fn nothing_acknowledged_is_lost() {
    need_mount!();
    campaign(StoreKind::Directory, ROUNDS * scale());
}

#[test]
fn nothing_acknowledged_is_lost_on_s3() {
    need_mount!();
    campaign(StoreKind::S3, ROUNDS_ON_SERVERS * scale());
}

#[test]
fn nothing_acknowledged_is_lost_on_radosgw() {
    need_mount!();
    campaign(StoreKind::Radosgw, ROUNDS_ON_SERVERS * scale());
}

#[test]
fn nothing_acknowledged_is_lost_on_rados() {
    need_mount!();
    campaign(StoreKind::Rados, ROUNDS_ON_SERVERS * scale());
}

/// What the rounds share.
struct Campaign {
    seed: u64,
    // Before the lab, so that it is gone before its directories are.
    mount: Option<Mount>,
    lab: Lab,
    clock: Clock,
    history: History,
    /// Acknowledged before this: in the store for sure.
    drained: Tick,
    acked: u64,
    killed_at: BTreeMap<String, u64>,
    /// Failpoints set so far.
    tried: usize,
}

impl Drop for Campaign {
    fn drop(&mut self) {
        tell_after_a_panic(self.seed, &self.lab);
    }
}

impl Campaign {
    fn new(seed: u64, lab: Lab) -> Self {
        let mount = lab.mount(FLAGS);
        make_volume(&mount, "v.img", SECTORS * SECTOR as u64);
        // Growing it is a write like others, and must not get lost with the SSD.
        lab.ok(&["flush", "v.img", "--wait"]);
        Self {
            seed,
            lab,
            mount: Some(mount),
            clock: Clock::new(),
            history: History::new(SECTORS),
            drained: 0,
            acked: 0,
            killed_at: BTreeMap::new(),
            tried: 0,
        }
    }

    fn round(&mut self, round: u64) {
        let mut rng = Rng::new(self.seed ^ round.wrapping_mul(0x9e37_79b9));
        self.work(&mut rng);
        let mut promise = Promise::Everything;
        match rng.below(4) {
            0 => {
                self.lab.lose_cache();
                promise = Promise::Prefix { drained: self.drained };
                self.count("work, cache lost");
            }
            1 => self.die_in_recovery(&mut rng),
            _ => self.count("work"),
        }
        let mount = self.lab.mount(FLAGS);
        let file = mount.file("v.img");
        let seen_by_reader = (rng.below(2) == 0).then(|| read_disk(&file, false));
        let disk = read_disk(&file, true);
        if let Some(before) = seen_by_reader {
            assert!(before == disk, "round {round}: a reader saw another disk than recovery made");
        }
        let now = self.clock.tick();
        if let Err(wrong) = self.history.check(&disk, promise, now) {
            panic!("seed {}, round {round}, {promise:?}: {wrong}", self.seed);
        }
        self.mount = Some(mount);
    }

    fn count(&mut self, at: &str) {
        *self.killed_at.entry(at.to_owned()).or_default() += 1;
    }

    /// Lets the threads work, and kills the daemon under them.
    fn work(&mut self, rng: &mut Rng) {
        let mount = self.mount.take().unwrap();
        let crew = Crew::start(&mount.file("v.img"), rng, &self.clock);
        let (kill_at, drain_at) = (rng.below(ACKED_MAX), rng.below(2 * ACKED_MAX));
        if drain_at < kill_at {
            crew.wait_for_acked(drain_at);
            let before = self.clock.tick();
            self.lab.ok(&["flush", "v.img", "--wait"]);
            self.drained = before;
        }
        crew.wait_for_acked(kill_at);
        mount.kill_only();
        let (ops, _) = crew.bury();
        mount.kill();
        self.acked += ops.iter().filter(|op| op.acked.is_some()).count() as u64;
        self.history.extend(ops);
    }

    /// Starts a daemon that dies at a step of the recovery, or is killed soon after.
    fn die_in_recovery(&mut self, rng: &mut Rng) {
        // Each in turn, so that every campaign comes by those that every recovery reaches.
        let name = FAILPOINTS[self.tried % FAILPOINTS.len()];
        let arrival = if self.tried < FAILPOINTS.len() { 1 } else { 1 + rng.below(2) };
        self.tried += 1;
        let failpoint = format!("{name}:{arrival}");
        let mountpoint = self.lab.mountpoint();
        let variables = [("LSVD_FAILPOINT", failpoint.as_str())];
        let Ok(mount) = self.lab.launch(&mountpoint, FLAGS, &variables) else {
            return self.count(name);
        };
        // Recovery runs at the first opening for writing, uploads come after it.
        let recovered = OpenOptions::new().write(true).open(mount.file("v.img"));
        let synced = recovered.is_ok_and(|file| file.sync_all().is_ok());
        if synced {
            // Whether this works or the daemon dies over it, is the failpoint's business.
            self.lab.run(&["flush", "v.img", "--wait"]);
        }
        let died = !mount.is_running();
        mount.kill();
        self.count(if died { name } else { "soon after recovery" });
    }
}

/// The judge is tried, too: it must let right disks pass and no wrong one.
mod judge {
    use super::*;

    fn op(kind: Kind, start: u64, sectors: u64, issued: Tick, acked: Option<Tick>) -> Op {
        Op { kind, start, sectors, issued, acked }
    }

    /// A disk of which each sector shows the number given.
    fn disk(numbers: &[Tick]) -> Vec<u8> {
        let sector = |(lba, number): (usize, &Tick)| match number {
            0 => [0; SECTOR],
            _ => stamp(lba as u64, *number),
        };
        numbers.iter().enumerate().flat_map(sector).collect()
    }

    fn check(ops: &[Op], promise: Promise, numbers: &[Tick]) -> Result<(), String> {
        let mut history = History::new(numbers.len() as u64);
        history.extend(ops.iter().cloned());
        history.check(&disk(numbers), promise, 1000)
    }

    const PREFIX: Promise = Promise::Prefix { drained: 0 };

    #[test]
    fn acknowledged_writes_must_be_there() {
        let ops = [op(Kind::Write, 0, 2, 1, Some(2)), op(Kind::Write, 1, 2, 3, Some(4))];
        check(&ops, Promise::Everything, &[1, 3, 3]).unwrap();
        check(&ops, Promise::Everything, &[1, 1, 3]).unwrap_err();
        check(&ops, Promise::Everything, &[1, 3, 0]).unwrap_err();
        check(&ops, Promise::Everything, &[3, 3, 3]).unwrap_err();
    }

    #[test]
    fn what_overlaps_in_time_may_come_in_either_order() {
        let ops = [op(Kind::Write, 0, 1, 1, Some(4)), op(Kind::Write, 0, 1, 2, Some(3))];
        check(&ops, Promise::Everything, &[1]).unwrap();
        check(&ops, Promise::Everything, &[2]).unwrap();
        check(&ops, Promise::Everything, &[0]).unwrap_err();
    }

    #[test]
    fn unacknowledged_writes_are_whole_or_absent() {
        let ops = [op(Kind::Write, 0, 2, 1, Some(2)), op(Kind::Write, 0, 2, 3, None)];
        check(&ops, Promise::Everything, &[1, 1]).unwrap();
        check(&ops, Promise::Everything, &[3, 3]).unwrap();
        check(&ops, Promise::Everything, &[1, 3]).unwrap_err();
    }

    #[test]
    fn trims_count() {
        let ops = [op(Kind::Write, 0, 1, 1, Some(2)), op(Kind::Trim, 0, 1, 3, Some(4))];
        check(&ops, Promise::Everything, &[0]).unwrap();
        check(&ops, Promise::Everything, &[1]).unwrap_err();
        check(&ops, PREFIX, &[1]).unwrap();
    }

    #[test]
    fn a_prefix_has_no_holes() {
        let ops = [op(Kind::Write, 0, 1, 1, Some(2)), op(Kind::Write, 1, 1, 3, Some(4))];
        check(&ops, PREFIX, &[0, 0]).unwrap();
        check(&ops, PREFIX, &[1, 0]).unwrap();
        check(&ops, PREFIX, &[1, 3]).unwrap();
        check(&ops, PREFIX, &[0, 3]).unwrap_err();
        check(&ops, Promise::Prefix { drained: 3 }, &[0, 0]).unwrap_err();
    }

    #[test]
    fn the_dead_do_not_rise() {
        let mut history = History::new(1);
        history.extend([op(Kind::Write, 0, 1, 1, Some(2)), op(Kind::Write, 0, 1, 3, None)]);
        history.check(&disk(&[1]), Promise::Everything, 4).unwrap();
        history.check(&disk(&[3]), Promise::Everything, 5).unwrap_err();
    }

    #[test]
    fn damage_is_seen() {
        let ops = [op(Kind::Write, 0, 1, 1, Some(2))];
        let mut history = History::new(1);
        history.extend(ops);
        let mut bytes = disk(&[1]);
        bytes[400] ^= 1;
        history.check(&bytes, Promise::Everything, 3).unwrap_err();
        // Right in itself, but in the wrong place.
        history.check(&stamp(7, 1), Promise::Everything, 3).unwrap_err();
    }
}
