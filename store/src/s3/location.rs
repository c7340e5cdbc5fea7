//! Which bucket, and where in it: `s3://bucket/prefix`.

use crate::Key;

/// A checked bucket and prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The bucket's name.
    pub(super) bucket: String,
    /// What stands before every key: empty, or ends with a slash.
    pub(super) prefix: String,
}

impl Location {
    /// Reads what follows `s3://`. The prefix is taken as it stands: no percent-decoding.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(rest: &str) -> Result<Self, String> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket(bucket)?;
        let prefix = prefix.trim_end_matches('/');
        if prefix.contains('?') {
            return Err("options do not go into the URL; the endpoint, the region and so on are \
                        settings of their own"
                .to_owned());
        }
        if prefix.is_empty() {
            return Ok(Self { bucket: bucket.to_owned(), prefix: String::new() });
        }
        Key::new(prefix).map_err(|_| {
            format!(
                "the prefix {prefix:?} must be names between single slashes, none of them . or .."
            )
        })?;
        Ok(Self { bucket: bucket.to_owned(), prefix: format!("{prefix}/") })
    }

    /// The store's URL in its one spelling.
    pub(super) fn url(&self) -> String {
        match self.prefix.trim_end_matches('/') {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    /// The object's name in the bucket.
    pub(super) fn object(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// The rules that all S3 services share, so that a typing error is found before the first request.
fn check_bucket(bucket: &str) -> Result<(), String> {
    if bucket.is_empty() {
        return Err("there is no bucket; write s3://bucket/prefix".to_owned());
    }
    let fits = (3..=63).contains(&bucket.len());
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let known = bucket.bytes().all(|c| is_plain(c) || c == b'-' || c == b'.');
    let ends = [bucket.bytes().next(), bucket.bytes().last()];
    let ends_plain = ends.into_iter().flatten().all(is_plain);
    if fits && known && ends_plain && !bucket.contains("..") {
        return Ok(());
    }
    Err(format!(
        "{bucket:?} is no bucket name: 3 to 63 lower-case letters, digits, dots and hyphens, the \
         first and the last a letter or a digit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each_place() {
        for (text, url, object) in [
            ("my-bucket", "s3://my-bucket", "a/b"),
            ("my-bucket/", "s3://my-bucket", "a/b"),
            ("my-bucket/vols", "s3://my-bucket/vols", "vols/a/b"),
            ("my.bucket/vols/x y//", "s3://my.bucket/vols/x y", "vols/x y/a/b"),
        ] {
            let location = Location::parse(text).unwrap();
            assert_eq!(location.url(), url);
            assert_eq!(location.object(&Key::new("a/b").unwrap()), object);
        }
    }

    #[test]
    fn what_is_no_place_says_why() {
        for (text, needle) in [
            ("", "no bucket"),
            ("/prefix", "no bucket"),
            ("ab", "3 to 63"),
            ("My-bucket", "lower-case"),
            ("-bucket", "a letter or a digit"),
            ("bu..cket", "is no bucket name"),
            ("user@bucket", "is no bucket name"),
            ("bucket:9000/x", "is no bucket name"),
            ("bucket//x", "single slashes"),
            ("bucket/../x", "single slashes"),
            ("bucket/x?region=y", "settings of their own"),
        ] {
            let reason = Location::parse(text).unwrap_err();
            assert!(reason.contains(needle), "{text}: {reason}");
        }
    }
}
