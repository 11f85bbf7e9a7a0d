//! This file sets this run against an earlier one: each figure with its change, and what differed besides.

use std::fmt;

use super::format::{self, precise};
use crate::loadtest::results::{Interval, Results};

/// Changes smaller than this are not called better or worse: runs on one machine differ by as much.
const NOISE: f64 = 0.02;

/// One figure of a run.
pub(super) struct Figure {
    pub(super) name: &'static str,
    value: Option<f64>,
    show: fn(f64) -> String,
    wanted: Wanted,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    More,
    Less,
    Neither,
}

/// One figure of both runs.
pub(super) struct Change {
    pub(super) name: &'static str,
    pub(super) before: String,
    pub(super) now: String,
    /// E.g. `+12.3 %`; `from 0` or `–` where there is nothing to divide by.
    pub(super) change: String,
    pub(super) trend: Trend,
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trend {
    Better,
    Worse,
    Same,
}

/// Something besides the figures that was not the same.
pub(super) struct Difference {
    name: String,
    before: String,
    now: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} → {}", self.name, self.before, self.now)
    }
}

/// The figures of both runs that both have, or one.
pub(super) fn changes(now: &Results, before: &Results) -> Vec<Change> {
    let pairs = figures(now).into_iter().zip(figures(before));
    let told = pairs.filter(|(now, before)| now.value.is_some() || before.value.is_some());
    told.map(|(now, before)| change(&now, &before)).collect()
}

/// The change of one figure by name, where both runs have it.
pub(super) fn change_of(name: &str, now: &Results, before: &Results) -> Option<Change> {
    changes(now, before).into_iter().find(|change| change.name == name)
}

/// What else was not the same: a comparison across these says little about the program.
pub(super) fn differences(now: &Results, before: &Results) -> Vec<Difference> {
    let (now, before) = (circumstances(now), circumstances(before));
    let mut names: Vec<&String> = now.iter().map(|(name, _)| name).collect();
    names.extend(before.iter().map(|(name, _)| name).filter(|name| now.iter().all(|(other, _)| other != *name)));
    let value_in = |list: &[(String, String)], name: &str| {
        list.iter().find(|(other, _)| other == name).map_or_else(|| "–".to_owned(), |(_, value)| value.clone())
    };
    let differences = names.into_iter().map(|name| Difference {
        name: name.clone(),
        before: value_in(&before, name),
        now: value_in(&now, name),
    });
    differences.filter(|difference| difference.before != difference.now).collect()
}

fn figures(results: &Results) -> Vec<Figure> {
    let (totals, latency) = (&results.totals, &results.totals.latency);
    let some = |value: u64| Some(precise(value)).filter(|_| totals.answered > 0);
    let figure = |name, value, show, wanted| Figure { name, value, show, wanted };
    let rate = |value: f64| format!("{}/s", format::number(value));
    let plain = |value: f64| format::number(value);
    let cores = mean(results, |interval| interval.cpu_cores);
    let cpu_micros = cores.filter(|_| totals.per_second > 0.0).map(|cores| cores * 1e6 / totals.per_second);
    let from_commit = results.visible_from_commit;
    let peak_memory = results.intervals.iter().filter_map(|interval| interval.rss_bytes).max().map(precise);
    vec![
        figure("throughput", Some(totals.per_second), rate, Wanted::More),
        figure("peak", results.peak.as_ref().and_then(|peak| peak.peak_per_second), rate, Wanted::More),
        figure("latency p50", some(latency.p50_micros), format::micros, Wanted::Less),
        figure("latency p90", some(latency.p90_micros), format::micros, Wanted::Less),
        figure("latency p99", some(latency.p99_micros), format::micros, Wanted::Less),
        figure("latency p99.9", some(latency.p999_micros), format::micros, Wanted::Less),
        figure("latency max", some(latency.max_micros), format::micros, Wanted::Less),
        figure("errors", Some(precise(totals.error_count())), plain, Wanted::Less),
        figure("events", Some(precise(totals.events)), plain, Wanted::Neither),
        figure("events a second", results.events_per_second(totals), rate, Wanted::More),
        figure("visible p50", results.visible.map(|it| precise(it.p50_micros)), format::micros, Wanted::Less),
        figure("visible p99", results.visible.map(|it| precise(it.p99_micros)), format::micros, Wanted::Less),
        figure("commit visible p50", from_commit.map(|it| precise(it.p50_micros)), format::micros, Wanted::Less),
        figure("commit visible p99", from_commit.map(|it| precise(it.p99_micros)), format::micros, Wanted::Less),
        figure("group commit, mean", mean(results, |interval| interval.group_mean), plain, Wanted::Neither),
        figure("processor, cores", cores, plain, Wanted::Neither),
        figure("processor per answer", cpu_micros, format::micros, Wanted::Less),
        figure("memory, most", peak_memory, bytes, Wanted::Less),
    ]
}

