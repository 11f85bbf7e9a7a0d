//! This file keeps one snapshot a stream and finds those that still fit the log.

use serde_json::json;
use sqlx::SqlitePool;

use super::connection::Transaction;
use super::errors;
use super::values::{self, Columns};
use crate::store::{LoadRequest, Snapshot, StoreError};
use crate::stream::{GlobalPosition, Version};

// A snapshot counts only while the event that made its version is in the log with the hash that it had then.
const READ: &str = "
    SELECT wanted.key, s.version, s.position, s.chain_hash, s.schema_version, s.state
    FROM json_each(?1) AS wanted
    CROSS JOIN essaim_snapshots AS s
    CROSS JOIN essaim_events AS e
    WHERE s.category = json_extract(wanted.value, '$[0]')
      AND s.key = json_extract(wanted.value, '$[1]')
      AND s.schema_version = json_extract(wanted.value, '$[2]')
      AND e.position = s.position
      AND e.hash = s.chain_hash
      AND e.category = s.category
      AND e.key = s.key
      AND e.version = s.version";

const SAVE: &str = "
    INSERT INTO essaim_snapshots (category, key, version, position, chain_hash, schema_version, state)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (category, key) DO UPDATE
    SET version = excluded.version,
        position = excluded.position,
        chain_hash = excluded.chain_hash,
        schema_version = excluded.schema_version,
        state = excluded.state
    WHERE excluded.version >= essaim_snapshots.version";

/// The snapshots that are welcome and fit the log, with the index of their request.
pub(super) async fn read(pool: &SqlitePool, requests: &[LoadRequest]) -> Result<Vec<(usize, Snapshot)>, StoreError> {
    if requests.iter().all(|request| request.snapshot_schema.is_none()) {
        return Ok(Vec::new());
    }
    // Where none is welcome the schema is null, which equals nothing.
    let wanted = requests.iter().map(|r| json!([r.stream.category(), r.stream.key(), r.snapshot_schema]));
    let wanted = wanted.collect::<serde_json::Value>().to_string();
    let rows = sqlx::query(READ).bind(wanted).fetch_all(pool).await;
    let rows = rows.map_err(|error| errors::not_executed("reading snapshots", error))?;
    let snapshots = rows.iter().map(|row| {
        let columns = Columns(row);
        let index: usize = columns.small(0)?;
        let request = requests.get(index).ok_or_else(|| columns.damaged(0, "out of range"))?;
        let snapshot = Snapshot {
            stream: request.stream.clone(),
            version: Version(columns.unsigned(1)?),
            position: GlobalPosition(columns.unsigned(2)?),
            chain_hash: columns.chain_hash(3)?,
            schema_version: columns.small(4)?,
            state: columns.bytes(5)?.to_vec(),
        };
        Ok((index, snapshot))
    });
    snapshots.collect()
}

/// Keeps the snapshot unless a later one is there.
pub(super) async fn save(transaction: &mut Transaction, snapshot: Snapshot) -> Result<(), StoreError> {
    let query = sqlx::query(SAVE)
        .bind(values::text(snapshot.stream.category())?)
        .bind(values::text(snapshot.stream.key())?)
        .bind(values::integer(snapshot.version.0)?)
        .bind(values::integer(snapshot.position.0)?)
        .bind(snapshot.chain_hash.0.to_vec())
        .bind(i64::from(snapshot.schema_version))
        .bind(snapshot.state);
    let saved = query.execute(&mut transaction.connection).await;
    saved.map_err(|error| errors::not_executed("saving a snapshot", error))?;
    Ok(())
}
