//! This file is what travels with a command and what comes back: options, receipts, and every way to have none.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::aggregate::Claim;
use crate::event::CommandId;
use crate::stream::{ExpectedVersion, GlobalPosition, StreamId, Version};

/// What a command may bring besides itself.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Under which id its outcome is kept: the same id again gets the stored outcome. None: a fresh id, nothing kept.
    pub command_id: Option<CommandId>,
    /// The id of a command whose outcome need not be kept, for a caller who wants to know it beforehand. Must never
    /// have been used. Without meaning when there is a `command_id`.
    pub fresh_id: Option<CommandId>,
    /// What the caller believes of the stream.
    pub expected: ExpectedVersion,
    /// How long until the command must be decided; the engine's default when none.
    pub deadline: Option<Duration>,
    /// Shared by everything that one outside request set off; else the command id.
    pub correlation_id: Option<Uuid>,
    /// What directly caused it; else the command id.
    pub causation_id: Option<Uuid>,
    /// Who asks; else `anonymous`.
    pub principal: Option<String>,
    /// What else goes into the events' metadata.
    pub extra: BTreeMap<String, serde_json::Value>,
    /// A command of the engine's own parts: it has its own share of the permits, and its outcome does not expire.
    pub internal: bool,
}

/// A success, durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Version of the stream behind the command.
    pub version: Version,
    /// Position of its last event, or how far the log went when there was nothing to change.
    pub position: GlobalPosition,
    /// Whether events were appended.
    pub changed: bool,
    /// Whether this is the stored answer of an earlier call.
    pub replayed: bool,
}

/// Why a command has no receipt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecuteError<R: std::error::Error + 'static> {
    /// The aggregate refused; the refusal is durable.
    #[error("rejected: {rejection}")]
    Rejected {
        /// The business reason.
        rejection: R,
        /// The version it was decided upon.
        version: Version,
        /// How far the log went.
        position: GlobalPosition,
        /// Whether this is the stored answer of an earlier call.
        replayed: bool,
    },
    /// Another aggregate holds a value this one would need; the refusal is durable.
    #[error("already taken: {claim}")]
    ClaimRefused {
        /// The value.
        claim: Claim,
        /// The version it was decided upon.
        version: Version,
        /// How far the log went.
        position: GlobalPosition,
        /// Whether this is the stored answer of an earlier call.
        replayed: bool,
    },
    /// The stream is not as the caller believes.
    #[error("expected {expected}, the stream is at version {actual}")]
    VersionMismatch {
        /// What the caller believes.
        expected: ExpectedVersion,
        /// What it is.
        actual: Version,
    },
    /// The command id belongs to another command.
    #[error("the command id was used for another command")]
    CommandIdReused,
    /// The command cannot be taken as it is: its key, its size, its values.
    #[error("invalid command: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// Too much is in flight; not executed.
    #[error("overloaded; not executed, retry after {retry_after:?}")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// Not executed, and worth repeating.
    #[error("not executed: {reason}")]
    NotExecuted {
        /// Why not.
        reason: NotExecuted,
    },
    /// It may or may not have been executed. Only a retry with the same command id tells.
    #[error("the outcome is unknown; retry with the same command id")]
    Unknown,
    /// This aggregate failed too often and is set aside until released; not executed.
    #[error("{stream} is quarantined: {reason}")]
    Quarantined {
        /// Which one.
        stream: StreamId,
        /// What failed.
        reason: String,
    },
    /// A defect in the aggregate's code (a panic, an event that cannot be encoded); not executed.
    #[error("the command failed: {what}")]
    Failed {
        /// What happened.
        what: String,
    },
}

impl<R: std::error::Error + 'static> ExecuteError<R> {
    /// Whether this is the stored answer of an earlier call.
    pub fn is_replayed(&self) -> bool {
        matches!(self, Self::Rejected { replayed: true, .. } | Self::ClaimRefused { replayed: true, .. })
    }
}

/// Why a command was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotExecuted {
    /// Its deadline passed before it was decided.
    #[error("its deadline passed before it was decided")]
    Deadline,
    /// The store does not answer.
    #[error("the store is unavailable")]
    StoreUnavailable,
    /// Another process took the log over.
    #[error("another process has taken over the log")]
    Fenced,
    /// Its aggregate's actor failed at this very moment.
    #[error("the aggregate is being restarted")]
    Restarting,
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Draining,
    /// The aggregate changed under the command again and again.
    #[error("it had to be decided again too often")]
    Contended,
}
