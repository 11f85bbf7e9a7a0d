//! This file is what the cases have in common: a store with its writer, and what must hold after every append.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::StoreUnderTest;
use crate::aggregate::Claim;
use crate::event::{CommandId, RecordedEvent};
use crate::store::{Batch, Head, LogWriter, Outcome, SharedStore, StoreError, StoredOutcome, TakeOver};
use crate::stream::{GlobalPosition, StreamId, Version};
use crate::testing::{BatchBuilder, whole_log};

/// The writer that [`OpenLog::of`] opens.
pub(super) const WRITER: Uuid = Uuid::from_u128(0xA);

/// A stream that many cases write to.
pub(super) fn ada() -> StreamId {
    StreamId::new("account", "ada")
}

/// Another one.
pub(super) fn bob() -> StreamId {
    StreamId::new("account", "bob")
}

/// The outcome of a client's command that appended one event.
pub(super) fn outcome(command: u128) -> StoredOutcome {
    StoredOutcome {
        command_id: CommandId(Uuid::from_u128(command)),
        fingerprint: [command as u8; 32],
        outcome: Outcome::Committed { version: Version(1), position: GlobalPosition(1) },
        recorded_at: chrono::DateTime::from_timestamp_micros(1_767_323_045_000_007).expect("an instant of 2026"),
        internal: false,
    }
}

/// A store, its writer, and the head as it must be.
pub(super) struct OpenLog {
    pub(super) store: SharedStore,
    pub(super) writer: Box<dyn LogWriter>,
    pub(super) head: Head,
}

impl OpenLog {
    /// Opens the log and becomes its writer.
    pub(super) async fn of(log: &dyn StoreUnderTest) -> Self {
        let store = log.open().await;
        let writer = store.open_writer(WRITER, TakeOver::OnlyDead).await.expect("nobody else writes to this log");
        let head = writer.head().clone();
        Self { store, writer, head }
    }

    /// An empty batch that would commit.
    pub(super) fn batch(&self) -> BatchBuilder {
        BatchBuilder::after(&self.head)
    }

    /// Appends a batch that must commit, and moves the head; the store's must agree in everything.
    pub(super) async fn append(&mut self, batch: BatchBuilder) -> Batch {
        let batch = batch.build();
        self.writer.append(&batch).await.expect("a batch that keeps all rules commits");
        self.head.batch = batch.id;
        if let Some(last) = batch.events.last() {
            self.head.position = last.position;
            self.head.chain_hash = last.hash;
            self.head.recorded_at = last.recorded_at;
        }
        assert_eq!(self.store.head().await.expect("the head can be read"), self.head, "the head after an append");
        batch
    }

    /// Appends a batch that must not commit and returns why not. Nothing of it may be in the log, and unless the
    /// writer is fenced, the next batch must stand right behind the last that committed.
    pub(super) async fn refused(&mut self, batch: BatchBuilder) -> StoreError {
        let batch = batch.build();
        let before = self.traces_of(&batch).await;

        let error = self.writer.append(&batch).await.expect_err("this batch must be refused");

        assert!(!matches!(error, StoreError::Unknown { .. }), "a refusal leaves nothing open: {error:?}");
        assert_eq!(self.traces_of(&batch).await, before, "a refused batch leaves nothing, after {error:?}");
        if self.head.epoch == self.store.head().await.expect("the head can be read").epoch {
            self.append(self.batch().events(&StreamId::new("account", &batch.id.to_string()), 1, 1)).await;
        }
        error
    }

    /// All events of the log.
    pub(super) async fn events(&self) -> Vec<RecordedEvent> {
        whole_log(&*self.store).await
    }

    /// Who holds this claim.
    pub(super) async fn holder(&self, claim: &Claim) -> Option<StreamId> {
        let mut held = self.store.claim_holders(std::slice::from_ref(claim)).await.expect("claims can be read");
        assert!(held.len() <= 1, "one claim has one holder: {held:?}");
        held.pop().map(|(found, holder)| {
            assert_eq!(&found, claim);
            holder
        })
    }

    /// Everything in the store that the batch could change.
    async fn traces_of(&self, batch: &Batch) -> Traces {
        let changes = &batch.claims;
        let taken = changes.take.iter().map(|(claim, _)| claim);
        let released = changes.release.iter().map(|(claim, _)| claim);
        let transferred = changes.transfer.iter().map(|(claim, _, _)| claim);
        // No store holds a text with U+0000, and some cannot even be asked for one.
        let claims = taken.chain(released).chain(transferred).filter(|claim| !claim.value.contains('\0'));
        let claims: Vec<Claim> = claims.cloned().collect();
        let commands: BTreeSet<CommandId> = batch.outcomes.iter().map(|outcome| outcome.command_id).collect();
        let mut claims = self.store.claim_holders(&claims).await.expect("claims can be read");
        claims.sort();
        let commands: Vec<CommandId> = commands.into_iter().collect();
        let mut outcomes = self.store.read_outcomes(&commands).await.expect("outcomes can be read");
        outcomes.sort_by_key(|outcome| outcome.command_id);
        let head = self.store.head().await.expect("the head can be read");
        Traces { head, events: self.events().await, claims, outcomes }
    }
}

#[derive(Debug, PartialEq)]
struct Traces {
    head: Head,
    events: Vec<RecordedEvent>,
    claims: Vec<(Claim, StreamId)>,
    outcomes: Vec<StoredOutcome>,
}
