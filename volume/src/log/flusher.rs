//! Taking the log from memory to the SSD, one sync for all who wait: the thread `lsvd-log`, or
//! whoever asks for a flush while nobody is at it.
//!
//! One at a time writes the file, in rounds. A round seals the current block, waits for slots still being
//! filled, writes everything not yet written in large pieces, syncs if somebody needs it, and
//! answers. While it works, the next waiters gather: that is the group commit. Where a flush is
//! expected after each write, the log is written to before the write is answered, and the next round
//! waits for the end of that.
//!
//! After one failed write or sync no later flush succeeds: what the device lost then cannot
//! be known. What is still in memory drains to the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;

use crate::error::{Error, Result};
use crate::format::LogPoint;
use crate::units::{LogPos, LogSeq};

use super::flush_state::{AT_ONCE, FlushDone, Round, Turn, WOKEN, Waiter, put_off};
use super::write_log::WriteLog;

/// How long acknowledged writes may stay in memory alone when nobody flushes.
const IDLE: Duration = Duration::from_secs(1);

impl WriteLog {
    /// Calls `done` when everything acknowledged so far is safe on the SSD.
    pub(crate) fn flush(&self, done: FlushDone) {
        if let Err(error) = self.poison.check() {
            return done(Err(error));
        }
        let mut flush = self.flush.lock();
        if flush.stop {
            drop(flush);
            return done(Err(Error::Closing(self.volume.clone())));
        }
        let (target, newest) = {
            let head = self.head.lock();
            (head.pos(), head.seq())
        };
        self.expects_flush.store(flush.expects_another(newest), Ordering::Relaxed);
        if flush.synced >= target {
            drop(flush);
            return done(Ok(()));
        }
        flush.waiters.push(Waiter { target, done });
        drop(flush);
        // Handing over to the thread costs more than the sync itself on a fast SSD. If nobody is
        // at it, do it here; otherwise whoever is at it looks after this one.
        self.try_round();
    }

    /// Called before a write is answered: where every write so far was followed by a flush, the SSD
    /// gets the record now, and writes while whoever wrote gets the answer and asks for the flush.
    pub(crate) fn write_ahead(&self) {
        if !self.expects_flush.load(Ordering::Relaxed) {
            return;
        }
        // Once only, until the flush has come.
        self.expects_flush.store(false, Ordering::Relaxed);
        let Some(mut turn) = self.rounds.try_lock() else { return };
        if turn.begun.is_none() && self.flush_failed.get().is_none() {
            turn.begun = self.begin_write();
        }
        self.end_turn(turn);
    }

    /// Begins to write what is not written, if that can be done at once; returns where it ends.
    fn begin_write(&self) -> Option<LogPos> {
        let (sealed, _) = self.seal();
        let written = self.flush.lock().written;
        let len = sealed.since(written);
        if len == 0 || len > self.data.layout.to_window_end(written) {
            return None;
        }
        // SAFETY: sealed above, and no round makes it safe before the write has ended.
        let bytes = unsafe { self.sealed_bytes(written, len) };
        let at = self.data.layout.file_offset(written);
        self.data.file.begin_write(at, bytes).then_some(sealed)
    }

    /// Does a round, if nobody is at one.
    fn try_round(&self) {
        let Some(mut turn) = self.rounds.try_lock() else { return };
        let round = self.flush.lock().take_round();
        // Whoever waited has the outcome; a failure ends the thread at its next round.
        let _ = self.carry_out(round, &mut turn);
        self.end_turn(turn);
    }

    fn end_turn(&self, turn: MutexGuard<'_, Turn>) {
        drop(turn);
        // Who came too late for this round found it going on and left it at that.
        if !self.flush.lock().waiters.is_empty() {
            self.flush_wake.notify_one();
        }
    }

    pub(super) fn wake_flusher(&self) {
        self.flush_wake_at.store(WOKEN, Ordering::SeqCst);
        self.flush.lock().woken = true;
        self.flush_wake.notify_one();
    }

