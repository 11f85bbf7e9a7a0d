//! This file holds a run against what was required of it, e.g. `p99<20ms` or `errors=0`.

use std::time::Duration;

use super::progress::micros;
use super::quantity;
use super::results::{Interval, Results, Threshold};

/// One condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    text: String,
    what: What,
    relation: Relation,
    limit: f64,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Mean,
    P50,
    P90,
    P99,
    P999,
    Max,
    VisibleP50,
    VisibleP99,
    CommitVisibleP50,
    CommitVisibleP99,
    Rate,
    Answered,
    Errors,
    Refusals,
    LagEvents,
    RssMegabytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// The longer ones first, so that `<=` is not taken for `<`.
const RELATIONS: [(&str, Relation); 6] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("==", Relation::Equal),
    ("<", Relation::Less),
    (">", Relation::More),
    ("=", Relation::Equal),
];

const NAMES: [(&str, What); 16] = [
    ("mean", What::Mean),
    ("p50", What::P50),
    ("p90", What::P90),
    ("p99", What::P99),
    ("p999", What::P999),
    ("max", What::Max),
    ("visible_p50", What::VisibleP50),
    ("visible_p99", What::VisibleP99),
    ("commit_visible_p50", What::CommitVisibleP50),
    ("commit_visible_p99", What::CommitVisibleP99),
    ("rate", What::Rate),
    ("answered", What::Answered),
    ("errors", What::Errors),
    ("refusals", What::Refusals),
    ("lag", What::LagEvents),
    ("rss_mb", What::RssMegabytes),
];

impl What {
    fn is_time(self) -> bool {
        use What::{CommitVisibleP50, CommitVisibleP99, Max, Mean, P50, P90, P99, P999, VisibleP50, VisibleP99};
        let is_latency = matches!(self, Mean | P50 | P90 | P99 | P999 | Max);
        is_latency || matches!(self, VisibleP50 | VisibleP99 | CommitVisibleP50 | CommitVisibleP99)
    }

    /// The share of all operations that a latency must be known of: 1 where one unanswered operation may change it.
    fn share(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P90 => Some(0.9),
            Self::P99 => Some(0.99),
            Self::P999 => Some(0.999),
            Self::Mean | Self::Max => Some(1.0),
            _ => None,
        }
    }

    /// What was measured: times in microseconds; none when it was not measured.
    fn of(self, results: &Results) -> Option<f64> {
        let (totals, latency) = (&results.totals, &results.totals.latency);
        let is_measured = totals.answered > 0;
        let time = |micros: u64| is_measured.then_some(micros as f64);
        match self {
            Self::Mean => is_measured.then_some(latency.mean_micros),
            Self::P50 => time(latency.p50_micros),
            Self::P90 => time(latency.p90_micros),
            Self::P99 => time(latency.p99_micros),
            Self::P999 => time(latency.p999_micros),
            Self::Max => time(latency.max_micros),
            Self::VisibleP50 => results.visible.map(|visible| visible.p50_micros as f64),
            Self::VisibleP99 => results.visible.map(|visible| visible.p99_micros as f64),
            Self::CommitVisibleP50 => results.visible_from_commit.map(|visible| visible.p50_micros as f64),
            Self::CommitVisibleP99 => results.visible_from_commit.map(|visible| visible.p99_micros as f64),
            Self::Rate => Some(totals.per_second),
            Self::Answered => Some(totals.answered as f64),
            Self::Errors => Some(totals.error_count() as f64),
            Self::Refusals => Some(results.refusals.values().sum::<u64>() as f64),
            Self::LagEvents => most(results.intervals.iter().map(Interval::lag)),
            Self::RssMegabytes => most(results.intervals.iter().map(|interval| interval.rss_bytes)).map(|b| b / 1e6),
        }
    }

    fn show(self, value: f64) -> String {
        if self.is_time() { micros(value.round() as u64) } else { format!("{value:.0}") }
    }
}

fn most(values: impl Iterator<Item = Option<u64>>) -> Option<f64> {
    values.flatten().max().map(|value| value as f64)
}

impl Requirement {
    /// Reads a condition: a name, one of `<`, `<=`, `=`, `>=`, `>`, and a number or, for latencies, a time.
    ///
    /// # Errors
    /// A sentence that names the part that is at fault, and what it may be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>', '=']).ok_or_else(|| {
            format!("{text:?} compares nothing; it must be of the form p99<20ms, with one of < <= = >= >")
        })?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let (sign, relation) =
            RELATIONS.iter().find(|(sign, _)| rest.starts_with(sign)).expect("one of them was found");
        let limit = rest[sign.len()..].trim();
        let (_, what) = NAMES.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|(known, _)| *known).collect();
            format!("{name:?} is not measured; known are {}", known.join(", "))
        })?;
        let limit = if what.is_time() { time(limit)? } else { number(limit)? };
        Ok(Self { text: text.trim().to_owned(), what: *what, relation: *relation, limit })
    }

    /// As it was given.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is about the time until a write is visible, which not every run can tell.
    pub(crate) fn is_of_visibility(&self) -> bool {
        use What::{CommitVisibleP50, CommitVisibleP99, VisibleP50, VisibleP99};
        matches!(self.what, VisibleP50 | VisibleP99 | CommitVisibleP50 | CommitVisibleP99)
    }

    /// Whether these results are as required. What was not measured is not.
    pub(crate) fn hold(&self, results: &Results) -> Threshold {
        let actual = self.what.of(results);
        let held = actual.is_some_and(|actual| match self.relation {
            Relation::Less => actual < self.limit,
            Relation::AtMost => actual <= self.limit,
            // Both were counted; of times, to the microsecond.
            Relation::Equal => (actual - self.limit).abs() < 0.5,
            Relation::AtLeast => actual >= self.limit,
            Relation::More => actual > self.limit,
        });
        let actual = actual.map_or_else(|| "not measured".to_owned(), |actual| self.what.show(actual));
        let expression = self.text.clone();
        match self.unknown_because_of(results) {
            Some(why) => Threshold { expression, actual: format!("not known, {why}"), held: false },
            None => Threshold { expression, actual, held },
        }
    }

    /// Why a latency cannot be told of all operations that were meant: too many have none.
    fn unknown_because_of(&self, results: &Results) -> Option<String> {
        let share = self.what.share()?;
        let skipped = results.generator.as_ref().map_or(0, |generator| generator.skipped);
        let unanswered = results.totals.error_count() + skipped;
        let all = results.totals.answered + unanswered;
        // A billionth of slack, because 1 - 0.99 is a little more than a hundredth.
        let is_unknown = unanswered as f64 > all as f64 * (1.0 - share) * (1.0 + 1e-9);
        is_unknown.then(|| format!("because {unanswered} of {all} operations were not answered"))
    }
}

