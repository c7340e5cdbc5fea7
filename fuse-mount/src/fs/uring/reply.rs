//! Where the answer to one request goes; from whichever thread it comes.

use std::sync::Arc;

use super::super::Outcome;
use super::super::errno::Errno;
use super::abi::{Header, put};
use super::answer::Small;
use super::queue::Queue;
use super::slots::Lease;

/// A request that waits to be answered. Dropped unanswered, as by a panic, it is answered by `EIO`.
pub(super) struct Reply {
    queue: Arc<Queue>,
    lease: Option<Lease>,
    unique: u64,
    commit_id: u64,
    /// The request has a payload of its own, which may still be read.
    keeps_payload: bool,
    at_once: bool,
}

/// An answer on its way.
pub(super) struct Finished {
    pub(super) lease: Lease,
    pub(super) unique: u64,
    pub(super) commit_id: u64,
    pub(super) errno: i32,
    /// Put into the payload when the answer goes to the kernel.
    pub(super) small: Small,
    /// In the payload already.
    pub(super) data_bytes: usize,
}

impl Reply {
    /// The answer to the request in an entry.
    pub(super) fn new(queue: &Arc<Queue>, lease: Lease, header: &Header) -> Self {
        Self {
            queue: queue.clone(),
            lease: Some(lease),
            unique: header.unique,
            commit_id: header.commit_id,
            keeps_payload: header.payload_bytes > 0,
            at_once: false,
        }
    }

    /// Lets the answer go to the kernel as soon as it is there, before the call that gives it
    /// returns.
    ///
    /// # Safety
    /// Nobody reads the payload of the request any more.
    pub(super) unsafe fn allow_at_once(&mut self) {
        self.at_once = true;
    }

    /// Done, and nothing to tell.
    pub(super) fn ok(self) {
        self.finish(0, Small::EMPTY, 0);
    }

    /// Failed.
    pub(super) fn error(self, errno: Errno) {
        self.finish(errno.code(), Small::EMPTY, 0);
    }

    /// Done, with a struct as the answer.
    pub(super) fn small(self, small: Small) {
        self.finish(0, small, 0);
    }

    /// Done or failed.
    pub(super) fn outcome(self, outcome: Outcome<()>) {
        match outcome {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }

    /// Done, with as many bytes of payload as `write` says it has written.
    pub(super) fn fill(mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let Some(lease) = self.lease.as_mut().filter(|_| !self.keeps_payload) else {
            return self.error(Errno::EIO);
        };
        // SAFETY: the request came without a payload, so nobody reads any.
        let payload = unsafe { self.queue.slots().answer_payload(lease) };
        let room = payload.len();
        let written = write(payload).min(room);
        self.finish(0, Small::EMPTY, written);
    }

    /// Done, with these bytes.
    pub(super) fn data(self, data: &[u8]) {
        self.fill(|payload| {
            let len = data.len().min(payload.len());
            put(payload, 0, data.get(..len).unwrap_or_default());
            len
        });
    }

    fn finish(mut self, errno: i32, small: Small, data_bytes: usize) {
        self.send(errno, small, data_bytes);
    }

    fn send(&mut self, errno: i32, small: Small, data_bytes: usize) {
        let Some(lease) = self.lease.take() else { return };
        let (unique, commit_id) = (self.unique, self.commit_id);
        let finished = Finished { lease, unique, commit_id, errno, small, data_bytes };
        self.queue.finish(finished, self.at_once);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(libc::EIO, Small::EMPTY, 0);
    }
}
