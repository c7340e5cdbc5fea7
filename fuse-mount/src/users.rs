//! Who keeps a mount busy: processes with files or directories there, loop devices over its
//! files, mounts below it. Looks only at `/proc` and `/sys`, never at the mount itself.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mounts;

/// At most this many are named.
const NAMED_MAX: usize = 8;

/// One line that names the users of what is mounted at `mountpoint`.
pub(crate) fn describe(mountpoint: &Path) -> String {
    let mut users = processes(mountpoint);
    users.extend(loop_devices(mountpoint));
    users.extend(mounts_below(mountpoint));
    if users.is_empty() {
        let unseen = match rustix::process::geteuid().is_root() {
            true => "who uses it cannot be seen from here, or is gone by now; try again",
            false => "somebody uses it whom this user may not see; try as root",
        };
        return unseen.to_owned();
    }
    let more = users.len().saturating_sub(NAMED_MAX);
    users.truncate(NAMED_MAX);
    let mut line = users.join(", ");
    if more > 0 {
        line.push_str(&format!(" and {more} more"));
    }
    line
}

fn processes(mountpoint: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let file = used_by(pid, mountpoint)?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Some(format!("process {pid} ({}) uses {}", name.trim(), file.display()))
        })
        .collect()
}

/// A path below `mountpoint` that the process uses.
fn used_by(pid: u32, mountpoint: &Path) -> Option<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let fixed = ["cwd", "root", "exe"].into_iter().map(|link| process.join(link));
    let open =
        fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let linked = fixed.chain(open).filter_map(|link| fs::read_link(link).ok());
    linked
        .into_iter()
        .find(|path| path.starts_with(mountpoint))
        .or_else(|| mapped_by(&process, mountpoint))
}

fn mapped_by(process: &Path, mountpoint: &Path) -> Option<PathBuf> {
    let maps = fs::read_to_string(process.join("maps")).ok()?;
    maps.lines()
        .filter_map(|line| line.find('/').and_then(|start| line.get(start..)))
        .map(PathBuf::from)
        .find(|path| path.starts_with(mountpoint))
}

fn loop_devices(mountpoint: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mounted = mounts::all().unwrap_or_default();
    names
        .filter_map(|name| {
            let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
            let file = PathBuf::from(file.trim_end_matches('\n'));
            if !file.starts_with(mountpoint) {
                return None;
            }
            let device = format!("/dev/{name}");
            let on = mounted.iter().find(|mount| mount.source == device);
            let on = on.map_or(String::new(), |mount| {
                format!(", mounted at {}", mount.mountpoint.display())
            });
            Some(format!("loop device {device} uses {}{on}", file.display()))
        })
        .collect()
}

fn mounts_below(mountpoint: &Path) -> Vec<String> {
    let all = mounts::all().unwrap_or_default();
    all.iter()
        .filter(|mount| mount.mountpoint != mountpoint && mount.mountpoint.starts_with(mountpoint))
        .map(|mount| format!("{} is mounted at {}", mount.source, mount.mountpoint.display()))
        .collect()
}
