//! Threads for requests that have to wait for the store or the SSD: misses, unaligned writes.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, unbounded};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::platform::Platform;

/// Threads that wait for the SSD only.
const LOCAL_THREADS: usize = 4;
/// Threads that wait for the store.
const REMOTE_THREADS: usize = 16;

type Task = Box<dyn FnOnce() + Send>;

/// The threads of one engine. A store that does not answer holds up the remote ones only.
/// A task submitted after [`Pool::stop`] is dropped, which fails its request.
#[derive(Debug)]
pub(crate) struct Pool {
    local: Crew,
    remote: Crew,
}

impl Pool {
    /// Starts the threads.
    pub(crate) fn start(platform: &Arc<dyn Platform>) -> Result<Self> {
        Ok(Self {
            local: Crew::start(platform, "lsvd-ssd", LOCAL_THREADS)?,
            remote: Crew::start(platform, "lsvd-io", REMOTE_THREADS)?,
        })
    }

    /// Has `task` done, which waits for nothing but the SSD.
    pub(crate) fn local(&self, task: impl FnOnce() + Send + 'static) {
        self.local.submit(Box::new(task));
    }

    /// Has `task` done, which may wait for the store.
    pub(crate) fn remote(&self, task: impl FnOnce() + Send + 'static) {
        self.remote.submit(Box::new(task));
    }

    /// Ends the threads once they have done what was submitted.
    pub(crate) fn stop(&self) {
        // A local task may hand over to a remote one.
        self.local.stop();
        self.remote.stop();
    }
}

/// Threads with one queue.
struct Crew {
    tasks: Mutex<Option<Sender<Task>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crew")
    }
}

impl Crew {
    fn start(platform: &Arc<dyn Platform>, name: &str, count: usize) -> Result<Self> {
        let (tasks, todo) = unbounded::<Task>();
        let mut threads = Vec::with_capacity(count);
        for i in 1..=count {
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
            let thread = platform.spawn(&format!("{name}-{i}"), body);
            threads.push(thread.map_err(|e| Error::local(name, "start the thread", e))?);
        }
        Ok(Self { tasks: Mutex::new(Some(tasks)), threads: Mutex::new(threads) })
    }

    fn submit(&self, task: Task) {
        if let Some(tasks) = &*self.tasks.lock() {
            // The receivers live as long as the sender.
            let _ = tasks.send(task);
        }
    }

    fn stop(&self) {
        self.tasks.lock().take();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic was reported inside the thread.
            let _ = thread.join();
        }
    }
}
