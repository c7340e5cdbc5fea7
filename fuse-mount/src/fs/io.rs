//! Operations on open files: the hot path. Nothing here waits; what must goes to the pool.

use std::sync::Arc;

use lsvd_volume::{Error, Volume};

use super::errno::Errno;
use super::handles::Handle;
use super::inode::Node;
use super::{Outcome, VolumeFs};

/// What `fallocate` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allocate {
    /// Room: needs nothing but size here, as blocks are found when they are written.
    Room { keep_size: bool },
    /// Zeroes.
    Zero { keep_size: bool },
    /// Zeroes; never changes the size.
    Punch,
}

/// Which end of data `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seek {
    Data,
    Hole,
}

impl Allocate {
    /// What a mode of `fallocate(2)` asks for.
    fn of_mode(mode: i32) -> Outcome<Self> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Ok(Self::Room { keep_size }),
            libc::FALLOC_FL_ZERO_RANGE => Ok(Self::Zero { keep_size }),
            libc::FALLOC_FL_PUNCH_HOLE => Ok(Self::Punch),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

impl Seek {
    /// What a `whence` of `lseek(2)` asks for.
    fn of_whence(whence: i32) -> Outcome<Self> {
        match whence {
            libc::SEEK_DATA => Ok(Self::Data),
            libc::SEEK_HOLE => Ok(Self::Hole),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl VolumeFs {
    /// Reads; short only at the end of the file.
    pub(crate) fn read(
        &self,
        handle: u64,
        offset: u64,
        len: usize,
        done: impl FnOnce(Outcome<&[u8]>) + Send + 'static,
    ) {
        let Some(handle) = self.handles.get(handle) else { return done(Err(Errno::EBADF)) };
        match &*handle {
            Handle::Volume { node, .. } => {
                let Some(volume) = node.volume() else { return done(Err(Errno::EIO)) };
                // Of a volume that others write, the end may have moved: the engine looks.
                let mut len = len;
                if !volume.is_read_only() {
                    let left = node.size_in(&volume).saturating_sub(offset);
                    len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
                }
                if len == 0 {
                    return done(Ok(&[]));
                }
                volume.read(offset, len, move |outcome| {
                    done(outcome.map_err(|error| Errno::of("read", &error)));
                });
            }
            Handle::Snapshot(volume) => volume.read(offset, len, move |outcome| {
                done(outcome.map_err(|error| Errno::of("read", &error)));
            }),
            Handle::Text(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(len).min(text.len());
                done(Ok(text.get(start..end).unwrap_or_default()));
            }
            Handle::Directory(_) => done(Err(Errno::EISDIR)),
        }
    }

    /// Writes all of `data`; past the end the file grows.
    pub(crate) fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        done: impl FnOnce(Outcome<()>) + Send + 'static,
    ) {
        let Some(handle) = self.handles.get(handle) else { return done(Err(Errno::EBADF)) };
        let Handle::Volume { node, write: true } = &*handle else { return done(Err(Errno::EBADF)) };
        let Some(volume) = node.volume() else { return done(Err(Errno::EIO)) };
        let Some(end) = offset.checked_add(data.len() as u64) else {
            return done(Err(Errno::EFBIG));
        };
        node.touch();
        if end <= node.size_in(&volume) {
            volume.write(offset, data, move |outcome| {
                done(outcome.map_err(|error| Errno::of("write", &error)));
            });
            return;
        }
        let (volumes, node, data) = (self.volumes.clone(), node.clone(), data.to_vec());
        self.pool.run(move || match volumes.grow_for(&node, end) {
            Ok(volume) => volume.write(offset, &data, move |outcome| {
                if outcome.is_ok() {
                    node.extend_to(end);
                }
                done(outcome.map_err(|error| Errno::of("write", &error)));
            }),
            Err(error) => done(Err(of_growth("grow", &error))),
        });
    }

    /// Makes everything written so far durable on the SSD.
    pub(crate) fn fsync(&self, handle: u64, done: impl FnOnce(Outcome<()>) + Send + 'static) {
        let Some(handle) = self.handles.get(handle) else { return done(Err(Errno::EBADF)) };
        match &*handle {
            Handle::Volume { node, .. } => match node.volume() {
                Some(volume) if !volume.is_read_only() => {
                    volume.flush(move |outcome| {
                        done(outcome.map_err(|error| Errno::of("fsync", &error)))
                    });
                }
                _ => done(Ok(())),
            },
            Handle::Directory(_) | Handle::Text(_) | Handle::Snapshot(_) => done(Ok(())),
        }
    }

    /// Discards, zeroes or makes room.
    pub(crate) fn fallocate(
        &self,
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
        done: impl FnOnce(Outcome<()>) + Send + 'static,
    ) {
        let what = match Allocate::of_mode(mode) {
            Ok(what) => what,
            Err(errno) => return done(Err(errno)),
        };
        let Some(handle) = self.handles.get(handle) else { return done(Err(Errno::EBADF)) };
        let Handle::Volume { node, write: true } = &*handle else { return done(Err(Errno::EBADF)) };
        let Some(volume) = node.volume() else { return done(Err(Errno::EIO)) };
        let Some(end) = offset.checked_add(len).filter(|_| len > 0) else {
            return done(Err(Errno::EINVAL));
        };
        let grows = matches!(
            what,
            Allocate::Room { keep_size: false } | Allocate::Zero { keep_size: false }
        ) && end > node.size_in(&volume);
        let zeroes = what != (Allocate::Room { keep_size: true })
            && what != (Allocate::Room { keep_size: false });
        if !grows {
            return if zeroes { trim(node, &volume, offset, end, done) } else { done(Ok(())) };
        }
        let (volumes, node) = (self.volumes.clone(), node.clone());
        self.pool.run(move || {
            let Some(bytes) = end.checked_next_multiple_of(lsvd_volume::BLOCK_BYTES) else {
                return done(Err(Errno::EFBIG));
            };
            match volumes.resize(&node, bytes, false) {
                Ok(()) if zeroes => match node.volume() {
                    Some(volume) => trim(&node, &volume, offset, end, done),
                    None => done(Err(Errno::EIO)),
                },
                Ok(()) => done(Ok(())),
                Err(error) => done(Err(of_growth("fallocate", &error))),
            }
        });
    }

    /// The next data or hole at or after `offset`.
    pub(crate) fn lseek(
        &self,
        handle: u64,
        offset: i64,
        whence: i32,
        done: impl FnOnce(Outcome<u64>) + Send + 'static,
    ) {
        let asked = Seek::of_whence(whence).and_then(|what| {
            let handle = self.handles.get(handle).ok_or(Errno::EBADF)?;
            Ok((what, handle.content()?))
        });
        let (what, (volume, size)) = match asked {
            Ok(asked) => asked,
            Err(errno) => return done(Err(errno)),
        };
        let Some(offset) = u64::try_from(offset).ok().filter(|offset| *offset < size) else {
            return done(Err(Errno::ENXIO));
        };
        let failed = |error| Errno::of("lseek", &error);
        match what {
            Seek::Data => volume.seek_data(offset, move |found| {
                let found = found.map_err(failed);
                let inside = |found: Option<u64>| found.filter(|found| *found < size);
                done(found.and_then(|found| inside(found).ok_or(Errno::ENXIO)));
            }),
            Seek::Hole => volume.seek_hole(offset, move |found| {
                done(found.map(|found| found.min(size)).map_err(failed));
            }),
        }
    }
}

/// What is told where a file cannot grow.
pub(super) fn of_growth(what: &str, error: &Error) -> Errno {
    match error {
        Error::BadSize { .. } => Errno::EFBIG,
        error => Errno::of(what, error),
    }
}

/// Discards what of `offset..end` lies in the file.
fn trim(
    node: &Arc<Node>,
    volume: &Arc<Volume>,
    offset: u64,
    end: u64,
    done: impl FnOnce(Outcome<()>) + Send + 'static,
) {
    node.touch();
    let end = end.min(node.size_in(volume));
    match end.checked_sub(offset).filter(|len| *len > 0) {
        None => done(Ok(())),
        Some(len) => volume.trim(offset, len, move |outcome| {
            done(outcome.map_err(|error| Errno::of("trim", &error)));
        }),
    }
}
