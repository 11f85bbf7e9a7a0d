//! This file is the one who appends: its take-over of the log, its connection, and what it does when that breaks.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::Instant;
use uuid::Uuid;

use super::connection::Connector;
use super::values::Columns;
use super::{append, errors, log};
use crate::store::{Batch, Epoch, Head, LogWriter, StoreError, TakeOver};

// A writer's connection carries its id as its name. Whoever has none in this database is dead, or about to be fenced.
const READ_HOLDER: &str = "
    SELECT head.epoch, head.writer, activity.pid, activity.usename::text, host(activity.client_addr),
           activity.backend_start
    FROM essaim_head AS head
    LEFT JOIN pg_stat_activity AS activity
      ON activity.application_name = 'essaim-writer-' || head.writer
     AND activity.datname = current_database()
     AND activity.pid <> pg_backend_pid()
    WHERE head.id = 1
    LIMIT 1";

const TAKE_OVER: &str = "
    UPDATE essaim_head
    SET epoch = epoch + 1, writer = $1
    WHERE id = 1 AND epoch = $2 AND writer = $3
    RETURNING position, epoch, writer, batch, chain_hash, recorded_at, log_id";

// Null leaves the log its id.
const RECLAIM: &str = "
    UPDATE essaim_head
    SET epoch = epoch + 1, log_id = COALESCE($2, log_id)
    WHERE id = 1 AND writer = $1
    RETURNING position, epoch, writer, batch, chain_hash, recorded_at, log_id";

const RELEASE: &str = "
    UPDATE essaim_head
    SET writer = '00000000-0000-0000-0000-000000000000'
    WHERE id = 1 AND writer = $1 AND epoch = $2";

const READ_FENCE: &str = "SELECT epoch, batch FROM essaim_head WHERE id = 1";

/// How long a holder that looks alive may take to vanish: the server notices the end of a killed client within moments.
const VANISHING: Duration = Duration::from_millis(1_500);
/// How often it is looked for meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long an answer may take. Above the session's `statement_timeout`, so that it is silence and no slow statement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The writer of a Postgres log.
pub(super) struct PostgresWriter {
    connector: Arc<Connector>,
    writer: Uuid,
    head: Head,
    session: Session,
}

/// The writer's own connection. It is taken out for as long as it is in use: a call that is dropped half way drops it.
enum Session {
    Open(PgConnection),
    /// To be connected anew; nothing is left open.
    Closed,
    /// Something was sent and not answered: only a higher epoch makes sure that it is in or never will be.
    Unsettled,
}

impl PostgresWriter {
    /// See [`crate::store::EventStore::open_writer`].
    pub(super) async fn open(connector: Arc<Connector>, writer: Uuid, take_over: TakeOver) -> Result<Self, StoreError> {
        let mut connection = connector.writer(writer).await?;
        let head = answered(become_writer(&mut connection, writer, take_over)).await.map_err(errors::repeatable)?;
        Ok(Self { connector, writer, head, session: Session::Open(connection) })
    }

    async fn connection(&mut self) -> Result<PgConnection, StoreError> {
        match mem::replace(&mut self.session, Session::Unsettled) {
            Session::Open(connection) => Ok(connection),
            Session::Closed => {
                // Nothing is sent before the connection stands.
                self.session = Session::Closed;
                let connection = self.connector.writer(self.writer).await?;
                self.session = Session::Unsettled;
                Ok(connection)
            }
            Session::Unsettled => {
                let what = "appending before the log was reclaimed";
                Err(StoreError::Unavailable { what, source: None })
            }
        }
    }

    async fn reclaim_as(&mut self, log_id: Option<Uuid>) -> Result<Head, StoreError> {
        self.session = Session::Unsettled;
        let mut connection = self.connector.writer(self.writer).await?;
        let reclaimed = answered(reclaim(&mut connection, self.writer, self.head.epoch, log_id)).await;
        let head = reclaimed.map_err(errors::repeatable)?;
        self.session = Session::Open(connection);
        self.head = head.clone();
        Ok(head)
    }

    /// Keeps the connection for the next call, unless this one left it in doubt.
    fn settle<T>(&mut self, connection: PgConnection, done: &Result<T, StoreError>) {
        self.session = match done {
            Err(StoreError::Unknown { .. }) => Session::Unsettled,
            Err(StoreError::Unavailable { .. }) => Session::Closed,
            _ => Session::Open(connection),
        };
    }
}

#[async_trait]
impl LogWriter for PostgresWriter {
    fn head(&self) -> &Head {
        &self.head
    }

