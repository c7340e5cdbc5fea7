//! Which keys there are: entries in the omaps of index objects, see [`names`](super::names).
//!
//! RADOS lists a pool in the order of a hash, all of it, so a store keeps its own list. Object and
//! entry are two RADOS objects and cannot change as one. What keeps the list complete:
//!
//! * the entry is written before the object, and holds a *nonce* that the object then carries;
//! * a create that finds the key taken gives the entry the nonce of the object it met, if the
//!   entry is still its own;
//! * an entry is removed only together with its nonce, and only by who has seen that the object
//!   with this nonce is gone: no object with it can ever come again.
//!
//! So every object has an entry at any moment, whoever creates and deletes the key meanwhile. An
//! entry without an object may remain where somebody was cut short; listings pass over it.
//!
//! Nodes and their entries in other nodes stay for good, so it is enough to have written them once.

use std::collections::HashSet;
use std::ffi::CString;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::cluster::WriteOp;
use super::failure::{Failure, Step};
use super::link::Link;
use super::names::{Node, Place};

/// More nodes than this are not remembered.
const KNOWN_MAX: usize = 1 << 16;
/// What the entry of a node holds; nobody looks at it.
const NODE_ENTRY: &[u8] = b"node";

pub(super) struct Index {
    /// What the names of all index objects begin with.
    name_prefix: String,
    /// Nodes that are known to have their entries all the way up.
    known: Mutex<HashSet<Node>>,
}

impl Index {
    /// The index of the store whose objects are named `<prefix>/<key>`. No key has an empty
    /// segment, so two slashes keep these names apart from those.
    pub(super) fn new(prefix: &str) -> Self {
        Self { name_prefix: format!("{prefix}//"), known: Mutex::default() }
    }

    /// Writes the entry of `key` and all that lead to it.
    pub(super) fn announce(&self, link: &Link, key: &str, nonce: &str) -> Result<(), Failure> {
        let place = Place::of_key(key);
        self.make_reachable(link, &place.node)?;
        self.set(link, &place, nonce.as_bytes())
    }

    /// Gives the entry of `key` the nonce of the object there, if it holds `mine`.
    pub(super) fn hand_over(
        &self,
        link: &Link,
        key: &str,
        mine: &str,
        holder: &[u8],
    ) -> Result<(), Failure> {
        self.change_if(link, key, mine.as_bytes(), |op, entry| op.set_omap(entry, holder))
    }

    /// Removes the entry of `key` if it holds `nonce`.
    pub(super) fn withdraw(&self, link: &Link, key: &str, nonce: &[u8]) -> Result<(), Failure> {
        self.change_if(link, key, nonce, |op, entry| op.remove_omap(entry))
    }

    /// Up to `max` entries of `node` after `after` that begin with `filter`.
    pub(super) fn entries(
        &self,
        link: &Link,
        node: &Node,
        after: &[u8],
        filter: &[u8],
        max: usize,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        // No entry holds a NUL, so nothing can begin with what does.
        let (Ok(name), Ok(after), Ok(filter)) =
            (self.name(node), CString::new(after), CString::new(filter))
        else {
            return Ok(Vec::new());
        };
        match link.with(Step::Index, |c| c.omap_keys(&name, &after, &filter, max)) {
            // No such node, or a name longer than any can be.
            Err(Failure {
                step: Step::Index, errno: Errno::NOENT | Errno::NAMETOOLONG, ..
            }) => Ok(Vec::new()),
            done => done,
        }
    }

    fn make_reachable(&self, link: &Link, node: &Node) -> Result<(), Failure> {
        let mut unknown = Vec::new();
        let mut lowest = node.clone();
        while let Some(place) = lowest.place() {
            if self.known.lock().contains(&lowest) {
                break;
            }
            let above = place.node.clone();
            unknown.push((std::mem::replace(&mut lowest, above), place));
        }
        // From the top down, so that a node is remembered only once it can be reached.
        for (node, place) in unknown.into_iter().rev() {
            self.set(link, &place, NODE_ENTRY)?;
            let mut known = self.known.lock();
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(node);
        }
        Ok(())
    }

    fn set(&self, link: &Link, place: &Place, value: &[u8]) -> Result<(), Failure> {
        let (name, entry) = self.names(link, place)?;
        let op = WriteOp::new().set_omap(&entry, value);
        link.with(Step::Index, |c| c.write(&name, &op))
    }

    fn change_if(
        &self,
        link: &Link,
        key: &str,
        nonce: &[u8],
        change: impl FnOnce(WriteOp, &CString) -> WriteOp,
    ) -> Result<(), Failure> {
        let (name, entry) = self.names(link, &Place::of_key(key))?;
        let op = WriteOp::new().assert_exists().compare_omap(&entry, nonce);
        let op = change(op, &entry);
        match link.with(Step::Index, |c| c.write(&name, &op)) {
            // Somebody else's entry by now, or none.
            Err(Failure { step: Step::Index, errno: Errno::CANCELED | Errno::NOENT, .. }) => Ok(()),
            done => done,
        }
    }

    fn names(&self, link: &Link, place: &Place) -> Result<(CString, CString), Failure> {
        let names = self.name(&place.node).and_then(|name| {
            let entry = CString::new(place.entry.as_slice()).map_err(|_| Errno::INVAL)?;
            Ok((name, entry))
        });
        names.map_err(|errno| link.failed(Step::Index, errno))
    }

    fn name(&self, node: &Node) -> Result<CString, Errno> {
        let name = [self.name_prefix.as_bytes(), node.path()].concat();
        CString::new(name).map_err(|_| Errno::INVAL)
    }
}
