//! This file makes what a run needs: the target, and the workload that fits it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::cli::{Surroundings, Wanted, WorkloadName};
use super::counted::Counted;
use super::daemon::OwnDaemon;
use super::error::LoadError;
use super::meter::workloads::{LongStreams, Names, Readings, Rebuild};
use super::meter::{Meter, MeterTotals};
use super::results::Setting;
use super::target::embedded::{Embedded, commits};
use super::target::http::{Bearer, Http};
use super::target::{Payments, Target};
use super::workload::Workload;
use super::workload::cold::Cold;
use super::workload::mixed::Mixed;
use super::workload::payments::PaymentLives;
use crate::causes::with_causes;
use crate::clock::{Clock, SystemClock};
use crate::domain::payment::Payment;
use crate::engine::Engine;
use crate::limits::Limits;
use crate::projections::payment_summaries::PaymentSummaries;
use crate::store::open::sqlite_file;
use crate::store::{self, OpenOptions};

/// Payments that `cold` has when nothing else is asked for.
const COLD_POPULATION: u64 = 20_000;
/// An engine for cold starts forgets so soon what is not used: long before it is that payment's turn again.
const COLD_AFTER: Duration = Duration::from_millis(50);
/// Meters when nothing else is asked for.
const METERS: u64 = 1_000;
/// The longest of long streams, when nothing else is asked for.
const LONGEST_STREAM: u64 = 100_000;
/// The log that is rebuilt from, when nothing else is asked for.
const REBUILT_EVENTS: u64 = 200_000;

/// What a run needs.
pub(crate) struct Setup {
    pub(crate) workload: Arc<dyn Workload>,
    pub(crate) target: Arc<dyn Target>,
    /// `embedded`, or what else it is.
    pub(crate) kind: &'static str,
    /// Its address without secrets; empty when only the daemon knows.
    pub(crate) database: String,
    /// What else was chosen.
    pub(crate) others: Vec<Setting>,
    /// To be killed this often.
    pub(crate) daemon: Option<(Arc<OwnDaemon>, Duration)>,
    /// Removed when dropped.
    _folder: Option<TempDir>,
}

impl Setup {
    /// What fits the wishes.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be had.
    pub(crate) async fn make(wanted: &Wanted, surroundings: Surroundings) -> Result<Self, LoadError> {
        if let Some(url) = &surroundings.database {
            store::open::check(url).map_err(|error| LoadError::Usage(with_causes(&error)))?;
        }
        match (&wanted.url, wanted.kill_every) {
            (Some(_), _) if surroundings.database.is_some() => {
                Err(LoadError::Usage("--url names a daemon, which has its own database: leave --database out".into()))
            }
            (Some(url), _) => {
                let http = Http::new(url, wanted.callers, bearer(&surroundings)?).map_err(LoadError::Usage)?;
                over_http(wanted, http)
            }
            (None, Some(every)) => own_daemon(wanted, surroundings, every).await,
            (None, None) => embedded(wanted, surroundings).await,
        }
    }

    /// Ends what was started for the run.
    pub(crate) async fn close(&self) {
        self.target.close().await;
        if let Some((daemon, _)) = &self.daemon {
            daemon.stop().await;
        }
    }
}

fn over_http(wanted: &Wanted, http: Http) -> Result<Setup, LoadError> {
    if !wanted.workload.is_of_payments() {
        return Err(LoadError::Usage(format!(
            "the workload {} has an aggregate of its own, which no daemon runs; over HTTP there are payments, mixed, cold",
            wanted.workload.name()
        )));
    }
    let (workload, others) = payments(wanted, Arc::new(http.clone()));
    Ok(Setup {
        workload,
        target: Arc::new(http),
        kind: "daemon",
        database: String::new(),
        others,
        daemon: None,
        _folder: None,
    })
}

async fn own_daemon(wanted: &Wanted, surroundings: Surroundings, every: Duration) -> Result<Setup, LoadError> {
    let (folder, bearer) = (temporary_folder()?, bearer(&surroundings)?);
    let url = surroundings.database.map_or_else(|| fresh_sqlite(folder.path()), |url| with_absolute_path(&url));
    let daemon = OwnDaemon::start(&url, &surroundings.daemon_flags, folder.path()).await?;
    let http = Http::new(daemon.address(), wanted.callers, bearer).map_err(LoadError::Failed)?;
    let setup = over_http(wanted, http)?;
    let options = OpenOptions { read_only: true, allow_weak_durability: true };
    let database = store::open(&url, options).await?.describe();
    Ok(Setup { kind: "daemon of its own", database, daemon: Some((daemon, every)), _folder: Some(folder), ..setup })
}

