//! Carries a request out on the volumes: in the daemon, or in a command without one.

use std::sync::mpsc;

use anyhow::{Context, Result};
use lsvd_volume::{Check, CheckProgress, GcReport, Inspect, ObjectSeq, VolumeName};
use serde_json::{Value, json};

use super::protocol::{Part, Request, Response};
use super::snapshots;
use crate::exit::usage;
use crate::fs::inode::Node;
use crate::fs::volumes::Volumes;

/// Does what `request` asks and says what came of it. `progress` is told meanwhile how far it is,
/// and may break it off by returning false.
pub(crate) fn execute(
    volumes: &Volumes,
    request: &Request,
    progress: &mut dyn FnMut(&Response) -> bool,
) -> Result<Value> {
    match request {
        Request::Hello | Request::Unmount { .. } => Err(usage("there is no daemon to ask")),
        Request::List => list(volumes),
        Request::Info { name } => info(volumes, name),
        Request::Create { name, size_bytes, attrs, sync_remote } => {
            let node =
                volumes.create(&VolumeName::new(name)?, *size_bytes, *attrs, *sync_remote)?;
            Ok(json!({ "created": name, "uuid": node.uuid.to_string(), "size_bytes": size_bytes }))
        }
        Request::Resize { name, size_bytes, force } => {
            let node = volumes.find(&VolumeName::new(name)?)?;
            let before = node.size();
            volumes.resize(&node, *size_bytes, *force)?;
            Ok(json!({ "resized": name, "size_bytes": size_bytes, "size_bytes_before": before }))
        }
        Request::Rename { from, to } => {
            let to_name = VolumeName::new(to)?;
            let node = volumes.find(&VolumeName::new(from)?)?;
            volumes.rename(&node, &to_name)?;
            Ok(json!({ "renamed": from, "to": to }))
        }
        Request::Delete { name, force } => {
            volumes.delete_by_name(&VolumeName::new(name)?, *force)?;
            Ok(json!({ "deleted": name }))
        }
        Request::Check { name, repair, deep, bytes_per_s } => {
            let name = name.as_deref().map(VolumeName::new).transpose()?;
            let options = Check { repair: *repair, deep: *deep, bytes_per_s: *bytes_per_s };
            let tell = &mut |still: &CheckProgress| progress(&Response::Checking(still.clone()));
            let report = volumes.engine().check(name.as_ref(), options, tell)?;
            Ok(serde_json::to_value(report)?)
        }
        Request::Flush { name, wait } => flush(volumes, name, *wait),
        Request::Gc { name, target_percent, now } => {
            let volume = volumes.writer(&*volumes.find(&VolumeName::new(name)?)?)?;
            let before = volume.stats().gc;
            let tell = &mut |report| progress(&Response::Collecting(report));
            let after = volume.collect(*target_percent, *now, tell)?;
            Ok(json!({
                "collected": name,
                "utilisation_percent": after.utilisation_percent,
                "data_bytes": after.data_bytes,
                "data_bytes_before": before.data_bytes,
                "moved_bytes": after.moved_bytes - before.moved_bytes,
                "deleted_objects": after.deleted_objects - before.deleted_objects,
                "deleted_bytes": after.deleted_bytes - before.deleted_bytes,
            }))
        }
        Request::Flatten { name } => {
            let tell = &mut |report: GcReport| {
                progress(&Response::Flattening { left_bytes: report.base_bytes })
            };
            let name = VolumeName::new(name)?;
            let _open = volumes.writer(&*volumes.find(&name)?)?;
            let done = volumes.engine().flatten(&name, tell)?;
            Ok(json!({ "flattened": name.as_str(), "finished": done }))
        }
        Request::Inspect { name, part } => inspect(volumes, name, *part),
        Request::SnapshotCreate { .. }
        | Request::SnapshotList { .. }
        | Request::SnapshotDelete { .. }
        | Request::SnapshotRollback { .. }
        | Request::SnapshotProtect { .. }
        | Request::Clone { .. } => snapshots::execute(volumes, request),
        Request::DiscardLog { name } => {
            let bytes = volumes.discard_log(&*volumes.find(&VolumeName::new(name)?)?)?;
            Ok(json!({ "volume": name, "discarded_bytes": bytes }))
        }
    }
}

fn list(volumes: &Volumes) -> Result<Value> {
    let infos = volumes.infos()?;
    let rows = infos.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::Array(rows))
}

fn info(volumes: &Volumes, name: &str) -> Result<Value> {
    let name = VolumeName::new(name)?;
    let mut info = serde_json::to_value(volumes.info(&name)?)?;
    if let (Some(info), Some(base)) = (info.as_object_mut(), volumes.engine().base_of(&name)?) {
        info.insert("base".to_owned(), serde_json::to_value(base)?);
    }
    Ok(info)
}

fn flush(volumes: &Volumes, name: &str, wait: bool) -> Result<Value> {
    let node = volumes.find(&VolumeName::new(name)?)?;
    if wait {
        volumes.writer(&node)?.flush_to_store()?;
    } else {
        flush_to_ssd(&node)?;
    }
    let dirty = node.volume().map_or(0, |volume| volume.stats().dirty_bytes);
    Ok(json!({ "flushed": name, "to": if wait { "store" } else { "ssd" }, "dirty_bytes": dirty }))
}

/// A volume that is not open has nothing in memory.
fn flush_to_ssd(node: &Node) -> Result<()> {
    let Some(volume) = node.volume().filter(|volume| !volume.is_read_only()) else { return Ok(()) };
    let (tell, told) = mpsc::sync_channel(1);
    volume.flush(move |outcome| {
        // The receiver waits below for exactly this.
        let _ = tell.send(outcome);
    });
    Ok(told.recv().context("the volume closed before it had flushed")??)
}

fn inspect(volumes: &Volumes, name: &str, part: Part) -> Result<Value> {
    let what = match part {
        Part::Summary => Inspect::Summary,
        Part::Object(number) => Inspect::Object(ObjectSeq::new(number)),
        Part::Map => Inspect::Map,
    };
    let report = volumes.engine().inspect(&VolumeName::new(name)?, what)?;
    Ok(serde_json::to_value(report)?)
}
