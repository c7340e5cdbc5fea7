//! Requests to operations of [`VolumeFs`], outcomes to answers. What fuser's edge does, too.

use super::super::errno::Errno;
use super::super::handles::Handle;
use super::super::inode::now_ms;
use super::super::io::Allocate;
use super::super::{Changes, Outcome, Owner, VolumeFs};
use super::abi::Header;
use super::answer::{self, Small};
use super::reply::Reply;
use super::request::{Operation, SetAttr, Time};

/// Largest write that is copied, so that its answer need not wait for what the engine does after
/// it: up to here copying costs less than waiting.
const COPY_BYTES_MAX: usize = 16 << 10;

/// Carries a request out; `payload` is not read any more when this returns.
pub(super) fn dispatch(
    fs: &VolumeFs,
    header: &Header,
    payload: &[u8],
    reply: Reply,
    scratch: &mut Vec<u8>,
) {
    let Some(operation) = Operation::of(header, payload) else {
        log::warn!("the kernel's request {} makes no sense", header.opcode);
        return reply.error(Errno::EIO);
    };
    let ino = header.nodeid;
    let owner = Owner { uid: header.uid, gid: header.gid };
    match operation {
        Operation::Read { fh, offset, len } => {
            fs.read(fh, offset, len as usize, |outcome| match outcome {
                Ok(data) => reply.data(data),
                Err(errno) => reply.error(errno),
            });
        }
        Operation::Write { fh, offset, data } => write(fs, (fh, offset), data, reply, scratch),
        Operation::Fsync { fh } => fs.fsync(fh, |outcome| reply.outcome(outcome)),
        Operation::Lookup { name } => fs.lookup(ino, name, |found| entry(reply, found)),
        Operation::GetAttr => fs.getattr(ino, |found| attributes(reply, found)),
        Operation::SetAttr(wanted) => {
            fs.setattr(ino, changes(wanted), |changed| attributes(reply, changed));
        }
        Operation::Mknod { mode, .. } if mode & libc::S_IFMT != libc::S_IFREG => {
            reply.error(Errno::EPERM);
        }
        Operation::Mknod { name, mode } => {
            fs.create(ino, name, mode, owner, false, |made| {
                entry(reply, made.map(|(attr, _)| attr));
            });
        }
        Operation::Create { name, mode } => {
            fs.create(ino, name, mode, owner, true, |made| {
                small(reply, made.map(|(attr, fh)| Small::created(&attr, fh)));
            });
        }
        Operation::Mkdir { name } => {
            log::warn!("mkdir {name:?}: a mount holds volumes, and volumes are files");
            reply.error(Errno::EPERM);
        }
        Operation::Unlink { name } => fs.unlink(ino, name, |outcome| reply.outcome(outcome)),
        // Without an overwriting rename, "do not replace" is what happens anyway.
        Operation::Rename { flags, .. } if flags & !libc::RENAME_NOREPLACE != 0 => {
            reply.error(Errno::EINVAL);
        }
        Operation::Rename { from, to, new_parent, .. } => {
            fs.rename((ino, new_parent), from, to, |outcome| reply.outcome(outcome));
        }
        Operation::Open { flags } => {
            let for_writing = flags as i32 & libc::O_ACCMODE != libc::O_RDONLY;
            fs.open(ino, for_writing, |opened| small(reply, opened.map(Small::opened_file)));
        }
        Operation::OpenDir => {
            fs.opendir(ino, |opened| small(reply, opened.map(Small::opened_directory)));
        }
        Operation::ReadDir { fh, offset, len } => read_directory(fs, fh, offset, len, reply),
        Operation::Release { fh } => {
            fs.release(fh);
            reply.ok();
        }
        Operation::StatFs => {
            fs.statfs(|space| small(reply, space.map(|space| Small::space(&space))))
        }
        Operation::Fallocate { fh, offset, length, mode } => match Allocate::of_mode(mode) {
            Some(what) => {
                fs.fallocate(fh, offset, length, what, |outcome| reply.outcome(outcome));
            }
            None => reply.error(Errno::EOPNOTSUPP),
        },
        Operation::Lseek { fh, offset, whence } => {
            fs.lseek(fh, offset, whence, |found| small(reply, found.map(Small::offset)));
        }
        Operation::CopyFileRange { from, to, len } => {
            fs.copy_file_range(from, to, len, |copied| small(reply, copied.map(Small::written)));
        }
        Operation::Refused => reply.error(Errno::EPERM),
        Operation::Agreed => reply.ok(),
        Operation::Other => reply.error(Errno::ENOSYS),
    }
}

fn write(
    fs: &VolumeFs,
    (fh, offset): (u64, u64),
    data: &[u8],
    mut reply: Reply,
    scratch: &mut Vec<u8>,
) {
    let written = Small::written(data.len() as u32);
    let done = |reply: Reply| move |outcome: Outcome<()>| small(reply, outcome.map(|()| written));
    if data.len() > COPY_BYTES_MAX {
        return fs.write(fh, offset, data, done(reply));
    }
    scratch.clear();
    scratch.extend_from_slice(data);
    // SAFETY: a write's payload is its data, and from here on the copy is read.
    unsafe { reply.allow_at_once() };
    fs.write(fh, offset, scratch, done(reply));
}

fn read_directory(fs: &VolumeFs, fh: u64, offset: u64, len: u32, reply: Reply) {
    let handle = match fs.directory(fh) {
        Ok(handle) => handle,
        Err(errno) => return reply.error(errno),
    };
    let Handle::Directory(entries) = &*handle else { return reply.error(Errno::ENOTDIR) };
    reply.fill(|payload| {
        let room = payload.len().min(len as usize);
        answer::list(entries, offset, payload.get_mut(..room).unwrap_or_default())
    });
}

fn changes(wanted: SetAttr) -> Changes {
    let SetAttr { mode, uid, gid, size, modified } = wanted;
    // The kernel sends the time of a truncate along; the resize notes that itself.
    let modified_ms = modified.filter(|_| size.is_none()).map(|time| match time {
        Time::Now => now_ms(),
        Time::Ms(ms) => ms,
    });
    Changes { mode, uid, gid, size, modified_ms }
}

fn small(reply: Reply, outcome: Outcome<Small>) {
    match outcome {
        Ok(answer) => reply.small(answer),
        Err(errno) => reply.error(errno),
    }
}

fn entry(reply: Reply, outcome: Outcome<super::super::inode::Attr>) {
    small(reply, outcome.map(|attr| Small::entry(&attr)));
}

fn attributes(reply: Reply, outcome: Outcome<super::super::inode::Attr>) {
    small(reply, outcome.map(|attr| Small::attr(&attr)));
}