    /// Ends the thread after one last round that makes everything safe.
    pub(crate) fn stop_flusher(&self) {
        self.flush.lock().stop = true;
        self.flush_wake.notify_one();
    }

    /// The thread's body.
    pub(crate) fn run_flusher(self: &Arc<Self>) -> Result<()> {
        loop {
            let round = self.next_round();
            let stop = round.stop;
            let outcome = self.carry_out(round, &mut self.rounds.lock());
            if stop || outcome.is_err() {
                return outcome;
            }
        }
    }

    /// Does a round and answers those who wait for it. After a failure no round is done again.
    fn carry_out(&self, round: Round, turn: &mut Turn) -> Result<()> {
        let outcome = match self.flush_failed.get() {
            Some(error) => Err(error.clone()),
            None => self.round(&round, turn).map_err(|source| {
                let error = Error::local(&self.data.path, "write the log", source);
                self.poison.set(error.clone());
                self.flush_failed.get_or_init(|| error).clone()
            }),
        };
        let covered = match &outcome {
            Ok(()) => self.flush.lock().take_covered(),
            Err(_) => std::mem::take(&mut self.flush.lock().waiters),
        };
        for waiter in round.waiters.into_iter().chain(covered) {
            (waiter.done)(outcome.clone());
        }
        outcome
    }

    /// Whoever asks for a flush after the end gets an error, at once.
    pub(crate) fn refuse_flushes(&self) {
        let left = {
            let mut flush = self.flush.lock();
            flush.stop = true;
            std::mem::take(&mut flush.waiters)
        };
        let error = match self.poison.cause() {
            Some(cause) => cause.clone(),
            None => Error::Closing(self.volume.clone()),
        };
        for waiter in left {
            (waiter.done)(Err(error.clone()));
        }
    }

    /// Waits until there is something to do.
    fn next_round(&self) -> Round {
        let mut flush = self.flush.lock();
        let mut idle = false;
        while flush.waiters.is_empty() && !flush.woken && !flush.stop && !idle {
            let wake_at = flush.written.plus(self.wake_bytes());
            self.flush_wake_at.store(wake_at.get(), Ordering::SeqCst);
            let end = self.end();
            if end >= wake_at {
                break;
            }
            // Also what is safe, until a header says so.
            let pending = flush.recorded < end || flush.tail.is_some();
            if pending {
                idle = self.flush_wake.wait_for(&mut flush, IDLE).timed_out();
            } else {
                self.flush_wake_at.store(AT_ONCE, Ordering::SeqCst);
                if self.end() == end {
                    self.flush_wake.wait(&mut flush);
                    // The first append after a rest: let more of them gather.
                    flush.woken = flush.tail.is_some();
                }
            }
        }
        flush.woken = false;
        Round { idle, ..flush.take_round() }
    }

    fn round(&self, round: &Round, turn: &mut Turn) -> io::Result<()> {
        if let Some(end) = turn.begun.take() {
            self.platform.failpoint("log.begun")?;
            if self.data.file.finish_write()? {
                self.note_written(end);
            }
        }
        let (sealed, next_seq) = self.seal();
        let (written, synced) = {
            let flush = self.flush.lock();
            (flush.written, flush.synced)
        };
        // Memory is given up only for what is safe, so it must not run out of that.
        let unsafe_bytes = sealed.since(synced) >= self.data.layout.window_bytes() / 4;
        let sync_wanted = !round.waiters.is_empty() || round.idle || round.stop || unsafe_bytes;
        // A write that is durable by itself spares the sync, if nothing else waits for one.
        let durable_write = sync_wanted && written == synced;
        self.write_out(written, sealed, durable_write)?;
        self.platform.failpoint("log.written")?;
        if sync_wanted && synced < sealed {
            if !durable_write {
                self.data.file.sync()?;
            }
            self.platform.failpoint("log.synced")?;
            if let Some(core) = self.platform.this_core() {
                self.note_sync(core, turn);
            }
            self.data.memory.set_safe(sealed);
            self.flush.lock().synced = sealed;
            self.durable_seq.fetch_max(next_seq.get().saturating_sub(1), Ordering::Relaxed);
        }
        if round.idle || round.stop || self.needs_room() {
            self.write_header(sealed, next_seq, sync_wanted)?;
        }
        self.make_room();
        Ok(())
    }

