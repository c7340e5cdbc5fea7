//! Putting a batch together: records in, in order; disjoint extents in address order out.
//!
//! Later records overwrite earlier ones within the batch, so a block written ten times is
//! uploaded once. A batch is the unit of the consistent prefix: it is in the store as a
//! whole or not at all. Pure: no clock, no I/O.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use crate::format::{Place, RecordHead, RecordKind};
use crate::gc::Relocation;
use crate::units::{Extent, Lba, LogSeq, SECTOR_BYTES};

/// Whether a record went into the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It did.
    Taken,
    /// It must start the next batch.
    Full,
}

/// Where an extent's content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From this byte of the batch's data on.
    Data(usize),
    /// It is discarded.
    Trim,
}

/// A sealed batch.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What it changes, ascending and disjoint.
    pub(crate) extents: Vec<(Extent, Source)>,
    /// What the extents' sources point into.
    pub(crate) data: Vec<u8>,
    /// The number of the resize that it begins with, if it does, and the size after it.
    pub(crate) resize: Option<(LogSeq, u64)>,
    /// Size of the volume in sectors.
    pub(crate) size_sectors: u64,
    /// The highest record in it.
    pub(crate) through: LogSeq,
    /// Bytes written that a later record of the batch wrote again, or trimmed.
    pub(crate) coalesced_bytes: u64,
    /// Of each extent where its content is now, if this is data to be moved.
    pub(crate) moved_from: Option<Vec<Place>>,
}

impl Batch {
    /// Data to be moved, by a stream that holds all records up to `through`.
    pub(crate) fn of_moved(moved: Relocation, size_sectors: u64, through: LogSeq) -> Self {
        let (extents, places): (Vec<_>, Vec<_>) = moved.extents.into_iter().unzip();
        let mut at = 0;
        let extents = extents.into_iter().map(|extent: Extent| {
            let source = Source::Data(at);
            at += extent.bytes() as usize;
            (extent, source)
        });
        Self {
            extents: extents.collect(),
            data: moved.data,
            resize: None,
            size_sectors,
            through,
            coalesced_bytes: 0,
            moved_from: Some(places),
        }
    }
}

/// A batch in the making.
#[derive(Debug)]
pub(crate) struct Builder {
    limit_bytes: u64,
    size_sectors: u64,
    pieces: BTreeMap<Lba, (u64, Source)>,
    live_bytes: u64,
    /// Bytes written, overwritten ones included.
    written_bytes: u64,
    /// Bytes of data up to the end of the newest record, overwritten ones included.
    data_bytes: u64,
    resize: Option<(LogSeq, u64)>,
    through: Option<LogSeq>,
}

impl Builder {
    /// An empty batch that is full at `limit_bytes`, of a volume of `size_sectors`.
    pub(crate) fn new(limit_bytes: u64, size_sectors: u64) -> Self {
        Self {
            limit_bytes,
            size_sectors,
            pieces: BTreeMap::new(),
            live_bytes: 0,
            written_bytes: 0,
            data_bytes: 0,
            resize: None,
            through: None,
        }
    }

