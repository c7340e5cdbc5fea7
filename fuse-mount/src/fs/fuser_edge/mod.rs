//! The only module that names `fuser`: requests in, replies out, and the mount itself
//! ([`session`]).
//!
//! `POSIX_LOCKS` is not asked for, so the kernel keeps all locks itself: every lock, also the
//! open-file-description locks of QEMU, works among the programs of this host.
//!
//! Where requests come over io_uring (see [`super::uring`]), this is left with the mount itself and
//! the few messages that keep coming over /dev/fuse.

mod session;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::copy::Place;
use super::errno::Errno;
use super::inode::{Attr, Kind, now_ms};
use super::policy::{
    FILE_FLAGS, IO_BYTES_BEST, NAME_BYTES_MAX, NOT_A_VOLUME, NOT_OFFERED, TIME_TO_LIVE,
    WRITE_BYTES_MAX,
};
use super::uring::Rings;
use super::uring::abi::INIT_OVER_URING;
use super::{Changes, Owner, VolumeFs};
use session::{Ended, Offer};
pub(crate) use session::{MountFlags, mount};

/// Requests that the kernel keeps in flight in the background; more gain nothing.
const BACKGROUND_MAX: u16 = 256;

/// What fuser calls.
struct Edge {
    fs: Arc<VolumeFs>,
    offer: Offer,
    rings: Option<Arc<Rings>>,
    ended: Ended,
}

fn error(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.code())
}

fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn attr_of(attr: &Attr) -> FileAttr {
    let modified = time(attr.modified_ms);
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: time(attr.created_ms),
        kind: kind_of(attr.kind),
        perm: attr.permissions() as u16,
        nlink: attr.links(),
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: IO_BYTES_BEST,
        flags: 0,
    }
}

fn kind_of(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

fn millis(time: TimeOrNow) -> u64 {
    match time {
        TimeOrNow::Now => now_ms(),
        TimeOrNow::SpecificTime(time) => time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)),
    }
}

fn file_flags() -> FopenFlags {
    FopenFlags::from_bits_retain(FILE_FLAGS)
}

fn empty(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(error(errno)),
    }
}

fn entry(reply: ReplyEntry, outcome: Result<Attr, Errno>) {
    match outcome {
        Ok(attr) => reply.entry(&TIME_TO_LIVE, &attr_of(&attr), Generation(0)),
        Err(errno) => reply.error(error(errno)),
    }
}

fn attributes(reply: ReplyAttr, outcome: Result<Attr, Errno>) {
    match outcome {
        Ok(attr) => reply.attr(&TIME_TO_LIVE, &attr_of(&attr)),
        Err(errno) => reply.error(error(errno)),
    }
}

fn owner_of(request: &Request) -> Owner {
    Owner { uid: request.uid(), gid: request.gid() }
}

impl Filesystem for Edge {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            if config.add_capabilities(wanted).is_err() {
                log::info!("this kernel lacks {wanted:?}; going on without");
            }
        }
        if self.offer.wanted {
            let over_uring = InitFlags::from_bits_retain(INIT_OVER_URING);
            let taken = config.add_capabilities(over_uring).is_ok();
            self.offer.taken.store(taken, Ordering::Relaxed);
        }
        let settled = config
            .set_max_background(BACKGROUND_MAX)
            .and_then(|_| config.set_congestion_threshold(BACKGROUND_MAX))
            .map(drop)
            .map_err(u32::from)
            .and_then(|()| config.set_max_write(WRITE_BYTES_MAX).map(drop));
        if let Err(nearest) = settled {
            log::info!("the kernel connection could not be tuned as wanted; nearest is {nearest}");
        }
        Ok(())
    }

    fn destroy(&mut self) {
        // One that was given up before it served has nobody to wait for or to tell.
        let Some(tell) = self.ended.take() else { return };
        if let Some(rings) = self.rings.take() {
            rings.wait_for_end();
        }
        tell();
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.fs.forget(ino.0, lookups);
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.fs.lookup(parent.0, name, |outcome| entry(reply, outcome));
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        self.fs.getattr(ino.0, |outcome| attributes(reply, outcome));
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes { mode, uid, gid, size, modified_ms: mtime.map(millis) };
        self.fs.setattr(ino.0, changes, |outcome| attributes(reply, outcome));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.fs.mknod(parent.0, name, mode, owner_of(request), |outcome| entry(reply, outcome));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.fs.create(parent.0, name, mode, owner_of(request), |outcome| match outcome {
            Ok((attr, handle)) => {
                reply.created(
                    &TIME_TO_LIVE,
                    &attr_of(&attr),
                    Generation(0),
                    FileHandle(handle),
                    file_flags(),
                );
            }
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.fs.mkdir(name, |outcome| entry(reply, outcome));
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(error(NOT_A_VOLUME));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.fs.unlink(parent.0, name, |outcome| empty(reply, outcome));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (newparent.0, newname));
        self.fs.rename(from, to, flags.bits(), |outcome| empty(reply, outcome));
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.fs.open(ino.0, flags.0, |outcome| match outcome {
            Ok(handle) => reply.opened(FileHandle(handle), file_flags()),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.fs.read(handle.0, offset, size as usize, |outcome| match outcome {
            Ok(data) => reply.data(data),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = data.len() as u32;
        self.fs.write(handle.0, offset, data, move |outcome| match outcome {
            Ok(()) => reply.written(written),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(error(NOT_OFFERED));
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.fsync(handle.0, |outcome| empty(reply, outcome));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.fs.opendir(ino.0, |outcome| match outcome {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.fs.readdir(handle.0, offset, |outcome| match outcome {
            Ok(entries) => {
                for (entry, next) in entries.iter().zip(offset.saturating_add(1)..) {
                    if reply.add(INodeNo(entry.ino), next, kind_of(entry.kind), &entry.name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Names are in the store before a create or rename is answered.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.fs.statfs(|outcome| match outcome {
            Ok(space) => {
                let (size, names) = (space.block_bytes, NAME_BYTES_MAX);
                reply.statfs(space.blocks, space.free, space.available, 0, 0, size, names, size);
            }
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(error(NOT_OFFERED));
    }

    fn getxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(error(NOT_OFFERED));
    }

    fn listxattr(&self, _request: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(error(NOT_OFFERED));
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(error(NOT_OFFERED));
    }

    fn symlink(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(error(NOT_A_VOLUME));
    }

    fn link(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _parent: INodeNo,
        _name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(error(NOT_A_VOLUME));
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // With default permissions the kernel decides and does not ask.
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.fs.fallocate(handle.0, offset, length, mode, |outcome| empty(reply, outcome));
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.fs.lseek(handle.0, offset, whence, |outcome| match outcome {
            Ok(found) => reply.offset(found as i64),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = Place { handle: handle_in.0, offset: offset_in };
        let to = Place { handle: handle_out.0, offset: offset_out };
        self.fs.copy_file_range(from, to, len, |outcome| match outcome {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(error(errno)),
        });
    }
}
