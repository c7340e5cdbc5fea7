//! From the log to the object stream.
//!
//! ```text
//!  LogTail --> Builder --seal--> [ lsvd-put-1..N: encode, create ] --> in-order commit --> log.release
//!              coalesces          parallel, at most WINDOW ahead        clean map, then tail
//! ```
//! One thread, `lsvd-batch`, owns the next object number, the open batch and the commit
//! queue, and is the only writer of the clean map. Uploads run in parallel and finish in any
//! order; commits never overtake. While nothing presses, uploads use only processors that
//! nobody else wants: the log has what they bring away.

mod buffers;
mod builder;
mod encode;
mod orders;
mod sequencer;
mod uploader;

pub(crate) use orders::{Committed, Orders, ShareRequest};
pub(crate) use sequencer::{Position, Sequencer, WINDOW};
