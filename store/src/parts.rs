//! The body of an object that is given in parts.

use std::borrow::Cow;
use std::io::IoSlice;

/// The parts one after the other, for backends that want one piece. A single part is not copied.
pub(crate) fn joined<'a>(parts: &'a [IoSlice<'_>]) -> Cow<'a, [u8]> {
    if let [part] = parts {
        return Cow::Borrowed(part);
    }
    let mut body = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        body.extend_from_slice(part);
    }
    Cow::Owned(body)
}
