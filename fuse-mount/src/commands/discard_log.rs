//! `discard-log`: give up writes that another host's have overtaken.

use std::ffi::OsStr;

use anyhow::Result;
use serde_json::Value;

use super::{perform, volume_name};
use crate::config::Settings;
use crate::control::protocol::Request;
use crate::output::{Output, line};
use crate::sizes::show_bytes;

pub(super) fn run(settings: &Settings, name: &OsStr, output: Output) -> Result<()> {
    let name = volume_name(name)?;
    let done = perform(settings, &Request::DiscardLog { name: name.clone() })?;
    output.print(&done, |done| {
        let bytes = done.get("discarded_bytes").and_then(Value::as_u64).unwrap_or(0);
        line(format!("{name}: gave up {} of writes", show_bytes(bytes)))
    })?;
    Ok(())
}