/// A time in microseconds; it needs its unit, because nobody can know what `p99<20` means.
fn time(text: &str) -> Result<f64, String> {
    if text.ends_with(|last: char| last.is_ascii_digit()) {
        return Err(format!("{text:?} lacks its unit: try {text}ms"));
    }
    quantity::duration(text).map(|time: Duration| time.as_secs_f64() * 1e6)
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches("/s").replace('_', "").parse::<f64>().ok();
    number.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(|| format!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadtest::results::{Figures, Generator, Latency};

    fn results() -> Results {
        let latency = Latency { p50_micros: 800, p99_micros: 20_000, ..Latency::default() };
        let totals = Figures { answered: 5_000, per_second: 500.0, latency, ..Figures::default() };
        Results { totals, ..Results::default() }
    }

    fn holds(text: &str) -> bool {
        Requirement::parse(text).unwrap().hold(&results()).held
    }

    #[test]
    fn a_limit_is_held_up_to_what_its_sign_says() {
        assert!(!holds("p99<20ms") && holds("p99<=20ms") && holds("p99 < 20.1ms") && holds("p50>799us"));
        assert!(holds("rate>=500") && !holds("rate>500/s"));
        assert!(holds("errors=0") && holds("errors==0") && !holds("errors>0"));
    }

    #[test]
    fn what_was_not_measured_holds_nothing() {
        let threshold = Requirement::parse("visible_p99<1s").unwrap().hold(&results());

        assert_eq!((threshold.held, threshold.actual.as_str()), (false, "not measured"));
        assert!(!Requirement::parse("p99<1s").unwrap().hold(&Results::default()).held, "nothing was answered");
    }

    /// Results with so many answers, all of 1 ms, and so many failures and operations that were not sent.
    fn partly_answered(answered: u64, failed: u64, skipped: u64) -> Results {
        let latency = Latency { p50_micros: 1_000, p99_micros: 1_000, max_micros: 1_000, ..Latency::default() };
        let errors = [("unreachable".to_owned(), failed)].into();
        let totals = Figures { answered, latency, errors, ..Figures::default() };
        Results { totals, generator: Some(Generator { skipped, ..Generator::default() }), ..Results::default() }
    }

    #[test]
    fn a_percentile_holds_only_while_it_can_be_known_of_all_operations_that_were_meant() {
        let held = |text, results| Requirement::parse(text).unwrap().hold(&results).held;

        // 10 of 1,000 are 1 %: the 99th percentile is that of the answers, and no other from there on.
        assert!(held("p99<20ms", partly_answered(990, 5, 5)));
        assert!(!held("p99<20ms", partly_answered(989, 6, 5)) && !held("p99<20ms", partly_answered(989, 0, 11)));
        assert!(held("p50<20ms", partly_answered(500, 500, 0)) && !held("p50<20ms", partly_answered(499, 501, 0)));
        assert!(held("max<20ms", partly_answered(10, 0, 0)) && !held("max<20ms", partly_answered(9_999, 1, 0)));
    }

    #[test]
    fn a_percentile_that_cannot_be_known_says_how_many_were_not_answered() {
        let threshold = Requirement::parse("p99<20ms").unwrap().hold(&partly_answered(4_110, 435_163, 0));

        assert_eq!(threshold.actual, "not known, because 435163 of 439273 operations were not answered");
    }

    #[test]
    fn the_measured_value_is_told_as_a_person_would() {
        let threshold = Requirement::parse("p99<5ms").unwrap().hold(&results());

        assert_eq!((threshold.expression.as_str(), threshold.actual.as_str()), ("p99<5ms", "20.0 ms"));
    }

    #[test]
    fn what_is_no_condition_is_refused_for_what_is_wrong_with_it() {
        let refused = |text| Requirement::parse(text).unwrap_err();

        assert!(refused("p99").contains("compares nothing"));
        assert!(refused("p98<20ms").contains("known are mean, p50"));
        assert!(refused("p99<20").contains("try 20ms"));
        assert!(refused("p99<fast").contains("is no time"));
        assert!(refused("errors=none").contains("is no number"));
        assert!(refused("rate>-1").contains("is no number"));
    }
}
