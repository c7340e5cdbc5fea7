//! `gc`: give space back to the store.

use std::ffi::OsStr;

use anyhow::Result;
use serde_json::Value;

use super::{perform, volume_name};
use crate::config::{Settings, parse_percent};
use crate::control::protocol::Request;
use crate::exit::usage;
use crate::output::{Output, line};
use crate::sizes::show_bytes;

/// What share of the data is needed afterwards if the user does not say, in percent.
const TARGET_PERCENT: u64 = 80;

pub(super) fn run(
    settings: &Settings,
    name: &OsStr,
    target: Option<&str>,
    now: bool,
    output: Output,
) -> Result<()> {
    let name = volume_name(name)?;
    let target_percent = match target {
        Some(text) => parse_percent(text).map_err(|why| usage(format!("--target: {why}")))?,
        None => TARGET_PERCENT,
    };
    let done = perform(settings, &Request::Gc { name: name.clone(), target_percent, now })?;
    output.print(&done, |done| {
        let number = |key| done.get(key).and_then(Value::as_u64).unwrap_or(0);
        line(format!(
            "{name}: {}% of {} in the store are needed; {} in {} objects were deleted, {} moved",
            number("utilisation_percent"),
            show_bytes(number("data_bytes")),
            show_bytes(number("deleted_bytes")),
            number("deleted_objects"),
            show_bytes(number("moved_bytes")),
        ))
    })?;
    Ok(())
}
