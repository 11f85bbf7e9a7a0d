//! This file says what is drawn: curves over time, the percentile plot and the search for the peak, as data for
//! `charts.js`. What was not measured has a sentence in its chart's place, and what a run has nothing of has none.

use std::collections::BTreeSet;

use serde::Serialize;

use super::format::precise;
use crate::loadtest::results::{Interval, Latency, Results};

/// One chart.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    /// Names the element it is drawn into.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What is seen, in a sentence.
    pub(super) note: &'static str,
    /// Why nothing was measured, where a chart of it is expected all the same.
    #[serde(skip)]
    absent: Option<&'static str>,
    axis: Axis,
    unit: Unit,
    is_logarithmic: bool,
    /// This run, then the baseline where there is one; each with its own x values.
    runs: Vec<Run>,
    /// Moments to be marked, in seconds: kills.
    marks: Vec<f64>,
}

/// What the x values are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Axis {
    /// Seconds since the start.
    Seconds,
    /// One in how many took longer: 100 for the 99th percentile.
    OneIn,
    /// Commands a second that were to arrive.
    Rate,
}

/// What the y values are.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    PerSecond,
    Micros,
    Count,
    Bytes,
    Cores,
}

#[derive(Debug, Default, Serialize)]
struct Run {
    x: Vec<f64>,
    series: Vec<Series>,
}

/// One line.
#[derive(Debug, Serialize)]
struct Series {
    label: String,
    /// Place in the palette.
    colour: usize,
    values: Vec<Option<f64>>,
}

/// Takes one value out of an interval.
type Take<'a> = Box<dyn Fn(&Interval) -> Option<f64> + 'a>;

/// All charts of a run, in the order of the page. Some have a reason for their absence instead of data.
pub(super) fn charts(results: &Results, baseline: Option<&Results>) -> Vec<Chart> {
    let runs = Runs { results, baseline };
    let charts = [
        runs.throughput(),
        runs.latency(),
        runs.percentiles(),
        runs.lag(),
        runs.groups(),
        runs.errors(),
        runs.memory(),
        runs.processor(),
        runs.peak(),
    ];
    charts.into_iter().filter(|chart| chart.has_data() || chart.why_absent().is_some()).collect()
}

impl Chart {
    /// Why there is nothing to draw; none where there is something, or nothing was measured at all.
    pub(super) fn why_absent(&self) -> Option<&'static str> {
        let has_intervals = self.runs.iter().any(|run| !run.x.is_empty());
        self.absent.filter(|_| has_intervals && !self.has_data())
    }

    pub(super) fn has_data(&self) -> bool {
        self.runs.iter().flat_map(|run| &run.series).any(|series| series.values.iter().any(Option::is_some))
    }
}

#[derive(Clone, Copy)]
struct Runs<'a> {
    results: &'a Results,
    baseline: Option<&'a Results>,
}

impl<'a> Runs<'a> {
    fn throughput(self) -> Chart {
        let has_reads = self.intervals().any(|interval| interval.reads > 0);
        let commands = |interval: &Interval| interval.figures.answered.saturating_sub(interval.reads);
        let mut lines: Vec<(&str, Take<'_>)> =
            vec![("commands", Box::new(move |interval| rate(interval, commands(interval))))];
        if has_reads {
            lines.push(("reads", Box::new(|interval| rate(interval, interval.reads))));
        }
        let note = "Answered a second, refusals included.";
        self.over_time("throughput", "Throughput", note, Unit::PerSecond, &lines)
    }

    fn latency(self) -> Chart {
        let of = |pick: fn(&Latency) -> u64| -> Take<'a> {
            Box::new(move |interval| {
                let latency = &interval.figures.latency;
                (latency.max_micros > 0).then(|| precise(pick(latency)).max(1.0))
            })
        };
        let lines = [
            ("p50", of(|latency| latency.p50_micros)),
            ("p90", of(|latency| latency.p90_micros)),
            ("p99", of(|latency| latency.p99_micros)),
            ("p99.9", of(|latency| latency.p999_micros)),
            ("max", of(|latency| latency.max_micros)),
        ];
        let note = "Time to the answer, in each second.";
        let chart = self.over_time("latency", "Latency over time", note, Unit::Micros, &lines);
        Chart { is_logarithmic: true, ..chart }
    }

    fn percentiles(self) -> Chart {
        let run = |results: &Results| {
            // The slowest of all has no share behind it; it stands where one in all of them would.
            let all = results.percentiles.last().map_or(1.0, |last| precise(last.count)).max(1.0);
            let mut points: Vec<(f64, f64)> = Vec::new();
            for point in &results.percentiles {
                let one_in = (1.0 / (1.0 - point.quantile).max(1.0 / all)).min(all);
                let micros = precise(point.micros).max(1.0);
                match points.last_mut() {
                    Some(last) if last.0 >= one_in => last.1 = micros,
                    _ => points.push((one_in, micros)),
                }
            }
            let (x, values) = points.into_iter().map(|(x, y)| (x, Some(y))).unzip();
            Run { x, series: vec![Series { label: "latency".to_owned(), colour: 0, values }] }
        };
        Chart {
            axis: Axis::OneIn,
            is_logarithmic: true,
            runs: self.each(run),
            marks: Vec::new(),
            ..Chart::new(
                "percentiles",
                "Latency by percentile",
                "The share of all answers that took at most so long.",
                Unit::Micros,
            )
        }
    }

