//! A look into a volume's parts: superblock, log, stream, read cache, any object, the map.
//!
//! Nothing is changed and nobody is fenced. Everything that carries a checksum is verified on
//! the way; what does not match is the report, or an error that names it.

use std::path::PathBuf;

use serde::Serialize;

use crate::cache::CacheStats;
use crate::error::{Error, Result};
use crate::format::{
    DataHeader, ExtentKind, FenceId, LogHeader, LogPoint, ObjectHeader, RecordKind, SharedExtent,
    Stamp, Superblock, decompress_frame,
};
use crate::leaf_loader::verify_leaves;
use crate::log::{LogOnDisk, WriteLog};
use crate::map::{CleanPiece, LEAF_SECTORS};
use crate::recover::StreamState;
use crate::stream::Stream;
use crate::units::{Extent, Lba, ObjectSeq, SECTOR_BYTES};

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// The superblock, the end of the stream, this host's log and its read cache.
    Summary,
    /// One object of the stream, all of it.
    Object(ObjectSeq),
    /// The map of what is in the store.
    Map,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum InspectReport {
    /// Of [`Inspect::Summary`].
    Volume(Box<VolumeReport>),
    /// Of [`Inspect::Object`].
    Object(Box<ObjectReport>),
    /// Of [`Inspect::Map`].
    Map(MapReport),
}

/// A volume's superblock, stream and log.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeReport {
    /// The superblock.
    pub superblock: SuperblockReport,
    /// The stream.
    pub stream: StreamReport,
    /// This host's log, if there is one.
    pub log: Option<LogReport>,
    /// The read cache, which all volumes of the daemon share; it starts empty with it, and without a
    /// daemon with this command.
    pub cache: CacheStats,
}

/// A decoded superblock.
#[derive(Clone, Debug, Serialize)]
pub struct SuperblockReport {
    name: String,
    uuid: String,
    generation: u64,
    size_bytes: u64,
    epoch: u64,
    committed: u64,
    checkpoint: Option<CheckpointReport>,
    previous_checkpoint: Option<CheckpointReport>,
    last_host: String,
}

/// A checkpoint's number and what it covers.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointReport {
    seq: u64,
    covers: u64,
}

/// The stream as read from its newest checkpoint to its end.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    last_object: u64,
    epoch: u64,
    clean: bool,
    log_seq: u64,
    size_bytes: u64,
    objects_after_checkpoint: u64,
    fences: Vec<FenceReport>,
}

/// A fence.
#[derive(Clone, Debug, Serialize)]
pub struct FenceReport {
    seq: u64,
    epoch: u64,
    nonce: String,
    log_seq: u64,
    host: String,
}

/// A log file: its header, and of one that is not in use what a scan found.
#[derive(Clone, Debug, Serialize)]
pub struct LogReport {
    path: PathBuf,
    ring_bytes: u64,
    buffer_bytes: u64,
    generation: u64,
    incarnation: u64,
    clean: bool,
    committed: u64,
    fence_nonce: Option<String>,
    pending_nonce: Option<String>,
    tail: PointReport,
    start: PointReport,
    durable: PointReport,
    end: PointReport,
    #[serde(flatten)]
    records: Option<RecordCounts>,
}

/// What a log holds from its tail on.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct RecordCounts {
    writes: u64,
    trims: u64,
    resizes: u64,
    voids: u64,
    data_bytes: u64,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PointReport {
    pos: u64,
    seq: u64,
}

impl From<LogPoint> for PointReport {
    fn from(point: LogPoint) -> Self {
        Self { pos: point.pos.get(), seq: point.seq.get() }
    }
}

/// One object.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectReport {
    kind: &'static str,
    seq: u64,
    epoch: u64,
    nonce: String,
    committed: u64,
    log_seq: u64,
    size_bytes: u64,
    written_ms: u64,
    object_bytes: u64,
    /// Host of a fence.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// Of a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    covers: Option<u64>,
    /// Of a checkpoint: leaves in the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaves: Option<u64>,
    /// Of a data object: frames, all of them verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    /// Of an object that changes the map.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extents: Vec<ExtentReport>,
}

