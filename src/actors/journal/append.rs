//! This file defines an append: all that one command writes, the lineage that ties it to those before it, and the ways
//! it can come back.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::super::answer::{Answer, Keep, Reply};
use super::super::loader::retried;
use super::super::snapshots::{PendingSnapshot, SnapshotSender};
use crate::aggregate::Claim;
use crate::causes::with_causes;
use crate::command::NotExecuted;
use crate::event::{CommandId, Metadata, NewEvent, RecordedEvent};
use crate::store::{Outcome, SharedStore, StoredOutcome};
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
    /// It is durable, with this outcome, and was not answered.
    Kept(Outcome),
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

/// What was under way when the journal died. It may still be on its way into the log, so that nobody is told of it
/// before the log was reclaimed.
#[derive(Clone, Default)]
pub(super) struct Orphans(Arc<Mutex<Vec<Append>>>);

impl Orphans {
    /// Hands them back, those that asked for it with the outcome that is kept of them.
    pub(super) async fn hand_back(&self, store: &SharedStore) {
        let keyed = |append: &Append| append.keep.map(|_| append.command_id);
        let ids: Vec<CommandId> = self.lock().iter().filter_map(keyed).collect();
        // They stay here meanwhile, for the journal may die over this too.
        let mut kept = kept_of(store, &ids).await;
        let mut orphans = std::mem::take(&mut *self.lock());
        // They came as the journal's stack was unwound; their aggregates decide them again in the order they come in.
        orphans.sort_by_key(|append| append.number);
        for append in orphans {
            let fault = kept.remove(&append.command_id).map_or(Fault::Unknown, Fault::Kept);
            append.hand_back(fault);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Append>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn kept_of(store: &SharedStore, ids: &[CommandId]) -> HashMap<CommandId, Outcome> {
    if ids.is_empty() {
        return HashMap::new();
    }
    match retried(|| store.read_outcomes(ids)).await {
        Ok(stored) => stored.into_iter().map(|stored| (stored.command_id, stored.outcome)).collect(),
        Err(error) => {
            warn!(error = %with_causes(&error), "kept outcomes could not be looked up");
            HashMap::new()
        }
    }
}

/// Appends under way. If the journal dies with them they are kept as orphans, so that no caller is left alone.
pub(super) struct InFlight(pub(super) Vec<Append>, Orphans);

impl InFlight {
    pub(super) fn new(appends: Vec<Append>, orphans: &Orphans) -> Self {
        Self(appends, orphans.clone())
    }

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

    /// Leaves the first `count` of them.
    pub(super) fn split_off(&mut self, count: usize) -> Self {
        Self(self.0.split_off(count), self.1.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.1.lock().append(&mut self.0);
        }
    }
}
