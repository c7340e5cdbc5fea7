//! One volume, from its superblock to its last frame.

use std::collections::BTreeSet;
use std::sync::Arc;

use lsvd_store::ObjectStore;

use super::Check;
use super::deep::check_frames;
use super::desk::Desk;
use super::judge::{Judge, Verdict};
use super::leaks::check_leaks;
use super::listing::Listing;
use super::report::{Finding, Severity, VolumeCheck};
use super::root::check_root;
use super::survey::Looked;
use super::tail::{From, Tail, check_holders, check_tail};
use crate::checkpoint::read_checkpoint;
use crate::error::{Error, Result};
use crate::format::{CheckpointHeader, CheckpointRef, ObjectHeader, Snapshot, Superblock};
use crate::stream::Stream;
use crate::superblock_cell::SuperblockCell;
use crate::units::{Epoch, ObjectSeq};

/// What can be done about damage in the store.
pub(crate) const ADVICE_RESTORE: &str =
    "restore it from a copy of the store; nothing is changed by a check";

/// How often a part is checked anew whose objects were collected meanwhile.
const ROUNDS: u32 = 4;

/// What the parts of a check of one volume share.
pub(crate) struct Context<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) judge: &'a Judge<'a>,
    pub(crate) desk: &'a Desk,
}

/// Checks the volume of `cell`. One that is deleted meanwhile is left alone.
pub(crate) fn check_volume(
    store: &Arc<dyn ObjectStore>,
    cell: &SuperblockCell,
    options: &Check,
    desk: &Desk,
) -> Result<()> {
    let superblock = cell.get();
    desk.enter(superblock.name.as_str());
    let stream = Stream::new(Arc::clone(store), superblock.volume).on(&superblock.bases);
    let judge = Judge::new(&stream, cell);
    let cx = Context { stream: &stream, judge: &judge, desk };
    let mut seen = VolumeCheck::default();
    let outcome = check_in_rounds(&cx, options, &mut seen);
    seen.name = superblock.name.to_string();
    seen.uuid = superblock.volume.to_string();
    desk.looked_at(seen);
    match outcome {
        Err(Error::Deleted(name)) => {
            let what = format!("volume {name:?}");
            let detail = "it was deleted while it was checked";
            desk.found(Finding::new(Severity::Note, what, detail, "nothing"));
            Ok(())
        }
        other => other,
    }
}

fn check_in_rounds(cx: &Context<'_>, options: &Check, seen: &mut VolumeCheck) -> Result<()> {
    for round in 1..=ROUNDS {
        *seen = VolumeCheck::default();
        check_once(cx, options, seen)?;
        let collected = cx.judge.take_collected();
        if collected == 0 {
            return Ok(());
        }
        if round == ROUNDS {
            let detail = format!(
                "{collected} objects were collected while they were checked; what took their place was \
                 not looked at"
            );
            let advice = "nothing is wrong; check again when less is written";
            cx.desk.found(Finding::new(Severity::Note, volume_of(cx), detail, advice));
        }
    }
    Ok(())
}

fn volume_of(cx: &Context<'_>) -> String {
    format!("{}: volume data/{}/", cx.stream.store().url(), cx.stream.volume())
}

/// The volume as its superblock describes it now.
fn check_once(cx: &Context<'_>, options: &Check, seen: &mut VolumeCheck) -> Result<()> {
    let superblock = cx.judge.superblock()?;
    cx.desk.begin("listing objects", 0)?;
    let root = match superblock.checkpoint {
        Some(checkpoint) => read_root(cx, checkpoint)?,
        None => None,
    };
    // After the root: what it does not know was not created since.
    let listing = Listing::read(cx.stream, |objects| cx.desk.done(objects as u64))?;
    let tail = check_tail(cx, enter(&superblock, root.as_ref()), &listing)?;
    seen.objects_after_checkpoint = tail.objects;
    if let Some(checkpoint) = superblock.checkpoint {
        (seen.checkpoint, seen.covers) = (checkpoint.seq.get(), checkpoint.covers.get());
    }
    let mut roots: Vec<&CheckpointHeader> = root.iter().collect();
    for root in &roots {
        check_root(cx, root, false, &listing, seen)?;
    }
    // The one to continue, published or not.
    if let Some(newest) = tail.newest.as_ref().filter(|newest| is_other(newest, &superblock)) {
        check_root(cx, newest, false, &listing, &mut VolumeCheck::default())?;
        roots.push(newest);
    }
    let mut needed: BTreeSet<_> = data_objects(root.as_ref(), &tail).into_iter().collect();
    for snapshot in &superblock.snapshots {
        needed.extend(check_snapshot(cx, snapshot, &listing)?);
    }
    seen.snapshots = superblock.snapshots.len() as u64;
    if root.is_some() {
        check_leaks(cx, &roots, &listing, options.repair)?;
    }
    if options.deep {
        let needed: Vec<_> = needed.into_iter().collect();
        let read = check_frames(cx, &needed)?;
        (seen.frames, seen.frame_bytes) = (read.frames, read.bytes);
    }
    Ok(())
}

