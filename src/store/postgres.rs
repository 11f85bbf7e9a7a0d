//! This file is the store in a Postgres schema: a log, its read tables, and the connections that reach them.
//!
//! ```text
//! writer        appends, on one connection of its own that carries its id as its name
//! checkpoints   a small pool for what is written beside the log, each transaction in a task of its own
//! queries       a pool for reads; a load of a whole table opens one more connection
//! ```
//! Names are not qualified: everything lives in the current schema of the connections.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::{FutureExt, TryFutureExt, TryStreamExt};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgPool};
use uuid::Uuid;

use self::connection::{Connector, READ_TIMEOUT, answered_within, transact};
use crate::aggregate::Claim;
use crate::event::{CommandId, RecordedEvent};
use crate::projections::TableSpec;
use crate::store::audit::AuditFilter;
use crate::store::{
    Checkpoint, CheckpointSave, EventStore, Head, LoadRequest, LoadedStream, LogFilter, LogPage, LogWriter, RowSink,
    Snapshot, StoreError, StoredOutcome, TakeOver,
};
use crate::stream::{GlobalPosition, StreamId, Version};

mod append;
mod audit;
mod checkpoints;
mod claims;
mod columns;
mod connection;
mod copied;
mod errors;
mod log;
mod options;
mod outcomes;
mod read_tables;
mod replaced;
mod schema;
mod snapshots;
mod values;
mod writer;

pub use self::options::PostgresOptions;

/// A store in one Postgres schema.
#[derive(Clone)]
pub struct PostgresStore {
    connector: Arc<Connector>,
    queries: PgPool,
    /// None in a store that only reads.
    checkpoints: Option<PgPool>,
}

impl PostgresStore {
    /// Opens the database at this address and brings its tables to what this release knows.
    ///
    /// # Errors
    /// [`StoreError::NotADatabase`] for an address that leads to no database that lets us in,
    /// [`StoreError::Unavailable`] when nothing answers there, [`StoreError::Schema`] for a newer schema. No message
    /// holds the password.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with(PostgresOptions::parse(url)?).await
    }

    /// Opens a database as these options say.
    ///
    /// # Errors
    /// Those of [`PostgresStore::open`]; [`StoreError::NotADatabase`] also when the database is only to be read and
    /// there is no log in it.
    pub async fn open_with(options: PostgresOptions) -> Result<Self, StoreError> {
        Self::assemble(options, None).await
    }

    /// A store that reads on this pool. It opens further connections with the pool's connect options: one for the
    /// writer, two for checkpoints, and one for each load of a whole table. What the pool does in `after_connect`,
    /// these do not: set a search path in the connect options.
    ///
    /// # Errors
    /// Those of [`PostgresStore::open`].
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::clone(&pool.connect_options());
        Self::assemble(PostgresOptions::connecting(connect), Some(pool)).await
    }

    async fn assemble(options: PostgresOptions, queries: Option<PgPool>) -> Result<Self, StoreError> {
        let connector = Arc::new(Connector::new(options.connect, options.allow_weak_durability));
        let mut connection = connector.migrator().await?;
        match options.read_only {
            true => schema::check_readable(&mut connection, connector.place()).await?,
            false => schema::migrate(&mut connection, connector.place()).await?,
        }
        // Whatever was to be done is done; how the connection closes changes none of it.
        let _ = connection.close().await;
        let queries = queries.unwrap_or_else(|| connector.queries(options.query_connections));
        let checkpoints = (!options.read_only).then(|| connector.checkpoints(options.checkpoint_connections));
        Ok(Self { connector, queries, checkpoints })
    }

    /// Does what may be done twice, and does it again while all that is wrong is a pooled connection that died since
    /// it was last used.
    async fn repeat<T, F>(&self, work: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        for _ in 0..self.queries.size() {
            match answered_within(READ_TIMEOUT, work()).await {
                Err(error) if errors::is_connection_lost(&error) => {}
                done => return done,
            }
        }
        answered_within(READ_TIMEOUT, work()).await
    }

    /// The pool for everything that is written beside the log.
    fn writing(&self) -> Result<PgPool, StoreError> {
        let what = "the store was opened for reading only";
        self.checkpoints.clone().ok_or(StoreError::Unavailable { what, source: None })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options of its pools hold the password.
        f.debug_tuple("PostgresStore").field(self.connector.place()).finish()
    }
}

