//! Requests: from the bytes of an entry to an operation with its arguments.
//!
//! Each row is `opcode  struct in the operation's area: fields used  | payload`:
//!
//! ```text
//!   LOOKUP, UNLINK   -                                                   | name
//!   GETATTR, STATFS  not looked at                                       |
//!   SETATTR          valid u32, -, fh u64, size u64, lock u64, atime,    |
//!                    mtime, ctime u64, their ns 3 x u32, mode u32, -,    |
//!                    uid u32, gid u32                                    |
//!   MKNOD            mode u32                                            | name
//!   CREATE           flags u32, mode u32                                 | name
//!   RENAME           newdir u64                                          | from, to
//!   RENAME2          newdir u64, flags u32                               | from, to
//!   OPEN             flags u32                                           |
//!   READ, READDIR    fh u64, offset u64, size u32                        |
//!   WRITE            fh u64, offset u64, size u32                        | data
//!   RELEASE, FSYNC   fh u64                                              |
//!   FALLOCATE        fh u64, offset u64, length u64, mode u32            |
//!   LSEEK            fh u64, offset u64, whence u32                      |
//!   COPY_FILE_RANGE  fh in u64, offset in u64, node out u64,             |
//!                    fh out u64, offset out u64, len u64                 |
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::super::copy::Place;
use super::abi::{Header, u32_at, u64_at};

/// A request's operation. `fh` is what an open was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Lookup {
        name: &'a OsStr,
    },
    GetAttr,
    SetAttr(SetAttr),
    Mknod {
        name: &'a OsStr,
        mode: u32,
    },
    Create {
        name: &'a OsStr,
        mode: u32,
    },
    Mkdir {
        name: &'a OsStr,
    },
    Unlink {
        name: &'a OsStr,
    },
    Rename {
        from: &'a OsStr,
        to: &'a OsStr,
        new_parent: u64,
        flags: u32,
    },
    Open {
        flags: u32,
    },
    Read {
        fh: u64,
        offset: u64,
        len: u32,
    },
    Write {
        fh: u64,
        offset: u64,
        data: &'a [u8],
    },
    StatFs,
    Release {
        fh: u64,
    },
    Fsync {
        fh: u64,
    },
    OpenDir,
    ReadDir {
        fh: u64,
        offset: u64,
        len: u32,
    },
    Fallocate {
        fh: u64,
        offset: u64,
        length: u64,
        mode: i32,
    },
    Lseek {
        fh: u64,
        offset: i64,
        whence: i32,
    },
    CopyFileRange {
        from: Place,
        to: Place,
        len: u64,
    },
    /// Links and directories, of which there are none to be made or removed.
    Refused,
    /// Nothing is to be done.
    Agreed,
    /// Not known here.
    Other,
}

/// The new attributes that are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SetAttr {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<Time>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    Now,
    Ms(u64),
}

