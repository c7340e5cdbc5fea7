//! Whether a store really keeps two hosts apart.
//!
//! Everything that fences rests on two operations: of several creates of one object exactly one
//! succeeds, and an object is replaced only in the version that was named. There are servers that
//! ignore such conditions and servers that check them without being atomic, and both answer
//! politely. So it is tried:
//!
//! ```text
//!   create A, create B      the second must find it taken
//!   replace by version      the present version works, the one before does not
//!   8 threads create at once, several rounds
//!                           one wins at most, and the object holds what the winner wrote
//! ```
//! A reply that got lost makes a winner look like a loser, so no winner at all proves nothing
//! against the store; a second one does. Each attempt has keys of its own below `probe/`, and
//! removes them.

use std::io::IoSlice;
use std::sync::Arc;

use lsvd_store::{Key, ObjectStore, StoreError, StoreResult};
use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::keys;
use crate::platform::Platform;

/// Threads that create one object at once.
const RIVALS: usize = 8;
/// How often they do.
const ROUNDS: u64 = 6;

/// Tries the store; see the module.
///
/// # Errors
/// [`Error::NoFencing`] says what the store did wrong; any other error that it could not be tried.
pub(crate) fn probe(store: &Arc<dyn ObjectStore>, platform: &Arc<dyn Platform>) -> Result<()> {
    let attempt = platform.random();
    let probe = Probe { store, platform };
    let mut used = Vec::new();
    let outcome = (|| {
        let key = keys::probe(attempt, 0)?;
        used.push(key.clone());
        probe.one_after_the_other(&key)?;
        for round in 1..=ROUNDS {
            let key = keys::probe(attempt, round)?;
            used.push(key.clone());
            probe.at_once(&key)?;
        }
        Ok(())
    })();
    if let Err(error) = store.delete_many(&used) {
        log::warn!("{}: objects below probe/ are left over: {error}", store.url());
    }
    outcome
}

struct Probe<'a> {
    store: &'a Arc<dyn ObjectStore>,
    platform: &'a Arc<dyn Platform>,
}

