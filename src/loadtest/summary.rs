//! This file makes the results of what came of a run, and the verdict on them.

use std::collections::BTreeMap;

use super::machine;
use super::measure::{Latencies, Tallies};
use super::observe::{Cut, figures_with_late};
use super::progress::{per_second, seconds};
use super::results::{FORMAT, Figures, Latency, PeakSearch, Percentile, Results, Setting, Settings, Verdict};
use super::run::{End, Outcome};
use super::thresholds::Requirement;

/// Classes of errors that no load excuses: the system or the workload has a defect.
const DEFECTS: [&str; 9] = [
    "unexpected_refusal",
    "unexpected_success",
    "unexpected_answer",
    "unexpected_status",
    "stale_read",
    "command_id_reused",
    "invalid",
    "failed",
    "read_failed",
];

/// The results of a run that was asked for with these settings.
pub(crate) fn results(outcome: Outcome, mut settings: Settings, requirements: &[Requirement]) -> Results {
    let Outcome { started_at, measured, intervals, cut, end, restarts, verification, about, .. } = outcome;
    let (in_time, late) = (measured.tallies, measured.late);
    let totals = figures_with_late(in_time.total(), &late.total(), measured.seconds);
    let kinds = kinds(&in_time, &late, measured.seconds);
    let mut tallies = in_time;
    tallies.add(&late);
    let total = tallies.total();
    let duration_wanted = settings.duration_seconds;
    let versions = machine::versions(&about);
    if settings.database.is_empty() {
        settings.database = about.database;
    }
    let mut results = Results {
        essaim_load_format: FORMAT,
        started_at,
        duration_seconds: measured.seconds,
        settings: Settings { interrupted: cut == Some(Cut::Interrupted), ..settings },
        machine: machine::machine(),
        versions,
        durability: about.durability.into_iter().map(|(name, value)| Setting { name, value }).collect(),
        intervals,
        kinds,
        visible: measured_times(&tallies.visible),
        visible_from_commit: measured_times(&tallies.visible_from_commit),
        percentiles: Percentile::of(&total.latencies),
        refusals: total.refusals.clone(),
        retries: tallies.retries.iter().map(|(class, count)| ((*class).to_owned(), *count)).collect(),
        peak: measured.peak,
        restarts,
        generator: measured.generator,
        verification,
        thresholds: Vec::new(),
        verdict: Verdict::default(),
        totals,
    };
    results.thresholds = requirements.iter().map(|requirement| requirement.hold(&results)).collect();
    let mut reasons = Vec::new();
    match cut {
        Some(Cut::Interrupted) => {
            reasons.push(format!("interrupted after {} of {duration_wanted} s", seconds(measured.seconds)));
        }
        Some(Cut::Full { megabytes }) => reasons.push(format!(
            "the history of all answers reached its {megabytes} MB after {:.1} s of {duration_wanted} s, and the run \
             ended there: what is verified is all that was answered; raise --history-mb, or leave it out with \
             --verify=false",
            measured.seconds
        )),
        Some(Cut::Gone(why)) => reasons.push(format!("the target went away after {:.1} s: {why}", measured.seconds)),
        None => {}
    }
    reasons.extend(silence(&end, measured.seconds));
    for class in DEFECTS {
        if let Some(errors) = total.errors.get(class) {
            reasons.push(format!("{} operations ended with {class}, first: {}", errors.count, errors.first));
        }
    }
    reasons.extend(reasons_of(&results));
    results.verdict = Verdict { passed: reasons.is_empty(), reasons };
    results
}

fn measured_times(latencies: &Latencies) -> Option<Latency> {
    (!latencies.is_empty()).then(|| Latency::of(latencies))
}

fn kinds(in_time: &Tallies, late: &Tallies, seconds: f64) -> BTreeMap<String, Figures> {
    let of = |tallies: &Tallies, kind| tallies.kinds.get(kind).cloned().unwrap_or_default();
    let all = in_time.kinds.keys().chain(late.kinds.keys()).copied();
    all.map(|kind| (kind.to_owned(), figures_with_late(of(in_time, kind), &of(late, kind), seconds))).collect()
}

