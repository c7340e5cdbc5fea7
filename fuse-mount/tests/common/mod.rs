//! The harness: the real binary on /dev/fuse, in directories of its own.
//!
//! ```text
//!   let lab = Lab::new();                 a store, a cache directory, a mountpoint
//!   let mount = lab.mount(&[]);           daemon in the foreground, log in the lab
//!   fs::write(mount.file("a.img"), …);    through the kernel
//!   mount.kill();                         kill -9, mountpoint cleared
//!   lab.mount(&[]).unmount();             again, and an orderly end
//! ```
//! Whatever a test does, [`Mount`]'s drop leaves nothing behind: it aborts the connection (so
//! that nobody hangs on a dead daemon), kills the daemon by its own pid and detaches the mount.
//! Nothing sleeps for a guess: [`wait_for`] polls a condition up to a generous limit.

#![allow(dead_code, reason = "each test binary uses its own part of the harness")]
#![allow(unreachable_pub, reason = "the harness is a module of several test binaries")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for a condition; only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_lsvd-fuse");

/// Polls until `condition` gives a value; fails with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Why tests on real mounts cannot run here, if so.
pub fn missing_for_mount() -> Option<&'static str> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Some("needs root, to mount and to clear dead mounts");
    }
    None
}

/// Whether a program can be run.
pub fn has_tool(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path).chain(sbin).any(|dir| dir.join(tool).exists())
}

/// Ends the calling test with a note unless real mounts and these tools are there.
#[macro_export]
macro_rules! need_mount {
    ($($tool:literal),* $(,)?) => {
        if let Some(reason) = $crate::common::missing_for_mount() {
            eprintln!("SKIPPED {}: {reason}", std::thread::current().name().unwrap_or("?"));
            return;
        }
        $(if !$crate::common::has_tool($tool) {
            eprintln!("SKIPPED {}: {} is not installed", std::thread::current().name().unwrap_or("?"), $tool);
            return;
        })*
    };
}

/// Directories of one test: a store, a cache, mountpoints.
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// Fresh directories.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("lsvd-test-").tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn store_dir(&self) -> PathBuf {
        self.path().join("store")
    }

    pub fn store_url(&self) -> String {
        format!("file://{}", self.store_dir().display())
    }

    pub fn cache_dir(&self) -> PathBuf {
        self.path().join("cache")
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.path().join("mnt")
    }

    /// What daemons in the foreground wrote to stderr.
    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.path().join("daemon.log")).unwrap_or_default()
    }

    /// The binary with this lab's store and cache, and nothing from the outer environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LSVD_"))
        {
            command.env_remove(name);
        }
        command.env("HOME", self.path()).env("XDG_CONFIG_HOME", self.path().join("config"));
        command.env("LSVD_STORE", self.store_url()).env("LSVD_CACHE_DIR", self.cache_dir());
        // A default configuration file of the machine must not leak in.
        let empty = self.path().join("empty.toml");
        fs::write(&empty, "").unwrap();
        command.env("LSVD_CONFIG", empty);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran(self.command().args(args).output().unwrap())
    }

    /// Runs a command that must succeed; returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        self.run(args).success()
    }

    /// Runs a command that must succeed and prints JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.run(&[args, &["--json"]].concat()).success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Mounts with a daemon in the foreground and waits until it answers.
    pub fn mount(&self, flags: &[&str]) -> Mount {
        self.mount_at(&self.mountpoint(), flags)
    }

    /// As [`Lab::mount`], elsewhere.
    pub fn mount_at(&self, mountpoint: &Path, flags: &[&str]) -> Mount {
        let log =
            File::options().create(true).append(true).open(self.path().join("daemon.log")).unwrap();
        let mut command = self.command();
        command.args(["mount", "--foreground"]).arg(mountpoint).args(flags);
        let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        wait_for("the mount to answer", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the daemon ended with {status}: {}", self.daemon_log());
            }
            is_mounted(mountpoint).then_some(())
        });
        Mount {
            mountpoint: mountpoint.to_owned(),
            pid: child.id(),
            child: Some(child),
            ended: false,
        }
    }

    /// Mounts in the background, as users do.
    pub fn mount_in_background(&self, flags: &[&str]) -> Mount {
        let mountpoint = self.mountpoint();
        let ran = Ran(self.command().arg("mount").arg(&mountpoint).args(flags).output().unwrap());
        ran.success();
        assert!(is_mounted(&mountpoint), "mount returned before the mount was there");
        let mut mount = Mount { mountpoint, pid: 0, child: None, ended: false };
        mount.pid = mount.status()["daemon"]["pid"].as_u64().unwrap() as u32;
        mount
    }
}

