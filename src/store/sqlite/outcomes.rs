//! This file keeps the answers to commands, finds them again, and lets those of clients expire.

use std::sync::LazyLock;

use serde_json::json;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::connection::Transaction;
use super::errors;
use super::statements::{Chunks, Inserts};
use super::values::{self, Columns};
use crate::event::CommandId;
use crate::store::{StoreError, StoredOutcome};

static INSERTS: LazyLock<Inserts> = LazyLock::new(|| {
    Inserts::new("INSERT INTO essaim_outcomes (command_id, fingerprint, outcome, recorded_at, internal) VALUES ", 5)
});

const READ: &str = "
    SELECT command_id, fingerprint, outcome, recorded_at, internal
    FROM essaim_outcomes
    WHERE command_id IN (SELECT value FROM json_each(?1))";

const PRUNE: &str = "
    DELETE FROM essaim_outcomes
    WHERE rowid IN (
        SELECT rowid FROM essaim_outcomes
        WHERE internal = 0 AND recorded_at < ?1
        ORDER BY recorded_at
        LIMIT ?2
    )";

/// Outcomes removed in one transaction, so that appends wait only briefly.
pub(super) const PRUNED_AT_ONCE: u64 = 1_000;

/// Keeps these; a command that has one already is a conflict.
pub(super) async fn insert(connection: &mut SqliteConnection, outcomes: &[StoredOutcome]) -> Result<(), StoreError> {
    for chunk in Chunks::of(outcomes) {
        let mut query = sqlx::query(INSERTS.of_rows(chunk.len()));
        for stored in chunk {
            let json = serde_json::to_string(&stored.outcome)
                .map_err(|error| StoreError::Data { what: format!("an outcome: {error}") })?;
            query = query
                .bind(stored.command_id.0.hyphenated().to_string())
                .bind(stored.fingerprint.to_vec())
                .bind(json)
                .bind(values::time(stored.recorded_at)?)
                .bind(stored.internal);
        }
        query.execute(&mut *connection).await.map_err(|error| errors::not_executed("keeping outcomes", error))?;
    }
    Ok(())
}

/// Those of these commands that are kept.
pub(super) async fn read(pool: &SqlitePool, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError> {
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(READ).bind(json!(commands).to_string()).fetch_all(pool).await;
    let rows = rows.map_err(|error| errors::not_executed("reading outcomes", error))?;
    rows.iter().map(outcome_from).collect()
}

fn outcome_from(row: &SqliteRow) -> Result<StoredOutcome, StoreError> {
    let columns = Columns(row);
    Ok(StoredOutcome {
        command_id: CommandId(columns.uuid(0)?),
        fingerprint: columns.hash(1)?,
        outcome: serde_json::from_str(columns.text(2)?).map_err(|error| columns.damaged(2, error))?,
        recorded_at: columns.time(3)?,
        internal: columns.integer(4)? != 0,
    })
}

/// Removes some of the clients' outcomes from before this time; fewer than [`PRUNED_AT_ONCE`] means that was all.
pub(super) async fn prune(transaction: &mut Transaction, before: &str) -> Result<u64, StoreError> {
    let query = sqlx::query(PRUNE).bind(before.to_owned()).bind(values::integer(PRUNED_AT_ONCE)?);
    let pruned = query.execute(&mut transaction.connection).await;
    Ok(pruned.map_err(|error| errors::not_executed("removing outcomes", error))?.rows_affected())
}
