//! This file searches the log for an audit.

use futures::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, PgPool};

use super::log::{EventDecoder, reading_events};
use super::{errors, values};
use crate::event::RecordedEvent;
use crate::store::StoreError;
use crate::store::audit::AuditFilter;

const SELECT: &str = "
    SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash";

const FROM_LOG: &str = " FROM essaim_events AS e WHERE true";

// The few streams are gone through one by one; nothing of the log is looked at besides.
const FROM_STREAMS: &str = "
    FROM unnest($1::text[], $2::text[]) AS wanted (wanted_category, wanted_key)
    CROSS JOIN LATERAL (
        SELECT * FROM essaim_events WHERE category = wanted_category AND key = wanted_key
        OFFSET 0
    ) AS e
    WHERE true";

// First as the index is written, else it is not used; then whole, because the index has only the beginning.
const OF_PRINCIPAL: &str = " AND left(metadata ->> 'principal', 255) = $3 AND metadata ->> 'principal' = $3";
const OF_TYPE: &str = " AND event_type = $4";
const NEWEST_FIRST: &str = " AND position > $5 AND position < $6 ORDER BY position DESC LIMIT $7";

const FIND_INDEXES: &str =
    "SELECT to_regclass('essaim_events_principal') IS NOT NULL AND to_regclass('essaim_events_type') IS NOT NULL";

const WAIT_FOR_A_LONG_LOG: &str = "SET LOCAL statement_timeout = 0";

// Cut, because a longer entry than a page of the index takes would refuse the event.
const INDEX_PRINCIPALS: &str = "
    CREATE INDEX IF NOT EXISTS essaim_events_principal
    ON essaim_events (left(metadata ->> 'principal', 255), position)";

const INDEX_TYPES: &str = "
    CREATE INDEX IF NOT EXISTS essaim_events_type ON essaim_events (event_type, position)";

/// See [`crate::store::EventStore::index_audit`]. Looks first: only to find the index there, the statements would wait
/// for appends under way.
pub(super) async fn make_indexes(connection: &mut PgConnection) -> Result<(), StoreError> {
    let failed = |error| errors::not_executed("indexing the log for audits", error);
    if sqlx::query_scalar(FIND_INDEXES).fetch_one(&mut *connection).await.map_err(failed)? {
        return Ok(());
    }
    for statement in [WAIT_FOR_A_LONG_LOG, INDEX_PRINCIPALS, INDEX_TYPES] {
        sqlx::query(statement).execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

/// See [`crate::store::EventStore::search_log`]. A condition that is not wanted is left out, so that the database plans
/// for those that are.
pub(super) async fn search(
    pool: &PgPool,
    filter: &AuditFilter,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let streams = filter.streams.as_deref().unwrap_or_default();
    let (categories, keys): (Vec<_>, Vec<_>) = streams.iter().map(|stream| (stream.category(), stream.key())).unzip();
    let query = sqlx::query(AssertSqlSafe(statement(filter))).bind(categories).bind(keys);
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
    // A parameter whose condition is left out still needs a type.
    const UNUSED: &str = " AND ($1::text[] IS NULL OR true) AND ($2::text[] IS NULL OR true) \
                          AND ($3::text IS NULL OR true) AND ($4::text IS NULL OR true)";
    let from = if filter.streams.is_some() { FROM_STREAMS } else { FROM_LOG };
    let principal = if filter.principal.is_some() { OF_PRINCIPAL } else { "" };
    let event_type = if filter.event_type.is_some() { OF_TYPE } else { "" };
    [SELECT, from, principal, event_type, UNUSED, NEWEST_FIRST].concat()
}
