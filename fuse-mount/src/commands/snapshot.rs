//! `snapshot`: points of a volume's history that are kept; `clone`: volumes that begin with one.

use std::ffi::OsStr;

use anyhow::Result;
use lsvd_volume::VolumeName;
use serde_json::Value;

use super::{own_attrs, perform, volume_name};
use crate::cli::SnapshotCommand;
use crate::config::Settings;
use crate::control::protocol::{Point, Request};
use crate::exit::usage;
use crate::moment::parse_moment;
use crate::output::{Columns, Output, line, table};

const COLUMNS: &Columns = &[
    ("SNAPSHOT", "/name"),
    ("MADE", "/made"),
    ("SIZE", "/size_bytes"),
    ("EXCLUSIVE", "/exclusive_bytes"),
    ("PROTECTED", "/protected"),
    ("CLONES", "/clones"),
];

pub(super) fn run(settings: &Settings, command: &SnapshotCommand, output: Output) -> Result<()> {
    let (request, said) = match command {
        SnapshotCommand::Create { snapshot } => {
            let (name, snapshot) = both(snapshot)?;
            let said = format!("made {name}@{snapshot}");
            (Request::SnapshotCreate { name, snapshot }, said)
        }
        SnapshotCommand::List { name } => return list(settings, name, output),
        SnapshotCommand::Delete { snapshot } => {
            let (name, snapshot) = both(snapshot)?;
            let said = format!("deleted {name}@{snapshot}");
            (Request::SnapshotDelete { name, snapshot }, said)
        }
        SnapshotCommand::Rollback { snapshot } => {
            let (name, snapshot) = both(snapshot)?;
            let said = format!("{name} is what it was at {name}@{snapshot}");
            (Request::SnapshotRollback { name, snapshot }, said)
        }
        SnapshotCommand::Protect { snapshot } => protect(snapshot, true)?,
        SnapshotCommand::Unprotect { snapshot } => protect(snapshot, false)?,
    };
    let done = perform(settings, &request)?;
    output.print(&done, |_| line(said))?;
    Ok(())
}

fn protect(snapshot: &OsStr, protected: bool) -> Result<(Request, String)> {
    let (name, snapshot) = both(snapshot)?;
    let what = if protected { "is protected" } else { "may be deleted" };
    let said = format!("{name}@{snapshot} {what}");
    Ok((Request::SnapshotProtect { name, snapshot, protected }, said))
}

fn list(settings: &Settings, name: &OsStr, output: Output) -> Result<()> {
    let name = volume_name(name)?;
    let found = perform(settings, &Request::SnapshotList { name: name.clone() })?;
    output.print(&found, |found| match found.as_array().map(Vec::as_slice) {
        None | Some([]) => line(format!(
            "{name} has no snapshots; make one with `lsvd-fuse snapshot create {name}@NAME`"
        )),
        Some(rows) => table(rows, COLUMNS),
    })?;
    Ok(())
}

/// `clone`.
pub(super) fn run_clone(
    settings: &Settings,
    from: &OsStr,
    new: &OsStr,
    output: Output,
) -> Result<()> {
    let new = volume_name(new)?;
    let (name, at) = split(from)?;
    let name = VolumeName::new(name)?.as_str().to_owned();
    let point = match at {
        None => Point::Head,
        Some(text) => match parse_moment(text).map_err(usage)? {
            Some(moment) => moment,
            None => Point::Snapshot(VolumeName::of_snapshot(text)?.as_str().to_owned()),
        },
    };
    let attrs = own_attrs();
    let done = perform(settings, &Request::Clone { name, point, new: new.clone(), attrs })?;
    output.print(&done, |_| line(format!("made {new}, which begins as {}", from.display())))?;
    Ok(())
}

/// `flatten`.
pub(super) fn run_flatten(settings: &Settings, name: &OsStr, output: Output) -> Result<()> {
    let name = volume_name(name)?;
    let done = perform(settings, &Request::Flatten { name: name.clone() })?;
    output.print(&done, |done| match done.get("finished").and_then(Value::as_bool) {
        Some(true) => line(format!("{name} needs no other volume any more")),
        _ => line(format!("left off; {name} is still a clone")),
    })?;
    Ok(())
}

/// `NAME@SNAPSHOT` in its parts.
fn both(given: &OsStr) -> Result<(String, String)> {
    match split(given)? {
        (name, Some(snapshot)) => Ok((
            VolumeName::new(name)?.as_str().to_owned(),
            VolumeName::of_snapshot(snapshot)?.as_str().to_owned(),
        )),
        (name, None) => Err(usage(format!("{name:?} names no snapshot; write {name}@SNAPSHOT"))),
    }
}

fn split(given: &OsStr) -> Result<(&str, Option<&str>)> {
    let text = given.to_str().ok_or_else(|| usage(format!("{given:?} is not UTF-8")))?;
    Ok(text.split_once('@').map_or((text, None), |(name, at)| (name, Some(at))))
}
