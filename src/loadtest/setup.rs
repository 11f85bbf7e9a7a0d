//! This file makes what a run needs: the target, and the workload that fits it.

use std::sync::Arc;

use tempfile::TempDir;

use super::cli::{Surroundings, Wanted, WorkloadName};
use super::counted::Counted;
use super::error::LoadError;
use super::results::Setting;
use super::target::embedded::Embedded;
use super::target::http::Http;
use super::target::{Payments, Target};
use super::workload::Workload;
use super::workload::cold::Cold;
use super::workload::mixed::Mixed;
use super::workload::payments::PaymentLives;
use crate::clock::{Clock, SystemClock};
use crate::domain::payment::Payment;
use crate::engine::Engine;
use crate::limits::Limits;
use crate::projections::payment_summaries::PaymentSummaries;
use crate::store::{self, OpenOptions};

/// Payments that `cold` has when nothing else is asked for.
const COLD_POPULATION: u64 = 20_000;
/// Of them, about one in so many fits into the memory of an engine that is made for it.
const COLD_RESIDENT_OF: u64 = 20;
/// What an idle payment takes in memory, about.
const PAYMENT_BYTES: u64 = 8 << 10;

/// What a run needs.
pub(crate) struct Setup {
    pub(crate) workload: Arc<dyn Workload>,
    pub(crate) target: Arc<dyn Target>,
    /// `embedded`, or what else it is.
    pub(crate) kind: &'static str,
    /// Its address without secrets; empty when only the daemon knows.
    pub(crate) database: String,
    /// The kind of store.
    pub(crate) store: String,
    /// What else was chosen.
    pub(crate) others: Vec<Setting>,
    /// Removed when dropped.
    _folder: Option<TempDir>,
}

impl Setup {
    /// What fits the wishes.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be had.
    pub(crate) async fn make(wanted: &Wanted, surroundings: Surroundings) -> Result<Self, LoadError> {
        match &wanted.url {
            Some(_) if surroundings.database.is_some() => {
                Err(LoadError::Usage("--url names a daemon, which has its own database: leave --database out".into()))
            }
            Some(url) => over_http(wanted, url),
            None => embedded(wanted, surroundings).await,
        }
    }
}

fn over_http(wanted: &Wanted, url: &str) -> Result<Setup, LoadError> {
    let http = Http::new(url, wanted.callers).map_err(LoadError::Usage)?;
    let (workload, others) = payments(wanted, Arc::new(http.clone()));
    Ok(Setup {
        workload,
        target: Arc::new(http),
        kind: "daemon",
        database: String::new(),
        store: String::new(),
        others,
        _folder: None,
    })
}

async fn embedded(wanted: &Wanted, surroundings: Surroundings) -> Result<Setup, LoadError> {
    let (folder, url) = match surroundings.database {
        Some(url) => (None, url),
        None => {
            let folder = tempfile::Builder::new().prefix("essaim-load-").tempdir();
            let folder = folder.map_err(LoadError::io("no temporary folder can be made"))?;
            let url = format!("sqlite://{}", folder.path().join("load.db").display());
            (Some(folder), url)
        }
    };
    let options = OpenOptions { allow_weak_durability: surroundings.allow_weak_durability, read_only: false };
    let counted = Counted::install();
    let store = store::open(&url, options).await?;
    let (database, kind_of_store) = (store.describe(), url.split(':').next().unwrap_or_default().to_owned());
    let limits = limits(wanted, surroundings.limits);
    let builder = Engine::builder_shared(store).limits(limits);
    let engine = builder.aggregate::<Payment>().projection(PaymentSummaries).start().await?;
    let target = Embedded::new::<PaymentSummaries>(engine, counted);
    let (workload, others) = payments(wanted, Arc::new(target.clone()));
    Ok(Setup {
        workload,
        target: Arc::new(target),
        kind: "embedded",
        database,
        store: kind_of_store,
        others,
        _folder: folder,
    })
}

/// For cold starts there must be less memory than payments.
fn limits(wanted: &Wanted, limits: Limits) -> Limits {
    if wanted.workload != WorkloadName::Cold {
        return limits;
    }
    let bytes = wanted.aggregates.unwrap_or(COLD_POPULATION) / COLD_RESIDENT_OF * PAYMENT_BYTES;
    let budget = usize::try_from(bytes.max(PAYMENT_BYTES)).unwrap_or(usize::MAX);
    Limits { max_resident_bytes: limits.max_resident_bytes.min(budget), ..limits }
}

fn payments(wanted: &Wanted, target: Arc<dyn Payments>) -> (Arc<dyn Workload>, Vec<Setting>) {
    match wanted.workload {
        WorkloadName::Payments => (Arc::new(PaymentLives::new(target, wanted.refusals)), Vec::new()),
        WorkloadName::Mixed => (Arc::new(Mixed::new(target, wanted.reads, wanted.refusals)), Vec::new()),
        WorkloadName::Cold => {
            let population = wanted.aggregates.unwrap_or(COLD_POPULATION);
            let names = SystemClock.random_id().as_u64_pair().1;
            let others = vec![Setting { name: "aggregates".to_owned(), value: population.to_string() }];
            (Arc::new(Cold::new(target, population, names)), others)
        }
    }
}
