//! A decorator that makes a store fail on purpose: for tests and simulation.
//!
//! ```text
//! call -> counted, fault decided -> [gates: BeforeEffect] -> outage or crash? -> effect
//!                                                                                  |
//!      reply, lost by a fault, an outage or a crash  <-  [gates: AfterEffect]  <---+
//! ```
//!
//! * A [`FaultPlan`] decides by a seed or by a script which calls fail, before or after their
//!   effect, or late: the caller is told of a failure and the write lands when the test says
//!   so ([`FaultyStore::land_late`]), as a delayed request of a deposed writer would.
//! * [`FaultyStore::hold`] stops an operation at a known point until the test lets it go.
//! * [`FaultyStore::set_down`] is an outage, [`FaultyStore::crash`] the client's death: nothing
//!   has an effect any more. Both wait for effects in progress, so that what they cut off is
//!   sharp. The wrapped store itself stays usable: share it to look at what is left.
//!
//! All injected errors are `Unavailable`. The same seed gives the same faults, whatever the
//! threads do: a call is decided by its operation, its key and how many such calls went before.

mod gate;
mod plan;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::IoSlice;

use parking_lot::{Mutex, RwLock};

pub use gate::{Gate, Point};
pub use plan::{Fault, FaultPlan, Odds, Op, Rule};

use crate::{
    ByteRange, Front, Key, ListPage, ObjectMeta, ObjectStore, Requests, StoreError, StoreResult,
    Version,
};
use gate::Gates;
use plan::Decider;

/// What one kind of operation did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCount {
    /// Calls that arrived.
    pub calls: u64,
    /// Calls that had their effect, whether or not the reply got through.
    pub effects: u64,
    /// Bytes of objects that these effects wrote or read.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Up,
    Down,
    Crashed,
}

/// The cause inside an injected [`StoreError::Unavailable`].
#[derive(Debug, thiserror::Error)]
enum Injected {
    #[error("injected: the request was lost")]
    RequestLost,
    #[error("injected: the reply was lost")]
    ReplyLost,
    #[error("injected: the store is down")]
    Down,
    #[error("injected: the client has crashed")]
    Crashed,
}

/// A write whose caller was told that it failed and that has yet to land.
#[derive(Debug)]
enum LateWrite {
    Create(Key, Vec<u8>),
    Replace(Key, Vec<u8>, Version),
    Delete(Key),
}

/// Makes operations of `S` fail; see the [module](self).
pub struct FaultyStore<S> {
    inner: S,
    decider: Mutex<Decider>,
    gates: Gates,
    /// Read-locked during an effect.
    power: RwLock<Power>,
    late: Mutex<VecDeque<LateWrite>>,
    counts: Mutex<HashMap<Op, OpCount>>,
}

