//! The engine of the log-structured virtual disk.
//!
//! A volume is two logs. A **write log** on the local SSD acknowledges; a **stream** of
//! numbered objects in a store keeps. `DESIGN.md` beside this crate's sources says why each
//! part is as it is; this page says how they hang together.
//!
//! ```text
//!   Volume::write ---> log::WriteLog ---> done()            Volume::read
//!      |                    | lsvd-log: SSD, group commit       |
//!      | waits: park        v                                   v
//!      |              log::LogTail                       map::Maps  dirty over clean
//!      |                    | lsvd-batch: coalesce, number       |
//!      |                    v                                   +--> log::LogData  memory, ring
//!      |              batch::Uploaders  lsvd-put-N              +--> cache::ReadCache
//!      |                    | create object                     +--> stream::Stream
//!      |                    v
//!      +---- room ---- in-order commit: clean map, then the log's tail moves
//!                           |      ^
//!                           v      | copies
//!                        gc::Cleaner  lsvd-gc: what is worth keeping of half-empty objects
//! ```
//!
//! # Invariants
//! 1. A record is whole in memory that survives the process before its write is acknowledged.
//! 2. A flush is answered only after a sync that began after everything it covers was written.
//! 3. A number in the stream is decided by one create and never given again.
//! 4. Objects are committed in the order of their numbers; the log is cut only after that.
//! 5. Ring space is re-used only below the tail of *both* durable headers.
//! 6. The clean map is at every moment that of a prefix of the stream; dirty extents carry the
//!    number of their record, and the higher number wins whatever the order of publication.
//! 7. What comes from a store or a disk is verified before it is used, and lengths before
//!    memory is allocated for them.
//! 8. An object is deleted only once the superblock names a checkpoint that condemns it, and no read
//!    that began before is under way.
//! 9. A background thread that fails poisons the volume: writes fail, reads of good data go on. A
//!    volume that another host took over refuses reads as well: what it knows is old.
//!
//! # Threads
//! | thread | owns alone |
//! |---|---|
//! | the caller's (FUSE workers) | nothing; they append, copy and answer inline |
//! | `lsvd-log` | the log file's writes and syncs, unless a flush finds it idle and does a round itself |
//! | `lsvd-batch` | the next object number, the open batch, the commit queue, the clean map |
//! | `lsvd-put-N` | one sealed batch each |
//! | `lsvd-gc` | what is moved and deleted; it hands copies to `lsvd-batch` |
//! | `lsvd-park` | requests that wait for room, pace or a locked range |
//! | `lsvd-ssd-N`, `lsvd-io-N` | per engine: requests that wait for the SSD, for the store |
//! | `lsvd-leaves` | per engine: sled |
//! | `lsvd-check` | per check: what it looks at; who asked hears of the progress |
//!
//! # Locks, in the order in which they may nest
//! | lock | protects | held for |
//! |---|---|---|
//! | `Engine::fencing` | what is known of the store's conditions | the probe, once per cache directory |
//! | `Engine::transition` | opening, closing, renaming, deleting, cloning, rolling back of volumes | the whole step, store requests included |
//! | `Follower::at` | a reader's view of the stream | one look at the stream |
//! | `SuperblockCell::changing` | who may change the superblock | one conditional replace |
//! | `log.flush` | who waits for a flush, how far the file is written | list operations |
//! | `log.headers` | the header pair | one header write (only rounds contend) |
//! | `log.head` | next position and number, unfilled slots, range locks | tens of nanoseconds per write |
//! | `Cleaner::desk` | what is asked of the cleaner and left for it | list operations, one look at sums of the maps |
//! | `maps` | both levels of the map | one lookup, one insert, or a slice of a commit |
//! | `log.memory.readers` | the window's floor | one copy out of memory |
//!
//! All others are leaves held alone. None is held across store requests or syncs but `fencing`,
//! `transition`, `changing` and `log.headers`, which no request on data takes, and `Follower::at`,
//! for which only threads that may wait for the store wait.

mod background;
mod batch;
pub mod cache;
mod cache_dir;
mod catalog;
pub mod check;
mod checkpoint;
pub mod config;
mod core;
mod deadline;
mod delete;
mod delete_damaged;
mod deposed;
mod engine;
pub mod error;
mod follow;
pub mod format;
mod gc;
mod health;
mod history_window;
mod info;
pub mod inspect;
mod keys;
mod leaf_loader;
mod log;
pub mod map;
mod memory;
mod name;
mod object_index;
mod open;
mod park;
pub mod platform;
mod poison;
mod pool;
mod probe;
mod publish;
mod rate;
mod read;
mod recover;
mod reenter;
mod request_stats;
mod rollback;
mod share;
mod snapshot;
mod ssd_io;
mod stats;
mod stream;
mod superblock_cell;
mod threads;
pub mod units;
mod volume;
mod writer;

pub use crate::log::{RING_BYTES_MIN, WINDOW_BYTES_MIN};
pub use check::{Check, CheckProgress, CheckReport};
pub use config::{
    Compression, EngineConfig, HistoryRetention, MAX_DIRTY_BYTES_MIN, READ_PATIENCE, VolumeConfig,
};
pub use engine::Engine;
pub use error::{Error, Result};
pub use format::FileAttrs;
pub use gc::GcReport;
pub use history_window::HistoryBegin;
pub use info::{LogInfo, VolumeInfo};
pub use inspect::{Inspect, InspectReport};
pub use name::VolumeName;
pub use request_stats::{PerGib, RequestStats};
pub use share::ShareLimits;
pub use snapshot::{BaseInfo, KnownSnapshot, Moment, SnapshotInfo};
pub use stats::VolumeStats;
pub use threads::Close;
pub use units::{BLOCK_BYTES, ObjectSeq};
pub use uuid::Uuid;
pub use volume::{SIZE_MAX, Volume};
