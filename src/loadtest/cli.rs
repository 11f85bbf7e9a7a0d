//! This file is `essaim load`: its flags, what they amount to, and what is shown and written in the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::header::HeaderValue;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::consent;
use super::error::LoadError;
use super::hdr_log;
use super::output;
use super::place;
use super::progress::Progress;
use super::quantity;
use super::report::{write_report, write_whole};
use super::results::{Results, Setting, Settings};
use super::run::{HISTORY_MEGABYTES, On, Plan, run};
use super::schedule::{Arrivals, Schedule};
use super::setup::Setup;
use super::summary;
use super::thresholds::Requirement;
use crate::limits::Limits;

/// The report when none is named.
const REPORT: &str = "essaim-load.html";
/// Callers when none are asked for: enough to fill a group commit.
const CALLERS: usize = 64;
/// Operations under way at most in an open loop, when nothing else is asked for.
const OPEN_CALLERS: usize = 2_048;
/// Where a search for the peak begins.
const FIRST_RATE: f64 = 500.0;
/// The share of commands that must be refused when none is asked for.
const REFUSALS: f64 = 0.05;
/// The share of reads among mixed operations when none is asked for.
const READS: f64 = 0.5;
/// How long each rate is tried when no duration is asked for.
const STEP: Duration = Duration::from_secs(3);

/// What `essaim load` can be asked for.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct Flags {
    /// Run an engine in this process; the default when there is no --url
    #[arg(long, conflicts_with_all = ["url", "kill_every"])]
    embedded: bool,
    /// Load the daemon that runs at this address, e.g. http://127.0.0.1:7700
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// What is done
    #[arg(long, value_name = "NAME", default_value = "payments")]
    workload: WorkloadName,
    /// Open loop: so many operations a second, whatever the answers do
    #[arg(long, value_name = "N", value_parser = quantity::rate, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// How the moments of an open loop are spread
    #[arg(long, value_name = "KIND", default_value = "constant")]
    arrivals: ArrivalsName,
    /// Callers at work at a time [default: 64; of an open loop at most, 2048]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    callers: Option<u32>,
    /// Raise the rate until the 99th percentile breaks this limit
    #[arg(long, value_name = "P99", num_args = 0..=1, default_missing_value = "20ms",
        value_parser = quantity::positive_duration)]
    find_peak: Option<Duration>,
    /// How long is measured; of --find-peak, each rate [default: 10s; 3s]
    #[arg(long, value_name = "TIME", value_parser = quantity::positive_duration)]
    duration: Option<Duration>,
    /// How long the load runs before anything is counted
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = quantity::duration)]
    warmup: Duration,
    /// Makes each caller's choices, and the moments of an open loop; which caller takes which moment is for the answers
    /// to decide, so that the same seed repeats a run of one caller exactly, and of many callers each for itself
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The share of commands that must be refused, in `payments` and `mixed` [default: 5%]
    #[arg(long, value_name = "SHARE", value_parser = quantity::share)]
    refusals: Option<f64>,
    /// The share of reads in the workload `mixed` [default: 50%]
    #[arg(long, value_name = "SHARE", value_parser = quantity::share)]
    reads: Option<f64>,
    /// How many aggregates there are, where the workload has a population [default: as the workload needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    aggregates: Option<u64>,
    /// How many events are there beforehand: in the longest stream, or in the log to rebuild from [default: 100000;
    /// 200000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: Option<u64>,
    /// How unevenly the workload `hot` picks them, as Zipf's exponent [default: all on one]
    #[arg(long, value_name = "EXPONENT", value_parser = quantity::exponent)]
    skew: Option<f64>,
    /// Hold every answer against the log afterwards
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_value = "true",
        default_missing_value = "true")]
    verify: std::primitive::bool,
    /// How many MB the answers kept for --verify may take; a run that reaches it ends there, says so, and fails
    #[arg(long, value_name = "N", default_value_t = HISTORY_MEGABYTES,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    history_mb: u64,
    /// Every command brings a key under which its outcome is stored, as over HTTP
    #[arg(long)]
    idempotent: bool,
    /// Use a database whose log has events already; on a terminal, it is asked whether that is meant
    #[arg(long)]
    allow_existing: bool,
    /// Run a daemon of its own, kill it with SIGKILL and start it again this often
    #[arg(long, value_name = "TIME", conflicts_with = "url", value_parser = quantity::positive_duration)]
    kill_every: Option<Duration>,
    /// What the run must reach, e.g. 'p99<20ms', 'rate>1000', 'errors=0'; may be repeated
    #[arg(long, value_name = "EXPR", value_parser = Requirement::parse)]
    require: Vec<Requirement>,
    /// Where the report is written
    #[arg(long, value_name = "FILE", default_value = REPORT)]
    report: PathBuf,
    /// Write no report
    #[arg(long, conflicts_with = "report")]
    no_report: bool,
    /// Compare with the results of an earlier run, as `--output json` wrote them
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Where the latencies are written as an HdrHistogram log, an interval a second
    #[arg(long, value_name = "FILE")]
    hdr_log: Option<PathBuf>,
    /// How the results are printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    output: Output,
}