impl<S: ObjectStore> FaultyStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, plan: FaultPlan) -> Self {
        Self {
            inner,
            decider: Mutex::new(Decider::new(plan)),
            gates: Gates::default(),
            power: RwLock::new(Power::Up),
            late: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// The store behind the faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Adds a rule to whatever the plan says. It counts calls from now on.
    pub fn inject(&self, rule: Rule) {
        self.decider.lock().add(rule);
    }

    /// Holds every `op` on a key that matches `pattern` before it has an effect, until the gate
    /// is released or dropped. In a pattern `*` stands for any text; a listing's key is its prefix.
    pub fn hold(&self, op: Op, pattern: &str) -> Gate {
        self.hold_at(Point::BeforeEffect, op, pattern)
    }

    /// As [`Self::hold`], at a point of choice.
    pub fn hold_at(&self, point: Point, op: Op, pattern: &str) -> Gate {
        self.gates.add(point, op, pattern)
    }

    /// Begins or ends an outage. A crash is for ever.
    pub fn set_down(&self, is_down: bool) {
        let mut power = self.power.write();
        if *power != Power::Crashed {
            *power = if is_down { Power::Down } else { Power::Up };
        }
    }

    /// From now on every operation fails and has no effect. Held ones are let go, to fail too.
    pub fn crash(&self) {
        *self.power.write() = Power::Crashed;
        self.gates.release_all();
    }

    /// Lets all writes land that a [`Fault::Late`] delayed, in the order of their calls, even
    /// after a crash of their sender. Returns how each of them ended.
    pub fn land_late(&self) -> Vec<StoreResult<()>> {
        let writes: Vec<LateWrite> = self.late.lock().drain(..).collect();
        let land = |write| match write {
            LateWrite::Create(key, body) => self.inner.create(&key, &[IoSlice::new(&body)]),
            LateWrite::Replace(key, body, expected) => {
                self.inner.replace(&key, &body, &expected).map(drop)
            }
            LateWrite::Delete(key) => self.inner.delete(&key),
        };
        writes.into_iter().map(land).collect()
    }

    /// What the operations of kind `op` did so far.
    pub fn count(&self, op: Op) -> OpCount {
        self.counts.lock().get(&op).copied().unwrap_or_default()
    }

    /// Calls of all kinds so far.
    pub fn calls(&self) -> u64 {
        self.counts.lock().values().map(|count| count.calls).sum()
    }

    fn run<T>(
        &self,
        op: Op,
        key: &str,
        late: impl FnOnce() -> Option<LateWrite>,
        effect: impl FnOnce(&S) -> StoreResult<T>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> StoreResult<T> {
        let fail = |cause| self.unavailable(op, key, cause);
        self.counts.lock().entry(op).or_default().calls += 1;
        let fault = self.decider.lock().decide(op, key);
        if !self.is_crashed() {
            self.gates.pass(Point::BeforeEffect, op, key);
        }
        let reply = {
            let power = self.power.read();
            if let Some(cause) = outage(*power) {
                return Err(fail(cause));
            }
            match fault {
                Some(Fault::Before) => return Err(fail(Injected::RequestLost)),
                Some(Fault::Late) => {
                    self.late.lock().extend(late());
                    return Err(fail(Injected::RequestLost));
                }
                Some(Fault::After) | None => {}
            }
            let reply = effect(&self.inner);
            if let Ok(done) = &reply {
                let mut counts = self.counts.lock();
                let count = counts.entry(op).or_default();
                count.effects += 1;
                count.bytes += bytes(done);
            }
            reply
        };
        if !self.is_crashed() {
            self.gates.pass(Point::AfterEffect, op, key);
        }
        if let Some(cause) = outage(*self.power.read()) {
            return Err(fail(cause));
        }
        match fault {
            Some(_) => Err(fail(Injected::ReplyLost)),
            None => reply,
        }
    }

    fn is_crashed(&self) -> bool {
        *self.power.read() == Power::Crashed
    }

    fn unavailable(&self, op: Op, key: &str, cause: Injected) -> StoreError {
        StoreError::Unavailable {
            store: self.inner.url().to_owned(),
            key: key.to_owned(),
            operation: op.name(),
            source: Box::new(cause),
        }
    }
}

fn outage(power: Power) -> Option<Injected> {
    match power {
        Power::Up => None,
        Power::Down => Some(Injected::Down),
        Power::Crashed => Some(Injected::Crashed),
    }
}

/// Reads never land late: a reply that nobody waits for changes nothing.
fn never() -> Option<LateWrite> {
    None
}

fn total(parts: &[IoSlice<'_>]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

impl<S: ObjectStore> ObjectStore for FaultyStore<S> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn identity(&self) -> &str {
        self.inner.identity()
    }

    fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
        let late = || {
            let body = parts.iter().flat_map(|part| part.iter().copied());
            Some(LateWrite::Create(key.clone(), body.collect()))
        };
        let effect = |inner: &S| inner.create(key, parts);
        self.run(Op::Create, key.as_str(), late, effect, |()| total(parts))
    }

    fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
        let late = || {
            let (body, expected) = (body.to_vec(), expected.clone());
            Some(LateWrite::Replace(key.clone(), body, expected))
        };
        let effect = |inner: &S| inner.replace(key, body, expected);
        let bytes = |_: &Version| body.len() as u64;
        self.run(Op::Replace, key.as_str(), late, effect, bytes)
    }

    fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
        let effect = |inner: &S| inner.get(key);
        let bytes = |(body, _): &(Vec<u8>, Version)| body.len() as u64;
        self.run(Op::Get, key.as_str(), never, effect, bytes)
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
        let effect = |inner: &S| inner.get_range(key, range);
        self.run(Op::GetRange, key.as_str(), never, effect, |body| body.len() as u64)
    }

    fn get_front(&self, key: &Key, limit: u64) -> StoreResult<Front> {
        let effect = |inner: &S| inner.get_front(key, limit);
        self.run(Op::GetRange, key.as_str(), never, effect, |front| front.bytes.len() as u64)
    }

    fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
        let effect = |inner: &S| inner.head(key);
        self.run(Op::Head, key.as_str(), never, effect, |_| 0)
    }

    fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
        let effect = |inner: &S| inner.list(prefix, after, limit);
        self.run(Op::List, prefix, never, effect, |_| 0)
    }

    fn requests_to_delete(&self, keys: usize) -> u64 {
        // Each goes by its own gate.
        keys as u64
    }

    fn further_requests(&self) -> Requests {
        self.inner.further_requests()
    }

    fn delete(&self, key: &Key) -> StoreResult<()> {
        let late = || Some(LateWrite::Delete(key.clone()));
        let effect = |inner: &S| inner.delete(key);
        self.run(Op::Delete, key.as_str(), late, effect, |()| 0)
    }
}

impl<S: fmt::Debug> fmt::Debug for FaultyStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore")
            .field("inner", &self.inner)
            .field("power", &*self.power.read())
            .finish_non_exhaustive()
    }
}
