//! This file appends to the log: one fenced transaction a batch, on a connection of its own.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use super::connection::{Connector, Transaction, WriteConnection};
use super::lock::WriterLock;
use super::statements::{Chunks, Inserts};
use super::{claims, errors, log, outcomes, values};
use crate::event::{Metadata, RecordedEvent};
use crate::store::{Batch, Epoch, Head, LogWriter, StoreError, TakeOver};

const TAKE_OVER: &str = "
    UPDATE essaim_head SET epoch = epoch + 1, writer = ?1, log_id = coalesce(?2, log_id) WHERE id = 1
    RETURNING position, epoch, writer, batch, chain_hash, recorded_at, log_id";

// Null leaves the log its id.
const RECLAIM: &str = "
    UPDATE essaim_head SET epoch = epoch + 1, log_id = coalesce(?2, log_id) WHERE id = 1 AND writer = ?1
    RETURNING position, epoch, writer, batch, chain_hash, recorded_at, log_id";

// Null leaves what describes the last event as it is.
const ADVANCE: &str = "
    UPDATE essaim_head
    SET position = position + ?1,
        batch = ?2,
        chain_hash = coalesce(?3, chain_hash),
        recorded_at = coalesce(?4, recorded_at)
    WHERE id = 1 AND epoch = ?5 AND batch = ?6
    RETURNING position";

const READ_FENCE: &str = "SELECT epoch, batch FROM essaim_head WHERE id = 1";

static INSERTS: LazyLock<Inserts> = LazyLock::new(|| {
    let head = "INSERT INTO essaim_events (position, event_id, category, key, version, event_type, schema_version, \
                data, metadata, recorded_at, hash) VALUES ";
    Inserts::new(head, 11)
});

/// The writer of a SQLite log. Holds the lock on the side file for as long as it lives.
pub(super) struct SqliteWriter {
    writer: Uuid,
    head: Head,
    connection: WriteConnection,
    lock: WriterLock,
}

impl SqliteWriter {
    /// See [`crate::store::EventStore::open_writer`].
    pub(super) async fn open(
        connector: Arc<Connector>,
        database: &Path,
        writer: Uuid,
        take_over: TakeOver,
    ) -> Result<Self, StoreError> {
        let lock = WriterLock::acquire(database, writer, take_over)?;
        let mut connection = WriteConnection::unconnected(connector);
        let head = raise_epoch(&mut connection, TAKE_OVER, writer, None).await?;
        let head = head.ok_or_else(|| StoreError::Corrupt { what: "essaim_head has no row".into() })?;
        Ok(Self { writer, head, connection, lock })
    }

    async fn reclaim_as(&mut self, log_id: Option<Uuid>) -> Result<Head, StoreError> {
        // A commit that failed can come back for as long as its connection is open, or when the file is opened next;
        // the commit of a higher epoch after that settles it, because it is written where the failed one stood.
        self.connection.close().await;
        match raise_epoch(&mut self.connection, RECLAIM, self.writer, log_id).await? {
            Some(head) => {
                self.head = head.clone();
                Ok(head)
            }
            None => Err(Self::fenced(self.connection.connection().await?, self.head.epoch).await),
        }
    }

    async fn fenced(connection: &mut SqliteConnection, mine: Epoch) -> StoreError {
        match log::read_head(connection).await {
            Ok(head) => StoreError::Fenced { mine, found: head.epoch },
            Err(error) => error,
        }
    }
}

#[async_trait]
impl LogWriter for SqliteWriter {
    fn head(&self) -> &Head {
        &self.head
    }

    async fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut transaction = self.connection.begin().await?;
        let done = write(&mut transaction.connection, batch).await;
        self.connection.finish(transaction, done).await
    }

    async fn check_fence(&mut self, epoch: Epoch, batch: Uuid) -> Result<(), StoreError> {
        let connection = self.connection.connection().await?;
        let read: Result<(i64, String), _> = sqlx::query_as(READ_FENCE).fetch_one(connection).await;
        let (found, last) = read.map_err(|error| errors::not_executed("reading the fence", error))?;
        let found = Epoch(u64::try_from(found).unwrap_or(0));
        match found == epoch && last == batch.hyphenated().to_string() {
            true => Ok(()),
            false => Err(StoreError::Fenced { mine: epoch, found }),
        }
    }

    async fn reclaim(&mut self) -> Result<Head, StoreError> {
        self.reclaim_as(None).await
    }

    async fn renew(&mut self, log_id: Uuid) -> Result<Head, StoreError> {
        self.reclaim_as(Some(log_id)).await
    }

    async fn release(mut self: Box<Self>) {
        self.connection.close().await;
        self.lock.release();
    }
}