/// What operations without an answer say of the target: all else may have been answered until the end, or nothing.
fn silence(end: &End, measured_seconds: f64) -> Option<String> {
    /// A target that was heard so shortly before is not silent.
    const SHORTEST_SILENCE_SECONDS: f64 = 1.0;
    let End { unanswered, last_answer_seconds, silent_seconds } = *end;
    let last = match last_answer_seconds {
        _ if unanswered == 0 => return None,
        None => "it never answered".to_owned(),
        Some(at) if at >= measured_seconds || silent_seconds < SHORTEST_SILENCE_SECONDS => {
            return Some(format!("{unanswered} operations were still unanswered when the run gave them up"));
        }
        Some(at) if at < 0.0 => "its last answer came before the measurement began".to_owned(),
        Some(at) => format!("its last answer came at {at:.1} s"),
    };
    Some(format!(
        "the target had stopped answering: {last}, and {unanswered} operations were given up; see whether it still \
         runs and what it logged last, and run the load again when it answers"
    ))
}

/// What is amiss by the results alone.
fn reasons_of(results: &Results) -> Vec<String> {
    let mut reasons = Vec::new();
    if results.totals.answered == 0 {
        let classes: Vec<_> = results.totals.errors.iter().map(|(class, count)| format!("{count} {class}")).collect();
        let instead = if classes.is_empty() { String::new() } else { format!(", only errors: {}", classes.join(", ")) };
        reasons.push(format!("nothing was answered{instead}"));
    }
    let (answered, failed) = (results.totals.answered, results.totals.error_count());
    if answered > 0 && failed > answered {
        reasons.push(format!("more operations failed than were answered: {failed} against {answered}"));
    }
    if let Some(verification) = results.verification.as_ref().filter(|verification| !verification.passed()) {
        reasons.extend(verification.counts.iter().map(|(kind, count)| format!("verification: {count} × {kind}")));
        reasons.extend(verification.incomplete.iter().map(|why| format!("verification was not finished: {why}")));
    }
    reasons.extend(results.peak.as_ref().and_then(amiss_with_the_search));
    let broken = results.thresholds.iter().filter(|threshold| !threshold.held);
    reasons.extend(broken.map(|threshold| format!("required {}: it is {}", threshold.expression, threshold.actual)));
    reasons
}

