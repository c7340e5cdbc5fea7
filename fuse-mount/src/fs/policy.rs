//! What the kernel is told whichever way it asks: limits, flags, and answers that need no volume.

use std::time::Duration;

use super::errno::Errno;

/// How long the kernel may believe names and attributes: commands and other hosts change them behind
/// its back, and asking again costs microseconds.
pub(crate) const TIME_TO_LIVE: Duration = Duration::ZERO;

/// Largest write request, and largest answer to a read.
pub(crate) const WRITE_BYTES_MAX: u32 = 1 << 20;

/// The size of request that `stat` advises.
pub(crate) const IO_BYTES_BEST: u32 = 4096;

/// Longest name that `statfs` promises.
pub(crate) const NAME_BYTES_MAX: u32 = 255;

/// How files are opened: `FOPEN_DIRECT_IO`, so past the page cache, and
/// `FOPEN_PARALLEL_DIRECT_WRITES`, so with writers side by side.
pub(crate) const FILE_FLAGS: u32 = 1 | 1 << 6;

/// To those who make or remove what there is none of here: links, directories, devices.
pub(crate) const NOT_A_VOLUME: Errno = Errno::EPERM;

/// To operations that are not offered: the kernel need not ask again. `flush`, as every write was
/// answered already; extended attributes; what is not known here.
pub(crate) const NOT_OFFERED: Errno = Errno::ENOSYS;
