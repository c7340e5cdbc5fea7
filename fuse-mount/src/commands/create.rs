//! `create`: make a volume.

use std::ffi::OsStr;

use anyhow::Result;

use super::{own_attrs, perform, volume_name};
use crate::config::{Settings, parse_sync};
use crate::control::protocol::Request;
use crate::exit::usage;
use crate::output::{Output, line};
use crate::sizes::{parse_volume_size, show_bytes};

pub(super) fn run(
    settings: &Settings,
    name: &OsStr,
    size: &str,
    sync: Option<&str>,
    output: Output,
) -> Result<()> {
    let name = volume_name(name)?;
    let size_bytes = parse_volume_size(size).map_err(usage)?;
    let sync_remote = sync.map(parse_sync).transpose();
    let sync_remote = sync_remote.map_err(|reason| usage(format!("--sync: {reason}")))?;
    let attrs = own_attrs();
    let done =
        perform(settings, &Request::Create { name: name.clone(), size_bytes, attrs, sync_remote })?;
    output.print(&done, |_| line(format!("created {name}, {}", show_bytes(size_bytes))))?;
    Ok(())
}
