//! A null FUSE file system: what FUSE itself costs, and nothing else.
//!
//! ```text
//! null_fs MOUNTPOINT [--size 1G]
//!
//! MOUNTPOINT/null     writes are dropped, reads are zeroes, fsync does nothing
//! ```
//!
//! It talks to the kernel with the same session settings as `lsvd-fuse` and replies inline from
//! the session's threads, so its figures are the ceiling that a volume file can reach on the same
//! machine. `scripts/bench` runs both in turn and prints the ratio.
//!
//! It runs in the foreground until somebody unmounts it (`umount MOUNTPOINT`, or
//! `fusermount3 -u MOUNTPOINT` without root). It prints one line once the mount answers.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};

/// The largest request the kernel may send, and so the largest reply it may ask for.
const REQUEST_BYTES: usize = 1 << 20;

/// Requests the kernel may have under way at once without a caller waiting for each.
const BACKGROUND_REQUESTS: u16 = 256;

/// Attributes never change, so the kernel may keep them for ever.
const ATTRIBUTES_VALID: Duration = Duration::from_secs(3600);

/// Inode of the one file.
const FILE: INodeNo = INodeNo(2);

/// Name of the one file.
const FILE_NAME: &str = "null";

/// What every read is answered from; zero pages that cost no memory.
static ZEROES: [u8; REQUEST_BYTES] = [0; REQUEST_BYTES];

/// A FUSE file system with one file that swallows writes and reads as zeroes.
#[derive(Parser)]
#[command(name = "null_fs")]
struct Arguments {
    /// An empty directory to mount on.
    mountpoint: PathBuf,
    /// Size of the file: bytes, or a number followed by K, M, G or T.
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    size: u64,
}

/// Reads `512`, `64K`, `1G`, …
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?} is not a size such as 512M or 1G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// The file system: one directory, one file, no state.
struct NullFs {
    size: u64,
}

impl NullFs {
    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size, nlink) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0, 2),
            FILE => (FileType::RegularFile, 0o666, self.size, 1),
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for NullFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without this one, asynchronous direct I/O reaches the daemon one request at a time.
        config
            .add_capabilities(InitFlags::FUSE_ASYNC_DIO)
            .map_err(|missing| io::Error::other(format!("this kernel's FUSE lacks {missing:?}")))?;
        let refused = |nearest| {
            io::Error::other(format!("a FUSE limit was refused; the nearest is {nearest}"))
        };
        config.set_max_background(BACKGROUND_REQUESTS).map_err(refused)?;
        config.set_congestion_threshold(BACKGROUND_REQUESTS).map_err(refused)?;
        config.set_max_write(REQUEST_BYTES as u32).map_err(|nearest| {
            io::Error::other(format!("max_write was refused; the nearest is {nearest}"))
        })?;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(attr) if parent == INodeNo::ROOT && name == FILE_NAME => {
                reply.entry(&ATTRIBUTES_VALID, &attr, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attr) => reply.attr(&ATTRIBUTES_VALID, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(0),
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        );
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let available = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        reply.data(&ZEROES[..available.min(size as usize).min(REQUEST_BYTES)]);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino != INodeNo::ROOT {
            reply.error(Errno::ENOTDIR);
            return;
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, FILE_NAME),
        ];
        for (next, (ino, kind, name)) in (1..).zip(entries) {
            if next > offset && reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let threads = std::thread::available_parallelism().context("counting the processor's cores")?;

    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("null_fs".to_owned()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    // More threads than cores only get in each other's way.
    config.n_threads = Some(threads.get());

    let mountpoint = &arguments.mountpoint;
    let session = Session::new(NullFs { size: arguments.size }, mountpoint, &config)
        .with_context(|| format!("cannot mount on {}", mountpoint.display()))?;
    writeln!(io::stdout(), "mounted {}", mountpoint.display())?;
    session.run().with_context(|| format!("the mount on {} ended badly", mountpoint.display()))
}