/// The mean of what the intervals have, weighted by their lengths.
fn mean(results: &Results, take: impl Fn(&Interval) -> Option<f64>) -> Option<f64> {
    let known = results.intervals.iter().filter_map(|interval| Some((take(interval)?, interval.length_seconds)));
    let (sum, seconds) = known.fold((0.0, 0.0), |(sum, all), (value, length)| (sum + value * length, all + length));
    (seconds > 0.0).then(|| sum / seconds)
}

fn change(now: &Figure, before: &Figure) -> Change {
    let show = |figure: &Figure| figure.value.map_or_else(|| "–".to_owned(), figure.show);
    let ratio = match (now.value, before.value) {
        (Some(now), Some(before)) if before > 0.0 => Some(now / before - 1.0),
        (Some(0.0), Some(_)) => Some(0.0),
        _ => None,
    };
    let appeared = ratio.is_none() && now.value.is_some_and(|now| now > 0.0) && before.value == Some(0.0);
    let trend = match now.wanted {
        Wanted::Less if appeared => Trend::Worse,
        Wanted::More | Wanted::Less if ratio.is_some_and(|ratio| ratio.abs() >= NOISE) => {
            let rose = ratio.is_some_and(|ratio| ratio > 0.0);
            if rose == (now.wanted == Wanted::More) { Trend::Better } else { Trend::Worse }
        }
        _ => Trend::Same,
    };
    let change = match ratio {
        Some(ratio) => percent(ratio),
        None if appeared => "from 0".to_owned(),
        None => "–".to_owned(),
    };
    Change { name: now.name, before: show(before), now: show(now), change, trend }
}

/// `+12.3 %`, `−4 %`, `±0 %`.
fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    match percent {
        _ if percent.abs() < 0.05 => "±0 %".to_owned(),
        _ if percent > 0.0 => format!("+{} %", format::number(percent)),
        _ => format!("−{} %", format::number(-percent)),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was made from a count")]
fn bytes(bytes: f64) -> String {
    format::bytes(bytes as u64)
}

/// What the figures depend on, by name.
fn circumstances(results: &Results) -> Vec<(String, String)> {
    let (settings, machine, versions) = (&results.settings, &results.machine, &results.versions);
    let rate = settings.rate_per_second.map_or_else(|| "–".to_owned(), format::number);
    let fixed = [
        ("workload", settings.workload.clone()),
        ("target", settings.target.clone()),
        ("schedule", settings.schedule.clone()),
        ("callers", settings.callers.to_string()),
        ("rate", rate),
        ("duration", format::seconds(settings.duration_seconds)),
        ("processor", machine.processor.clone()),
        ("cores", machine.cores.to_string()),
        ("memory", format::bytes(machine.memory_bytes)),
        ("operating system", machine.os.clone()),
        ("essaim", versions.essaim.clone()),
        ("store", versions.store.clone()),
        ("optimised build", if versions.optimised { "yes" } else { "no" }.to_owned()),
    ];
    let named = settings.others.iter().chain(&results.durability).map(|it| (it.name.clone(), it.value.clone()));
    fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadtest::results::{Figures, Latency, Settings};

    fn run(per_second: f64, p99_micros: u64, callers: u64) -> Results {
        let latency = Latency { p99_micros, ..Latency::default() };
        let totals = Figures { answered: 1_000, per_second, latency, ..Figures::default() };
        Results { totals, settings: Settings { callers, ..Settings::default() }, ..Results::default() }
    }

    #[test]
    fn a_higher_rate_is_better_and_a_higher_latency_worse() {
        let (now, before) = (run(1_500.0, 3_000, 64), run(1_000.0, 2_000, 64));

        let [rate, p99] = ["throughput", "latency p99"].map(|name| change_of(name, &now, &before).unwrap());

        assert_eq!((rate.before.as_str(), rate.now.as_str()), ("1,000/s", "1,500/s"));
        assert_eq!((rate.change.as_str(), rate.trend), ("+50.0 %", Trend::Better));
        assert_eq!((p99.change.as_str(), p99.trend), ("+50.0 %", Trend::Worse));
    }

    #[test]
    fn a_change_within_the_noise_is_neither() {
        let change = change_of("throughput", &run(1_015.0, 1, 1), &run(1_000.0, 1, 1)).unwrap();

        assert_eq!((change.change.as_str(), change.trend), ("+1.50 %", Trend::Same));
    }

    #[test]
    fn errors_where_there_were_none_are_worse() {
        let mut now = run(1_000.0, 1, 1);
        now.totals.errors.insert("unknown".into(), 3);

        let change = change_of("errors", &now, &run(1_000.0, 1, 1)).unwrap();

        assert_eq!((change.change.as_str(), change.trend), ("from 0", Trend::Worse));
    }

    #[test]
    fn what_else_was_not_the_same_is_told() {
        let found = differences(&run(1.0, 1, 256), &run(1.0, 1, 64));

        let told: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.before.as_str(), it.now.as_str())).collect();
        assert_eq!(told, [("callers", "64", "256")]);
    }
}
