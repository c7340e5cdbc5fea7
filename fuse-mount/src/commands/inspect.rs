//! `inspect`: look into a volume's parts.

use std::ffi::OsStr;

use anyhow::Result;

use super::{perform, volume_name};
use crate::config::Settings;
use crate::control::protocol::{Part, Request};
use crate::output::{Output, fields};

pub(super) fn run(
    settings: &Settings,
    name: &OsStr,
    object: Option<u64>,
    map: bool,
    output: Output,
) -> Result<()> {
    let name = volume_name(name)?;
    let part = match object {
        Some(number) => Part::Object(number),
        None if map => Part::Map,
        None => Part::Summary,
    };
    let report = perform(settings, &Request::Inspect { name, part })?;
    output.print(&report, fields)?;
    Ok(())
}
