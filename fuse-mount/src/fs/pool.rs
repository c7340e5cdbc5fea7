//! A few threads for operations that may wait: for the store, for a fence, for recovery, for the log.
//!
//! FUSE workers only do what never waits; everything else goes through a pool and is answered
//! from there, so that a slow store never keeps a read of cached data from being served.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam::channel::{Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end when the pool is dropped and their queue is empty; nobody waits for
/// them, as one of them may be waiting for a store that is gone.
pub(crate) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// Starts `threads` threads with this name and a number.
    pub(crate) fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = unbounded::<Job>();
        for number in 0..threads {
            let queue = queue.clone();
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                for job in queue {
                    // A panic drops the job's reply, which answers EIO; the others go on.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        log::error!("a file operation panicked; it was answered with EIO");
                    }
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job` on one of the threads.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The queue is open as long as the pool is.
        let _ = self.jobs.send(Box::new(job));
    }
}
