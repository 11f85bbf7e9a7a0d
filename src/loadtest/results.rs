//! This file is what a finished run leaves behind: `--output json` writes it, `--baseline FILE` and the report read it.
//!
//! Fields may be added; a file written by an earlier release is read with their defaults. A field that changes its
//! meaning raises [`FORMAT`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

mod figures;

pub use figures::{Figures, Interval, Latency, Percentile};

/// The shape of the file.
pub const FORMAT: u32 = 1;

/// A finished run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    /// [`FORMAT`] of the release that wrote it.
    pub essaim_load_format: u32,
    /// When the clock started, after filling.
    pub started_at: DateTime<Utc>,
    /// How long was measured, without warm-up and drain, in seconds.
    pub duration_seconds: f64,
    /// What was asked for.
    pub settings: Settings,
    /// What it ran on.
    pub machine: Machine,
    /// What ran.
    pub versions: Versions,
    /// What stands between a commit and its loss, as the store was found, e.g. `synchronous_commit` = `on`.
    pub durability: Vec<Setting>,
    /// One a second, from the start of the measurement.
    pub intervals: Vec<Interval>,
    /// The whole measurement.
    pub totals: Figures,
    /// The whole measurement for each kind of command or read, e.g. `authorize`.
    pub kinds: BTreeMap<String, Figures>,
    /// From a caller's answer to visible in the hot read model, where the engine is in this process.
    pub visible: Option<Latency>,
    /// From the moment the store's commit returned to visible in the hot read model, where the engine is in this process.
    pub visible_from_commit: Option<Latency>,
    /// The latency of all commands for the percentile plot, rising.
    pub percentiles: Vec<Percentile>,
    /// How many commands were refused, by code. These are answers, not errors.
    pub refusals: BTreeMap<String, u64>,
    /// Attempts of unknown outcome that were made again under their key, by class.
    pub retries: BTreeMap<String, u64>,
    /// How the peak was searched, for `--find-peak`.
    pub peak: Option<PeakSearch>,
    /// Kills and restarts, for `--kill-every`.
    pub restarts: Vec<Restart>,
    /// Whether the generator kept its own schedule; open loop only.
    pub generator: Option<Generator>,
    /// What the checker found; none when it was not asked.
    pub verification: Option<Verification>,
    /// The `--require`d ones, in the order given.
    pub thresholds: Vec<Threshold>,
    /// What it all amounts to.
    pub verdict: Verdict,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Its name, e.g. `payments`.
    pub workload: String,
    /// `embedded`, or the daemon's URL.
    pub target: String,
    /// The database's URL, without user and password; empty when the target does not say.
    pub database: String,
    /// `closed loop`, `constant` or `poisson` arrivals, `find peak`.
    pub schedule: String,
    /// Callers at work at a time; for an open loop the most there may be.
    pub callers: u64,
    /// Commands a second that were to arrive; none for a closed loop.
    pub rate_per_second: Option<f64>,
    /// Seconds before the measurement.
    pub warmup_seconds: f64,
    /// Seconds of measurement that were asked for.
    pub duration_seconds: f64,
    /// Makes the choices of each caller, and the moments of an open loop; not which caller takes which moment.
    pub seed: u64,
    /// Whether it ended early, at Ctrl-C.
    pub interrupted: bool,
    /// The command line, as it could be typed again.
    pub command_line: String,
    /// What else was set, by its key.
    pub others: Vec<Setting>,
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value, as a person would write it.
    pub value: String,
}

/// What it ran on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Logical cores this process may use.
    pub cores: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Name and release of the operating system.
    pub os: String,
}

/// What ran.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    /// Of this program.
    pub essaim: String,
    /// Kind and version of the store, e.g. `PostgreSQL 15.8`.
    pub store: String,
    /// The daemon's own version, when the target was one.
    pub server: Option<String>,
    /// Whether this program and the daemon were built with optimisation; figures of a debug build mean little.
    pub optimised: bool,
}

/// How the highest rate within the limit was found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeakSearch {
    /// The p99 that must not be passed, in microseconds.
    pub p99_limit_micros: u64,
    /// The highest rate that held, in commands a second; none when not even the lowest did.
    pub peak_per_second: Option<f64>,
    /// In the order they were tried; one that did not hold is tried again, and counts when it did so twice in a row.
    pub steps: Vec<PeakStep>,
    /// Whether it ended before it was over: the peak may be higher.
    pub incomplete: bool,
}

