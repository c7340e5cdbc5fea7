//! `info`: one volume, or the settings in force.

use std::ffi::OsStr;

use anyhow::Result;
use serde_json::Value;

use super::{perform, volume_name};
use crate::config::Settings;
use crate::control::protocol::Request;
use crate::output::{Output, fields, table};

pub(super) fn run(
    settings: &Settings,
    name: Option<&OsStr>,
    effective_config: bool,
    output: Output,
) -> Result<()> {
    let name = name.map(volume_name).transpose()?;
    match name {
        Some(name) if !effective_config => {
            let info = perform(settings, &Request::Info { name })?;
            output.print(&info, fields)?;
        }
        name => output.print(&settings.effective(name.as_deref()), settings_table)?,
    }
    Ok(())
}

fn settings_table(effective: &Value) -> String {
    let rows = effective.get("settings").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    table(rows, &[("SETTING", "/key"), ("VALUE", "/value"), ("FROM", "/source")])
}
