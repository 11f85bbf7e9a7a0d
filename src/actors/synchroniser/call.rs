//! This file works off one subject: fold what is wanted, ask the outside, and record how it ended.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::{debug, warn};
use uuid::Uuid;

use super::Worker;
use super::row::SubjectRow;
use crate::actors::loader::retried;
use crate::aggregate::{Aggregate, AggregateId, with_decoded};
use crate::causes::with_causes;
use crate::command::{ExecuteError, NotExecuted, Options, Receipt};
use crate::event::RecordedEvent;
use crate::store::{LoadRequest, LoadedStream, SharedStore, Snapshot, StoreError};
use crate::stream::{GlobalPosition, StreamId, Version};
use crate::synchroniser::{Brought, Call, Failure, Outcome, Seen, Synchroniser};

/// Executes a command of the aggregate that records outcomes.
pub(crate) type Recorder<A> = Arc<
    dyn Fn(
            AggregateId<A>,
            <A as Aggregate>::Command,
            Options,
        ) -> BoxFuture<'static, Result<Receipt, ExecuteError<<A as Aggregate>::Rejection>>>
        + Send
        + Sync,
>;

/// One subject that is to be worked off.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) subject: String,
    pub(crate) version: Version,
    /// From 1.
    pub(crate) attempt: u32,
    pub(crate) round: u32,
    pub(crate) unsure: bool,
    pub(crate) outside_id: Option<String>,
    /// Asks for the breaker; a failure costs the subject no attempt.
    pub(crate) is_probe: bool,
}

impl Job {
    pub(crate) fn of(row: &SubjectRow, is_probe: bool) -> Self {
        Self {
            subject: row.subject.clone(),
            version: row.wanted,
            attempt: row.attempts.saturating_add(1),
            round: row.round,
            unsure: row.unsure,
            outside_id: row.outside_id.clone(),
            is_probe,
        }
    }
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) ended: Ended,
    /// Whether a call of unknown outcome may still be on its way.
    pub(crate) unsure: bool,
    /// What was learnt of the outside: none when it was not asked.
    pub(crate) evidence: Option<Result<(), Failure>>,
}

/// What becomes of the subject.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It is settled, and that is recorded at this position.
    Settled(Outcome, GlobalPosition),
    /// The outside failed.
    Failed(Failure),
    /// We ourselves could not: the log cannot be read, or the outcome not be recorded.
    Hindered(String),
}

impl<S: Synchroniser> Worker<S> {
    /// Works the job off. It may be killed at any instant: whoever comes next finds the same wanted state, an outside
    /// that knows the subject, and an outcome that is recorded once.
    pub(crate) async fn work(&self, job: &Job) -> Landing {
        let folded = match fold::<S::Subject>(&self.store, &job.subject, job.version).await {
            Ok(folded) => folded,
            Err(error) => {
                return Landing { ended: Ended::Hindered(with_causes(&error)), unsure: job.unsure, evidence: None };
            }
        };
        let call = Call {
            subject: &job.subject,
            wanted: &folded.state,
            version: job.version,
            attempt: job.attempt,
            outside_id: job.outside_id.as_deref(),
        };
        let mut unsure = job.unsure;
        let asked = self.ask(&call, &mut unsure).await;
        count::<S>(&asked);
        let evidence = Some(match &asked {
            Ok(_) | Err(Failure::Permanent { .. }) => Ok(()),
            Err(failure) => Err(failure.clone()),
        });
        let outcome = match self.verdict(asked, job) {
            Ok(outcome) => outcome,
            Err(failure) => return Landing { ended: Ended::Failed(failure), unsure, evidence },
        };
        let ended = match self.record(&outcome, &job.subject, self.options(&outcome, job, folded.cause)).await {
            Ok(position) => Ended::Settled(outcome, position),
            Err(reason) => Ended::Hindered(reason),
        };
        Landing { ended, unsure, evidence }
    }

