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

pub mod copying;
pub mod disk;
pub mod history;
pub mod proxy;
pub mod rng;
pub mod servers;
pub mod store;
pub mod tree;
pub mod workload;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use store::{Kind, Store};

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;

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

/// How many times as long the randomised campaigns are to be: `LSVD_TEST_SCALE`, or 1.
pub fn scale() -> u64 {
    std::env::var("LSVD_TEST_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(1).max(1)
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

/// A lab on a store of this kind; ends the calling test with a note if there is no such server.
#[macro_export]
macro_rules! lab_on {
    ($kind:expr) => {
        match $crate::common::Lab::on($kind) {
            Ok(lab) => lab,
            Err(reason) => {
                let name = std::thread::current().name().unwrap_or("?").to_owned();
                eprintln!("SKIPPED {name}: {reason}");
                return;
            }
        }
    };
}

/// Memory files of logs, in /dev/shm or the cache directory, of daemons that were killed.
type Buffers = Arc<Mutex<BTreeSet<PathBuf>>>;

/// Directories of one test: a store, a cache, mountpoints.
pub struct Lab {
    dir: tempfile::TempDir,
    store: Store,
    buffers: Buffers,
}

impl Lab {
    /// Fresh directories.
    pub fn new() -> Self {
        let dir = fresh_directory();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        Self { store: Store::directory(&store), dir, buffers: Buffers::default() }
    }

    /// Fresh directories, and an empty store of this kind.
    ///
    /// # Errors
    /// Why there is no such server.
    pub fn on(kind: Kind) -> Result<Self, String> {
        match kind {
            Kind::Directory => Ok(Self::new()),
            _ => Store::of_environment(kind).map(Self::with_store),
        }
    }

    /// Fresh directories, as another host has them, for this store.
    pub fn with_store(store: Store) -> Self {
        Self { dir: fresh_directory(), store, buffers: Buffers::default() }
    }

    /// Fresh directories, with the store on a file system of its own.
    pub fn with_store_on(disk: &disk::StoreDisk) -> Self {
        let store = disk.path().join("store");
        fs::create_dir_all(&store).unwrap();
        Self::with_store(Store::directory(&store))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn store_dir(&self) -> PathBuf {
        self.store.path().unwrap().to_owned()
    }

    pub fn store_url(&self) -> String {
        self.store.url().to_owned()
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
        command.env("LSVD_STORE", self.store.url()).env("LSVD_CACHE_DIR", self.cache_dir());
        command.envs(self.store.variables().iter().map(|(name, value)| (name, value)));
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
        match self.launch(mountpoint, flags, &[]) {
            Ok(mount) => mount,
            Err(status) => panic!("the daemon ended with {status}: {}", self.daemon_log()),
        }
    }

    /// As [`Lab::mount_at`], with variables of the environment; the daemon may end instead.
    pub fn launch(
        &self,
        mountpoint: &Path,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Mount, ExitStatus> {
        let log =
            File::options().create(true).append(true).open(self.path().join("daemon.log")).unwrap();
        let mut command = self.command();
        command.args(["mount", "--foreground"]).arg(mountpoint).args(flags);
        command.envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let outcome = wait_for("the mount to answer", || match child.try_wait().unwrap() {
            Some(status) => Some(Err(status)),
            None => is_mounted(mountpoint).then_some(Ok(())),
        });
        if let Err(status) = outcome {
            detach(mountpoint);
            return Err(status);
        }
        Ok(Mount {
            mountpoint: mountpoint.to_owned(),
            pid: child.id(),
            child: Some(child),
            ended: false,
            buffers: self.buffers.clone(),
        })
    }

    /// Takes the SSD away: the cache directory, and the memory that belongs to its logs.
    pub fn lose_cache(&self) {
        self.lose_memory();
        match fs::remove_dir_all(self.cache_dir()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.unwrap(),
        }
    }

    /// Takes away what a power failure would: the memory of logs whose daemons were killed.
    pub fn lose_memory(&self) {
        for buffer in std::mem::take(&mut *self.buffers.lock().unwrap()) {
            // A later daemon that ended in order has removed its own.
            let _ = fs::remove_file(buffer);
        }
    }

    /// Mounts in the background, as users do.
    pub fn mount_in_background(&self, flags: &[&str]) -> Mount {
        let mountpoint = self.mountpoint();
        let ran = Ran(self.command().arg("mount").arg(&mountpoint).args(flags).output().unwrap());
        ran.success();
        assert!(is_mounted(&mountpoint), "mount returned before the mount was there");
        let buffers = self.buffers.clone();
        let mut mount = Mount { mountpoint, pid: 0, child: None, ended: false, buffers };
        mount.pid = mount.status()["daemon"]["pid"].as_u64().unwrap() as u32;
        mount
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.lose_memory();
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
    buffers: Buffers,
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

    /// A figure in KiB of the daemon's `/proc` status: `VmRSS`, `VmHWM`, …
    pub fn memory_kib(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Whether the daemon runs; one that is gone but not reaped does not.
    pub fn is_running(&self) -> bool {
        is_alive(self.pid)
    }

    /// Remembers the memory files of the daemon's logs, which outlive it.
    /// The memory of open logs, as files.
    pub fn memory_held(&self) -> Vec<PathBuf> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let of_logs =
            paths.filter(|path| path.starts_with("/dev/shm/lsvd-") || path.ends_with(".buffer"));
        of_logs.map(PathBuf::from).collect()
    }

    fn note_buffers(&self) {
        self.buffers.lock().unwrap().extend(self.memory_held());
    }

    /// `kill -9`, and nothing else: see [`Mount::kill`] for the rest.
    pub fn kill_only(&self) {
        self.note_buffers();
        self.signal(libc::SIGKILL);
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the pid is of a daemon that this test started and has not yet reaped.
        let sent = unsafe { libc::kill(self.pid as i32, signal) };
        assert_eq!(sent, 0, "cannot signal the daemon");
    }

    /// Stops the daemon where it stands.
    pub fn pause(&self) -> Paused {
        Paused::process(self.pid)
    }

    /// Unmounts in order; everything is in the store afterwards.
    pub fn unmount(self) {
        let ran = Ran(Command::new(BINARY).arg("unmount").arg(&self.mountpoint).output().unwrap());
        ran.success();
        self.expect_end();
    }

    /// Waits until the daemon has ended by itself, in order, and the mount is gone.
    pub fn expect_end(self) {
        if let Some(status) = self.wait_for_end() {
            assert!(status.success(), "the daemon ended with {status}");
        }
    }

    /// Waits until the daemon has ended by itself and the mount is gone. One in the background
    /// tells nobody how it ended.
    pub fn wait_for_end(mut self) -> Option<ExitStatus> {
        let status = match &mut self.child {
            Some(child) => Some(wait_for("the daemon to end", || child.try_wait().unwrap())),
            None => {
                wait_for("the daemon to end", || (!is_alive(self.pid)).then_some(()));
                None
            }
        };
        assert!(!is_mounted(&self.mountpoint), "the daemon left its mount behind");
        self.ended = true;
        status
    }

    /// `kill -9`; then clears the dead mount away.
    pub fn kill(mut self) {
        self.end_by_force();
    }

    fn end_by_force(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.note_buffers();
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

/// A process that stands still until this is dropped.
pub struct Paused(u32);

impl Paused {
    /// Stops a process that this test has started; returns when none of its threads runs any more.
    pub fn process(pid: u32) -> Self {
        // SAFETY: only this test ends the process.
        let sent = unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
        assert_eq!(sent, 0, "cannot stop process {pid}");
        let stopped = |task: std::io::Result<fs::DirEntry>| {
            state(&task.unwrap().path()).is_none_or(|state| state == 'T')
        };
        wait_for("every thread to stop", || {
            let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.all(stopped).then_some(())
        });
        Self(pid)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // SAFETY: the process stood still, so it is still the one that this test has started, or one
        // that this test has killed meanwhile and not replaced.
        unsafe { libc::kill(self.0 as i32, libc::SIGCONT) };
    }
}

/// The letter of a process or thread's state, by its directory in `/proc`.
fn state(task: &Path) -> Option<char> {
    let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether the process runs; one that waits to be reaped does not.
fn is_alive(pid: u32) -> bool {
    state(Path::new(&format!("/proc/{pid}"))).is_some_and(|state| state != 'Z')
}

fn fresh_directory() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("lsvd-test-").tempdir().unwrap();
    fs::create_dir(dir.path().join("mnt")).unwrap();
    dir
}

/// At the end of a campaign that failed: how to repeat its choices, and what its daemons said.
pub fn tell_after_a_panic(seed: u64, lab: &Lab) {
    if std::thread::panicking() {
        eprintln!("LSVD_TEST_SEED={seed} repeats the choices of this campaign");
        let said = lab.daemon_log();
        let newest: Vec<&str> = said.lines().rev().take(40).collect();
        eprintln!("what the daemons said, newest first:\n{}", newest.join("\n"));
    }
}

/// Tells it, if the test fails: the seed, and what the daemons of the lab said.
pub struct Story<'a>(pub u64, pub &'a Lab);

impl Drop for Story<'_> {
    fn drop(&mut self) {
        tell_after_a_panic(self.0, self.1);
    }
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

    /// Detaches, and waits until the device has let the file go.
    pub fn detach(self) {
        let backing =
            format!("/sys/block/{}/loop/backing_file", self.0.trim_start_matches("/dev/"));
        let file = fs::read_to_string(&backing).unwrap_or_default();
        drop(self);
        wait_for("the loop device to let go", || {
            fs::read_to_string(&backing).map_or(true, |now| now != file).then_some(())
        });
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

/// Bytes in all files below a directory.
pub fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => bytes_below(&entry.path()),
            // A file may be on its way out.
            false => entry.metadata().map_or(0, |found| found.len()),
        })
        .sum()
}

/// A volume of `bytes`, made as users do: by truncate.
pub fn make_volume(mount: &Mount, name: &str, bytes: u64) -> PathBuf {
    let path = mount.file(name);
    File::create_new(&path).unwrap().set_len(bytes).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().size(), bytes);
    path
}