async fn embedded(wanted: &Wanted, surroundings: Surroundings) -> Result<Setup, LoadError> {
    let (folder, url) = match surroundings.database {
        Some(url) => (None, url),
        None => {
            let folder = temporary_folder()?;
            let url = fresh_sqlite(folder.path());
            (Some(folder), url)
        }
    };
    let options = OpenOptions { allow_weak_durability: surroundings.allow_weak_durability, read_only: false };
    let counted = Counted::install();
    let store = store::open(&url, options).await?;
    let database = store.describe();
    let (store, commits) = commits::told(store);
    let builder = Engine::builder_shared(store).limits(limits(wanted, surroundings.limits));
    let (workload, target, others): (Arc<dyn Workload>, Arc<dyn Target>, Vec<Setting>) =
        if wanted.workload.is_of_payments() {
            let engine = builder.aggregate::<Payment>().projection(PaymentSummaries).start().await?;
            let target = Arc::new(Embedded::new(engine, PaymentSummaries, counted).telling(commits));
            let (workload, others) = payments(wanted, Arc::clone(&target) as Arc<dyn Payments>);
            (workload, target, others)
        } else {
            let engine = builder.aggregate::<Meter>().projection(MeterTotals).start().await?;
            let (workload, others) = meters(wanted, &engine);
            (workload, Arc::new(Embedded::new(engine, MeterTotals, counted).telling(commits)), others)
        };
    Ok(Setup { workload, target, kind: "embedded", database, others, daemon: None, _folder: folder })
}

fn bearer(surroundings: &Surroundings) -> Result<Option<Bearer>, LoadError> {
    surroundings.bearer.clone().map(Bearer::new).transpose().map_err(LoadError::Usage)
}

fn temporary_folder() -> Result<TempDir, LoadError> {
    let folder = tempfile::Builder::new().prefix("essaim-load-").tempdir();
    folder.map_err(LoadError::io("no temporary folder can be made"))
}

fn fresh_sqlite(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("load.db").display())
}

/// The same address from every folder.
fn with_absolute_path(url: &str) -> String {
    let absolute = sqlite_file(url).and_then(|file| Some((file, std::path::absolute(file).ok()?)));
    absolute.map_or_else(|| url.to_owned(), |(file, absolute)| url.replacen(file, &absolute.to_string_lossy(), 1))
}

fn limits(wanted: &Wanted, limits: Limits) -> Limits {
    match wanted.workload {
        WorkloadName::Cold => Limits { passivate_after: limits.passivate_after.min(COLD_AFTER), ..limits },
        _ => limits,
    }
}

fn payments(wanted: &Wanted, target: Arc<dyn Payments>) -> (Arc<dyn Workload>, Vec<Setting>) {
    match wanted.workload {
        WorkloadName::Mixed => (Arc::new(Mixed::new(target, wanted.reads, wanted.refusals)), Vec::new()),
        WorkloadName::Cold => {
            let population = wanted.aggregates.unwrap_or(COLD_POPULATION);
            let others = vec![other("aggregates", population)];
            (Arc::new(Cold::new(target, population, new_names().0)), others)
        }
        _ => (Arc::new(PaymentLives::new(target, wanted.refusals)), Vec::new()),
    }
}

fn meters(wanted: &Wanted, engine: &Engine) -> (Arc<dyn Workload>, Vec<Setting>) {
    let (engine, names, meters) = (engine.clone(), new_names(), wanted.aggregates.unwrap_or(METERS));
    match wanted.workload {
        WorkloadName::LongStreams => {
            let longest = wanted.events.unwrap_or(LONGEST_STREAM);
            (Arc::new(LongStreams::new(engine, names, longest)), vec![other("longest_stream", longest)])
        }
        WorkloadName::Rebuild => {
            let events = wanted.events.unwrap_or(REBUILT_EVENTS);
            let others = vec![other("events", events), other("aggregates", meters)];
            (Arc::new(Rebuild::new(engine, names, events, meters)), others)
        }
        WorkloadName::Hot => match wanted.skew {
            None => (Arc::new(Readings::hot(engine, names, 1, None)), vec![other("aggregates", 1)]),
            Some(skew) => {
                let others = vec![other("aggregates", meters), other("skew", skew)];
                (Arc::new(Readings::hot(engine, names, meters, Some(skew))), others)
            }
        },
        _ => (Arc::new(Readings::spread(engine, names, meters)), vec![other("aggregates", meters)]),
    }
}

fn other(name: &str, value: impl ToString) -> Setting {
    Setting { name: name.to_owned(), value: value.to_string() }
}

/// Never the same twice, so that one log may take many runs.
fn new_names() -> Names {
    Names(SystemClock.random_id().as_u64_pair().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_relative_path_means_the_same_file_from_every_folder() {
        let here = std::env::current_dir().unwrap();

        assert_eq!(with_absolute_path("sqlite://a.db"), format!("sqlite://{}/a.db", here.display()));
        assert_eq!(with_absolute_path("sqlite:///b/a.db"), "sqlite:///b/a.db");
        assert_eq!(with_absolute_path("postgres://host/a"), "postgres://host/a");
    }
}