/// An extent of the disk, in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct ExtentReport {
    offset: u64,
    bytes: u64,
    /// `data` or `trim`; of the map, and of shared data, the object that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_offset: Option<u64>,
}

/// The map.
#[derive(Clone, Debug, Serialize)]
pub struct MapReport {
    mapped_bytes: u64,
    extents: Vec<ExtentReport>,
}

pub(crate) fn volume(
    superblock: &Superblock,
    state: &StreamState,
    log: Option<LogReport>,
    cache: CacheStats,
) -> InspectReport {
    let checkpoint = |c: crate::format::CheckpointRef| CheckpointReport {
        seq: c.seq.get(),
        covers: c.covers.get(),
    };
    let fence = |f: &crate::format::FenceRecord| {
        let FenceId { seq, epoch, nonce } = f.id;
        FenceReport {
            seq: seq.get(),
            epoch: epoch.get(),
            nonce: nonce.to_string(),
            log_seq: f.log_seq.get(),
            host: f.host.to_string(),
        }
    };
    InspectReport::Volume(Box::new(VolumeReport {
        superblock: SuperblockReport {
            name: superblock.name.to_string(),
            uuid: superblock.volume.to_string(),
            generation: superblock.generation,
            size_bytes: superblock.size_bytes,
            epoch: superblock.epoch.get(),
            committed: superblock.committed.get(),
            checkpoint: superblock.checkpoint.map(checkpoint),
            previous_checkpoint: superblock.previous_checkpoint.map(checkpoint),
            last_host: superblock.last_host.to_string(),
        },
        stream: StreamReport {
            last_object: state.committed().get(),
            epoch: state.epoch.get(),
            clean: state.clean,
            log_seq: state.log_seq.get(),
            size_bytes: state.maps.sectors() * SECTOR_BYTES,
            objects_after_checkpoint: state.rolled,
            fences: state.fences.iter().map(fence).collect(),
        },
        log,
        cache,
    }))
}

/// A log that is not in use, all its records verified.
pub(crate) fn log_at_rest(log: &LogOnDisk) -> Result<LogReport> {
    let mut records = RecordCounts::default();
    let end = log.scan(|record| {
        match record.head.kind {
            RecordKind::Write => records.writes += 1,
            RecordKind::Trim => records.trims += 1,
            RecordKind::Resize => records.resizes += 1,
            RecordKind::Void | RecordKind::Pad => records.voids += 1,
        }
        records.data_bytes += u64::from(record.head.payload_len);
        Ok(())
    })?;
    let end = LogPoint { pos: end.pos, seq: end.seq };
    Ok(log_report(log.path(), log.header(), end, Some(records)))
}

/// A log that is written meanwhile: the header in force, and where it ends now.
pub(crate) fn log_in_use(log: &WriteLog) -> LogReport {
    // In this order the end is never before what the header says.
    let header = log.header();
    log_report(log.header_path(), &header, log.end_point(), None)
}

fn log_report(
    path: PathBuf,
    header: &LogHeader,
    end: LogPoint,
    records: Option<RecordCounts>,
) -> LogReport {
    LogReport {
        path,
        ring_bytes: header.ring_bytes,
        buffer_bytes: header.buffer_bytes,
        generation: header.generation,
        incarnation: header.incarnation.get(),
        clean: header.clean,
        committed: header.committed.get(),
        fence_nonce: header.fence.map(|fence| fence.nonce.to_string()),
        pending_nonce: header.pending.map(|nonce| nonce.to_string()),
        tail: header.tail.into(),
        start: header.start.into(),
        durable: header.durable.into(),
        end: end.into(),
        records,
    }
}