    /// What is to be recorded, or why the subject stays pending.
    fn verdict(&self, asked: Result<Brought, Failure>, job: &Job) -> Result<Outcome, Failure> {
        let version = job.version;
        let used_up = job.attempt >= self.pace.max_attempts && !job.is_probe;
        match asked {
            Ok(Brought { outside_id }) => Ok(Outcome::Synced { version, outside_id }),
            Err(Failure::Permanent { reason }) => {
                Ok(Outcome::Failed { version, reason: bounded(&reason), permanent: true })
            }
            Err(Failure::Later { reason, .. } | Failure::Unknown { reason }) if used_up => {
                Ok(Outcome::Failed { version, reason: bounded(&reason), permanent: false })
            }
            Err(failure) => Err(failure),
        }
    }

    /// Brings the subject; after a call of unknown outcome, only a look at the outside is believed.
    async fn ask(&self, call: &Call<'_, S::Subject>, unsure: &mut bool) -> Result<Brought, Failure> {
        if *unsure && let Seen::InStep(brought) = self.look(call).await? {
            *unsure = false;
            return Ok(brought);
        }
        let brought = self.timed(self.synchroniser.bring(call)).await;
        if let Err(Failure::Unknown { .. }) = brought {
            *unsure = true;
        }
        let brought = brought?;
        if !*unsure {
            return Ok(brought);
        }
        match self.look(call).await? {
            Seen::InStep(brought) => {
                *unsure = false;
                Ok(brought)
            }
            Seen::Differs(what) => {
                Err(Failure::Later { reason: format!("brought, and yet it differs: {}", what.join(", ")), after: None })
            }
        }
    }

    /// A look that fails changed nothing, so its failure is never of unknown outcome, nor for good.
    async fn look(&self, call: &Call<'_, S::Subject>) -> Result<Seen, Failure> {
        self.timed(self.synchroniser.read_back(call)).await.map_err(|failure| match failure {
            Failure::Unknown { reason } | Failure::Permanent { reason } => Failure::Later { reason, after: None },
            failure => failure,
        })
    }

    async fn timed<T>(&self, asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let deadline = self.pace.call_deadline;
        match tokio::time::timeout(deadline, AssertUnwindSafe(asking).catch_unwind()).await {
            Ok(Ok(answer)) => answer,
            // Where in the call it panicked nobody knows.
            Ok(Err(_)) => Err(Failure::Unknown { reason: "the call panicked".into() }),
            Err(_) => Err(Failure::Unknown { reason: format!("no answer within {deadline:?}") }),
        }
    }

    fn options(&self, outcome: &Outcome, job: &Job, cause: Option<Cause>) -> Options {
        Options {
            command_id: Some(outcome.effect_id(S::NAME, &job.subject, job.round)),
            correlation_id: cause.map(|cause| cause.correlation_id),
            causation_id: cause.map(|cause| cause.event_id),
            principal: Some(format!("synchroniser:{}", S::NAME)),
            internal: true,
            ..Options::default()
        }
    }

    /// Records the outcome, once, however often this is tried; where it stands in the log.
    ///
    /// # Errors
    /// Why it cannot be recorded now.
    pub(super) async fn record(
        &self,
        outcome: &Outcome,
        subject: &str,
        options: Options,
    ) -> Result<GlobalPosition, String> {
        const TRIES: u32 = 8;
        const PAUSE: Duration = Duration::from_millis(50);
        let mut reason = String::new();
        for tried in 0..TRIES {
            let Some(command) = S::record(outcome) else { return Ok(GlobalPosition::START) };
            match (self.recorder)(AggregateId::new(subject), command, options.clone()).await {
                Ok(receipt) => return Ok(receipt.position),
                // Recorded before a crash, in other words; the log says where.
                Err(ExecuteError::CommandIdReused) => return Ok(GlobalPosition::START),
                Err(ExecuteError::Rejected { rejection, position, .. }) => {
                    warn!(synchroniser = S::NAME, %rejection, "an outcome was refused by its record");
                    return Ok(position);
                }
                Err(error) => {
                    let is_over = matches!(
                        error,
                        ExecuteError::NotExecuted { reason: NotExecuted::Draining | NotExecuted::Fenced }
                    );
                    reason = format!("the outcome cannot be recorded: {}", with_causes(&error));
                    debug!(synchroniser = S::NAME, reason, tried, "an outcome was not recorded");
                    if is_over {
                        break;
                    }
                    tokio::time::sleep(PAUSE * 2u32.pow(tried)).await;
                }
            }
        }
        Err(reason)
    }
}

