//! `resize`: grow or shrink a volume, also in use.

use std::ffi::OsStr;

use anyhow::Result;

use super::{perform, volume_name};
use crate::config::Settings;
use crate::control::client::Client;
use crate::control::protocol::Request;
use crate::control::socket_in;
use crate::exit::usage;
use crate::output::{Output, line};
use crate::sizes::{parse_volume_size, show_bytes};

pub(super) fn run(
    settings: &Settings,
    name: &OsStr,
    size: &str,
    force: bool,
    output: Output,
) -> Result<()> {
    let name = volume_name(name)?;
    let size_bytes = parse_volume_size(size).map_err(usage)?;
    let done = perform(settings, &Request::Resize { name: name.clone(), size_bytes, force })?;
    tell_the_kernel(settings, &name);
    output.print(&done, |_| line(format!("resized {name} to {}", show_bytes(size_bytes))))?;
    Ok(())
}

/// The kernel learns the new size of an open file when somebody asks for it.
fn tell_the_kernel(settings: &Settings, name: &str) {
    if let Ok(Some(client)) = Client::connect(&socket_in(&settings.cache_dir.value))
        && let Err(error) = std::fs::metadata(client.daemon().mountpoint.join(name))
    {
        log::debug!("{name}: {error}");
    }
}
