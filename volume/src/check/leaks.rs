//! Objects that nobody knows: uploads that arrived after their number was collected, and deletes
//! that were lost.
//!
//! **Why they may be deleted.** An object with a number up to `covers` of a published checkpoint is in
//! that checkpoint's table, or was deleted, or is a fence or filler. No later table takes a number up
//! to `covers` in again, and no roll-forward begins before it. So what the table does not know then,
//! nobody will ever point at. That holds whatever a writer does meanwhile: what it creates has higher
//! numbers. What is listed is compared with the newest checkpoint once more before it goes.

use std::collections::HashSet;

use super::judge::Judge;
use super::listing::Listing;
use super::report::{Finding, Severity};
use super::survey::{AT_ONCE, Looked, survey};
use super::volume::Context;
use crate::error::Result;
use crate::format::{CheckpointHeader, ObjectKind};
use crate::units::ObjectSeq;

/// Objects that are deleted together.
const DELETE_AT_ONCE: usize = 1000;

/// Looks for what none of `roots` knows; deletes it if `repair` is wanted. The listing was read after
/// the first root was published.
pub(crate) fn check_leaks(
    cx: &Context<'_>,
    roots: &[&CheckpointHeader],
    listing: &Listing,
    repair: bool,
) -> Result<()> {
    let Some(covers) = roots.first().map(|root| root.covers) else { return Ok(()) };
    let mut known: HashSet<ObjectSeq> = HashSet::new();
    for root in roots {
        known.extend(root.objects.iter().map(|object| object.seq));
        known.extend(root.fences.iter().map(|fence| fence.id.seq));
    }
    // What a base has is its own affair.
    let own = listing.up_to(covers).iter().filter(|(seq, _)| *seq > cx.stream.base_through());
    let unknown = own.filter(|(seq, _)| !known.contains(seq));
    let unknown: Vec<_> = unknown.copied().collect();
    cx.desk.begin("looking at objects that nobody knows", unknown.len() as u64)?;
    let mut leaked = Vec::new();
    for some in unknown.chunks(AT_ONCE) {
        let seqs: Vec<_> = some.iter().map(|(seq, _)| *seq).collect();
        let looked = survey(cx.stream, &seqs, |stream, seq| stream.peek(seq))?;
        for ((seq, bytes), looked) in some.iter().zip(looked) {
            match looked {
                Looked::Found((common, _)) => match common.kind {
                    // They keep deposed writers out of their numbers, for ever.
                    ObjectKind::Fence | ObjectKind::Filler => {}
                    _ => leaked.push((*seq, *bytes)),
                },
                Looked::Missing => {}
                Looked::Damaged(error) => cx.desk.found(unreadable(cx, *seq, &error)),
            }
        }
        cx.desk.done(some.len() as u64)?;
    }
    for some in leaked.chunks(DELETE_AT_ONCE) {
        let gone = if repair { delete(cx, some)? } else { HashSet::new() };
        for (seq, bytes) in some {
            let finding = leak(cx, *seq, *bytes);
            cx.desk.found(if gone.contains(seq) { finding.mended() } else { finding });
        }
    }
    for key in &listing.foreign {
        let detail = "it is no object of a volume";
        let advice = "it is never touched; delete it by hand if nobody wants it";
        cx.desk.found(Finding::new(Severity::Note, key, detail, advice));
    }
    Ok(())
}

/// Deletes those of `leaked` that the newest checkpoint does not know either.
fn delete(cx: &Context<'_>, leaked: &[(ObjectSeq, u64)]) -> Result<HashSet<ObjectSeq>> {
    let mut useless = Vec::new();
    for (seq, _) in leaked {
        if !Judge::is_needed(cx.judge, *seq)? {
            useless.push(*seq);
        }
    }
    cx.stream.delete(&useless)?;
    Ok(useless.into_iter().collect())
}

fn leak(cx: &Context<'_>, seq: ObjectSeq, bytes: u64) -> Finding {
    let detail = format!("nobody knows of it; its {bytes} bytes are taken up for nothing");
    let advice = "`check --repair` deletes it";
    Finding::new(Severity::Leak, cx.stream.describe(seq), detail, advice).of_bytes(bytes)
}

fn unreadable(cx: &Context<'_>, seq: ObjectSeq, error: &crate::error::Error) -> Finding {
    let detail = format!("nobody needs it, and it cannot be read: {error}");
    let advice = "it may be one that keeps a deposed writer out of its number, so it stays";
    Finding::new(Severity::Note, cx.stream.describe(seq), detail, advice)
}
