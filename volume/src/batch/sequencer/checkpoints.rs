//! When a checkpoint is due, what it writes, and what follows once it is named.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Sequencer;
use crate::batch::uploader::{Job, Uploaders};
use crate::checkpoint::{Facts, Prepared, check_owner, name_checkpoint};
use crate::error::{Error, Result};
use crate::format::{CheckpointRef, ShortText, Stamp, Superblock};
use crate::map::{LeafChange, LeafIndex, Pin};
use crate::recover::pins;
use crate::units::ObjectSeq;

/// Checkpoints may take up so many times the room of the leaves that they are kept for...
const MAP_SLACK: u64 = 2;
/// ... and so many bytes more.
const MAP_SLACK_BYTES: u64 = 4 << 20;

/// A checkpoint is due when the leaves that changed take up one of so many parts of what leaves may.
const PRESSED_PARTS: u64 = 4;

/// What a checkpoint takes for needed by others than the head, and what not.
#[derive(Default)]
pub(super) struct Kept {
    /// The checkpoint that the superblock named.
    named: Option<CheckpointRef>,
    /// What snapshots need.
    pins: Vec<Pin>,
    /// What died after this is history.
    history: Option<ObjectSeq>,
    /// What it condemns that no checkpoint before it did.
    condemned: Vec<ObjectSeq>,
}

impl Sequencer {
    pub(super) fn checkpoint_if_due(
        &mut self,
        asked: Option<(bool, u64)>,
        uploaders: &Uploaders,
    ) -> Result<bool> {
        // What is being shared may not be condemned meanwhile.
        let is_free = self.prepared.is_none() && !self.publishing && !self.orders.is_sharing();
        if !is_free || !self.may_create() {
            return Ok(false);
        }
        let clean = match asked {
            // The last one says that nothing is in flight, so nothing may be.
            Some((true, _)) if !self.in_flight.is_empty() => return Ok(false),
            Some((clean, _)) => clean,
            None if self.at.since_checkpoint >= self.core.config.checkpoint_objects.max(1) => false,
            // The leaves must stay in memory until a checkpoint has them.
            None if self.is_pressed(PRESSED_PARTS) => false,
            None => return Ok(false),
        };
        self.core.step("checkpoint.begin")?;
        let covers = self.at.committed;
        let changed = self.changed_leaves()?;
        let stamp = self.stamp();
        let sectors = self.committed_sectors;
        let facts = Facts { stamp, clean, covers, sectors, fences: &self.at.fences };
        let (maps, newest) = (&self.core.maps, self.at.root.seq());
        let (held_before, covered_before) = (self.at.root.held(), self.at.root.covers);
        let superblock = self.core.superblock.get();
        let entered = superblock.checkpoint.map(|checkpoint| checkpoint.seq);
        let mut kept =
            Kept { pins: pins(&superblock), named: superblock.checkpoint, ..Kept::default() };
        let history = &mut self.at.history;
        history.begin_after(&superblock);
        let now_ms = self.core.platform.unix_millis();
        let prepared = self.at.root.prepare(&facts, false, changed, |held| {
            let mut maps = maps.write();
            let objects = maps.objects_mut();
            objects.set_pins(kept.pins.clone());
            // Checkpoints whose leaves were all written anew. The newest one stays, and the one
            // that the superblock names, for it will be named beside the one that follows.
            let of_map = objects.iter().filter(|(_, usage)| usage.is_map());
            let useless: Vec<_> = of_map
                .map(|(object, _)| object)
                .filter(|object| *object < newest && Some(*object) != entered)
                .filter(|object| !held.contains_key(object))
                .collect();
            for object in useless {
                // What the last root did without has been useless since then, and may be gone: a
                // snapshot made since does not keep it.
                let since = if held_before.contains_key(&object) { covers } else { covered_before };
                objects.bury(object, since);
            }
            kept.history = history.advance(now_ms, objects);
            objects.set_history(kept.history);
            kept.condemned = objects.condemn(covers);
            objects.records(covers)
        })?;
        if self.at.history.is_on() {
            // What dies from now on is up to the next one.
            kept.history.get_or_insert(covers);
        }
        self.begin(stamp.seq, None);
        let (head, body) = (prepared.head.clone(), Arc::clone(&prepared.body));
        self.prepared = Some((prepared, kept));
        self.is_last = clean;
        self.at.since_checkpoint = 0;
        if let Some((_, number)) = asked {
            self.answers = number;
            let mut orders = self.orders.state();
            if orders.asked == number {
                orders.checkpoint = None;
            }
        }
        uploaders.submit(Job::Checkpoint { stamp, head, body });
        Ok(true)
    }

