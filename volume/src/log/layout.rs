//! Where a log position lies: in the ring on the SSD and in the window in memory.
//!
//! ```text
//! file    [header A 4K][header B 4K][ ring ....................................... ]
//!                                     position % ring_bytes
//! memory  [identity page 4K][ window ........... ]
//!                             position % window_bytes
//! ```
//! Both wrap; the ring is a whole number of windows, so a record that does not cross the
//! window's end crosses neither. All records and pads keep to two rules that make a scan
//! unambiguous: none crosses the window's end, and none ends so that fewer than
//! [`RECORD_HEAD_BYTES`] are left in its 4 KiB block.

use crate::format::log_record::{HEAD_AND_TABLE_BYTES_MAX, PAYLOAD_MAX, RECORD_HEAD_BYTES};
use crate::units::{BLOCK_BYTES, LogPos};

/// Bytes of the file before the ring: two header blocks.
pub(crate) const HEADER_BYTES: u64 = 2 * BLOCK_BYTES;

/// Bytes of the memory before the window: the identity page.
pub(super) const IDENTITY_BYTES: usize = BLOCK_BYTES as usize;

/// Smallest window. The half of it that is always given up must hold the largest record and
/// the pad before it, or an append could wait for ever.
pub const WINDOW_BYTES_MIN: u64 = 8 << 20;
const _: () =
    assert!(WINDOW_BYTES_MIN / 2 > 2 * (HEAD_AND_TABLE_BYTES_MAX as u64 + PAYLOAD_MAX as u64));

/// Smallest ring, in bytes.
pub const RING_BYTES_MIN: u64 = 4 * WINDOW_BYTES_MIN;

/// Largest ring; far beyond any SSD.
const RING_BYTES_MAX: u64 = 1 << 50;

/// Sizes of a log's ring and window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    ring_bytes: u64,
    window_bytes: u64,
}

impl Layout {
    /// A layout for roughly the sizes that were asked for: the window a power of two, the
    /// ring a multiple of it and at least twice as large.
    pub(crate) fn fitting(ring_bytes: u64, window_bytes: u64) -> Self {
        let window = window_bytes.clamp(WINDOW_BYTES_MIN, RING_BYTES_MAX / 4).next_power_of_two();
        let ring = ring_bytes.clamp(RING_BYTES_MIN, RING_BYTES_MAX);
        let mut window_bytes = window;
        while window_bytes > WINDOW_BYTES_MIN && window_bytes > ring / 4 {
            window_bytes /= 2;
        }
        Self { ring_bytes: ring.next_multiple_of(window_bytes), window_bytes }
    }

    /// The layout that a header records; `None` if no log could have it.
    pub(crate) fn recorded(ring_bytes: u64, window_bytes: u64) -> Option<Self> {
        let sound = window_bytes.is_power_of_two()
            && window_bytes >= WINDOW_BYTES_MIN
            && ring_bytes <= RING_BYTES_MAX
            && window_bytes <= ring_bytes / 2
            && ring_bytes.is_multiple_of(window_bytes);
        sound.then_some(Self { ring_bytes, window_bytes })
    }

    /// Bytes of the ring.
    pub(crate) fn ring_bytes(self) -> u64 {
        self.ring_bytes
    }

    /// Bytes of the window.
    pub(crate) fn window_bytes(self) -> u64 {
        self.window_bytes
    }

    /// Bytes of the file.
    pub(crate) fn file_bytes(self) -> u64 {
        HEADER_BYTES + self.ring_bytes
    }

    /// Bytes of the memory.
    pub(crate) fn memory_bytes(self) -> usize {
        IDENTITY_BYTES + self.window_bytes as usize
    }

    /// Offset of `pos` in the file.
    pub(crate) fn file_offset(self, pos: LogPos) -> u64 {
        HEADER_BYTES + pos.get() % self.ring_bytes
    }

    /// Offset of `pos` in the memory.
    pub(super) fn memory_offset(self, pos: LogPos) -> usize {
        IDENTITY_BYTES + (pos.get() % self.window_bytes) as usize
    }

    /// Bytes from `pos` to the end of the window.
    pub(crate) fn to_window_end(self, pos: LogPos) -> u64 {
        self.window_bytes - pos.get() % self.window_bytes
    }

    /// Bytes that a record of at least `len` takes when it starts at `pos`: stretched to
    /// the end of its block if too little would be left there for another record.
    pub(super) fn stretched(pos: LogPos, len: u64) -> u64 {
        let end = pos.get() + len;
        let left = end.next_multiple_of(BLOCK_BYTES) - end;
        if left < u64::from(RECORD_HEAD_BYTES) { len + left } else { len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitting_is_recordable() {
        for (ring, window) in [(0, 0), (1 << 30, 32 << 20), (100 << 20, 64 << 20), (17 << 20, 5)] {
            let layout = Layout::fitting(ring, window);
            assert_eq!(Layout::recorded(layout.ring_bytes(), layout.window_bytes()), Some(layout));
            assert!(layout.ring_bytes() >= ring);
        }
    }

    #[test]
    fn stretching_leaves_room_for_a_head_or_nothing() {
        for pos in (0..8192).step_by(8) {
            for len in (u64::from(RECORD_HEAD_BYTES)..6000).step_by(8) {
                let end = pos + Layout::stretched(LogPos::new(pos), len);
                let left = end.next_multiple_of(BLOCK_BYTES) - end;
                assert!(left == 0 || left >= u64::from(RECORD_HEAD_BYTES));
            }
        }
    }
}
