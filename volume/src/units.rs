//! Numbers with a meaning. No bare integer crosses a module's edge.
//!
//! Addresses and lengths on the disk are counted in **sectors** of 512 bytes. Two logs have
//! two kinds of positions: [`LogSeq`]/[`LogPos`] in the write log, [`ObjectSeq`] in the stream.

use std::fmt;

/// Bytes in a sector, the unit of the map.
pub const SECTOR_BYTES: u64 = 512;

/// Bytes in a block, the unit of volume sizes and of I/O on the local SSD.
pub const BLOCK_BYTES: u64 = 4096;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The smallest value.
            pub const ZERO: Self = Self(0);

            /// Wraps a raw number.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number, for encoding and for display.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The value `n` further on; saturates.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                Self(self.0.saturating_add(n))
            }

            /// The value one further on; saturates.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// How far `self` lies beyond `earlier`; zero if it does not.
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

number! {
    /// Address of a sector on the disk.
    Lba
}
number! {
    /// Number of a record in the write log; consecutive, never re-used in a volume's life.
    LogSeq
}
number! {
    /// Byte position in the write log, counted from its creation; the ring wraps, this does not.
    LogPos
}
number! {
    /// Number of one opening of a write log.
    Incarnation
}
number! {
    /// Number of an object in the stream; decided once, never re-used.
    ObjectSeq
}
number! {
    /// Number of a writer's reign over a volume; each fence raises it.
    Epoch
}

/// A run of sectors on the disk; never empty, never past the end of the address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    start: u64,
    sectors: u64,
}

impl Extent {
    /// One past the largest sector address: a volume is at most 2^63 bytes.
    pub const LBA_LIMIT: u64 = (1 << 63) / SECTOR_BYTES;

    /// The run of `sectors` from `start`; `None` if empty or past [`Self::LBA_LIMIT`].
    pub fn new(start: Lba, sectors: u64) -> Option<Self> {
        let end = start.get().checked_add(sectors)?;
        (sectors > 0 && end <= Self::LBA_LIMIT).then_some(Self { start: start.get(), sectors })
    }

    /// The run `start..end`; `None` if empty or past [`Self::LBA_LIMIT`].
    pub fn between(start: Lba, end: Lba) -> Option<Self> {
        Self::new(start, end.get().checked_sub(start.get())?)
    }

    /// First sector.
    pub const fn start(self) -> Lba {
        Lba(self.start)
    }

    /// One past the last sector.
    pub const fn end(self) -> Lba {
        Lba(self.start + self.sectors)
    }

    /// Length in sectors.
    pub const fn sectors(self) -> u64 {
        self.sectors
    }

    /// Length in bytes.
    pub const fn bytes(self) -> u64 {
        self.sectors * SECTOR_BYTES
    }

    /// The part common to both, if any.
    pub fn intersect(self, other: Extent) -> Option<Extent> {
        Self::between(self.start().max(other.start()), self.end().min(other.end()))
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}+{}]", self.start, self.sectors)
    }
}
