//! Memory that outlives the process: the newest part of a write log.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A fixed region of memory, shared by threads that agree among themselves who owns which
/// bytes of it. The region is aligned to 4 KiB and lives as long as its owner.
pub struct LogBuffer {
    base: NonNull<u8>,
    bytes: usize,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the region belongs to `_owner`, which is Send + Sync; access to its bytes goes
// through the unsafe methods below, whose callers keep ranges exclusive.
unsafe impl Send for LogBuffer {}
// SAFETY: as above.
unsafe impl Sync for LogBuffer {}

impl LogBuffer {
    /// Wraps the region `base..base + bytes`, kept alive by `owner`.
    ///
    /// # Safety
    /// The region must be valid for reads and writes as long as `owner` lives, aligned to
    /// 4 KiB, and accessed through `LogBuffer`s only.
    pub unsafe fn new(base: NonNull<u8>, bytes: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { base, bytes, _owner: owner }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the region is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes `offset..offset + len`.
    ///
    /// # Safety
    /// Nobody may write to them while the slice lives.
    ///
    /// # Panics
    /// If the range lies outside the region.
    pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        self.check(offset, len);
        // SAFETY: in bounds by the check.
        let start = unsafe { self.base.add(offset) };
        // SAFETY: in bounds by the check; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// The bytes `offset..offset + len`, for writing.
    ///
    /// # Safety
    /// Nobody else may read or write them while the slice lives.
    ///
    /// # Panics
    /// If the range lies outside the region.
    #[expect(clippy::mut_from_ref, reason = "callers own disjoint ranges of one region")]
    pub(crate) unsafe fn bytes_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        self.check(offset, len);
        // SAFETY: in bounds by the check.
        let start = unsafe { self.base.add(offset) };
        // SAFETY: in bounds by the check; the caller owns the range.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// The eight bytes at `offset`, for atomic access only.
    ///
    /// # Safety
    /// They are never reached through [`Self::bytes`] or [`Self::bytes_mut`].
    ///
    /// # Panics
    /// If they lie outside the region or are not aligned.
    pub(crate) unsafe fn atomic(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, 8);
        assert!(offset.is_multiple_of(8), "an aligned atomic");
        // SAFETY: in bounds by the check.
        let cell = unsafe { self.base.add(offset) };
        // SAFETY: aligned, alive as long as `self`, and only ever this atomic.
        unsafe { AtomicU64::from_ptr(cell.as_ptr().cast()) }
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.bytes),
            "{offset}+{len} lies outside a log buffer of {} bytes",
            self.bytes
        );
    }
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogBuffer({} bytes)", self.bytes)
    }
}
