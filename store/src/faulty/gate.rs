//! Gates: hold an operation at a known point until the test lets it go on.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::plan::{Op, matches};

/// Where in an operation a [`Gate`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Nothing has happened in the store yet.
    BeforeEffect,
    /// The store has done it, the caller does not know yet.
    AfterEffect,
}

/// Holds operations back while it exists; dropping it releases them.
#[derive(Debug)]
#[must_use = "a gate that is dropped holds nothing"]
pub struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    point: Point,
    op: Op,
    pattern: String,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// The keys of the operations that came.
    keys: Vec<String>,
    is_open: bool,
}

impl Gate {
    /// Waits until an operation stands (or stood) at the gate.
    pub fn wait_until_reached(&self) {
        self.wait_until_reached_by(1);
    }

    /// Waits until `operations` of them have come to the gate.
    pub fn wait_until_reached_by(&self, operations: u64) {
        let mut progress = self.0.progress.lock();
        self.0
            .changed
            .wait_while(&mut progress, |progress| (progress.keys.len() as u64) < operations);
    }

    /// How many operations have come to the gate so far.
    pub fn reached(&self) -> u64 {
        self.0.progress.lock().keys.len() as u64
    }

    /// The keys of those operations, in the order in which they came.
    pub fn keys(&self) -> Vec<String> {
        self.0.progress.lock().keys.clone()
    }

    /// Lets all operations go on, and holds no later ones.
    pub fn release(&self) {
        self.0.open();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl GateState {
    fn open(&self) {
        self.progress.lock().is_open = true;
        self.changed.notify_all();
    }

    fn is_open(&self) -> bool {
        self.progress.lock().is_open
    }

    fn pass(&self, key: &str) {
        let mut progress = self.progress.lock();
        if progress.is_open {
            return;
        }
        progress.keys.push(key.to_owned());
        self.changed.notify_all();
        self.changed.wait_while(&mut progress, |progress| !progress.is_open);
    }
}

/// All gates of one store.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<Vec<Arc<GateState>>>);

impl Gates {
    pub(super) fn add(&self, point: Point, op: Op, pattern: &str) -> Gate {
        let state = Arc::new(GateState {
            point,
            op,
            pattern: pattern.to_owned(),
            progress: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut gates = self.0.lock();
        gates.retain(|gate| !gate.is_open());
        gates.push(Arc::clone(&state));
        Gate(state)
    }

    /// Waits at every gate that stands in the way, one after the other.
    pub(super) fn pass(&self, point: Point, op: Op, key: &str) {
        let in_the_way: Vec<_> = {
            let gates = self.0.lock();
            let stands = |gate: &&Arc<GateState>| {
                gate.point == point && gate.op == op && matches(&gate.pattern, key)
            };
            gates.iter().filter(stands).cloned().collect()
        };
        for gate in in_the_way {
            gate.pass(key);
        }
    }

    pub(super) fn release_all(&self) {
        for gate in self.0.lock().drain(..) {
            gate.open();
        }
    }
}
