//! `unmount`: ask the daemon of a mount to end, and wait until it has.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use crate::config::Settings;
use crate::control::client::{Client, is_hung_up};
use crate::control::protocol::{End, Request};
use crate::control::socket_in;
use crate::mounts::{self, UnmountError};
use crate::output::{Output, Progress, line};
use crate::sizes::show_bytes;
use crate::users;

/// After its last word a daemon only has to exit.
const EXIT_SECONDS: i64 = 10;

pub(super) fn run(settings: &Settings, mountpoint: &Path, end: End, output: Output) -> Result<()> {
    let shown = mountpoint.display().to_string();
    let path = mounts::absolute(mountpoint).with_context(|| format!("mountpoint {shown}"))?;
    let Some(client) = daemon_of(settings, &path, &shown)? else {
        refuse_if_alive(&path, &shown)?;
        return clear(&path, &shown, output);
    };
    let pid = client.daemon().pid;
    let asked = ask(client, end);
    // One whose mount is still there, for it is busy, goes on.
    if asked.is_ok() || mounts::at(&path).is_ok_and(|mount| mount.is_none()) {
        wait_for_exit(pid);
    }
    let told = match asked {
        // It did not wait for a store that hangs.
        Err(error) if end == End::Force && is_hung_up(&error) && mounts::at(&path)?.is_none() => {
            json!({ "unmounted": path, "left_in_log_bytes": null })
        }
        asked => asked?,
    };
    output.print(&told, |told| {
        let left = told.get("left_in_log_bytes").map_or(Some(0), Value::as_u64);
        line(match left {
            None => format!(
                "{shown} is unmounted; what the store lacks stays in the log for the next mount"
            ),
            Some(0) => format!("{shown} is unmounted"),
            Some(bytes) => format!(
                "{shown} is unmounted; {} stay in the log for the next mount",
                show_bytes(bytes)
            ),
        })
    })?;
    Ok(())
}

/// The daemon of the mount; `None` if the mount is there but its daemon is gone. A daemon that
/// still drains after its mount went away is found through the cache directory.
fn daemon_of(settings: &Settings, path: &Path, shown: &str) -> Result<Option<Client>> {
    if let Some(mount) = mounts::at(path)? {
        let Some(socket) = mounts::socket_of(&mount) else {
            bail!("{shown}: {} is mounted there, which is not ours; use umount", mount.source);
        };
        return Client::connect(&socket);
    }
    let draining = Client::connect(&socket_in(&settings.cache_dir.value))?;
    match draining.filter(|client| client.daemon().mountpoint == path) {
        Some(client) => Ok(Some(client)),
        None => bail!("nothing is mounted at {shown}"),
    }
}

fn ask(mut client: Client, end: End) -> Result<Value> {
    let mut progress = Progress::new();
    let told = client.ask(&Request::Unmount { end }, |still| {
        progress.show_response(&still);
        true
    });
    progress.end();
    told
}

/// So that the next mount finds nothing of this one.
fn wait_for_exit(pid: i32) {
    let Some(daemon) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return;
    };
    let mut ends = [PollFd::new(&daemon, PollFlags::IN)];
    if let Err(error) = poll(&mut ends, Some(&Timespec { tv_sec: EXIT_SECONDS, tv_nsec: 0 })) {
        log::debug!("waiting for process {pid}: {error}");
    }
}

/// A mount that answers though its daemon's socket is gone must not be taken for a dead one.
fn refuse_if_alive(path: &Path, shown: &str) -> Result<()> {
    let Ok(status) = std::fs::read(path.join(".lsvd/status.json")) else { return Ok(()) };
    let status: Value = serde_json::from_slice(&status).unwrap_or_default();
    let daemon = match status.pointer("/daemon/pid").and_then(Value::as_u64) {
        Some(pid) => format!("`kill {pid}` unmounts it in order"),
        None => "send it SIGTERM".to_owned(),
    };
    bail!(
        "{shown} answers, but the socket of its daemon is gone; was its cache directory removed? {daemon}"
    )
}

/// Takes a mount away whose daemon was killed.
fn clear(path: &Path, shown: &str, output: Output) -> Result<()> {
    match mounts::unmount(path, false) {
        Ok(()) => {}
        Err(UnmountError::Busy) => bail!("{shown} is busy: {}", users::describe(path)),
        Err(UnmountError::Failed(error)) => {
            return Err(error).with_context(|| format!("cannot unmount {shown}"));
        }
    }
    let told = json!({ "unmounted": path, "daemon": "gone" });
    output.print(&told, |_| {
        line(format!("{shown} is unmounted; its daemon was gone already, the next mount recovers from the log"))
    })?;
    Ok(())
}
