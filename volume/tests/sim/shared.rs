//! What several scripts need besides the world: names, contents, and a disk that is worn.

use std::sync::Arc;

use lsvd_volume::{FileAttrs, ObjectSeq, Volume, VolumeName};

use crate::world::{LANE_SECTORS, World, read};

pub(crate) fn named(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub(crate) fn attrs() -> FileAttrs {
    FileAttrs { mode: 0o600, uid: 0, gid: 0, created_ms: 1, modified_ms: 1 }
}

/// All bytes of a disk.
pub(crate) fn content(volume: &Arc<Volume>) -> Vec<u8> {
    read(volume, 0, volume.size_bytes() as usize).unwrap()
}

/// Overwrites parts of the disk, an upload a round, so that most objects hold a little that is needed.
/// Returns the last object then.
pub(crate) fn wear(world: &mut World, volume: &Arc<Volume>, rounds: u64) -> ObjectSeq {
    for _ in 0..rounds {
        for _ in 0..8 {
            let (at, sectors) = (world.rng.below(LANE_SECTORS - 64), 1 + world.rng.below(64));
            world.write(volume, 0, at, sectors);
        }
        world.upload(volume);
    }
    ObjectSeq::new(volume.stats().committed_object)
}
