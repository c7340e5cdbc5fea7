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
use super::super::errno::Errno;
use super::super::policy::{NOT_A_VOLUME, NOT_OFFERED};
use super::abi::{Header, u32_at, u64_at};
use super::opcode;

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
    /// It always fails in this way.
    Refused(Errno),
    /// Nothing is to be done.
    Agreed,
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
            opcode::LOOKUP => Self::Lookup { name: name()? },
            opcode::GETATTR => Self::GetAttr,
            opcode::SETATTR => Self::SetAttr(set_attr(bytes)),
            opcode::MKNOD => Self::Mknod { name: name()?, mode: u32_at(bytes, 0) },
            opcode::MKDIR => Self::Mkdir { name: name()? },
            opcode::UNLINK => Self::Unlink { name: name()? },
            opcode::RENAME | opcode::RENAME2 => {
                let (from, rest) = one_name(payload)?;
                let (to, _) = one_name(rest)?;
                let flags = if header.opcode == opcode::RENAME2 { u32_at(bytes, 8) } else { 0 };
                Self::Rename { from, to, new_parent: u64_at(bytes, 0), flags }
            }
            opcode::OPEN => Self::Open { flags: u32_at(bytes, 0) },
            opcode::READ => Self::Read { fh, offset, len: u32_at(bytes, 16) },
            opcode::WRITE => {
                let len = usize::try_from(u32_at(bytes, 16)).ok()?;
                Self::Write { fh, offset, data: payload.get(..len)? }
            }
            opcode::STATFS => Self::StatFs,
            opcode::RELEASE | opcode::RELEASEDIR => Self::Release { fh },
            opcode::FSYNC => Self::Fsync { fh },
            opcode::OPENDIR => Self::OpenDir,
            opcode::READDIR => Self::ReadDir { fh, offset, len: u32_at(bytes, 16) },
            opcode::CREATE => Self::Create { name: name()?, mode: u32_at(bytes, 4) },
            opcode::FALLOCATE => Self::Fallocate {
                fh,
                offset,
                length: u64_at(bytes, 16),
                mode: u32_at(bytes, 24) as i32,
            },
            opcode::LSEEK => {
                Self::Lseek { fh, offset: offset as i64, whence: u32_at(bytes, 16) as i32 }
            }
            opcode::COPY_FILE_RANGE => Self::CopyFileRange {
                from: Place { handle: fh, offset },
                to: Place { handle: u64_at(bytes, 24), offset: u64_at(bytes, 32) },
                len: u64_at(bytes, 40),
            },
            opcode::SYMLINK | opcode::RMDIR | opcode::LINK => Self::Refused(NOT_A_VOLUME),
            // Names are in the store before a create or rename is answered.
            opcode::FSYNCDIR => Self::Agreed,
            // With default permissions the kernel decides and does not ask.
            opcode::ACCESS => Self::Agreed,
            // The end is noticed otherwise.
            opcode::DESTROY => Self::Agreed,
            _ => Self::Refused(NOT_OFFERED),
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
        let write = header(opcode::WRITE, &fields);
        let wanted = Operation::Write { fh: 7, offset: 4096, data: b"abc" };
        assert_eq!(Operation::of(&write, b"abc"), Some(wanted));
        assert_eq!(Operation::of(&write, b"ab"), None);
        let wanted = Operation::Read { fh: 7, offset: 4096, len: 3 };
        assert_eq!(Operation::of(&header(opcode::READ, &fields), b""), Some(wanted));
        let fields: [(usize, &[u8]); 4] =
            [(0, &u64s(7)), (8, &u64s(1)), (16, &u64s(2)), (24, &u32s(3))];
        let wanted = Operation::Fallocate { fh: 7, offset: 1, length: 2, mode: 3 };
        assert_eq!(Operation::of(&header(opcode::FALLOCATE, &fields), b""), Some(wanted));
        let fields: [(usize, &[u8]); 3] = [(0, &u64s(7)), (8, &u64s(u64::MAX)), (16, &u32s(4))];
        let wanted = Operation::Lseek { fh: 7, offset: -1, whence: 4 };
        assert_eq!(Operation::of(&header(opcode::LSEEK, &fields), b""), Some(wanted));
        let fields: [(usize, Vec<u8>); 6] =
            [1, 2, 3, 4, 5, 6].map(|nth: u64| ((nth as usize - 1) * 8, u64s(nth).to_vec()));
        let fields = fields.each_ref().map(|(at, bytes)| (*at, &bytes[..]));
        let (from, to) = (Place { handle: 1, offset: 2 }, Place { handle: 4, offset: 5 });
        let wanted = Operation::CopyFileRange { from, to, len: 6 };
        assert_eq!(Operation::of(&header(opcode::COPY_FILE_RANGE, &fields), b""), Some(wanted));
    }

    #[test]
    fn names_end_at_their_nul() {
        let (from, to) = (OsStr::new("a"), OsStr::new("bc"));
        let rename = header(opcode::RENAME2, &[(0, &u64s(1)), (8, &u32s(1))]);
        let wanted = Operation::Rename { from, to, new_parent: 1, flags: 1 };
        assert_eq!(Operation::of(&rename, b"a\0bc\0"), Some(wanted));
        let wanted = Operation::Rename { from, to, new_parent: 1, flags: 0 };
        assert_eq!(
            Operation::of(&header(opcode::RENAME, &[(0, &u64s(1)), (8, &u32s(1))]), b"a\0bc\0"),
            Some(wanted)
        );
        let wanted = Operation::Create { name: to, mode: 0o100600 };
        let create = header(opcode::CREATE, &[(0, &u32s(2)), (4, &u32s(0o100600))]);
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
        assert_eq!(
            Operation::of(&header(opcode::SETATTR, &fields), b""),
            Some(Operation::SetAttr(wanted))
        );
        let all = header(opcode::SETATTR, &[(0, &u32s(u32::MAX)), (40, &u64s(u64::MAX))]);
        let Some(Operation::SetAttr(all)) = Operation::of(&all, b"") else { unreachable!() };
        assert_eq!((all.modified, all.uid), (Some(Time::Now), Some(0)));
        let early = header(opcode::SETATTR, &[(0, &u32s(1 << 5)), (40, &u64s(u64::MAX))]);
        let Some(Operation::SetAttr(early)) = Operation::of(&early, b"") else { unreachable!() };
        assert_eq!(early.modified, Some(Time::Ms(0)));
    }

    #[test]
    fn cut_payloads_are_refused() {
        for number in 0..=64 {
            for payload in [&b""[..], b"x", b"\0", b"\0\0", b"x\0", b"x\0y", b"x\0\0"] {
                let largest = header(number, &[(0, &[0xff; 128])]);
                let parsed = Operation::of(&largest, payload);
                if matches!(number, opcode::RENAME | opcode::WRITE | opcode::RENAME2) {
                    assert_eq!(parsed, None, "opcode {number} with {payload:?}");
                }
            }
        }
        assert_eq!(Operation::of(&header(opcode::LOOKUP, &[]), b"no end"), None);
    }
}
