//! One queue: its ring, its entries, and the thread that serves them.
//!
//! ```text
//!         ┌──────────────────── the queue's thread ────────────────────┐
//!   ┌─> answers ── io_uring_enter: give them, wait ── requests ── VolumeFs ──┐ answered at once
//!   │                     ^                                                  │ or later, by
//!   └── finished <────────┼──────────────────────────────────────────────────┘ another thread
//!                      eventfd <── only where the thread sleeps
//! ```
//! Only the queue's own thread submits: the kernel hands an entry's next request to the thread that
//! submitted its last command. So whoever else answers leaves the answer in `finished` and, where
//! the thread sleeps, writes to an eventfd that the ring polls.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode as ring_opcode, types};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::super::VolumeFs;
use super::abi::{self, COMMIT_AND_FETCH, Header, REGISTER};
use super::dispatch::dispatch;
use super::opcode;
use super::place::Place;
use super::reply::{Finished, Reply};
use super::slots::Slots;

/// Marks the completions of the poll of the eventfd; others have their entry's number.
const WOKEN: u64 = u64::MAX;

/// How long to leave the kernel alone when it lacks memory.
const PAUSE: Duration = Duration::from_millis(10);

/// A queue, shared by its thread and the answers under way.
pub(super) struct Queue {
    id: u16,
    slots: Slots,
    thread: ThreadId,
    /// Locked by the queue's thread only; never while requests are carried out.
    ring: Mutex<Ring>,
    finished: Mutex<Vec<Finished>>,
    /// The thread sleeps, or will before it looks at `finished` again.
    asleep: AtomicBool,
    /// Requests that have come and are not carried out yet.
    waiting: AtomicUsize,
    wake: OwnedFd,
}

struct Ring {
    io: IoUring<Entry128, cqueue::Entry>,
    fuse: Option<OwnedFd>,
    /// Commands that the kernel has.
    commands: usize,
    /// The connection has ended.
    ended: bool,
}