pub(crate) fn object(stream: &Stream, seq: ObjectSeq) -> Result<InspectReport> {
    let missing = || Error::NoSuchObject(stream.describe(seq));
    let (common, _) = stream.peek(seq)?.ok_or_else(missing)?;
    let header = stream.header(seq)?.ok_or_else(missing)?;
    let Stamp { epoch, nonce, committed, log_seq, size_sectors, written_ms, .. } = common.stamp;
    let mut report = ObjectReport {
        kind: "data",
        seq: seq.get(),
        epoch: epoch.get(),
        nonce: nonce.to_string(),
        committed: committed.get(),
        log_seq: log_seq.get(),
        size_bytes: size_sectors * SECTOR_BYTES,
        written_ms,
        object_bytes: common.object_len(),
        host: None,
        covers: None,
        leaves: None,
        frames: None,
        extents: Vec::new(),
    };
    match &header {
        ObjectHeader::Data(data) => {
            verify_frames(stream, seq, data)?;
            if data.moved_from().is_some() {
                report.kind = "moved data";
            }
            report.frames = Some(data.frames().len() as u64);
            report.extents = data.extents().iter().map(data_extent).collect();
        }
        ObjectHeader::Shared(shared) => {
            report.kind = "shared data";
            report.extents = shared.extents().iter().map(shared_extent).collect();
        }
        ObjectHeader::Checkpoint(checkpoint) => {
            verify_leaves(stream, checkpoint)?;
            report.kind = if checkpoint.clean { "checkpoint (clean)" } else { "checkpoint" };
            report.covers = Some(checkpoint.covers.get());
            report.leaves = Some(checkpoint.leaves.len() as u64);
        }
        ObjectHeader::Fence(fence) => {
            report.kind = "fence";
            report.host = Some(fence.host.to_string());
        }
        ObjectHeader::Filler(_) => report.kind = "filler",
    }
    Ok(InspectReport::Object(Box::new(report)))
}

fn shared_extent(shared: &SharedExtent) -> ExtentReport {
    ExtentReport {
        offset: shared.extent.start().get() * SECTOR_BYTES,
        bytes: shared.extent.bytes(),
        kind: None,
        object: Some(shared.from.object.get()),
        object_offset: Some(u64::from(shared.from.sector) * SECTOR_BYTES),
    }
}

fn data_extent(extent: &crate::format::ObjectExtent) -> ExtentReport {
    ExtentReport {
        offset: extent.extent.start().get() * SECTOR_BYTES,
        bytes: extent.extent.bytes(),
        kind: Some(match extent.kind {
            ExtentKind::Data => "data",
            ExtentKind::Trim => "trim",
        }),
        object: None,
        object_offset: None,
    }
}

/// Reads every frame and checks it.
fn verify_frames(stream: &Stream, seq: ObjectSeq, header: &DataHeader) -> Result<()> {
    let mut plain = Vec::new();
    for (index, frame) in header.frames().iter().enumerate() {
        let what = || format!("{}, frame {index}", stream.describe(seq));
        let place = header.frame_range(index).zip(header.frame_logical_len(index));
        let (range, len) =
            place.ok_or_else(|| Error::damaged(what(), "it lies outside the object"))?;
        let stored = stream.read(seq, range)?;
        plain.clear();
        frame
            .verify(&stored)
            .and_then(|()| decompress_frame(frame.codec, &stored, len as usize, &mut plain))
            .map_err(|e| e.of(what()))?;
    }
    Ok(())
}

/// The map, leaf by leaf: not all of them need fit into memory.
pub(crate) fn map(state: &mut StreamState) -> Result<InspectReport> {
    let mut extents = Vec::new();
    let mut pieces = Vec::new();
    let mut at = Lba::ZERO;
    while let Some(next) = state.ask_maps(|maps| maps.clean().next_mapped(at))? {
        let leaf_end = (next.get() / LEAF_SECTORS + 1) * LEAF_SECTORS;
        at = Lba::new(leaf_end);
        let Some(extent) = Extent::between(next, at) else { break };
        state.ask_maps(|maps| {
            pieces.clear();
            maps.clean().lookup(extent, &mut pieces)
        })?;
        extents.extend(pieces.iter().filter_map(extent_report));
        state.maps.evict(u64::MAX);
    }
    let mapped_bytes = state.maps.clean().mapped_sectors() * SECTOR_BYTES;
    Ok(InspectReport::Map(MapReport { mapped_bytes, extents }))
}

fn extent_report(piece: &CleanPiece) -> Option<ExtentReport> {
    match piece {
        CleanPiece::Object { extent, object, object_sector } => Some(ExtentReport {
            offset: extent.start().get() * SECTOR_BYTES,
            bytes: extent.bytes(),
            kind: None,
            object: Some(object.get()),
            object_offset: Some(object_sector * SECTOR_BYTES),
        }),
        CleanPiece::Hole { .. } => None,
    }
}
