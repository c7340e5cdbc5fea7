//! The control socket: how commands reach the daemon that serves a store.
//!
//! ```text
//!   command ── client ──(Unix socket, mode 0600, lines of JSON)── server ── execute ── Volumes
//!   command ── execute ── Volumes            without a daemon: the same code, called directly
//! ```

pub(crate) mod client;
pub(crate) mod execute;
pub(crate) mod protocol;
pub(crate) mod server;
mod snapshots;

use std::path::{Path, PathBuf};

/// Name of the socket in the cache directory.
const SOCKET_NAME: &str = "control.sock";

/// The socket of the daemon that holds this cache directory.
pub(crate) fn socket_in(cache_dir: &Path) -> PathBuf {
    cache_dir.join(SOCKET_NAME)
}

/// The socket of a read-only mount: it does not hold the cache directory, so there may be
/// several, and commands do not look for them there.
pub(crate) fn read_only_socket_in(cache_dir: &Path) -> PathBuf {
    cache_dir.join(format!("control-{}.sock", std::process::id()))
}

/// The sockets that read-only mounts of this cache directory have made; some may be dead.
pub(crate) fn read_only_sockets_in(cache_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(cache_dir) else { return Vec::new() };
    let is_one = |name: &str| name.starts_with("control-") && name.ends_with(".sock");
    let found = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_one));
    found.map(|entry| entry.path()).collect()
}

/// A path to the socket that fits into a socket address, whose limit is 107 bytes, wherever
/// the socket is; valid while the directory stays open.
fn short_path(socket: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let directory = std::fs::File::open(parent)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, path))
}
