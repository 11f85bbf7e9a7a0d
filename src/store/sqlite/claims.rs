//! This file takes, releases and transfers claims: one statement a list, and all losers found by it.

use std::collections::HashSet;

use serde_json::{Value, json};
use sqlx::SqliteExecutor;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::errors;
use super::values::{self, Columns};
use crate::aggregate::Claim;
use crate::store::{ClaimChanges, StoreError};
use crate::stream::StreamId;

// `WHERE true` keeps SQLite from reading ON as part of a join.
const TAKE: &str = "
    INSERT INTO essaim_claims (scope, value, category, key)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]')
    FROM json_each(?1)
    WHERE true
    ON CONFLICT (scope, value) DO NOTHING
    RETURNING scope, value";

const RELEASE: &str = "
    DELETE FROM essaim_claims
    WHERE (scope, value, category, key) IN (
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
               json_extract(value, '$[3]')
        FROM json_each(?1)
    )
    RETURNING scope, value";

const TRANSFER: &str = "
    UPDATE essaim_claims
    SET category = wanted.category, key = wanted.key
    FROM (
        SELECT json_extract(value, '$[0]') AS scope, json_extract(value, '$[1]') AS value,
               json_extract(value, '$[2]') AS holder_category, json_extract(value, '$[3]') AS holder_key,
               json_extract(value, '$[4]') AS category, json_extract(value, '$[5]') AS key
        FROM json_each(?1)
    ) AS wanted
    WHERE essaim_claims.scope = wanted.scope
      AND essaim_claims.value = wanted.value
      AND essaim_claims.category = wanted.holder_category
      AND essaim_claims.key = wanted.holder_key
    RETURNING scope, value";

const READ_HOLDERS: &str = "
    SELECT c.scope, c.value, c.category, c.key
    FROM json_each(?1) AS wanted
    CROSS JOIN essaim_claims AS c
    WHERE c.scope = json_extract(wanted.value, '$[0]') AND c.value = json_extract(wanted.value, '$[1]')";

/// Changes the claims of one batch.
///
/// # Errors
/// [`StoreError::ClaimsTaken`] with all that others hold; [`StoreError::Conflict`] when one that was to be let go of is
/// not held by whom the batch says.
pub(super) async fn change(connection: &mut SqliteConnection, changes: &ClaimChanges) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let released = changes
        .release
        .iter()
        .map(|(claim, from)| (claim, json!([claim.scope, claim.value, from.category(), from.key()])));
    let not_released = missed(connection, RELEASE, released).await?;
    let transferred = changes.transfer.iter().map(|(claim, from, to)| {
        (claim, json!([claim.scope, claim.value, from.category(), from.key(), to.category(), to.key()]))
    });
    let not_transferred = missed(connection, TRANSFER, transferred).await?;
    let taken =
        changes.take.iter().map(|(claim, by)| (claim, json!([claim.scope, claim.value, by.category(), by.key()])));
    let mut lost = missed(connection, TAKE, taken).await?;

    let held = holders(&mut *connection, &not_transferred).await?;
    lost.extend(held.into_iter().map(|(claim, _)| claim));
    if !lost.is_empty() {
        return Err(StoreError::ClaimsTaken { claims: lost });
    }
    match not_released.iter().chain(&not_transferred).next() {
        Some(claim) => {
            Err(StoreError::Conflict { what: format!("a claim on {} is not held by who lets go of it", claim.scope) })
        }
        None => Ok(()),
    }
}

/// Runs one of the statements over a list and returns the claims that it did not change.
async fn missed<'a>(
    connection: &mut SqliteConnection,
    statement: &'static str,
    changes: impl Iterator<Item = (&'a Claim, Value)>,
) -> Result<Vec<Claim>, StoreError> {
    let (claims, list): (Vec<&Claim>, Vec<Value>) = changes.unzip();
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    for claim in &claims {
        values::refuse_nul(&claim.scope)?;
        values::refuse_nul(&claim.value)?;
    }
    let rows = sqlx::query(statement).bind(Value::Array(list).to_string()).fetch_all(connection).await;
    let rows = rows.map_err(|error| errors::not_executed("changing claims", error))?;
    if rows.len() == claims.len() {
        return Ok(Vec::new());
    }
    let changed = rows.iter().map(claim_from).collect::<Result<HashSet<_>, _>>()?;
    Ok(claims.into_iter().filter(|claim| !changed.contains(*claim)).cloned().collect())
}

/// See [`crate::store::EventStore::claim_holders`].
pub(super) async fn holders(
    executor: impl SqliteExecutor<'_>,
    claims: &[Claim],
) -> Result<Vec<(Claim, StreamId)>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Value = claims.iter().map(|claim| json!([claim.scope, claim.value])).collect();
    let rows = sqlx::query(READ_HOLDERS).bind(wanted.to_string()).fetch_all(executor).await;
    let rows = rows.map_err(|error| errors::not_executed("reading claims", error))?;
    let held = rows.iter().map(|row| {
        let columns = Columns(row);
        Ok((claim_from(row)?, StreamId::new(columns.text(2)?, columns.text(3)?)))
    });
    held.collect()
}

fn claim_from(row: &SqliteRow) -> Result<Claim, StoreError> {
    let columns = Columns(row);
    Ok(Claim::new(columns.text(0)?, columns.text(1)?))
}
