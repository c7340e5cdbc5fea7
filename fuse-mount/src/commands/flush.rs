//! `flush`: make what was written durable, on the SSD or in the store.

use std::ffi::OsStr;

use anyhow::Result;
use serde_json::Value;

use super::{perform, volume_name};
use crate::config::Settings;
use crate::control::protocol::Request;
use crate::output::{Output, line};
use crate::sizes::show_bytes;

pub(super) fn run(settings: &Settings, name: &OsStr, wait: bool, output: Output) -> Result<()> {
    let name = volume_name(name)?;
    let done = perform(settings, &Request::Flush { name: name.clone(), wait })?;
    output.print(&done, |done| {
        let dirty = done.get("dirty_bytes").and_then(Value::as_u64).unwrap_or(0);
        line(match (wait, dirty) {
            (true, _) => format!("{name}: the store holds everything written before"),
            (false, 0) => format!("{name}: everything written before is durable"),
            (false, bytes) => format!(
                "{name}: durable on the SSD; {} are on their way to the store",
                show_bytes(bytes)
            ),
        })
    })?;
    Ok(())
}
