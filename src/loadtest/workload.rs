//! This file is the contract of a workload: callers, what each does next, and how it is told how that ended.
//!
//! ```text
//! Workload ── fill ──> Operations before the clock starts
//!     └─ caller(n) ──> Caller ── next ──> Operation ── send ──> Answer ── ended ──> Caller
//! ```
//! The harness decides when an operation begins, gives it its key, repeats it while its outcome is unknown, takes the
//! time and remembers what was answered. A workload only says what is done. `examples/load_workload.rs` is a whole one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::checker::Contents;
use super::random::Random;
use crate::aggregate::{Aggregate, AggregateId};
use crate::command::{ExecuteError, NotExecuted, Options, Receipt};
use crate::engine::Engine;
use crate::event::CommandId;
use crate::stream::{GlobalPosition, StreamId, Version};

pub mod cold;
pub mod mixed;
pub mod payments;

/// What a run does to the system.
pub trait Workload: Send + Sync + 'static {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// What must be there before the load begins, as lists that are worked off side by side, each in its order. It is
    /// verified like the rest, and not measured.
    fn fill(&self, _seed: &CallerSeed) -> Vec<Box<dyn Iterator<Item = Operation> + Send>> {
        Vec::new()
    }

    /// One more caller. There is one for each that the schedule has at work at a time.
    fn caller(&self, seed: CallerSeed) -> Box<dyn Caller>;
}

/// One who does one thing after the other.
pub trait Caller: Send {
    /// What it does next.
    fn next(&mut self) -> Operation;

    /// How that ended. Not called when the run ended before it did.
    fn ended(&mut self, _answer: &Answer) {}
}

/// Where a caller takes its numbers from.
#[derive(Debug, Clone)]
pub struct CallerSeed {
    /// Which caller it is, from 0.
    pub number: u64,
    /// For its choices: the same for every run with this seed.
    pub random: Random,
    /// For names of what it makes: never the same in two runs, so that one log may take many.
    pub names: Random,
}

/// Sends an operation once; called again, with the same attempt, while the outcome is unknown.
type Sender = Arc<dyn Fn(Attempt) -> Answering + Send + Sync>;
/// An answer to come.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What a command's events must say; asked for when it was executed, or may have been.
type Decided = Arc<dyn Fn() -> Contents + Send + Sync>;

/// One thing that a caller does.
#[derive(Clone)]
pub struct Operation {
    pub(crate) kind: &'static str,
    pub(crate) effect: Effect,
    pub(crate) contents: Option<Decided>,
    pub(crate) send: Sender,
}

/// What an operation is to the log.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// A command to this aggregate; a success of it leaves so many events.
    Command { stream: StreamId, expected: Expected, events: u16 },
    /// A read of this aggregate's row that must include this position.
    Read { stream: StreamId, at_least: GlobalPosition },
    /// Something of which no trace is kept.
    Other,
}

/// How a command must end, given what its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// With success.
    Success,
    /// With a business refusal.
    Refusal,
    /// One or the other.
    Either,
}

/// Under which name an operation is sent.
#[derive(Debug, Clone)]
pub struct Attempt {
    principal: Arc<str>,
    key: String,
    is_kept: bool,
}

impl Attempt {
    /// The attempt of `principal` under this key; with `is_kept` its outcome is stored, so that it may be repeated.
    pub(crate) fn new(principal: Arc<str>, key: String, is_kept: bool) -> Self {
        Self { principal, key, is_kept }
    }

    /// The key, for an `Idempotency-Key`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The id under which the command stands in the log.
    pub fn command_id(&self) -> CommandId {
        CommandId::from_key(&self.principal, &self.key)
    }

    /// For [`Engine::execute_with`].
    pub fn options(&self) -> Options {
        let id = Some(self.command_id());
        if self.is_kept {
            Options { command_id: id, ..Options::default() }
        } else {
            Options { fresh_id: id, ..Options::default() }
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Durable.
    Done {
        /// The aggregate's version behind it.
        version: Version,
        /// The position reached.
        position: GlobalPosition,
        /// Whether it left events.
        changed: bool,
    },
    /// A business refusal, durable.
    Refused {
        /// The reason's name, one of few, e.g. `not_pending`.
        code: String,
    },
    /// Nothing happened, and it may be tried again under another key.
    NotExecuted(Failed),
    /// Nobody can say; the harness repeats it.
    Unknown(Failed),
    /// It cannot succeed: the system or the workload has a defect.
    Failed(Failed),
    /// What a read saw.
    Seen {
        /// The position answered at.
        position: GlobalPosition,
        /// The row's version; none when there is no row.
        version: Option<Version>,
    },
    /// What [`Operation::other`] was about was done.
    Did {
        /// How many events it took, e.g. a rebuild.
        events: u64,
    },
}

/// Why an attempt did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its class, one of few: errors are counted by it.
    pub class: &'static str,
    /// What was said, for the first of its class.
    pub detail: String,
}

impl Failed {
    /// The class of what was still without an answer when the run gave it up.
    pub(crate) const ABANDONED: &str = "abandoned";

