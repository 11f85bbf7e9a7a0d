//! This file is the store in one SQLite file: a log, its read tables, and the connections that reach them.
//!
//! ```text
//! writer        appends, on its own connection, for as long as it holds the lock on the side file
//! write lane    checkpoints, snapshots, pruning: one connection, one transaction at a time, in tasks of their own
//! readers       a few read-only connections; loads of whole tables open one more
//! ```
//! All connections use SQLite's write-ahead log, so that readers wait for nobody. Who writes takes turns within the
//! process and waits for SQLite's lock between processes.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnection, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use self::connection::{Connector, WriteConnection};
use self::schema::Behind;
use crate::aggregate::Claim;
use crate::event::{CommandId, RecordedEvent};
use crate::projections::TableSpec;
use crate::store::audit::AuditFilter;
use crate::store::{
    Checkpoint, CheckpointSave, EventStore, Head, LoadRequest, LoadedStream, LogFilter, LogPage, LogWriter, RowSink,
    Snapshot, StoreError, StoredOutcome, TakeOver,
};
use crate::stream::{GlobalPosition, StreamId, Version};

mod audit;
mod checkpoints;
mod claims;
mod connection;
mod errors;
mod lock;
mod log;
mod options;
mod outcomes;
mod read_tables;
mod schema;
mod snapshots;
mod statements;
mod values;
mod writer;

pub use self::options::{SqliteOptions, Synchronous};

/// How long a read waits for one of the reading connections.
const READER_TIMEOUT: Duration = Duration::from_secs(5);

const BEGIN_READING: &str = "BEGIN DEFERRED";

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    database: PathBuf,
    connector: Arc<Connector>,
    readers: SqlitePool,
    /// None in a store that only reads.
    write_lane: Option<Arc<Mutex<WriteConnection>>>,
}

impl SqliteStore {
    /// Opens the database in this file (`essaim.db`, or `sqlite://essaim.db`), creates it when it is missing, and
    /// brings its tables to what this release knows.
    ///
    /// # Errors
    /// [`StoreError::NotADatabase`] for a folder that is missing or a file of another kind, [`StoreError::Schema`] for
    /// a newer schema, [`StoreError::WeakDurability`] when the file system does not let commits be durable.
    pub async fn open(path_or_url: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(SqliteOptions::parse(path_or_url)?).await
    }

    /// Opens the database in this file for tools that only read, also beside a running writer. Nothing is created.
    ///
    /// # Errors
    /// [`StoreError::NotADatabase`] when the file is missing or has no log in it, [`StoreError::Schema`] when it has
    /// another schema than this release.
    pub async fn open_read_only(path_or_url: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(SqliteOptions::parse(path_or_url)?.read_only()).await
    }

    /// Opens a database as these options say.
    ///
    /// # Errors
    /// Those of [`SqliteStore::open`] and [`SqliteStore::open_read_only`].
    pub async fn open_with(options: SqliteOptions) -> Result<Self, StoreError> {
        let database = locate(&options)?;
        let opened = Self::open_located(database.clone(), options).await;
        opened.map_err(|error| errors::at_start(error, &database))
    }

    async fn open_located(database: PathBuf, options: SqliteOptions) -> Result<Self, StoreError> {
        let connector = Connector::new(database.clone(), options.synchronous, options.allow_weak_durability);
        let connector = Arc::new(connector);
        let readers = SqlitePoolOptions::new()
            .max_connections(options.read_connections.max(1))
            .acquire_timeout(READER_TIMEOUT)
            // A connection to a file does not go stale.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(connector.reading());
        let write_lane = match options.read_only {
            true => {
                check_readable(&readers, &database).await?;
                None
            }
            false => {
                let mut writing = WriteConnection::unconnected(connector.clone());
                schema::migrate(&mut writing, &database).await?;
                Some(Arc::new(Mutex::new(writing)))
            }
        };
        Ok(Self { database, connector, readers, write_lane })
    }

    /// The one connection for everything that is written beside the log.
    async fn write_lane(&self) -> Result<OwnedMutexGuard<WriteConnection>, StoreError> {
        match &self.write_lane {
            Some(lane) => Ok(lane.clone().lock_owned().await),
            None => Err(opened_read_only()),
        }
    }

