//! Threads for requests that have to wait for the store or the SSD: misses, unaligned writes.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, unbounded};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::platform::Platform;

/// Threads of one engine.
const THREADS: usize = 16;

type Task = Box<dyn FnOnce() + Send>;

/// See the module.
pub(crate) struct Pool {
    tasks: Mutex<Option<Sender<Task>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

impl Pool {
    /// Starts the threads.
    pub(crate) fn start(platform: &Arc<dyn Platform>) -> Result<Self> {
        let (tasks, todo) = unbounded::<Task>();
        let mut threads = Vec::with_capacity(THREADS);
        for i in 1..=THREADS {
            let todo = todo.clone();
            let body = Box::new(move || {
                while let Ok(task) = todo.recv() {
                    // A panic costs the request (its reply is dropped, which answers EIO), not
                    // the thread.
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).is_err() {
                        log::error!("a request failed by a panic");
                    }
                }
            });
            let thread = platform.spawn(&format!("lsvd-io-{i}"), body);
            threads.push(thread.map_err(|e| Error::local("lsvd-io", "start the thread", e))?);
        }
        Ok(Self { tasks: Mutex::new(Some(tasks)), threads: Mutex::new(threads) })
    }

    /// Has `task` done by one of the threads; false (and not done) after [`Self::stop`].
    pub(crate) fn submit(&self, task: impl FnOnce() + Send + 'static) -> bool {
        match &*self.tasks.lock() {
            Some(tasks) => tasks.send(Box::new(task)).is_ok(),
            None => false,
        }
    }

    /// Ends the threads once they have done what was submitted.
    pub(crate) fn stop(&self) {
        self.tasks.lock().take();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic was reported inside the thread.
            let _ = thread.join();
        }
    }
}
