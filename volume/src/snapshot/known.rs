//! What is known of the snapshots of an open volume without asking the store: for whoever decides now
//! and then whether to make or delete some, while an idle volume is to cost no requests.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::Snapshot;
use crate::units::LogSeq;
use crate::volume::Volume;

/// A snapshot as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownSnapshot {
    /// Its name.
    pub name: String,
    /// Whether it cannot be deleted now: it is protected, open, or has clones.
    pub is_held: bool,
}

impl Engine {
    /// The snapshots of an open volume as last seen here, the oldest first.
    pub fn known_snapshots(&self, volume: &Volume) -> Vec<KnownSnapshot> {
        let known = |snapshot: &Snapshot| KnownSnapshot {
            name: snapshot.name.to_string(),
            is_held: snapshot.protected
                || !snapshot.clones.is_empty()
                || self.is_viewed(snapshot.id),
        };
        volume.core.superblock.get().snapshots.iter().map(known).collect()
    }
}

impl Volume {
    /// Whether anything was written since a snapshot was made; since the volume itself was made, if
    /// none is given. The store is asked for one object the first time, where that snapshot was made before
    /// the volume was opened.
    ///
    /// # Errors
    /// The volume is not open for writing, there is no such snapshot, or the store fails.
    pub fn is_written_since(&self, snapshot: Option<&str>) -> Result<bool> {
        let writer = self.writer()?;
        let last = match snapshot {
            None => LogSeq::ZERO,
            Some(name) => self.last_record_in(name)?,
        };
        Ok(writer.log.last_seq() > last)
    }

    fn last_record_in(&self, name: &str) -> Result<LogSeq> {
        let superblock = self.core.superblock.get();
        let mut all = superblock.snapshots.iter();
        let Some(snapshot) = all.find(|snapshot| snapshot.name.as_str() == name) else {
            return Err(Error::NoSuchSnapshot { volume: self.name(), snapshot: name.to_owned() });
        };
        let last_in_snapshot = &self.writer()?.last_in_snapshot;
        if let Some(record) = last_in_snapshot.lock().get(&snapshot.id) {
            return Ok(*record);
        }
        let record = self.read_last_record(snapshot)?;
        let mut last_in_snapshot = last_in_snapshot.lock();
        last_in_snapshot.retain(|id, _| superblock.snapshots.iter().any(|kept| kept.id == *id));
        last_in_snapshot.insert(snapshot.id, record);
        Ok(record)
    }

    /// Every object says up to which record of the log the stream has everything.
    fn read_last_record(&self, snapshot: &Snapshot) -> Result<LogSeq> {
        // Only between the checkpoint and the moment is every object there still. Who cannot know takes
        // it for written.
        if snapshot.at < snapshot.checkpoint.seq {
            return Ok(LogSeq::ZERO);
        }
        let stream = &self.core.stream;
        let missing = || Error::damaged(stream.describe(snapshot.at), "it is missing");
        Ok(stream.header(snapshot.at)?.ok_or_else(missing)?.stamp().log_seq)
    }
}
