//! This file holds a command on its way through the rooms, and the port its answer leaves by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Permit;
use crate::aggregate::Aggregate;
use crate::command::NotExecuted;
use crate::event::{CommandId, Metadata};
use crate::store::Outcome;
use crate::stream::{ExpectedVersion, Version};

/// The answer to a command before it is typed for its caller.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// The durable verdict.
    Outcome(Outcome),
    /// The durable verdict of an earlier call.
    Kept(Outcome),
    /// The stream is not as the caller believes.
    VersionMismatch { expected: ExpectedVersion, actual: Version },
    /// A value that no store can keep.
    Invalid(String),
    /// A defect in the aggregate's code.
    Failed(String),
    /// The aggregate is set aside.
    Quarantined(String),
    /// Certainly not executed.
    NotExecuted(NotExecuted),
    /// Too much is in flight.
    Overloaded,
    /// It may have been executed.
    Unknown,
    /// The id belongs to another command.
    CommandIdReused,
}

/// A command of `A` with all that it brought.
pub(crate) struct Request<A: Aggregate> {
    pub(crate) command: A::Command,
    pub(crate) command_id: CommandId,
    pub(crate) expected: ExpectedVersion,
    pub(crate) decide_by: Instant,
    pub(crate) metadata: Metadata,
    /// How its outcome is kept, if it is.
    pub(crate) keep: Option<Keep>,
    /// How often it was decided again.
    pub(crate) rounds: u32,
    /// Whether an append of it may be in the log, or may still come there, whatever became of later ones.
    pub(crate) in_doubt: bool,
}

/// Says that the outcome is kept, and under which fingerprint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) internal: bool,
}

const WAITING: u8 = 0;
const DECIDED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Agrees between a caller and the actor on whether the command was decided before the caller gave up.
#[derive(Debug, Default)]
pub(crate) struct Ticket(AtomicU8);

impl Ticket {
    /// The actor is about to decide; false when the caller was told that the command is not executed.
    pub(crate) fn decide(&self) -> bool {
        self.0.fetch_or(DECIDED, Ordering::AcqRel) & GIVEN_UP == 0
    }

    /// The caller stops waiting; true when the command was not decided and now never will be.
    pub(crate) fn give_up(&self) -> bool {
        self.0.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The port by which one answer leaves. Dropping it unanswered means: outcome unknown.
#[derive(Debug)]
pub(crate) struct Reply {
    port: oneshot::Sender<Answer>,
    ticket: Arc<Ticket>,
    permit: Option<Permit>,
}

impl Reply {
    pub(crate) fn new(permit: Option<Permit>) -> (Self, Arc<Ticket>, oneshot::Receiver<Answer>) {
        let (port, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        (Self { port, ticket: Arc::clone(&ticket), permit }, ticket, answer)
    }

    /// The permit lives until the answer is released.
    pub(crate) fn carry(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    pub(crate) fn send(self, answer: Answer) {
        // A caller that gave up waiting is no reason to fail.
        let _ = self.port.send(answer);
    }
}