/// One rate that was tried.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeakStep {
    /// Commands a second that were to arrive.
    pub rate_per_second: f64,
    /// Commands a second that were answered.
    pub reached_per_second: f64,
    /// Their latency.
    pub latency: Latency,
    /// How many failed.
    pub errors: u64,
    /// Whether the rate was reached within the limit and without errors.
    pub held: bool,
}

/// One kill -9 and what came after.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// When it was killed, in seconds since the start of the measurement; negative when that was during the warm-up.
    pub at_seconds: f64,
    /// How long until the next success, in seconds; none when there was none.
    pub down_seconds: Option<f64>,
}

/// Whether the generator kept its own schedule.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Generator {
    /// Whether more than one in a hundred was sent late or never: then the figures speak of it as much as of the target.
    pub fell_behind: bool,
    /// The furthest a command was sent after its moment, in microseconds.
    pub max_delay_micros: u64,
    /// Commands whose moment came.
    pub due: u64,
    /// Of those, how many were sent more than 5 ms after it.
    pub late: u64,
    /// Of those, how many were never sent.
    pub skipped: u64,
}

/// What the checker looked at and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Verification {
    /// Commands held against the log.
    pub commands: u64,
    /// Of these, how many had been acknowledged with events.
    pub acknowledged: u64,
    /// Of these, how many had an outcome unknown to their callers.
    pub unknown: u64,
    /// Of the unknown ones, how many stand in the log.
    pub unknown_in_log: u64,
    /// Reads held against the log.
    pub reads: u64,
    /// Events of the log that were read.
    pub events: u64,
    /// Read models that were compared with the fold of the log.
    pub read_models: Vec<String>,
    /// How many findings there are of each kind; empty when all is well.
    pub counts: BTreeMap<String, u64>,
    /// The first findings of each kind.
    pub findings: Vec<Finding>,
    /// Why the check could not be finished, if it could not.
    pub incomplete: Option<String>,
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// Its kind, e.g. `lost`.
    pub kind: String,
    /// What was found where.
    pub sentence: String,
}

/// One `--require`d condition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Threshold {
    /// As it was given, e.g. `p99<20ms`.
    pub expression: String,
    /// What was measured, e.g. `12.4 ms`.
    pub actual: String,
    /// Whether it held.
    pub held: bool,
}

/// What a run amounts to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// Whether nothing is amiss.
    pub passed: bool,
    /// What is amiss, one sentence each.
    pub reasons: Vec<String>,
}

/// Why a file is no finished run.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// It is not what `--output json` writes.
    #[error("this is no result of `essaim load --output json`")]
    NotResults(#[source] serde_json::Error),
    /// It was written by a later release.
    #[error("these results have format {found}, this program knows up to {FORMAT}")]
    NewerFormat {
        /// Its format.
        found: u32,
    },
}

impl Results {
    /// Reads what [`Results::to_json`] wrote.
    ///
    /// # Errors
    /// [`ResultsError`] when it is something else.
    pub fn from_json(text: &str) -> Result<Self, ResultsError> {
        /// The one field without a default, by which such a file is known.
        #[derive(Deserialize)]
        struct Marked {
            essaim_load_format: u32,
        }
        let Marked { essaim_load_format: found } = serde_json::from_str(text).map_err(ResultsError::NotResults)?;
        if found > FORMAT {
            return Err(ResultsError::NewerFormat { found });
        }
        serde_json::from_str(text).map_err(ResultsError::NotResults)
    }

    /// The results as JSON text, for people too.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers, texts and maps with text keys can be written as JSON")
    }
}

impl Results {
    /// Events a second of some of the run: appended, or of `rebuild` read; none where there were none.
    pub fn events_per_second(&self, figures: &Figures) -> Option<f64> {
        // Few long operations do not fill the time that is measured: their own times tell the rate.
        let worked = figures.latency.mean_micros * figures.answered as f64 / 1e6 / self.settings.callers.max(1) as f64;
        let (events, seconds) = match self.kinds.contains_key("rebuild") {
            true => (figures.events, worked),
            false => (figures.events.saturating_sub(figures.events_late), self.duration_seconds),
        };
        (figures.events > 0 && seconds > 0.0).then(|| events as f64 / seconds)
    }
}