    async fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut connection = self.connection().await?;
        let done = answered(append::commit(&mut connection, batch)).await;
        self.settle(connection, &done);
        done
    }

    async fn check_fence(&mut self, epoch: Epoch, batch: Uuid) -> Result<(), StoreError> {
        let mut connection = self.connection().await?;
        let done = answered(check_fence(&mut connection, epoch, batch)).await.map_err(errors::repeatable);
        self.settle(connection, &done);
        done
    }

    async fn reclaim(&mut self) -> Result<Head, StoreError> {
        self.reclaim_as(None).await
    }

    async fn renew(&mut self, log_id: Uuid) -> Result<Head, StoreError> {
        self.reclaim_as(Some(log_id)).await
    }

    async fn release(mut self: Box<Self>) {
        let Session::Open(mut connection) = mem::replace(&mut self.session, Session::Unsettled) else { return };
        let releasing = async {
            let query = sqlx::query(RELEASE).bind(self.writer).bind(self.head.epoch.0.cast_signed());
            query.execute(&mut connection).await?;
            connection.close().await
        };
        // A successor finds the dead without it, only later.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, releasing).await;
    }
}

/// Waits for the answer, but not for ever; the connection is in doubt after [`StoreError::Unknown`].
async fn answered<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, work).await;
    answer.unwrap_or_else(|elapsed| Err(errors::unknown(elapsed)))
}

/// Who the head names, and whether they are there.
struct Holder {
    epoch: i64,
    writer: Uuid,
    living: Option<String>,
}

/// Raises the epoch unless the holder lives. The head is not locked while that is found out: the living go on.
async fn become_writer(connection: &mut PgConnection, writer: Uuid, take_over: TakeOver) -> Result<Head, StoreError> {
    let patience = Instant::now() + VANISHING;
    loop {
        let holder = read_holder(connection).await?;
        if let (Some(living), TakeOver::OnlyDead) = (holder.living, take_over) {
            if Instant::now() > patience {
                return Err(StoreError::Held { holder: living });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        let query = sqlx::query(TAKE_OVER).bind(writer).bind(holder.epoch).bind(holder.writer);
        let raised = query.fetch_optional(&mut *connection).await.map_err(raising)?;
        // No row: somebody else raised it meanwhile, and is to be looked at.
        if let Some(row) = raised {
            return log::head_from(&row);
        }
    }
}

async fn read_holder(connection: &mut PgConnection) -> Result<Holder, StoreError> {
    let row = sqlx::query(READ_HOLDER).fetch_optional(connection).await;
    let row = row.map_err(|error| errors::not_executed("looking for the writer", error))?.ok_or_else(log::no_head)?;
    let columns = Columns(&row);
    Ok(Holder { epoch: columns.get(0)?, writer: columns.get(1)?, living: describe_backend(&row)? })
}

/// What an operator needs to find the other process; none when there is no backend.
fn describe_backend(row: &PgRow) -> Result<Option<String>, StoreError> {
    let columns = Columns(row);
    let Some(pid) = columns.get::<Option<i32>>(2)? else { return Ok(None) };
    let or_unknown = |text: Option<String>, unknown: &str| text.unwrap_or_else(|| unknown.to_owned());
    let user = or_unknown(columns.get(3)?, "unknown");
    let client = or_unknown(columns.get(4)?, "a local socket");
    let since: Option<DateTime<Utc>> = columns.get(5)?;
    let since = or_unknown(since.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)), "unknown");
    let writer: Uuid = columns.get(1)?;
    Ok(Some(format!("backend {pid} of user {user}, client {client}, since {since} (essaim-writer-{writer})")))
}

async fn check_fence(connection: &mut PgConnection, epoch: Epoch, batch: Uuid) -> Result<(), StoreError> {
    let row = sqlx::query(READ_FENCE).fetch_optional(connection).await;
    let row = row.map_err(|error| errors::not_executed("reading the fence", error))?.ok_or_else(log::no_head)?;
    let columns = Columns(&row);
    let found = Epoch(columns.unsigned(0)?);
    match found == epoch && columns.get::<Uuid>(1)? == batch {
        true => Ok(()),
        false => Err(StoreError::Fenced { mine: epoch, found }),
    }
}

/// Raising it twice does no harm, so that an unknown outcome is as good as not executed. The statement waits for a
/// living old session that holds the head row.
async fn reclaim(
    connection: &mut PgConnection,
    writer: Uuid,
    mine: Epoch,
    log_id: Option<Uuid>,
) -> Result<Head, StoreError> {
    let raised =
        sqlx::query(RECLAIM).bind(writer).bind(log_id).fetch_optional(&mut *connection).await.map_err(raising)?;
    match raised {
        Some(row) => log::head_from(&row),
        None => Err(StoreError::Fenced { mine, found: log::read_head(connection).await?.epoch }),
    }
}

fn raising(error: sqlx::Error) -> StoreError {
    errors::not_executed("raising the epoch", error)
}