    /// The leaves that the next checkpoint writes: those that changed and, where checkpoints take up
    /// much more room than the leaves that they are kept for, those of the one with the fewest.
    pub(super) fn changed_leaves(&self) -> Result<Vec<LeafChange>> {
        let (mut changed, stored) = {
            let maps = self.core.maps.read();
            let of_map = maps.objects().iter().filter(|(_, u)| u.is_map() && !u.is_of_base());
            let stored: u64 = of_map.map(|(_, usage)| usage.stored_bytes).sum();
            (maps.clean().changed(), stored)
        };
        let root = &self.at.root;
        let mut held = root.held();
        held.retain(|object, _| *object > self.core.stream.base_through());
        if stored > MAP_SLACK * held.values().sum::<u64>() + MAP_SLACK_BYTES
            && let Some((sparse, _)) = held.iter().min_by_key(|(_, bytes)| **bytes)
        {
            let known: HashSet<_> = changed.iter().map(|change| change.index.get()).collect();
            let more = root.leaves().values();
            let more = more.filter(|at| at.object == *sparse && !known.contains(&at.index));
            let _reading = self.core.readers.begin();
            let taken = self.loader.load_all(more.copied().collect(), |at, leaf| {
                let (index, last_change) = (LeafIndex::new(at.index), at.last_change);
                changed.push(LeafChange { index, leaf: Some(Arc::new(leaf)), last_change });
                Ok(())
            });
            match taken {
                // The rest can wait for the next one.
                Ok(()) | Err(Error::Store(_)) => {}
                Err(error) => {
                    return Err(crate::deposed::explain(&self.core, self.at.committed, error));
                }
            }
        }
        Ok(changed)
    }

    pub(super) fn is_pressed(&self, parts: u64) -> bool {
        self.core.memory.is_pressed(&self.core.maps.read(), parts)
    }

    /// A checkpoint is committed: from now on recovery may start there.
    pub(super) fn publish_checkpoint(&mut self, stamp: &Stamp, uploaders: &Uploaders) {
        let Some((mut prepared, mut kept)) = self.prepared.take() else { return };
        let covers = prepared.root.covers;
        {
            let bytes = (prepared.head.len() + prepared.body.len()) as u64;
            let mut maps = self.core.maps.write();
            maps.note_checkpoint(covers, prepared.root.leaves());
            self.core.memory.settle(&mut maps);
            maps.objects_mut().add(stamp.seq, 0, bytes);
        }
        self.at.history.add(covers, stamp.written_ms);
        self.condemned = std::mem::take(&mut prepared.condemned);
        self.newly_condemned = std::mem::take(&mut kept.condemned);
        self.at.root = std::mem::take(&mut prepared.root);
        self.publishing = true;
        let checkpoint = CheckpointRef { seq: stamp.seq, covers };
        let stamp = *stamp;
        let host = ShortText::truncated(&self.core.platform.host_name());
        let repinned = Arc::clone(&self.repinned);
        let change = Box::new(move |superblock: &mut Superblock| {
            // It is tried again if somebody else changes the superblock at the same time.
            repinned.store(false, Ordering::Relaxed);
            check_owner(superblock, stamp.epoch, checkpoint)?;
            // It may condemn what a snapshot needs that was made meanwhile. And a deposed writer's
            // late one may have condemned what this one takes for kept.
            let is_named = [kept.named, Some(checkpoint)].contains(&superblock.checkpoint);
            if !is_named || pins(superblock).iter().any(|pin| !kept.pins.contains(pin)) {
                repinned.store(true, Ordering::Relaxed);
                return Ok(());
            }
            // It may begin later since: a clone was cut off from its base.
            superblock.history =
                kept.history.max(superblock.history.filter(|_| kept.history.is_some()));
            name_checkpoint(superblock, &stamp, checkpoint, &host);
            Ok(())
        });
        let Prepared { changes, body, .. } = prepared;
        uploaders.submit(Job::Publish { stamp, changes, body, change });
    }

    pub(super) fn published(&mut self) {
        self.publishing = false;
        let superblock = self.core.superblock.get();
        self.core.maps.write().objects_mut().set_pins(pins(&superblock));
        if self.repinned.swap(false, Ordering::Relaxed) {
            let condemned = std::mem::take(&mut self.newly_condemned);
            self.core.maps.write().objects_mut().reprieve(&condemned);
            // Another one, which knows them, is due at once.
            self.condemned.clear();
            self.at.since_checkpoint = self.core.config.checkpoint_objects.max(1);
            if self.is_last {
                self.orders.publish(|o| o.checkpoint = Some(true));
            }
            return;
        }
        let (answers, history) = (self.answers, self.at.history.begin());
        self.orders.publish(|o| {
            o.has_named = true;
            // Not before: who wants a moment of it enters at a checkpoint that is named.
            o.history = history;
        });
        self.cleaner.announce(std::mem::take(&mut self.condemned));
        // Who asked for it takes what it condemns for announced.
        self.orders.publish(|o| o.answered = answers);
    }
}
