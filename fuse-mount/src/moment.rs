//! Moments of a volume's history as people write them: `#4711` or `{2026-11-20T12:00:00Z}`.

use crate::control::protocol::Point;

/// Days before each month of a year that is no leap year.
const DAYS_BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

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

/// Milliseconds since 1970 of `YYYY-MM-DDTHH:MM:SSZ`.
fn unix_millis(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let leap_days = (1970..year).filter(|year| is_leap(*year)).count() as u64;
    let leap_day = u64::from(month > 2 && is_leap(year));
    let before = DAYS_BEFORE.get(month as usize - 1)?;
    let days = (year - 1970) * 365 + leap_days + before + leap_day + day - 1;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(between);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        let sound = part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        *number = sound.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

/// `YYYY-MM-DD HH:MM:SS` in UTC of milliseconds since 1970.
pub(crate) fn show_time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of the year 0, so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
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
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
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
        for wrong in
            ["#", "#x", "{}", "{monday}", "{2026-13-01T00:00:00Z}", "{2026-11-20T12:00:00Z"]
        {
            parse_moment(wrong).expect_err(wrong);
        }
    }
}
