//! This file works with an engine in this process.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Digests, LoggedEvent, Look, Payments, Target, TargetError};
use crate::aggregate::Aggregate;
use crate::domain::payment::{Payment, PaymentCommand};
use crate::engine::Engine;
use crate::loadtest::counted::Counted;
use crate::loadtest::workload::{Answer, Attempt, Failed};
use crate::projections::Projection;
use crate::projections::payment_summaries::PaymentSummaries;
use crate::projections::read_model::ReadError;
use crate::store::LogFilter;
use crate::stream::{GlobalPosition, Version};

/// Events read back at a time.
const PAGE: usize = 1_000;
/// How long read models may take to reach the end of the log when the load is over.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long the engine may take to drain.
const DRAIN: Duration = Duration::from_secs(20);

/// Waits until a read model shows a position; false when it does not get there.
type Shows = fn(Engine, GlobalPosition) -> Pin<Box<dyn Future<Output = bool> + Send>>;

/// An engine in this process.
#[derive(Clone)]
pub struct Embedded {
    engine: Engine,
    counted: Option<Arc<Counted>>,
    shows: Shows,
}

impl Embedded {
    /// This engine, whose commands `P` shows. The sizes of its group commits are those that `counted` records.
    pub fn new<P: Projection>(engine: Engine, counted: Option<Arc<Counted>>) -> Self {
        let shows: Shows = |engine, position| {
            Box::pin(async move { engine.read_model::<P>().at_least(position).await.is_ok() })
        };
        Self { engine, counted, shows }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    async fn caught_up(&self, position: GlobalPosition) -> Result<(), TargetError> {
        const LOOK_AGAIN: Duration = Duration::from_millis(2);
        let reached = async {
            while self.engine.projections().iter().any(|projection| projection.position < position) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(CATCH_UP, reached).await.map_err(|_| TargetError::Unexpected {
            what: format!("a read model did not reach position {position} within {CATCH_UP:?}"),
        })
    }
}

#[async_trait]
impl Payments for Embedded {
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
impl Target for Embedded {
    fn describe(&self) -> String {
        format!("{}, in this process", self.engine.store().describe())
    }

    async fn probe(&self) -> Result<(), TargetError> {
        Ok(())
    }

    async fn look(&self) -> Look {
        let head = self.engine.head().0;
        let slowest = self.engine.projections().iter().map(|projection| projection.position.0).min();
        let process = metrics_process::collector::collect();
        let totals = self.counted.as_ref().map(|counted| counted.totals());
        Look {
            head: Some(head),
            lag_events: slowest.map(|position| head.saturating_sub(position)),
            resident_bytes: process.resident_memory_bytes,
            cpu_seconds: process.cpu_seconds_total,
            batches: totals.map(|(batches, _)| batches),
            batch_commands: totals.map(|(_, commands)| commands),
            batch_max: self.counted.as_ref().and_then(|counted| counted.take_largest()),
        }
    }

    async fn head(&self) -> Result<GlobalPosition, TargetError> {
        self.engine.store().head().await.map(|head| head.position).map_err(|error| unexpected("the head", &error))
    }

    async fn events(&self, after: GlobalPosition) -> Result<Vec<LoggedEvent>, TargetError> {
        let page = self.engine.store().read_log(after, PAGE, &LogFilter::default()).await;
        let page = page.map_err(|error| unexpected("the log", &error))?;
        let logged = |event: &crate::event::RecordedEvent| LoggedEvent {
            position: event.position.0,
            stream: event.stream.as_str().to_owned(),
            version: event.version.0,
            event_type: event.event_type.clone().into_owned(),
            command_id: event.metadata.command_id.0,
        };
        Ok(page.events.iter().map(logged).collect())
    }

    async fn digests(&self, position: GlobalPosition) -> Result<Vec<Digests>, TargetError> {
        self.caught_up(position).await?;
        let mut found = Vec::new();
        for projection in self.engine.projections() {
            let name = projection.name;
            let gone = || TargetError::Unexpected { what: format!("projection {name} is not there any more") };
            let (hot_position, hot) = self.engine.digest(name).await.ok_or_else(gone)?;
            if !self.engine.rebuild(name).await {
                return Err(TargetError::Unexpected { what: format!("projection {name} could not be built anew") });
            }
            let (rebuilt_position, rebuilt) = self.engine.digest(name).await.ok_or_else(gone)?;
            found.push(Digests {
                name: name.to_owned(),
                hot: (hot_position.0, hot.to_string()),
                rebuilt: (rebuilt_position.0, rebuilt.to_string()),
            });
        }
        Ok(found)
    }

    async fn durability(&self) -> Vec<(String, String)> {
        self.engine.store().durability().await.unwrap_or_default()
    }

    async fn gone(&self) -> String {
        self.engine.failed().await
    }

    async fn shows(&self, position: GlobalPosition) -> bool {
        (self.shows)(self.engine.clone(), position).await
    }

    async fn close(&self) {
        self.engine.shutdown(DRAIN).await;
    }
}

fn unexpected(what: &str, error: &crate::store::StoreError) -> TargetError {
    TargetError::Unexpected { what: format!("{what} cannot be read: {error}") }
}
