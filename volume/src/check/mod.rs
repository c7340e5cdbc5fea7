//! Proving volumes from the store alone.
//!
//! ```text
//!   names <-> superblocks <-> objects      orphans: what belongs to no volume      (all volumes)
//!                  |
//!             checkpoint                   volume
//!         .--------+--------.
//!       root              tail             the map and the stream behind it, against
//!     leaves, extents    headers           the headers of the objects
//!         '--------+--------'
//!               leaks                      objects that nobody knows
//!               frames                     deep: every byte of data
//! ```
//! * A check only reads, unless it is to repair; and a repair only removes what is proved to be of no
//!   use to anybody, or gives a volume without a name one. Damage is never repaired.
//! * It may run beside a writer, here or on another host. What is missing is damage only if the
//!   newest checkpoint needs it still (`judge`); where objects were collected while they were
//!   looked at, the volume is looked at again, a few times.
//! * Memory is bounded: some 40 bytes for each object of a volume, one root, and fixed amounts of
//!   leaves, extents, headers and frames (`extents`).
//! * Objects are reached through `Stream` only. A volume has several roots: its newest one, perhaps one
//!   not published yet, and one for each snapshot.

mod deep;
mod desk;
mod extents;
mod judge;
mod leaks;
mod leaves;
mod listing;
mod mend;
mod one;
mod orphans;
mod report;
mod root;
mod strays;
mod survey;
mod tail;
mod volume;

pub use desk::Listener;
pub use report::{CheckProgress, CheckReport, Finding, Severity, Tally, VolumeCheck};

pub(crate) use desk::Desk;
pub(crate) use listing::Listing;
pub(crate) use mend::{ThisHost, mend};
pub(crate) use one::check_one;
pub(crate) use orphans::{check_all, is_named};

/// How thoroughly to check, and what to do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Read every data object whole.
    pub deep: bool,
    /// Remove what is proved to be of no use; name volumes that have no name.
    pub repair: bool,
    /// Most bytes of the map and of data to read in a second.
    pub bytes_per_s: Option<u64>,
}