impl Restart {
    /// Whether it was killed before anything was measured.
    pub fn is_before_measurement(&self) -> bool {
        self.at_seconds < 0.0
    }
}

impl Verification {
    /// Whether everything was checked and nothing found.
    pub fn passed(&self) -> bool {
        self.counts.is_empty() && self.incomplete.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Results {
        let latency =
            Latency { mean_micros: 1.1, p50_micros: 1, p90_micros: 2, p99_micros: 3, p999_micros: 4, max_micros: 5 };
        let errors: BTreeMap<String, u64> = [("unknown".to_owned(), 3)].into();
        let (answered_late, events_late) = (1, 1);
        let figures = Figures { answered: 7, answered_late, per_second: 0.1, latency, errors, events: 6, events_late };
        let interval = Interval {
            at_seconds: 1.0,
            length_seconds: 1.0,
            figures: figures.clone(),
            reads: 2,
            lag_events: Some(0),
            lag_events_max: Some(4),
            group_mean: Some(1.5),
            group_max: None,
            rss_bytes: Some(u64::MAX),
            cpu_cores: Some(0.3),
            in_flight: Some(1),
        };
        let step = PeakStep { rate_per_second: 10.0, reached_per_second: 9.9, latency, errors: 0, held: true };
        Results {
            essaim_load_format: FORMAT,
            started_at: DateTime::from_timestamp_micros(1_795_000_000_123_456).unwrap(),
            duration_seconds: 70.0,
            settings: Settings { seed: u64::MAX, rate_per_second: Some(0.1 + 0.2), ..Settings::default() },
            machine: Machine { cores: 2, ..Machine::default() },
            versions: Versions { server: Some("0.1.0".into()), ..Versions::default() },
            durability: vec![Setting { name: "fsync".into(), value: "on".into() }],
            intervals: vec![interval],
            kinds: [("create".to_owned(), figures.clone())].into(),
            totals: figures,
            visible: Some(latency),
            visible_from_commit: Some(latency),
            percentiles: vec![Percentile { quantile: 0.999, micros: 4, count: 6 }],
            refusals: [("not_pending".to_owned(), 1)].into(),
            retries: [("timeout".to_owned(), 2)].into(),
            peak: Some(PeakSearch {
                p99_limit_micros: 20_000,
                peak_per_second: None,
                steps: vec![step],
                incomplete: true,
            }),
            restarts: vec![Restart { at_seconds: 5.0, down_seconds: None }],
            generator: Some(Generator { fell_behind: true, max_delay_micros: 1, due: 9, late: 3, skipped: 2 }),
            verification: Some(Verification { incomplete: Some("the target died".into()), ..Verification::default() }),
            thresholds: vec![Threshold { expression: "p99<20ms".into(), actual: "3 µs".into(), held: true }],
            verdict: Verdict { passed: false, reasons: vec!["amiss".into()] },
        }
    }

    #[test]
    fn results_written_and_read_are_the_same() {
        assert_eq!(Results::from_json(&full().to_json()).unwrap(), full());
    }

    #[test]
    fn results_of_an_earlier_release_that_knew_less_can_be_read() {
        let results = Results::from_json(r#"{"essaim_load_format": 1, "totals": {"answered": 5}}"#).unwrap();

        assert_eq!((results.totals.answered, results.verification), (5, None));
    }

    #[test]
    fn results_of_a_later_format_and_other_files_are_refused() {
        let later = format!(r#"{{"essaim_load_format": {}}}"#, FORMAT + 1);
        assert!(matches!(Results::from_json(&later), Err(ResultsError::NewerFormat { found }) if found == FORMAT + 1));
        assert!(matches!(Results::from_json(r#"{"totals": {}}"#), Err(ResultsError::NotResults(_))));
        assert!(matches!(Results::from_json("<!doctype html>"), Err(ResultsError::NotResults(_))));
    }

    #[test]
    fn what_could_not_be_checked_has_not_passed() {
        let checked = Verification::default();
        assert!(checked.passed());

        assert!(!Verification { incomplete: Some("no answer".into()), ..checked.clone() }.passed());
        assert!(!Verification { counts: [("lost".to_owned(), 1)].into(), ..checked }.passed());
    }
}
