//! The real machine.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use memmap2::{MmapMut, MmapRaw};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};

use super::ssd_file::SsdFile;
use super::thread::HostThread;
use super::{LogBuffer, LogFile, Platform, ThreadControl, may_idle};

/// The machine this process runs on.
///
/// With `LSVD_FAILPOINT=<name>[:<n>]` in the environment the process aborts when it comes to
/// that durability step for the n-th time; crash tests of the whole binary use it.
#[derive(Debug)]
pub struct Host {
    started: Instant,
    abort_at: Option<(String, Mutex<u32>)>,
    shared_memory: Option<PathBuf>,
    may_idle: bool,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Looks at the machine.
    pub fn new() -> Self {
        let abort_at = std::env::var("LSVD_FAILPOINT").ok().map(|text| {
            let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
            (name.to_owned(), Mutex::new(nth.parse().unwrap_or(1)))
        });
        Self {
            started: Instant::now(),
            abort_at,
            shared_memory: lasting_tmpfs(),
            may_idle: may_idle(),
        }
    }

    fn buffer_paths(&self, dir: &Path, id: u128) -> Vec<PathBuf> {
        let in_memory = self.shared_memory.as_ref().map(|d| d.join(format!("lsvd-{id:032x}")));
        in_memory.into_iter().chain([dir.join(format!("{id:032x}.buffer"))]).collect()
    }
}

/// A tmpfs whose files outlive the process: not in a container, which has its own and loses
/// it, and not for an ordinary user, whose files systemd removes at logout.
fn lasting_tmpfs() -> Option<PathBuf> {
    let ordinary_user = rustix::process::getuid().as_raw() >= 1000;
    let container = ["/.dockerenv", "/run/.containerenv"].iter().any(|p| Path::new(p).exists())
        || std::env::var_os("container").is_some();
    let dir = PathBuf::from("/dev/shm");
    (!ordinary_user && !container && dir.is_dir()).then_some(dir)
}

/// Maps `path`, allocated in full so that touching it can never fail later.
fn map_file(path: &Path, bytes: usize) -> io::Result<LogBuffer> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_len(bytes as u64)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    map_open_file(&file, bytes)
}

/// Memory of this process alone.
fn own_mapping(mut map: MmapMut) -> io::Result<LogBuffer> {
    let (base, bytes) = (NonNull::new(map.as_mut_ptr()), map.len());
    let base = base.ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: the mapping is page-aligned, of these bytes, and lives as long as `map`, which nobody
    // reaches any more but through the buffer.
    Ok(unsafe { LogBuffer::new(base, bytes, Arc::new(map)) })
}

fn map_open_file(file: &File, bytes: usize) -> io::Result<LogBuffer> {
    let map = MmapRaw::map_raw(file)?;
    let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: the mapping is page-aligned, `bytes` long and lives as long as `map`; the file
    // is private to this process by the cache directory's lock.
    Ok(unsafe { LogBuffer::new(base, bytes, Arc::new(map)) })
}

impl Platform for Host {
    fn unix_millis(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn random(&self) -> u128 {
        uuid::Uuid::new_v4().as_u128() ^ uuid::Uuid::new_v4().as_u128().rotate_left(64)
    }

    fn host_name(&self) -> String {
        let mut name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        while name.len() > 255 {
            name.pop();
        }
        name
    }

    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(name.to_owned()).spawn(body)
    }

    fn this_thread(&self) -> Option<Box<dyn ThreadControl>> {
        Some(Box::new(HostThread::caller(self.may_idle)))
    }

    fn this_core(&self) -> Option<usize> {
        Some(rustix::thread::sched_getcpu())
    }

    fn failpoint(&self, name: &'static str) -> io::Result<()> {
        if let Some((wanted, left)) = &self.abort_at
            && wanted == name
        {
            let mut left = left.lock();
            *left -= 1;
            if *left == 0 {
                std::process::abort();
            }
        }
        Ok(())
    }

    fn open_log(&self, path: &Path, write: bool) -> io::Result<Option<Arc<dyn LogFile>>> {
        match SsdFile::open(path, write) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn create_log(&self, path: &Path, bytes: u64, head: &[u8]) -> io::Result<Arc<dyn LogFile>> {
        let unfinished = path.with_extension("new");
        let made = SsdFile::create(&unfinished, bytes, head)
            .and_then(|()| fs::rename(&unfinished, path))
            .and_then(|()| sync_parent(path));
        if let Err(e) = made {
            // Best effort: the name is re-used by the next attempt in any case.
            let _ = fs::remove_file(&unfinished);
            return Err(e);
        }
        Ok(Arc::new(SsdFile::open(path, true)?))
    }

    fn remove_log(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => sync_parent(path),
        }
    }

    fn open_buffer(&self, dir: &Path, id: u128, bytes: usize) -> io::Result<LogBuffer> {
        let paths = self.buffer_paths(dir, id);
        let of_size = |p: &&PathBuf| fs::metadata(p).is_ok_and(|m| m.len() == bytes as u64);
        if let Some(existing) = paths.iter().find(of_size) {
            return map_file(existing, bytes);
        }
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for path in &paths {
            match map_file(path, bytes) {
                Ok(buffer) => return Ok(buffer),
                Err(e) => {
                    // A half-made buffer holds nothing.
                    let _ = fs::remove_file(path);
                    failure = e;
                }
            }
        }
        Err(failure)
    }

    fn peek_buffer(&self, dir: &Path, id: u128, bytes: usize) -> io::Result<Option<LogBuffer>> {
        for path in self.buffer_paths(dir, id) {
            let Ok(file) = File::open(&path) else { continue };
            if file.metadata().is_ok_and(|found| found.len() == bytes as u64) {
                // A copy of our own: the writer of the log may be at work. Not from the allocator,
                // which keeps what is given back to it.
                let mut copy = MmapMut::map_anon(bytes)?;
                if file.read_exact_at(&mut copy, 0).is_ok() {
                    return own_mapping(copy).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn remove_buffer(&self, dir: &Path, id: u128) {
        for path in self.buffer_paths(dir, id) {
            // Most logs have only one of the two.
            let _ = fs::remove_file(path);
        }
    }

    fn boot_id(&self) -> u128 {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        uuid::Uuid::try_parse(text.trim()).map_or(0, |u| u.as_u128())
    }
}

/// Makes a file's name durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