impl Probe<'_> {
    fn one_after_the_other(&self, key: &Key) -> Result<()> {
        let text = |who: &str| format!("{who} {:032x}", self.platform.random()).into_bytes();
        let (first, second, third) = (text("first"), text("second"), text("third"));
        if !self.create(key, &first)? && self.store.get(key)?.0 != first {
            return Err(self.fault("it says that an object exists which was never created"));
        }
        if self.create(key, &second)? {
            return Err(self.fault("it answers a second create of one object with success"));
        }
        let (found, version) = self.store.get(key)?;
        if found != first {
            return Err(self.fault("a second create of one object failed, and replaced it"));
        }
        match self.store.replace(key, &second, &version) {
            Ok(_) => {}
            // An attempt before, whose reply was lost.
            Err(StoreError::Precondition { .. }) if self.store.get(key)?.0 == second => {}
            Err(e) => return Err(e.into()),
        }
        match self.store.replace(key, &third, &version) {
            Err(StoreError::Precondition { .. }) if self.store.get(key)?.0 == second => Ok(()),
            Ok(_) | Err(StoreError::Precondition { .. }) => {
                Err(self.fault("it replaces an object in another version than the one named"))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn at_once(&self, key: &Key) -> Result<()> {
        let bodies: Vec<_> = (0..RIVALS)
            .map(|i| Arc::new(format!("rival {i} {:032x}", self.platform.random()).into_bytes()))
            .collect();
        let start = Arc::new(RwLock::new(()));
        let mut rivals = Vec::with_capacity(RIVALS);
        let mut failed = None;
        {
            // They begin when this lets go.
            let _not_yet = start.write();
            for body in &bodies {
                let (store, key, body) = (Arc::clone(self.store), key.clone(), Arc::clone(body));
                let start = Arc::clone(&start);
                let (tell, told) = crossbeam::channel::bounded(1);
                let run = Box::new(move || {
                    drop(start.read());
                    // Whoever listens waits for it.
                    let _ = tell.send(create(&*store, &key, &body));
                });
                match self.platform.spawn("lsvd-probe", run) {
                    Ok(thread) => rivals.push((thread, told)),
                    Err(e) => {
                        failed = Some(Error::local("lsvd-probe", "start the thread", e));
                        break;
                    }
                }
            }
        }
        let mut winners = Vec::new();
        for (i, (thread, told)) in rivals.into_iter().enumerate() {
            let told = told.recv();
            // A panic shows in that there is no answer.
            let _ = thread.join();
            match told {
                Ok(Ok(true)) => winners.push(i),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => failed = Some(error.into()),
                Err(_) => failed = Some(Error::Closing("a thread of the probe panicked".into())),
            }
        }
        if winners.len() > 1 {
            return Err(self.fault(&format!(
                "of {RIVALS} creates of one object at once it answers {} with success",
                winners.len()
            )));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let (found, _) = self.store.get(key)?;
        let holds = bodies.iter().position(|body| **body == found);
        match (winners.first(), holds) {
            (None, Some(_)) => Ok(()),
            (Some(winner), Some(held)) if *winner == held => Ok(()),
            _ => Err(self.fault("an object does not hold what the create that succeeded wrote")),
        }
    }

    fn create(&self, key: &Key, body: &[u8]) -> Result<bool> {
        Ok(create(&**self.store, key, body)?)
    }

    fn fault(&self, fault: &str) -> Error {
        Error::NoFencing { store: self.store.url().to_owned(), fault: fault.to_owned() }
    }
}

/// Whether the object was created; `false` if it exists.
fn create(store: &dyn ObjectStore, key: &Key, body: &[u8]) -> StoreResult<bool> {
    match store.create(key, &[IoSlice::new(body)]) {
        Ok(()) => Ok(true),
        Err(StoreError::AlreadyExists { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use lsvd_store::{ByteRange, ListPage, MemStore, ObjectMeta, Version};

    use super::*;
    use crate::platform::Host;

    /// What is wrong with a store.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Wrong {
        Nothing,
        /// Creates overwrite.
        IgnoresCreate,
        /// Creates look first and write then.
        LooksThenWrites,
        /// Replaces overwrite.
        IgnoresReplace,
    }

    #[derive(Debug)]
    struct Careless(MemStore, Wrong);

    impl Careless {
        fn overwrite(&self, key: &Key, body: &[u8]) -> StoreResult<()> {
            while self.0.create(key, &[IoSlice::new(body)]).is_err() {
                self.0.delete(key)?;
            }
            Ok(())
        }
    }

    impl ObjectStore for Careless {
        fn url(&self) -> &str {
            "careless:"
        }

        fn create(&self, key: &Key, parts: &[IoSlice<'_>]) -> StoreResult<()> {
            let body: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            match self.1 {
                Wrong::IgnoresCreate => self.overwrite(key, &body),
                Wrong::LooksThenWrites => match self.0.head(key) {
                    Ok(_) => self.0.create(key, parts),
                    Err(_) => {
                        // Long enough for the others to look as well.
                        std::thread::yield_now();
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        self.overwrite(key, &body)
                    }
                },
                _ => self.0.create(key, parts),
            }
        }

        fn replace(&self, key: &Key, body: &[u8], expected: &Version) -> StoreResult<Version> {
            if self.1 == Wrong::IgnoresReplace {
                let (_, present) = self.0.get(key)?;
                return self.0.replace(key, body, &present);
            }
            self.0.replace(key, body, expected)
        }

        fn get(&self, key: &Key) -> StoreResult<(Vec<u8>, Version)> {
            self.0.get(key)
        }

        fn get_range(&self, key: &Key, range: ByteRange) -> StoreResult<Vec<u8>> {
            self.0.get_range(key, range)
        }

        fn head(&self, key: &Key) -> StoreResult<ObjectMeta> {
            self.0.head(key)
        }

        fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> StoreResult<ListPage> {
            self.0.list(prefix, after, limit)
        }

        fn delete(&self, key: &Key) -> StoreResult<()> {
            self.0.delete(key)
        }
    }

    fn try_out(wrong: Wrong) -> Result<()> {
        let inner = MemStore::new();
        let store: Arc<dyn ObjectStore> = Arc::new(Careless(inner.clone(), wrong));
        let platform: Arc<dyn Platform> = Arc::new(Host::new());
        let outcome = probe(&store, &platform);
        let left = inner.list("", None, 10).expect("a listing").objects;
        assert!(left.is_empty(), "{wrong:?} leaves {left:?}");
        outcome
    }

    #[test]
    fn a_sound_store_passes() {
        try_out(Wrong::Nothing).expect("nothing is wrong with it");
    }

    #[test]
    fn careless_stores_are_found_out_and_named() {
        for (wrong, named) in [
            (Wrong::IgnoresCreate, "a second create"),
            (Wrong::LooksThenWrites, "creates of one object at once"),
            (Wrong::IgnoresReplace, "another version"),
        ] {
            let error = try_out(wrong).expect_err("it is careless");
            assert!(matches!(error, Error::NoFencing { .. }), "{wrong:?}: {error}");
            let text = error.to_string();
            for part in ["careless:", named, "--no-fencing"] {
                assert!(text.contains(part), "{wrong:?}: {text}");
            }
        }
    }
}
