//! Opening a store that may not answer yet: a mount waits for it, and says so.
//!
//! ```text
//!   lsvd-store: open, list ── Unavailable? pause, again ──┐ outcome
//!   caller:     signals, the parent that waits ───────────┴─> store | error
//! ```
//! The store is asked on a thread of its own, as it may take its time to say no.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{RecvTimeoutError, bounded};
use lsvd_store::{ObjectStore, StoreError};

use crate::config::Settings;
use crate::daemonize::Reporter;
use crate::{exit, signals, store_url};

/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often the log says that it still waits.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How often signals and the parent are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long one may be silent where the user would not wait.
const FAIL_FAST: Duration = Duration::from_secs(5);

/// How long a store may be silent before that is worth a word.
const SILENCE: Duration = Duration::from_secs(3);

/// The store, once it answers. Signals must be blocked.
///
/// # Errors
/// The store refuses, a signal or the end of the parent ends the waiting, or the store does not
/// answer and the settings say `fail-fast`.
pub(crate) fn open(settings: &Settings, reporter: &mut Reporter) -> Result<Arc<dyn ObjectStore>> {
    let (tell, told) = bounded(1);
    let own = settings.clone();
    let ask = move || {
        let mut pause = PAUSES.0;
        loop {
            let attempt = answering(&own);
            let again = attempt.as_ref().is_err_and(is_away) && !own.fail_fast.value;
            // Nobody listens any more: the waiting was broken off.
            if tell.send(attempt).is_err() || !again {
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    };
    std::thread::Builder::new()
        .name("lsvd-store".to_owned())
        .spawn(ask)
        .context("cannot start a thread")?;
    let began = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let reason = match told.recv_timeout(LOOK) {
            Ok(Ok(store)) => {
                if said.is_some() {
                    let seconds = began.elapsed().as_secs();
                    log::info!("the store {} answers after {seconds} s", store.url());
                }
                return Ok(store);
            }
            Ok(Err(error)) if settings.fail_fast.value || !is_away(&error) => return Err(error),
            Ok(Err(error)) => Some(exit::one_line(&error)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow!("opening the store {} failed", settings.store.value));
            }
        };
        if let Some(signal) = signals::pending() {
            bail!("{signal} while waiting for the store {}", settings.store.value);
        }
        if !reporter.is_heard() {
            bail!("`mount` was ended while waiting for the store {}", settings.store.value);
        }
        if settings.fail_fast.value && began.elapsed() > FAIL_FAST {
            let url = &settings.store.value;
            bail!("the store {url} did not answer within {} s (fail-fast)", FAIL_FAST.as_secs());
        }
        let silent = said.is_none() && began.elapsed() > SILENCE;
        let due = said.is_some_and(|at| at.elapsed() > TELL_EVERY);
        if (said.is_none() && reason.is_some()) || silent || due {
            let reason = reason.unwrap_or_else(|| "it does not answer".to_owned());
            let line = format!("waiting for the store {}: {reason}", settings.store.value);
            log::warn!("{line}");
            if said.is_none() {
                reporter.waiting(&line);
            }
            said = Some(Instant::now());
        }
    }
}

/// The store, if it can be opened and answers.
fn answering(settings: &Settings) -> Result<Arc<dyn ObjectStore>> {
    let store = store_url::open(settings)?;
    store.list("", None, 1)?;
    Ok(store)
}

fn is_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Unavailable { .. }))
    })
}
