//! `list`: the volumes of the store.

use anyhow::{Result, bail};

use super::perform;
use crate::config::Settings;
use crate::control::protocol::Request;
use crate::output::{Columns, Output, line, table};

const COLUMNS: &Columns = &[
    ("NAME", "/name"),
    ("SIZE", "/size_bytes"),
    ("STATE", "/state"),
    ("NOT IN STORE", "/live/dirty_bytes"),
    ("LAST HOST", "/last_host"),
    ("DAMAGE", "/damaged"),
];

pub(super) fn run(settings: &Settings, output: Output) -> Result<()> {
    let volumes = perform(settings, &Request::List)?;
    output.print(&volumes, |volumes| match volumes.as_array().map(Vec::as_slice) {
        None | Some([]) => line("no volumes; make one with `lsvd-fuse create NAME --size 10G`"),
        Some(rows) => table(rows, COLUMNS),
    })?;
    let rows = volumes.as_array().map(Vec::as_slice).unwrap_or_default();
    let damaged = rows.iter().filter_map(|row| row.pointer("/damaged")?.as_str());
    match damaged.reduce(|first, _| first) {
        Some(first) => bail!("{first}"),
        None => Ok(()),
    }
}
