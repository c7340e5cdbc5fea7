//! Which calls fail, and how: a pure decision by seed or by script.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The kinds of operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`crate::ObjectStore::create`]
    Create,
    /// [`crate::ObjectStore::replace`]
    Replace,
    /// [`crate::ObjectStore::get`]
    Get,
    /// [`crate::ObjectStore::get_range`] and [`crate::ObjectStore::get_front`]
    GetRange,
    /// [`crate::ObjectStore::head`]
    Head,
    /// [`crate::ObjectStore::list`]
    List,
    /// [`crate::ObjectStore::delete`]
    Delete,
}

impl Op {
    /// The operation's name in error messages.
    pub fn name(self) -> &'static str {
        match self {
            Op::Create => "create",
            Op::Replace => "replace",
            Op::Get | Op::GetRange => "read",
            Op::Head => "look at",
            Op::List => "list",
            Op::Delete => "delete",
        }
    }
}

/// How a call fails. The caller always sees `Unavailable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request was lost: no effect.
    Before,
    /// The reply was lost: the effect took place.
    After,
    /// The request is under way still: no effect until [`super::FaultyStore::land_late`]. Of a
    /// read nothing remains to land.
    Late,
}

/// Chances of a fault, out of 1000 calls each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// Of [`Fault::Before`].
    pub before_per_mille: u32,
    /// Of [`Fault::After`].
    pub after_per_mille: u32,
    /// Of [`Fault::Late`].
    pub late_per_mille: u32,
}

/// One line of a script: which calls fail, and how.
#[derive(Clone, Debug)]
pub struct Rule {
    op: Op,
    pattern: String,
    fault: Fault,
    /// Matching calls that go through first.
    skip: u64,
    /// Matching calls that fail then.
    times: u64,
}

impl Rule {
    /// The next `op` on a key that matches `pattern` fails. `*` stands for any text.
    pub fn next(op: Op, pattern: &str, fault: Fault) -> Self {
        Self { op, pattern: pattern.to_owned(), fault, skip: 0, times: 1 }
    }

    /// Lets `calls` matching calls through first.
    #[must_use]
    pub fn skip(self, calls: u64) -> Self {
        Self { skip: calls, ..self }
    }

    /// Fails `calls` matching calls instead of one.
    #[must_use]
    pub fn times(self, calls: u64) -> Self {
        Self { times: calls, ..self }
    }

    /// The fault of this call, if the rule has one for it.
    fn take(&mut self, op: Op, key: &str) -> Option<Fault> {
        if self.op != op || self.times == 0 || !matches(&self.pattern, key) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.fault)
    }
}

/// What goes wrong in the life of a store.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    seeded: Option<(u64, Odds)>,
    rules: Vec<Rule>,
}

impl FaultPlan {
    /// No faults, but gates, outages, crashes and counters.
    pub fn none() -> Self {
        Self::default()
    }

    /// Faults by chance; the same seed gives the same ones.
    pub fn seeded(seed: u64, odds: Odds) -> Self {
        Self { seeded: Some((seed, odds)), rules: Vec::new() }
    }

    /// Faults by rules. Each rule counts the calls that match it; the first rule that has a
    /// fault for a call decides.
    pub fn script(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { seeded: None, rules: rules.into_iter().collect() }
    }
}

/// A plan and what it has seen so far.
#[derive(Debug)]
pub(super) struct Decider {
    plan: FaultPlan,
    seen: HashMap<(Op, String), u64>,
}

impl Decider {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self { plan, seen: HashMap::new() }
    }

    pub(super) fn add(&mut self, rule: Rule) {
        self.plan.rules.push(rule);
    }

    pub(super) fn decide(&mut self, op: Op, key: &str) -> Option<Fault> {
        let mut by_rule = None;
        for rule in &mut self.plan.rules {
            // Every rule sees every call, so that they count alike.
            by_rule = by_rule.or(rule.take(op, key));
        }
        by_rule.or_else(|| self.by_chance(op, key))
    }

    fn by_chance(&mut self, op: Op, key: &str) -> Option<Fault> {
        let (seed, odds) = self.plan.seeded?;
        let nth = self.seen.entry((op, key.to_owned())).or_default();
        let call = format!("{op:?} {nth} {key}");
        *nth += 1;
        let mut dice = (xxh3_64_with_seed(call.as_bytes(), seed) % 1000) as u32;
        for (odds, fault) in [
            (odds.before_per_mille, Fault::Before),
            (odds.after_per_mille, Fault::After),
            (odds.late_per_mille, Fault::Late),
        ] {
            if dice < odds {
                return Some(fault);
            }
            dice -= odds;
        }
        None
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any text, also for none.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let tail = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match text.split_once(piece) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("*", "a/b"),
            ("a*", "a"),
            ("*/o/*", "data/u/o/1"),
            ("*1", "11"),
            ("a*b*c", "abbc"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*", "ba"), ("*/o/*", "o/1"), ("a*a", "a")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_seed_decides_alike_in_any_order() {
        let odds = Odds { before_per_mille: 300, after_per_mille: 300, late_per_mille: 100 };
        let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
        let mut forward = Decider::new(FaultPlan::seeded(7, odds));
        let mut backward = Decider::new(FaultPlan::seeded(7, odds));
        let mut other = Decider::new(FaultPlan::seeded(8, odds));
        let decide = |decider: &mut Decider, key: &String| decider.decide(Op::Create, key.as_str());
        let first: Vec<_> = keys.iter().map(|key| decide(&mut forward, key)).collect();
        let mut second: Vec<_> = keys.iter().rev().map(|key| decide(&mut backward, key)).collect();
        second.reverse();
        assert_eq!(first, second);
        let third: Vec<_> = keys.iter().map(|key| decide(&mut other, key)).collect();
        assert_ne!(first, third);
        for fault in [None, Some(Fault::Before), Some(Fault::After), Some(Fault::Late)] {
            assert!(first.contains(&fault), "{fault:?}");
        }
    }

    #[test]
    fn rules_count_the_calls_that_match() {
        let rule = Rule::next(Op::Create, "o/*", Fault::After);
        let mut decider = Decider::new(FaultPlan::script([rule.skip(1).times(2)]));
        let mut decide = |op, key| decider.decide(op, key);
        assert_eq!(decide(Op::Create, "o/1"), None);
        assert_eq!(decide(Op::Create, "super"), None);
        assert_eq!(decide(Op::Get, "o/1"), None);
        assert_eq!(decide(Op::Create, "o/2"), Some(Fault::After));
        assert_eq!(decide(Op::Create, "o/2"), Some(Fault::After));
        assert_eq!(decide(Op::Create, "o/2"), None);
    }
}
