//! This file takes commands in: known or in flight already, admitted or refused, and their answers typed.

use std::any::TypeId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Engine;
use crate::actors::admission::{Admission, Permit};
use crate::actors::answer::{Answer, Keep, Reply, Request, Ticket};
use crate::actors::dispatcher::Dispatcher;
use crate::actors::flights::Joined;
use crate::aggregate::{Aggregate, AggregateId};
use crate::causes::with_causes;
use crate::codec::json_length;
use crate::command::{ExecuteError, NotExecuted, Options, Receipt};
use crate::event::{CommandId, Metadata, MetadataFields};
use crate::store::Outcome;
use crate::stream::StreamId;

impl Engine {
    /// Executes a command under a fresh id, with the default deadline.
    ///
    /// # Errors
    /// See [`Engine::execute_with`].
    pub async fn execute<A: Aggregate>(
        &self,
        id: &AggregateId<A>,
        command: A::Command,
    ) -> Result<Receipt, ExecuteError<A::Rejection>> {
        self.execute_with(id, command, Options::default()).await
    }

    /// Executes a command; returns when its outcome is durable, or at its deadline.
    ///
    /// # Errors
    /// [`ExecuteError`] keeps *rejected*, *conflict*, *overloaded*, *not executed* and *unknown* apart.
    pub async fn execute_with<A: Aggregate>(
        &self,
        id: &AggregateId<A>,
        command: A::Command,
        options: Options,
    ) -> Result<Receipt, ExecuteError<A::Rejection>> {
        let (answer, replayed) = self.answer(id, command, options).await;
        let result = typed(answer, replayed, id.stream());
        metrics::counter!("essaim_commands_total", "aggregate" => A::CATEGORY, "outcome" => label(&result))
            .increment(1);
        result
    }

    async fn answer<A: Aggregate>(&self, id: &AggregateId<A>, command: A::Command, options: Options) -> (Answer, bool) {
        let inner = &self.inner;
        if let Err(error) = id.stream().validate() {
            return (Answer::Invalid(error.to_string()), false);
        }
        let Some(dispatcher) =
            inner.dispatchers.get(&TypeId::of::<A>()).and_then(|any| any.downcast_ref::<Arc<Dispatcher<A>>>())
        else {
            return (Answer::Invalid(format!("the engine was not built with the aggregate {}", A::CATEGORY)), false);
        };
        let (length, keep) = match measured(id.stream(), &command, &options) {
            Ok(measured) => measured,
            Err(error) => return (Answer::Invalid(format!("the command cannot be written as JSON: {error}")), false),
        };
        let decide_by = Instant::now() + options.deadline.unwrap_or(inner.runtime.limits.command_deadline);
        let command_id =
            options.command_id.or(options.fresh_id).unwrap_or_else(|| CommandId(inner.clock.time_ordered_id()));
        let admission = if options.internal { &inner.internal_admission } else { &inner.admission };
        let metadata = match metadata(command_id, &options) {
            Ok(metadata) => metadata,
            Err(what) => return (Answer::Invalid(what), false),
        };
        let size = length + metadata.as_json().len();
        let request = Box::new(Request {
            command,
            command_id,
            expected: options.expected,
            decide_by,
            metadata,
            keep,
            rounds: 0,
            in_doubt: false,
        });
        match keep {
            None => (self.run(dispatcher, id.stream(), request, admission, size).await, false),
            Some(keep) => self.run_once(dispatcher, id.stream(), request, admission, size, keep).await,
        }
    }

    async fn run<A: Aggregate>(
        &self,
        dispatcher: &Dispatcher<A>,
        stream: &StreamId,
        request: Box<Request<A>>,
        admission: &Arc<Admission>,
        size: usize,
    ) -> Answer {
        let permit = match self.admit(admission, size) {
            Ok(permit) => permit,
            Err(answer) => return answer,
        };
        let decide_by = request.decide_by;
        let (reply, ticket, answer) = Reply::new(permit);
        dispatcher.dispatch(stream, request, reply);
        match tokio::time::timeout_at(decide_by, answer).await {
            Ok(Ok(answer)) => answer,
            // Dropped unanswered: nobody can say any more.
            Ok(Err(_)) => Answer::Unknown,
            Err(_) => given_up(&ticket),
        }
    }