impl<'a> Operation<'a> {
    /// The operation of a request; `None` if its bytes make no sense.
    pub(super) fn of(header: &Header, payload: &'a [u8]) -> Option<Self> {
        let bytes = &header.operation[..];
        let fh = u64_at(bytes, 0);
        let offset = u64_at(bytes, 8);
        let name = || one_name(payload).map(|(name, _)| name);
        Some(match header.opcode {
            1 => Self::Lookup { name: name()? },
            3 => Self::GetAttr,
            4 => Self::SetAttr(set_attr(bytes)),
            8 => Self::Mknod { name: name()?, mode: u32_at(bytes, 0) },
            9 => Self::Mkdir { name: name()? },
            10 => Self::Unlink { name: name()? },
            12 | 45 => {
                let (from, rest) = one_name(payload)?;
                let (to, _) = one_name(rest)?;
                let flags = if header.opcode == 45 { u32_at(bytes, 8) } else { 0 };
                Self::Rename { from, to, new_parent: u64_at(bytes, 0), flags }
            }
            14 => Self::Open { flags: u32_at(bytes, 0) },
            15 => Self::Read { fh, offset, len: u32_at(bytes, 16) },
            16 => {
                let len = usize::try_from(u32_at(bytes, 16)).ok()?;
                Self::Write { fh, offset, data: payload.get(..len)? }
            }
            17 => Self::StatFs,
            18 | 29 => Self::Release { fh },
            20 => Self::Fsync { fh },
            27 => Self::OpenDir,
            28 => Self::ReadDir { fh, offset, len: u32_at(bytes, 16) },
            35 => Self::Create { name: name()?, mode: u32_at(bytes, 4) },
            43 => Self::Fallocate {
                fh,
                offset,
                length: u64_at(bytes, 16),
                mode: u32_at(bytes, 24) as i32,
            },
            46 => Self::Lseek { fh, offset: offset as i64, whence: u32_at(bytes, 16) as i32 },
            47 => Self::CopyFileRange {
                from: Place { handle: fh, offset },
                to: Place { handle: u64_at(bytes, 24), offset: u64_at(bytes, 32) },
                len: u64_at(bytes, 40),
            },
            // SYMLINK, RMDIR, LINK
            6 | 11 | 13 => Self::Refused,
            // FSYNCDIR: names are in the store before a create or rename is answered.
            // ACCESS: with default permissions the kernel decides and does not ask.
            // DESTROY: the end is noticed otherwise.
            30 | 34 | 38 => Self::Agreed,
            _ => Self::Other,
        })
    }
}

fn set_attr(bytes: &[u8]) -> SetAttr {
    const MODE: u32 = 1;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const MTIME: u32 = 1 << 5;
    const MTIME_NOW: u32 = 1 << 8;
    let valid = u32_at(bytes, 0);
    let given = |bit: u32| valid & bit != 0;
    let modified = if given(MTIME_NOW) {
        Time::Now
    } else {
        // Before 1970 is 1970.
        let seconds = u64::try_from(u64_at(bytes, 40) as i64).unwrap_or(0);
        let ms =
            seconds.saturating_mul(1000).saturating_add(u64::from(u32_at(bytes, 60)) / 1_000_000);
        Time::Ms(ms.min(u64::MAX / 2))
    };
    SetAttr {
        mode: given(MODE).then(|| u32_at(bytes, 68)),
        uid: given(UID).then(|| u32_at(bytes, 76)),
        gid: given(GID).then(|| u32_at(bytes, 80)),
        size: given(SIZE).then(|| u64_at(bytes, 16)),
        modified: given(MTIME).then_some(modified),
    }
}

