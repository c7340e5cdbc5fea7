//! Answers: the structs that a payload begins with, as bytes.
//!
//! ```text
//!   attr    88  ino, size, blocks, atime, mtime, ctime u64; their ns 3 x u32; mode, nlink, uid,
//!               gid, rdev, blksize, flags u32
//!   ATTR   104  valid u64, valid ns u32, -, attr
//!   ENTRY  128  nodeid, generation, valid, attr valid u64; their ns 2 x u32; attr
//!   OPEN    16  fh u64, flags u32, -
//!   CREATE 144  ENTRY, OPEN
//!   WRITE    8  size u32, -; also of COPY_FILE_RANGE
//!   LSEEK    8  offset u64
//!   STATFS  80  blocks, bfree, bavail, files, ffree u64; bsize, namelen, frsize u32; spare
//!   READDIR     per name: ino u64, next offset u64, namelen u32, type u32, name, up to 8 bytes
//! ```

use super::super::handles::DirEntry;
use super::super::inode::{Attr, Kind};
use super::super::policy::{FILE_FLAGS, IO_BYTES_BEST, NAME_BYTES_MAX, TIME_TO_LIVE};
use super::super::space::Space;
use super::abi::put;

/// Largest of the answers of a fixed size.
pub(super) const SMALL_BYTES_MAX: usize = 144;

const ENTRY_BYTES: usize = 128;
const ATTR_BYTES: usize = 88;

// Times to live are left at 0.
const _: () = assert!(TIME_TO_LIVE.is_zero());

/// An answer of a fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Small {
    bytes: [u8; SMALL_BYTES_MAX],
    len: usize,
}

impl Small {
    /// An answer without any bytes.
    pub(super) const EMPTY: Self = Self { bytes: [0; SMALL_BYTES_MAX], len: 0 };

