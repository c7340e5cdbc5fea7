//! Requests that concern snapshots and clones.

use anyhow::{Result, bail};
use lsvd_volume::{Moment, ObjectSeq, VolumeName};
use serde_json::{Value, json};

use super::protocol::{Point, Request};
use crate::fs::volumes::Volumes;
use crate::moment::show_time;

/// Does what `request` asks and says what came of it.
pub(super) fn execute(volumes: &Volumes, request: &Request) -> Result<Value> {
    match request {
        Request::SnapshotCreate { name, snapshot } => {
            let node = volumes.find(&VolumeName::new(name)?)?;
            volumes.writer(&node)?.create_snapshot(&VolumeName::of_snapshot(snapshot)?)?;
            Ok(json!({ "snapshot": snapshot, "of": name }))
        }
        Request::SnapshotList { name } => list(volumes, name),
        Request::SnapshotDelete { name, snapshot } => {
            let (volume, kept) = (VolumeName::new(name)?, VolumeName::of_snapshot(snapshot)?);
            volumes.engine().delete_snapshot(&volume, &kept)?;
            Ok(json!({ "deleted": snapshot, "of": name }))
        }
        Request::SnapshotRollback { name, snapshot } => {
            let node = volumes.find(&VolumeName::new(name)?)?;
            volumes.roll_back(&node, &VolumeName::of_snapshot(snapshot)?)?;
            Ok(json!({ "rolled_back": name, "to": snapshot }))
        }
        Request::SnapshotProtect { name, snapshot, protected } => {
            let (volume, kept) = (VolumeName::new(name)?, VolumeName::of_snapshot(snapshot)?);
            volumes.engine().protect_snapshot(&volume, &kept, *protected)?;
            Ok(json!({ "snapshot": snapshot, "of": name, "protected": protected }))
        }
        Request::Clone { name, point, new, attrs } => {
            let (base, new) = (VolumeName::new(name)?, VolumeName::new(new)?);
            let engine = volumes.engine();
            let made = match point {
                Point::Head => {
                    volumes.writer(&*volumes.find(&base)?)?;
                    engine.clone_volume(&base, None, &new, *attrs)?
                }
                Point::Snapshot(kept) => engine.clone_volume(
                    &base,
                    Some(&VolumeName::of_snapshot(kept)?),
                    &new,
                    *attrs,
                )?,
                Point::Object(seq) => {
                    let moment = Moment::Object(ObjectSeq::new(*seq));
                    engine.clone_moment(&base, moment, &new, *attrs)?
                }
                Point::Time(ms) => engine.clone_moment(&base, Moment::Time(*ms), &new, *attrs)?,
            };
            volumes.made(&new, &made);
            Ok(json!({ "created": made.name, "uuid": made.uuid.to_string(), "base": name }))
        }
        other => bail!("{other:?} is no request about snapshots"),
    }
}

fn list(volumes: &Volumes, name: &str) -> Result<Value> {
    let found = volumes.engine().snapshots(&VolumeName::new(name)?)?;
    let rows = found.iter().map(|snapshot| {
        let mut row = serde_json::to_value(snapshot)?;
        if let Some(row) = row.as_object_mut() {
            row.insert("made".to_owned(), show_time(snapshot.created_ms).into());
        }
        Ok(row)
    });
    Ok(Value::Array(rows.collect::<Result<_>>()?))
}
