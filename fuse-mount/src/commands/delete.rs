//! `delete`: a volume and its data.

use std::ffi::OsStr;

use anyhow::Result;

use super::{perform, volume_name};
use crate::config::Settings;
use crate::control::protocol::Request;
use crate::output::{Output, line};

pub(super) fn run(settings: &Settings, name: &OsStr, force: bool, output: Output) -> Result<()> {
    let name = volume_name(name)?;
    let text = format!("deleted {name}");
    let done = perform(settings, &Request::Delete { name, force })?;
    output.print(&done, |_| line(text))?;
    Ok(())
}
