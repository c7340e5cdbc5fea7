//! Which objects to clean: pure functions of what is known of them.

use crate::map::{ObjectTable, Usage};
use crate::units::ObjectSeq;

/// An object that is to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) object: ObjectSeq,
    pub(super) live_sectors: u64,
    pub(super) data_sectors: u64,
}

/// Share of the data of all objects that are needed to which the map still points, in percent;
/// 100 if there is no data.
pub(super) fn utilisation(objects: &ObjectTable) -> u64 {
    percent(objects.needed())
}

fn percent(usage: Usage) -> u64 {
    match usage.data_sectors {
        0 => 100,
        data => (u128::from(usage.live_sectors) * 100 / u128::from(data)) as u64,
    }
}

/// The best victims to raise the utilisation towards `target` percent, with at most `limit` live
/// sectors in all, but at least one; empty once it is there. Objects that `spared` are left alone,
/// and so are those after `newest`, which may not be committed in full.
///
/// Of two objects the one is better that frees more for what it costs, and the older one, whose rest
/// is less likely to die by itself: `(1 - u) * age / (1 + u)`.
pub(super) fn victims(
    objects: &ObjectTable,
    target: u64,
    limit: u64,
    newest: ObjectSeq,
    spared: impl Fn(ObjectSeq) -> bool,
) -> Vec<Victim> {
    let mut sums = objects.needed();
    if percent(sums) >= target {
        return Vec::new();
    }
    let mut candidates: Vec<(f64, Victim)> = objects
        .iter()
        .filter(|(object, usage)| {
            let share = usage.live_sectors * 100;
            usage.dead_since.is_none()
                && usage.data_sectors > 0
                && !usage.is_of_base()
                && share < usage.data_sectors * target
                && *object <= newest
                && !spared(*object)
        })
        .map(|(object, usage)| {
            let (live_sectors, data_sectors) = (usage.live_sectors, usage.data_sectors);
            let u = live_sectors as f64 / data_sectors as f64;
            let age = newest.since(object) as f64 + 1.0;
            ((1.0 - u) * age / (1.0 + u), Victim { object, live_sectors, data_sectors })
        })
        .collect();
    candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut chosen = Vec::new();
    let mut moved = 0;
    for (_, victim) in candidates {
        if !chosen.is_empty() && moved + victim.live_sectors > limit {
            continue;
        }
        moved += victim.live_sectors;
        chosen.push(victim);
        sums.data_sectors -= victim.data_sectors - victim.live_sectors;
        if percent(sums) >= target {
            break;
        }
    }
    chosen
}

/// Objects of the base that the map points at, with at most `limit` live sectors in all, but at least
/// one; those that `spared` are left out.
pub(super) fn of_base(
    objects: &ObjectTable,
    limit: u64,
    spared: impl Fn(ObjectSeq) -> bool,
) -> Vec<Victim> {
    let used = objects
        .iter()
        .filter(|(object, usage)| usage.is_of_base() && usage.live_sectors > 0 && !spared(*object));
    let mut moved = 0;
    used.map(|(object, usage)| Victim {
        object,
        live_sectors: usage.live_sectors,
        data_sectors: usage.data_sectors,
    })
    .take_while(|victim| {
        let is_first = moved == 0;
        moved += victim.live_sectors;
        is_first || moved <= limit
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: ObjectSeq = ObjectSeq::new(100);

    /// Objects of 100 sectors with so many live ones.
    fn table(live: &[(u64, u64)]) -> ObjectTable {
        let mut table = ObjectTable::new();
        for &(object, live) in live {
            let object = ObjectSeq::new(object);
            table.add(object, 100, 50_000);
            table.gained(object, live);
            table.settle(object);
        }
        table
    }

    fn chosen(live: &[(u64, u64)], target: u64, limit: u64) -> Vec<u64> {
        let victims = victims(&table(live), target, limit, NEWEST, |_| false);
        victims.iter().map(|victim| victim.object.get()).collect()
    }

    #[test]
    fn utilisation_is_that_of_what_is_needed() {
        assert_eq!(utilisation(&table(&[])), 100);
        assert_eq!(utilisation(&table(&[(1, 100), (2, 50)])), 75);
        assert_eq!(utilisation(&table(&[(1, 100), (2, 50), (3, 0)])), 75, "the third one is dead");
    }

    #[test]
    fn nothing_is_cleaned_above_the_target() {
        assert_eq!(chosen(&[(1, 75), (2, 75)], 75, 1000), [] as [u64; 0]);
    }

    #[test]
    fn the_emptiest_go_first_and_the_older_of_two() {
        assert_eq!(chosen(&[(50, 60), (51, 20), (52, 90)], 60, 1000), [51]);
        assert_eq!(chosen(&[(10, 40), (50, 40), (52, 90)], 60, 1000), [10]);
        // Long ago counts more than a little emptier.
        assert_eq!(chosen(&[(1, 50), (99, 45), (98, 100)], 66, 1000), [1]);
    }

    #[test]
    fn one_round_moves_no_more_than_the_limit_unless_a_single_object_does() {
        let live = [(1, 30), (2, 30), (3, 30), (4, 30)];
        assert_eq!(chosen(&live, 100, 70), [1, 2]);
        assert_eq!(chosen(&live, 100, 10), [1]);
    }

    #[test]
    fn what_cannot_raise_the_utilisation_is_left_alone() {
        // Below the target in all, so at least one is below it by itself.
        assert_eq!(chosen(&[(1, 80), (2, 10)], 50, 1000), [2]);
        assert_eq!(chosen(&[(101, 10)], 50, 1000), [] as [u64; 0], "not committed");
        let spared = |object: ObjectSeq| object.get() == 1;
        assert!(victims(&table(&[(1, 10)]), 50, 1000, NEWEST, spared).is_empty());
    }
}
