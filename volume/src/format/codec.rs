//! Cursors for reading and writing little-endian values, all checked.
//!
//! A **varint** holds seven bits per byte, lowest first; the top bit says that more follow.
//! Only the shortest form of a value is accepted, so equal values have equal bytes.

use uuid::Uuid;

use super::error::{FormatError, FormatResult};

/// Reads values from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! read_integers {
    ($($name:ident)*) => {$(
        /// The next integer of that width.
        #[inline]
        pub fn $name(&mut self) -> FormatResult<$name> {
            self.array().map($name::from_le_bytes)
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the first on.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    read_integers! { u8 u16 u32 u64 u128 }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> FormatResult<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(FormatError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: usize) -> FormatResult<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(FormatError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> FormatResult<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FormatError::Invalid("a flag in it is neither 0 nor 1")),
        }
    }

    /// A uuid's sixteen bytes.
    pub fn uuid(&mut self) -> FormatResult<Uuid> {
        self.array().map(Uuid::from_bytes)
    }

    /// A varint.
    pub fn varint(&mut self) -> FormatResult<u64> {
        let mut value = 0u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(FormatError::Invalid("a varint in it exceeds 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(FormatError::Invalid("a varint in it is longer than needed"));
                }
                return Ok(value);
            }
        }
        Err(FormatError::Invalid("a varint in it exceeds 64 bits"))
    }

    /// A varint of at most 32 bits.
    pub fn varint_u32(&mut self) -> FormatResult<u32> {
        u32::try_from(self.varint()?)
            .map_err(|_| FormatError::Invalid("a varint in it exceeds 32 bits"))
    }

    /// A varint that counts items of at least `item_bytes_min` bytes each, which follow: a count
    /// that the remaining bytes cannot hold is refused, so it is safe to allocate for it.
    pub fn count(&mut self, item_bytes_min: usize) -> FormatResult<usize> {
        let count = usize::try_from(self.varint()?).map_err(|_| FormatError::Truncated)?;
        match count.checked_mul(item_bytes_min) {
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => Err(FormatError::Truncated),
        }
    }

    /// Checks that everything was read.
    pub fn finish(self) -> FormatResult<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FormatError::Invalid("there are bytes after its end"))
        }
    }
}

/// Appends values to a growing buffer.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

macro_rules! write_integers {
    ($($name:ident)*) => {$(
        /// Appends an integer of that width.
        pub fn $name(&mut self, value: $name) {
            self.bytes(&value.to_le_bytes());
        }
    )*};
}

impl Writer {
    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes) }
    }

    write_integers! { u8 u16 u32 u64 u128 }

    /// Appends `bytes`.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends a byte that is 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// Appends a uuid's sixteen bytes.
    pub fn uuid(&mut self, value: Uuid) {
        self.bytes(value.as_bytes());
    }

    /// Appends a varint.
    pub fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// Appends the length of a list.
    pub fn count(&mut self, items: usize) {
        self.varint(items as u64);
    }

    /// The bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}

/// Fills a slice from its front, without allocating.
#[derive(Debug)]
pub struct SliceWriter<'a> {
    rest: &'a mut [u8],
    overflowed: bool,
}

macro_rules! put_integers {
    ($($name:ident)*) => {$(
        /// Writes an integer of that width.
        #[inline]
        pub fn $name(&mut self, value: $name) {
            self.array(value.to_le_bytes());
        }
    )*};
}

impl<'a> SliceWriter<'a> {
    /// Writes to `out` from its first byte on.
    #[inline]
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { rest: out, overflowed: false }
    }

    put_integers! { u8 u16 u32 u64 }

    /// Writes `bytes`. What does not fit is remembered and told by [`Self::finish`].
    #[inline]
    pub fn array<const N: usize>(&mut self, bytes: [u8; N]) {
        match std::mem::take(&mut self.rest).split_first_chunk_mut() {
            Some((head, rest)) => {
                *head = bytes;
                self.rest = rest;
            }
            None => self.overflowed = true,
        }
    }

    /// Checks that everything fitted.
    #[inline]
    pub const fn finish(self) -> FormatResult<()> {
        if self.overflowed { Err(FormatError::Truncated) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint_of(value: u64) -> Vec<u8> {
        let mut w = Writer::default();
        w.varint(value);
        w.into_vec()
    }

    #[test]
    fn varints_have_one_form_and_64_bits() {
        assert_eq!(varint_of(300), [0xac, 0x02]);
        assert_eq!(varint_of(u64::MAX).len(), 10);
        let refused: [&[u8]; 4] = [
            &[0x80, 0x00],
            &[0x80; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0x80],
        ];
        for bytes in refused {
            Reader::new(bytes).varint().expect_err("not a varint");
        }
    }

    #[test]
    fn a_count_is_bounded_by_what_follows() {
        let mut bytes = varint_of(2);
        bytes.extend([0; 7]);
        assert_eq!(Reader::new(&bytes).count(4), Err(FormatError::Truncated));
        bytes.push(0);
        assert_eq!(Reader::new(&bytes).count(4), Ok(2));
        assert_eq!(Reader::new(&varint_of(u64::MAX)).count(4), Err(FormatError::Truncated));
    }

    #[test]
    fn a_slice_writer_tells_what_does_not_fit() {
        let mut out = [0; 6];
        let mut w = SliceWriter::new(&mut out);
        w.u32(1);
        w.u32(2);
        assert_eq!(w.finish(), Err(FormatError::Truncated));
    }

    proptest! {
        #[test]
        fn varints_round_trip(bits in 0u32..64, low in any::<u64>()) {
            let value = low >> bits;
            let bytes = varint_of(value);
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(r.varint(), Ok(value));
            prop_assert_eq!(r.finish(), Ok(()));
        }
    }
}
