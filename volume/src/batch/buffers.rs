//! Memory for batches, used again: fresh memory costs more than the copy that fills it.

use parking_lot::Mutex;

/// How many are kept while nobody uses them.
const KEPT_MAX: usize = 4;

/// Buffers that are lent and come back.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer, with room where one came back.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.0.lock();
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }

    /// Gives the memory back: nothing is on its way.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}
