//! `snapshot-schedule`: which snapshots the daemon takes by the clock, and how many of each it keeps.
//!
//! ```text
//!   hourly=24 daily=7 ── Schedule ─┐
//!   names, time, written? ─────────┴─ plan ── what to make, what to delete ── keeper
//! ```
//! What there is to know of a scheduled snapshot is its name: `hourly-2026-11-21T22-00Z` is the hourly one
//! of that minute, in UTC. Only what has exactly such a name is ever deleted.

pub(crate) mod keeper;
mod plan;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// The most of one period that are kept: all of them are in the superblock.
const COUNT_MAX: usize = 1000;

/// The time in the name of a snapshot.
const TIME_FORMAT: &str = "%Y-%m-%dT%H-%MZ";

/// How often a snapshot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Period {
    /// A quarter of an hour.
    Frequent,
    Hourly,
    Daily,
    /// From Monday on.
    Weekly,
    Monthly,
}

impl Period {
    const ALL: [Self; 5] = [Self::Frequent, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly];

    fn name(self) -> &'static str {
        match self {
            Self::Frequent => "frequent",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.name() == name)
    }

    /// When the period began in which `now` lies.
    fn begin(self, now: Timestamp) -> Timestamp {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        // 1970 began on a Thursday.
        const MONDAY: i64 = 4 * DAY;
        let seconds = now.as_second();
        let into = match self {
            Self::Frequent => seconds.rem_euclid(HOUR / 4),
            Self::Hourly => seconds.rem_euclid(HOUR),
            Self::Daily => seconds.rem_euclid(DAY),
            Self::Weekly => (seconds - MONDAY).rem_euclid(7 * DAY),
            Self::Monthly => {
                let days = i64::from(Offset::UTC.to_datetime(now).day()) - 1;
                days * DAY + seconds.rem_euclid(DAY)
            }
        };
        // Only the year -9999 has no time before it.
        Timestamp::from_second(seconds - into).unwrap_or(now)
    }
}

/// How many snapshots of each period are kept; none of those that are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule(BTreeMap<Period, usize>);

impl Schedule {
    /// Reads `hourly=24 daily=7`, or `none`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == "none" {
            return Ok(Self::default());
        }
        let wrong = || {
            format!(
                "{text:?}: write none, or PERIOD=COUNT for some of frequent, hourly, daily, weekly and \
                 monthly, as in \"hourly=24 daily=7\"; counts are 1 to {COUNT_MAX}"
            )
        };
        let mut counts = BTreeMap::new();
        for part in text.split_whitespace() {
            let (period, count) = part.split_once('=').ok_or_else(wrong)?;
            let period = Period::of_name(period).ok_or_else(wrong)?;
            let count = count.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count));
            if counts.insert(period, count.ok_or_else(wrong)?).is_some() {
                return Err(format!("{text:?} says twice how many {} ones to keep", period.name()));
            }
        }
        if counts.is_empty() { Err(wrong()) } else { Ok(Self(counts)) }
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let parts = self.0.iter().map(|(period, count)| format!("{}={count}", period.name()));
        f.write_str(&parts.collect::<Vec<_>>().join(" "))
    }
}

/// The schedule of each volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedules {
    /// Of volumes that have none of their own.
    pub(crate) of_all: Schedule,
    /// By the volume's name.
    pub(crate) own: BTreeMap<String, Schedule>,
}

impl Schedules {
    fn of(&self, volume: &str) -> &Schedule {
        self.own.get(volume).unwrap_or(&self.of_all)
    }

    fn is_empty(&self) -> bool {
        self.of_all.is_empty() && self.own.values().all(Schedule::is_empty)
    }
}

/// The name of the snapshot of `period` that is taken at `now`.
fn name_of(period: Period, now: Timestamp) -> String {
    format!("{}-{}", period.name(), now.strftime(TIME_FORMAT))
}

/// What [`name_of`] made `name` of, to the minute; `None` if it did not.
fn read_name(name: &str) -> Option<(Period, Timestamp)> {
    let (period, time) = name.split_once('-')?;
    let period = Period::of_name(period)?;
    let time = DateTime::strptime(TIME_FORMAT, time).ok()?;
    let at = Offset::UTC.to_timestamp(time).ok()?;
    (name_of(period, at) == name).then_some((period, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn schedules_are_read_and_shown() {
        for text in ["hourly=24 daily=7", "frequent=1 monthly=1000", "none"] {
            assert_eq!(Schedule::parse(text).unwrap().to_string(), text);
        }
        let shown = Schedule::parse("  weekly=4\thourly=2 ").unwrap().to_string();
        assert_eq!(shown, "hourly=2 weekly=4");
    }

    #[test]
    fn wrong_schedules_say_what_is_allowed() {
        for text in ["", "yearly=1", "daily", "daily=0", "daily=1001", "daily=x", "none daily=1"] {
            let error = Schedule::parse(text).unwrap_err();
            let all = Period::ALL.map(Period::name);
            assert!(all.iter().all(|name| error.contains(name)), "{error}");
            assert!(error.contains("1 to 1000") && !error.contains('\n'), "{error}");
        }
        assert!(Schedule::parse("daily=1 daily=2").unwrap_err().contains("twice"));
    }

    #[test]
    fn a_period_begins_in_utc() {
        // A Saturday.
        let now = time("2026-11-21T22:47:12.5Z");
        for (period, begin) in [
            (Period::Frequent, "2026-11-21T22:45:00Z"),
            (Period::Hourly, "2026-11-21T22:00:00Z"),
            (Period::Daily, "2026-11-21T00:00:00Z"),
            (Period::Weekly, "2026-11-16T00:00:00Z"),
            (Period::Monthly, "2026-11-01T00:00:00Z"),
        ] {
            assert_eq!(period.begin(now), time(begin), "{period:?}");
            assert_eq!(period.begin(time(begin)), time(begin), "{period:?}");
        }
        let before = time("1969-12-31T23:59:59Z");
        assert_eq!(Period::Weekly.begin(before), time("1969-12-29T00:00:00Z"));
        assert_eq!(Period::Monthly.begin(before), time("1969-12-01T00:00:00Z"));
    }

    #[test]
    fn only_names_of_its_own_making_are_read() {
        let now = time("2026-11-21T22:00:59Z");
        let name = name_of(Period::Hourly, now);
        assert_eq!(name, "hourly-2026-11-21T22-00Z");
        assert_eq!(read_name(&name), Some((Period::Hourly, time("2026-11-21T22:00:00Z"))));
        for other in [
            "monday",
            "hourly",
            "hourly-",
            "hourly-monday",
            "hourly-2026-11-21T22-00",
            "hourly-2026-11-21T22-00Z ",
            "hourly-2026-11-21T22-00Z-2",
            "hourly-2026-11-21T22:00Z",
            "hourly-2026-11-21T2-0Z",
            "hourly-2026-02-30T22-00Z",
            "Hourly-2026-11-21T22-00Z",
            "yearly-2026-11-21T22-00Z",
            "my-hourly-2026-11-21T22-00Z",
        ] {
            assert_eq!(read_name(other), None, "{other}");
        }
    }
}
