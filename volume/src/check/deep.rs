//! Reading whole data objects: every frame's checksum, and that it decompresses.

use lsvd_store::{ByteRange, parallel};

use super::judge::Verdict;
use super::report::{Finding, Severity};
use super::survey::Looked;
use super::volume::{ADVICE_RESTORE, Context};
use crate::error::{Error, Result};
use crate::format::{DataHeader, ObjectHeader, decompress_frame};
use crate::units::ObjectSeq;

/// Objects that are begun together; a quarter of them is read at the same time.
const AT_ONCE: usize = 16;

/// Bytes of frames that are read with one request; a single frame may be longer.
const READ_BYTES: u64 = 1 << 20;

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

/// Reads all of `objects`.
pub(crate) fn check_frames(cx: &Context<'_>, objects: &[ObjectSeq]) -> Result<Read> {
    cx.desk.begin("reading objects", objects.len() as u64)?;
    let mut sum = Read::default();
    // A limited rate is kept by one after the other as well.
    for some in objects.chunks(AT_ONCE) {
        for read in parallel::map(some, |object| read_object(cx, *object))? {
            sum.frames += read.frames;
            sum.bytes += read.bytes;
        }
    }
    Ok(sum)
}

fn read_object(cx: &Context<'_>, object: ObjectSeq) -> Result<Read> {
    let mut sum = Read::default();
    match Looked::of(cx.stream.header(object))? {
        Looked::Found(ObjectHeader::Data(data)) => {
            let mut first = 0;
            while let Some((last, range)) = next_run(&data, first) {
                let frames = first..=last;
                sum.frames += frames.clone().count() as u64;
                sum.bytes += range.len();
                check_run(cx, object, &data, frames, range)?;
                first = last + 1;
            }
        }
        Looked::Found(_) => {}
        Looked::Missing => {
            if cx.judge.verdict(object)? == Verdict::Lost {
                let error = Error::damaged(cx.stream.describe(object), "it is missing");
                cx.desk.damaged(&error, ADVICE_RESTORE);
            }
        }
        Looked::Damaged(error) => cx.desk.damaged(&error, ADVICE_RESTORE),
    }
    cx.desk.done(1)?;
    Ok(sum)
}

/// The frames from `first` on that are read together: the last one, and where they lie.
fn next_run(data: &DataHeader, first: usize) -> Option<(usize, ByteRange)> {
    let start = data.frame_range(first)?;
    let (mut last, mut end) = (first, start.end());
    for frame in data.frames().get(first.checked_add(1)?..)? {
        let longer = end.checked_add(frame.stored_len.into())?;
        if longer - start.start() > READ_BYTES {
            break;
        }
        (last, end) = (last + 1, longer);
    }
    Some((last, ByteRange::new(start.start(), end - start.start())?))
}

fn check_run(
    cx: &Context<'_>,
    object: ObjectSeq,
    data: &DataHeader,
    frames: std::ops::RangeInclusive<usize>,
    range: ByteRange,
) -> Result<()> {
    cx.desk.may_read(range.len())?;
    let bytes = match Looked::of(cx.stream.read(object, range).map(Some))? {
        Looked::Found(bytes) => bytes,
        Looked::Missing => return Ok(()),
        Looked::Damaged(error) => {
            // Also what is collected while it is read.
            if cx.judge.verdict(object)? != Verdict::Collected {
                cx.desk.damaged(&error, ADVICE_RESTORE);
            }
            return Ok(());
        }
    };
    let (mut rest, mut plain) = (bytes.as_slice(), Vec::new());
    for index in frames {
        let Some(frame) = data.frames().get(index) else { break };
        let len = data.frame_logical_len(index).unwrap_or(0);
        let (stored, behind) = rest.split_at_checked(frame.stored_len as usize).unwrap_or_default();
        rest = behind;
        plain.clear();
        let sound = frame
            .verify(stored)
            .and_then(|()| decompress_frame(frame.codec, stored, len as usize, &mut plain));
        if let Err(why) = sound {
            let what = format!("{}, frame {index}", cx.stream.describe(object));
            let detail = format!("{why}; {len} bytes of data are in it");
            cx.desk.found(Finding::new(Severity::Damage, what, detail, ADVICE_RESTORE));
        }
    }
    Ok(())
}
