//! FUSE over io_uring: the second transport, since Linux 6.14.
//!
//! ```text
//!   core 0                                   core 1
//!     program ── request ─┐ ┌─ answer          program ── request ─┐ ┌─ answer
//!                         v │                                      v │
//!       kernel: queue 0, entries               kernel: queue 1, entries
//!                         │ ^                                      │ ^
//!     thread of queue 0 ──┴─┘ (on core 0)      thread of queue 1 ──┴─┘ (on core 1)
//!                  └────────── VolumeFs ──────────┘
//!
//!   fuser: the mount, INIT, and one thread on /dev/fuse for FORGET and the end
//! ```
//! Over /dev/fuse a request is a read and its answer a write, and whichever thread reads it may run
//! on another core, which has to be woken for it. Here the answer of one request and the wait for
//! the next are one call, and a request is served on the core that it came from: where a core that
//! idles is slow to wake, as in a virtual machine, that is most of what a small write costs. (Where
//! many come at once, or many are syncs, the thread may leave its core: see `habit`.)
//!
//! The kernel wants at least one entry in the queue of each possible core before it uses any;
//! requests wait until then, and all but FORGET and INTERRUPT come over the rings from then on. So
//! [`Rings::prepare`] makes everything that can fail before the mount is asked for, and
//! [`Rings::start`] registers it right after INIT.
//!
//! An entry is taken from its request to its answer, also while the request waits for the store.
//! A queue therefore has many: see [`entries_per_queue`]. Should all be taken, further requests of
//! that core wait in the kernel for the first answer.
//!
//! ```text
//!   abi      the bytes of headers and commands      slots     the memory of entries
//!   request  bytes -> operation                     queue     the ring and its thread
//!   answer   attributes, names … -> bytes           reply     the answer, from any thread
//!   dispatch operation -> VolumeFs -> answer        opcode    the kernel's numbers
//!   place    the core of a queue's thread           habit     what it is chosen by
//!   crowds   queues with many requests at once
//! ```

pub(crate) mod abi;
mod answer;
mod crowds;
mod dispatch;
mod habit;
mod opcode;
mod place;
mod queue;
mod reply;
mod request;
mod slots;

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{Receiver, Sender, bounded};

use super::VolumeFs;
use crowds::Crowds;
use place::Place;
use queue::Queue;
use slots::Slots;

/// The kernel's switch.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Longest wait at the end for threads that still carry a request out.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// What a thread is given to begin with.
type Start = (OwnedFd, Arc<VolumeFs>);

/// The queues of a mount.
pub(crate) struct Rings {
    queues: Vec<Starter>,
    /// Disconnected when all threads have ended.
    ended: Receiver<()>,
}

struct Starter {
    start: Sender<Start>,
    started: Receiver<io::Result<()>>,
}

impl Rings {
    /// Makes rings, memory and threads, for requests and answers of `payload_bytes` at most.
    ///
    /// # Errors
    /// Why this machine cannot have this transport, and what to do about it.
    pub(crate) fn prepare(payload_bytes: usize) -> Result<Self> {
        check_switch()?;
        let possible = fs::read_to_string("/sys/devices/system/cpu/possible")
            .context("cannot tell how many cores there may be")?;
        let count = cores(&possible)
            .ok_or_else(|| anyhow!("cannot tell how many cores {:?} are", possible.trim()))?;
        let entries = entries_per_queue(count);
        let (alive, ended) = bounded(0);
        let crowds = Arc::new(Crowds::new(count));
        let made: Vec<_> = (0..count)
            .map(|id| start_thread(id, entries, payload_bytes, crowds.clone(), alive.clone()))
            .collect::<io::Result<_>>()
            .context("cannot start threads")?;
        let mut queues = Vec::with_capacity(made.len());
        for (starter, ready) in made {
            let ready = ready.recv().context("a thread of a ring ended")?;
            ready.context("io_uring is not to be had (see `sysctl kernel.io_uring_disabled`)")?;
            queues.push(starter);
        }
        Ok(Self { queues, ended })
    }