/// Raises the epoch and reads the head; none when the condition of the statement does not hold.
async fn raise_epoch(
    connection: &mut WriteConnection,
    statement: &'static str,
    writer: Uuid,
    log_id: Option<Uuid>,
) -> Result<Option<Head>, StoreError> {
    let mut transaction = connection.begin().await?;
    let raised = update_head(&mut transaction, statement, writer, log_id).await;
    match connection.finish(transaction, raised).await {
        // Raising it twice does no harm, so that this is as good as not executed.
        Err(StoreError::Unknown { source }) => Err(StoreError::Unavailable { what: "raising the epoch", source }),
        other => other,
    }
}

async fn update_head(
    transaction: &mut Transaction,
    statement: &'static str,
    writer: Uuid,
    log_id: Option<Uuid>,
) -> Result<Option<Head>, StoreError> {
    let log_id = log_id.map(|id| id.hyphenated().to_string());
    let query = sqlx::query(statement).bind(writer.hyphenated().to_string()).bind(log_id);
    let row = query.fetch_optional(&mut transaction.connection).await;
    let row = row.map_err(|error| errors::not_executed("raising the epoch", error))?;
    row.as_ref().map(log::head_from).transpose()
}

/// All of the batch but its COMMIT, the fence first.
async fn write(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), StoreError> {
    advance_head(connection, batch).await?;
    insert_events(connection, &batch.events).await?;
    claims::change(connection, &batch.claims).await?;
    outcomes::insert(connection, &batch.outcomes).await
}

async fn advance_head(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), StoreError> {
    let last = batch.events.last();
    let query = sqlx::query_scalar(ADVANCE)
        .bind(values::integer(batch.events.len() as u64)?)
        .bind(batch.id.hyphenated().to_string())
        .bind(last.map(|event| event.hash.0.to_vec()))
        .bind(last.map(|event| values::time(event.recorded_at)).transpose()?)
        .bind(values::integer(batch.epoch.0)?)
        .bind(batch.previous.hyphenated().to_string());
    let advanced: Result<Option<i64>, _> = query.fetch_optional(&mut *connection).await;
    let advanced = advanced.map_err(|error| errors::not_executed("advancing the head", error))?;
    let Some(position) = advanced else {
        return Err(SqliteWriter::fenced(connection, batch.epoch).await);
    };
    match last {
        Some(event) if values::integer(event.position.0)? != position => {
            let what = format!("the batch ends at position {}, the log would end at {position}", event.position);
            Err(StoreError::Conflict { what })
        }
        _ => Ok(()),
    }
}

async fn insert_events(connection: &mut SqliteConnection, events: &[RecordedEvent]) -> Result<(), StoreError> {
    let mut shared = Shared::default();
    for chunk in Chunks::of(events) {
        let mut query = sqlx::query(INSERTS.of_rows(chunk.len()));
        for event in chunk {
            query = query
                .bind(values::integer(event.position.0)?)
                .bind(event.event_id.hyphenated().to_string())
                .bind(values::text(event.stream.category())?)
                .bind(values::text(event.stream.key())?)
                .bind(values::integer(event.version.0)?)
                .bind(values::text(&event.event_type)?)
                .bind(i64::from(event.schema_version))
                .bind(values::text(&event.json)?)
                .bind(shared.metadata(&event.metadata)?)
                .bind(shared.recorded_at(event)?)
                .bind(event.hash.0.to_vec());
        }
        let inserted = query.execute(&mut *connection).await;
        inserted.map_err(|error| errors::not_executed("inserting events", error))?;
    }
    Ok(())
}

/// Neighbours in a batch often have one command's metadata and one time stamp: each is encoded once.
#[derive(Default)]
struct Shared<'a> {
    metadata: Option<(&'a str, Arc<str>)>,
    recorded_at: Option<(i64, Arc<str>)>,
}

impl<'a> Shared<'a> {
    fn metadata(&mut self, metadata: &'a Metadata) -> Result<Arc<str>, StoreError> {
        let json = metadata.as_json();
        match &self.metadata {
            Some((last, encoded)) if std::ptr::eq(*last, json) => Ok(encoded.clone()),
            _ => Ok(self.metadata.insert((json, values::text(json)?)).1.clone()),
        }
    }

    fn recorded_at(&mut self, event: &RecordedEvent) -> Result<Arc<str>, StoreError> {
        let micros = event.recorded_at.timestamp_micros();
        match &self.recorded_at {
            Some((last, encoded)) if *last == micros => Ok(encoded.clone()),
            _ => Ok(self.recorded_at.insert((micros, values::time(event.recorded_at)?.into())).1.clone()),
        }
    }
}
