//! This file opens connections: their session settings, the pools they stand in, and what their commits are worth.
//!
//! Limits on time stand on both sides. The server's end sessions that wait too long for a lock, and notices clients
//! that vanished; ours ends the wait for a server that vanished.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, Postgres};
use sqlx::{ConnectOptions, Connection, Executor, PgPool};
use uuid::Uuid;

use super::errors;
use crate::store::StoreError;

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a read or a save waits for a connection of its pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read may take, above the sessions' `statement_timeout`: then it is silence and no slow statement.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(35);
/// How long a transaction of the checkpoints' pool may take in all.
const SAVE_TIMEOUT: Duration = Duration::from_secs(120);

// jit costs more than it gains in statements as short as ours. The fence waits for the head row and then looks at it
// anew, which is what this isolation level does.
const WRITER_SETTINGS: &str = "
    SET jit = off;
    SET default_transaction_isolation = 'read committed';
    SET lock_timeout = '3s';
    SET statement_timeout = '10s';
    SET idle_in_transaction_session_timeout = '10s';
    SET tcp_keepalives_idle = 5;
    SET tcp_keepalives_interval = 2;
    SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = '10s'";

const CHECKPOINT_SETTINGS: &str = "
    SET jit = off;
    SET default_transaction_isolation = 'read committed';
    SET lock_timeout = '10s';
    SET statement_timeout = '60s';
    SET idle_in_transaction_session_timeout = '60s';
    SET tcp_user_timeout = '30s'";

const QUERY_SETTINGS: &str = "
    SET jit = off;
    SET statement_timeout = '30s';
    SET tcp_user_timeout = '30s';
    SET default_transaction_read_only = on";

// A whole table takes as long as it takes.
const LOAD_SETTINGS: &str = "
    SET jit = off;
    SET tcp_user_timeout = '30s';
    SET default_transaction_read_only = on";

const MIGRATION_SETTINGS: &str = "
    SET lock_timeout = '30s';
    SET idle_in_transaction_session_timeout = '60s'";

const READ_DURABILITY: &str = "
    SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
           current_setting('server_version')";

/// Where a database is, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    host: String,
    port: u16,
    socket: Option<String>,
    user: String,
    database: String,
}

impl Place {
    pub(super) fn of(options: &PgConnectOptions) -> Self {
        let user = options.get_username().to_owned();
        Self {
            host: options.get_host().to_owned(),
            port: options.get_port(),
            socket: options.get_socket().map(|path| path.display().to_string()),
            // Postgres's own default.
            database: options.get_database().map_or_else(|| user.clone(), ToOwned::to_owned),
            user,
        }
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DEFAULT_PORT: u16 = 5432;
        let Self { host, port, socket, database, .. } = self;
        match socket {
            Some(folder) => write!(f, "postgres:///{database}?host={folder}"),
            None if *port == DEFAULT_PORT => write!(f, "postgres://{host}/{database}"),
            None => write!(f, "postgres://{host}:{port}/{database}"),
        }
    }
}

/// Opens connections to one database.
pub(super) struct Connector {
    options: PgConnectOptions,
    place: Place,
    allow_weak_durability: bool,
}