/// A finished command.
pub struct Ran(pub Output);

impl Ran {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Must have succeeded; returns stdout.
    pub fn success(&self) -> String {
        assert!(self.0.status.success(), "{}: {}", self.0.status, self.stderr());
        self.stdout()
    }

    /// Must have failed with this code and one line that begins with the program's name and
    /// holds each of `parts`.
    pub fn failure(&self, code: i32, parts: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.0.status.code(), Some(code), "{stderr}{}", self.stdout());
        assert!(stderr.starts_with("lsvd-fuse: "), "{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "more than one line: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        }
    }
}

/// A mount and its daemon.
pub struct Mount {
    mountpoint: PathBuf,
    pid: u32,
    child: Option<Child>,
    ended: bool,
}

impl Mount {
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// A volume's file.
    pub fn file(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.mountpoint.join(name.as_ref())
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `/.lsvd/status.json`.
    pub fn status(&self) -> Value {
        let text = fs::read_to_string(self.mountpoint.join(".lsvd/status.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the pid is of a daemon that this test started and has not yet reaped.
        let sent = unsafe { libc::kill(self.pid as i32, signal) };
        assert_eq!(sent, 0, "cannot signal the daemon");
    }

    /// Unmounts in order; everything is in the store afterwards.
    pub fn unmount(self) {
        let ran = Ran(Command::new(BINARY).arg("unmount").arg(&self.mountpoint).output().unwrap());
        ran.success();
        self.expect_end();
    }

    /// Waits until the daemon has ended by itself and the mount is gone.
    pub fn expect_end(mut self) {
        match &mut self.child {
            Some(child) => {
                let status = wait_for("the daemon to end", || child.try_wait().unwrap());
                assert!(status.success(), "the daemon ended with {status}");
            }
            None => wait_for("the daemon to end", || (!is_alive(self.pid)).then_some(())),
        }
        assert!(!is_mounted(&self.mountpoint), "the daemon left its mount behind");
        self.ended = true;
    }

    /// `kill -9`; then clears the dead mount away.
    pub fn kill(mut self) {
        self.end_by_force();
    }

    fn end_by_force(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        abort_connection(&self.mountpoint);
        // SAFETY: as in `signal`; a daemon that is gone already makes this fail, no more.
        unsafe { libc::kill(self.pid as i32, libc::SIGKILL) };
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        } else {
            wait_for("the killed daemon to end", || (!is_alive(self.pid)).then_some(()));
        }
        detach(&self.mountpoint);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.end_by_force();
    }
}

/// Whether the process runs; one that waits to be reaped does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// Whether something of ours is mounted there.
pub fn is_mounted(mountpoint: &Path) -> bool {
    mount_device(mountpoint).is_some()
}

/// The device's minor number: the connection's number in `/sys/fs/fuse/connections`.
fn mount_device(mountpoint: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let shown = mountpoint.to_str().unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(shown))?;
    line.split(' ').nth(2)?.split(':').nth(1).map(str::to_owned)
}

/// Wakes whoever waits for a daemon that will not answer.
fn abort_connection(mountpoint: &Path) {
    if let Some(number) = mount_device(mountpoint) {
        let _ = fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
    }
}

fn detach(mountpoint: &Path) {
    let path = std::ffi::CString::new(mountpoint.to_str().unwrap()).unwrap();
    while is_mounted(mountpoint) {
        // SAFETY: `path` is a NUL-terminated string that lives over the call.
        if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
            break;
        }
    }
}

/// Runs a tool that must succeed; returns its stdout.
pub fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device, detached when dropped.
pub struct Loop(String);

impl Loop {
    /// Attaches a free device to `file`.
    pub fn attach(file: &Path, flags: &[&str]) -> Self {
        Self(tool("losetup", &[&["-f", "--show"], flags, &[file.to_str().unwrap()]].concat()))
    }

    /// `/dev/loopN`.
    pub fn device(&self) -> &str {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

/// A volume of `bytes`, made as users do: by truncate.
pub fn make_volume(mount: &Mount, name: &str, bytes: u64) -> PathBuf {
    let path = mount.file(name);
    File::create_new(&path).unwrap().set_len(bytes).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().size(), bytes);
    path
}