    /// Runs the command unless its outcome is known or it is under way already. It goes on when its caller does not.
    async fn run_once<A: Aggregate>(
        &self,
        dispatcher: &Arc<Dispatcher<A>>,
        stream: &StreamId,
        request: Box<Request<A>>,
        admission: &Arc<Admission>,
        size: usize,
        keep: Keep,
    ) -> (Answer, bool) {
        let decide_by = request.decide_by;
        let (mut reply, ticket, answer) = Reply::new(None);
        let (mut flight, is_attached) = match self.inner.flights.join(request.command_id, keep.fingerprint, &ticket) {
            Joined::OtherCommand => return (Answer::CommandIdReused, false),
            Joined::Full => return (Answer::Overloaded, false),
            Joined::Attached(flight) => (flight, true),
            Joined::First(flight, landing) => {
                let (engine, dispatcher, stream) = (self.clone(), Arc::clone(dispatcher), stream.clone());
                let admission = Arc::clone(admission);
                tokio::spawn(async move {
                    let verdict = match engine.inner.flights.kept(request.command_id).await {
                        Err(error) => {
                            warn!(error = %with_causes(&*error), "an outcome could not be looked up");
                            Answer::NotExecuted(NotExecuted::StoreUnavailable)
                        }
                        Ok(Some(kept)) if kept.fingerprint != keep.fingerprint => Answer::CommandIdReused,
                        Ok(Some(kept)) => Answer::Kept(kept.outcome),
                        Ok(None) => match engine.admit(&admission, size) {
                            Err(refused) => refused,
                            Ok(permit) => {
                                reply.carry(permit);
                                dispatcher.dispatch(&stream, request, reply);
                                tokio::select! {
                                    biased;
                                    answer = answer => answer.unwrap_or(Answer::Unknown),
                                    // What holds the answer may be held by this very engine.
                                    () = engine.inner.abandoned.cancelled() => Answer::Unknown,
                                }
                            }
                        },
                    };
                    landing.land(verdict);
                });
                (flight, false)
            }
        };
        let landed = tokio::time::timeout_at(decide_by, flight.answer.wait_for(Option::is_some)).await;
        let answer = match landed {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Answer::Unknown),
            Ok(Err(_)) => Answer::Unknown,
            Err(_) => given_up(&flight.ticket),
        };
        match answer {
            Answer::Kept(outcome) => (Answer::Outcome(outcome), true),
            answer => (answer, is_attached),
        }
    }

    fn admit(&self, admission: &Arc<Admission>, size: usize) -> Result<Option<Permit>, Answer> {
        let is_internal = Arc::ptr_eq(admission, &self.inner.internal_admission);
        let closed = if is_internal { &self.inner.sealed } else { &self.inner.draining };
        if closed.load(Ordering::Acquire) {
            return Err(Answer::NotExecuted(NotExecuted::Draining));
        }
        admission.admit(size).map(Some).ok_or(Answer::Overloaded)
    }
}

fn given_up(ticket: &Ticket) -> Answer {
    if ticket.give_up() { Answer::NotExecuted(NotExecuted::Deadline) } else { Answer::Unknown }
}

/// How long the command is as JSON, and under which fingerprint its outcome is kept, if it is.
fn measured<C: serde::Serialize>(
    stream: &StreamId,
    command: &C,
    options: &Options,
) -> Result<(usize, Option<Keep>), serde_json::Error> {
    if options.command_id.is_none() {
        return Ok((json_length(command)?, None));
    }
    let encoded = serde_json::to_vec(command)?;
    let keep = Keep { fingerprint: fingerprint(stream, &encoded), internal: options.internal };
    Ok((encoded.len(), Some(keep)))
}