/// The name up to the NUL, and what follows it.
fn one_name(payload: &[u8]) -> Option<(&OsStr, &[u8])> {
    let end = payload.iter().position(|byte| *byte == 0).filter(|end| *end > 0)?;
    let name = payload.get(..end)?;
    Some((OsStr::from_bytes(name), payload.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::super::abi::put;
    use super::*;

    fn header(opcode: u32, fields: &[(usize, &[u8])]) -> Header {
        let mut operation = [0; 128];
        for (at, value) in fields {
            put(&mut operation, *at, value);
        }
        Header {
            opcode,
            unique: 1,
            nodeid: 1,
            uid: 0,
            gid: 0,
            commit_id: 1,
            payload_bytes: 0,
            operation,
        }
    }

    fn u32s(number: u32) -> [u8; 4] {
        number.to_ne_bytes()
    }

    fn u64s(number: u64) -> [u8; 8] {
        number.to_ne_bytes()
    }

    #[test]
    fn data_and_offsets() {
        let fields: [(usize, &[u8]); 3] = [(0, &u64s(7)), (8, &u64s(4096)), (16, &u32s(3))];
        let write = header(16, &fields);
        let wanted = Operation::Write { fh: 7, offset: 4096, data: b"abc" };
        assert_eq!(Operation::of(&write, b"abc"), Some(wanted));
        assert_eq!(Operation::of(&write, b"ab"), None);
        let wanted = Operation::Read { fh: 7, offset: 4096, len: 3 };
        assert_eq!(Operation::of(&header(15, &fields), b""), Some(wanted));
        let fields: [(usize, &[u8]); 4] =
            [(0, &u64s(7)), (8, &u64s(1)), (16, &u64s(2)), (24, &u32s(3))];
        let wanted = Operation::Fallocate { fh: 7, offset: 1, length: 2, mode: 3 };
        assert_eq!(Operation::of(&header(43, &fields), b""), Some(wanted));
        let fields: [(usize, &[u8]); 3] = [(0, &u64s(7)), (8, &u64s(u64::MAX)), (16, &u32s(4))];
        let wanted = Operation::Lseek { fh: 7, offset: -1, whence: 4 };
        assert_eq!(Operation::of(&header(46, &fields), b""), Some(wanted));
        let fields: [(usize, Vec<u8>); 6] =
            [1, 2, 3, 4, 5, 6].map(|nth: u64| ((nth as usize - 1) * 8, u64s(nth).to_vec()));
        let fields = fields.each_ref().map(|(at, bytes)| (*at, &bytes[..]));
        let (from, to) = (Place { handle: 1, offset: 2 }, Place { handle: 4, offset: 5 });
        let wanted = Operation::CopyFileRange { from, to, len: 6 };
        assert_eq!(Operation::of(&header(47, &fields), b""), Some(wanted));
    }

    #[test]
    fn names_end_at_their_nul() {
        let (from, to) = (OsStr::new("a"), OsStr::new("bc"));
        let rename = header(45, &[(0, &u64s(1)), (8, &u32s(1))]);
        let wanted = Operation::Rename { from, to, new_parent: 1, flags: 1 };
        assert_eq!(Operation::of(&rename, b"a\0bc\0"), Some(wanted));
        let wanted = Operation::Rename { from, to, new_parent: 1, flags: 0 };
        assert_eq!(
            Operation::of(&header(12, &[(0, &u64s(1)), (8, &u32s(1))]), b"a\0bc\0"),
            Some(wanted)
        );
        let wanted = Operation::Create { name: to, mode: 0o100600 };
        let create = header(35, &[(0, &u32s(2)), (4, &u32s(0o100600))]);
        assert_eq!(Operation::of(&create, b"bc\0"), Some(wanted));
    }

    #[test]
    fn only_what_is_valid_is_set() {
        let fields: [(usize, &[u8]); 7] = [
            (0, &u32s(1 | 1 << 3 | 1 << 5)),
            (16, &u64s(4096)),
            (40, &u64s(2)),
            (60, &u32s(5_000_000)),
            (68, &u32s(0o600)),
            (76, &u32s(1)),
            (80, &u32s(2)),
        ];
        let wanted = SetAttr {
            mode: Some(0o600),
            uid: None,
            gid: None,
            size: Some(4096),
            modified: Some(Time::Ms(2005)),
        };
        assert_eq!(Operation::of(&header(4, &fields), b""), Some(Operation::SetAttr(wanted)));
        let all = header(4, &[(0, &u32s(u32::MAX)), (40, &u64s(u64::MAX))]);
        let Some(Operation::SetAttr(all)) = Operation::of(&all, b"") else { unreachable!() };
        assert_eq!((all.modified, all.uid), (Some(Time::Now), Some(0)));
        let early = header(4, &[(0, &u32s(1 << 5)), (40, &u64s(u64::MAX))]);
        let Some(Operation::SetAttr(early)) = Operation::of(&early, b"") else { unreachable!() };
        assert_eq!(early.modified, Some(Time::Ms(0)));
    }

    #[test]
    fn cut_payloads_are_refused() {
        for opcode in 0..=64 {
            for payload in [&b""[..], b"x", b"\0", b"\0\0", b"x\0", b"x\0y", b"x\0\0"] {
                let largest = header(opcode, &[(0, &[0xff; 128])]);
                let parsed = Operation::of(&largest, payload);
                if matches!(opcode, 12 | 16 | 45) {
                    assert_eq!(parsed, None, "opcode {opcode} with {payload:?}");
                }
            }
        }
        assert_eq!(Operation::of(&header(1, &[]), b"no end"), None);
    }
}
