//! Stamped sectors on real servers, behind networks and machines that fail.
//!
//! ```text
//!   round:  threads write, trim and fsync ── the network or a server fails ──┐
//!             ├─ it comes back, the threads go on                             everything is there
//!             ├─ kill -9 of the daemon while it lasts; it comes back          everything
//!             └─ kill -9, and the cache directory deleted                     a prefix
//! ```
//! No request of a program may fail, whatever the store does: writers wait. The network is the
//! proxy of the harness; the servers that crash are a Ceph of the test's own.
//! `LSVD_TEST_SEED=n` repeats the choices of a campaign.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::history::{History, Promise, SECTOR, Tick};
use common::proxy::{Mode, Proxy};
use common::rng::Rng;
use common::servers::Server;
use common::store::{Kind, Store};
use common::workload::{Clock, Crew, FLAGS, SECTORS, read_disk};
use common::{Lab, Mount, make_volume, scale, tell_after_a_panic};

const VOLUME: &str = "v.img";
/// Requests acknowledged before something fails, while it fails, and afterwards, at most.
const ACKED_MAX: u64 = 1200;
/// How long a failure lasts at most; the log may be full long before.
const FAILURE_MAX: Duration = Duration::from_secs(4);

/// Something that goes wrong, and how it is put right again.
struct Failure<'a> {
    name: String,
    begin: Box<dyn Fn() -> Box<dyn FnOnce() + 'a> + 'a>,
}

impl<'a> Failure<'a> {
    fn new(name: impl Into<String>, begin: impl Fn() -> Box<dyn FnOnce() + 'a> + 'a) -> Self {
        Self { name: name.into(), begin: Box::new(begin) }
    }
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
}

impl Drop for Campaign {
    fn drop(&mut self) {
        tell_after_a_panic(self.seed, &self.lab);
    }
}

impl Campaign {
    fn new(store: Store) -> Self {
        let lab = Lab::with_store(store);
        let mount = lab.mount(FLAGS);
        make_volume(&mount, VOLUME, SECTORS * SECTOR as u64);
        lab.ok(&["flush", VOLUME, "--wait"]);
        Self {
            seed: Rng::seed_of_the_day(),
            lab,
            mount: Some(mount),
            clock: Clock::new(),
            history: History::new(SECTORS),
            drained: 0,
        }
    }

    /// Each failure as many times as asked for.
    fn run(&mut self, failures: &[Failure], times: u64) {
        println!("{}: seed {}", self.lab.store_url(), self.seed);
        for round in 0..times * failures.len() as u64 {
            self.round(round, &failures[round as usize % failures.len()]);
        }
        self.mount.take().unwrap().unmount();
    }

    fn round(&mut self, round: u64, failure: &Failure) {
        let mut rng = Rng::new(self.seed ^ round.wrapping_mul(0x9e37_79b9));
        let mount = self.mount.take().unwrap();
        let crew = Crew::start(&mount.file(VOLUME), &mut rng, &self.clock);
        crew.wait_for_acked(rng.below(ACKED_MAX));
        if rng.below(3) == 0 {
            let now = self.clock.tick();
            self.lab.ok(&["flush", VOLUME, "--wait"]);
            self.drained = now;
        }
        let heal = (failure.begin)();
        self.endure(&crew, crew.acked() + rng.below(2 * ACKED_MAX));
        let outcome = rng.below(3);
        println!("round {round}: {}, outcome {outcome}", failure.name);
        let promise = if outcome == 0 {
            heal();
            crew.wait_for_acked(crew.acked() + ACKED_MAX / 4);
            self.history.extend(crew.stop());
            self.mount = Some(mount);
            Promise::Everything
        } else {
            mount.kill_only();
            self.history.extend(crew.bury().0);
            mount.kill();
            heal();
            if outcome == 2 {
                self.lab.lose_cache();
            }
            self.mount = Some(self.lab.mount(FLAGS));
            match outcome {
                2 => Promise::Prefix { drained: self.drained },
                _ => Promise::Everything,
            }
        };
        let disk = read_disk(&self.mount.as_ref().unwrap().file(VOLUME), true);
        let now = self.clock.tick();
        if let Err(wrong) = self.history.check(&disk, promise, now) {
            panic!("seed {}, round {round}, {}, {promise:?}: {wrong}", self.seed, failure.name);
        }
    }

    /// Lets the threads work on as far as they can: until so many requests, or the time is over.
    fn endure(&self, crew: &Crew, acked: u64) {
        let began = Instant::now();
        while crew.acked() < acked && began.elapsed() < FAILURE_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Every mood of the network.
fn networks(proxy: &Proxy) -> Vec<Failure<'_>> {
    let half = 500;
    let modes = [
        Mode::Refuse,
        Mode::Hang,
        Mode::Answer { status: 500, per_mille: half },
        Mode::Answer { status: 503, per_mille: half },
        Mode::Answer { status: 503, per_mille: 1000 },
        Mode::Slow { bytes_per_second: 256 << 10 },
        Mode::Halve { per_mille: half },
        Mode::LoseReply { per_mille: half },
        Mode::LoseReply { per_mille: 1000 },
    ];
    let failure = |mode: Mode| {
        Failure::new(format!("{mode:?}"), move || {
            proxy.set(mode);
            Box::new(|| proxy.set(Mode::Pass))
        })
    };
    modes.into_iter().map(failure).collect()
}

fn a_network_that_fails(kind: Kind) {
    let lab = lab_on!(kind);
    let proxy = Proxy::before(&lab.store().endpoint().unwrap(), Rng::seed_of_the_day());
    let mut campaign = Campaign::new(lab.store().by_way_of(&proxy.endpoint()));
    campaign.run(&networks(&proxy), scale());
    println!("{:?}", proxy.counts());
}

#[test]
fn a_network_that_fails_loses_nothing_on_s3() {
    need_mount!();
    a_network_that_fails(Kind::S3);
}

#[test]
fn a_network_that_fails_loses_nothing_on_radosgw() {
    need_mount!();
    a_network_that_fails(Kind::Radosgw);
}

/// Daemons of Ceph that are killed, paused and started again.
fn crashes<'a>(ceph: &'a Server, daemons: &[&'static str]) -> Vec<Failure<'a>> {
    let mut failures = Vec::new();
    for &daemon in daemons {
        failures.push(Failure::new(format!("{daemon} killed"), move || {
            ceph.kill(&[daemon]);
            Box::new(|| ceph.start_again())
        }));
        failures.push(Failure::new(format!("{daemon} paused"), move || {
            let paused = ceph.pause(daemon);
            Box::new(move || drop(paused))
        }));
    }
    failures.push(Failure::new("all killed", || {
        ceph.kill(&[]);
        Box::new(|| ceph.start_again())
    }));
    failures
}

#[test]
fn a_radosgw_that_crashes_loses_nothing() {
    need_mount!();
    let ceph = own_ceph!();
    Campaign::new(ceph.s3()).run(&crashes(&ceph, &["rgw", "osd"]), scale());
}

#[test]
fn a_ceph_that_crashes_loses_nothing() {
    need_mount!();
    let ceph = own_ceph!();
    Campaign::new(ceph.rados()).run(&crashes(&ceph, &["osd", "mon"]), scale());
}
