//! Where each sector of a volume lives.
//!
//! ```text
//!            lookup(extent)
//!                 |
//!     dirty map   v       in memory, bounded by the size of the write log
//!     |--log--|  |zero|   |--log--|        newest: still only in the write log
//!         gaps fall through
//!     clean map   v       cut into leaves of 16 MiB of disk
//!     |--obj 7--|   |--obj 9--|-obj 7-|    committed in the object stream
//!         gaps are holes: zeroes
//! ```
//!
//! [`Maps`] holds both and is what the rest of the engine uses, under one lock. A write enters
//! the dirty map; the commit of an object moves its extents from the dirty into the clean map.
//!
//! Invariants:
//! * within each map extents are disjoint;
//! * a dirty extent hides whatever the clean map says about its sectors;
//! * moving an extent from dirty to clean never changes what a reader sees, so a commit may
//!   be done in slices with the lock released in between;
//! * the live count of an object is the number of sectors of the clean map that point at it.
//!
//! Leaves of the clean map that a checkpoint holds may be away. What needs one says which, and is
//! asked again once it was fetched.
//!
//! Nothing here does I/O except [`LeafStore`], the discardable copy of leaves on the local
//! SSD, and nothing here knows about frames, compression or the store.

mod clean_map;
mod dirty_map;
mod leaf;
mod leaf_store;
mod maps;
mod object_table;
mod residency;

pub use clean_map::{Absent, CleanMap, CleanPiece, Halted, LeafChange};
pub use dirty_map::{DirtyExtent, DirtyMap, DirtySource, Piece};
pub use leaf::{LEAF_SECTORS, Leaf, LeafIndex};
pub use leaf_store::{LeafItem, LeafStore, StoredLeaf};
pub use maps::{CommitExtent, CommitSource, MapPiece, Maps, Stopped};
pub use object_table::{ObjectTable, ObjectUsage, Pin, Usage};
