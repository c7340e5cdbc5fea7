//! The stream behind a checkpoint: whether an opening could read it to its end.
//!
//! ```text
//!   covers | 41 42 43 44 45 .. 47 48      45 is the last one that counts, unless a later object
//!          '--------------'  ^  '---'     tells that 46 was committed: then 46 is lost
//!             rolled forward |  uploads beside it, of a writer that is at it or dead
//! ```
//! What an object shares must be there as well.
//!
//! A listing is no snapshot, so what it lacks is looked for again before anything is said of it.

use std::collections::BTreeMap;

use super::judge::Verdict;
use super::listing::Listing;
use super::report::{Finding, Severity};
use super::survey::{AT_ONCE, Looked, survey};
use super::volume::{ADVICE_RESTORE, Context};
use crate::error::Result;
use crate::format::{CheckpointHeader, ObjectHeader};
use crate::stream::Found;
use crate::units::{Epoch, Extent, ObjectSeq};

/// Missing numbers in a row that are looked for one by one.
const SINGLE_MAX: u64 = 64;

/// What is known at the point from which the stream is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From {
    /// The last number before it.
    pub(crate) covers: ObjectSeq,
    /// The epoch of the last fence before it.
    pub(crate) epoch: Epoch,
    /// Whether that is known.
    pub(crate) is_epoch_known: bool,
    /// The highest number known to be committed.
    pub(crate) committed: ObjectSeq,
}

/// The stream behind a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Its objects with data, but for void ones.
    pub(crate) data: Vec<ObjectSeq>,
    /// Its newest checkpoint.
    pub(crate) newest: Option<CheckpointHeader>,
    /// How many objects it has.
    pub(crate) objects: u64,
}

/// What matters of an object's header here.
#[derive(Clone, Copy, Debug)]
struct Brief {
    kind: Kind,
    epoch: Epoch,
    committed: ObjectSeq,
    window: u32,
    sectors: u64,
    /// Where its last extent ends, in sectors of the disk.
    end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Moved,
    Shared,
    Checkpoint,
    Fence,
    Filler,
}

impl Brief {
    fn of(header: &ObjectHeader) -> Self {
        let stamp = header.stamp();
        let (kind, end) = match header {
            ObjectHeader::Data(data) => {
                let kind = if data.moved_from().is_some() { Kind::Moved } else { Kind::Data };
                (kind, data.extents().last().map_or(0, |last| last.extent.end().get()))
            }
            ObjectHeader::Shared(shared) => {
                (Kind::Shared, shared.extents().last().map_or(0, |last| last.extent.end().get()))
            }
            ObjectHeader::Checkpoint(_) => (Kind::Checkpoint, 0),
            ObjectHeader::Fence(_) => (Kind::Fence, 0),
            ObjectHeader::Filler(_) => (Kind::Filler, 0),
        };
        Self {
            kind,
            epoch: stamp.epoch,
            committed: stamp.committed,
            window: stamp.window,
            sectors: stamp.size_sectors,
            end,
        }
    }
}

/// Checks the stream behind a checkpoint, as far as `listing` shows it.
pub(crate) fn check_tail(cx: &Context<'_>, from: From, listing: &Listing) -> Result<Tail> {
    let counts = |seq: ObjectSeq| !cx.stream.bases().iter().any(|b| b.at < seq && seq <= b.through);
    let listed: Vec<_> =
        listing.after(from.covers).iter().filter(|(seq, _)| counts(*seq)).copied().collect();
    cx.desk.begin("reading the headers behind the checkpoint", listed.len() as u64)?;
    let mut walk = Walk {
        cx,
        briefs: BTreeMap::new(),
        covers: from.covers,
        proven: from.committed,
        epoch: from.epoch,
        is_sure: from.is_epoch_known,
        holders: BTreeMap::new(),
        tail: Tail::default(),
    };
    for some in listed.chunks(AT_ONCE) {
        walk.take_in(some)?;
        cx.desk.done(some.len() as u64)?;
    }
    walk.run(from.covers.next())?;
    Ok(walk.tail)
}

