//! Copies between open files, made inside the daemon: no data passes the kernel.
//!
//! ```text
//!   source: seek_data, seek_hole ──┬── shared already: nothing
//!                                  ├── data: pieces, a few at once: read ── write ──> target
//!                                  └── hole: trim ───────────────────────────────────> target
//! ```
//! What comes to the same place, and lies in objects that both volumes have, is shared and not copied. A
//! hole is never read, and is a hole in the target as well. A copy runs on a thread of its own pool
//! and waits there: for the source's data, and for the target's log where that slows writers down. So
//! copies hold up other copies; and, where pieces do not begin and end with sectors of the target, which
//! are read and written back by the engine's threads for misses, those as well while the log is full.
//!
//! An answer may be short, and whoever copies asks for the rest. It counts what was copied without a
//! gap: an error is told only where nothing was.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crossbeam::channel::{Receiver, bounded};
use lsvd_volume::{Error, Result, ShareLimits, Volume};

use super::errno::Errno;
use super::handles::Handle;
use super::inode::Node;
use super::io::of_growth;
use super::volumes::Volumes;
use super::{Outcome, VolumeFs};

/// Data in one request at most. The kernel keeps other writers from the target for so long.
const DATA_BYTES_MAX: u64 = 16 << 20;
/// Data and holes in one request at most: whole sectors, and fit for the answer's 32 bits.
const SPAN_BYTES_MAX: u64 = 1 << 30;
/// Largest piece that is read and written in one go.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// Less data than this is not worth the round trip to the store that sharing it takes.
const SHARE_BYTES_MIN: u64 = 1 << 20;
/// Pieces of one copy under way at once.
const PIECES_MAX: usize = 4;

/// A position in an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The open file's number.
    pub(crate) handle: u64,
    pub(crate) offset: u64,
}

impl VolumeFs {
    /// Copies up to `len` bytes; the outcome is how many, and 0 only at the source's end. Past the
    /// target's end the file grows.
    pub(crate) fn copy_file_range(
        &self,
        from: Place,
        to: Place,
        len: u64,
        done: impl FnOnce(Outcome<u32>) + Send + 'static,
    ) {
        let handles = self.handles.get(from.handle).zip(self.handles.get(to.handle));
        let Some((source, target)) = handles else { return done(Err(Errno::EBADF)) };
        let volumes = self.volumes.clone();
        self.copies.run(move || {
            let transfer =
                Transfer::new(&volumes, (&source, from.offset), (&target, to.offset), len);
            done(transfer.and_then(|found| found.map_or(Ok(0), |transfer| transfer.run())));
        });
    }
}

/// A copy to be made.
struct Transfer {
    source: Arc<Volume>,
    target: Arc<Volume>,
    /// The target's file.
    node: Arc<Node>,
    from: u64,
    to: u64,
    len: u64,
}

impl Transfer {
    /// Cuts what is asked for to what is there, and makes room for it; `None` if nothing is there.
    fn new(
        volumes: &Volumes,
        (source, from): (&Handle, u64),
        (target, to): (&Handle, u64),
        len: u64,
    ) -> Outcome<Option<Self>> {
        let Handle::Volume { node, write: true } = target else { return Err(Errno::EBADF) };
        // Of a volume that others write, the end may have moved.
        source.content()?.0.refresh().map_err(failed)?;
        let (volume, end) = source.content()?;
        let len = len.min(end.saturating_sub(from)).min(SPAN_BYTES_MAX);
        if len == 0 {
            return Ok(None);
        }
        let to_end = to.checked_add(len).ok_or(Errno::EFBIG)?;
        let of_one_file =
            matches!(source, Handle::Volume { node: other, .. } if other.ino == node.ino);
        if of_one_file && from < to_end && to < from + len {
            return Err(Errno::EINVAL);
        }
        let mut target = node.volume().ok_or(Errno::EIO)?;
        if to_end > node.size_in(&target) {
            target = volumes.grow_for(node, to_end).map_err(|error| of_growth("grow", &error))?;
        }
        node.touch();
        Ok(Some(Self { source: volume, target, node: Arc::clone(node), from, to, len }))
    }

    fn run(&self) -> Outcome<u32> {
        let mut pieces = Pieces::new(self);
        let outcome = self.start_all(&mut pieces);
        pieces.finish(outcome).map(|copied| copied as u32)
    }

    /// Has the target share what it can; says which bytes of the copy need not be made any more.
    fn share(&self) -> VecDeque<Range<u64>> {
        if self.from != self.to {
            return VecDeque::new();
        }
        // What lies further away this request will not come to.
        let limits = ShareLimits { least_bytes: SHARE_BYTES_MIN, other_bytes_max: DATA_BYTES_MAX };
        let shared =
            self.target.share(&self.source, self.from, self.len, limits).unwrap_or_else(|error| {
                // Copying will tell what is wrong.
                log::debug!("{}: nothing is shared: {error}", self.target.name());
                Vec::new()
            });
        shared.into_iter().map(|bytes| bytes.start - self.from..bytes.end - self.from).collect()
    }