fn amiss_with_the_search(peak: &PeakSearch) -> Option<String> {
    let before = "the search for the peak is incomplete";
    match peak.peak_per_second {
        Some(rate) if peak.incomplete => Some(format!("{before}: {} was borne, more may be", per_second(rate))),
        Some(_) => None,
        None if peak.steps.is_empty() => Some(format!("{before}: it ended before its first rate was tried")),
        None if peak.incomplete => Some(format!("{before}: it ended before a rate was borne")),
        None => Some("not even the lowest rate was borne".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::loadtest::measure::{Ended, Measures};
    use crate::loadtest::results::{PeakStep, Threshold, Verification};

    fn well() -> Results {
        Results { totals: Figures { answered: 1, ..Figures::default() }, ..Results::default() }
    }

    #[test]
    fn a_run_without_any_fault_has_nothing_amiss() {
        assert_eq!(reasons_of(&well()), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_amiss_is_a_reason_of_its_own() {
        let counts = [("lost".to_owned(), 2)].into();
        let results = Results {
            verification: Some(Verification { counts, ..Verification::default() }),
            thresholds: vec![Threshold { expression: "p99<1ms".into(), actual: "2.00 ms".into(), held: false }],
            ..Results::default()
        };

        let expected = ["nothing was answered", "verification: 2 × lost", "required p99<1ms: it is 2.00 ms"];
        assert_eq!(reasons_of(&results), expected);
    }

    #[test]
    fn a_run_with_more_failures_than_answers_is_amiss_and_one_with_as_many_is_not() {
        let run = |answered, failed| {
            let errors = [("overloaded".to_owned(), failed)].into();
            reasons_of(&Results { totals: Figures { answered, errors, ..Figures::default() }, ..Results::default() })
        };

        assert_eq!(run(4_110, 435_163), ["more operations failed than were answered: 435163 against 4110"]);
        assert_eq!(run(5, 5), Vec::<String>::new());
    }

    #[test]
    fn a_target_that_stopped_answering_is_named_with_the_moment_of_its_last_answer() {
        let end = |last_answer_seconds, silent_seconds| End { unanswered: 64, last_answer_seconds, silent_seconds };
        let silent = |end| silence(&end, 4.0).unwrap();

        let told = silent(end(Some(2.5), 21.5));
        assert!(told.starts_with("the target had stopped answering: its last answer came at 2.5 s, and 64"), "{told}");
        assert!(told.contains("see whether it still runs"), "{told}");
        assert!(silent(end(None, 24.0)).contains("it never answered"));
        assert!(silent(end(Some(-0.3), 24.0)).contains("before the measurement began"));
    }

    #[test]
    fn a_few_operations_without_an_answer_are_not_taken_for_a_silent_target() {
        let end = |last_answer_seconds, silent_seconds| End { unanswered: 1, last_answer_seconds, silent_seconds };
        let stuck = "1 operations were still unanswered when the run gave them up";

        assert_eq!(silence(&end(Some(4.1), 20.0), 4.0).as_deref(), Some(stuck), "the others were answered to the end");
        assert_eq!(silence(&end(Some(3.9), 0.1), 4.0).as_deref(), Some(stuck), "it was heard a moment before");
        assert_eq!(silence(&End::default(), 4.0), None);
    }

    #[test]
    fn a_search_that_was_left_off_says_so_and_not_that_nothing_was_borne() {
        let search = |peak_per_second, steps: usize, incomplete| {
            let steps = vec![PeakStep::default(); steps];
            amiss_with_the_search(&PeakSearch { peak_per_second, steps, incomplete, ..PeakSearch::default() })
        };
        let said = |search: Option<String>| search.unwrap();

        assert!(said(search(None, 0, true)).ends_with("incomplete: it ended before its first rate was tried"));
        assert!(said(search(None, 1, true)).ends_with("incomplete: it ended before a rate was borne"));
        assert!(said(search(Some(750.0), 2, true)).ends_with("incomplete: 750/s was borne, more may be"));
        assert_eq!(said(search(None, 7, false)), "not even the lowest rate was borne");
        assert_eq!(search(Some(750.0), 9, false), None);
    }

    /// So many creations and reads.
    fn tallies(creations: u64, reads: u64) -> Tallies {
        let measures = Measures::new();
        measures.count();
        let well = Ended::Well { events: 1 };
        (0..creations).for_each(|n| measures.ended(n, "create", false, Duration::from_millis(1), &well));
        (0..reads).for_each(|n| measures.ended(n, "read", true, Duration::from_millis(9), &well));
        measures.take()
    }

    #[test]
    fn what_is_answered_after_the_measured_time_is_counted_and_in_no_rate() {
        let (in_time, late) = (tallies(200, 100), tallies(40, 0));

        let kinds = kinds(&in_time, &late, 2.0);
        let all = figures_with_late(in_time.total(), &late.total(), 2.0);

        let told = |figures: &Figures| (figures.answered, figures.answered_late, figures.per_second);
        assert_eq!((told(&kinds["create"]), told(&kinds["read"])), ((240, 40, 100.0), (100, 0, 50.0)));
        assert_eq!(told(&all), (340, 40, 150.0), "the kinds add up to all");
        assert_eq!((all.events, all.events_late), (340, 40));
    }

    #[test]
    fn a_kind_that_was_only_answered_late_has_no_rate_and_is_told() {
        let kinds = kinds(&tallies(200, 0), &tallies(0, 7), 2.0);

        assert_eq!((kinds["read"].answered, kinds["read"].per_second), (7, 0.0));
    }
}
