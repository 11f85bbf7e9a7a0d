//! This file searches the log for an audit.

use futures::TryStreamExt;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, SqlitePool};

use super::log::{EventDecoder, reading_events};
use super::{errors, values};
use crate::event::RecordedEvent;
use crate::store::StoreError;
use crate::store::audit::AuditFilter;

const SELECT: &str = "
    SELECT e.position, e.event_id, e.category, e.key, e.version, e.event_type, e.schema_version, e.data, e.metadata,
           e.recorded_at, e.hash";

const FROM_LOG: &str = " FROM essaim_events AS e WHERE true";

// CROSS JOIN keeps the few streams on the outside and the long log on the inside.
const FROM_STREAMS: &str = "
    FROM json_each(?1) AS wanted
    CROSS JOIN essaim_events AS e
    WHERE e.category = json_extract(wanted.value, '$[0]') AND e.key = json_extract(wanted.value, '$[1]')";

// Written as the index is, else the index is not used.
const OF_PRINCIPAL: &str = " AND CASE WHEN json_valid(e.metadata) THEN e.metadata ->> '$.principal' END = ?2";
const OF_TYPE: &str = " AND e.event_type = ?3";
const NEWEST_FIRST: &str = " AND e.position > ?4 AND e.position < ?5 ORDER BY e.position DESC LIMIT ?6";

// Metadata written by other hands may be any text; it must not refuse the event.
const INDEX_PRINCIPALS: &str = "
    CREATE INDEX IF NOT EXISTS essaim_events_principal
    ON essaim_events (CASE WHEN json_valid(metadata) THEN metadata ->> '$.principal' END, position)";

const INDEX_TYPES: &str = "
    CREATE INDEX IF NOT EXISTS essaim_events_type ON essaim_events (event_type, position)";

/// See [`crate::store::EventStore::index_audit`].
pub(super) async fn make_indexes(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    for statement in [INDEX_PRINCIPALS, INDEX_TYPES] {
        let made = sqlx::query(statement).execute(&mut *connection).await;
        made.map_err(|error| errors::not_executed("indexing the log for audits", error))?;
    }
    Ok(())
}

/// See [`crate::store::EventStore::search_log`]. A condition that is not wanted is left out, so that the database plans
/// for those that are.
pub(super) async fn search(
    pool: &SqlitePool,
    filter: &AuditFilter,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let streams = filter.streams.iter().flatten().map(|stream| json!([stream.category(), stream.key()]));
    let streams = json!(streams.collect::<Vec<_>>()).to_string();
    let query = sqlx::query(AssertSqlSafe(statement(filter))).bind(streams);
    let query = query.bind(filter.principal.as_deref()).bind(filter.event_type.as_deref());
    let query = query.bind(values::bound(filter.after.0)).bind(values::bound(filter.before.0));
    let mut rows = query.bind(values::bound(limit)).fetch(pool);
    let (mut decoder, mut events) = (EventDecoder::default(), Vec::new());
    while let Some(row) = rows.try_next().await.map_err(reading_events)? {
        events.push(decoder.decode(&row)?);
    }
    Ok(events)
}

fn statement(filter: &AuditFilter) -> String {
    let from = if filter.streams.is_some() { FROM_STREAMS } else { FROM_LOG };
    let principal = if filter.principal.is_some() { OF_PRINCIPAL } else { "" };
    let event_type = if filter.event_type.is_some() { OF_TYPE } else { "" };
    [SELECT, from, principal, event_type, NEWEST_FIRST].concat()
}
