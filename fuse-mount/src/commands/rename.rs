//! `rename`: give a volume another name.

use std::ffi::OsString;

use anyhow::Result;

use super::{perform, volume_names};
use crate::config::Settings;
use crate::control::protocol::Request;
use crate::output::{Output, line};

pub(super) fn run(
    settings: &Settings,
    old: &OsString,
    new: &OsString,
    output: Output,
) -> Result<()> {
    let [from, to] = volume_names([old, new])?;
    let text = format!("renamed {from} to {to}");
    let done = perform(settings, &Request::Rename { from, to })?;
    output.print(&done, |_| line(text))?;
    Ok(())
}
