//! This file prints results for people, and reads earlier ones.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::error::LoadError;
use super::progress::{micros, per_second, seconds};
use super::report::differences;
use super::results::{Figures, Generator, Interval, Results};

/// Writes to stdout; a reader that went away is no error.
pub(crate) fn print(text: &str) -> Result<(), LoadError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(LoadError::io("the output cannot be written")),
    }
}

/// The results that an earlier run wrote.
pub(crate) fn read_baseline(path: &Path) -> Result<Results, LoadError> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| LoadError::Usage(format!("{name} cannot be read: {error}")))?;
    let results = Results::from_json(&text).map_err(|error| LoadError::Usage(format!("{name}: {error}")))?;
    if results.totals.answered == 0 {
        return Err(LoadError::Usage(format!("{name}: nothing was answered in that run, there is nothing to compare")));
    }
    Ok(results)
}

/// The command line, as it could be typed again.
pub(crate) fn command_line() -> String {
    let program = "essaim".to_owned();
    let arguments = std::env::args_os().skip(1).map(|argument| quoted(&argument.to_string_lossy()));
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,%+@".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// The verdict, what was measured, and what was found, for people.
pub(crate) fn table(results: &Results, baseline: Option<&Results>) -> String {
    let mut text = String::new();
    let settings = &results.settings;
    let from = if results.peak.is_some() { "from " } else { "" };
    let rate = settings.rate_per_second.map(|rate| format!(", {from}{}", per_second(rate))).unwrap_or_default();
    // The callers of an open loop are no more than a bound.
    let most = if settings.rate_per_second.is_some() { "at most " } else { "" };
    let place = if settings.database.is_empty() { &settings.target } else { &settings.database };
    line(
        &mut text,
        format_args!(
            "{}: {}{rate}, {most}{} callers, {}, {} ({place})",
            settings.workload,
            settings.schedule,
            settings.callers,
            seconds(results.duration_seconds),
            settings.target
        ),
    );
    line(&mut text, format_args!("\n{}", figures_table(results)));
    for note in notes(results, baseline) {
        line(&mut text, format_args!("{note}"));
    }
    line(&mut text, format_args!("\n{}", verdict(results)));
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}

fn figures_table(results: &Results) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "answered", "per second", "mean", "p50", "p90", "p99", "p99.9", "max", "errors"]);
    let row = |name: &str, figures: &Figures| {
        let latency = &figures.latency;
        [
            name.to_owned(),
            figures.answered.to_string(),
            per_second(figures.per_second).trim_end_matches("/s").to_owned(),
            micros(latency.mean_micros.round() as u64),
            micros(latency.p50_micros),
            micros(latency.p90_micros),
            micros(latency.p99_micros),
            micros(latency.p999_micros),
            micros(latency.max_micros),
            figures.error_count().to_string(),
        ]
    };
    if results.kinds.len() > 1 {
        for (kind, figures) in &results.kinds {
            table.add_row(row(kind, figures));
        }
    }
    table.add_row(row("all", &results.totals));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What is told only when there is something to tell.
