//! The write log: a ring on the local SSD whose newest part lives in memory.
//!
//! ```text
//!    append (FUSE threads)                       lsvd-log thread
//!       | reserve, copy, hash, publish               | large direct writes, one sync for all
//!       v                                            v
//!  [ memory window ......... ] ---------------> [ ring on the SSD ................. ]
//!                      \                            /
//!                       +--> LogTail (lsvd-batch) <+    released once committed in the store
//! ```
//! A write is acknowledged when its record is whole in the memory, which survives the
//! process; a flush is answered when everything before it is safe on the SSD. The log is
//! the queue to the store: there is no second copy of the backlog.
//!
//! Files: [`layout`] where a position lies · `head` who may take the next one · `memory`
//! the window · `data` file and memory together · `header_pair` the file's two headers · `write_log` append and release ·
//! `flusher` the thread, `flush_state` its orders, `sync_core` where syncs are carried out · `tail` reading in order for the
//! sequencer · `tail_signal` waking it · `fetch` reading a piece for a reader · `scan` what a crash left ·
//! `open` making and opening a log.

mod ages;
mod data;
mod fetch;
mod flush_state;
mod flusher;
mod head;
mod header_pair;
pub(crate) mod layout;
mod memory;
mod open;
mod scan;
mod sync_core;
mod tail;
mod tail_signal;
mod write_log;

pub(crate) use data::LogData;
pub(crate) use fetch::Fetched;
pub(crate) use flush_state::FlushDone;
pub(crate) use head::{Limits, Pass, Wait};
pub use layout::{RING_BYTES_MIN, WINDOW_BYTES_MIN};
pub(crate) use open::{LogOnDisk, LogParams, Start};
pub(crate) use scan::ScanEnd;
pub(crate) use sync_core::VALID as SYNC_CORE_VALID;
pub(crate) use tail::LogTail;
pub(crate) use write_log::{Entry, Refused, WriteLog};