    /// A connection that no pool gets back: dropped half way, it is closed, and its transaction with it.
    async fn connect_reader(&self) -> Result<SqliteConnection, StoreError> {
        self.connector.reading().connect().await.map_err(loading)
    }
}

/// The file's one absolute name, through all links, so that everybody finds the same lock beside it.
fn locate(options: &SqliteOptions) -> Result<PathBuf, StoreError> {
    let path = std::path::absolute(&options.path).map_err(|error| unusable(&options.path, error))?;
    if path.is_dir() {
        let what = format!("{} is a folder: give the path of a database file", path.display());
        return Err(StoreError::NotADatabase { what, source: None });
    }
    if let Ok(found) = fs::canonicalize(&path) {
        return Ok(found);
    }
    if options.read_only {
        let what = format!("there is no database {}: check the path, or start the daemon on it once", path.display());
        return Err(StoreError::NotADatabase { what, source: None });
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        let what = format!("{} names no file", path.display());
        return Err(StoreError::NotADatabase { what, source: None });
    };
    let folder = fs::canonicalize(folder).map_err(|error| unusable(folder, error))?;
    Ok(folder.join(name))
}

fn unusable(path: &Path, error: std::io::Error) -> StoreError {
    let what =
        format!("the folder {} for the database cannot be used: create it, or give another path", path.display());
    StoreError::NotADatabase { what, source: Some(Arc::new(error)) }
}

/// A store that only reads changes nothing, the schema neither.
async fn check_readable(readers: &SqlitePool, database: &Path) -> Result<(), StoreError> {
    let mut connection = readers.acquire().await.map_err(loading)?;
    match schema::compare(&mut connection, database).await? {
        Behind::Nothing => Ok(()),
        Behind::Everything => {
            let what = format!("{} is a database, but there is no log of Essaim in it", database.display());
            Err(StoreError::NotADatabase { what, source: None })
        }
        Behind::Some => {
            let what = format!(
                "the database {} has an older schema than this release: start the daemon of this release on it once",
                database.display()
            );
            Err(StoreError::Schema { what })
        }
    }
}

fn opened_read_only() -> StoreError {
    StoreError::Unavailable { what: "the store was opened for reading only", source: None }
}

fn loading(error: sqlx::Error) -> StoreError {
    errors::not_executed("reading the database", error)
}

/// Runs work to its end even when the caller is dropped.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(errors::unknown(error)))
}

#[async_trait]
impl EventStore for SqliteStore {
    fn describe(&self) -> String {
        format!("sqlite://{}", self.database.display())
    }

    async fn durability(&self) -> Result<Vec<(String, String)>, StoreError> {
        if self.write_lane.is_none() {
            return Ok(vec![("access".into(), "read-only".into())]);
        }
        let mut lane = self.write_lane().await?;
        let found = connection::durability(lane.connection().await?).await.map_err(loading)?;
        Ok(vec![
            ("journal_mode".into(), found.journal_mode),
            ("synchronous".into(), found.synchronous.into()),
            ("sqlite_version".into(), found.sqlite_version),
        ])
    }

    async fn head(&self) -> Result<Head, StoreError> {
        log::read_head(&self.readers).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        log::read_stream(&self.readers, stream, after, limit).await
    }

    async fn load_streams(&self, requests: &[LoadRequest], limit: usize) -> Result<Vec<LoadedStream>, StoreError> {
        log::load_streams(&self.readers, requests, limit).await
    }

    async fn read_log(&self, after: GlobalPosition, limit: usize, filter: &LogFilter) -> Result<LogPage, StoreError> {
        log::read_log(&self.readers, after, limit, filter).await
    }

    async fn index_audit(&self) -> Result<(), StoreError> {
        let mut lane = self.write_lane().await?;
        let made = detached(async move {
            let mut transaction = lane.begin().await?;
            let done = audit::make_indexes(&mut transaction.connection).await;
            lane.finish(transaction, done).await
        });
        made.await.map_err(repeatable)
    }