fn loading(error: sqlx::Error) -> StoreError {
    errors::not_executed("loading a read table", error)
}

#[async_trait]
impl EventStore for PostgresStore {
    fn describe(&self) -> String {
        self.connector.place().to_string()
    }

    async fn durability(&self) -> Result<Vec<(String, String)>, StoreError> {
        let found = self.repeat(|| connection::durability(&self.queries)).await?;
        Ok(vec![
            ("fsync".into(), found.fsync),
            ("full_page_writes".into(), found.full_page_writes),
            ("synchronous_commit".into(), found.synchronous_commit),
            ("server_version".into(), found.server_version),
        ])
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.repeat(|| log::read_head(&self.queries)).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.repeat(|| log::read_stream(&self.queries, stream, after, limit)).await
    }

    async fn load_streams(&self, requests: &[LoadRequest], limit: usize) -> Result<Vec<LoadedStream>, StoreError> {
        self.repeat(|| log::load_streams(&self.queries, requests, limit)).await
    }

    async fn read_log(&self, after: GlobalPosition, limit: usize, filter: &LogFilter) -> Result<LogPage, StoreError> {
        self.repeat(|| log::read_log(&self.queries, after, limit, filter)).await
    }

    async fn index_audit(&self) -> Result<(), StoreError> {
        let made = transact(self.writing()?, |connection| audit::make_indexes(connection).boxed());
        made.await.map_err(errors::repeatable)
    }

    async fn search_log(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        self.repeat(|| audit::search(&self.queries, filter, limit)).await
    }

    async fn read_outcomes(&self, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError> {
        self.repeat(|| outcomes::read(&self.queries, commands)).await
    }

    async fn claim_holders(&self, claims: &[Claim]) -> Result<Vec<(Claim, StreamId)>, StoreError> {
        self.repeat(|| claims::holders(&self.queries, claims)).await
    }

    async fn prune_outcomes(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let pool = self.writing()?;
        self.repeat(|| outcomes::prune(&pool, before)).await
    }

    async fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let pool = self.writing()?;
        self.repeat(|| snapshots::save(&pool, snapshot)).await
    }

    async fn prepare_table(&self, table: &TableSpec) -> Result<(), StoreError> {
        read_tables::validate(table)?;
        let (pool, table) = (self.writing()?, table.clone());
        let prepared = transact(pool, move |connection| read_tables::prepare(connection, table).boxed());
        prepared.await.map_err(errors::repeatable)
    }

    async fn load_table(&self, table: &TableSpec, rows: &mut RowSink<'_>) -> Result<Option<Checkpoint>, StoreError> {
        read_tables::validate(table)?;
        let mut connection = self.connector.loader().await?;
        let checkpoint = answered_within(READ_TIMEOUT, read_tables::begin_loading(&mut connection, table)).await?;
        if checkpoint.is_none() {
            return Ok(None);
        }
        {
            let mut found = sqlx::query(AssertSqlSafe(read_tables::select(table))).fetch(&mut connection);
            while let Some(row) = answered_within(READ_TIMEOUT, found.try_next().map_err(loading)).await? {
                rows(columns::read_row(&row, table)?)?;
            }
        }
        // Everything that was asked for is here; how the connection closes changes none of it.
        let _ = connection.close().await;
        Ok(checkpoint)
    }

    async fn save_checkpoint(&self, save: CheckpointSave<'_>) -> Result<(), StoreError> {
        read_tables::validate(save.table)?;
        let CheckpointSave { table, previous, checkpoint, upserts, deletes, replace_all } = save;
        let (pool, table) = (self.writing()?, table.clone());
        transact(pool, move |connection| {
            async move {
                checkpoints::move_from(connection, previous, &checkpoint).await?;
                read_tables::write(connection, &table, replace_all, &deletes, &upserts).await
            }
            .boxed()
        })
        .await
    }

    async fn checkpoint(&self, projection: &str, version: u32) -> Result<Option<Checkpoint>, StoreError> {
        self.repeat(|| checkpoints::read(&self.queries, projection, version)).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.repeat(|| checkpoints::read_all(&self.queries)).await
    }

    async fn open_writer(&self, writer: Uuid, take_over: TakeOver) -> Result<Box<dyn LogWriter>, StoreError> {
        self.writing()?;
        Ok(Box::new(writer::PostgresWriter::open(self.connector.clone(), writer, take_over).await?))
    }
}