const EXAMPLES: &str = "\
Only --database names a database: no environment and no configuration file does.

Examples:
  essaim load                                         64 callers for 10 s, on a temporary SQLite database
  essaim load --rate 500 --arrivals poisson --require 'p99<20ms' --require 'errors=0'
  essaim load --find-peak 10ms --database postgres://localhost/empty
  essaim load --url http://127.0.0.1:7700 --workload mixed --allow-existing
  essaim load --url https://payments.example --token-file token    for a daemon that asks for tokens
  essaim load --kill-every 2s --duration 20s          with kill -9 and restarts
  essaim load --output json > before.json; essaim load --baseline before.json

Exit codes: 0 all is well, 1 it is not, or something is amiss, 2 usage, 3 the store refused.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WorkloadName {
    /// Payments from their creation to their end, with a share of refusals
    Payments,
    /// The same with reads, each of which must include what its caller was told
    Mixed,
    /// Commands to payments that are not in memory
    Cold,
    /// Readings of many meters; this and those below run in this process only
    Spread,
    /// Readings of one meter, or of few far more often than of most (--skew)
    Hot,
    /// Readings of meters with short, longer and very long streams
    LongStreams,
    /// A read model built anew from the first event, again and again
    Rebuild,
}

impl WorkloadName {
    /// Whether a daemon can run it.
    pub(crate) fn is_of_payments(self) -> bool {
        matches!(self, Self::Payments | Self::Mixed | Self::Cold)
    }

    /// As it is typed.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ArrivalsName {
    /// At equal distances
    Constant,
    /// Independent of each other
    Poisson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs, and for --baseline
    Json,
}

/// What the command line says besides the flags of the harness.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The address of the database, if one was named.
    pub database: Option<String>,
    /// What bounds the engine.
    pub limits: Limits,
    /// Whether a database is taken whose commits may be lost.
    pub allow_weak_durability: bool,
    /// The configuration of a daemon of its own, as flags.
    pub daemon_flags: Vec<String>,
    /// What a daemon is sent with every request, for one that asks for bearer tokens.
    pub bearer: Option<HeaderValue>,
}

/// Does what was asked for.
///
/// # Errors
/// [`LoadError`], with the exit code that belongs to it; [`LoadError::NotMet`] when all was done and is not well.
pub async fn load(flags: Flags, surroundings: Surroundings) -> Result<(), LoadError> {
    let stop = Stop::on_signals();
    tokio::select! {
        biased;
        () = stop.at_once.cancelled() => Err(LoadError::Failed("a second signal: quit without finishing".into())),
        done = load_until(flags, surroundings, stop.soon.clone()) => done,
    }
}

async fn load_until(flags: Flags, surroundings: Surroundings, interrupt: CancellationToken) -> Result<(), LoadError> {
    let mut plan = flags.plan()?;
    flags.check_places()?;
    let baseline = flags.baseline.as_deref().map(output::read_baseline).transpose()?;
    let setup = Setup::make(&flags.wanted(&plan), surroundings).await?;
    plan.allow_existing = plan.allow_existing || consent::to_existing_events(&*setup.target, &interrupt).await;
    let progress = Progress::on_stderr();
    let on =
        On { workload: Arc::clone(&setup.workload), target: Arc::clone(&setup.target), daemon: setup.daemon.clone() };
    let ran = run(&plan, on, &progress, interrupt).await;
    progress.finish();
    setup.close().await;
    let mut outcome = ran?;
    let (began, slices) = (outcome.started_at, outcome.slices.take());
    let results = summary::results(outcome, flags.settings(&plan, &setup), &flags.require);
    let mut written = Ok(());
    if let (Some(path), Some(slices)) = (&flags.hdr_log, slices) {
        let log = hdr_log::text(began, &slices).and_then(|text| write_whole(path, &text));
        written = log.map_err(unwritable(path));
    }
    if let Some(path) = flags.report() {
        written = written.and(write_report(path, &results, baseline.as_ref()).map_err(unwritable(path)));
    }
    // What was measured is told also when a file cannot be written.
    let told = flags.show(&results, baseline.as_ref(), written.is_ok());
    written.and(told)
}

