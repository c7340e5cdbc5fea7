//! Values of settings as people write them.

use std::time::Duration;

use lsvd_volume::{Compression, HistoryRetention};

use crate::sizes::{parse_bytes, parse_duration, show_bytes, show_duration};

pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" | "" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

/// A section may take back with `none` what the file says for all.
pub(super) fn or_none<T>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if text == "none" { Ok(None) } else { parse(text).map(Some) }
}

pub(super) fn parse_some_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be more than 0, or none".to_owned()),
        time => Ok(time),
    }
}

/// `24h`, `10G`, both, or `none`.
pub(super) fn parse_retention(text: &str) -> Result<HistoryRetention, String> {
    let wrong =
        || format!("{text:?}: write how far back, as in 24h, how many bytes, as in 10G, or both");
    let mut retention = HistoryRetention::default();
    if text.trim() == "none" {
        return Ok(retention);
    }
    for part in text.split_whitespace() {
        if part.ends_with('m') {
            return Err(format!("{part:?} may be minutes or megabytes: write min or M"));
        }
        let is_second = match parse_some_duration(part) {
            Ok(age) if part.ends_with(char::is_alphabetic) => retention.age.replace(age).is_some(),
            _ => {
                let bytes = parse_bytes(part).ok().filter(|bytes| *bytes > 0).ok_or_else(wrong)?;
                retention.bytes.replace(bytes).is_some()
            }
        };
        if is_second {
            return Err(wrong());
        }
    }
    if retention.is_on() { Ok(retention) } else { Err(wrong()) }
}

pub(super) fn show_retention(retention: HistoryRetention) -> String {
    let parts = [retention.age.map(show_duration), retention.bytes.map(show_bytes)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(" ") }
}

/// `80%`, or `80`.
pub(crate) fn parse_percent(text: &str) -> Result<u64, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let percent = digits.parse().ok().filter(|percent| *percent <= 100);
    percent.ok_or_else(|| format!("{text:?} is not a percentage from 0% to 100%"))
}

/// Whether a flush waits for the store.
pub(crate) fn parse_sync(text: &str) -> Result<bool, String> {
    match text {
        "local" => Ok(false),
        "remote" => Ok(true),
        other => Err(format!("{other:?} is neither local nor remote")),
    }
}

pub(super) fn parse_compression(text: &str) -> Result<Compression, String> {
    match text {
        "lz4" => Ok(Compression::Lz4),
        "zstd" => Ok(Compression::Zstd),
        "none" => Ok(Compression::None),
        other => Err(format!("{other:?} is not a compression: lz4, zstd or none")),
    }
}

pub(super) fn show_compression(kind: Compression) -> &'static str {
    match kind {
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        Compression::None => "none",
    }
}

pub(super) fn parse_count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is not a number above 0"))
}

pub(super) fn parse_batch_size(text: &str) -> Result<u64, String> {
    let bytes = at_least(parse_bytes(text)?, 64 << 10)?;
    // An object is one PUT, and the smallest of the stores' limits leaves room to spare here.
    if bytes > 64 << 20 {
        Err(format!("{text:?} is more than the largest object, 64M"))
    } else {
        Ok(bytes)
    }
}

pub(super) fn at_least(bytes: u64, least: u64) -> Result<u64, String> {
    if bytes < least {
        Err(format!("{} is too small; at least {}", show_bytes(bytes), show_bytes(least)))
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        assert!(parse_batch_size("65M").is_err());
        assert_eq!(parse_batch_size("8M"), Ok(8 << 20));
        assert!(parse_compression("gzip").unwrap_err().contains("zstd"));
        assert!(parse_count("0").is_err());
        assert_eq!(parse_bool("yes"), Ok(true));
        assert!(parse_bool("perhaps").is_err());
    }
}
