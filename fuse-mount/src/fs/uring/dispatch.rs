//! Requests to operations of [`VolumeFs`], outcomes to answers. What fuser's edge does, too.

use super::super::errno::Errno;
use super::super::inode::{Attr, now_ms};
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
        Operation::Mknod { name, mode } => {
            fs.mknod(ino, name, mode, owner, |made| entry(reply, made));
        }
        Operation::Create { name, mode } => {
            fs.create(ino, name, mode, owner, |made| {
                small(reply, made.map(|(attr, fh)| Small::created(&attr, fh)));
            });
        }
        Operation::Mkdir { name } => fs.mkdir(name, |outcome| reply.outcome(outcome)),
        Operation::Unlink { name } => fs.unlink(ino, name, |outcome| reply.outcome(outcome)),
        Operation::Rename { from, to, new_parent, flags } => {
            fs.rename((ino, from), (new_parent, to), flags, |outcome| reply.outcome(outcome));
        }
        Operation::Open { flags } => {
            fs.open(ino, flags as i32, |opened| small(reply, opened.map(Small::opened_file)));
        }
        Operation::OpenDir => {
            fs.opendir(ino, |opened| small(reply, opened.map(Small::opened_directory)));
        }
        Operation::ReadDir { fh, offset, len } => fs.readdir(fh, offset, |listed| match listed {
            Ok(entries) => reply.fill(|payload| {
                let room = payload.len().min(len as usize);
                answer::list(entries, offset, payload.get_mut(..room).unwrap_or_default())
            }),
            Err(errno) => reply.error(errno),
        }),
        Operation::Release { fh } => {
            fs.release(fh);
            reply.ok();
        }
        Operation::StatFs => {
            fs.statfs(|space| small(reply, space.map(|space| Small::space(&space))))
        }
        Operation::Fallocate { fh, offset, length, mode } => {
            fs.fallocate(fh, offset, length, mode, |outcome| reply.outcome(outcome));
        }
        Operation::Lseek { fh, offset, whence } => {
            fs.lseek(fh, offset, whence, |found| small(reply, found.map(Small::offset)));
        }
        Operation::CopyFileRange { from, to, len } => {
            fs.copy_file_range(from, to, len, |copied| small(reply, copied.map(Small::written)));
        }
        Operation::Refused(errno) => reply.error(errno),
        Operation::Agreed => reply.ok(),
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

fn changes(wanted: SetAttr) -> Changes {
    let SetAttr { mode, uid, gid, size, modified } = wanted;
    let modified_ms = modified.map(|time| match time {
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

fn entry(reply: Reply, outcome: Outcome<Attr>) {
    small(reply, outcome.map(|attr| Small::entry(&attr)));
}

fn attributes(reply: Reply, outcome: Outcome<Attr>) {
    small(reply, outcome.map(|attr| Small::attr(&attr)));
}