    /// Goes over the source and starts one piece after the other.
    fn start_all(&self, pieces: &mut Pieces<'_>) -> Outcome<()> {
        let mut shared = self.share();
        let (mut at, mut data) = (0, 0);
        while at < self.len {
            let found = waited(|done| self.source.seek_data(self.from + at, done))?;
            let data_at = found.map_or(self.len, |found| self.len.min(found - self.from));
            if data_at > at {
                pieces.start(data_at - at, self.hole(at, data_at - at))?;
            }
            if data_at == self.len {
                break;
            }
            at = data_at;
            let found = waited(|done| self.source.seek_hole(self.from + at, done))?;
            let hole_at = self.len.min(found.saturating_sub(self.from));
            while at < hole_at {
                while shared.front().is_some_and(|bytes| bytes.end <= at) {
                    shared.pop_front();
                }
                let next = shared.front().map_or(hole_at, |bytes| bytes.start);
                if next <= at {
                    let end = shared.front().map_or(at, |bytes| bytes.end.min(hole_at));
                    pieces.start(end - at, done_already(end - at))?;
                    at = end;
                    continue;
                }
                if data >= DATA_BYTES_MAX {
                    return Ok(());
                }
                // From the second on, pieces begin at whole sectors of the target.
                let most = PIECE_BYTES_MAX - (self.to + at) % PIECE_BYTES_MAX;
                let len = most.min(hole_at.min(next) - at);
                pieces.start(len, self.data(at, len))?;
                (at, data) = (at + len, data + len);
            }
        }
        Ok(())
    }

    /// Starts to copy data; what comes is the number of bytes.
    fn data(&self, at: u64, len: u64) -> Receiver<Result<u64>> {
        let (tell, told) = bounded(1);
        let (target, to) = (Arc::clone(&self.target), self.to + at);
        self.source.read(self.from + at, len as usize, move |read| {
            // Nobody stops listening before the answer.
            match read {
                Ok(bytes) => {
                    let len = bytes.len() as u64;
                    target.write(to, bytes, move |written| {
                        let _ = tell.send(written.map(|()| len));
                    });
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        });
        told
    }

    /// Starts to make a hole; what comes is the number of bytes.
    fn hole(&self, at: u64, len: u64) -> Receiver<Result<u64>> {
        let (tell, told) = bounded(1);
        self.target.trim(self.to + at, len, move |trimmed| {
            // Nobody stops listening before the answer.
            let _ = tell.send(trimmed.map(|()| len));
        });
        told
    }
}

/// The pieces of a copy under way, in order.
struct Pieces<'a> {
    transfer: &'a Transfer,
    under_way: VecDeque<(u64, Receiver<Result<u64>>)>,
    /// Without a gap.
    copied: u64,
    /// A piece failed: none after it counts.
    broken: bool,
}

impl<'a> Pieces<'a> {
    fn new(transfer: &'a Transfer) -> Self {
        let under_way = VecDeque::with_capacity(PIECES_MAX);
        Self { transfer, under_way, copied: 0, broken: false }
    }

    /// Takes a piece of `len` bytes in; waits for the oldest one where there are many, and fails if
    /// that one does.
    fn start(&mut self, len: u64, piece: Receiver<Result<u64>>) -> Outcome<()> {
        self.under_way.push_back((len, piece));
        if self.under_way.len() < PIECES_MAX { Ok(()) } else { self.take_oldest() }
    }

    /// Waits for all pieces: none may come to the target after the answer.
    fn finish(mut self, mut outcome: Outcome<()>) -> Outcome<u64> {
        while !self.under_way.is_empty() && !self.broken {
            let taken = self.take_oldest();
            outcome = outcome.and(taken);
        }
        for (_, piece) in self.under_way {
            let _ = piece.recv();
        }
        if self.copied > 0 { Ok(self.copied) } else { outcome.map(|()| 0) }
    }

    fn take_oldest(&mut self) -> Outcome<()> {
        let Some((len, piece)) = self.under_way.pop_front() else { return Ok(()) };
        let done = told(&piece).inspect_err(|_| self.broken = true)?;
        self.copied += done;
        self.transfer.node.extend_to(self.transfer.to + self.copied);
        // The source may have become shorter meanwhile.
        self.broken = done < len;
        if self.broken { Err(Errno::EIO) } else { Ok(()) }
    }
}

/// A piece that needs nothing to be done.
fn done_already(len: u64) -> Receiver<Result<u64>> {
    let (tell, told) = bounded(1);
    // There is room for it.
    let _ = tell.send(Ok(len));
    told
}

/// The outcome of a call that takes a callback.
fn waited<T: Send + 'static>(call: impl FnOnce(Box<dyn FnOnce(Result<T>) + Send>)) -> Outcome<T> {
    let (tell, answer) = bounded(1);
    call(Box::new(move |outcome| {
        // Nobody stops listening before the answer.
        let _ = tell.send(outcome);
    }));
    told(&answer)
}

/// What comes; EIO if nothing will.
fn told<T>(answer: &Receiver<Result<T>>) -> Outcome<T> {
    answer.recv().map_err(|_| Errno::EIO)?.map_err(failed)
}

fn failed(error: Error) -> Errno {
    Errno::of("copy_file_range", &error)
}
