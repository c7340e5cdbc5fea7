//! Headers of many objects at once, of which some may be missing or damaged.

use lsvd_store::parallel;

use crate::error::{Error, Result};
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// Headers that are looked at together. Each may be long, so these are few.
pub(crate) const AT_ONCE: usize = 32;

/// What came of looking for something.
#[derive(Debug)]
pub(crate) enum Looked<T> {
    /// It is there.
    Found(T),
    /// It is not.
    Missing,
    /// It is there, and not what was written.
    Damaged(Error),
}

impl<T> Looked<T> {
    /// Sorts an answer; what says nothing about the object is passed on.
    pub(crate) fn of(answer: Result<Option<T>>) -> Result<Self> {
        match answer {
            Ok(Some(found)) => Ok(Self::Found(found)),
            Ok(None) => Ok(Self::Missing),
            Err(error @ (Error::Damaged { .. } | Error::NewerFormat { .. })) => {
                Ok(Self::Damaged(error))
            }
            Err(error) => Err(error),
        }
    }
}

/// Looks at objects, many at a time; `look` takes what it wants of each, so that little is kept.
pub(crate) fn survey<T: Send>(
    stream: &Stream,
    seqs: &[ObjectSeq],
    look: impl Fn(&Stream, ObjectSeq) -> Result<Option<T>> + Sync,
) -> Result<Vec<Looked<T>>> {
    parallel::map(seqs, |seq| Looked::of(look(stream, *seq)))
}