    /// Gives the connection `fuse` its entries; requests are served from then on.
    ///
    /// # Errors
    /// The kernel refuses. The connection is to be given up then.
    pub(crate) fn start(&self, fuse: BorrowedFd<'_>, fs: &Arc<VolumeFs>) -> Result<()> {
        for queue in &self.queues {
            let start = (fuse.try_clone_to_owned()?, fs.clone());
            queue.start.send(start).context("a thread of a ring ended")?;
        }
        for queue in &self.queues {
            let started = queue.started.recv().context("a thread of a ring ended")?;
            started.context("the kernel refuses the entries of a ring")?;
        }
        Ok(())
    }

    /// Waits until the threads have noticed the end of the connection.
    pub(crate) fn wait_for_end(&self) {
        if let Err(crossbeam::channel::RecvTimeoutError::Timeout) =
            self.ended.recv_timeout(END_PATIENCE)
        {
            log::warn!("a file operation still runs after the end of the mount");
        }
    }
}

/// Whether the kernel has this transport and it is switched on.
fn check_switch() -> Result<()> {
    match fs::read_to_string(SWITCH) {
        Ok(text) if text.trim() == "Y" => Ok(()),
        Ok(_) => bail!(
            "FUSE over io_uring is switched off; as root, `echo Y > {SWITCH}` switches it on for new mounts"
        ),
        Err(_) => bail!(
            "this kernel has no FUSE over io_uring ({SWITCH} is missing; Linux 6.14 brings it)"
        ),
    }
}

/// How many requests of one core may be unanswered at once. 128 is the core's share, on two cores,
/// of the 256 that the kernel keeps in flight in the background; 16 still let a core work on while
/// a few wait for the store. Each entry has room for the largest request, but only what was in
/// flight at once costs memory.
fn entries_per_queue(queues: u16) -> u16 {
    (512 / queues.max(1)).clamp(16, 128)
}

/// How many cores a list such as `0-3,8` has.
fn cores(list: &str) -> Option<u16> {
    let of_range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    let mut ranges = list.trim().split(',').map(of_range);
    ranges.try_fold(0u16, |sum, range| sum.checked_add(range?))
}

fn start_thread(
    id: u16,
    entries: u16,
    payload_bytes: usize,
    crowds: Arc<Crowds>,
    alive: Sender<()>,
) -> io::Result<(Starter, Receiver<io::Result<()>>)> {
    let (ready_now, ready) = bounded(1);
    let (start, starts) = bounded::<Start>(1);
    let (started_now, started) = bounded(1);
    thread::Builder::new().name(format!("lsvd-ring-{id}")).spawn(move || {
        let _alive = alive;
        let place = Place::on(id, crowds);
        let queue = Slots::new(entries, payload_bytes).and_then(|slots| Queue::new(id, slots));
        let (queue, outcome) = match queue {
            Ok(queue) => (Some(queue), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // Whoever does not listen any more does not send a start, either.
        let _ = ready_now.send(outcome);
        let (Some(queue), Ok((fuse, fs))) = (queue, starts.recv()) else { return };
        let (requests, outcome) = match queue.register(fuse) {
            Ok(requests) => (Some(requests), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let _ = started_now.send(outcome);
        let Some(requests) = requests else { return };
        if let Err(error) = queue.serve(&fs, requests, place) {
            // Every request of this core would hang. What was acknowledged is in the log.
            log::error!("queue {id}: {error}; the daemon cannot go on");
            std::process::abort();
        }
    })?;
    Ok((Starter { start, started }, ready))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        for (list, count) in [("0\n", 1), ("0-1\n", 2), ("0-3,8-11,16", 9)] {
            assert_eq!(cores(list), Some(count), "{list}");
        }
        for list in ["", "x", "3-1", "0-", "0-65535"] {
            assert_eq!(cores(list), None, "{list}");
        }
    }

    #[test]
    fn entries_are_neither_few_nor_without_bound() {
        for (queues, entries) in [(0, 128), (1, 128), (4, 128), (8, 64), (32, 16), (1024, 16)] {
            assert_eq!(entries_per_queue(queues), entries);
        }
    }
}
