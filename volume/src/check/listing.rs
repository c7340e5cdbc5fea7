//! The stream as a listing shows it: numbers and sizes, in order.

use uuid::Uuid;

use crate::error::Result;
use crate::keys;
use crate::stream::Stream;
use crate::units::ObjectSeq;

/// Names asked for with one request.
const PAGE: usize = 1000;

/// All objects of a stream, 16 bytes each; those of a clone's bases as far as they are the clone's too.
///
/// It is no snapshot: what is written or deleted meanwhile may be in it or not.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    objects: Vec<(ObjectSeq, u64)>,
    /// Keys below the stream's prefix that are no number.
    pub(crate) foreign: Vec<String>,
}

impl Listing {
    /// Lists the stream; `progress` hears how many objects a page had.
    pub(crate) fn read(
        stream: &Stream,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let mut listing = Self::default();
        for base in stream.bases().iter().filter(|base| !base.is_cut()) {
            listing.take_in(stream, base.volume, &mut progress)?;
        }
        listing.foreign.clear();
        listing.take_in(stream, stream.volume(), &mut progress)?;
        listing.objects.sort_unstable();
        Ok(listing)
    }

    /// Lists what `volume` has of the stream's numbers.
    fn take_in(
        &mut self,
        stream: &Stream,
        volume: Uuid,
        progress: &mut impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let prefix = keys::stream_prefix(volume);
        let mut after = None;
        loop {
            let page = stream.store().list(&prefix, after.as_ref(), PAGE)?;
            for object in &page.objects {
                match keys::parse_object(volume, &object.key) {
                    Some(seq) if stream.owner(seq) != volume => {}
                    Some(seq) => self.objects.push((seq, object.size)),
                    None => self.foreign.push(object.key.to_string()),
                }
            }
            progress(page.objects.len())?;
            after = page.objects.last().map(|object| object.key.clone());
            if !page.truncated || after.is_none() {
                return Ok(());
            }
        }
    }

    /// The size of an object, if it is there.
    pub(crate) fn size_of(&self, seq: ObjectSeq) -> Option<u64> {
        let at = self.objects.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        self.objects.get(at).map(|(_, size)| *size)
    }

    /// The objects with numbers up to `covers`.
    pub(crate) fn up_to(&self, covers: ObjectSeq) -> &[(ObjectSeq, u64)] {
        let (before, _) = self.objects.split_at(self.first_after(covers));
        before
    }

    /// The objects with numbers above `covers`.
    pub(crate) fn after(&self, covers: ObjectSeq) -> &[(ObjectSeq, u64)] {
        let (_, after) = self.objects.split_at(self.first_after(covers));
        after
    }

    fn first_after(&self, covers: ObjectSeq) -> usize {
        self.objects.partition_point(|(seq, _)| *seq <= covers)
    }
}
