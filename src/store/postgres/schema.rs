//! This file brings the tables to what this release knows, and refuses databases that are ahead of it.

use std::collections::BTreeSet;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnection;

use super::connection::Place;
use super::errors;
use crate::store::StoreError;

/// An embedder's own migrations keep the driver's default table to themselves.
const MIGRATIONS_TABLE: &str = "essaim_migrations";

// The schema that CREATE would use; a log in another schema of the search path is another log.
const READ_SCHEMA: &str = "
    SELECT current_schema()::text, EXISTS (
        SELECT FROM pg_class
        WHERE relname = 'essaim_migrations' AND relnamespace = to_regnamespace(quote_ident(current_schema()))
    )";

const READ_APPLIED: &str = "SELECT version FROM essaim_migrations ORDER BY version";

static EMBEDDED: Migrator = sqlx::migrate!("migrations/postgres");

/// Applies what is missing. Two starts at once migrate one after the other: the migrator holds an advisory lock of the
/// session, which the connection must not outlive.
///
/// # Errors
/// [`StoreError::Schema`] when the database is ahead or its migrations are not ours.
pub(super) async fn migrate(connection: &mut PgConnection, place: &Place) -> Result<(), StoreError> {
    if compare(connection, place).await? == Behind::Nothing {
        return Ok(());
    }
    let mut migrator = Migrator::with_migrations(EMBEDDED.iter().cloned().collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // `run` has a future that the compiler cannot show to be Send.
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            errors::not_executed("migrating the database", error)
        }
        other => StoreError::Schema { what: format!("{place} cannot be migrated: {other}") },
    })
}

/// Whether a store that changes nothing can read this database.
///
/// # Errors
/// [`StoreError::Schema`] when it is ahead or behind, [`StoreError::NotADatabase`] when there is no log in it.
pub(super) async fn check_readable(connection: &mut PgConnection, place: &Place) -> Result<(), StoreError> {
    match compare(connection, place).await? {
        Behind::Nothing => Ok(()),
        Behind::Everything => {
            let what = format!("{place} is a database, but there is no log of Essaim in its current schema");
            Err(StoreError::NotADatabase { what, source: None })
        }
        Behind::Some => {
            let what = format!("{place} has an older schema than this release: start the daemon of this release on it");
            Err(StoreError::Schema { what })
        }
    }
}

/// How far a database is behind this release.
#[derive(Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    Everything,
    Some,
}

async fn compare(connection: &mut PgConnection, place: &Place) -> Result<Behind, StoreError> {
    let applied = applied(connection, place).await?;
    let known: BTreeSet<i64> = EMBEDDED.iter().map(|migration| migration.version).collect();
    if let Some(newest) = applied.difference(&known).last() {
        let ours = known.last().copied().unwrap_or(0);
        let what = format!(
            "{place} has a newer schema ({newest}) than this release knows ({ours}): \
             use the release that wrote it or a later one"
        );
        return Err(StoreError::Schema { what });
    }
    Ok(match applied.len() {
        0 => Behind::Everything,
        len if len == known.len() => Behind::Nothing,
        _ => Behind::Some,
    })
}

async fn applied(connection: &mut PgConnection, place: &Place) -> Result<BTreeSet<i64>, StoreError> {
    let reading = |error| errors::not_executed("reading the schema", error);
    let (schema, exists): (Option<String>, bool) =
        sqlx::query_as(READ_SCHEMA).fetch_one(&mut *connection).await.map_err(reading)?;
    if schema.is_none() {
        let what = format!("no schema in the search path of {place} exists: create one, or set another search_path");
        return Err(StoreError::Schema { what });
    }
    if !exists {
        return Ok(BTreeSet::new());
    }
    let versions: Vec<i64> = sqlx::query_scalar(READ_APPLIED).fetch_all(connection).await.map_err(reading)?;
    Ok(versions.into_iter().collect())
}