impl Connector {
    pub(super) fn new(options: PgConnectOptions, allow_weak_durability: bool) -> Self {
        let place = Place::of(&options);
        let options = options.disable_statement_logging();
        Self { options, place, allow_weak_durability }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A pool of connections that read.
    pub(super) fn queries(&self, connections: u32) -> PgPool {
        self.pool(connections, QUERY_SETTINGS)
    }

    /// A pool of connections that save checkpoints, snapshots and read tables.
    pub(super) fn checkpoints(&self, connections: u32) -> PgPool {
        self.pool(connections, CHECKPOINT_SETTINGS)
    }

    fn pool(&self, connections: u32, settings: &'static str) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // One more round trip for each use; a stale connection shows by its first error.
            .test_before_acquire(false)
            .after_connect(move |connection, _| Box::pin(async move { connection.execute(settings).await.map(|_| ()) }))
            .connect_lazy_with(self.named("essaim"))
    }

    /// The connection of one writer, which others recognise by its name. Its commits are as durable as required.
    pub(super) async fn writer(&self, writer: Uuid) -> Result<PgConnection, StoreError> {
        let mut connection = self.connect(self.named(&writer_name(writer)), WRITER_SETTINGS).await?;
        if !self.allow_weak_durability {
            answered_within(CONNECT_TIMEOUT, check_durability(&mut connection)).await?;
        }
        Ok(connection)
    }

    /// A connection that loads a whole table; dropped half way, it is closed, and its transaction with it.
    pub(super) async fn loader(&self) -> Result<PgConnection, StoreError> {
        self.connect(self.named("essaim"), LOAD_SETTINGS).await
    }

    /// A connection that may change the schema.
    pub(super) async fn migrator(&self) -> Result<PgConnection, StoreError> {
        self.connect(self.named("essaim"), MIGRATION_SETTINGS).await
    }

    fn named(&self, application: &str) -> PgConnectOptions {
        self.options.clone().application_name(application)
    }

    async fn connect(&self, options: PgConnectOptions, settings: &'static str) -> Result<PgConnection, StoreError> {
        let connecting = async {
            let mut connection = options.connect().await?;
            connection.execute(settings).await?;
            Ok(connection)
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let connected = connected.unwrap_or_else(|elapsed| Err(sqlx::Error::Io(elapsed.into())));
        connected.map_err(|error| errors::connecting(&self.place, error))
    }
}

/// The name of a writer's connection in `pg_stat_activity`; the statement that looks for it builds the same.
fn writer_name(writer: Uuid) -> String {
    format!("essaim-writer-{}", writer.hyphenated())
}

/// What makes commits durable on this server, and its version.
pub(super) struct Durability {
    pub(super) fsync: String,
    pub(super) full_page_writes: String,
    pub(super) synchronous_commit: String,
    pub(super) server_version: String,
}

/// Reads what the session's commits are worth.
pub(super) async fn durability(executor: impl sqlx::PgExecutor<'_>) -> Result<Durability, StoreError> {
    let read: Result<(String, String, String, String), _> = sqlx::query_as(READ_DURABILITY).fetch_one(executor).await;
    let (fsync, full_page_writes, synchronous_commit, server_version) =
        read.map_err(|error| errors::not_executed("reading the settings of the server", error))?;
    Ok(Durability { fsync, full_page_writes, synchronous_commit, server_version })
}

async fn check_durability(connection: &mut PgConnection) -> Result<(), StoreError> {
    let found = durability(connection).await?;
    let settings = [
        ("fsync", found.fsync, &["on"][..]),
        ("full_page_writes", found.full_page_writes, &["on"]),
        // Weaker ones answer before the commit is on this server's disk, or before a synchronous standby has it.
        ("synchronous_commit", found.synchronous_commit, &["on", "remote_apply"]),
    ];
    match settings.into_iter().find(|(_, found, wanted)| !wanted.contains(&found.as_str())) {
        Some((setting, found, wanted)) => {
            Err(StoreError::WeakDurability { setting: setting.into(), found, wanted: wanted.join(" or ") })
        }
        None => Ok(()),
    }
}

/// Waits for an answer, but not for ever: a server whose machine is gone sends none, and the driver would wait on.
pub(super) async fn answered_within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = tokio::time::timeout(limit, work).await;
    answer.unwrap_or_else(|elapsed| Err(StoreError::unavailable("waiting for an answer of the server", elapsed)))
}

/// Runs a transaction to its end in a task of its own, even when the caller is dropped: one abandoned half way would
/// go back to its pool open.
pub(super) async fn transact<W>(pool: PgPool, work: W) -> Result<(), StoreError>
where
    W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<(), StoreError>> + Send + 'static,
{
    let running = tokio::spawn(async move {
        let mut connection = acquire_living(&pool).await?;
        let done = tokio::time::timeout(SAVE_TIMEOUT, commit(&mut connection, work)).await;
        done.unwrap_or_else(|elapsed| {
            connection.close_on_drop();
            Err(errors::unknown(elapsed))
        })
    });
    running.await.unwrap_or_else(|error| Err(errors::unknown(error)))
}

/// A connection that did not die since it was last used.
async fn acquire_living(pool: &PgPool) -> Result<PoolConnection<Postgres>, StoreError> {
    loop {
        let acquired = pool.acquire().await;
        let mut connection = acquired.map_err(|error| errors::not_executed("waiting for a connection", error))?;
        if matches!(tokio::time::timeout(ACQUIRE_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
            return Ok(connection);
        }
        connection.close_on_drop();
    }
}

async fn commit<W>(connection: &mut PgConnection, work: W) -> Result<(), StoreError>
where
    W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<(), StoreError>>,
{
    let begun = connection.begin().await;
    let mut transaction = begun.map_err(|error| errors::not_executed("beginning a transaction", error))?;
    match work(&mut transaction).await {
        Ok(()) => transaction.commit().await.map_err(|error| errors::at_commit("committing", error)),
        Err(error) => {
            // When even this fails the connection is gone, and the transaction with it.
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn a_place_names_the_database_and_no_password() {
        let place = |url: &str| Place::of(&PgConnectOptions::from_str(url).unwrap()).to_string();

        assert_eq!(place("postgres://ada:secret@db.example/ledger"), "postgres://db.example/ledger");
        assert_eq!(place("postgres://ada:secret@db.example:6000"), "postgres://db.example:6000/ada");
        assert_eq!(place("postgres://ada@%2Frun%2Fpg/ledger"), "postgres:///ledger?host=/run/pg");
    }
}
