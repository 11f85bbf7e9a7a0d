//! This file defines an append: all that one command writes, the lineage that ties it to those before it, and the ways
//! it can come back.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::answer::{Answer, Keep, Reply};
use super::super::snapshots::{PendingSnapshot, SnapshotSender};
use crate::aggregate::Claim;
use crate::command::NotExecuted;
use crate::event::{CommandId, Metadata, NewEvent, RecordedEvent};
use crate::store::{Outcome, StoredOutcome};
use crate::stream::{GlobalPosition, StreamId, Version};

/// Ties the appends of one actor incarnation to each other: each is valid only if its predecessor committed.
pub(crate) struct Lineage {
    pub(super) generation: u64,
    /// The last one that came to the journal in its turn.
    pub(super) accepted: AtomicU64,
    cut: AtomicBool,
    pub(super) committed: AtomicU64,
    owner: Box<dyn Fn(Append, Fault) + Send + Sync>,
}

impl Lineage {
    /// A lineage that begins with a load; `owner` gets back what falls.
    pub(crate) fn begin(generation: u64, owner: impl Fn(Append, Fault) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            generation,
            accepted: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            owner: Box::new(owner),
        })
    }

    /// The last append of this lineage that committed; they are numbered from 1.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

/// All that one command appends, or the verdict of a command that appends nothing.
pub(crate) struct Append {
    pub(crate) lineage: Arc<Lineage>,
    /// Place in its lineage, from 1.
    pub(crate) number: u64,
    pub(crate) command_id: CommandId,
    pub(crate) stream: StreamId,
    /// The version it was decided upon.
    pub(crate) version: Version,
    pub(crate) events: Vec<NewEvent>,
    pub(crate) metadata: Metadata,
    pub(crate) claims: ClaimDelta,
    /// What the caller is told once this is durable; the journal fills in the position.
    pub(crate) verdict: Verdict,
    /// The state behind its last event, to be saved once that is durable.
    pub(crate) snapshot: Option<PendingSnapshot>,
    pub(crate) keep: Option<Keep>,
    pub(crate) reply: Reply,
}

/// What an append says when it commits.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The outcome of the command.
    Outcome(Outcome),
    /// An answer that is never kept.
    Answer(Answer),
    /// The state behind it cannot be trusted: hand it back, once its predecessors are durable.
    Abort(String),
}

/// The claims that a command adds and drops.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClaimDelta {
    pub(crate) release: Vec<Claim>,
    pub(crate) take: Vec<Claim>,
}

/// Why an append came back.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// What it was decided upon fell; decide again.
    Cut,
    /// Another holds this claim.
    ClaimRefused(Claim),
    /// The store cannot keep one of its values.
    Invalid(String),
    /// It asked for this: see [`Verdict::Abort`].
    Aborted(String),
    /// It may be in the log.
    Unknown,
    /// It is not in the log, and this process no longer writes.
    Stopped(NotExecuted),
}

impl Append {
    pub(super) fn weight(&self) -> usize {
        const FIXED: usize = 256;
        self.events.iter().map(|event| FIXED + event.json.len()).sum::<usize>() + FIXED
    }

    pub(super) fn hand_back(self, fault: Fault) {
        self.lineage.cut.store(true, Ordering::Release);
        let lineage = Arc::clone(&self.lineage);
        (lineage.owner)(self, fault);
    }

    /// Answers; `last` is the last of its events, if it has any.
    pub(super) fn commit(self, position: GlobalPosition, last: Option<&RecordedEvent>, snapshots: &SnapshotSender) {
        if let (Some(pending), Some(event)) = (self.snapshot, last) {
            snapshots.save(pending, event);
        }
        self.reply.send(match self.verdict {
            Verdict::Outcome(outcome) => Answer::Outcome(outcome.at(position)),
            Verdict::Answer(answer) => answer,
            Verdict::Abort(what) => Answer::Failed(what),
        });
    }

    /// The outcome to keep under its command id, if that was asked for.
    pub(super) fn kept_outcome(
        &self,
        position: GlobalPosition,
        recorded_at: chrono::DateTime<chrono::Utc>,
    ) -> Option<StoredOutcome> {
        let (Some(keep), Verdict::Outcome(outcome)) = (self.keep, &self.verdict) else { return None };
        Some(StoredOutcome {
            command_id: self.command_id,
            fingerprint: keep.fingerprint,
            outcome: outcome.clone().at(position),
            recorded_at,
            internal: keep.internal,
        })
    }
}

/// Appends under way. If the journal dies with them they go back as unknown, so that no caller is left alone.
pub(super) struct InFlight(pub(super) Vec<Append>);

impl InFlight {
    /// Removes those for which `fault` gives a reason, together with all that were decided upon them.
    pub(super) fn hand_back_where(&mut self, mut fault: impl FnMut(&Append) -> Option<Fault>) {
        // Appends are wide, and hardly ever does one go: those that stay are not moved.
        let found = Cell::new(None);
        let goes = |append: &mut Append| {
            let why = if append.lineage.is_cut() { Some(Fault::Cut) } else { fault(append) };
            let goes = why.is_some();
            found.set(why);
            goes
        };
        for append in self.0.extract_if(.., goes) {
            append.hand_back(found.take().expect("only what has a fault is taken out"));
        }
    }

    pub(super) fn hand_all_back(mut self, fault: &Fault) {
        self.0.drain(..).for_each(|append| append.hand_back(fault.clone()));
    }

    pub(super) fn split_off_second_half(&mut self) -> InFlight {
        InFlight(self.0.split_off(self.0.len() / 2))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|append| append.hand_back(Fault::Unknown));
    }
}
