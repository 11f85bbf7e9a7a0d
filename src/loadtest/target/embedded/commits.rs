//! This file takes down when commits return, between an engine of this process and its store: the engine is not touched.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use uuid::Uuid;

use crate::aggregate::Claim;
use crate::event::{CommandId, RecordedEvent};
use crate::projections::TableSpec;
use crate::store::audit::AuditFilter;
use crate::store::{
    Batch, Checkpoint, CheckpointSave, Epoch, EventStore, Head, LoadRequest, LoadedStream, LogFilter, LogPage,
    LogWriter, RowSink, SharedStore, Snapshot, StoreError, StoredOutcome, TakeOver,
};
use crate::stream::{GlobalPosition, StreamId, Version};

/// One commit in so many is told: enough for percentiles, and no work worth mentioning.
const TOLD_OF: u64 = 8;

/// A commit that returned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    /// Of its last event.
    pub(crate) position: GlobalPosition,
    pub(crate) at: Instant,
}

/// The commits that are told, from first to last.
pub(crate) type Commits = UnboundedReceiver<Commit>;

/// The same store, and some of the commits of those who write through it.
pub(crate) fn told(store: SharedStore) -> (SharedStore, Commits) {
    let (tell, commits) = mpsc::unbounded_channel();
    (Arc::new(Telling { store, tell }), commits)
}

struct Telling {
    store: SharedStore,
    tell: UnboundedSender<Commit>,
}

#[async_trait]
impl EventStore for Telling {
    fn describe(&self) -> String {
        self.store.describe()
    }

    async fn durability(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.store.durability().await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.store.head().await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.store.read_stream(stream, after, limit).await
    }

    async fn load_streams(&self, requests: &[LoadRequest], limit: usize) -> Result<Vec<LoadedStream>, StoreError> {
        self.store.load_streams(requests, limit).await
    }

    async fn read_log(&self, after: GlobalPosition, limit: usize, filter: &LogFilter) -> Result<LogPage, StoreError> {
        self.store.read_log(after, limit, filter).await
    }

    async fn index_audit(&self) -> Result<(), StoreError> {
        self.store.index_audit().await
    }

    async fn search_log(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.store.search_log(filter, limit).await
    }

    async fn read_outcomes(&self, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError> {
        self.store.read_outcomes(commands).await
    }

    async fn claim_holders(&self, claims: &[Claim]) -> Result<Vec<(Claim, StreamId)>, StoreError> {
        self.store.claim_holders(claims).await
    }

    async fn prune_outcomes(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.store.prune_outcomes(before).await
    }

    async fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.store.save_snapshot(snapshot).await
    }

    async fn prepare_table(&self, table: &TableSpec) -> Result<(), StoreError> {
        self.store.prepare_table(table).await
    }

    async fn load_table(&self, table: &TableSpec, rows: &mut RowSink<'_>) -> Result<Option<Checkpoint>, StoreError> {
        self.store.load_table(table, rows).await
    }

    async fn save_checkpoint(&self, save: CheckpointSave<'_>) -> Result<(), StoreError> {
        self.store.save_checkpoint(save).await
    }

    async fn checkpoint(&self, projection: &str, version: u32) -> Result<Option<Checkpoint>, StoreError> {
        self.store.checkpoint(projection, version).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.store.checkpoints().await
    }

    async fn open_writer(&self, writer: Uuid, take_over: TakeOver) -> Result<Box<dyn LogWriter>, StoreError> {
        let writer = self.store.open_writer(writer, take_over).await?;
        Ok(Box::new(TellingWriter { writer, tell: self.tell.clone(), committed: 0 }))
    }
}

struct TellingWriter {
    writer: Box<dyn LogWriter>,
    tell: UnboundedSender<Commit>,
    committed: u64,
}

#[async_trait]
impl LogWriter for TellingWriter {
    fn head(&self) -> &Head {
        self.writer.head()
    }

    async fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.writer.append(batch).await?;
        let at = Instant::now();
        let Some(last) = batch.events.last() else { return Ok(()) };
        if self.committed.is_multiple_of(TOLD_OF) {
            // Without a run that listens, nobody is to be told.
            let _ = self.tell.send(Commit { position: last.position, at });
        }
        self.committed += 1;
        Ok(())
    }

    async fn check_fence(&mut self, epoch: Epoch, batch: Uuid) -> Result<(), StoreError> {
        self.writer.check_fence(epoch, batch).await
    }

    async fn reclaim(&mut self) -> Result<Head, StoreError> {
        self.writer.reclaim().await
    }

    async fn renew(&mut self, log_id: Uuid) -> Result<Head, StoreError> {
        self.writer.renew(log_id).await
    }

    async fn release(self: Box<Self>) {
        self.writer.release().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Aggregate;
    use crate::domain::payment::{Payment, PaymentCommand};
    use crate::engine::Engine;
    use crate::loadtest::random::Random;
    use crate::loadtest::workload::payments::creation;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn the_first_commit_and_every_eighth_from_there_are_told_with_their_last_position() {
        let (store, mut commits) = told(Arc::new(MemoryStore::default()));
        let engine = Engine::builder_shared(store).aggregate::<Payment>().start().await.unwrap();
        let mut random = Random::part(1, 1);
        let began = Instant::now();

        for n in 0..17_u128 {
            let create: PaymentCommand = creation(&mut random);
            engine.execute(&Payment::id(Uuid::from_u128(n)), create).await.unwrap();
        }

        // One command a commit, one event a command: the 1st, the 9th and the 17th.
        let told: Vec<Commit> = std::iter::from_fn(|| commits.try_recv().ok()).collect();
        assert_eq!(told.iter().map(|commit| commit.position.0).collect::<Vec<_>>(), [1, 9, 17]);
        assert!(told.iter().all(|commit| commit.at >= began) && told.is_sorted_by_key(|commit| commit.at));
    }
}
