//! A file on a simulated SSD: what was written, and what of it is safe.
//!
//! A write is readable at once and lies in a volatile cache until a sync. A power cut decides
//! for each write in that cache, by seed: it is kept, lost, or torn, which keeps each of its
//! 512-byte sectors by chance. As each is decided alone, a later write may survive an earlier one.

use std::io;
use std::ops::Range;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::rng::Rng;

/// What a device writes as a whole.
const SECTOR: usize = 512;

/// What a sync that was told to fail does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadSync {
    /// As Linux does: the error is reported once, the data is forgotten, the next sync succeeds.
    LosesData,
    /// The data stays in the cache.
    KeepsData,
}

/// What the engine writes as a whole.
const BLOCK: usize = 4096;

/// How long a write that is due may take.
const WRITE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Ssd {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Debug)]
struct State {
    visible: Vec<u8>,
    safe: Vec<u8>,
    unsynced: Vec<Range<usize>>,
    /// Content of the ranges of `unsynced`, in the same order.
    contents: Vec<Vec<u8>>,
    bad_sync: Option<BadSync>,
    /// The write that was begun and is not finished.
    under_way: Option<(u64, Vec<u8>)>,
    /// The next write that was begun ends badly.
    bad_end: bool,
    syncs_held: bool,
}

impl Ssd {
    /// A file of `bytes`, written once and synced.
    pub(crate) fn new(bytes: usize, head: &[u8]) -> Self {
        let mut visible = vec![0; bytes];
        visible[..head.len()].copy_from_slice(head);
        let state = State {
            safe: visible.clone(),
            visible,
            unsynced: Vec::new(),
            contents: Vec::new(),
            bad_sync: None,
            under_way: None,
            bad_end: false,
            syncs_held: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().visible.len() as u64
    }

    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock();
        let from = offset as usize;
        let bytes = state.visible.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let mut state = self.state.lock();
        assert!(state.under_way.is_none(), "a write before the one that was begun has ended");
        self.write_locked(&mut state, offset, data, durable)
    }

    fn write_locked(
        &self,
        state: &mut State,
        offset: u64,
        data: &[u8],
        durable: bool,
    ) -> io::Result<()> {
        let range = offset as usize..offset as usize + data.len();
        if range.end > state.visible.len() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if durable && let Some(bad) = state.bad_sync.take() {
            return Err(state.fail_sync(bad));
        }
        state.visible[range.clone()].copy_from_slice(data);
        if durable {
            state.supersede(&range, data);
            state.safe[range].copy_from_slice(data);
        } else {
            state.unsynced.push(range);
            state.contents.push(data.to_vec());
            self.changed.notify_all();
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        assert!(state.under_way.is_none(), "a sync before the write that was begun has ended");
        if let Some(bad) = state.bad_sync.take() {
            return Err(state.fail_sync(bad));
        }
        let writes = state.take_unsynced();
        for (range, data) in writes {
            state.safe[range].copy_from_slice(&data);
        }
        Ok(())
    }

    /// Begins a write, unless one is under way.
    pub(crate) fn begin(&self, offset: u64, data: &[u8]) -> bool {
        let under_way = &mut self.state.lock().under_way;
        let is_free = under_way.is_none();
        if is_free {
            *under_way = Some((offset, data.to_vec()));
        }
        is_free
    }

    /// The end of the write that was begun, if one was; also of one whose process is gone.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some((offset, data)) = state.under_way.take() else { return Ok(()) };
        if std::mem::take(&mut state.bad_end) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.write_locked(&mut state, offset, &data, false)
    }

    /// Syncs and durable writes wait from now on, or no longer.
    pub(crate) fn hold_syncs(&self, held: bool) {
        self.state.lock().syncs_held = held;
        self.changed.notify_all();
    }

    /// Waits while syncs are held.
    pub(crate) fn wait_to_sync(&self) {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.syncs_held);
    }

    /// The next sync fails; the one after it succeeds.
    pub(crate) fn fail_next_sync(&self, how: BadSync) {
        self.state.lock().bad_sync = Some(how);
    }

    /// The next write that is begun and waited for fails at its end, whatever the SSD has of it.
    pub(crate) fn fail_next_end(&self) {
        self.state.lock().bad_end = true;
    }

    /// The power is cut.
    pub(crate) fn cut_power(&self, rng: &mut Rng) {
        // As much of what was under way as of anything else.
        let _ = self.finish();
        let mut state = self.state.lock();
        for (range, data) in state.take_unsynced() {
            let fate = rng.below(3);
            for (i, sector) in data.chunks(SECTOR).enumerate() {
                let kept = fate == 0 || (fate == 1 && rng.chance(1, 2));
                if kept {
                    let at = range.start + i * SECTOR;
                    state.safe[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        state.visible = state.safe.clone();
        state.bad_sync = None;
    }

    /// The power is cut, and of the writes that were not safe just those blocks are kept that
    /// `keep` says of their content. Returns how many.
    pub(crate) fn cut_power_keeping(&self, keep: impl Fn(&[u8]) -> bool) -> usize {
        let mut state = self.state.lock();
        let mut kept = 0;
        for (range, data) in state.take_unsynced() {
            for (i, block) in data.chunks(BLOCK).enumerate().filter(|(_, block)| keep(block)) {
                let at = range.start + i * BLOCK;
                state.safe[at..at + block.len()].copy_from_slice(block);
                kept += 1;
            }
        }
        state.visible = state.safe.clone();
        kept
    }

    /// Waits until a write that is not safe holds what `wanted` says.
    pub(crate) fn wait_until_unsynced(&self, wanted: impl Fn(&[u8]) -> bool) {
        let mut state = self.state.lock();
        while !state.contents.iter().any(|data| wanted(data)) {
            let waited = self.changed.wait_for(&mut state, WRITE_TIME);
            assert!(!waited.timed_out(), "the log is not written");
        }
    }

    /// A copy.
    pub(crate) fn fork(&self) -> Self {
        Self { state: Mutex::new(self.state.lock().clone()), changed: Condvar::new() }
    }

    /// Flips a bit on the medium; again, and it is as before.
    pub(crate) fn flip(&self, byte: usize, bit: u64) {
        let mut state = self.state.lock();
        state.visible[byte] ^= 1 << bit;
        state.safe[byte] ^= 1 << bit;
    }

    /// Cuts the file off.
    pub(crate) fn truncate(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.take_unsynced();
        state.visible.truncate(bytes);
        state.safe.truncate(bytes);
    }

    /// One past the last byte that is not zero.
    pub(crate) fn used(&self) -> usize {
        self.state.lock().visible.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
    }
}

impl State {
    fn take_unsynced(&mut self) -> Vec<(Range<usize>, Vec<u8>)> {
        std::mem::take(&mut self.unsynced)
            .into_iter()
            .zip(std::mem::take(&mut self.contents))
            .collect()
    }

    /// What still waits in the cache for `range` must not come after a newer, durable write.
    fn supersede(&mut self, range: &Range<usize>, data: &[u8]) {
        for (waiting, content) in self.unsynced.iter().zip(&mut self.contents) {
            let (from, to) = (waiting.start.max(range.start), waiting.end.min(range.end));
            if from < to {
                content[from - waiting.start..to - waiting.start]
                    .copy_from_slice(&data[from - range.start..to - range.start]);
            }
        }
    }

    fn fail_sync(&mut self, how: BadSync) -> io::Error {
        if how == BadSync::LosesData {
            self.take_unsynced();
            self.visible = self.safe.clone();
        }
        io::Error::from_raw_os_error(libc::EIO)
    }
}
