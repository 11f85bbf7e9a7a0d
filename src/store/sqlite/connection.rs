//! This file opens connections, checks that commits on them are durable, and brackets transactions.
//!
//! A transaction *owns* its connection and gives it back only when it ended cleanly. Whatever is dropped half way, a
//! cancelled future included, takes the connection with it, and SQLite rolls back what a closed connection left open.
//! For the same reason nothing here uses the driver's own `begin()`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep};

use super::errors;
use super::options::Synchronous;
use crate::store::StoreError;

/// How every transaction begins.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";
const READ_JOURNAL_MODE: &str = "PRAGMA journal_mode";
const READ_SYNCHRONOUS: &str = "PRAGMA synchronous";
const READ_VERSION: &str = "SELECT sqlite_version()";

/// How long a statement waits for another process's write lock; writers of one process take turns instead.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection is tried again where SQLite does not wait by itself.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// Rows that a reading connection's thread may be ahead of the task that takes them.
const READ_AHEAD_ROWS: usize = 512;
/// Page cache of a writing connection in KiB: the inner pages of the indexes of a log of some gigabytes.
const WRITE_CACHE_KIB: u32 = 16 * 1024;
/// Size in bytes to which the write-ahead log is cut when it starts over.
const WAL_KEPT_BYTES: u32 = 64 * 1024 * 1024;

/// What every connection of one store has in common.
#[derive(Debug)]
pub(super) struct Connector {
    path: PathBuf,
    synchronous: Synchronous,
    allow_weak_durability: bool,
    /// SQLite lets one connection write at a time and makes the others poll; taking turns is fair and wastes no time.
    turn: Arc<Mutex<()>>,
}

impl Connector {
    /// Connects to this file, always as this path.
    pub(super) fn new(path: PathBuf, synchronous: Synchronous, allow_weak_durability: bool) -> Self {
        Self { path, synchronous, allow_weak_durability, turn: Arc::default() }
    }

    /// How reading connections are made; they wait for nobody.
    pub(super) fn reading(&self) -> SqliteConnectOptions {
        self.common().read_only(true).row_buffer_size(READ_AHEAD_ROWS)
    }

    /// A connection that writes, whose commits are as durable as was asked for.
    ///
    /// # Errors
    /// [`StoreError::WeakDurability`] when they are not.
    async fn connect(&self) -> Result<SqliteConnection, StoreError> {
        let synchronous = match self.synchronous {
            Synchronous::Off => SqliteSynchronous::Off,
            Synchronous::Normal => SqliteSynchronous::Normal,
            Synchronous::Full => SqliteSynchronous::Full,
        };
        let options = self.common().create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(synchronous);
        // Only macOS has this; there a plain fsync leaves data in the drive's cache.
        let options = options.pragma("fullfsync", "1").pragma("checkpoint_fullfsync", "1");
        let options = options.pragma("cache_size", format!("-{WRITE_CACHE_KIB}"));
        // What a statement would need to take itself back is kept in memory; by default it is written to a file.
        let options = options.pragma("temp_store", "MEMORY");
        let options = options.pragma("journal_size_limit", WAL_KEPT_BYTES.to_string());
        let mut connection = connect_when_free(&options).await.map_err(connecting)?;
        match durability(&mut connection).await.map_err(connecting)?.weakness() {
            Some(weakness) if !self.allow_weak_durability => Err(weakness),
            _ => Ok(connection),
        }
    }

    /// The turn to write, when nobody has it.
    #[cfg(test)]
    pub(super) fn try_turn(&self) -> Option<OwnedMutexGuard<()>> {
        self.turn.clone().try_lock_owned().ok()
    }

    fn common(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new().filename(&self.path).busy_timeout(BUSY_TIMEOUT);
        options.disable_statement_logging()
    }
}

/// Two that switch a new file to its write-ahead log at the same time refuse each other at once: SQLite's own waiting
/// does not cover this one step.
async fn connect_when_free(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match options.connect().await {
            Err(error) if errors::is_busy(&error) && Instant::now() < deadline => sleep(BUSY_POLL).await,
            other => return other,
        }
    }
}

fn connecting(error: sqlx::Error) -> StoreError {
    errors::not_executed("connecting to the database", error)
}

