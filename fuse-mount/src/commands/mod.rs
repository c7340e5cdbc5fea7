//! The commands, one per file; and the way that most of them go: a request to the daemon that
//! serves the cache directory, or, where none does, to the engine opened for the moment.

mod check;
mod create;
mod delete;
mod discard_log;
mod flush;
mod gc;
mod info;
mod inspect;
mod list;
mod mount;
mod rename;
mod resize;
mod snapshot;
mod unmount;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context, Result, bail};
use lsvd_volume::{Close, Engine, FileAttrs, VolumeName};
use serde_json::Value;

use crate::cli::{Cli, Command, GlobalFlags, MountFlags};
use crate::config::{Settings, Source};
use crate::control::client::{Client, Daemon};
use crate::control::execute::execute;
use crate::control::protocol::{End, Request};
use crate::control::{read_only_sockets_in, socket_in};
use crate::exit::usage;
use crate::fs::inode::now_ms;
use crate::fs::volumes::Volumes;
use crate::output::{Output, Progress};
use crate::store_url;

/// Runs the command that was asked for.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let Cli { global, command } = cli;
    let output = Output { json: global.json };
    if let Command::Mount { mountpoint, foreground, flags } = command {
        return mount::run(&settings(&global, &flags)?, &mountpoint, foreground, output);
    }
    // Daemons log by themselves; of a command only what is wrong matters.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    let settings = settings(&global, &MountFlags::default())?;
    match command {
        Command::Mount { .. } => Ok(()),
        Command::Unmount { mountpoint, no_drain, force } => {
            let end = match (force, no_drain) {
                (true, _) => End::Force,
                (false, true) => End::Keep,
                (false, false) => End::Drain,
            };
            unmount::run(&settings, &mountpoint, end, output)
        }
        Command::Create { name, size, sync } => {
            create::run(&settings, &name, &size, sync.as_deref(), output)
        }
        Command::List => list::run(&settings, output),
        Command::Info { name, effective_config } => {
            info::run(&settings, name.as_deref(), effective_config, output)
        }
        Command::Resize { name, size, force } => {
            resize::run(&settings, &name, &size, force, output)
        }
        Command::Rename { old, new } => rename::run(&settings, &old, &new, output),
        Command::Delete { name, force } => delete::run(&settings, &name, force, output),
        Command::Check { name, all: _, repair, deep, rate } => {
            let (name, rate) = (name.as_deref(), rate.as_deref());
            check::run(&settings, check::Wanted { name, repair, deep, rate }, output)
        }
        Command::Scrub { name, rate } => {
            let (name, rate) = (Some(name.as_os_str()), rate.as_deref());
            let wanted = check::Wanted { name, repair: false, deep: true, rate };
            check::run(&settings, wanted, output)
        }
        Command::Gc { name, target, now } => {
            gc::run(&settings, &name, target.as_deref(), now, output)
        }
        Command::Snapshot { command } => snapshot::run(&settings, &command, output),
        Command::Clone { from, new } => snapshot::run_clone(&settings, &from, &new, output),
        Command::Flatten { name } => snapshot::run_flatten(&settings, &name, output),
        Command::Flush { name, wait } => flush::run(&settings, &name, wait, output),
        Command::Inspect { name, object, map } => {
            inspect::run(&settings, &name, object, map, output)
        }
        Command::DiscardLog { name } => discard_log::run(&settings, &name, output),
    }
}

fn settings(global: &GlobalFlags, mount: &MountFlags) -> Result<Settings> {
    Settings::load(global, mount)
}

/// What the file of a new volume looks like: a disk's content is its owner's business.
fn own_attrs() -> FileAttrs {
    let now = now_ms();
    FileAttrs {
        mode: 0o600,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        created_ms: now,
        modified_ms: now,
    }
}

/// A volume's name from the command line.
fn volume_name(given: &OsStr) -> Result<String> {
    let Some(text) = given.to_str() else {
        return Err(usage(format!("volume name {given:?} is not UTF-8; use one that is")));
    };
    Ok(VolumeName::new(text)?.as_str().to_owned())
}

/// Names from the command line.
fn volume_names<const N: usize>(given: [&OsString; N]) -> Result<[String; N]> {
    let mut names = [const { String::new() }; N];
    for (name, given) in names.iter_mut().zip(given) {
        *name = volume_name(given)?;
    }
    Ok(names)
}

/// Has `request` carried out, live if a daemon serves the cache directory.
fn perform(settings: &Settings, request: &Request) -> Result<Value> {
    perform_until(settings, request, || false)
}

/// As [`perform`]; leaves off, with what there is until then, once `stop` says so. It is asked
/// whenever there is progress.
fn perform_until(
    settings: &Settings,
    request: &Request,
    mut stop: impl FnMut() -> bool,
) -> Result<Value> {
    match Client::connect(&socket_in(&settings.cache_dir.value))? {
        Some(mut client) => {
            refuse_other_store(settings, &client)?;
            let mut progress = Progress::new();
            let told = client.ask(request, |still| {
                progress.show_response(&still);
                !stop()
            });
            progress.end();
            told
        }
        None => perform_alone(settings, request, stop),
    }
}

/// A daemon on this cache directory that serves another store than the user named.
fn refuse_other_store(settings: &Settings, client: &Client) -> Result<()> {
    let (asked, served) = (&settings.store, &client.daemon().store);
    let same = asked.value.trim_end_matches('/') == served.trim_end_matches('/');
    if same || asked.source == Source::Default {
        return Ok(());
    }
    Err(usage(format!(
        "cache directory {}: process {} serves {served} from it, not {}; name that store, or another --cache-dir",
        settings.cache_dir.value.display(),
        client.daemon().pid,
        asked.value
    )))
}

/// Whoever mounted read-only expects that nothing changes the snapshots that they see.
fn refuse_beside_read_only_mount(cache_dir: &Path) -> Result<()> {
    for socket in read_only_sockets_in(cache_dir) {
        let Some(client) = Client::connect(&socket)? else { continue };
        let Daemon { pid, mountpoint, .. } = client.daemon();
        bail!(
            "cache directory {}: process {pid} serves it read-only at {}, and snapshots are not changed \
             meanwhile; unmount that first, or use another --cache-dir",
            cache_dir.display(),
            mountpoint.display()
        );
    }
    Ok(())
}

fn perform_alone(
    settings: &Settings,
    request: &Request,
    mut stop: impl FnMut() -> bool,
) -> Result<Value> {
    if request.changes_snapshots() {
        refuse_beside_read_only_mount(&settings.cache_dir.value)?;
    }
    let store = match request {
        Request::Create { .. } => store_url::open(settings)?,
        _ => store_url::open_existing(settings)?,
    };
    let settings = &settings.clone().leave_history();
    let config = settings.engine_config();
    let looks = request.only_looks();
    let engine =
        if looks { Engine::open_read_only(store, config)? } else { Engine::open(store, config)? };
    for (name, config) in settings.volume_configs() {
        if let Ok(name) = VolumeName::new(name) {
            engine.configure_volume(&name, config);
        }
    }
    let volumes = Volumes::new(engine.clone(), looks);
    let mut progress = Progress::new();
    let done = execute(&volumes, request, &mut |still| {
        progress.show_response(still);
        !stop()
    });
    let how = if looks { Close::Keep } else { Close::Drain };
    let closed = engine.shutdown(how, &mut |left| {
        progress.show(left);
        true
    });
    progress.end();
    let value = done?;
    closed.context("done, but closing failed")?;
    Ok(value)
}
