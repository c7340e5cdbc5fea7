//! `mount`: check, go to the background, serve.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::config::Settings;
use crate::control::client::Client;
use crate::control::socket_in;
use crate::daemonize::{self, Reporter, Side};
use crate::fs::inode::ROOT;
use crate::output::{Output, line};
use crate::{daemon, exit, mounts};

pub(super) fn run(
    settings: &Settings,
    mountpoint: &Path,
    foreground: bool,
    output: Output,
) -> Result<()> {
    let mountpoint = mounts::check_mountpoint(mountpoint)?;
    make_cache_dir(&settings.cache_dir.value)?;
    refuse_second_daemon(settings)?;
    if foreground {
        init_log();
        return daemon::serve(settings, &mountpoint, &mut Reporter::nobody());
    }
    match daemonize::split(&daemon::log_path(&settings.cache_dir.value))? {
        Side::Parent(waiting) => {
            waiting.wait()?;
            check_answers(&mountpoint)?;
            let told = json!({ "mounted": mountpoint, "store": settings.store.value });
            output.print(&told, |_| {
                line(format!("{} is mounted at {}", settings.store.value, mountpoint.display()))
            })?;
            Ok(())
        }
        Side::Child(mut reporter) => {
            init_log();
            let served = daemon::serve(settings, &mountpoint, &mut reporter);
            if let Err(error) = &served {
                log::error!("{}", exit::one_line(error));
                reporter.failed(error);
            }
            served
        }
    }
}

fn init_log() {
    // fuser warns of every request that a file system may leave out, such as an ioctl.
    let quiet = env_logger::Env::default().default_filter_or("info,fuser=error");
    env_logger::Builder::from_env(quiet).init();
}

/// Logs hold data, so nobody else may look in.
fn make_cache_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| {
        format!(
            "cache directory {}: cannot make it; choose another with --cache-dir",
            path.display()
        )
    })
}

/// The engine's lock is what keeps two daemons apart; this says more about the other one.
fn refuse_second_daemon(settings: &Settings) -> Result<()> {
    let cache_dir = &settings.cache_dir.value;
    if settings.read_only.value {
        return Ok(());
    }
    let Some(client) = Client::connect(&socket_in(cache_dir))? else { return Ok(()) };
    let other = client.daemon();
    let mountpoint = other.mountpoint.display();
    if mounts::at(&other.mountpoint)?.is_none() {
        bail!(
            "cache directory {}: process {} still drains what was mounted at {mountpoint}; wait with `lsvd-fuse unmount {mountpoint}`",
            cache_dir.display(),
            other.pid
        );
    }
    bail!(
        "cache directory {} is in use by process {}, which serves {mountpoint}: unmount that first, or give this mount another --cache-dir",
        cache_dir.display(),
        other.pid
    );
}

/// The kernel and the daemon answer for the mount's root.
fn check_answers(mountpoint: &Path) -> Result<()> {
    let meta = std::fs::metadata(mountpoint)
        .with_context(|| format!("{} does not answer", mountpoint.display()))?;
    if meta.ino() != ROOT {
        bail!(
            "{} is not the mount that was made; somebody unmounted it at once",
            mountpoint.display()
        );
    }
    Ok(())
}
