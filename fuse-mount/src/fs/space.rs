//! What `df` shows: the room of what holds the store.

use std::path::PathBuf;

/// The numbers of `statvfs`, in blocks of [`Space::block_bytes`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) block_bytes: u32,
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) available: u64,
}

/// What holds the store.
#[derive(Clone, Debug)]
pub(crate) enum StoreRoom {
    /// A local file system; its numbers are the truth.
    Directory(PathBuf),
    /// Something without an end that could be asked for.
    Boundless,
}

/// The room claimed for a store that has no end: 1 PiB.
const BOUNDLESS: Space =
    Space { block_bytes: 4096, blocks: 1 << 38, free: 1 << 38, available: 1 << 38 };

impl StoreRoom {
    /// What holds the store of this URL.
    pub(crate) fn of_url(url: &str) -> Self {
        match url.strip_prefix("file://") {
            Some(path) => Self::Directory(PathBuf::from(path)),
            None if url.starts_with('/') => Self::Directory(PathBuf::from(url)),
            None => Self::Boundless,
        }
    }

    /// Asks.
    pub(crate) fn space(&self) -> std::io::Result<Space> {
        match self {
            Self::Boundless => Ok(BOUNDLESS),
            Self::Directory(path) => {
                let found = rustix::fs::statvfs(path)?;
                Ok(Space {
                    block_bytes: u32::try_from(found.f_frsize).unwrap_or(4096),
                    blocks: found.f_blocks,
                    free: found.f_bfree,
                    available: found.f_bavail,
                })
            }
        }
    }
}
