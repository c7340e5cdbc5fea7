//! The read cache: frames of objects on the local SSD, shared by all volumes of the daemon.
//!
//! ```text
//!   read(key, offset) --> index --slot, sums--> slot file --pread--> verify --> filled
//!                           |  no entry            |                   |  differs, or the slot
//!                           v                      |                   v  was given away
//!                          miss  <-----------------+-------------------+
//!                                                  +--> would wait: it is not in memory
//! ```
//!
//! A cache holds nothing that the store does not hold; so nothing that goes wrong here is an
//! error. A damaged, torn, replaced or unreadable slot is a miss, and a device that keeps
//! failing turns the cache off, with one warning.
//!
//! It **starts empty** when the daemon starts; the file is used again, its content is not.

mod clock;
mod file_cache;
mod index;
mod slots;

use std::fmt;

pub use file_cache::FileCache;
use uuid::Uuid;

use crate::format::Nonce;
use crate::units::ObjectSeq;

/// Most bytes in a frame.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// Which frame of which object. The nonce is the object's own: a number that is taken by
/// different objects in two stores, or in one after a disaster, is never mixed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// The volume in whose stream the object is.
    pub volume: Uuid,
    /// The object.
    pub object: ObjectSeq,
    /// The object's nonce.
    pub nonce: Nonce,
    /// Number of the frame in the object.
    pub frame: u32,
}

/// Counters of a cache since it was opened, and its size now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheStats {
    /// Frames that were looked for and found, each time that a request looks for them.
    pub hits: u64,
    /// And not found. Neither counts what was there but had to be waited for: it is looked for again.
    pub misses: u64,
    /// Frames put in.
    pub inserts: u64,
    /// Frames that made room for others.
    pub evictions: u64,
    /// Slots that did not hold what they should, and failed reads and writes of the file.
    pub failures: u64,
    /// Bytes of slots in use.
    pub used_bytes: u64,
    /// Bytes of slots there can be.
    pub capacity_bytes: u64,
    /// Whether it was turned off after failures.
    pub off: bool,
}

/// What a read of a cache came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheRead {
    /// The bytes are there.
    Filled,
    /// The frame is not there, or not as long.
    Absent,
    /// It is there, but not in memory, and the read may not wait; never if it may.
    WouldWait,
}

/// How a frame comes to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody reads it, and may read more of it next.
    Read,
    /// It was written, or moved to another object. Most such frames are never read.
    Written,
}

/// A cache of frames. Calls may block on local I/O, so they are made without engine locks.
pub trait ReadCache: Send + Sync + fmt::Debug {
    /// Fills `out` with the bytes of the frame from `offset` on, verified. If it does not, `out`
    /// holds anything.
    fn read(&self, key: &FrameKey, offset: u32, out: &mut [u8], may_wait: bool) -> CacheRead;

    /// Puts a whole frame in, of 1 to [`FRAME_BYTES_MAX`] bytes; others are ignored.
    fn insert(&self, key: FrameKey, frame: &[u8], origin: Origin);

    /// Whether the frame is probably here; a hint that needs no I/O.
    fn contains(&self, key: &FrameKey) -> bool;

    /// Counters and size.
    fn stats(&self) -> CacheStats;
}

/// The cache that holds nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

impl ReadCache for NoCache {
    fn read(&self, _: &FrameKey, _offset: u32, _out: &mut [u8], _may_wait: bool) -> CacheRead {
        CacheRead::Absent
    }

    fn insert(&self, _key: FrameKey, _frame: &[u8], _origin: Origin) {}

    fn contains(&self, _key: &FrameKey) -> bool {
        false
    }

    fn stats(&self) -> CacheStats {
        CacheStats::default()
    }
}