    fn note_sync(&self, core: usize, turn: &mut Turn) {
        let now = || self.platform.monotonic();
        if let Some(core) = turn.syncs.note(core, now) {
            self.sync_core.set(core, now());
        }
    }

    /// The core on which most of the last syncs were carried out by far, if there are many.
    pub(crate) fn sync_core(&self) -> Option<usize> {
        self.sync_core.get(self.platform.monotonic())
    }

    /// Ends the current block and waits until all before it is filled.
    fn seal(&self) -> (LogPos, LogSeq) {
        let mut head = self.head.lock();
        if let Some(pad) = head.seal() {
            self.write_pad(pad);
        }
        let sealed = head.pos();
        let next_seq = head.seq();
        while head.filled() < sealed {
            self.filled.wait(&mut head);
        }
        (sealed, next_seq)
    }

    fn write_out(&self, from: LogPos, to: LogPos, durable: bool) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let len = to.since(at).min(self.data.layout.to_window_end(at));
            // SAFETY: the round has sealed it, and makes it safe after it has written it.
            let bytes = unsafe { self.sealed_bytes(at, len) };
            self.data.file.write_at(self.data.layout.file_offset(at), bytes, durable)?;
            at = at.plus(len);
        }
        self.note_written(to);
        Ok(())
    }

    fn note_written(&self, to: LogPos) {
        let mut flush = self.flush.lock();
        flush.written = to;
        // The flusher may be waiting for this much, which is not left for it any more.
        let later = to.plus(self.wake_bytes()).get();
        // The flusher sets it under the lock, but `wake_flusher` does not take that.
        let _ = self
            .flush_wake_at
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |wake_at| put_off(wake_at, later));
    }

    /// So much unwritten wakes the flusher.
    fn wake_bytes(&self) -> u64 {
        self.data.layout.window_bytes() / 8
    }

    /// A piece to be written.
    ///
    /// # Safety
    /// It is sealed, and does not become safe before the write has ended.
    unsafe fn sealed_bytes(&self, at: LogPos, len: u64) -> &[u8] {
        // SAFETY: what is sealed is filled, and what is not safe is above the floor.
        unsafe { self.data.memory.bytes(at, len as usize) }
    }

    /// Records the tail, and what is durable, in the header that is not in force.
    fn write_header(&self, durable: LogPos, next_seq: LogSeq, synced: bool) -> io::Result<()> {
        let tail = self.flush.lock().tail.take();
        let mut headers = self.headers.lock();
        headers.write(|header| {
            if let Some((pos, seq, committed)) = tail {
                header.tail = LogPoint { pos, seq };
                header.committed = committed;
            }
            if synced {
                header.durable = LogPoint { pos: durable, seq: next_seq };
            }
        })?;
        self.data.file.sync()?;
        self.platform.failpoint("log.header_synced")?;
        let reuse = headers.reuse();
        drop(headers);
        if synced {
            self.flush.lock().recorded = durable;
        }
        self.data.raise_reuse(reuse);
        self.head.lock().raise_reuse(reuse);
        self.notify_room();
        Ok(())
    }

    /// Whether the ring is more than half taken and a header write would free some of it.
    /// It takes two of them: ring space is re-used below the tail of both headers.
    fn needs_room(&self) -> bool {
        let (tight, tail) = {
            let head = self.head.lock();
            let taken = head.pos().since(head.reuse());
            (taken > self.data.layout.ring_bytes() / 2, head.tail())
        };
        tight && self.headers.lock().reuse() < tail
    }

    /// Keeps the newer half of the window readable, gives up the rest.
    fn make_room(&self) {
        let end = self.end();
        let keep_from = end.get().saturating_sub(self.data.layout.window_bytes() / 2);
        let floor = self.data.memory.safe().min(LogPos::new(keep_from));
        if floor > self.data.memory.floor() {
            self.data.memory.raise_floor(floor);
            self.notify_room();
        }
    }
}