struct Walk<'a> {
    cx: &'a Context<'a>,
    /// The objects, but for damaged ones, which have none.
    briefs: BTreeMap<ObjectSeq, Option<Brief>>,
    covers: ObjectSeq,
    /// The highest number that something says is committed.
    proven: ObjectSeq,
    epoch: Epoch,
    /// Whether the epoch is known: what is lost may have been a fence.
    is_sure: bool,
    /// Whose data those of them share that do.
    holders: BTreeMap<ObjectSeq, Vec<ObjectSeq>>,
    tail: Tail,
}

impl Walk<'_> {
    fn take_in(&mut self, listed: &[(ObjectSeq, u64)]) -> Result<()> {
        let seqs: Vec<_> = listed.iter().map(|(seq, _)| *seq).collect();
        let looked = survey(self.cx.stream, &seqs, |stream, seq| stream.find(seq))?;
        for (seq, looked) in seqs.into_iter().zip(looked) {
            match looked {
                Looked::Found(found) => self.note(seq, found),
                // It was collected since.
                Looked::Missing => {}
                Looked::Damaged(error) => {
                    self.cx.desk.damaged(&error, ADVICE_RESTORE);
                    self.briefs.insert(seq, None);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, seq: ObjectSeq, found: Found) {
        let brief = Brief::of(&found.header);
        // A number is created only after the one that lies a window before it is committed.
        let before = ObjectSeq::new(seq.get().saturating_sub(brief.window.max(1).into()));
        // Of a writer that was deposed both are still true.
        self.proven = self.proven.max(brief.committed.min(seq)).max(before);
        self.briefs.insert(seq, Some(brief));
        match found.header {
            ObjectHeader::Checkpoint(header) => self.tail.newest = Some(header),
            ObjectHeader::Shared(header) => {
                let holders = header.holders().iter().map(|holder| holder.object).collect();
                self.holders.insert(seq, holders);
            }
            _ => {}
        }
    }

    fn run(&mut self, first: ObjectSeq) -> Result<()> {
        let mut seq = first;
        loop {
            // What a base has behind the point that counts is not the clone's.
            for base in self.cx.stream.bases() {
                if base.at < seq && seq <= base.through {
                    seq = base.through.next();
                }
            }
            match self.briefs.get(&seq).copied() {
                Some(Some(brief)) => self.judge(seq, brief)?,
                Some(None) => self.is_sure = false,
                None => match self.step_over(seq)? {
                    Some(next) => {
                        seq = next;
                        continue;
                    }
                    None => break,
                },
            }
            self.tail.objects += 1;
            if seq.next() == seq {
                break;
            }
            seq = seq.next();
        }
        // Behind the end nothing counts yet.
        if self.tail.newest.as_ref().is_some_and(|newest| newest.stamp.seq > seq) {
            self.tail.newest = None;
        }
        Ok(())
    }

    /// Looks at a number that was not listed, and says which comes next, if the stream goes on.
    fn step_over(&mut self, seq: ObjectSeq) -> Result<Option<ObjectSeq>> {
        if seq > self.proven {
            return Ok(None);
        }
        let found = survey(self.cx.stream, &[seq], |stream, seq| stream.find(seq))?.pop();
        match found {
            Some(Looked::Found(found)) => {
                self.note(seq, found);
                return Ok(Some(seq));
            }
            Some(Looked::Damaged(error)) => {
                self.cx.desk.damaged(&error, ADVICE_RESTORE);
                self.briefs.insert(seq, None);
                return Ok(Some(seq));
            }
            Some(Looked::Missing) | None => {}
        }
        Ok(match self.cx.judge.verdict(seq)? {
            Verdict::Present => Some(seq.next()).filter(|next| *next > seq),
            // A newer checkpoint covers it: what follows is checked with that.
            Verdict::Collected => None,
            Verdict::Lost => Some(self.lost(seq)).filter(|next| *next > seq),
        })
    }

    /// Reports what is lost from `seq` on; returns what comes behind it.
    fn lost(&mut self, seq: ObjectSeq) -> ObjectSeq {
        self.is_sure = false;
        let listed = self.briefs.range(seq..).next().map(|(seq, _)| *seq);
        let end = listed.unwrap_or(self.proven.next()).min(self.proven.next());
        // One by one, as each may have been missed by the listing alone; unless they are very many.
        let next = if end.since(seq) > SINGLE_MAX { end } else { seq.next() };
        let more = match next.since(seq) {
            0 | 1 => String::new(),
            many => format!(", with {} that follow", many - 1),
        };
        let detail = format!(
            "it is missing{more}, but number {} is known to be committed: a part of the volume's \
             history is lost",
            self.proven
        );
        let what = self.cx.stream.describe(seq);
        self.cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
        next
    }

    /// Applies the rules of the roll-forward.
    fn judge(&mut self, seq: ObjectSeq, brief: Brief) -> Result<()> {
        let wrong = |detail: &str| -> Result<()> {
            // A fence that lost its race against a collection stands at a number that is covered.
            if !self.cx.judge.has_moved_on(self.covers)? {
                let what = self.cx.stream.describe(seq);
                self.cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
            }
            Ok(())
        };
        if brief.sectors > Extent::LBA_LIMIT {
            wrong("it gives an impossible size")?;
        }
        if brief.epoch < self.epoch {
            // A deposed writer's: void, wherever it is.
            self.holders.remove(&seq);
            return Ok(());
        }
        let is_fence = brief.kind == Kind::Fence;
        if self.is_sure && is_fence && brief.epoch == self.epoch {
            wrong("two fences have one epoch")?;
        }
        if self.is_sure && !is_fence && brief.epoch > self.epoch {
            wrong("its epoch has no fence")?;
        }
        if matches!(brief.kind, Kind::Data | Kind::Shared) && brief.end > brief.sectors {
            wrong("it writes beyond the end of the volume")?;
        }
        self.epoch = brief.epoch;
        self.is_sure |= is_fence;
        if matches!(brief.kind, Kind::Data | Kind::Moved) {
            self.tail.data.push(seq);
        }
        if let Some(holders) = self.holders.remove(&seq) {
            // The checkpoint may not know that they are needed.
            self.tail.data.extend(check_holders(self.cx, seq, &holders, self.covers)?);
        }
        Ok(())
    }
}

/// Looks for what object `seq` shares; returns what of it is there. Behind what the superblock's checkpoint
/// covers it may be about to be collected.
pub(crate) fn check_holders(
    cx: &Context<'_>,
    seq: ObjectSeq,
    holders: &[ObjectSeq],
    covers: ObjectSeq,
) -> Result<Vec<ObjectSeq>> {
    // A clone that was cut off since needs none of its base's.
    let had = holders.iter().filter(|holder| !cx.stream.is_cut(**holder));
    let (holders, mut there): (Vec<_>, _) = (had.copied().collect(), Vec::new());
    for some in holders.chunks(AT_ONCE) {
        let looked = survey(cx.stream, some, |stream, holder| stream.find(holder))?;
        for (holder, looked) in some.iter().zip(looked) {
            match looked {
                Looked::Found(_) => there.push(*holder),
                Looked::Damaged(error) => cx.desk.damaged(&error, ADVICE_RESTORE),
                Looked::Missing if cx.judge.has_moved_on(covers)? => {}
                Looked::Missing => {
                    let detail = format!("it is missing, and object {seq} shares its data");
                    let what = cx.stream.describe(*holder);
                    cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
                }
            }
        }
    }
    Ok(there)
}