fn check_place(flag: &str, path: &Path) -> Result<(), LoadError> {
    if path == Path::new("-") {
        let what = match flag {
            "--report" => "the report is HTML for a browser, and needs a file; --output json writes to stdout",
            _ => "it needs a file; stdout is for the results",
        };
        return Err(LoadError::Usage(format!("{flag} -: {what}")));
    }
    let file = place::file_at(path).map_err(|error| error.to_string());
    let unwritable = file.and_then(|file| match tempfile::tempfile_in(place::folder_of(&file)) {
        Ok(_) => Ok(()),
        Err(_) if !place::folder_of(&file).is_dir() => Err("there is no such folder".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    unwritable.map_err(|why| LoadError::Usage(format!("{} cannot be written: {why}", path.display())))
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> LoadError {
    LoadError::io(format!("{} cannot be written", path.display()))
}

/// What signals ask for.
struct Stop {
    /// Cancelled by the first: finish with what there is.
    soon: CancellationToken,
    /// Cancelled by the second.
    at_once: CancellationToken,
}

impl Stop {
    fn on_signals() -> Self {
        let stop = Self { soon: CancellationToken::new(), at_once: CancellationToken::new() };
        let tokens = [stop.soon.clone(), stop.at_once.clone()];
        tokio::spawn(async move {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            let mut hangup = if is_hangup_ignored() { None } else { signal(SignalKind::hangup()).ok() };
            for token in tokens {
                tokio::select! {
                    biased;
                    interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() { return },
                    _ = terminate.recv() => {}
                    () = received(hangup.as_mut()) => {}
                }
                token.cancel();
            }
        });
        stop
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether somebody wants this program to outlive its terminal, as `nohup` does: listening would undo that.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // proc(5): a mask in hexadecimal, whose lowest bit is signal 1.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// What a setup is made for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) url: Option<String>,
    pub(crate) workload: WorkloadName,
    pub(crate) callers: usize,
    pub(crate) refusals: f64,
    pub(crate) reads: f64,
    pub(crate) aggregates: Option<u64>,
    pub(crate) events: Option<u64>,
    pub(crate) skew: Option<f64>,
    pub(crate) kill_every: Option<Duration>,
}

impl Flags {
    /// Whether a daemon is loaded, which may ask for tokens: a running one, or one of its own.
    pub fn is_over_http(&self) -> bool {
        self.url.is_some() || self.kill_every.is_some()
    }

    /// A flag that does nothing for a workload was meant for another one.
    fn check_workload(&self) -> Result<(), LoadError> {
        use WorkloadName::{Cold, Hot, LongStreams, Mixed, Payments, Rebuild, Spread};
        let meant: [(&str, bool, &[WorkloadName]); 5] = [
            ("--refusals", self.refusals.is_some(), &[Payments, Mixed]),
            ("--reads", self.reads.is_some(), &[Mixed]),
            ("--aggregates", self.aggregates.is_some(), &[Cold, Spread, Hot, Rebuild]),
            ("--events", self.events.is_some(), &[LongStreams, Rebuild]),
            ("--skew", self.skew.is_some(), &[Hot]),
        ];
        for (flag, is_given, workloads) in meant {
            if is_given && !workloads.contains(&self.workload) {
                let names = workloads.iter().map(|workload| workload.name()).collect::<Vec<_>>().join(", ");
                let what = format!("{flag} does nothing in the workload {}; it is for {names}", self.workload.name());
                return Err(LoadError::Usage(what));
            }
        }
        self.check_requirements()?;
        if self.workload == Hot && self.aggregates.is_some() && self.skew.is_none() {
            return Err(LoadError::Usage("--aggregates needs --skew in the workload hot, which else has one".into()));
        }
        Ok(())
    }

    /// What this run cannot measure would be found broken at its end.
    fn check_requirements(&self) -> Result<(), LoadError> {
        let Some(requirement) = self.require.iter().find(|requirement| requirement.is_of_visibility()) else {
            return Ok(());
        };
        let why = match self.workload {
            _ if self.is_over_http() => "over HTTP it is not seen when a write becomes visible".to_owned(),
            WorkloadName::Cold | WorkloadName::Rebuild => format!("{} writes nothing", self.workload.name()),
            _ => return Ok(()),
        };
        Err(LoadError::Usage(format!(
            "--require {}: {why}; it is measured by runs in this process (without --url and --kill-every) of payments, \
             mixed, spread, hot, long-streams",
            requirement.text()
        )))
    }

    fn plan(&self) -> Result<Plan, LoadError> {
        self.check_workload()?;
        if self.find_peak.is_some() && self.kill_every.is_some() {
            return Err(LoadError::Usage(
                "--find-peak and --kill-every do not go together: no rate holds its limit over a restart; find the \
                 peak first, then give a part of it as --rate beside --kill-every"
                    .into(),
            ));
        }
        let arrivals = match self.arrivals {
            ArrivalsName::Constant => Arrivals::Constant,
            ArrivalsName::Poisson => Arrivals::Poisson,
        };
        let callers = |default: usize| self.callers.map_or(default, |callers| callers as usize);
        let schedule = match (self.find_peak, self.rate) {
            (Some(p99), rate) => {
                Schedule::Peak { rate: rate.unwrap_or(FIRST_RATE), arrivals, callers: callers(OPEN_CALLERS), p99 }
            }
            (None, Some(rate)) => Schedule::Open { rate, arrivals, callers: callers(OPEN_CALLERS) },
            (None, None) if arrivals != Arrivals::Constant => {
                return Err(LoadError::Usage("--arrivals is for an open loop: add --rate, or --find-peak".into()));
            }
            // One rebuild is enough for a machine.
            (None, None) if self.workload == WorkloadName::Rebuild => Schedule::Closed { callers: callers(1) },
            (None, None) => Schedule::Closed { callers: callers(CALLERS) },
        };
        let default = if self.find_peak.is_some() { STEP } else { Duration::from_secs(10) };
        let duration = self.duration.unwrap_or(default);
        if let Some(every) = self.kill_every.filter(|every| *every >= duration) {
            return Err(LoadError::Usage(format!(
                "--kill-every {every:?} is no shorter than the {duration:?} that are measured, so that nothing would be \
                 killed in them: kill more often, or give a longer --duration"
            )));
        }
        Ok(Plan {
            schedule,
            warmup: self.warmup,
            duration,
            seed: self.seed,
            verify: self.verify,
            is_kept: self.idempotent || self.is_over_http(),
            allow_existing: self.allow_existing,
            history_megabytes: self.history_mb,
            keeps_slices: self.hdr_log.is_some(),
        })
    }

    /// Nobody wants to learn after ten minutes that the report has no place.
    fn check_places(&self) -> Result<(), LoadError> {
        let written = [("--report", self.report()), ("--hdr-log", self.hdr_log.as_deref())];
        let written = written.into_iter().filter_map(|(flag, path)| Some((flag, path?)));
        let named = written.clone().chain(self.baseline.as_deref().map(|path| ("--baseline", path)));
        for (place, (flag, path)) in written.enumerate() {
            check_place(flag, path)?;
            if let Some((other, _)) = named.clone().skip(place + 1).find(|(_, other)| place::is_same(path, other)) {
                let what = format!("{flag} and {other} are the same file, {}", path.display());
                return Err(LoadError::Usage(what));
            }
        }
        Ok(())
    }

    fn report(&self) -> Option<&Path> {
        (!self.no_report).then_some(self.report.as_path())
    }

    fn wanted(&self, plan: &Plan) -> Wanted {
        Wanted {
            url: self.url.clone(),
            workload: self.workload,
            callers: plan.schedule.callers(),
            refusals: self.refusals.unwrap_or(REFUSALS),
            reads: self.reads.unwrap_or(READS),
            aggregates: self.aggregates,
            events: self.events,
            skew: self.skew,
            kill_every: self.kill_every,
        }
    }

    fn settings(&self, plan: &Plan, setup: &Setup) -> Settings {
        let other = |name: &str, value: String| Setting { name: name.to_owned(), value };
        let mut others = vec![other("idempotency_keys", plan.is_kept.to_string())];
        if matches!(self.workload, WorkloadName::Payments | WorkloadName::Mixed) {
            others.push(other("refusals", format!("{}%", self.refusals.unwrap_or(REFUSALS) * 100.0)));
        }
        if self.workload == WorkloadName::Mixed {
            others.push(other("reads", format!("{}%", self.reads.unwrap_or(READS) * 100.0)));
        }
        others.extend(setup.others.iter().cloned());
        Settings {
            workload: setup.workload.name().to_owned(),
            target: self.url.as_ref().map_or_else(|| setup.kind.to_owned(), |_| setup.target.describe()),
            database: setup.database.clone(),
            schedule: plan.schedule.name().to_owned(),
            callers: plan.schedule.callers() as u64,
            rate_per_second: plan.schedule.rate(),
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: plan.duration.as_secs_f64(),
            seed: plan.seed,
            interrupted: false,
            command_line: output::command_line(),
            others,
        }
    }

    fn show(&self, results: &Results, baseline: Option<&Results>, is_written: bool) -> Result<(), LoadError> {
        match self.output {
            Output::Table => {
                output::print(&output::table(results, baseline))?;
                if let Some(path) = self.report().filter(|_| is_written) {
                    output::print(&format!("report     {}\n", path.display()))?;
                }
            }
            Output::Json => output::print(&format!("{}\n", results.to_json()))?,
        }
        if results.verdict.passed {
            return Ok(());
        }
        Err(LoadError::NotMet(results.verdict.reasons.join("; ")))
    }
}
