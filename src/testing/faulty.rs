//! This file wraps a store so that its appends and reads go wrong when a test says so.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::faults::{AppendFault, Faults};
use crate::aggregate::Claim;
use crate::event::{CommandId, RecordedEvent};
use crate::projections::TableSpec;
use crate::store::audit::AuditFilter;
use crate::store::{
    Batch, Checkpoint, CheckpointSave, Epoch, EventStore, Head, LoadRequest, LoadedStream, LogFilter, LogPage,
    LogWriter, RowSink, SharedStore, Snapshot, StoreError, StoredOutcome, TakeOver,
};
use crate::stream::{GlobalPosition, StreamId, Version};

/// A store that fails on command. Whatever [`Faults`] does not mention goes through to the store inside: snapshots,
/// take-overs, fences.
pub struct FaultyStore {
    inner: SharedStore,
    faults: Faults,
}

impl FaultyStore {
    /// Wraps this store.
    pub fn new(inner: SharedStore) -> Self {
        Self { inner, faults: Faults::default() }
    }

    /// The switches.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.faults.before_read().await?;
        self.call(call).await
    }

    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        self.faults.step().await;
        let answer = call.await;
        self.faults.step().await;
        answer
    }
}

#[async_trait]
impl EventStore for FaultyStore {
    fn describe(&self) -> String {
        format!("faulty {}", self.inner.describe())
    }

    async fn durability(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.inner.durability().await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.read(self.inner.head()).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.read(self.inner.read_stream(stream, after, limit)).await
    }

    async fn load_streams(&self, requests: &[LoadRequest], limit: usize) -> Result<Vec<LoadedStream>, StoreError> {
        self.read(self.inner.load_streams(requests, limit)).await
    }

    async fn read_log(&self, after: GlobalPosition, limit: usize, filter: &LogFilter) -> Result<LogPage, StoreError> {
        self.read(self.inner.read_log(after, limit, filter)).await
    }

    async fn index_audit(&self) -> Result<(), StoreError> {
        self.inner.index_audit().await
    }

    async fn search_log(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.faults.before_read().await?;
        self.inner.search_log(filter, limit).await
    }

    async fn read_outcomes(&self, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError> {
        self.read(self.inner.read_outcomes(commands)).await
    }

    async fn claim_holders(&self, claims: &[Claim]) -> Result<Vec<(Claim, StreamId)>, StoreError> {
        self.read(self.inner.claim_holders(claims)).await
    }

    async fn prune_outcomes(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.call(self.inner.prune_outcomes(before)).await
    }

    async fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let before = Version(snapshot.version.0.saturating_sub(1));
        let event = self.inner.read_stream(&snapshot.stream, before, 1).await?;
        if event.first().is_none_or(|event| event.hash != snapshot.chain_hash) {
            self.faults.note_early_snapshot();
        }
        self.call(self.inner.save_snapshot(snapshot)).await
    }

    async fn prepare_table(&self, table: &TableSpec) -> Result<(), StoreError> {
        self.call(self.inner.prepare_table(table)).await
    }

    async fn load_table(&self, table: &TableSpec, rows: &mut RowSink<'_>) -> Result<Option<Checkpoint>, StoreError> {
        self.read(self.inner.load_table(table, rows)).await
    }

    async fn save_checkpoint(&self, save: CheckpointSave<'_>) -> Result<(), StoreError> {
        self.faults.before_save()?;
        self.call(self.inner.save_checkpoint(save)).await
    }

    async fn checkpoint(&self, projection: &str, version: u32) -> Result<Option<Checkpoint>, StoreError> {
        self.read(self.inner.checkpoint(projection, version)).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.read(self.inner.checkpoints()).await
    }

    async fn open_writer(&self, writer: Uuid, take_over: TakeOver) -> Result<Box<dyn LogWriter>, StoreError> {
        let inner = self.call(self.inner.open_writer(writer, take_over)).await?;
        Ok(Box::new(FaultyWriter { inner, faults: self.faults(), under_way: None }))
    }
}

struct FaultyWriter {
    inner: Box<dyn LogWriter>,
    faults: Faults,
    /// On its way while the one who sent it is gone.
    under_way: Option<Batch>,
}

impl FaultyWriter {
    async fn appended(&mut self, batch: &Batch) -> Result<(), StoreError> {
        match self.faults.before_append(batch).await? {
            None => self.inner.append(batch).await,
            Some(AppendFault::NotExecuted) => Err(StoreError::Unavailable { what: "appending", source: None }),
            Some(AppendFault::BatchLost) => Err(StoreError::Unknown { source: None }),
            Some(AppendFault::AnswerLost) => {
                self.inner.append(batch).await?;
                Err(StoreError::Unknown { source: None })
            }
            Some(AppendFault::PanicBefore) => panic!("as asked, before the append"),
            Some(AppendFault::PanicBehind) => {
                self.inner.append(batch).await?;
                panic!("as asked, behind the append")
            }
            Some(AppendFault::PanicMeanwhile) => {
                self.under_way = Some(batch.clone());
                panic!("as asked, during the append")
            }
        }
    }
}

