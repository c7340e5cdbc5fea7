//! Moments of a volume's history as people write them: `#4711` or `{2026-11-20T12:00:00Z}`.

use jiff::Timestamp;

use crate::control::protocol::Point;

/// The moment that `text` names; `None` if it is a snapshot's name.
///
/// # Errors
/// It begins like a moment and is none.
pub(crate) fn parse_moment(text: &str) -> Result<Option<Point>, String> {
    if let Some(number) = text.strip_prefix('#') {
        let parsed = number.parse::<u64>().map(Point::Object);
        return parsed
            .map(Some)
            .map_err(|_| format!("{text:?}: # stands before an object's number"));
    }
    let Some(time) = text.strip_prefix('{') else { return Ok(None) };
    let parsed = time.strip_suffix('}').and_then(unix_millis).map(Point::Time);
    parsed
        .map(Some)
        .ok_or_else(|| format!("{text:?}: write a time as {{2026-11-20T12:00:00Z}}, in UTC"))
}

/// Milliseconds since 1970 of a time with its zone.
fn unix_millis(text: &str) -> Option<u64> {
    let time = text.parse::<Timestamp>().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

/// `YYYY-MM-DD HH:MM:SS` in UTC of milliseconds since 1970.
pub(crate) fn show_time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696_000),
            ("2026-11-20T12:00:00Z", 1_795_176_000_000),
        ] {
            assert_eq!(unix_millis(text), Some(ms), "{text}");
            assert_eq!(format!("{}Z", show_time(ms).replace(' ', "T")), text);
        }
    }

    #[test]
    fn moments_and_names_are_told_apart() {
        assert_eq!(parse_moment("monday"), Ok(None));
        assert_eq!(parse_moment("#17"), Ok(Some(Point::Object(17))));
        assert_eq!(parse_moment("{1970-01-01T00:00:01Z}"), Ok(Some(Point::Time(1000))));
        for wrong in [
            "#",
            "#x",
            "{}",
            "{monday}",
            "{2026-02-31T00:00:00Z}",
            "{2026-11-20T12:00:00}",
            "{2026-11-20T12:00:00Z",
        ] {
            parse_moment(wrong).expect_err(wrong);
        }
    }
}
