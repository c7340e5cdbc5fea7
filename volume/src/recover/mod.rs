//! From a store and a log to a volume that can be used.
//!
//! ```text
//! superblock -> checkpoint (root, leaves) -> roll forward over headers -> first missing number
//!     -> whose log is it? -> fence at that number -> fillers -> replay of the log
//! ```
//! Everything up to the question whose log it is only reads; a refusal leaves no trace.

mod log;
mod roll;
mod state;
mod takeover;

pub(crate) use log::{Ownership, ownership, ownership_among, replay};
pub(crate) use state::{StreamState, pins};
pub(crate) use takeover::{Takeover, Won};