fn notes(results: &Results, baseline: Option<&Results>) -> Vec<String> {
    let mut notes = Vec::new();
    let counted = |counts: &mut dyn Iterator<Item = (&String, &u64)>| {
        counts.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    if !results.totals.errors.is_empty() {
        notes.push(format!("errors     {}", counted(&mut results.totals.errors.iter())));
    }
    if !results.retries.is_empty() {
        notes.push(format!("retries    {} (under their keys)", counted(&mut results.retries.iter())));
    }
    if !results.refusals.is_empty() {
        notes.push(format!("refusals   {} (as they should be)", counted(&mut results.refusals.iter())));
    }
    if results.totals.answered_late > 0 {
        let late = results.totals.answered_late;
        notes.push(format!("late       {late} were answered after the measured time: they are in no rate"));
    }
    notes.extend(events_note(results));
    let since = [("answer", results.visible), ("commit", results.visible_from_commit)];
    let since = since.into_iter().filter_map(|(what, visible)| Some((what, visible?)));
    let since = since.map(|(what, visible)| {
        format!("{} (p50), {} (p99) after the {what}", micros(visible.p50_micros), micros(visible.p99_micros))
    });
    let since = since.collect::<Vec<_>>();
    if !since.is_empty() {
        notes.push(format!("visible    in the read model {}", since.join("; ")));
    }
    notes.extend(machine_note(results));
    notes.extend(durability_note(results));
    if let Some(generator) = &results.generator {
        notes.push(generator_note(generator));
    }
    if let Some(peak) = &results.peak {
        let limit = micros(peak.p99_limit_micros);
        let found = peak.peak_per_second.map_or("none".to_owned(), per_second);
        let ended = if peak.incomplete { "; the search is INCOMPLETE" } else { "" };
        notes.push(format!("peak       {found} with p99 < {limit}, in {} steps{ended}", peak.steps.len()));
    }
    if !results.restarts.is_empty() {
        let longest = results.restarts.iter().filter_map(|restart| restart.down_seconds).fold(0.0, f64::max);
        let early = results.restarts.iter().filter(|restart| restart.is_before_measurement()).count();
        let early = if early > 0 { format!(" ({early} of them during warm-up)") } else { String::new() };
        let count = results.restarts.len();
        notes.push(format!("kills      {count}{early}, the longest {longest:.2} s without an answer"));
    }
    if let Some(baseline) = baseline {
        notes.push(compared(results, baseline));
        let differences = differences(results, baseline);
        if !differences.is_empty() {
            notes.push(format!("WARNING    not the same in the baseline: {}", differences.join(", ")));
        }
    }
    if !results.versions.optimised {
        notes.push("note       this is a debug build; its figures mean little".to_owned());
    }
    notes
}

fn events_note(results: &Results) -> Option<String> {
    let per_second = results.events_per_second(&results.totals)?;
    Some(format!("events     {}, {per_second:.0}/s", results.totals.events))
}

/// One rule for both: up to one in a hundred may be late or left out.
fn generator_note(generator: &Generator) -> String {
    let Generator { fell_behind, max_delay_micros, due, late, skipped } = *generator;
    let rule = if fell_behind {
        "GENERATOR  fell behind its schedule (more than 1 %)"
    } else {
        "generator  kept its schedule (up to 1 %)"
    };
    let delay = micros(max_delay_micros);
    format!(
        "{rule}: of {due} operations {late} were sent over 5 ms late and {skipped} not at all, the latest {delay} late"
    )
}

fn machine_note(results: &Results) -> Option<String> {
    let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let groups = mean(results.intervals.iter().filter_map(|interval| interval.group_mean).collect());
    let cores = mean(results.intervals.iter().filter_map(|interval| interval.cpu_cores).collect());
    let most = results.intervals.iter().filter_map(|interval| interval.rss_bytes).max();
    let lag = results.intervals.iter().filter_map(Interval::lag).max();
    let is_watched = results.intervals.iter().any(|interval| interval.lag_events_max.is_some());
    let seen = if is_watched { "at most" } else { "at most, of a look a second" };
    let parts = [
        groups.map(|groups| format!("{groups:.1} commands a commit")),
        cores.map(|cores| format!("{cores:.2} cores")),
        most.map(|bytes| format!("{} MB resident at most", bytes / 1_000_000)),
        lag.map(|lag| format!("read models {lag} events behind {seen}")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("machine    {}", parts.join(", ")))
}

/// Versions and what makes commits durable.
fn durability_note(results: &Results) -> Option<String> {
    let settings = results.durability.iter().filter(|setting| !setting.name.ends_with("_version"));
    let settings = settings.map(|setting| format!("{} {}", setting.name, setting.value));
    let server = results.versions.server.as_ref().map(|version| format!("daemon {version}"));
    let store = Some(results.versions.store.clone()).filter(|store| !store.is_empty());
    let parts: Vec<_> = store.into_iter().chain(settings).chain(server).collect();
    (!parts.is_empty()).then(|| format!("store      {}", parts.join(", ")))
}

fn compared(results: &Results, baseline: &Results) -> String {
    let change = |new: f64, old: f64| {
        if old > 0.0 { format!("{:+.1} %", (new / old - 1.0) * 100.0) } else { "new".to_owned() }
    };
    let (new, old) = (&results.totals, &baseline.totals);
    format!(
        "baseline   rate {}, p50 {}, p99 {}",
        change(new.per_second, old.per_second),
        change(new.latency.p50_micros as f64, old.latency.p50_micros as f64),
        change(new.latency.p99_micros as f64, old.latency.p99_micros as f64),
    )
}

fn verdict(results: &Results) -> String {
    let mut text = String::new();
    for threshold in &results.thresholds {
        let held = if threshold.held { "held" } else { "BROKEN" };
        line(&mut text, format_args!("required   {} {held}: {}", threshold.expression, threshold.actual));
    }
    match &results.verification {
        None => line(&mut text, format_args!("verified   no, it was not asked for")),
        Some(found) if found.passed() => line(
            &mut text,
            format_args!(
                "verified   {} commands and {} reads against {} events: nothing lost, doubled or out of order",
                found.commands, found.reads, found.events
            ),
        ),
        Some(found) => {
            for finding in &found.findings {
                line(&mut text, format_args!("FOUND      {}: {}", finding.kind, finding.sentence));
            }
        }
    }
    match results.verdict.passed {
        true => text.push_str("verdict    passed"),
        false => {
            text.push_str("verdict    FAILED");
            for reason in &results.verdict.reasons {
                text.push_str("\n           ");
                text.push_str(reason);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadtest::results::{Restart, Settings};

    #[test]
    fn an_argument_is_quoted_where_a_shell_would_read_it_otherwise() {
        assert_eq!(
            (quoted("--rate=5"), quoted("p99<20ms"), quoted("")),
            ("--rate=5".into(), "'p99<20ms'".into(), "''".into())
        );
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_baseline_of_another_workload_is_compared_with_a_warning() {
        let of = |workload: &str| {
            let mut results = Results::default();
            results.settings.workload = workload.to_owned();
            results
        };

        let text = table(&of("payments"), Some(&of("cold")));

        assert!(text.contains("WARNING    not the same in the baseline: workload: cold → payments\n"), "{text}");
        assert!(!table(&of("cold"), Some(&of("cold"))).contains("WARNING"));
    }

    #[test]
    fn kills_before_the_measurement_are_told_apart() {
        let killed = |at_seconds| Restart { at_seconds, down_seconds: Some(0.5) };
        let restarts = vec![killed(-0.01), killed(2.0)];

        let notes = notes(&Results { restarts, ..Results::default() }, None);

        let told = "kills      2 (1 of them during warm-up), the longest 0.50 s without an answer".to_owned();
        assert!(notes.contains(&told), "{notes:?}");
    }

    #[test]
    fn a_lag_that_was_looked_at_once_a_second_is_not_told_as_a_maximum() {
        let at_its_end = Interval { lag_events: Some(7), ..Interval::default() };
        let watched = Interval { lag_events_max: Some(90), ..at_its_end.clone() };
        let note = |interval| machine_note(&Results { intervals: vec![interval], ..Results::default() }).unwrap();

        assert!(note(watched).ends_with("read models 90 events behind at most"));
        assert!(note(at_its_end).ends_with("read models 7 events behind at most, of a look a second"));
    }

    #[test]
    fn a_passed_run_of_one_kind_is_told_in_few_lines() {
        let mut results = Results::default();
        results.verdict.passed = true;
        results.versions.optimised = true;

        let text = table(&results, None);

        assert!(text.contains("verdict    passed") && text.contains("verified   no"), "{text}");
        assert!(text.lines().count() < 10, "{text}");
    }

    #[test]
    fn a_generator_is_told_by_one_rule_whether_it_kept_its_schedule_or_not() {
        let note = |late, fell_behind| {
            generator_note(&Generator { late, fell_behind, due: 400, max_delay_micros: 15_600, skipped: 0 })
        };

        let told = "operations 4 were sent over 5 ms late and 0 not at all, the latest 15.6 ms late";
        assert_eq!(note(4, false), format!("generator  kept its schedule (up to 1 %): of 400 {told}"));
        let told = told.replace("operations 4", "operations 5");
        assert_eq!(note(5, true), format!("GENERATOR  fell behind its schedule (more than 1 %): of 400 {told}"));
    }

    #[test]
    fn a_slow_rate_and_a_short_run_are_told_as_they_are() {
        let settings = Settings { rate_per_second: Some(0.5), ..Settings::default() };
        let text = table(&Results { settings, duration_seconds: 0.001, ..Results::default() }, None);

        assert!(text.contains(", 0.50/s, at most 0 callers, 1.00 ms, "), "{text}");
    }
}
