//! This file brings the tables to what this release knows, and refuses databases that are ahead of it.

use std::collections::BTreeSet;
use std::path::Path;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use super::connection::{Transaction, WriteConnection};
use super::errors;
use super::lock::WriterLock;
use crate::store::{StoreError, TakeOver};

/// An embedder's own migrations keep the driver's default table to themselves.
const MIGRATIONS_TABLE: &str = "essaim_migrations";
const FIND_TABLE: &str = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'essaim_migrations'";
const READ_APPLIED: &str = "SELECT version FROM essaim_migrations ORDER BY version";

static EMBEDDED: Migrator = sqlx::migrate!("migrations/sqlite");

/// How far a database is behind this release.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// Not at all.
    Nothing,
    /// By everything: there are no tables of ours.
    Everything,
    /// By some migrations.
    Some,
}

/// Compares the database with this release.
///
/// # Errors
/// [`StoreError::Schema`] when the database is ahead.
pub(super) async fn compare(connection: &mut SqliteConnection, database: &Path) -> Result<Behind, StoreError> {
    let applied = applied(connection).await.map_err(|error| errors::not_executed("reading the schema", error))?;
    let known: BTreeSet<i64> = EMBEDDED.iter().map(|migration| migration.version).collect();
    if let Some(newest) = applied.difference(&known).last() {
        let ours = known.last().copied().unwrap_or(0);
        let what = format!(
            "the database {} has a newer schema ({newest}) than this release knows ({ours}): \
             use the release that wrote it or a later one",
            database.display()
        );
        return Err(StoreError::Schema { what });
    }
    Ok(match applied.len() {
        0 => Behind::Everything,
        len if len == known.len() => Behind::Nothing,
        _ => Behind::Some,
    })
}

/// Applies what is missing. A database with a log in it is left alone while a writer lives.
///
/// # Errors
/// [`StoreError::Schema`] when the database is ahead or its migrations are not ours, [`StoreError::Held`] when a living
/// writer would lose the tables it knows.
pub(super) async fn migrate(writing: &mut WriteConnection, database: &Path) -> Result<(), StoreError> {
    let _lock = match compare(writing.connection().await?, database).await? {
        Behind::Nothing => return Ok(()),
        Behind::Everything => None,
        Behind::Some => Some(WriterLock::acquire(database, Uuid::nil(), TakeOver::OnlyDead)?),
    };
    let mut transaction = writing.begin().await?;
    let done = apply(&mut transaction).await;
    match writing.finish(transaction, done).await {
        // Every migration may be tried again: those that are in are found and left out.
        Err(StoreError::Unknown { source }) => Err(StoreError::Unavailable { what: "migrating the database", source }),
        other => other,
    }
}

/// In one transaction that has the write lock: two starts at once migrate one after the other.
async fn apply(transaction: &mut Transaction) -> Result<(), StoreError> {
    let mut migrations: Vec<_> = EMBEDDED.iter().cloned().collect();
    // The transaction around all of them is begun already.
    migrations.iter_mut().for_each(|migration| migration.no_tx = true);
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator.run_direct(None, &mut transaction.connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            errors::not_executed("migrating the database", error)
        }
        other => StoreError::Schema { what: format!("the database cannot be migrated: {other}") },
    })
}

async fn applied(connection: &mut SqliteConnection) -> Result<BTreeSet<i64>, sqlx::Error> {
    let table: Option<String> = sqlx::query_scalar(FIND_TABLE).fetch_optional(&mut *connection).await?;
    if table.is_none() {
        return Ok(BTreeSet::new());
    }
    let versions: Vec<i64> = sqlx::query_scalar(READ_APPLIED).fetch_all(connection).await?;
    Ok(versions.into_iter().collect())
}