    fn lag(self) -> Chart {
        let lines: [(&str, Take<'_>); 1] = [("events behind", Box::new(|interval| interval.lag().map(precise)))];
        let note = if self.results.intervals.iter().any(|interval| interval.lag_events_max.is_some()) {
            "Events that the hot read models were behind the log: the most in each second."
        } else {
            "Events that the hot read models were behind the log, looked at once a second."
        };
        let absent = "Not measured: the target did not tell how far its read models were.";
        self.over_time("lag", "Projection lag", note, Unit::Count, &lines).or(absent)
    }

    fn groups(self) -> Chart {
        let lines: [(&str, Take<'_>); 2] = [
            ("mean", Box::new(|interval| interval.group_mean)),
            ("largest", Box::new(|interval| interval.group_max.map(precise))),
        ];
        let absent = "Not measured: nothing was committed, or the target did not tell its commits.";
        self.over_time("groups", "Group commit", "Commands that shared a commit.", Unit::Count, &lines).or(absent)
    }

    fn errors(self) -> Chart {
        let classes: BTreeSet<String> =
            self.intervals().flat_map(|interval| interval.figures.errors.keys().cloned()).collect();
        let lines: Vec<(&str, Take<'_>)> = classes
            .iter()
            .map(|class| -> (&str, Take<'_>) {
                let count = move |interval: &Interval| interval.figures.errors.get(class).copied().unwrap_or(0);
                (class, Box::new(move |interval| rate(interval, count(interval))))
            })
            .collect();
        let note = "Failures a second, by class. Business refusals are answers, not errors.";
        self.over_time("errors", "Errors", note, Unit::PerSecond, &lines)
    }

    fn memory(self) -> Chart {
        let lines: [(&str, Take<'_>); 1] = [("resident", Box::new(|interval| interval.rss_bytes.map(precise)))];
        let absent = "Not measured: the target did not tell its memory.";
        self.over_time("memory", "Memory", "Resident memory of the measured process.", Unit::Bytes, &lines).or(absent)
    }

    fn processor(self) -> Chart {
        let lines: [(&str, Take<'_>); 1] = [("cores", Box::new(|interval| interval.cpu_cores))];
        let note = "Processor time of the measured process, in cores.";
        let absent = "Not measured: the target did not tell its processor time.";
        self.over_time("processor", "Processor", note, Unit::Cores, &lines).or(absent)
    }

    fn peak(self) -> Chart {
        let run = |results: &Results| {
            let Some(peak) = &results.peak else { return Run::default() };
            let mut steps: Vec<_> = peak.steps.iter().collect();
            steps.sort_by(|one, other| one.rate_per_second.total_cmp(&other.rate_per_second));
            let line = |label: &str, colour, pick: &dyn Fn(&Latency) -> u64| Series {
                label: label.to_owned(),
                colour,
                values: steps.iter().map(|step| Some(precise(pick(&step.latency)).max(1.0))).collect(),
            };
            Run {
                x: steps.iter().map(|step| step.rate_per_second).collect(),
                series: vec![
                    line("p50", 0, &|latency| latency.p50_micros),
                    line("p99", 2, &|latency| latency.p99_micros),
                    line("p99 limit", 5, &|_| peak.p99_limit_micros),
                ],
            }
        };
        Chart {
            axis: Axis::Rate,
            is_logarithmic: true,
            runs: self.each(run),
            marks: Vec::new(),
            ..Chart::new("peak", "Search for the peak", "Latency at each rate that was tried.", Unit::Micros)
        }
    }

    fn over_time(
        self,
        id: &'static str,
        title: &'static str,
        note: &'static str,
        unit: Unit,
        lines: &[(&str, Take<'_>)],
    ) -> Chart {
        let runs = self.each(|results| Run {
            x: results.intervals.iter().map(|interval| interval.at_seconds).collect(),
            series: lines
                .iter()
                .enumerate()
                .map(|(colour, (label, take))| Series {
                    label: (*label).to_owned(),
                    colour,
                    values: results.intervals.iter().map(take).collect(),
                })
                .collect(),
        });
        Chart { runs, marks: self.kills(), ..Chart::new(id, title, note, unit) }
    }

    fn each(self, run: impl Fn(&Results) -> Run) -> Vec<Run> {
        std::iter::once(self.results).chain(self.baseline).map(run).collect()
    }

    fn intervals(self) -> impl Iterator<Item = &'a Interval> {
        self.results.intervals.iter().chain(self.baseline.into_iter().flat_map(|baseline| &baseline.intervals))
    }

    fn kills(self) -> Vec<f64> {
        let measured = self.results.restarts.iter().filter(|restart| !restart.is_before_measurement());
        measured.map(|restart| restart.at_seconds).collect()
    }
}

impl Chart {
    fn new(id: &'static str, title: &'static str, note: &'static str, unit: Unit) -> Self {
        let (runs, marks) = (Vec::new(), Vec::new());
        Self { id, title, note, absent: None, axis: Axis::Seconds, unit, is_logarithmic: false, runs, marks }
    }

    /// With this sentence in its place where there is nothing to draw.
    fn or(self, absent: &'static str) -> Self {
        Self { absent: Some(absent), ..self }
    }
}

fn rate(interval: &Interval, count: u64) -> Option<f64> {
    (interval.length_seconds > 0.0).then(|| precise(count) / interval.length_seconds)
}
