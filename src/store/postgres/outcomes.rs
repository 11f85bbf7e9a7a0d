//! This file finds kept answers to commands again, and lets those of clients expire.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::postgres::PgRow;

use super::errors;
use super::values::{self, Columns};
use crate::event::CommandId;
use crate::store::{StoreError, StoredOutcome};

const READ: &str = "
    SELECT command_id, fingerprint, outcome, recorded_at, internal
    FROM essaim_outcomes
    WHERE command_id = ANY ($1)";

const PRUNE: &str = "
    DELETE FROM essaim_outcomes
    WHERE command_id IN (
        SELECT command_id
        FROM essaim_outcomes
        WHERE NOT internal AND recorded_at < $1
        ORDER BY recorded_at
        LIMIT $2
    )";

/// Outcomes removed in one transaction, which is so kept short.
const PRUNED_AT_ONCE: u64 = 5_000;

/// Those of these commands that are kept.
pub(super) async fn read(pool: &PgPool, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError> {
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query(READ).bind(commands.iter().map(|command| command.0).collect::<Vec<_>>());
    let rows = query.fetch_all(pool).await.map_err(|error| errors::not_executed("reading outcomes", error))?;
    rows.iter().map(outcome_from).collect()
}

fn outcome_from(row: &PgRow) -> Result<StoredOutcome, StoreError> {
    let columns = Columns(row);
    Ok(StoredOutcome {
        command_id: CommandId(columns.get(0)?),
        fingerprint: columns.hash(1)?,
        outcome: serde_json::from_str(columns.json(2)?).map_err(|error| columns.damaged(2, error))?,
        recorded_at: columns.get(3)?,
        internal: columns.get(4)?,
    })
}

/// Removes the clients' outcomes from before this time.
pub(super) async fn prune(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let mut removed = 0;
    loop {
        let query = sqlx::query(PRUNE).bind(before).bind(values::bound(PRUNED_AT_ONCE));
        let pruned = query.execute(pool).await.map_err(|error| errors::not_executed("removing outcomes", error))?;
        removed += pruned.rows_affected();
        if pruned.rows_affected() < PRUNED_AT_ONCE {
            return Ok(removed);
        }
    }
}
