//! The names of a volume's objects in the store.
//!
//! ```text
//! volumes/<name>              name record: format version and uuid
//! data/<uuid>/super           superblock
//! data/<uuid>/o/<seq:016x>    the stream
//! probe/<number>/<round>      tries of the store, gone again at once
//! ```

use lsvd_store::Key;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::units::ObjectSeq;

/// Prefix of all name records.
pub(crate) const NAMES: &str = "volumes/";

/// Prefix of what only tries the store.
pub(crate) const PROBES: &str = "probe/";

/// The name record of a volume.
pub(crate) fn name(volume: &str) -> Result<Key> {
    key(format!("{NAMES}{volume}"))
}

/// The superblock of a volume.
pub(crate) fn superblock(volume: Uuid) -> Result<Key> {
    key(format!("data/{volume}/super"))
}

/// The part of a key that all objects of one volume share, but for its name record.
pub(crate) fn volume_of(key: &str) -> Option<&str> {
    key.strip_prefix("data/")?.split_once('/').map(|(volume, _)| volume)
}

/// Prefix of a volume's stream.
pub(crate) fn stream_prefix(volume: Uuid) -> String {
    format!("data/{volume}/o/")
}

/// An object of a volume's stream.
pub(crate) fn object(volume: Uuid, seq: ObjectSeq) -> Result<Key> {
    key(format!("{}{:016x}", stream_prefix(volume), seq.get()))
}

/// The number of an object of the stream of `volume`, if `key` names one.
pub(crate) fn parse_object(volume: Uuid, key: &Key) -> Option<ObjectSeq> {
    let digits = key.as_str().strip_prefix(&stream_prefix(volume))?;
    let well_formed = digits.len() == 16 && !digits.bytes().any(|b| b.is_ascii_uppercase());
    u64::from_str_radix(digits, 16).ok().filter(|_| well_formed).map(ObjectSeq::new)
}

/// An object that only tries the store.
pub(crate) fn probe(attempt: u128, round: u64) -> Result<Key> {
    key(format!("{PROBES}{attempt:032x}/{round}"))
}

fn key(text: String) -> Result<Key> {
    // Volume names are checked before; this is for names that come from a store's listing.
    Key::new(text).map_err(|e| Error::damaged("a name in the store", e))
}