/// blake3 over the target and the command: what makes a command the same command.
fn fingerprint(stream: &StreamId, command: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [stream.category().as_bytes(), stream.key().as_bytes(), command] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn metadata(command_id: CommandId, options: &Options) -> Result<Metadata, String> {
    let metadata = Metadata::new(MetadataFields {
        command_id,
        correlation_id: options.correlation_id.unwrap_or(command_id.0),
        causation_id: options.causation_id.unwrap_or(command_id.0),
        principal: options.principal.clone().unwrap_or_else(|| "anonymous".into()),
        extra: options.extra.clone(),
    });
    if crate::actors::aggregate::holds_nul(metadata.as_json()) {
        return Err("the metadata hold U+0000, which no database can keep".into());
    }
    Ok(metadata)
}

fn typed<R>(answer: Answer, replayed: bool, stream: &StreamId) -> Result<Receipt, ExecuteError<R>>
where
    R: serde::de::DeserializeOwned + std::error::Error + 'static,
{
    /// What a client is told to wait before it tries again.
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    Err(match answer {
        Answer::Outcome(Outcome::Committed { version, position })
        | Answer::Kept(Outcome::Committed { version, position }) => {
            return Ok(Receipt { version, position, changed: true, replayed });
        }
        Answer::Outcome(Outcome::Unchanged { version, position })
        | Answer::Kept(Outcome::Unchanged { version, position }) => {
            return Ok(Receipt { version, position, changed: false, replayed });
        }
        Answer::Outcome(Outcome::Rejected { version, position, rejection })
        | Answer::Kept(Outcome::Rejected { version, position, rejection }) => match serde_json::from_str(&rejection) {
            Ok(rejection) => ExecuteError::Rejected { rejection, version, position, replayed },
            Err(error) => ExecuteError::Failed { what: format!("a kept rejection cannot be read: {error}") },
        },
        Answer::Outcome(Outcome::ClaimRefused { version, position, claim })
        | Answer::Kept(Outcome::ClaimRefused { version, position, claim }) => {
            ExecuteError::ClaimRefused { claim, version, position, replayed }
        }
        Answer::VersionMismatch { expected, actual } => ExecuteError::VersionMismatch { expected, actual },
        Answer::Invalid(what) => ExecuteError::Invalid { what },
        Answer::Failed(what) => ExecuteError::Failed { what },
        Answer::Quarantined(reason) => ExecuteError::Quarantined { stream: stream.clone(), reason },
        Answer::NotExecuted(reason) => ExecuteError::NotExecuted { reason },
        Answer::Overloaded => ExecuteError::Overloaded { retry_after: RETRY_AFTER },
        Answer::Unknown => ExecuteError::Unknown,
        Answer::CommandIdReused => ExecuteError::CommandIdReused,
    })
}

/// The answer as a label of metrics.
pub(super) fn label<R: std::error::Error>(result: &Result<Receipt, ExecuteError<R>>) -> &'static str {
    match result {
        Ok(receipt) if receipt.replayed => "replayed",
        Ok(receipt) if receipt.changed => "committed",
        Ok(_) => "unchanged",
        Err(ExecuteError::Rejected { .. }) => "rejected",
        Err(ExecuteError::ClaimRefused { .. }) => "claim_refused",
        Err(ExecuteError::VersionMismatch { .. }) => "version_mismatch",
        Err(ExecuteError::CommandIdReused) => "command_id_reused",
        Err(ExecuteError::Invalid { .. }) => "invalid",
        Err(ExecuteError::Overloaded { .. }) => "overloaded",
        Err(ExecuteError::NotExecuted { .. }) => "not_executed",
        Err(ExecuteError::Unknown) => "unknown",
        Err(ExecuteError::Quarantined { .. }) => "quarantined",
        Err(ExecuteError::Failed { .. }) => "failed",
    }
}
