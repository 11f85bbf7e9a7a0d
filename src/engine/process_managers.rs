//! This file lets process managers send commands to any aggregate, and others see how the managers are doing.

use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::oneshot;

use super::execute::label;
use super::{Engine, Inner};
use crate::actors::process_manager::row::Command;
use crate::actors::process_manager::{Message, Runner, Sender, Sent};
use crate::aggregate::{Aggregate, AggregateId};
use crate::command::{ExecuteError, Options};
use crate::health::{Check, ProcessManagerStatus, ProjectionState};
use crate::process_manager::ProcessManager;

impl Engine {
    /// How the process managers are doing.
    pub fn process_managers(&self) -> Vec<ProcessManagerStatus> {
        self.inner.process_managers.iter().map(|manager| manager.status()).collect()
    }

    /// Has them all send nothing more, and waits until what is under way is answered and saved.
    pub(super) async fn process_managers_finished(&self) {
        let finish = |manager: &Arc<dyn AnyManager>| -> Option<oneshot::Receiver<()>> {
            // One that is set aside has nothing to wait for.
            if let ProjectionState::Quarantined(_) = manager.status().state {
                return None;
            }
            let (reply, done) = oneshot::channel();
            manager.tell(Message::Finish(reply)).then_some(done)
        };
        let waiting: Vec<_> = self.inner.process_managers.iter().filter_map(finish).collect();
        futures::future::join_all(waiting).await;
    }
}

/// Where parts that execute commands themselves find the engine once it stands.
pub(super) type EngineSlot = Arc<OnceLock<Weak<Inner>>>;

/// Executes commands on the engine that will stand in this slot.
pub(super) fn sender(slot: &EngineSlot) -> Sender {
    let slot = Arc::clone(slot);
    Arc::new(move |command, principal| {
        let inner = slot.get().and_then(Weak::upgrade);
        Box::pin(async move {
            let Some(inner) = inner else { return Sent::NotYet("the engine is starting or stopping".into()) };
            let stream = command.stream();
            let Some(category) = inner.categories.iter().position(|known| known.category() == stream.category()) else {
                return Sent::Stuck(format!("the engine was not built with the aggregate {}", stream.category()));
            };
            let engine = Engine { inner: Arc::clone(&inner), handle: None };
            inner.categories[category].send(engine, command, principal).await
        })
    })
}

/// Executes one command of a process manager, as an internal one under its own id.
pub(super) async fn send<A: Aggregate>(engine: Engine, command: Command, principal: String) -> Sent {
    let decoded = match serde_json::from_str(command.json()) {
        Ok(decoded) => decoded,
        Err(error) => return Sent::Stuck(format!("a saved command of {} cannot be read: {error}", A::CATEGORY)),
    };
    let options = Options {
        command_id: Some(command.id),
        correlation_id: Some(command.correlation_id()),
        causation_id: Some(command.causation_id()),
        principal: Some(principal),
        internal: true,
        ..Options::default()
    };
    let id = AggregateId::<A>::new(command.stream().key());
    let result = engine.execute_with(&id, decoded, options).await;
    let outcome = label(&result);
    match result {
        // An id that belongs to another command has had its effect: another release of the manager decided it.
        Ok(_)
        | Err(ExecuteError::Rejected { .. } | ExecuteError::ClaimRefused { .. } | ExecuteError::CommandIdReused) => {
            Sent::Answered(outcome)
        }
        Err(
            error @ (ExecuteError::Overloaded { .. }
            | ExecuteError::NotExecuted { .. }
            | ExecuteError::Unknown
            | ExecuteError::VersionMismatch { .. }),
        ) => Sent::NotYet(error.to_string()),
        Err(
            error @ (ExecuteError::Invalid { .. } | ExecuteError::Quarantined { .. } | ExecuteError::Failed { .. }),
        ) => Sent::Stuck(error.to_string()),
    }
}

/// A process manager of any kind.
pub(super) trait AnyManager: Send + Sync {
    fn status(&self) -> ProcessManagerStatus;
    fn tell(&self, message: Message) -> bool;
}

impl<M: ProcessManager> AnyManager for Runner<M> {
    fn status(&self) -> ProcessManagerStatus {
        Runner::status(self)
    }

    fn tell(&self, message: Message) -> bool {
        self.send(message)
    }
}

impl dyn AnyManager {
    /// Its line among the checks. One that catches up, or waits with a command, makes nobody unready: commands and
    /// queries go on without it.
    pub(super) fn check(&self) -> Check {
        let status = self.status();
        let (ok, detail) = match &status.state {
            ProjectionState::Live | ProjectionState::CatchingUp => (true, working(&status)),
            ProjectionState::Restarting(reason) => (false, format!("restarting: {reason}")),
            ProjectionState::Quarantined(reason) => (false, format!("quarantined: {reason}")),
        };
        Check { name: format!("process_manager:{}", status.name), ok, detail }
    }
}

fn working(status: &ProcessManagerStatus) -> String {
    let ProcessManagerStatus { position, deadlines, commands, stuck, .. } = status;
    let doing = if status.state == ProjectionState::Live { "at" } else { "catching up, at" };
    format!("{doing} position {position}; {deadlines} deadlines, {commands} commands open, {stuck} of them stuck")
}
