//! This file appends to the log: one fenced transaction a batch, on a connection of its own.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use uuid::Uuid;

use super::connection::{BEGIN, Connector, Transaction, WriteConnection};
use super::lock::WriterLock;
use super::statements::{Chunks, Inserts};
use super::values::{self, Columns};
use super::{claims, errors, log, outcomes};
use crate::event::RecordedEvent;
use crate::store::{Batch, Epoch, Head, LogWriter, StoreError, TakeOver};

const TAKE_OVER: &str = "
    UPDATE essaim_head SET epoch = epoch + 1, writer = ?1, log_id = coalesce(?2, log_id) WHERE id = 1
    RETURNING position, epoch, writer, batch, chain_hash, recorded_at, log_id";

// Null leaves the log its id.
const RECLAIM: &str = "
    UPDATE essaim_head SET epoch = epoch + 1, log_id = coalesce(?2, log_id) WHERE id = 1 AND writer = ?1
    RETURNING position, epoch, writer, batch, chain_hash, recorded_at, log_id";

// The fence: a head that is not as the batch supposes makes its position null, which its column refuses, so that
// nothing behind this in the same message is executed. Otherwise null leaves what describes the last event as it is.
const ADVANCE: &str = "
    UPDATE essaim_head
    SET position = CASE WHEN epoch = ? AND batch = ? AND position = coalesce(?, position) THEN position + ? END,
        batch = ?,
        chain_hash = coalesce(?, chain_hash),
        recorded_at = coalesce(?, recorded_at)
    WHERE id = 1
    RETURNING position";

const READ_FENCE: &str = "SELECT epoch, batch FROM essaim_head WHERE id = 1";

// A refused row ends the transaction: SQLite need not copy every page beforehand to take back this statement alone.
const INSERT: &str = "
    INSERT OR ROLLBACK INTO essaim_events (
        position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
    )
    VALUES ";
const COLUMNS: usize = 11;

static ADVANCE_ALONE: LazyLock<String> = LazyLock::new(|| format!("{BEGIN}; {ADVANCE}"));
// In one message: while its answer is awaited, the callers of the batch before take the threads that would send more.
static ADVANCE_AND_INSERT: LazyLock<Inserts> =
    LazyLock::new(|| Inserts::new(&format!("{BEGIN}; {ADVANCE}; {INSERT}"), COLUMNS));
static INSERTS: LazyLock<Inserts> = LazyLock::new(|| Inserts::new(INSERT, COLUMNS));

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
        let mut transaction = self.connection.take_turn().await?;
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

type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// All of the batch but its COMMIT, the fence first.
async fn write(connection: &mut SqliteConnection, batch: &Batch) -> Result<(), StoreError> {
    let (mut chunks, mut shared) = (Chunks::of(&batch.events), Shared::default());
    let first = match chunks.next() {
        Some(chunk) => bind_events(bind_head(ADVANCE_AND_INSERT.of_rows(chunk.len()), batch)?, chunk, &mut shared)?,
        None => bind_head(&ADVANCE_ALONE, batch)?,
    };
    // Taking one row would leave what comes behind it undone.
    let head = match first.fetch_all(&mut *connection).await {
        Ok(head) => head,
        Err(error) if errors::is_null_refused(&error) => return Err(why_fenced(connection, batch).await),
        Err(error) => return Err(errors::not_executed("appending", error)),
    };
    let Some(head) = head.first() else { return Err(why_fenced(connection, batch).await) };
    ends_at(Columns(head).integer(0)?, batch)?;
    for chunk in chunks {
        let inserted = bind_events(sqlx::query(INSERTS.of_rows(chunk.len())), chunk, &mut shared)?;
        let inserted = inserted.execute(&mut *connection).await;
        inserted.map_err(|error| errors::not_executed("inserting events", error))?;
    }
    claims::change(connection, &batch.claims).await?;
    outcomes::insert(connection, &batch.outcomes).await
}

/// What the head says when it is not as the batch supposes.
async fn why_fenced(connection: &mut SqliteConnection, batch: &Batch) -> StoreError {
    match log::read_head(connection).await {
        Ok(head) if head.epoch == batch.epoch && head.batch == batch.previous => {
            let what = format!("the batch does not start right behind position {}, where the log ends", head.position);
            StoreError::Conflict { what }
        }
        Ok(head) => StoreError::Fenced { mine: batch.epoch, found: head.epoch },
        Err(error) => error,
    }
}

fn ends_at(position: i64, batch: &Batch) -> Result<(), StoreError> {
    match batch.events.last() {
        Some(event) if values::integer(event.position.0)? != position => {
            let what = format!("the batch ends at position {}, the log would end at {position}", event.position);
            Err(StoreError::Conflict { what })
        }
        _ => Ok(()),
    }
}

fn bind_head(statement: &'static str, batch: &Batch) -> Result<Query, StoreError> {
    let (first, last) = (batch.events.first(), batch.events.last());
    let before = first.map(|event| values::integer(event.position.0.saturating_sub(1))).transpose()?;
    Ok(sqlx::query(statement)
        .bind(values::integer(batch.epoch.0)?)
        .bind(batch.previous.hyphenated().to_string())
        .bind(before)
        .bind(values::integer(batch.events.len() as u64)?)
        .bind(batch.id.hyphenated().to_string())
        .bind(last.map(|event| event.hash.0.to_vec()))
        .bind(last.map(|event| values::time(event.recorded_at)).transpose()?))
}

fn bind_events<'a>(mut query: Query, chunk: &'a [RecordedEvent], shared: &mut Shared<'a>) -> Result<Query, StoreError> {
    for event in chunk {
        query = query
            .bind(values::integer(event.position.0)?)
            .bind(event.event_id.hyphenated().to_string())
            .bind(shared.category(event.stream.category())?)
            .bind(values::text(event.stream.key())?)
            .bind(values::integer(event.version.0)?)
            .bind(shared.event_type(&event.event_type)?)
            .bind(i64::from(event.schema_version))
            .bind(values::shared(Arc::clone(&event.json))?)
            .bind(values::shared(event.metadata.shared_json())?)
            .bind(shared.recorded_at(event)?)
            .bind(event.hash.0.to_vec());
    }
    Ok(query)
}

/// Neighbours in a batch often are of one category and one type, and have one time stamp: each is encoded once.
#[derive(Default)]
struct Shared<'a> {
    category: Option<(&'a str, Arc<str>)>,
    event_type: Option<(&'a str, Arc<str>)>,
    recorded_at: Option<(i64, Arc<str>)>,
}

impl<'a> Shared<'a> {
    fn category(&mut self, category: &'a str) -> Result<Arc<str>, StoreError> {
        once(&mut self.category, category, || values::text(category))
    }

    fn event_type(&mut self, event_type: &'a str) -> Result<Arc<str>, StoreError> {
        once(&mut self.event_type, event_type, || values::text(event_type))
    }

    fn recorded_at(&mut self, event: &RecordedEvent) -> Result<Arc<str>, StoreError> {
        let encode = || values::time(event.recorded_at).map(Arc::from);
        once(&mut self.recorded_at, event.recorded_at.timestamp_micros(), encode)
    }
}

/// What the last value was encoded to, if this one is the same.
fn once<T: PartialEq>(
    last: &mut Option<(T, Arc<str>)>,
    value: T,
    encode: impl FnOnce() -> Result<Arc<str>, StoreError>,
) -> Result<Arc<str>, StoreError> {
    match last {
        Some((known, encoded)) if *known == value => Ok(Arc::clone(encoded)),
        _ => Ok(last.insert((value, encode()?)).1.clone()),
    }
}
