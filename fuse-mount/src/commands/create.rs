//! `create`: make a volume.

use std::ffi::OsStr;

use anyhow::Result;
use lsvd_volume::FileAttrs;

use super::{perform, volume_name};
use crate::config::{Settings, parse_sync};
use crate::control::protocol::Request;
use crate::exit::usage;
use crate::fs::inode::now_ms;
use crate::output::{Output, line};
use crate::sizes::{parse_volume_size, show_bytes};

/// A disk's content is its owner's business.
const MODE: u32 = 0o600;

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
    let now = now_ms();
    let attrs = FileAttrs {
        mode: MODE,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        created_ms: now,
        modified_ms: now,
    };
    let done =
        perform(settings, &Request::Create { name: name.clone(), size_bytes, attrs, sync_remote })?;
    output.print(&done, |_| line(format!("created {name}, {}", show_bytes(size_bytes))))?;
    Ok(())
}
