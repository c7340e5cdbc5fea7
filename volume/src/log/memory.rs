//! The newest part of a log, in memory that survives the process.
//!
//! The first page says whose memory this is: log, incarnation and boot. On any mismatch the
//! content is ignored. It also holds `safe`: everything before it is safe in the ring's file.
//! The rest is the window (see [`super::layout`]).
//!
//! Who may touch what:
//! * `reserved .. filled` of a record: the thread that reserved it, alone;
//! * `floor .. filled`: everybody, for reading, while holding [`Window::read`];
//! * below `floor`: the next to reserve. The floor moves only under [`Window::write`], so a
//!   reader that saw a position above the floor keeps it until it lets go.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use xxhash_rust::xxh3::xxh3_64;

use super::layout::{IDENTITY_BYTES, Layout};
use crate::platform::{AlignedBlock, LogBuffer};
use crate::units::{Incarnation, LogPos};

const MAGIC: u64 = u64::from_le_bytes(*b"LSVDbuf1");
/// Where the `safe` position lies in the identity page.
const SAFE_OFFSET: usize = 256;

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) log_id: u128,
    pub(super) boot_id: u128,
    pub(super) incarnation: Incarnation,
    pub(super) window_bytes: u64,
}

impl Identity {
    fn encode(self) -> [u8; 64] {
        let mut out = [0; 64];
        let (magic, rest) = out.split_at_mut(8);
        magic.copy_from_slice(&MAGIC.to_le_bytes());
        let (fields, sum) = rest.split_at_mut(48);
        let (ids, numbers) = fields.split_at_mut(32);
        let (log, boot) = ids.split_at_mut(16);
        log.copy_from_slice(&self.log_id.to_le_bytes());
        boot.copy_from_slice(&self.boot_id.to_le_bytes());
        let (incarnation, window) = numbers.split_at_mut(8);
        incarnation.copy_from_slice(&self.incarnation.get().to_le_bytes());
        window.copy_from_slice(&self.window_bytes.to_le_bytes());
        sum.copy_from_slice(&xxh3_64(fields).to_le_bytes());
        out
    }
}

/// The memory of one log.
#[derive(Debug)]
pub(super) struct Memory {
    buffer: LogBuffer,
    layout: Layout,
    floor: AtomicU64,
    readers: RwLock<()>,
}

/// Proof that the floor stays where it is.
pub(super) struct Window<'a> {
    memory: &'a Memory,
    _held: RwLockReadGuard<'a, ()>,
}

impl Memory {
    /// Takes memory into use; its content is not looked at.
    pub(super) fn new(buffer: LogBuffer, layout: Layout) -> Self {
        assert_eq!(buffer.len(), layout.memory_bytes(), "a log buffer of the layout's size");
        Self { buffer, layout, floor: AtomicU64::new(0), readers: RwLock::new(()) }
    }

    /// In place of memory that is gone: it holds nothing.
    pub(super) fn absent(layout: Layout) -> Self {
        let page = Arc::new(AlignedBlock([0; IDENTITY_BYTES]));
        let base = NonNull::from(&page.0).cast();
        // SAFETY: the page is aligned, lives as long as the owner, and is never written to:
        // `stamp` and `bytes_mut` are for logs opened for writing, which have real memory.
        let buffer = unsafe { LogBuffer::new(base, IDENTITY_BYTES, page) };
        Self { buffer, layout, floor: AtomicU64::new(u64::MAX), readers: RwLock::new(()) }
    }

    /// The position before which all is safe in the file, if the memory is `whose`.
    pub(super) fn safe_if(&self, whose: Identity) -> Option<LogPos> {
        // SAFETY: the identity page is written only by `stamp`, while nobody else is there.
        let page = unsafe { self.buffer.bytes(0, 64) };
        (page == whose.encode()).then(|| LogPos::new(self.safe_cell().load(Ordering::Acquire)))
    }

    /// Makes the memory `whose`, with everything before `start` in the file.
    ///
    /// # Safety
    /// Nobody else may use the memory yet.
    pub(super) unsafe fn stamp(&self, whose: Identity, start: LogPos) {
        // SAFETY: exclusive by the caller's promise.
        let page = unsafe { self.buffer.bytes_mut(0, 64) };
        page.fill(0);
        self.safe_cell().store(start.get(), Ordering::Release);
        self.floor.store(start.get(), Ordering::Release);
        page.copy_from_slice(&whose.encode());
    }

    /// Everything before is safe in the file.
    pub(super) fn safe(&self) -> LogPos {
        LogPos::new(self.safe_cell().load(Ordering::Acquire))
    }

    /// Notes that everything before `pos` is safe in the file.
    pub(super) fn set_safe(&self, pos: LogPos) {
        self.safe_cell().store(pos.get(), Ordering::Release);
    }

    /// The lowest position still held.
    pub(super) fn floor(&self) -> LogPos {
        LogPos::new(self.floor.load(Ordering::Acquire))
    }

    /// Gives up what lies below `pos`, once no reader looks at it.
    pub(super) fn raise_floor(&self, pos: LogPos) {
        let _alone = self.readers.write();
        self.floor.fetch_max(pos.get(), Ordering::AcqRel);
    }

    /// Keeps the floor in place for reading.
    pub(super) fn window(&self) -> Window<'_> {
        Window { memory: self, _held: self.readers.read() }
    }

    /// The bytes from `pos`, which must not cross the window's end.
    ///
    /// # Safety
    /// They must be filled and stay so: at or above the floor, or above `safe`.
    pub(super) unsafe fn bytes(&self, pos: LogPos, len: usize) -> &[u8] {
        debug_assert!(len as u64 <= self.layout.to_window_end(pos));
        // SAFETY: the caller's promise.
        unsafe { self.buffer.bytes(self.layout.memory_offset(pos), len) }
    }

    /// The bytes from `pos`, for writing; they must not cross the window's end.
    ///
    /// # Safety
    /// The caller has reserved them and not yet completed the reservation.
    #[expect(clippy::mut_from_ref, reason = "each reservation owns its own range")]
    pub(super) unsafe fn bytes_mut(&self, pos: LogPos, len: usize) -> &mut [u8] {
        debug_assert!(len as u64 <= self.layout.to_window_end(pos));
        // SAFETY: the caller's promise.
        unsafe { self.buffer.bytes_mut(self.layout.memory_offset(pos), len) }
    }

    fn safe_cell(&self) -> &AtomicU64 {
        const { assert!(SAFE_OFFSET + 8 <= IDENTITY_BYTES && SAFE_OFFSET.is_multiple_of(8)) };
        // SAFETY: only here; the identity itself takes the first 64 bytes of the page.
        unsafe { self.buffer.atomic(SAFE_OFFSET) }
    }
}

impl Window<'_> {
    /// The bytes from `pos`, if still held; they must be filled and not cross the window's end.
    pub(super) fn bytes(&self, pos: LogPos, len: usize) -> Option<&[u8]> {
        if pos < self.memory.floor() {
            return None;
        }
        // SAFETY: at or above the floor, which stays while `self` lives.
        Some(unsafe { self.memory.bytes(pos, len) })
    }
}