/// A snapshot: its root, and the objects that lie between that and its moment. Returns the objects
/// with data that it needs.
fn check_snapshot(
    cx: &Context<'_>,
    snapshot: &Snapshot,
    listing: &Listing,
) -> Result<Vec<ObjectSeq>> {
    let Some(header) = read_root(cx, snapshot.checkpoint)? else { return Ok(Vec::new()) };
    check_root(cx, &header, true, listing, &mut VolumeCheck::default())?;
    let needed = header.objects.iter().filter(|object| object.live_sectors > 0);
    let mut needed: Vec<_> = needed.map(|object| object.seq).collect();
    let mut seq = header.covers.next();
    while seq <= snapshot.at {
        let base = cx.stream.bases().iter().find(|b| b.at < seq && seq <= b.through);
        if let Some(base) = base {
            seq = base.through.next();
            continue;
        }
        if listing.size_of(seq).is_none() && cx.judge.verdict(seq)? == Verdict::Lost {
            let name = snapshot.name.as_str();
            let detail = format!("it is missing, and snapshot {name:?} needs it");
            let what = cx.stream.describe(seq);
            cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
            break;
        }
        match Looked::of(cx.stream.header(seq))? {
            Looked::Found(ObjectHeader::Data(_)) => needed.push(seq),
            Looked::Found(ObjectHeader::Shared(shared)) => {
                let holders: Vec<_> = shared.holders().iter().map(|h| h.object).collect();
                needed.extend(check_holders(cx, seq, &holders, header.covers)?);
            }
            _ => {}
        }
        seq = seq.next();
    }
    Ok(needed)
}

fn is_other(header: &CheckpointHeader, superblock: &Superblock) -> bool {
    superblock.checkpoint.is_none_or(|checkpoint| checkpoint.seq != header.stamp.seq)
}

/// Where the roll-forward begins.
fn enter(superblock: &Superblock, root: Option<&CheckpointHeader>) -> From {
    let covers = superblock.checkpoint.map_or(ObjectSeq::ZERO, |checkpoint| checkpoint.covers);
    let fences = root.map(|root| root.fences.as_slice()).unwrap_or_default();
    let last = fences.iter().rfind(|fence| fence.id.seq <= covers);
    From {
        covers,
        // Without a root it is not known.
        epoch: last.map_or(Epoch::ZERO, |fence| fence.id.epoch),
        is_epoch_known: superblock.checkpoint.is_none() || root.is_some(),
        committed: superblock.committed,
    }
}

/// The objects to be read in full: those that somebody may need.
fn data_objects(root: Option<&CheckpointHeader>, tail: &Tail) -> Vec<ObjectSeq> {
    let table = root.map(|root| root.objects.as_slice()).unwrap_or_default();
    let needed = table.iter().filter(|o| o.dead_since.is_none() && o.data_sectors > 0);
    needed.map(|object| object.seq).chain(tail.data.iter().copied()).collect()
}

/// The checkpoint that the superblock names, unless it is damaged.
fn read_root(cx: &Context<'_>, at: CheckpointRef) -> Result<Option<CheckpointHeader>> {
    let header = match Looked::of(read_checkpoint(cx.stream, at.seq).map(Some))? {
        Looked::Found(header) => header,
        Looked::Missing => return Ok(None),
        Looked::Damaged(error) => {
            if cx.judge.verdict(at.seq)? != Verdict::Collected {
                cx.desk.damaged(&error, ADVICE_RESTORE);
            }
            return Ok(None);
        }
    };
    if header.covers == at.covers {
        return Ok(Some(header));
    }
    let detail = format!("it covers {}, the superblock says {}", header.covers, at.covers);
    let what = cx.stream.describe(at.seq);
    cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
    Ok(None)
}
