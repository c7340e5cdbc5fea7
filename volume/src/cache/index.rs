//! What is in which slot: one shard of the cache's memory.
//!
//! Every slot has a **generation**, raised each time the slot is given to another frame. A
//! reader takes slot and generation under the lock, reads the file without it, and asks again:
//! an unchanged generation says that nobody wrote to the slot meanwhile.
//!
//! A slot is *filling* from the moment it is given to a frame until its bytes are in the file.
//! No reader finds it then, and no one else gets it.

use std::collections::HashMap;
use std::sync::Arc;

use super::FrameKey;
use super::clock::Clock;
use super::slots::FrameSums;

/// A slot as it was when it was looked up.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) sums: Arc<FrameSums>,
}

/// A slot that was given to a frame and waits for its bytes.
#[derive(Debug)]
#[must_use = "a slot that is neither published nor abandoned is lost"]
pub(super) struct Claim {
    pub(super) slot: usize,
    pub(super) key: FrameKey,
    pub(super) evicted: bool,
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Empty,
    Filling(FrameKey),
    Frame(FrameKey, Arc<FrameSums>),
}

/// One shard: a number of slots of its own and the frames in them.
#[derive(Debug)]
pub(super) struct Index {
    by_key: HashMap<FrameKey, usize>,
    slots: Vec<Slot>,
    clock: Clock,
    slots_max: usize,
}

impl Index {
    /// An empty shard of at most `slots_max` slots.
    pub(super) fn new(slots_max: usize) -> Self {
        Self { by_key: HashMap::new(), slots: Vec::new(), clock: Clock::new(), slots_max }
    }

    /// Slots that were ever used.
    pub(super) fn slots(&self) -> usize {
        self.clock.len()
    }

    /// The slot of a frame, if it is filled; counts as a hit.
    pub(super) fn find(&mut self, key: &FrameKey) -> Option<Found> {
        let &slot = self.by_key.get(key)?;
        match &self.slots[slot] {
            Slot { generation, content: Content::Frame(_, sums) } => {
                self.clock.touch(slot);
                Some(Found { slot, generation: *generation, sums: Arc::clone(sums) })
            }
            Slot { content: Content::Empty | Content::Filling(_), .. } => None,
        }
    }

    /// Whether the frame is here or about to be.
    pub(super) fn contains(&self, key: &FrameKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether the slot still holds what it held when it was found.
    pub(super) fn unchanged(&self, found: &Found) -> bool {
        self.slots.get(found.slot).is_some_and(|slot| slot.generation == found.generation)
    }

    /// Gives a slot to `key`: a new one while there are any, then one that the clock chooses.
    /// `None` if the frame is here or on its way, or if every slot is filling.
    pub(super) fn claim(&mut self, key: FrameKey) -> Option<Claim> {
        if self.contains(&key) {
            return None;
        }
        let (slot, evicted) = if self.slots.len() < self.slots_max {
            self.slots.push(Slot { generation: 0, content: Content::Empty });
            (self.clock.grow(), false)
        } else {
            let slots = &self.slots;
            let slot =
                self.clock.evict(|slot| matches!(slots[slot].content, Content::Filling(_)))?;
            (slot, self.empty(slot))
        };
        self.slots[slot].content = Content::Filling(key);
        self.by_key.insert(key, slot);
        Some(Claim { slot, key, evicted })
    }

    /// The bytes of a claimed slot are in the file: readers may find it.
    pub(super) fn publish(&mut self, claim: &Claim, sums: FrameSums) {
        // No slot: the shard was cleared meanwhile.
        if let Some(slot) = self.slots.get_mut(claim.slot) {
            slot.content = Content::Frame(claim.key, Arc::new(sums));
        }
    }

    /// The bytes of a claimed slot could not be written.
    pub(super) fn abandon(&mut self, claim: &Claim) {
        self.empty(claim.slot);
    }

    /// Drops what was found, because it is not what it should be; unless it has gone already.
    pub(super) fn discard(&mut self, found: &Found) {
        if self.unchanged(found) {
            self.empty(found.slot);
        }
    }

    /// Drops everything, for good: there are no slots any more.
    pub(super) fn clear(&mut self) {
        *self = Self::new(0);
    }

    /// Takes the content out of a slot, so that nobody's finding of it holds any more; whether
    /// it was a frame.
    fn empty(&mut self, slot: usize) -> bool {
        let Some(held) = self.slots.get_mut(slot) else {
            return false;
        };
        held.generation += 1;
        self.clock.forget(slot);
        match std::mem::replace(&mut held.content, Content::Empty) {
            Content::Empty => false,
            Content::Filling(key) => {
                self.by_key.remove(&key);
                false
            }
            Content::Frame(key, _) => {
                self.by_key.remove(&key);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Nonce;
    use crate::units::ObjectSeq;
    use uuid::Uuid;

    fn key(frame: u32) -> FrameKey {
        FrameKey {
            volume: Uuid::from_u128(1),
            object: ObjectSeq::new(2),
            nonce: Nonce::new(3),
            frame,
        }
    }

    #[test]
    fn a_frame_is_found_only_once_it_is_filled() {
        let mut index = Index::new(2);
        let claim = index.claim(key(1)).unwrap();
        assert!(index.find(&key(1)).is_none());
        assert!(index.claim(key(1)).is_none(), "on its way already");
        index.publish(&claim, FrameSums::of(b"x"));
        let found = index.find(&key(1)).unwrap();
        assert!(index.unchanged(&found));
        assert!(index.claim(key(1)).is_none(), "here already");
    }

    #[test]
    fn a_slot_that_was_given_away_has_changed() {
        let mut index = Index::new(1);
        let claim = index.claim(key(1)).unwrap();
        index.publish(&claim, FrameSums::of(b"x"));
        let found = index.find(&key(1)).unwrap();
        let claim = index.claim(key(2)).unwrap();
        assert!(claim.evicted);
        assert!(!index.unchanged(&found));
        index.discard(&found);
        index.publish(&claim, FrameSums::of(b"y"));
        assert!(index.find(&key(2)).is_some(), "a late discard does not hit the new frame");
        assert!(index.find(&key(1)).is_none());
    }

    #[test]
    fn a_slot_being_filled_is_not_given_away() {
        let mut index = Index::new(1);
        let claim = index.claim(key(1)).unwrap();
        assert!(index.claim(key(2)).is_none());
        index.abandon(&claim);
        assert!(index.claim(key(2)).is_some());
        assert_eq!(index.slots(), 1);
    }

    #[test]
    fn a_cleared_shard_takes_nothing_any_more() {
        let mut index = Index::new(2);
        let (filled, filling) = (index.claim(key(1)).unwrap(), index.claim(key(2)).unwrap());
        index.publish(&filled, FrameSums::of(b"x"));
        let found = index.find(&key(1)).unwrap();
        index.clear();
        index.publish(&filling, FrameSums::of(b"y"));
        index.discard(&found);
        assert!(index.find(&key(1)).is_none() && index.find(&key(2)).is_none());
        assert!(index.claim(key(3)).is_none());
    }
}
