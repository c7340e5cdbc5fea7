//! The narrow seam between the engine and the machine under it.
//!
//! Clock, randomness, threads, the SSD file, the shared-memory buffer and failpoints are
//! reached only through [`Platform`], so that a test can put a simulated machine under the
//! whole engine: an SSD that loses, tears and reorders what was not synced, a crash at any
//! named step. The store has its own seam, [`lsvd_store::ObjectStore`].
//!
//! Outside the seam are what no promise rests on (the read cache's file, sled, the pauses
//! between attempts at the store) and the waiting on condition variables.
//!
//! The cost in production is one virtual call per I/O, none per byte.

mod aio;
mod buffer;
mod host;
mod ssd_file;
mod thread;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use buffer::LogBuffer;
pub use host::Host;
pub(crate) use thread::may_idle;
pub use thread::{ThreadCores, without_core};

/// How a background thread shares the processors with other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Only where nobody else wants to run.
    Idle,
    /// Behind others, but it gets on.
    Steady,
}

/// A thread of this process that has not ended, for others to control. What is refused costs nothing
/// but speed.
pub trait ThreadControl: Send + fmt::Debug {
    /// Has it make way for others.
    fn make_way(&mut self);

    /// Has it do so in that manner.
    fn set_pace(&mut self, pace: Pace);

    /// Has it run anywhere, or anywhere but on one core if there is another.
    fn keep_off(&mut self, core: Option<usize>);
}

/// The machine, as far as the engine sees it.
pub trait Platform: Send + Sync + fmt::Debug {
    /// Wall-clock time in milliseconds since 1970, for stamps that people read.
    fn unix_millis(&self) -> u64;

    /// Time that never goes back, from an arbitrary start.
    fn monotonic(&self) -> Duration;

    /// 128 random bits; nonces and ids come from here.
    fn random(&self) -> u128;

    /// The name of this host, at most 255 bytes.
    fn host_name(&self) -> String;

    /// Starts a thread.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

    /// The calling thread; `None` where threads cannot be controlled.
    fn this_thread(&self) -> Option<Box<dyn ThreadControl>> {
        None
    }

    /// The core on which the calling thread runs now, if that is known.
    fn this_core(&self) -> Option<usize> {
        None
    }

    /// Called at every durability step, by its name. An error stops the engine there, as a
    /// crash would.
    fn failpoint(&self, name: &'static str) -> io::Result<()>;

    /// Opens a log file; `None` if there is none. `write` is false for a look only.
    fn open_log(&self, path: &Path, write: bool) -> io::Result<Option<Arc<dyn LogFile>>>;

    /// Creates a log file of `bytes`, every block of it written once, beginning with `head`;
    /// durable, and there as a whole or not at all. Replaces an existing one.
    fn create_log(&self, path: &Path, bytes: u64, head: &[u8]) -> io::Result<Arc<dyn LogFile>>;

    /// Removes a log file; a missing one is no error.
    fn remove_log(&self, path: &Path) -> io::Result<()>;

    /// Opens or makes the memory of `bytes` that outlives the process (not the machine) for
    /// the log `id`; new memory is zero.
    fn open_buffer(&self, dir: &Path, id: u128, bytes: usize) -> io::Result<LogBuffer>;

    /// A copy of that memory, for a look only; `None` if there is none of that size.
    fn peek_buffer(&self, dir: &Path, id: u128, bytes: usize) -> io::Result<Option<LogBuffer>>;

    /// Gives the memory back.
    fn remove_buffer(&self, dir: &Path, id: u128);

    /// A number that changes when the machine boots.
    fn boot_id(&self) -> u128;
}

/// The write log's file on the local SSD.
///
/// Offsets and lengths of writes are multiples of 4 KiB and their memory is so aligned.
pub trait LogFile: Send + Sync + fmt::Debug {
    /// The file's length in bytes.
    fn bytes(&self) -> u64;

    /// Fills `out` from `offset`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// As [`Self::read_at`] if that needs no waiting for the device; `false` if it would.
    fn read_at_nowait(&self, offset: u64, out: &mut [u8]) -> io::Result<bool>;

    /// As [`Self::read_at`], for a caller that will not read it again: it may bypass a cache.
    fn read_once_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, out)
    }

    /// Writes `data` at `offset`; with `durable` it is safe on return (this write alone,
    /// not those before it).
    fn write_at(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()>;

    /// Begins to write `data` at `offset`, without making it safe, and returns before it is written.
    /// One at a time: before anything else is written or synced, [`Self::finish_write`] is called, and
    /// until then `data` stays as it is. `false` if that is not to be had now: nothing is written, and
    /// the caller does it by [`Self::write_at`].
    fn begin_write(&self, _offset: u64, _data: &[u8]) -> bool {
        false
    }

    /// Waits for the end of the write that was begun, if one was, and tells its error. `false` if it
    /// ended too early: the caller does it again by [`Self::write_at`].
    fn finish_write(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Makes everything written before safe.
    fn sync(&self) -> io::Result<()>;
}

/// A 4 KiB block at an address that direct I/O accepts.
#[repr(C, align(4096))]
#[derive(Clone)]
pub struct AlignedBlock(pub [u8; 4096]);

impl fmt::Debug for AlignedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlignedBlock")
    }
}