    async fn search_log(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        audit::search(&self.readers, filter, limit).await
    }

    async fn read_outcomes(&self, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError> {
        outcomes::read(&self.readers, commands).await
    }

    async fn claim_holders(&self, claims: &[Claim]) -> Result<Vec<(Claim, StreamId)>, StoreError> {
        claims::holders(&self.readers, claims).await
    }

    async fn prune_outcomes(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let before = values::time(before)?;
        let mut removed = 0;
        loop {
            let (mut lane, before) = (self.write_lane().await?, before.clone());
            let pruned = detached(async move {
                let mut transaction = lane.begin().await?;
                let done = outcomes::prune(&mut transaction, &before).await;
                lane.finish(transaction, done).await
            });
            let pruned = pruned.await.map_err(repeatable)?;
            removed += pruned;
            if pruned < outcomes::PRUNED_AT_ONCE {
                return Ok(removed);
            }
        }
    }

    async fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let (mut lane, snapshot) = (self.write_lane().await?, snapshot.clone());
        let saved = detached(async move {
            let mut transaction = lane.begin().await?;
            let done = snapshots::save(&mut transaction, snapshot).await;
            lane.finish(transaction, done).await
        });
        saved.await.map_err(repeatable)
    }

    async fn prepare_table(&self, table: &TableSpec) -> Result<(), StoreError> {
        read_tables::validate(table)?;
        let (mut lane, table) = (self.write_lane().await?, table.clone());
        let prepared = detached(async move {
            let mut transaction = lane.begin().await?;
            let done = read_tables::prepare(&mut transaction.connection, &table).await;
            lane.finish(transaction, done).await
        });
        prepared.await.map_err(repeatable)
    }

    async fn load_table(&self, table: &TableSpec, rows: &mut RowSink<'_>) -> Result<Option<Checkpoint>, StoreError> {
        read_tables::validate(table)?;
        let mut connection = self.connect_reader().await?;
        sqlx::query(BEGIN_READING).execute(&mut connection).await.map_err(loading)?;
        let checkpoint = checkpoints::read(&mut connection, &table.projection, table.version).await?;
        if checkpoint.is_none() || !read_tables::exists(&mut connection, table).await? {
            return Ok(None);
        }
        let mut found = sqlx::query(AssertSqlSafe(read_tables::select(table))).fetch(&mut connection);
        while let Some(row) = found.try_next().await.map_err(loading)? {
            rows(read_tables::read_row(&row, table)?)?;
        }
        drop(found);
        // Everything that was asked for is here; how the connection closes changes none of it.
        let _ = connection.close().await;
        Ok(checkpoint)
    }

    async fn save_checkpoint(&self, save: CheckpointSave<'_>) -> Result<(), StoreError> {
        read_tables::validate(save.table)?;
        let CheckpointSave { table, previous, checkpoint, upserts, deletes, replace_all } = save;
        let (mut lane, table) = (self.write_lane().await?, table.clone());
        detached(async move {
            let mut transaction = lane.begin().await?;
            let connection = &mut transaction.connection;
            let mut done = checkpoints::move_from(connection, previous, &checkpoint).await;
            if done.is_ok() {
                done = read_tables::write(connection, &table, replace_all, deletes, upserts).await;
            }
            lane.finish(transaction, done).await
        })
        .await
    }

    async fn checkpoint(&self, projection: &str, version: u32) -> Result<Option<Checkpoint>, StoreError> {
        checkpoints::read(&self.readers, projection, version).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        checkpoints::read_all(&self.readers).await
    }

    async fn open_writer(&self, writer: Uuid, take_over: TakeOver) -> Result<Box<dyn LogWriter>, StoreError> {
        if self.write_lane.is_none() {
            return Err(opened_read_only());
        }
        let opened = writer::SqliteWriter::open(self.connector.clone(), &self.database, writer, take_over).await?;
        Ok(Box::new(opened))
    }
}

/// What may be done twice without harm need not be known to have been done.
fn repeatable(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown { source } => StoreError::Unavailable { what: "waiting for a commit", source },
        other => other,
    }
}

#[cfg(test)]
mod tests;
