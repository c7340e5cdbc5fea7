//! One volume's stream of numbered objects, as bytes and headers.
//!
//! Knows how to create an object so that its number is decided once, and how to read headers
//! without reading objects. Knows nothing of maps and logs.
//!
//! The stream of a clone begins with numbers of its base's, and so on:
//!
//! ```text
//!   1 ........ 40 | 41 ....... 97 | 98 .....
//!   its base's base   its base      its own
//! ```
//! Whoever reads need not know. Only its own numbers are ever created, listed or deleted. Of a clone
//! that was cut off, nobody has the numbers before its own.

use std::io::IoSlice;
use std::sync::Arc;

use lsvd_store::{ByteRange, Front, Key, ObjectStore, StoreError, parallel};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::object_header::COMMON_BYTES;
use crate::format::{Base, CommonHeader, FormatError, ObjectHeader, Stamp, peek};
use crate::keys;
use crate::units::ObjectSeq;

/// How much of an object is read to get its header; most headers are shorter.
const HEADER_GUESS_BYTES: u64 = 16 << 10;

/// What became of an attempt to create an object.
#[derive(Debug)]
pub(crate) enum Created {
    /// The number holds this object, from this attempt or an earlier one whose answer was lost.
    Ours,
    /// The number holds somebody else's object.
    Theirs(Box<Found>),
    /// The number held an object, which is gone: it was collected meanwhile.
    Gone,
}

/// An object as its header shows it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) header: ObjectHeader,
    /// Bytes of the whole object.
    pub(crate) bytes: u64,
}

/// A page of a listing.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) seqs: Vec<ObjectSeq>,
    /// Whether there are further pages.
    pub(crate) more: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    store: Arc<dyn ObjectStore>,
    volume: Uuid,
    /// The farthest first.
    bases: Arc<[Base]>,
}

