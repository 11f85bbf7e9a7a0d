//! This file works with an engine in this process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use uuid::Uuid;

use self::commits::{Commit, Commits};
use super::{About, Look, Payments, ReadModels, Target, TargetError, VisibleAfter};
use crate::aggregate::Aggregate;
use crate::domain::payment::{Payment, PaymentCommand};
use crate::engine::Engine;
use crate::loadtest::checker::LoggedEvent;
use crate::loadtest::checker::read_models::Fold;
use crate::loadtest::counted::Counted;
use crate::loadtest::workload::{Answer, Attempt, Failed};
use crate::projections::Projection;
use crate::projections::payment_summaries::PaymentSummaries;
use crate::projections::read_model::ReadError;
use crate::store::{LogFilter, StoreError};
use crate::stream::{GlobalPosition, Version};

pub(crate) mod commits;

/// Events read back at a time.
const PAGE: usize = 1_000;
/// How long a read model may take to reach the end of the log when the load is over.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long the engine may take to drain.
const DRAIN: Duration = Duration::from_secs(20);

/// An engine in this process, with the read model that shows what is done.
#[derive(Clone)]
pub struct Embedded<P> {
    engine: Engine,
    projection: P,
    counted: Option<Arc<Counted>>,
    commits: Option<Arc<Mutex<Commits>>>,
}

impl<P: Projection + Clone> Embedded<P> {
    /// This engine, whose commands `projection` shows. The sizes of its group commits are those that `counted` records.
    pub fn new(engine: Engine, projection: P, counted: Option<Arc<Counted>>) -> Self {
        Self { engine, projection, counted, commits: None }
    }

    /// The same, whose engine has the store that tells of these commits.
    #[must_use]
    pub(crate) fn telling(self, commits: Commits) -> Self {
        Self { commits: Some(Arc::new(Mutex::new(commits))), ..self }
    }

    /// What the log makes of the projection, up to this position.
    async fn fold(&self, up_to: GlobalPosition) -> Result<Fold<P>, TargetError> {
        let mut fold = Fold::new(self.projection.clone());
        let mut after = GlobalPosition::START;
        while after < up_to {
            let page = self.engine.store().read_log(after, PAGE, &LogFilter::default()).await.map_err(unreadable)?;
            for event in page.events.iter().take_while(|event| event.position <= up_to) {
                let undecodable =
                    |error| TargetError::Unexpected { what: format!("an event cannot be decoded: {error}") };
                fold.apply(event).map_err(undecodable)?;
            }
            // A log that ends before its head is told by the checker.
            let Some(last) = page.events.last() else { break };
            after = last.position;
        }
        Ok(fold)
    }
}

#[async_trait]
impl Payments for Embedded<PaymentSummaries> {
    async fn execute(&self, id: Uuid, command: PaymentCommand, attempt: &Attempt) -> Answer {
        self.engine.execute_with(&Payment::id(id), command, attempt.options()).await.into()
    }

    async fn read(&self, id: Uuid, at_least: GlobalPosition) -> Answer {
        match self.engine.read_model::<PaymentSummaries>().at_least(at_least).await {
            Ok(view) => {
                let position = view.position();
                Answer::Seen { position, version: view.get(&id).map(|row| Version(row.version)) }
            }
            Err(error @ ReadError::Lagging { .. }) => {
                Answer::NotExecuted(Failed::new("read_timeout", error.to_string()))
            }
            Err(error) => Answer::Failed(Failed::new("read_failed", error.to_string())),
        }
    }
}

#[async_trait]
impl<P: Projection + Clone> Target for Embedded<P> {
    fn describe(&self) -> String {
        self.engine.store().describe()
    }

    async fn probe(&self) -> Result<(), TargetError> {
        Ok(())
    }

    async fn look(&self) -> Look {
        let process = metrics_process::collector::collect();
        let totals = self.counted.as_ref().map(|counted| counted.totals());
        Look {
            lag_events: self.lag_events(),
            resident_bytes: process.resident_memory_bytes,
            cpu_seconds: process.cpu_seconds_total,
            started_seconds: process.start_time_seconds,
            uptime_seconds: None,
            batches: totals.map(|(batches, _)| batches),
            batch_commands: totals.map(|(_, commands)| commands),
            batch_max: self.counted.as_ref().and_then(|counted| counted.take_largest()),
        }
    }

    fn lag_events(&self) -> Option<u64> {
        let head = self.engine.head().0;
        let slowest = self.engine.projections().iter().map(|projection| projection.position.0).min();
        slowest.map(|position| head.saturating_sub(position))
    }

    async fn head(&self) -> Result<GlobalPosition, TargetError> {
        self.engine.store().head().await.map(|head| head.position).map_err(unreadable)
    }

    async fn events(&self, after: GlobalPosition) -> Result<Vec<LoggedEvent>, TargetError> {
        let page = self.engine.store().read_log(after, PAGE, &LogFilter::default()).await.map_err(unreadable)?;
        Ok(page.events.iter().map(LoggedEvent::from).collect())
    }

    /// Row by row.
    async fn read_models(&self, position: GlobalPosition) -> Result<ReadModels, TargetError> {
        let shown = self.engine.read_model::<P>().at_least(position).within(CATCH_UP).await;
        let shown = shown.map_err(|error| TargetError::Unexpected { what: error.to_string() })?;
        let fold = self.fold(position).await?;
        let compared = tokio::task::spawn_blocking(move || fold.compare(&shown)).await;
        let findings = compared.map_err(|error| TargetError::Unexpected { what: format!("not compared: {error}") })?;
        Ok(ReadModels { names: vec![P::NAME.to_owned()], findings })
    }

    async fn about(&self) -> About {
        let durability = self.engine.store().durability().await.unwrap_or_default();
        About { database: self.describe(), durability, ..About::default() }
    }

    async fn gone(&self) -> String {
        self.engine.failed().await
    }

    async fn shows(&self, position: GlobalPosition) -> bool {
        self.engine.read_model::<P>().at_least(position).await.is_ok()
    }

    /// Somebody waits for the position from the moment of the commit on, as a reader would.
    async fn time_commits(&self, visible: VisibleAfter) {
        let Some(commits) = &self.commits else { return };
        let mut commits = commits.lock().await;
        while let Some(Commit { position, at }) = commits.recv().await {
            let (target, visible) = (self.clone(), Arc::clone(&visible));
            tokio::spawn(async move {
                if target.shows(position).await {
                    visible(position, at.elapsed());
                }
            });
        }
    }

    async fn close(&self) {
        self.engine.shutdown(DRAIN).await;
    }
}

fn unreadable(error: StoreError) -> TargetError {
    TargetError::Unexpected { what: format!("the log cannot be read: {error}") }
}