fn count<S: Synchroniser>(asked: &Result<Brought, Failure>) {
    let outcome = match asked {
        Ok(_) => "synced",
        Err(Failure::Later { .. }) => "later",
        Err(Failure::Unknown { .. }) => "unknown",
        Err(Failure::Permanent { .. }) => "permanent",
        Err(Failure::Unavailable { .. }) => "unavailable",
    };
    metrics::counter!("essaim_synchroniser_calls_total", "synchroniser" => S::NAME, "outcome" => outcome).increment(1);
}

/// Reasons come from outside: they are cut to what a row and an event can bear.
pub(crate) fn bounded(reason: &str) -> String {
    const MAX_CHARACTERS: usize = 500;
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARACTERS).collect()
}

/// The state of a subject at one version, and what made it so.
pub(crate) struct Folded<A> {
    pub(crate) state: A,
    cause: Option<Cause>,
}

/// The intent that is worked off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cause {
    event_id: Uuid,
    correlation_id: Uuid,
}

/// Folds the stream of `subject` up to `version`, from its snapshot when that is not younger.
pub(crate) async fn fold<A: Aggregate>(
    store: &SharedStore,
    subject: &str,
    version: Version,
) -> Result<Folded<A>, StoreError> {
    const PAGE: usize = 512;
    let stream = StreamId::new(A::CATEGORY, subject);
    let request =
        [LoadRequest { stream: stream.clone(), snapshot_schema: A::snapshots().map(|policy| policy.schema_version) }];
    let loaded = retried(|| store.load_streams(&request, PAGE)).await?.pop().unwrap_or_default();
    let (mut folded, mut reached, mut events) = match start(loaded, version) {
        Some(started) => started,
        None => {
            let events = retried(|| store.read_stream(&stream, Version::EMPTY, PAGE)).await?;
            (Folded { state: A::default(), cause: None }, Version::EMPTY, events)
        }
    };
    loop {
        for event in events.iter().filter(|event| event.version <= version) {
            apply(&mut folded, event)?;
            reached = event.version;
        }
        if reached >= version {
            return Ok(folded);
        }
        events = retried(|| store.read_stream(&stream, reached, PAGE)).await?;
        if events.is_empty() {
            return Err(StoreError::Corrupt { what: format!("{stream} ends at version {reached}, not {version}") });
        }
    }
}

/// Where to start from; none when the snapshot cannot be used.
fn start<A: Aggregate>(loaded: LoadedStream, version: Version) -> Option<(Folded<A>, Version, Vec<RecordedEvent>)> {
    let LoadedStream { snapshot, events, .. } = loaded;
    let Some(Snapshot { version: saved, state, .. }) = snapshot else {
        return Some((Folded { state: A::default(), cause: None }, Version::EMPTY, events));
    };
    let decode = A::snapshots()?.decode;
    let state = if saved <= version { decode(&state).ok()? } else { return None };
    Some((Folded { state, cause: None }, saved, events))
}

fn apply<A: Aggregate>(folded: &mut Folded<A>, event: &RecordedEvent) -> Result<(), StoreError> {
    with_decoded::<A, _>(event, |data| folded.state.apply(data))
        .map_err(|error| StoreError::Corrupt { what: with_causes(&error) })?;
    folded.cause = Some(Cause { event_id: event.event_id, correlation_id: event.metadata.correlation_id });
    Ok(())
}
