//! Sizes and durations as people write them: `10G`, `512MiB`, `4096`, `2s`, `500ms`.
//!
//! Units are powers of 1024 whether or not the `i` is written. Everything is checked here, so
//! that a wrong size is refused in words before anything is opened.

use std::time::Duration;

/// The multiple that a volume's size must be of.
pub(crate) const BLOCK_BYTES: u64 = lsvd_volume::BLOCK_BYTES;

/// One past the largest volume.
const VOLUME_BYTES_MAX: u64 = lsvd_volume::SIZE_MAX;

/// Reads a number of bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        "e" | "eb" | "eib" => 60,
        _ => {
            return Err(format!(
                "{text:?} is not a size: write a number and K, M, G, T, P or E, as in 10G"
            ));
        }
    };
    if number.is_empty() {
        return Err(format!(
            "{text:?} is not a size: write a number and K, M, G, T, P or E, as in 10G"
        ));
    }
    let bytes = match number.split_once('.') {
        None => number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)),
        Some((whole, part)) => fraction(whole, part, shift),
    };
    bytes.ok_or_else(|| format!("{text:?} is too large or not a number (the limit is 8E)"))
}

/// `whole.part` units of `1 << shift` bytes, rounded down to a byte.
fn fraction(whole: &str, part: &str, shift: u32) -> Option<u64> {
    if part.is_empty() || part.len() > 9 || part.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let scale = 10u128.pow(part.len() as u32);
    let part: u64 = part.parse().ok()?;
    let bytes = (u128::from(whole) * scale + u128::from(part)).checked_mul(1 << shift)? / scale;
    u64::try_from(bytes).ok()
}

/// Reads the size of a volume: above 0, a multiple of 4096, at most 2^63 - 4096.
pub(crate) fn parse_volume_size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    if bytes == 0 {
        return Err(format!("size {text:?}: a volume cannot be empty; give at least 4096 bytes"));
    }
    if bytes > VOLUME_BYTES_MAX {
        return Err(format!("size {text:?}: too large; a volume is smaller than 2^63 bytes (8E)"));
    }
    if !bytes.is_multiple_of(BLOCK_BYTES) {
        let up = bytes.next_multiple_of(BLOCK_BYTES);
        return Err(format!("size {text:?}: not a multiple of 4096 bytes; the next one is {up}"));
    }
    Ok(bytes)
}

/// Reads a duration: `2s`, `500ms`, `1m`, `24h`, `7d`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a duration: write 500ms, 2s, 1m, 24h or 7d");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit.trim() {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" | "min" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

/// Writes a number of bytes for people: `10 GiB`, `1.5 MiB`, `512 B`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = if bytes == 0 { 0 } else { (bytes.ilog2() / 10) as usize };
    let scale = 1u64 << (10 * step);
    let unit = UNITS.get(step).copied().unwrap_or("B");
    if bytes.is_multiple_of(scale) {
        format!("{} {unit}", bytes / scale)
    } else {
        format!("{:.1} {unit}", bytes as f64 / scale as f64)
    }
}

/// Writes a duration so that [`parse_duration`] reads it back.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("1.5M", 3 << 19),
            ("10G", 10 << 30),
            ("10 GiB", 10 << 30),
            ("2T", 2 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "10X", "-1", "1.2.3G", "99999999999G", "16E", "1,5G", "1."] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn volume_sizes_are_checked() {
        assert_eq!(parse_volume_size("10G"), Ok(10 << 30));
        assert!(parse_volume_size("0").unwrap_err().contains("empty"));
        assert!(parse_volume_size("1000").unwrap_err().contains("4096"));
        assert!(parse_volume_size("8E").unwrap_err().contains("2^63"));
        assert!(parse_volume_size("9223372036854771712").is_ok());
    }

    #[test]
    fn durations_round_trip() {
        for text in ["2s", "500ms", "1m", "3", "1h", "0s"] {
            let read = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&show_duration(read)), Ok(read));
        }
        for text in ["", "s", "1.5s", "2 weeks", "-1s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(4096), "4 KiB");
        assert_eq!(show_bytes(3 << 19), "1.5 MiB");
        assert_eq!(show_bytes(u64::MAX), "16.0 EiB");
    }
}
