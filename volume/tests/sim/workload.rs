//! What programs do to a volume, by seed: one thread per lane, until its number of requests is
//! done or the engine refuses.

use std::sync::Arc;
use std::thread;

use lsvd_volume::{Error, Volume};

use crate::oracle::{Lane, Oracle};
use crate::rng::Rng;
use crate::world::{flush, lane_read, lane_trim, lane_write, now};

/// What one thread learned beside its lane.
struct Learned {
    lane: Lane,
    flushed: u64,
    uploaded: u64,
    /// The error that ended it.
    error: Option<Error>,
}

/// Runs all lanes for up to `requests` each; returns the errors that ended them.
pub(crate) fn run(
    oracle: &mut Oracle,
    volume: &Arc<Volume>,
    rng: &mut Rng,
    requests: u64,
) -> Vec<Error> {
    run_lanes(oracle, volume, rng, requests, request)
}

/// As [`commit_often`], on all lanes at once.
pub(crate) fn commit_together(
    oracle: &mut Oracle,
    volume: &Arc<Volume>,
    rng: &mut Rng,
    commits: u64,
) -> Vec<Error> {
    run_lanes(oracle, volume, rng, commits, |seed, learned, volume, rng| {
        learned.flushed = commit(seed, &mut learned.lane, volume, rng.below(64))?;
        Ok(())
    })
}

/// Writes the sector `at` of the lane and flushes; returns when the flush was begun.
fn commit(seed: u64, lane: &mut Lane, volume: &Arc<Volume>, at: u64) -> Result<u64, Error> {
    lane_write(seed, lane, volume, lane.base + at, 1)?;
    let begun = now();
    flush(volume)?;
    Ok(begun)
}

/// What a lane's thread does again and again.
type Step = fn(u64, &mut Learned, &Arc<Volume>, &mut Rng) -> Result<(), Error>;

fn run_lanes(
    oracle: &mut Oracle,
    volume: &Arc<Volume>,
    rng: &mut Rng,
    steps: u64,
    step: Step,
) -> Vec<Error> {
    let seed = oracle.volume;
    let threads: Vec<_> = oracle
        .lanes
        .drain(..)
        .map(|lane| {
            let (volume, rng) = (Arc::clone(volume), rng.fork());
            thread::spawn(move || run_lane(seed, lane, &volume, rng, steps, step))
        })
        .collect();
    let learned: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (mut flushed, mut uploaded, mut errors) = (0, 0, Vec::new());
    for learned in learned {
        oracle.lanes.push(learned.lane);
        flushed = flushed.max(learned.flushed);
        uploaded = uploaded.max(learned.uploaded);
        errors.extend(learned.error);
    }
    oracle.flushed(flushed);
    oracle.uploaded(uploaded);
    errors
}

/// Writes on the first lane as a database does to its log, each followed by a flush.
pub(crate) fn commit_often(
    oracle: &mut Oracle,
    volume: &Arc<Volume>,
    commits: u64,
) -> Result<(), Error> {
    let seed = oracle.volume;
    for at in 0..commits {
        let lane = oracle.lanes.first_mut().expect("a lane");
        let begun = commit(seed, lane, volume, at)?;
        oracle.flushed(begun);
    }
    Ok(())
}

fn run_lane(
    seed: u64,
    lane: Lane,
    volume: &Arc<Volume>,
    mut rng: Rng,
    steps: u64,
    step: Step,
) -> Learned {
    let mut learned = Learned { lane, flushed: 0, uploaded: 0, error: None };
    for _ in 0..steps {
        if let Err(error) = step(seed, &mut learned, volume, &mut rng) {
            learned.error = Some(error);
            break;
        }
    }
    learned
}

fn request(
    seed: u64,
    learned: &mut Learned,
    volume: &Arc<Volume>,
    rng: &mut Rng,
) -> Result<(), Error> {
    let lane = &mut learned.lane;
    let sectors = length(rng);
    // Much goes to few places, so that writes overlap.
    let places = if rng.chance(1, 2) { 64 } else { lane.sectors - sectors + 1 };
    let places = places.min(lane.sectors - sectors + 1);
    let lba = lane.base + rng.below(places);
    match rng.below(100) {
        0..64 => lane_write(seed, lane, volume, lba, sectors),
        64..76 => lane_trim(lane, volume, lba, sectors),
        76..86 => match lane_read(seed, lane, volume, lba, sectors) {
            // A read of a store that fails fails, and harms nothing.
            Err(Error::Store(_)) => Ok(()),
            other => other,
        },
        86..98 => {
            let begun = now();
            flush(volume)?;
            learned.flushed = begun;
            Ok(())
        }
        _ => {
            let begun = now();
            volume.flush_to_store()?;
            learned.uploaded = begun;
            Ok(())
        }
    }
}

/// Sectors of a request: mostly small, up to 256 KiB, now and then more than a record's 1 MiB.
fn length(rng: &mut Rng) -> u64 {
    match rng.below(40) {
        0 => 2049 + rng.below(2500),
        1..10 => 1 + rng.below(512),
        10..20 => 8,
        _ => 1 + rng.below(40),
    }
}
