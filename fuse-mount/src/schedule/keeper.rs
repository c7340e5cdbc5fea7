//! The thread `lsvd-schedule`: looks after the scheduled snapshots of the volumes that are open for
//! writing.
//!
//! It looks at the clock every few seconds instead of sleeping until the next snapshot is due, so that a
//! clock that is set and a machine that slept are nothing special. A look costs the store nothing. What
//! fails is said once for a volume and tried again, until it is well again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use lsvd_volume::{Engine, Error, Uuid, Volume, VolumeName, VolumeStats};

use super::plan::{Plan, plan};
use super::{Schedule, Schedules};
use crate::fs::volumes::Volumes;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(5);

/// How long a volume is left alone after something failed.
const RETRY: Duration = Duration::from_secs(30);

/// Starts the thread, unless no volume has a schedule or nothing may be changed.
pub(crate) fn start(volumes: &Arc<Volumes>, schedules: Schedules) {
    if schedules.is_empty() || volumes.is_read_only() {
        return;
    }
    let mut keeper = Keeper { volumes: Arc::downgrade(volumes), schedules, kept: HashMap::new() };
    let body = move || {
        while keeper.look() {
            std::thread::sleep(TICK);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("lsvd-schedule".to_owned()).spawn(body) {
        log::error!("cannot start a thread; no scheduled snapshots are taken: {error}");
    }
}

struct Keeper {
    /// Weak: the cache directory is free once the mount has ended.
    volumes: Weak<Volumes>,
    schedules: Schedules,
    kept: HashMap<Uuid, Kept>,
}

/// A volume that was open once.
struct Kept {
    /// That of the name it had first; a volume that is renamed takes it along.
    schedule: Schedule,
    /// When something failed last, if it did the last time.
    failed: Option<Instant>,
}

impl Keeper {
    /// One look at all volumes; false if the mount has ended.
    fn look(&mut self) -> bool {
        let Some(volumes) = self.volumes.upgrade() else { return false };
        for volume in volumes.engine().all_opened() {
            let schedules = &self.schedules;
            let kept = self.kept.entry(volume.uuid()).or_insert_with(|| Kept {
                schedule: schedules.of(&volume.name()).clone(),
                failed: None,
            });
            let wait = kept.failed.is_some_and(|at| at.elapsed() < RETRY);
            if kept.schedule.is_empty() || wait {
                continue;
            }
            // Another volume may have taken its time.
            let now = Timestamp::now();
            let outcome = look_after(volumes.engine(), &volume, &kept.schedule, now);
            let failed = outcome.is_err().then(Instant::now);
            let failed_before = std::mem::replace(&mut kept.failed, failed).is_some();
            let name = volume.name();
            match outcome {
                Err(error) if !failed_before => log::warn!(
                    "volume {name:?}: scheduled snapshots wait, and are tried again: {error:#}"
                ),
                Err(error) => log::debug!("volume {name:?}: {error:#}"),
                Ok(()) if failed_before => {
                    log::info!("volume {name:?}: scheduled snapshots are as they should be again");
                }
                Ok(()) => {}
            }
        }
        true
    }
}

fn look_after(engine: &Engine, volume: &Volume, schedule: &Schedule, now: Timestamp) -> Result<()> {
    let known = engine.known_snapshots(volume);
    match volume.stats().state.as_str() {
        VolumeStats::HEALTHY => {}
        VolumeStats::DEGRADED if plan(schedule, now, &known, |_| Ok(true))? == Plan::default() => {
            return Ok(());
        }
        VolumeStats::DEGRADED => bail!("the store does not answer"),
        // It is no longer this host's to look after.
        _ => return Ok(()),
    }
    let is_written = |since: Option<&str>| Ok(volume.is_written_since(since)?);
    let Plan { make, delete } = plan(schedule, now, &known, is_written)?;
    let name = VolumeName::new(&volume.name())?;
    for snapshot in make {
        volume.create_snapshot(&VolumeName::of_snapshot(&snapshot)?)?;
        log::info!("made {name}@{snapshot}");
    }
    for snapshot in delete {
        match engine.delete_snapshot(&name, &VolumeName::of_snapshot(&snapshot)?) {
            Ok(()) => log::info!("deleted {name}@{snapshot}"),
            // Somebody else deleted it, or wants it.
            Err(error @ (Error::NoSuchSnapshot { .. } | Error::SnapshotKept { .. })) => {
                log::debug!("{error}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
