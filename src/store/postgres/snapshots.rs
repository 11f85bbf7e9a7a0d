//! This file keeps one snapshot a stream and finds those that still fit the log.

use sqlx::{PgExecutor, PgPool};

use super::values::{self, Columns};
use super::{errors, log};
use crate::store::{LoadRequest, Snapshot, StoreError};
use crate::stream::{GlobalPosition, Version};

// A snapshot counts only while the event that made its version is in the log with the hash that it had then.
const READ: &str = "
    SELECT wanted.number, s.version, s.position, s.chain_hash, s.schema_version, s.state
    FROM unnest($1::text[], $2::text[], $3::integer[]) WITH ORDINALITY AS wanted (category, key, schema, number)
    JOIN essaim_snapshots AS s
      ON s.category = wanted.category AND s.key = wanted.key AND s.schema_version = wanted.schema
    JOIN essaim_events AS e
      ON e.position = s.position AND e.hash = s.chain_hash
     AND e.category = s.category AND e.key = s.key AND e.version = s.version";

const SAVE: &str = "
    INSERT INTO essaim_snapshots AS kept (category, key, version, position, chain_hash, schema_version, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (category, key) DO UPDATE
    SET version = EXCLUDED.version,
        position = EXCLUDED.position,
        chain_hash = EXCLUDED.chain_hash,
        schema_version = EXCLUDED.schema_version,
        state = EXCLUDED.state
    WHERE EXCLUDED.version >= kept.version";

/// The snapshots that are welcome and fit the log, with the index of their request.
pub(super) async fn read(pool: &PgPool, requests: &[LoadRequest]) -> Result<Vec<(usize, Snapshot)>, StoreError> {
    if requests.iter().all(|request| request.snapshot_schema.is_none()) {
        return Ok(Vec::new());
    }
    // Where none is welcome the schema is null, which equals nothing.
    let query = sqlx::query(READ)
        .bind(requests.iter().map(|request| request.stream.category()).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.stream.key()).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.snapshot_schema.map(i32::from)).collect::<Vec<_>>());
    let rows = query.fetch_all(pool).await.map_err(|error| errors::not_executed("reading snapshots", error))?;
    let snapshots = rows.iter().map(|row| {
        let columns = Columns(row);
        let index = log::request_index(row, 0)?;
        let request = requests.get(index).ok_or_else(|| columns.damaged(0, "out of range"))?;
        let snapshot = Snapshot {
            stream: request.stream.clone(),
            version: Version(columns.unsigned(1)?),
            position: GlobalPosition(columns.unsigned(2)?),
            chain_hash: columns.chain_hash(3)?,
            schema_version: columns.schema_version(4)?,
            state: columns.get(5)?,
        };
        Ok((index, snapshot))
    });
    snapshots.collect()
}

/// Keeps the snapshot unless a later one is there.
pub(super) async fn save(executor: impl PgExecutor<'_>, snapshot: &Snapshot) -> Result<(), StoreError> {
    let query = sqlx::query(SAVE)
        .bind(snapshot.stream.category())
        .bind(snapshot.stream.key())
        .bind(values::integer(snapshot.version.0)?)
        .bind(values::integer(snapshot.position.0)?)
        .bind(&snapshot.chain_hash.0[..])
        .bind(i32::from(snapshot.schema_version))
        .bind(&snapshot.state);
    query.execute(executor).await.map_err(|error| errors::not_executed("saving a snapshot", error))?;
    Ok(())
}
