//! The decision: which snapshots to make and which to delete.
//!
//! * One is due when its period has begun since the newest one of that period was taken; so after days
//!   off it is one, and not one for each day.
//! * It is made if something was written since the newest one of that period.
//! * Those that lie in the future, because the clock went back, count for nothing: they do not keep
//!   others from being made, take no place among those that are kept, and are not deleted.
//! * What is to be made is not counted: what it makes superfluous is found the next time, when it is
//!   known to be there.

use std::cmp::Reverse;

use anyhow::Result;
use jiff::Timestamp;
use lsvd_volume::KnownSnapshot;

use super::{Schedule, name_of, read_name};

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Names of snapshots to be made.
    pub(super) make: Vec<String>,
    /// Names of snapshots to be deleted.
    pub(super) delete: Vec<String>,
}

/// Decides for a volume with the snapshots `known`; `is_written` says whether anything was written since
/// one of them, or since the volume was made.
///
/// # Errors
/// That cannot be known.
pub(super) fn plan(
    schedule: &Schedule,
    now: Timestamp,
    known: &[KnownSnapshot],
    is_written: impl Fn(Option<&str>) -> Result<bool>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    for (period, count) in &schedule.0 {
        let mut past: Vec<(Timestamp, &KnownSnapshot)> = known
            .iter()
            .filter_map(|snapshot| match read_name(&snapshot.name)? {
                (of, at) if of == *period && at <= now => Some((at, snapshot)),
                _ => None,
            })
            .collect();
        past.sort_by_key(|(at, _)| Reverse(*at));
        let is_due = past.first().is_none_or(|(newest, _)| *newest < period.begin(now));
        if is_due && is_written(past.first().map(|(_, newest)| newest.name.as_str()))? {
            plan.make.push(name_of(*period, now));
        }
        let beyond = past.iter().skip(*count).filter(|(_, snapshot)| !snapshot.is_held);
        plan.delete.extend(beyond.map(|(_, snapshot)| snapshot.name.clone()));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text).unwrap()
    }

    fn known(names: &[&str]) -> Vec<KnownSnapshot> {
        let one = |name: &&str| KnownSnapshot { name: (*name).to_owned(), is_held: false };
        names.iter().map(one).collect()
    }

    fn decide(schedule: &Schedule, now: Timestamp, known: &[KnownSnapshot], written: bool) -> Plan {
        plan(schedule, now, known, |_| Ok(written)).unwrap()
    }

    fn both(make: &[&str], delete: &[&str]) -> Plan {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Plan { make: owned(make), delete: owned(delete) }
    }

    #[test]
    fn one_is_due_when_its_period_has_begun() {
        let hourly = schedule("hourly=24");
        let at = |now, names: &[&str]| decide(&hourly, time(now), &known(names), true);
        let made = ["hourly-2026-11-21T22-37Z"];
        assert_eq!(at("2026-11-21T22:37:10Z", &[]), both(&made, &[]), "the first one");
        assert_eq!(at("2026-11-21T22:37:15Z", &made), Plan::default());
        assert_eq!(at("2026-11-21T22:59:59Z", &made), Plan::default());
        assert_eq!(at("2026-11-21T23:00:00Z", &made), both(&["hourly-2026-11-21T23-00Z"], &[]));
        // Of another period, or by hand.
        let others = ["daily-2026-11-21T23-00Z", "hourly", "monday"];
        assert_eq!(at("2026-11-21T23:00:01Z", &others).make, ["hourly-2026-11-21T23-00Z"]);
    }

    #[test]
    fn days_off_are_made_up_for_by_one() {
        let names = ["hourly-2026-11-18T10-00Z", "hourly-2026-11-18T11-00Z"];
        let now = time("2026-11-21T22:12:00Z");
        let made = ["hourly-2026-11-21T22-12Z"];
        assert_eq!(decide(&schedule("hourly=24"), now, &known(&names), true), both(&made, &[]));
    }

    #[test]
    fn several_periods_make_one_each() {
        let now = time("2026-12-01T00:00:02Z");
        let names = ["daily-2026-11-30T00-00Z", "hourly-2026-12-01T00-00Z"];
        let made = ["daily-2026-12-01T00-00Z", "monthly-2026-12-01T00-00Z"];
        let all = schedule("hourly=2 daily=2 monthly=2");
        assert_eq!(decide(&all, now, &known(&names), true), both(&made, &[]));
    }

    #[test]
    fn an_idle_volume_gets_none() {
        let now = time("2026-11-21T22:12:00Z");
        let both = schedule("hourly=1 daily=1");
        let names = ["daily-2026-11-18T09-00Z", "hourly-2026-11-18T10-00Z"];
        assert_eq!(decide(&both, now, &known(&names), false), Plan::default());
        // It was written to between the two.
        let is_written = |since: Option<&str>| Ok(since == Some(names[0]));
        let plan = plan(&both, now, &known(&names), is_written).unwrap();
        assert_eq!(plan.make, ["daily-2026-11-21T22-12Z"]);
    }

    #[test]
    fn the_oldest_beyond_the_count_go_unless_they_are_held() {
        let now = time("2026-11-21T22:12:00Z");
        let names = [
            "hourly-2026-11-21T20-00Z",
            "hourly-2026-11-21T22-00Z",
            "hourly-2026-11-21T19-00Z",
            "hourly-2026-11-21T21-00Z",
            "hourly-2026-11-21T18-00Z",
            "daily-2026-11-01T00-00Z",
            "monday",
        ];
        let mut known = known(&names);
        let hourly = schedule("hourly=2");
        let three = [names[0], names[2], names[4]];
        assert_eq!(decide(&hourly, now, &known, true), both(&[], &three));
        known[2].is_held = true;
        assert_eq!(decide(&hourly, now, &known, false), both(&[], &[names[0], names[4]]));
        assert_eq!(decide(&schedule("weekly=1"), now, &known, false), Plan::default());
    }

    #[test]
    fn a_clock_that_goes_back_neither_stops_nor_deletes_anything() {
        let names = [
            "hourly-2026-11-21T19-00Z",
            "hourly-2026-11-21T20-00Z",
            "hourly-2026-11-21T21-00Z",
            "hourly-2099-01-01T00-00Z",
        ];
        let hourly = schedule("hourly=2");
        let at = |now, names: &[&str]| decide(&hourly, time(now), &known(names), true);
        // Two hours back: those hours have theirs already.
        assert_eq!(at("2026-11-21T20:30:00Z", &names), Plan::default());
        assert_eq!(at("2026-11-21T21:00:00Z", &names), both(&[], &names[..1]));
        let made = ["hourly-2026-11-21T22-00Z"];
        assert_eq!(at("2026-11-21T22:00:00Z", &names).make, made);
        // Years back: what was made now is not what goes.
        let now = "2000-01-01T00:00:30Z";
        let made = at(now, &names).make;
        assert_eq!(made, ["hourly-2000-01-01T00-00Z"]);
        let after = [&names[..], &[made[0].as_str()]].concat();
        assert_eq!(at(now, &after), Plan::default());
    }

    #[test]
    fn what_is_made_fits_the_plan_at_every_moment_of_weeks() {
        let all = schedule("frequent=4 hourly=3 daily=2 weekly=2 monthly=1");
        let mut there: Vec<KnownSnapshot> = Vec::new();
        let begin = time("2026-11-21T22:47:12Z").as_second();
        for step in 0..10_000 {
            let now = Timestamp::from_second(begin + step * 397).unwrap();
            for name in decide(&all, now, &there, true).make {
                assert!(there.iter().all(|snapshot| snapshot.name != name), "{name} twice");
                there.push(KnownSnapshot { name, is_held: false });
            }
            let delete = decide(&all, now, &there, false).delete;
            there.retain(|snapshot| !delete.contains(&snapshot.name));
            assert!(there.len() <= 12, "{there:?}");
        }
        assert_eq!(there.len(), 12, "{there:?}");
    }
}
