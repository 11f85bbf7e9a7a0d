//! This file keeps a log in memory: the plainest store that keeps the contract, for tests and for trying things out.
//!
//! ```text
//! memory    MemoryStore and its writer: one lock around the state, held for one call and never over an await
//! log       the state: events, head, claims, outcomes, snapshots, and what a batch does to them
//! tables    the state: read tables and their checkpoints
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use self::log::{Alive, Log};
use super::audit::AuditFilter;
use super::{
    Batch, Checkpoint, CheckpointSave, Epoch, EventStore, Head, LoadRequest, LoadedStream, LogFilter, LogPage,
    LogWriter, RowSink, Snapshot, StoreError, StoredOutcome, TakeOver,
};
use crate::aggregate::Claim;
use crate::clock::{Clock, SystemClock};
use crate::event::{CommandId, RecordedEvent};
use crate::projections::TableSpec;
use crate::stream::{GlobalPosition, StreamId, Version};

mod log;
mod tables;

/// A log in memory. Clones are further connections to the same log, which is gone with the last of them and their
/// writers; a writer that is dropped without [`LogWriter::release`] counts as dead at once.
#[derive(Clone)]
pub struct MemoryStore {
    log: Arc<Mutex<Log>>,
}

impl MemoryStore {
    /// An empty log.
    pub fn new() -> Self {
        Self { log: Arc::new(Mutex::new(Log::empty(SystemClock.random_id()))) }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Whatever can fail is checked before the first change, so that a panic leaves no half of one behind.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    fn describe(&self) -> String {
        "memory".into()
    }

    async fn durability(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(vec![("memory".into(), "lost when the process ends".into())])
    }

    async fn head(&self) -> Result<Head, StoreError> {
        Ok(self.log().head().clone())
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        Ok(self.log().read_stream(stream, after, limit))
    }

    async fn load_streams(&self, requests: &[LoadRequest], limit: usize) -> Result<Vec<LoadedStream>, StoreError> {
        let log = self.log();
        Ok(requests.iter().map(|request| log.load_stream(request, limit)).collect())
    }

    async fn read_log(&self, after: GlobalPosition, limit: usize, filter: &LogFilter) -> Result<LogPage, StoreError> {
        Ok(self.log().read_log(after, limit, filter))
    }

    async fn index_audit(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn search_log(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        Ok(self.log().search(filter, limit))
    }

    async fn read_outcomes(&self, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError> {
        Ok(self.log().read_outcomes(commands))
    }

    async fn claim_holders(&self, claims: &[Claim]) -> Result<Vec<(Claim, StreamId)>, StoreError> {
        Ok(self.log().claim_holders(claims))
    }

    async fn prune_outcomes(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        Ok(self.log().prune_outcomes(before))
    }

    async fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.log().save_snapshot(snapshot);
        Ok(())
    }

    async fn prepare_table(&self, table: &TableSpec) -> Result<(), StoreError> {
        self.log().tables.prepare(table)
    }

    async fn load_table(&self, table: &TableSpec, rows: &mut RowSink<'_>) -> Result<Option<Checkpoint>, StoreError> {
        // Copied first: what takes the rows may call this store again.
        let Some((checkpoint, found)) = self.log().tables.load(table) else { return Ok(None) };
        found.into_iter().try_for_each(rows)?;
        Ok(Some(checkpoint))
    }

    async fn save_checkpoint(&self, save: CheckpointSave<'_>) -> Result<(), StoreError> {
        let mut log = self.log();
        let epoch = log.head().epoch;
        log.tables.save(save, epoch)
    }

    async fn checkpoint(&self, projection: &str, version: u32) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.log().tables.checkpoint(projection, version))
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        Ok(self.log().tables.checkpoints())
    }

    async fn open_writer(&self, writer: Uuid, take_over: TakeOver) -> Result<Box<dyn LogWriter>, StoreError> {
        let alive = Alive::default();
        let head = self.log().take_over(writer, &alive, take_over)?;
        Ok(Box::new(MemoryWriter { store: self.clone(), writer, head, _alive: alive }))
    }
}

/// The writer of a log in memory; it counts as living for as long as it is not dropped.
struct MemoryWriter {
    store: MemoryStore,
    writer: Uuid,
    head: Head,
    _alive: Alive,
}

#[async_trait]
impl LogWriter for MemoryWriter {
    fn head(&self) -> &Head {
        &self.head
    }

    async fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.store.log().append(batch)
    }

    async fn check_fence(&mut self, epoch: Epoch, batch: Uuid) -> Result<(), StoreError> {
        self.store.log().check_fence(epoch, batch)
    }

    async fn reclaim(&mut self) -> Result<Head, StoreError> {
        self.head = self.store.log().reclaim(self.writer, self.head.epoch, None)?;
        Ok(self.head.clone())
    }

    async fn renew(&mut self, log_id: Uuid) -> Result<Head, StoreError> {
        self.head = self.store.log().reclaim(self.writer, self.head.epoch, Some(log_id))?;
        Ok(self.head.clone())
    }

    async fn release(self: Box<Self>) {
        // Dropping it is all there is to do: a writer that does not live any more holds nothing.
    }
}