/// What SQLite says of the commits of one connection.
#[derive(Debug)]
pub(super) struct Durability {
    /// `wal`, `delete`, …
    pub(super) journal_mode: String,
    /// `off`, `normal`, `full`, `extra`.
    pub(super) synchronous: &'static str,
    /// Of the library that is linked in, e.g. `3.50.4`.
    pub(super) sqlite_version: String,
}

/// Reads the settings in force, which need not be those that were asked for.
pub(super) async fn durability(connection: &mut SqliteConnection) -> Result<Durability, sqlx::Error> {
    let journal_mode = sqlx::query_scalar(READ_JOURNAL_MODE).fetch_one(&mut *connection).await?;
    let synchronous: i64 = sqlx::query_scalar(READ_SYNCHRONOUS).fetch_one(&mut *connection).await?;
    let sqlite_version = sqlx::query_scalar(READ_VERSION).fetch_one(connection).await?;
    // https://www.sqlite.org/pragma.html#pragma_synchronous
    let synchronous = match synchronous {
        0 => "off",
        1 => "normal",
        2 => "full",
        _ => "extra",
    };
    Ok(Durability { journal_mode, synchronous, sqlite_version })
}

impl Durability {
    fn weakness(&self) -> Option<StoreError> {
        let weak = |setting: &str, found: &str, wanted: &str| StoreError::WeakDurability {
            setting: setting.into(),
            found: found.into(),
            wanted: wanted.into(),
        };
        if self.journal_mode != "wal" {
            return Some(weak("journal_mode", &self.journal_mode, "wal"));
        }
        (!matches!(self.synchronous, "full" | "extra")).then(|| weak("synchronous", self.synchronous, "full"))
    }
}

/// A place for one connection that writes; it is made anew when the last one was lost.
#[derive(Debug)]
pub(super) struct WriteConnection {
    connector: Arc<Connector>,
    idle: Option<SqliteConnection>,
}

/// A transaction, or the turn to begin one. Dropped, it is rolled back.
pub(super) struct Transaction {
    pub(super) connection: SqliteConnection,
    _turn: OwnedMutexGuard<()>,
}

impl WriteConnection {
    /// Connects when first needed.
    pub(super) fn unconnected(connector: Arc<Connector>) -> Self {
        Self { connector, idle: None }
    }

    /// The connection outside of any transaction.
    pub(super) async fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        if self.idle.is_none() {
            self.idle = Some(self.connector.connect().await?);
        }
        Ok(self.idle.as_mut().expect("it was just put there"))
    }

    /// Closes the connection, and with it everything that SQLite remembers of a failed commit.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.idle.take() {
            // A connection that cannot even be closed is closed by being dropped.
            let _ = connection.close().await;
        }
    }

    /// Begins to write; from here on nobody else does.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when another process keeps the database locked.
    pub(super) async fn begin(&mut self) -> Result<Transaction, StoreError> {
        let mut transaction = self.take_turn().await?;
        let begun = sqlx::query(BEGIN).execute(&mut transaction.connection).await;
        begun.map_err(|error| errors::not_executed("beginning a transaction", error))?;
        Ok(transaction)
    }

    /// Waits until nobody else of this process writes; the caller sends [`BEGIN`] with its first statement.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there is no connection to be had.
    pub(super) async fn take_turn(&mut self) -> Result<Transaction, StoreError> {
        let turn = self.connector.turn.clone().lock_owned().await;
        self.connection().await?;
        let connection = self.idle.take().expect("it is there when connected");
        Ok(Transaction { connection, _turn: turn })
    }

    /// Commits what went well and rolls back what did not.
    ///
    /// # Errors
    /// The error that was passed in, or [`StoreError::Unknown`] for every error of COMMIT.
    pub(super) async fn finish<T>(
        &mut self,
        transaction: Transaction,
        done: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Transaction { mut connection, _turn } = transaction;
        let end = if done.is_ok() { COMMIT } else { ROLLBACK };
        match sqlx::query(end).execute(&mut connection).await {
            Ok(_) => {
                self.idle = Some(connection);
                done
            }
            // Nothing was committed, whatever is wrong with the connection.
            Err(_) if done.is_err() => {
                let _ = connection.close().await;
                done
            }
            Err(error) => {
                let _ = connection.close().await;
                Err(errors::unknown(error))
            }
        }
    }
}