impl Queue {
    /// A queue for the calling thread.
    pub(super) fn new(id: u16, slots: Slots) -> io::Result<Arc<Self>> {
        // Each entry has one command at most in the ring; the eventfd's poll is one more.
        let io = IoUring::<Entry128, cqueue::Entry>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(u32::from(slots.count()) + 1)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self {
            id,
            slots,
            thread: std::thread::current().id(),
            ring: Mutex::new(Ring { io, fuse: None, commands: 0, ended: false }),
            finished: Mutex::default(),
            asleep: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            wake,
        }))
    }

    /// The entries' memory.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Gives all entries to the connection `fuse`; returns those that hold a request already.
    pub(super) fn register(&self, fuse: OwnedFd) -> io::Result<Vec<u16>> {
        let ring = &mut *self.ring.lock();
        let fd = fuse.as_raw_fd();
        ring.fuse = Some(fuse);
        let iovecs: Vec<_> =
            (0..self.slots.count()).filter_map(|slot| self.slots.iovecs(slot)).collect();
        for (slot, iovec) in (0u64..).zip(&iovecs) {
            let command = ring_opcode::UringCmd80::new(types::Fd(fd), REGISTER)
                .cmd(abi::command(0, self.id))
                .addr(Some(iovec.as_ptr() as u64))
                .build();
            ring.push(with_len(command, iovec.len() as u32).user_data(slot))?;
            ring.commands += 1;
        }
        ring.watch(&self.wake)?;
        // The kernel reads the iovecs within this call.
        ring.submit(0)?;
        let mut requests = Vec::new();
        for done in ring.io.completion() {
            match (done.result(), u16::try_from(done.user_data())) {
                (0.., Ok(slot)) => {
                    requests.push(slot);
                    ring.commands -= 1;
                }
                (0.., Err(_)) => {}
                (code, _) => return Err(io::Error::from_raw_os_error(-code)),
            }
        }
        Ok(requests)
    }

    /// Serves `requests`, and what comes after them, until the connection ends.
    pub(super) fn serve(
        self: &Arc<Self>,
        fs: &VolumeFs,
        mut requests: Vec<u16>,
        mut place: Place,
    ) -> io::Result<()> {
        let (mut answers, mut scratch) = (Vec::new(), Vec::new());
        loop {
            let is_round = !requests.is_empty();
            self.waiting.store(requests.len(), Ordering::Relaxed);
            for slot in requests.drain(..) {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.carry_out(fs, slot, &mut scratch, &mut place);
            }
            if is_round {
                place.note_round();
            }
            {
                let mut ring = self.ring.lock();
                std::mem::swap(&mut *self.finished.lock(), &mut answers);
                for answer in answers.drain(..) {
                    self.commit(&mut ring, answer)?;
                }
                if ring.ended && ring.commands == 0 {
                    return Ok(());
                }
                self.asleep.store(true, Ordering::SeqCst);
                let nothing_to_give = self.finished.lock().is_empty();
                ring.submit(usize::from(nothing_to_give))?;
                self.asleep.store(false, Ordering::SeqCst);
                self.collect(&mut ring, &mut requests)?;
            }
        }
    }

    /// Takes an answer in, from any thread.
    pub(super) fn finish(&self, finished: Finished, at_once: bool) {
        // Where more requests wait their turn, one call to the kernel serves them all.
        if at_once
            && self.waiting.load(Ordering::Relaxed) == 0
            && std::thread::current().id() == self.thread
        {
            let mut ring = self.ring.lock();
            let given = self.commit(&mut ring, finished).and_then(|()| ring.submit(0));
            if let Err(error) = given {
                log::debug!("io_uring: {error}; trying again with the next answers");
            }
            return;
        }
        self.finished.lock().push(finished);
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = rustix::io::write(&self.wake, &1u64.to_ne_bytes())
        {
            // A full counter wakes as well.
            log::debug!("waking a queue: {error}");
        }
    }

    /// Puts an answer into its entry and the command for it into the ring.
    fn commit(&self, ring: &mut Ring, finished: Finished) -> io::Result<()> {
        if ring.ended {
            return Ok(());
        }
        let Some(fd) = ring.fuse.as_ref().map(AsRawFd::as_raw_fd) else { return Ok(()) };
        let Finished { mut lease, unique, commit_id, errno, small, data_bytes } = finished;
        let small = small.bytes();
        if !small.is_empty() {
            // SAFETY: answers come here after the request was carried out, or with the word that
            // its payload is not read any more.
            let payload = unsafe { self.slots.answer_payload(&mut lease) };
            abi::put(payload, 0, small);
        }
        let payload_bytes = (small.len() + data_bytes) as u32;
        self.slots.change_header(&mut lease, |header| {
            abi::write_answer(header, unique, errno, payload_bytes);
        });
        let command = ring_opcode::UringCmd80::new(types::Fd(fd), COMMIT_AND_FETCH)
            .cmd(abi::command(commit_id, self.id))
            .build();
        ring.push(command.user_data(u64::from(lease.slot())))?;
        ring.commands += 1;
        Ok(())
    }

    /// Takes what the kernel has completed; `requests` gets the entries that hold a request.
    fn collect(&self, ring: &mut Ring, requests: &mut Vec<u16>) -> io::Result<()> {
        let mut watch_again = false;
        for done in ring.io.completion() {
            if done.user_data() == WOKEN {
                watch_again |= !cqueue::more(done.flags());
                continue;
            }
            ring.commands -= 1;
            match (done.result(), u16::try_from(done.user_data())) {
                (0.., Ok(slot)) => requests.push(slot),
                (code, _) if is_end(-code) => ring.ended = true,
                // The entry is lost; the others go on.
                (code, slot) => {
                    let error = io::Error::from_raw_os_error(-code);
                    log::error!("queue {}: the kernel refuses entry {slot:?}: {error}", self.id);
                }
            }
        }
        if watch_again && !ring.ended {
            ring.watch(&self.wake)?;
        }
        Ok(())
    }

    fn carry_out(
        self: &Arc<Self>,
        fs: &VolumeFs,
        slot: u16,
        scratch: &mut Vec<u8>,
        place: &mut Place,
    ) {
        // SAFETY: the kernel has just completed this entry's only command.
        let Some(lease) = (unsafe { self.slots.lease(slot) }) else { return };
        let header = Header::read(&self.slots.header(&lease));
        place.note(header.opcode == opcode::FSYNC, header.data_bytes());
        // SAFETY: `Reply` writes no payload where the request has one, and what is given to the
        // kernel before this function is left has said that the payload is read no more.
        let payload = unsafe { self.slots.request_payload(&lease, header.payload_bytes as usize) };
        let reply = Reply::new(self, lease, &header);
        let carried_out = AssertUnwindSafe(|| dispatch(fs, &header, payload, reply, scratch));
        if catch_unwind(carried_out).is_err() {
            log::error!("a file operation panicked; it was answered with EIO");
        }
    }
}

impl Ring {
    /// Adds a command; it goes to the kernel with the next [`Ring::submit`].
    fn push(&mut self, command: Entry128) -> io::Result<()> {
        // SAFETY: what the command points to is the queue's memory, which outlives the ring, or is
        // read while it is submitted.
        let pushed = unsafe { self.io.submission().push(&command) };
        pushed.map_err(|_| io::Error::other("the submission queue is full"))
    }

    /// Has completions come whenever somebody writes to `wake`.
    fn watch(&mut self, wake: &OwnedFd) -> io::Result<()> {
        let poll =
            ring_opcode::PollAdd::new(types::Fd(wake.as_raw_fd()), libc::POLLIN as u32).multi(true);
        self.push(Entry128::from(poll.build().user_data(WOKEN)))
    }

    /// Gives commands to the kernel, and waits for so many completions.
    fn submit(&self, wait_for: usize) -> io::Result<()> {
        match self.io.submit_and_wait(wait_for).map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR), _)) => Ok(()),
            Err((Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM), error)) => {
                log::debug!("io_uring: {error}; trying again");
                std::thread::sleep(PAUSE);
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }
}

/// Whether a command failed because the connection has ended.
fn is_end(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV)
}

/// Sets a command's `len`, for which the builder has no word.
fn with_len(mut command: Entry128, len: u32) -> Entry128 {
    const LEN_AT: usize = 24;
    const { assert!(size_of::<Entry128>() == 128) };
    let place = (&raw mut command).cast::<u8>().wrapping_add(LEN_AT).cast::<u32>();
    // SAFETY: an entry is the kernel's struct io_uring_sqe, which has its u32 `len` there.
    unsafe { place.write(len) };
    command
}
