//! A decorator that tries again while a store is unavailable.
//!
//! Only errors that [`StoreError::is_retryable`] says may heal are retried; all others go
//! straight through. The last error is returned as it came.
//!
//! **A retried write may meet its own earlier attempt**, whose reply was lost. This decorator
//! does not guess: a retried create that finds the key taken returns `AlreadyExists`, a retried
//! replace that finds another version returns `Precondition`. The caller, who alone knows what
//! it wrote, reads the object back and compares a nonce. After any other error of a write, the
//! write may or may not have happened, as an earlier attempt may have been the one that did.
//!
//! Time, waiting and chance come through the [`Sleeper`] seam. A [`Stop`] ends all waiting, so
//! that a closing daemon is not held up: attempts in flight end by themselves, none follows.
//!
//! [`StoreError::is_retryable`]: crate::StoreError::is_retryable

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::{
    ByteRange, Front, Key, ListPage, ObjectMeta, ObjectStore, Requests, StoreResult, Version,
};

/// How often and how long to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one operation, the first included.
    pub attempts_max: u32,
    /// No attempt begins later than this after the first one.
    pub deadline: Duration,
    /// Pause after the first failed attempt; it doubles with each further one.
    pub backoff_initial: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Up to this share of each pause is left out by chance, so that clients spread. At most 100.
    pub jitter_percent: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            deadline: Duration::from_secs(60),
            backoff_initial: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            jitter_percent: 50,
        }
    }
}

impl RetryPolicy {
    /// The pause after `failed` attempts (at least 1), shortened by the chance in `random`.
    pub fn pause(&self, failed: u32, random: u64) -> Duration {
        let doublings = failed.saturating_sub(1).min(31);
        let full = self.backoff_initial.saturating_mul(1 << doublings);
        let full = full.min(self.backoff_max);
        let left_out = random % u64::from(self.jitter_percent.min(100) + 1);
        full - full / 100 * left_out as u32
    }
}

/// Ends the waiting of every [`RetryStore`] that shares it, once and for all.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// A stop that has not been set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes all who wait; nobody waits any more.
    pub fn set(&self) {
        let (is_set, changed) = &*self.0;
        *is_set.lock() = true;
        changed.notify_all();
    }

    /// Whether [`Stop::set`] was called.
    pub fn is_set(&self) -> bool {
        *self.0.0.lock()
    }

    /// Waits until set or until `pause` is over; tells whether it is set.
    pub fn wait(&self, pause: Duration) -> bool {
        let (is_set, changed) = &*self.0;
        let mut is_set = is_set.lock();
        changed.wait_while_for(&mut is_set, |is_set| !*is_set, pause);
        *is_set
    }
}

/// The clock, the bed and the dice of a [`RetryStore`].
pub trait Sleeper: Send + Sync + fmt::Debug {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Waits for `pause`, or until `stop` is set; tells whether the whole pause passed.
    fn sleep(&self, pause: Duration, stop: &Stop) -> bool;

    /// A number that differs from call to call.
    fn random(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemSleeper {
    started: Instant,
    seed: RandomState,
}

impl SystemSleeper {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { started: Instant::now(), seed: RandomState::new() }
    }
}

impl Default for SystemSleeper {
    fn default() -> Self {
        Self::new()
    }
}

impl Sleeper for SystemSleeper {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, pause: Duration, stop: &Stop) -> bool {
        !stop.wait(pause)
    }

    fn random(&self) -> u64 {
        self.seed.hash_one(self.now())
    }
}

/// Tries an operation of `S` again while it is unavailable.
#[derive(Debug)]
pub struct RetryStore<S> {
    inner: S,
    policy: RetryPolicy,
    sleeper: Arc<dyn Sleeper>,
    stop: Stop,
}

impl<S: ObjectStore> RetryStore<S> {
    /// Wraps `inner`. In production `sleeper` is a [`SystemSleeper`].
    pub fn new(inner: S, policy: RetryPolicy, sleeper: Arc<dyn Sleeper>, stop: Stop) -> Self {
        Self { inner, policy, sleeper, stop }
    }

    fn run<T>(&self, attempt: impl Fn() -> StoreResult<T>) -> StoreResult<T> {
        let started = self.sleeper.now();
        let mut failed: u32 = 0;
        loop {
            let error = match attempt() {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            failed = failed.saturating_add(1);
            // A store that says when to come again knows best, within what the policy allows.
            let asked = error.retry_after().unwrap_or_default().min(self.policy.backoff_max);
            let pause = self.policy.pause(failed, self.sleeper.random()).max(asked);
            let next = (self.sleeper.now() - started).saturating_add(pause);
            let exhausted = failed >= self.policy.attempts_max || next > self.policy.deadline;
            if exhausted || !self.sleeper.sleep(pause, &self.stop) {
                return Err(error);
            }
            log::debug!("attempt {failed} failed, trying again: {error}");
        }
    }
}

impl<S: ObjectStore> ObjectStore for RetryStore<S> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn identity(&self) -> &str {
        self.inner.identity()
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        self.run(|| self.inner.create(key, parts))
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        self.run(|| self.inner.replace(key, body, expected))
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        self.run(|| self.inner.get(key))
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        self.run(|| self.inner.get_range(key, range))
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        self.run(|| self.inner.get_front(key, limit))
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        self.run(|| self.inner.head(key))
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        self.run(|| self.inner.list(prefix, after, limit))
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        self.run(|| self.inner.delete(key))
    }

    fn delete_many(&self, keys: &[Key]) -> StoreResult<()> {
        if self.inner.requests_to_delete(keys.len()) < keys.len() as u64 {
            return self.run(|| self.inner.delete_many(keys));
        }
        // Each key is a request of its own: one that is lost must not begin all of them anew.
        match self.inner.delete_many(keys) {
            Err(error) if error.is_retryable() => keys.iter().try_for_each(|key| self.delete(key)),
            done => done,
        }
    }

    fn requests_to_delete(&self, keys: usize) -> u64 {
        self.inner.requests_to_delete(keys)
    }

    fn further_requests(&self) -> Requests {
        self.inner.further_requests()
    }
}
