//! The size of a volume and of its file, and the file's attributes.

use std::sync::Arc;
use std::time::Duration;

use lsvd_volume::{BLOCK_BYTES, Error, FileAttrs, Result, SIZE_MAX, Volume};

use super::Volumes;
use crate::fs::inode::Node;

/// Least and most bytes by which a volume is grown ahead of a program that appends to it.
const GROW_AHEAD: (u64, u64) = (16 << 20, 1 << 30);

/// How long the end of a mount waits for an operation on a volume to finish.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

impl Volumes {
    /// Sets the size.
    pub(crate) fn resize(&self, node: &Node, bytes: u64, force: bool) -> Result<()> {
        let name = node.name();
        self.refuse_if_read_only(&name)?;
        check_size(bytes)?;
        let _shape = node.shape.lock();
        let volume = self.ensure_open_in_shape(node, true)?;
        volume.resize(bytes, force)?;
        node.end_with_volume();
        node.touch();
        node.meta.lock().size_bytes = bytes;
        self.directory.lock().changed();
        Ok(())
    }

    /// Makes room for a write that ends at `end`. The volume grows ahead of the file, so that
    /// a program that appends does not pay for a resize with every write.
    pub(crate) fn grow_for(&self, node: &Node, end: u64) -> Result<Arc<Volume>> {
        let _shape = node.shape.lock();
        let volume = self.ensure_open_in_shape(node, true)?;
        let size = volume.size_bytes();
        if end <= size {
            return Ok(volume);
        }
        let file_end = node.size_in(&volume);
        volume.resize(grown_size(end)?, false)?;
        node.end_before_volume(file_end);
        Ok(volume)
    }

    /// After the last writer: cuts off what was grown ahead, keeps the time of change.
    pub(crate) fn settle(&self, node: &Node) -> Result<()> {
        let _shape = node.shape.lock();
        if node.meta.lock().writers > 0 {
            return Ok(());
        }
        self.cut_to_end(node)?;
        self.keep_times(node)
    }

    /// Settles every volume, before the engine closes. Without `store`, only what needs none.
    pub(crate) fn settle_all(&self, store: bool) {
        if store {
            // Whoever waits for the end expects everything in the store.
            self.resume_uploads();
        }
        for node in self.known_nodes() {
            // Somebody may hold it who waits for a store that is gone.
            let Some(_shape) = node.shape.try_lock_for(SETTLE_PATIENCE) else { continue };
            let settled = self
                .cut_to_end(&node)
                .and_then(|()| if store { self.keep_times(&node) } else { Ok(()) });
            if let Err(error) = settled {
                log::warn!("{}: {error}", node.name());
            }
        }
    }

    /// Makes the volume as short as its file; `shape` is held.
    fn cut_to_end(&self, node: &Node) -> Result<()> {
        let (Some(volume), Some(end)) = (node.volume(), node.early_end()) else { return Ok(()) };
        let bytes = end.next_multiple_of(BLOCK_BYTES).min(volume.size_bytes());
        volume.resize(bytes, true)?;
        node.end_with_volume();
        node.meta.lock().size_bytes = bytes;
        Ok(())
    }

    /// Keeps the time of change in the store; `shape` is held.
    fn keep_times(&self, node: &Node) -> Result<()> {
        let (name, attrs) = (node.name(), node.attrs_now());
        if self.read_only || attrs == node.meta.lock().attrs {
            return Ok(());
        }
        self.engine.set_attrs(&name, attrs)?;
        self.directory.lock().changed();
        node.meta.lock().attrs = attrs;
        Ok(())
    }

    /// Keeps owner, group, mode and time of change.
    pub(crate) fn set_attrs(&self, node: &Node, change: impl FnOnce(&mut FileAttrs)) -> Result<()> {
        let _shape = node.shape.lock();
        let name = node.name();
        self.refuse_if_read_only(&name)?;
        let mut attrs = node.attrs_now();
        change(&mut attrs);
        self.engine.set_attrs(&name, attrs)?;
        // First this, so that no older answer comes over what is noted next.
        self.directory.lock().changed();
        node.meta.lock().attrs = attrs;
        node.set_modified(attrs.modified_ms);
        Ok(())
    }
}

fn check_size(bytes: u64) -> Result<()> {
    if !bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(Error::BadSize { bytes, reason: "not a multiple of 4096" });
    }
    if bytes > SIZE_MAX {
        return Err(Error::BadSize { bytes, reason: "2^63 bytes or more" });
    }
    Ok(())
}

/// The size to grow to for a write that ends at `end`.
fn grown_size(end: u64) -> Result<u64> {
    let (least, most) = GROW_AHEAD;
    let exact = end.checked_next_multiple_of(BLOCK_BYTES).filter(|bytes| *bytes <= SIZE_MAX);
    let exact = exact.ok_or(Error::BadSize { bytes: end, reason: "2^63 bytes or more" })?;
    Ok(exact.saturating_add(exact.next_power_of_two().clamp(least, most)).min(SIZE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_ahead_aligned_and_bounded() {
        for end in [1, 4096, 4097, 1 << 30, 1 << 40, SIZE_MAX - 1, SIZE_MAX] {
            let grown = grown_size(end).unwrap();
            assert!(
                grown >= end && grown.is_multiple_of(BLOCK_BYTES) && grown <= SIZE_MAX,
                "{end}"
            );
            assert!(grown - end <= GROW_AHEAD.1 + BLOCK_BYTES);
        }
        assert!(grown_size(SIZE_MAX + 1).is_err());
        assert!(grown_size(u64::MAX).is_err());
    }
}