    /// Whether no record is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.through.is_none()
    }

    /// Whether it should be sealed. Overwrites shrink what will be uploaded but not what is
    /// held in memory, hence the second limit.
    pub(crate) fn is_full(&self) -> bool {
        self.room_bytes() == 0
    }

    /// Bytes that it can take before it is full, at least.
    pub(crate) fn room_bytes(&self) -> u64 {
        let live = self.limit_bytes.saturating_sub(self.live_bytes);
        live.min((2 * self.limit_bytes).saturating_sub(self.data_bytes))
    }

    /// Adds the next record, whose data is at `payload` of the data that [`Self::seal`] will be given.
    pub(crate) fn offer(&mut self, head: &RecordHead, payload: Range<usize>) -> Offer {
        let resize_in_the_middle = head.kind == RecordKind::Resize && !self.is_empty();
        if self.is_full() || resize_in_the_middle {
            return Offer::Full;
        }
        self.through = Some(head.seq);
        self.data_bytes = payload.end as u64;
        match (head.kind, head.extent()) {
            (RecordKind::Write, Some(extent)) => {
                self.written_bytes += extent.bytes();
                self.put(extent, Source::Data(payload.start));
            }
            (RecordKind::Trim, Some(extent)) => self.put(extent, Source::Trim),
            (RecordKind::Resize, _) => {
                self.size_sectors = head.sectors;
                self.resize = Some((head.seq, head.sectors));
            }
            _ => {}
        }
        Offer::Taken
    }

    /// Seals the batch, whose data is what `data` returns; the builder is empty afterwards. `None` if
    /// there is nothing in it.
    pub(crate) fn seal(&mut self, data: impl FnOnce() -> Vec<u8>) -> Option<Batch> {
        let through = self.through?;
        let next = Self::new(self.limit_bytes, self.size_sectors);
        let full = std::mem::replace(self, next);
        let extents = full
            .pieces
            .into_iter()
            .filter_map(|(start, (sectors, source))| Some((Extent::new(start, sectors)?, source)));
        Some(Batch {
            extents: extents.collect(),
            data: data(),
            resize: full.resize,
            size_sectors: full.size_sectors,
            through,
            coalesced_bytes: full.written_bytes - full.live_bytes,
            moved_from: None,
        })
    }

    fn put(&mut self, extent: Extent, source: Source) {
        self.cut(extent);
        if source != Source::Trim {
            self.live_bytes += extent.bytes();
        }
        self.pieces.insert(extent.start(), (extent.sectors(), source));
    }

    /// Removes what the batch holds of `extent`.
    fn cut(&mut self, extent: Extent) {
        let (start, end) = (extent.start(), extent.end());
        let before = self.pieces.range(..start).next_back().map(|(lba, piece)| (*lba, *piece));
        if let Some((lba, (sectors, source))) = before
            && lba.plus(sectors) > start
        {
            self.drop_piece(lba);
            self.keep(lba, start.since(lba), source, 0);
            if lba.plus(sectors) > end {
                self.keep(end, lba.plus(sectors).since(end), source, end.since(lba));
            }
        }
        let inside = (Bound::Included(start), Bound::Excluded(end));
        while let Some((lba, (sectors, source))) =
            self.pieces.range(inside).next().map(|(lba, piece)| (*lba, *piece))
        {
            self.drop_piece(lba);
            if lba.plus(sectors) > end {
                self.keep(end, lba.plus(sectors).since(end), source, end.since(lba));
            }
        }
    }

    fn drop_piece(&mut self, lba: Lba) {
        if let Some((sectors, Source::Data(_))) = self.pieces.remove(&lba) {
            self.live_bytes -= sectors * SECTOR_BYTES;
        }
    }

    /// Puts back a part of a piece, `skip` sectors into it.
    fn keep(&mut self, lba: Lba, sectors: u64, source: Source, skip: u64) {
        let source = match source {
            Source::Data(at) => {
                self.live_bytes += sectors * SECTOR_BYTES;
                Source::Data(at + (skip * SECTOR_BYTES) as usize)
            }
            Source::Trim => Source::Trim,
        };
        self.pieces.insert(lba, (sectors, source));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::Incarnation;

    fn record(seq: u64, kind: RecordKind, lba: u64, sectors: u64) -> RecordHead {
        RecordHead {
            seq: LogSeq::new(seq),
            total_len: 0,
            kind,
            lba: Lba::new(lba),
            sectors,
            payload_len: 0,
            incarnation: Incarnation::new(1),
            durable: LogSeq::ZERO,
        }
    }

    /// A builder and the log's bytes as they come.
    struct Fed {
        builder: Builder,
        data: Vec<u8>,
    }

    impl Fed {
        fn new(limit_bytes: u64) -> Self {
            Self { builder: Builder::new(limit_bytes, 1000), data: Vec::new() }
        }

        fn write(&mut self, seq: u64, lba: u64, sectors: u64) -> Offer {
            // A head of some length stands before each record's data.
            let from = self.data.len() + 72;
            self.data.resize(from, 0xee);
            self.data.resize(from + (sectors * SECTOR_BYTES) as usize, seq as u8);
            let payload = from..self.data.len();
            self.builder.offer(&record(seq, RecordKind::Write, lba, sectors), payload)
        }

        fn other(&mut self, seq: u64, kind: RecordKind, lba: u64, sectors: u64) -> Offer {
            let at = self.data.len();
            self.builder.offer(&record(seq, kind, lba, sectors), at..at)
        }

        fn seal(&mut self) -> Option<Batch> {
            self.builder.seal(|| std::mem::take(&mut self.data))
        }
    }

    #[test]
    fn a_full_batch_takes_no_more_and_a_resize_begins_a_new_one() {
        let mut fed = Fed::new(4096);
        assert_eq!(fed.write(1, 0, 4), Offer::Taken);
        assert_eq!(fed.other(2, RecordKind::Resize, 0, 50), Offer::Full);
        assert_eq!(fed.write(2, 100, 8), Offer::Taken);
        assert_eq!(fed.write(3, 200, 1), Offer::Full);
        let batch = fed.seal().unwrap();
        assert_eq!((batch.through, batch.resize), (LogSeq::new(2), None));
        assert!(fed.seal().is_none());
        assert_eq!(fed.other(3, RecordKind::Resize, 0, 50), Offer::Taken);
        assert_eq!(fed.seal().unwrap().resize, Some((LogSeq::new(3), 50)));
    }

    #[test]
    fn overwriting_one_block_for_ever_still_ends() {
        let mut fed = Fed::new(1 << 20);
        let taken = (1..100_000).take_while(|seq| fed.write(*seq, 0, 8) == Offer::Taken).count();
        assert!((500..=512).contains(&taken), "{taken}");
        let batch = fed.seal().unwrap();
        assert_eq!(batch.extents.len(), 1);
        assert_eq!(batch.coalesced_bytes, (taken as u64 - 1) * 8 * SECTOR_BYTES);
    }

    proptest! {
        /// The batch says of each sector what the last record said.
        #[test]
        fn equals_a_flat_array(ops in prop::collection::vec((0..100u64, 1..30u64, any::<bool>()), 1..60)) {
            let mut fed = Fed::new(1 << 30);
            let mut oracle = vec![None; 200];
            for (seq, (lba, sectors, write)) in (1u64..).zip(ops) {
                let sector = if write {
                    fed.write(seq, lba, sectors);
                    Some(seq as u8)
                } else {
                    fed.other(seq, RecordKind::Trim, lba, sectors);
                    Some(0)
                };
                oracle[lba as usize..(lba + sectors) as usize].fill(sector);
            }
            let live = fed.builder.live_bytes;
            let batch = fed.seal().unwrap();
            let mut found = vec![None; 200];
            let mut end = Lba::ZERO;
            let mut data_bytes = 0;
            for (extent, source) in &batch.extents {
                prop_assert!(extent.start() >= end);
                end = extent.end();
                for i in 0..extent.sectors() {
                    let at = (extent.start().get() + i) as usize;
                    found[at] = Some(match source {
                        Source::Data(from) => batch.data[from + (i * SECTOR_BYTES) as usize],
                        Source::Trim => 0,
                    });
                }
                if *source != Source::Trim {
                    data_bytes += extent.bytes();
                }
            }
            prop_assert_eq!(found, oracle);
            prop_assert_eq!(data_bytes, live);
        }
    }
}