impl Stream {
    /// The stream of `volume` in `store`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, volume: Uuid) -> Self {
        Self { store, volume, bases: Arc::default() }
    }

    /// The same, as the stream of a clone.
    pub(crate) fn on(self, bases: &[Base]) -> Self {
        Self { bases: bases.into(), ..self }
    }

    /// Where a clone's history comes from, the farthest first.
    pub(crate) fn bases(&self) -> &[Base] {
        &self.bases
    }

    /// The last number that is not its own; zero if all are.
    pub(crate) fn base_through(&self) -> ObjectSeq {
        self.bases.last().map_or(ObjectSeq::ZERO, |base| base.through)
    }

    /// The volume whose the object `seq` is.
    pub(crate) fn owner(&self, seq: ObjectSeq) -> Uuid {
        self.bases.iter().find(|base| seq <= base.through).map_or(self.volume, |base| base.volume)
    }

    /// Whether the volume was cut off from whoever had the object `seq`.
    pub(crate) fn is_cut(&self, seq: ObjectSeq) -> bool {
        self.bases.iter().any(|base| base.is_cut() && seq <= base.through)
    }

    fn key(&self, seq: ObjectSeq) -> Result<Key> {
        keys::object(self.owner(seq), seq)
    }

    /// The volume.
    pub(crate) fn volume(&self) -> Uuid {
        self.volume
    }

    /// The store.
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// How messages call the object.
    pub(crate) fn describe(&self, seq: ObjectSeq) -> String {
        let key = format!("{}{:016x}", keys::stream_prefix(self.owner(seq)), seq.get());
        format!("{}: object {key}", self.store.url())
    }

    /// Creates the object that `stamp` describes. Its number is decided by the first create
    /// that arrives; if that was an earlier attempt of ours, the nonce tells.
    ///
    /// # Errors
    /// The store's, `Unavailable` meaning that it may be tried again with the same bytes.
    pub(crate) fn create(&self, stamp: &Stamp, parts: &[IoSlice<'_>]) -> Result<Created> {
        let key = keys::object(self.volume, stamp.seq)?;
        match self.store.create(&key, parts) {
            Ok(()) => Ok(Created::Ours),
            Err(StoreError::AlreadyExists { .. }) => Ok(match self.find(stamp.seq)? {
                None => Created::Gone,
                Some(found) if found.header.stamp().nonce == stamp.nonce => Created::Ours,
                Some(found) => Created::Theirs(Box::new(found)),
            }),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether there is an object `seq`, whatever it is.
    pub(crate) fn exists(&self, seq: ObjectSeq) -> Result<bool> {
        match self.store.head(&self.key(seq)?) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The common part of the header of object `seq`, and the object's first bytes; `None` if
    /// there is no such object.
    ///
    /// # Errors
    /// Damaged, of a newer version, or the store fails.
    pub(crate) fn peek(&self, seq: ObjectSeq) -> Result<Option<(CommonHeader, Vec<u8>)>> {
        let what = || self.describe(seq);
        let Some(Front { bytes, size }) = self.front(seq, HEADER_GUESS_BYTES)? else {
            return Ok(None);
        };
        if size < COMMON_BYTES as u64 {
            return Err(FormatError::Truncated.of(what()));
        }
        let common = peek(&bytes).map_err(|e| e.of(what()))?;
        if common.object_len() != size {
            let detail = format!("it is {size} of {} bytes", common.object_len());
            return Err(Error::damaged(what(), detail));
        }
        if common.stamp.volume != self.owner(seq) || common.stamp.seq != seq {
            return Err(Error::damaged(what(), "it is another object, under this name"));
        }
        Ok(Some((common, bytes)))
    }

    /// The header of object `seq`; `None` if there is no such object.
    ///
    /// # Errors
    /// Damaged, of a newer version, or the store fails.
    pub(crate) fn header(&self, seq: ObjectSeq) -> Result<Option<ObjectHeader>> {
        Ok(self.find(seq)?.map(|found| found.header))
    }

    /// As [`Self::header`], with the object's size.
    pub(crate) fn find(&self, seq: ObjectSeq) -> Result<Option<Found>> {
        let Some((common, mut bytes)) = self.peek(seq)? else { return Ok(None) };
        if common.header_len as usize > bytes.len() {
            let Some(longer) = self.front(seq, common.header_len.into())? else { return Ok(None) };
            bytes = longer.bytes;
        }
        let header = ObjectHeader::decode(&bytes).map_err(|e| e.of(self.describe(seq)))?;
        Ok(Some(Found { header, bytes: common.object_len() }))
    }

    fn front(&self, seq: ObjectSeq, limit: u64) -> Result<Option<Front>> {
        match self.store.get_front(&self.key(seq)?, limit) {
            Ok(front) => Ok(Some(front)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The bytes of object `seq` in `range`.
    ///
    /// # Errors
    /// The store's; a missing or short object is damage.
    pub(crate) fn read(&self, seq: ObjectSeq, range: ByteRange) -> Result<Vec<u8>> {
        match self.store.get_range(&self.key(seq)?, range) {
            Ok(bytes) => Ok(bytes),
            Err(e @ (StoreError::NotFound { .. } | StoreError::OutOfRange { .. })) => {
                Err(Error::damaged(self.describe(seq), e))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Several objects, whose headers are read at the same time; `None` for those that are missing.
    ///
    /// # Errors
    /// One of those of [`Self::header`].
    pub(crate) fn find_all(&self, seqs: &[ObjectSeq]) -> Result<Vec<Option<Found>>> {
        parallel::map(seqs, |seq| self.find(*seq))
    }

    /// Deletes objects of its own; those that are gone already are no error.
    ///
    /// # Errors
    /// The store's; any of them may be gone then.
    pub(crate) fn delete(&self, seqs: &[ObjectSeq]) -> Result<()> {
        let own = seqs.iter().filter(|seq| **seq > self.base_through());
        let keys = own.map(|seq| keys::object(self.volume, *seq));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        self.store.delete_many(&keys).map_err(Error::from)
    }

    /// Numbers above `after` that a listing shows, a page of them. A hint, never a proof.
    pub(crate) fn listed_after(&self, after: ObjectSeq, limit: usize) -> Result<Listed> {
        let prefix = keys::stream_prefix(self.volume);
        let after = keys::object(self.volume, after)?;
        let page = self.store.list(&prefix, Some(&after), limit)?;
        let seqs = page.objects.iter().filter_map(|o| keys::parse_object(self.volume, &o.key));
        Ok(Listed { seqs: seqs.collect(), more: page.truncated })
    }
}