    fn of(len: usize, fields: &[(usize, &[u8])]) -> Self {
        let mut small = Self { len: len.min(SMALL_BYTES_MAX), ..Self::EMPTY };
        for (at, value) in fields {
            put(&mut small.bytes, *at, value);
        }
        small
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Of `getattr` and `setattr`.
    pub(super) fn attr(attr: &Attr) -> Self {
        Self::of(16 + ATTR_BYTES, &[(16, &attr_bytes(attr))])
    }

    /// Of `lookup` and `mknod`.
    pub(super) fn entry(attr: &Attr) -> Self {
        Self::of(ENTRY_BYTES, &[(0, &attr.ino.to_ne_bytes()), (40, &attr_bytes(attr))])
    }

    /// Of `create`.
    pub(super) fn created(attr: &Attr, fh: u64) -> Self {
        let opened = Self::opened_file(fh);
        Self {
            len: ENTRY_BYTES + opened.len,
            ..Self::of(
                SMALL_BYTES_MAX,
                &[
                    (0, &attr.ino.to_ne_bytes()),
                    (40, &attr_bytes(attr)),
                    (ENTRY_BYTES, opened.bytes()),
                ],
            )
        }
    }

    /// Of `open`.
    pub(super) fn opened_file(fh: u64) -> Self {
        Self::of(16, &[(0, &fh.to_ne_bytes()), (8, &FILE_FLAGS.to_ne_bytes())])
    }

    /// Of `opendir`.
    pub(super) fn opened_directory(fh: u64) -> Self {
        Self::of(16, &[(0, &fh.to_ne_bytes())])
    }

    /// Of `write` and `copy_file_range`.
    pub(super) fn written(bytes: u32) -> Self {
        Self::of(8, &[(0, &bytes.to_ne_bytes())])
    }

    /// Of `lseek`.
    pub(super) fn offset(offset: u64) -> Self {
        Self::of(8, &[(0, &offset.to_ne_bytes())])
    }

    /// Of `statfs`.
    pub(super) fn space(space: &Space) -> Self {
        let size = space.block_bytes.to_ne_bytes();
        Self::of(
            80,
            &[
                (0, &space.blocks.to_ne_bytes()),
                (8, &space.free.to_ne_bytes()),
                (16, &space.available.to_ne_bytes()),
                (40, &size),
                (44, &NAME_BYTES_MAX.to_ne_bytes()),
                (48, &size),
            ],
        )
    }
}

fn attr_bytes(attr: &Attr) -> [u8; ATTR_BYTES] {
    let format = match attr.kind {
        Kind::Directory => libc::S_IFDIR,
        Kind::File => libc::S_IFREG,
    };
    let seconds = (attr.modified_ms / 1000).to_ne_bytes();
    let nanoseconds = ((attr.modified_ms % 1000) as u32 * 1_000_000).to_ne_bytes();
    let mut bytes = [0; ATTR_BYTES];
    let fields: [(usize, &[u8]); 14] = [
        (0, &attr.ino.to_ne_bytes()),
        (8, &attr.size.to_ne_bytes()),
        (16, &attr.blocks.to_ne_bytes()),
        (24, &seconds),
        (32, &seconds),
        (40, &seconds),
        (48, &nanoseconds),
        (52, &nanoseconds),
        (56, &nanoseconds),
        (60, &(format | attr.permissions()).to_ne_bytes()),
        (64, &attr.links().to_ne_bytes()),
        (68, &attr.uid.to_ne_bytes()),
        (72, &attr.gid.to_ne_bytes()),
        (80, &IO_BYTES_BEST.to_ne_bytes()),
    ];
    for (at, value) in fields {
        put(&mut bytes, at, value);
    }
    bytes
}

/// Writes as many names as fit, numbered from `offset` on; returns the bytes written.
pub(super) fn list(entries: &[DirEntry], offset: u64, into: &mut [u8]) -> usize {
    const HEAD_BYTES: usize = 24;
    let mut at = 0;
    for (entry, next) in entries.iter().zip(offset.saturating_add(1)..) {
        let name = entry.name.as_bytes();
        let end = at + (HEAD_BYTES + name.len()).next_multiple_of(8);
        let Some(area) = into.get_mut(at..end) else { break };
        area.fill(0);
        let kind: u32 = match entry.kind {
            Kind::Directory => u32::from(libc::DT_DIR),
            Kind::File => u32::from(libc::DT_REG),
        };
        put(area, 0, &entry.ino.to_ne_bytes());
        put(area, 8, &next.to_ne_bytes());
        put(area, 16, &(name.len() as u32).to_ne_bytes());
        put(area, 20, &kind.to_ne_bytes());
        put(area, HEAD_BYTES, name);
        at = end;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::abi::{u32_at, u64_at};
    use super::*;

    const FILE: Attr = Attr {
        ino: 99,
        kind: Kind::File,
        size: 4096,
        blocks: 8,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        created_ms: 1,
        modified_ms: 2005,
    };

    #[test]
    fn attributes_stand_in_their_places() {
        let small = Small::attr(&FILE);
        let bytes = small.bytes();
        assert_eq!(bytes.len(), 104);
        let attr = bytes.get(16..).unwrap_or_default();
        assert_eq!([0, 8, 16, 24, 32, 40].map(|at| u64_at(attr, at)), [99, 4096, 8, 2, 2, 2]);
        let ns = 5_000_000;
        let words = [48, 52, 56, 60, 64, 68, 72, 76, 80, 84].map(|at| u32_at(attr, at));
        assert_eq!(words, [ns, ns, ns, 0o100640, 1, 1000, 100, 0, 4096, 0]);
        let root = Attr { kind: Kind::Directory, mode: 0o755, ..FILE };
        assert_eq!(u32_at(Small::attr(&root).bytes(), 16 + 60), 0o040755);
    }

    #[test]
    fn a_created_file_is_an_entry_that_is_open() {
        let (entry, created) = (Small::entry(&FILE), Small::created(&FILE, 7));
        assert_eq!((entry.bytes().len(), created.bytes().len()), (128, 144));
        assert_eq!(created.bytes().get(..128), Some(entry.bytes()));
        assert_eq!(created.bytes().get(128..), Some(Small::opened_file(7).bytes()));
        assert_eq!(u64_at(entry.bytes(), 0), 99);
        assert_eq!(u64_at(entry.bytes(), 40), 99);
        // Nothing is to live in the kernel's caches.
        assert_eq!(entry.bytes().get(8..40), Some(&[0; 32][..]));
        assert_eq!(u32_at(created.bytes(), 136), 0b100_0001);
    }

    #[test]
    fn names_are_listed_until_the_room_ends() {
        let name = |name: &str| DirEntry { ino: 5, kind: Kind::File, name: name.to_owned() };
        let entries = [name("."), name("12345678"), name("last")];
        let mut room = [0xff; 32 + 32];
        assert_eq!(list(&entries, 0, &mut room), 64);
        assert_eq!((u64_at(&room, 0), u64_at(&room, 8), u32_at(&room, 16)), (5, 1, 1));
        assert_eq!(room.get(24..32), Some(&b".\0\0\0\0\0\0\0"[..]));
        assert_eq!(room.get(56..), Some(&b"12345678"[..]));
        assert_eq!(list(&entries[2..], 2, &mut room), 32);
        assert_eq!(u64_at(&room, 8), 3);
        assert_eq!(list(&[], u64::MAX, &mut room), 0);
        assert_eq!(list(&entries, 0, &mut []), 0);
    }
}
