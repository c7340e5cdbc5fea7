//! The bytes between the kernel and a ring entry, and nothing but bytes.
//!
//! ```text
//!   header of an entry, 288 bytes         commands to the kernel, in an SQE of 128 bytes
//!   ┌─────┬───────────────────────────┐   ┌──────────────────┬──────────────────────────────┐
//!   │   0 │ request: fuse_in_header   │   │ REGISTER         │ addr -> iovec{header,payload}│
//!   │     │ answer:  fuse_out_header  │   │ COMMIT_AND_FETCH │ answers, asks for the next   │
//!   ├─────┼───────────────────────────┤   └──────────────────┴──────────────────────────────┘
//!   │ 128 │ request: the operation's  │     their 80 bytes: flags u64, commit_id u64, qid u16
//!   │     │ own struct, if it has one │
//!   ├─────┼───────────────────────────┤   payload: names or data of a request, each name with a
//!   │ 256 │ flags      u64            │   NUL; the whole answer but for its fuse_out_header
//!   │ 264 │ commit_id  u64            │
//!   │ 272 │ payload_sz u32, pad u32   │   fuse_in_header: len u32, opcode u32, unique u64,
//!   │ 280 │ reserved   u64            │     nodeid u64, uid u32, gid u32, pid u32, u16, u16
//!   └─────┴───────────────────────────┘   fuse_out_header: len u32, error i32, unique u64
//! ```
//! Numbers have the machine's byte order. Nothing here trusts a length.

use super::opcode;

/// Bit of `FUSE_INIT` by which this transport is agreed on.
pub(crate) const INIT_OVER_URING: u64 = 1 << 41;

/// Hands an entry's memory to the kernel and asks for a request.
pub(super) const REGISTER: u32 = 1;
/// Answers an entry's request and asks for the next.
pub(super) const COMMIT_AND_FETCH: u32 = 2;

/// Size of an entry's header.
pub(super) const HEADER_BYTES: usize = 288;
/// Size of the area for an operation's own struct.
pub(super) const OPERATION_BYTES: usize = 128;
/// Size of `fuse_out_header`, which counts in the length of an answer.
const OUT_HEADER_BYTES: u32 = 16;

const OPERATION_AT: usize = 128;
const RING_AT: usize = 256;

/// What the header says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) nodeid: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Names the request when it is answered.
    pub(super) commit_id: u64,
    /// Of the request.
    pub(super) payload_bytes: u32,
    pub(super) operation: [u8; OPERATION_BYTES],
}

impl Header {
    /// Reads an entry's header.
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut operation = [0; OPERATION_BYTES];
        let area = bytes.get(OPERATION_AT..RING_AT).unwrap_or_default();
        operation.iter_mut().zip(area).for_each(|(to, from)| *to = *from);
        Self {
            opcode: u32_at(bytes, 4),
            unique: u64_at(bytes, 8),
            nodeid: u64_at(bytes, 16),
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            commit_id: u64_at(bytes, RING_AT + 8),
            payload_bytes: u32_at(bytes, RING_AT + 16),
            operation,
        }
    }

    /// How many bytes the request brings (data or names) or, if it is a read, asks for.
    pub(super) fn data_bytes(&self) -> usize {
        match self.opcode {
            // `fuse_read_in`: fh u64, offset u64, size u32.
            opcode::READ => u32_at(&self.operation, 16) as usize,
            _ => self.payload_bytes as usize,
        }
    }
}

/// Writes the answer to the request `unique` into an entry's header.
pub(super) fn write_answer(
    bytes: &mut [u8; HEADER_BYTES],
    unique: u64,
    errno: i32,
    payload_bytes: u32,
) {
    put(bytes, 0, &(OUT_HEADER_BYTES + payload_bytes).to_ne_bytes());
    put(bytes, 4, &(-errno).to_ne_bytes());
    put(bytes, 8, &unique.to_ne_bytes());
    put(bytes, RING_AT + 16, &payload_bytes.to_ne_bytes());
}

/// The command area of an SQE.
pub(super) fn command(commit_id: u64, qid: u16) -> [u8; 80] {
    let mut bytes = [0; 80];
    put(&mut bytes, 8, &commit_id.to_ne_bytes());
    put(&mut bytes, 16, &qid.to_ne_bytes());
    bytes
}

/// The number at `at`; 0 where there is none.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array_at(bytes, at).map_or(0, u32::from_ne_bytes)
}

/// The number at `at`; 0 where there is none.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array_at(bytes, at).map_or(0, u64::from_ne_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Writes `value` at `at`, if there is room for it.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(area) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        area.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_from_its_places() {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &77u32.to_ne_bytes());
        put(&mut bytes, 4, &16u32.to_ne_bytes());
        put(&mut bytes, 8, &0x0102_0304_0506_0708u64.to_ne_bytes());
        put(&mut bytes, 16, &9u64.to_ne_bytes());
        put(&mut bytes, 24, &1000u32.to_ne_bytes());
        put(&mut bytes, 28, &100u32.to_ne_bytes());
        put(&mut bytes, 128, &[7; 128]);
        put(&mut bytes, 264, &5u64.to_ne_bytes());
        put(&mut bytes, 272, &4096u32.to_ne_bytes());
        let wanted = Header {
            opcode: 16,
            unique: 0x0102_0304_0506_0708,
            nodeid: 9,
            uid: 1000,
            gid: 100,
            commit_id: 5,
            payload_bytes: 4096,
            operation: [7; 128],
        };
        assert_eq!(Header::read(&bytes), wanted);
    }

    #[test]
    fn an_answer_leaves_the_commit_id() {
        let mut bytes = [0xff; HEADER_BYTES];
        write_answer(&mut bytes, 3, libc::EIO, 8);
        assert_eq!(u32_at(&bytes, 0), 24);
        assert_eq!(u32_at(&bytes, 4) as i32, -libc::EIO);
        assert_eq!(u64_at(&bytes, 8), 3);
        assert_eq!(u64_at(&bytes, 264), u64::MAX);
        assert_eq!(u32_at(&bytes, 272), 8);
    }

    #[test]
    fn a_command_names_request_and_queue() {
        let bytes = command(0x11, 3);
        assert_eq!((u64_at(&bytes, 0), u64_at(&bytes, 8)), (0, 0x11));
        assert_eq!(u32_at(&bytes, 16), 3);
        assert_eq!(bytes.get(18..), Some(&[0; 62][..]));
    }

    #[test]
    fn places_outside_are_neither_read_nor_written() {
        let mut bytes = [1; 6];
        assert_eq!(u64_at(&bytes, 0), 0);
        assert_eq!(u32_at(&bytes, usize::MAX), 0);
        put(&mut bytes, 3, &[9; 4]);
        put(&mut bytes, usize::MAX, &[9]);
        assert_eq!(bytes, [1; 6]);
    }
}
