//! Every byte that outlives the process: layouts, their encoders and decoders.
//!
//! ```text
//!   local SSD                          store
//!   ---------                          -----
//!   log_header   two per log file      name_record   volumes/<name>
//!   log_record   the ring's content    superblock    data/<uuid>/super
//!   leaf         also in sled          object        data/<uuid>/o/<seq>
//!                                        = object_header + data_object | shared_object | checkpoint | fence
//!                                          checkpoint bodies hold `leaf`s,
//!                                          data bodies hold `compress`ed frames
//! ```
//!
//! Rules of this module:
//! * bytes only: no I/O, no locks, no clock, no randomness;
//! * all integers are little-endian, all checksums are xxh3-64;
//! * bytes are untrusted: decoding never panics, never indexes unchecked, and never allocates
//!   more than a small multiple of the bytes it was given;
//! * every format starts with a magic number and has a version. Where the checksum lies, and
//!   what it covers, is the same in all versions; it is verified before the version is looked
//!   at, so [`FormatError::NewerVersion`] is said of intact bytes only;
//! * encoders refuse what their decoders would refuse.
#![deny(clippy::indexing_slicing)]

pub mod checkpoint;
mod chunk_sums;
pub mod codec;
pub mod compress;
pub mod data_object;
mod error;
pub mod fence;
mod ids;
pub mod leaf;
pub mod log_header;
pub mod log_record;
pub mod name_record;
pub mod object;
pub mod object_header;
pub mod shared_object;
pub mod snapshot;
pub mod superblock;
#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod testing;

pub use checkpoint::{CheckpointHeader, FenceRecord, LeafRef, ObjectRecord};
pub use compress::{FrameCodec, compress_frame, decompress_frame};
pub use data_object::{DataHeader, ExtentKind, FrameRef, MovedExtent, ObjectExtent, Place};
pub use error::{FormatError, FormatResult};
pub use fence::{FenceHeader, FillerHeader};
pub use ids::{FenceId, LogId, Nonce, ShortText, StoreId, VolumeTag};
pub use leaf::{LEAF_SECTORS, LeafExtent, decode_leaf, encode_leaf};
pub use log_header::{HeaderSlot, LogHeader, LogPoint, PickedHeader};
pub use log_record::{
    ChunkSums, RECORD_HEAD_BYTES, RecordHead, RecordKind, RecordPrefix, payload_offset, record_len,
};
pub use name_record::NameRecord;
pub use object::ObjectHeader;
pub use object_header::{CommonHeader, ObjectKind, Stamp, peek};
pub use shared_object::{Holder, SHARED_EXTENTS_MAX, SharedExtent, SharedHeader};
pub use snapshot::{Base, Snapshot};
pub use superblock::{CheckpointRef, FileAttrs, Section, StoredOptions, Superblock, VolumeState};