#[async_trait]
impl LogWriter for FaultyWriter {
    fn head(&self) -> &Head {
        self.inner.head()
    }

    async fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.faults.step().await;
        let answer = self.appended(batch).await;
        self.faults.step().await;
        answer
    }

    async fn check_fence(&mut self, epoch: Epoch, batch: Uuid) -> Result<(), StoreError> {
        self.inner.check_fence(epoch, batch).await
    }

    async fn reclaim(&mut self) -> Result<Head, StoreError> {
        if let Some(late) = self.under_way.take() {
            // Whatever comes of it, nobody is there to be told.
            let _ = self.inner.append(&late).await;
        }
        self.inner.reclaim().await
    }

    async fn renew(&mut self, log_id: Uuid) -> Result<Head, StoreError> {
        self.inner.renew(log_id).await
    }

    async fn release(self: Box<Self>) {
        self.inner.release().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::testing::BatchBuilder;

    const WRITER: Uuid = Uuid::from_u128(1);

    struct Fixture {
        store: FaultyStore,
        faults: Faults,
        writer: Box<dyn LogWriter>,
    }

    impl Fixture {
        async fn new() -> Self {
            let store = FaultyStore::new(Arc::new(MemoryStore::new()));
            let writer = store.open_writer(WRITER, TakeOver::OnlyDead).await.unwrap();
            Self { faults: store.faults(), store, writer }
        }

        async fn append(&mut self, event_type: &str) -> Result<(), StoreError> {
            let head = self.store.head().await.unwrap();
            let stream = StreamId::new("account", &head.position.to_string());
            self.writer.append(&BatchBuilder::after(&head).event(&stream, 1, event_type, "{}").build()).await
        }

        async fn length(&self) -> u64 {
            self.store.inner.head().await.unwrap().position.0
        }
    }

    #[tokio::test]
    async fn faults_of_appends_come_in_the_order_asked_and_once_each() {
        let mut log = Fixture::new().await;
        for fault in [AppendFault::NotExecuted, AppendFault::AnswerLost, AppendFault::BatchLost] {
            log.faults.next_append(fault);
        }

        let not_executed = log.append("Opened").await.unwrap_err();
        assert!(matches!(not_executed, StoreError::Unavailable { .. }), "{not_executed:?}");
        assert_eq!(log.length().await, 0);

        let lost_answer = log.append("Opened").await.unwrap_err();
        assert!(matches!(lost_answer, StoreError::Unknown { .. }), "{lost_answer:?}");
        assert_eq!(log.length().await, 1);

        let lost_batch = log.append("Opened").await.unwrap_err();
        assert!(matches!(lost_batch, StoreError::Unknown { .. }), "{lost_batch:?}");
        assert_eq!(log.length().await, 1);

        log.append("Opened").await.unwrap();
        assert_eq!(log.length().await, 2);
    }

    #[tokio::test]
    async fn only_batches_with_a_refused_type_are_refused() {
        let mut log = Fixture::new().await;
        log.faults.refuse_events_of_type("Poisoned");

        let refused = log.append("Poisoned").await.unwrap_err();
        log.append("Opened").await.unwrap();

        assert!(matches!(refused, StoreError::Data { .. }), "{refused:?}");
        assert_eq!(log.length().await, 1);
    }

    #[tokio::test]
    async fn a_held_append_commits_once_it_is_released() {
        let mut log = Fixture::new().await;
        let (faults, inner) = (log.faults.clone(), log.store.inner.clone());
        faults.hold_appends();
        let append = tokio::spawn(async move { log.append("Opened").await });

        faults.append_is_held().await;
        assert_eq!(inner.head().await.unwrap().position, GlobalPosition::START);

        faults.release_appends();
        append.await.unwrap().unwrap();
        assert_eq!(inner.head().await.unwrap().position, GlobalPosition(1));
    }

    #[tokio::test(start_paused = true)]
    async fn delays_last_as_long_as_asked() {
        let mut log = Fixture::new().await;
        log.faults.delay_appends(Duration::from_secs(5));
        log.faults.delay_reads(Duration::from_secs(2));

        let start = tokio::time::Instant::now();
        log.append("Opened").await.unwrap();

        assert_eq!(start.elapsed(), Duration::from_secs(7), "one read, one append");
    }

    #[tokio::test]
    async fn reads_fail_until_they_are_mended() {
        let log = Fixture::new().await;
        log.faults.fail_reads();

        let failed = log.store.head().await.unwrap_err();
        log.faults.mend_reads();

        assert!(matches!(failed, StoreError::Unavailable { .. }), "{failed:?}");
        log.store.head().await.unwrap();
    }
}
