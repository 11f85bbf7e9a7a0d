//! This file puts a workload of one's own on an engine of one's own: `examples/load_workload.rs` is a whole program.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::counted::Counted;
use super::error::LoadError;
use super::output::{self, command_line};
use super::progress::Progress;
use super::results::{Results, Settings};
use super::run::{On, Plan, run};
use super::summary;
use super::target::embedded::Embedded;
use super::thresholds::Requirement;
use super::workload::Workload;
use crate::engine::Engine;
use crate::projections::Projection;

/// The engine's group commits, recorded from now on so that results can tell their sizes. Call it before the engine is
/// started, and never in a program that records metrics otherwise.
pub fn record_group_commits() -> Option<Arc<Counted>> {
    Counted::install()
}

/// A workload on an engine in this process.
pub struct Load<P> {
    engine: Engine,
    projection: P,
    counted: Option<Arc<Counted>>,
    interrupt: CancellationToken,
}

impl<P: Projection + Clone> Load<P> {
    /// On this engine, which runs `projection`: it must show what the workload does, and is verified.
    pub fn on(engine: Engine, projection: P) -> Self {
        Self { engine, projection, counted: None, interrupt: CancellationToken::new() }
    }

    /// With the group commits that were recorded.
    #[must_use]
    pub fn counted(mut self, counted: Option<Arc<Counted>>) -> Self {
        self.counted = counted;
        self
    }

    /// Finishes with what there is when this token is cancelled.
    #[must_use]
    pub fn until(mut self, interrupt: CancellationToken) -> Self {
        self.interrupt = interrupt;
        self
    }

    /// Runs it. The engine goes on.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot begin: the log is not empty, or what the workload wants beforehand fails. Whatever
    /// goes wrong later stands in the results.
    pub async fn run(
        self,
        workload: impl Workload,
        plan: &Plan,
        progress: &Progress,
        requirements: &[Requirement],
    ) -> Result<Results, LoadError> {
        let store = self.engine.store().describe();
        let settings = settings(&workload, plan, &store);
        let target = Arc::new(Embedded::new(self.engine, self.projection, self.counted));
        let on = On { workload: Arc::new(workload), target, daemon: None };
        let outcome = run(plan, on, progress, self.interrupt).await;
        progress.finish();
        Ok(summary::results(outcome?, settings, requirements))
    }
}

fn settings(workload: &impl Workload, plan: &Plan, database: &str) -> Settings {
    Settings {
        workload: workload.name().to_owned(),
        target: "embedded".to_owned(),
        database: database.to_owned(),
        schedule: plan.schedule.name().to_owned(),
        callers: plan.schedule.callers() as u64,
        rate_per_second: plan.schedule.rate(),
        warmup_seconds: plan.warmup.as_secs_f64(),
        duration_seconds: plan.duration.as_secs_f64(),
        seed: plan.seed,
        interrupted: false,
        command_line: command_line(),
        others: Vec::new(),
    }
}

/// The verdict, what was measured, and what was found, for people; compared with an earlier run where there is one.
pub fn table(results: &Results, baseline: Option<&Results>) -> String {
    output::table(results, baseline)
}
