//! The body of an answer, and which part of the object it is.

use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::failure::{Failure, chain};
use crate::ByteRange;

/// Largest range that is asked for, in bytes; S3 knows no larger objects, and some servers read
/// larger numbers as garbage.
const RANGE_END_MAX: u64 = 1 << 50;

/// Largest body that is taken in, in bytes. No object of ours comes near it.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Which bytes a ranged answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    first: u64,
    last: u64,
    /// The object's size, if the server told it.
    pub(super) size: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes 0-99/100` or `bytes 0-99/*`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let size = if size == "*" { None } else { Some(size.parse().ok()?) };
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let sound = first <= last && size.is_none_or(|size| last < size);
        sound.then_some(Self { first, last, size })
    }

    /// Whether it is what was asked for.
    fn is(&self, range: ByteRange) -> bool {
        self.first == range.start() && self.last.checked_add(1) == Some(range.end())
    }
}

/// The header that asks for `range`, which is not empty.
pub(super) fn range_header(range: ByteRange) -> String {
    format!("bytes={}-{}", range.start(), range.end().min(RANGE_END_MAX) - 1)
}

/// What the answer to a ranged read is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ranged {
    /// Exactly the bytes asked for.
    Exact(Vec<u8>),
    /// The object, of the size given if it is known, ends before the range does.
    PastEnd(Option<u64>),
}

/// Reads the answer to a request for `range`.
///
/// # Errors
/// The body breaks off, or it is something else than what was asked for.
pub(super) async fn read_range(
    answer: GetObjectOutput,
    range: ByteRange,
) -> Result<Ranged, Failure> {
    match answer.content_range.as_deref().map(ContentRange::parse) {
        Some(Some(told)) if told.is(range) => {
            let body = read_whole(answer, Some(range.len())).await?;
            Ok(Ranged::Exact(body))
        }
        // Cut short because the object ends, and not by a proxy that sends parts as it likes.
        Some(Some(told))
            if told.first == range.start()
                && told.last < range.end()
                && told.size.is_none_or(|size| size < range.end()) =>
        {
            Ok(Ranged::PastEnd(told.size))
        }
        // A server may answer with the whole object, as long as that is the range.
        None if range.start() == 0 && length(&answer)? == Some(range.len()) => {
            let body = read_whole(answer, Some(range.len())).await?;
            Ok(Ranged::Exact(body))
        }
        None if range.start() == 0 && length(&answer)?.is_some_and(|len| len < range.len()) => {
            Ok(Ranged::PastEnd(length(&answer)?))
        }
        _ => Err(something_else(&answer, range)),
    }
}

fn something_else(answer: &GetObjectOutput, range: ByteRange) -> Failure {
    Failure::Wrong(format!(
        "asked for the bytes {}..{}, the server sends something else ({}); it or a proxy on the \
         way does not know ranges",
        range.start(),
        range.end(),
        answer.content_range.as_deref().unwrap_or("the whole object")
    ))
}

/// Reads the answer to a request for the first bytes of an object, `range`, or all of a shorter
/// one; also tells the object's size if the answer does.
///
/// # Errors
/// The body breaks off, or it is something else than what was asked for.
pub(super) async fn read_front(
    answer: GetObjectOutput,
    range: ByteRange,
) -> Result<(Vec<u8>, Option<u64>), Failure> {
    let (len, size) = match answer.content_range.as_deref().map(ContentRange::parse) {
        Some(Some(told)) if told.first == 0 && told.last < range.end() => {
            let len = told.last + 1;
            (len, told.size.or((len < range.end()).then_some(len)))
        }
        // A server may answer with the whole object, as long as that is no more than asked for.
        None => {
            let len = length(&answer)?.filter(|len| *len <= range.end());
            (len.ok_or_else(|| something_else(&answer, range))?, len)
        }
        _ => return Err(something_else(&answer, range)),
    };
    if size.is_some_and(|size| len != size.min(range.end())) {
        return Err(something_else(&answer, range));
    }
    Ok((read_whole(answer, Some(len)).await?, size))
}

/// Reads a body, which must have `expected` bytes, or as many as the answer says.
///
/// # Errors
/// The body breaks off, goes on for too long, or is larger than any that is taken in.
pub(super) async fn read_whole(
    mut answer: GetObjectOutput,
    expected: Option<u64>,
) -> Result<Vec<u8>, Failure> {
    let told = length(&answer)?;
    let len = match (expected, told) {
        (Some(expected), Some(told)) if expected != told => {
            return Err(Failure::NoAnswer(format!(
                "expected a body of {expected} bytes, the server announces {told}"
            )));
        }
        (expected, told) => expected.or(told),
    };
    let limit = len.unwrap_or(BODY_BYTES_MAX);
    if limit > BODY_BYTES_MAX {
        return Err(Failure::Wrong(format!(
            "a body of {limit} bytes is more than the {BODY_BYTES_MAX} that are taken in"
        )));
    }
    let mut body = Vec::new();
    // Asked for politely: an answer may claim much and send nothing.
    let room = len.unwrap_or(0);
    body.try_reserve_exact(room as usize)
        .map_err(|_| Failure::Wrong(format!("no memory for a body of {room} bytes")))?;
    while let Some(chunk) = answer.body.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::NoAnswer(format!("the body broke off at {}: {}", body.len(), chain(&error)))
        })?;
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(Failure::NoAnswer(format!("the body is longer than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    match len {
        Some(len) if len != body.len() as u64 => Err(Failure::NoAnswer(format!(
            "the body broke off after {} of {len} bytes",
            body.len()
        ))),
        _ => Ok(body),
    }
}

fn length(answer: &GetObjectOutput) -> Result<Option<u64>, Failure> {
    size_of(answer.content_length)
}

/// A size as the SDK tells it.
///
/// # Errors
/// It is negative.
pub(super) fn size_of(told: Option<i64>) -> Result<Option<u64>, Failure> {
    let size = told.map(u64::try_from).transpose();
    size.map_err(|_| Failure::Wrong("the server tells a negative size".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_that_make_sense() {
        let range = ByteRange::new(5, 10).unwrap();
        let told = ContentRange::parse("bytes 5-14/100").unwrap();
        assert!(told.is(range) && told.size == Some(100));
        assert_eq!(ContentRange::parse("bytes 5-14/*").unwrap().size, None);
        assert!(!ContentRange::parse("bytes 5-13/14").unwrap().is(range));
        for bad in [
            "",
            "bytes",
            "bytes */100",
            "bytes 5-4/100",
            "bytes 5-100/100",
            "bytes 5-14/-1",
            "bytes 5-99999999999999999999999/*",
            "items 5-14/100",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
        let end = u64::MAX.to_string();
        assert!(!ContentRange::parse(&format!("bytes 5-{end}/*")).unwrap().is(range));
    }

    #[test]
    fn a_range_is_asked_for_with_its_last_byte() {
        assert_eq!(range_header(ByteRange::new(5, 10).unwrap()), "bytes=5-14");
        let huge = range_header(ByteRange::new(0, u64::MAX).unwrap());
        assert_eq!(huge, format!("bytes=0-{}", (1_u64 << 50) - 1));
    }
}