    /// A failure of this class.
    pub fn new(class: &'static str, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into() }
    }
}

impl Operation {
    /// A command to an aggregate of an engine in this process.
    pub fn execute<A: Aggregate>(
        kind: &'static str,
        engine: &Engine,
        id: AggregateId<A>,
        command: A::Command,
        expected: Expected,
    ) -> Self
    where
        A::Command: Clone,
    {
        let (engine, stream) = (engine.clone(), id.stream().clone());
        Self::command(kind, stream, expected, move |attempt| {
            let (engine, id, command) = (engine.clone(), id.clone(), command.clone());
            async move { engine.execute_with(&id, command, attempt.options()).await.into() }
        })
    }

    /// A command to the aggregate of this stream, sent by `send` under the attempt's key.
    pub fn command<F>(
        kind: &'static str,
        stream: StreamId,
        expected: Expected,
        send: impl Fn(Attempt) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(kind, Effect::Command { stream, expected, events: 1 }, send)
    }

    /// A read of what shows this stream, answered with [`Answer::Seen`]; it must include `at_least`.
    pub fn read<F>(
        kind: &'static str,
        stream: StreamId,
        at_least: GlobalPosition,
        send: impl Fn(Attempt) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(kind, Effect::Read { stream, at_least }, send)
    }

    /// The same, of which a success leaves so many events where one is the rule.
    #[must_use]
    pub fn leaving(mut self, count: u16) -> Self {
        if let Effect::Command { events, .. } = &mut self.effect {
            *events = count;
        }
        self
    }

    /// The same command, whose events are to say this in the log. Without, they are held to their number and places.
    #[must_use]
    pub fn deciding(self, contents: impl Fn() -> Contents + Send + Sync + 'static) -> Self {
        Self { contents: Some(Arc::new(contents)), ..self }
    }

    /// Anything else, answered with [`Answer::Did`]: measured, and not verified.
    pub fn other<F>(kind: &'static str, send: impl Fn(Attempt) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(kind, Effect::Other, send)
    }

    fn new<F>(kind: &'static str, effect: Effect, send: impl Fn(Attempt) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self { kind, effect, contents: None, send: Arc::new(move |attempt| Box::pin(send(attempt))) }
    }
}

impl<R: Serialize + std::error::Error + 'static> From<Result<Receipt, ExecuteError<R>>> for Answer {
    fn from(result: Result<Receipt, ExecuteError<R>>) -> Self {
        let error = match result {
            Ok(Receipt { version, position, changed, .. }) => return Self::Done { version, position, changed },
            Err(error) => error,
        };
        let failed = |class| Failed::new(class, error.to_string());
        match &error {
            ExecuteError::Rejected { rejection, .. } => Self::Refused { code: code_of(rejection) },
            ExecuteError::ClaimRefused { claim, .. } => Self::Refused { code: format!("{}_taken", claim.scope) },
            ExecuteError::Overloaded { .. } => Self::NotExecuted(failed("overloaded")),
            ExecuteError::NotExecuted { reason: NotExecuted::Deadline } => Self::NotExecuted(failed("deadline")),
            ExecuteError::NotExecuted { .. } => Self::NotExecuted(failed("not_executed")),
            ExecuteError::VersionMismatch { .. } => Self::NotExecuted(failed("version_mismatch")),
            ExecuteError::Unknown => Self::Unknown(failed("unknown")),
            ExecuteError::CommandIdReused => Self::Failed(failed("command_id_reused")),
            ExecuteError::Invalid { .. } => Self::Failed(failed("invalid")),
            ExecuteError::Quarantined { .. } => Self::Failed(failed("quarantined")),
            ExecuteError::Failed { .. } => Self::Failed(failed("failed")),
        }
    }
}

/// The name of the variant, without what it holds: there are few of them.
fn code_of(rejection: &impl Serialize) -> String {
    match serde_json::to_value(rejection) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => "rejected".to_owned(),
    }
}

impl Answer {
    /// Whether the target said nothing at all.
    pub(crate) fn is_silence(&self) -> bool {
        const SILENT: [&str; 4] = [Failed::ABANDONED, "unreachable", "timeout", "connection_lost"];
        matches!(self, Self::Unknown(failed) if SILENT.contains(&failed.class))
    }

    /// Whether it is what the operation was for; an expected refusal is.
    pub(crate) fn is_as(&self, effect: &Effect) -> bool {
        match (self, effect) {
            (Self::Done { .. }, Effect::Command { expected, .. }) => *expected != Expected::Refusal,
            (Self::Refused { .. }, Effect::Command { expected, .. }) => *expected != Expected::Success,
            (Self::Seen { position, .. }, Effect::Read { at_least, .. }) => position >= at_least,
            (Self::Did { .. }, Effect::Other) => true,
            _ => false,
        }
    }
}
