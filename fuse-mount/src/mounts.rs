//! Mount points: what is mounted where, and unmounting exactly what is ours.
//!
//! A mount's source is `lsvd:` and the path of the daemon's control socket, so that whoever
//! sees the mount finds its daemon without asking the file system, which may be hanging.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What a mount's source begins with.
const SOURCE_PREFIX: &str = "lsvd:";

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `major:minor`; tells one mount from a later one at the same place.
    pub(crate) device: String,
    pub(crate) mountpoint: PathBuf,
    pub(crate) source: String,
}

/// All mounts that this process sees.
pub(crate) fn all() -> io::Result<Vec<Mount>> {
    Ok(std::fs::read("/proc/self/mountinfo")?
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect())
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let mountpoint = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(1)?)));
    let mut after_separator = fields.skip_while(|field| *field != b"-").skip(2);
    let source = String::from_utf8_lossy(&unescape(after_separator.next()?)).into_owned();
    Some(Mount { device, mountpoint, source })
}

/// The mount table writes space, tab, newline and backslash as `\040`, ….
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            bytes.push(
                digits
                    .iter()
                    .fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
            );
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

/// What is mounted at exactly `path`, the topmost of several.
pub(crate) fn at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rfind(|mount| mount.mountpoint == path))
}

/// The mountpoint as the mount table has it, without touching what is mounted there.
pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let by_parent = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
        _ => path.canonicalize()?,
    };
    // A mount by that name settles it; otherwise it may be a link to one.
    if at(&by_parent)?.is_some() {
        Ok(by_parent)
    } else {
        Ok(path.canonicalize().unwrap_or(by_parent))
    }
}

/// The source to mount with: names the daemon's socket in characters that no tool splits at.
pub(crate) fn source_for(socket: &Path) -> String {
    let mut source = String::from(SOURCE_PREFIX);
    for byte in socket.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-+@=~:".contains(byte) {
            source.push(char::from(*byte));
        } else {
            source.push_str(&format!("%{byte:02X}"));
        }
    }
    source
}

/// The control socket that a mount's source names, if the mount is one of ours.
pub(crate) fn socket_of(mount: &Mount) -> Option<PathBuf> {
    let mut rest = mount.source.strip_prefix(SOURCE_PREFIX)?.as_bytes();
    let mut path = Vec::new();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            path.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            path.push(*first);
            rest = tail;
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

/// Refuses a mountpoint that cannot be used, in words.
pub(crate) fn check_mountpoint(given: &Path) -> Result<PathBuf> {
    let shown = given.display();
    let meta = match std::fs::metadata(given) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("mountpoint {shown} does not exist: make it with `mkdir {shown}`")
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            bail!(
                "mountpoint {shown} holds a mount whose daemon is gone: clear it with `lsvd-fuse unmount {shown}`"
            )
        }
        Err(error) => return Err(error).with_context(|| format!("mountpoint {shown}")),
    };
    if !meta.is_dir() {
        bail!("mountpoint {shown} is not a directory");
    }
    let path = given.canonicalize().with_context(|| format!("mountpoint {shown}"))?;
    if let Some(mount) = at(&path)? {
        bail!(
            "mountpoint {shown} is busy: {} is mounted there; unmount that first, or use another directory",
            mount.source
        );
    }
    let mut entries = std::fs::read_dir(&path).with_context(|| format!("mountpoint {shown}"))?;
    if entries.next().is_some() {
        bail!("mountpoint {shown} is not empty; its files would be hidden: use an empty directory");
    }
    Ok(path)
}

/// Why an unmount did not happen.
#[derive(Debug)]
pub(crate) enum UnmountError {
    /// Something below is in use.
    Busy,
    /// Anything else.
    Failed(io::Error),
}

/// Unmounts what is at `mountpoint`; with `lazily`, hides it at once and lets users finish.
pub(crate) fn unmount(mountpoint: &Path, lazily: bool) -> Result<(), UnmountError> {
    let path = CString::new(mountpoint.as_os_str().as_bytes())
        .map_err(|error| UnmountError::Failed(error.into()))?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that lives over the call.
    let result = unsafe { libc::umount2(path.as_ptr(), flags) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EBUSY) => Err(UnmountError::Busy),
        Some(libc::EPERM) => unmount_by_helper(mountpoint, lazily),
        _ => Err(UnmountError::Failed(error)),
    }
}

/// Who is not root unmounts through the helper that FUSE installs for that.
fn unmount_by_helper(mountpoint: &Path, lazily: bool) -> Result<(), UnmountError> {
    let output = Command::new("fusermount3")
        .arg(if lazily { "-uz" } else { "-u" })
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(UnmountError::Failed)?;
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(()),
        false if message.contains("busy") => Err(UnmountError::Busy),
        false => Err(UnmountError::Failed(io::Error::other(message))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_carries_any_socket_path() {
        for path in ["/var/lib/lsvd/cache/control.sock", "/tmp/a b,c%d\\e/ü/control.sock"] {
            let source = source_for(Path::new(path));
            assert!(!source.contains([' ', ',', '\\']), "{source}");
            let mount = Mount { device: "0:1".into(), mountpoint: "/".into(), source };
            assert_eq!(socket_of(&mount), Some(PathBuf::from(path)));
        }
    }

    #[test]
    fn mount_lines_are_unescaped() {
        let line =
            br"36 35 0:98 / /mnt/with\040space rw,noatime shared:1 - fuse lsvd:/c/control.sock rw";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.mountpoint, PathBuf::from("/mnt/with space"));
        assert_eq!(mount.device, "0:98");
        assert_eq!(socket_of(&mount), Some(PathBuf::from("/c/control.sock")));
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"1 2 3"), None);
    }

    #[test]
    fn foreign_sources_are_not_ours() {
        for source in ["/dev/sda1", "lsvd:%zz", "lsvd:%4"] {
            let mount =
                Mount { device: "0:1".into(), mountpoint: "/".into(), source: source.into() };
            assert_eq!(socket_of(&mount), None);
        }
    }
}
