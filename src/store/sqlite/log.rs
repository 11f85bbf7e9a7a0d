//! This file reads the log: its head row, pages of it, and streams.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Sqlite, SqliteExecutor, SqlitePool};

use super::errors;
use super::snapshots;
use super::values::{self, Columns};
use crate::event::{Metadata, RecordedEvent};
use crate::store::page::Collected;
use crate::store::{Epoch, Head, LoadRequest, LoadedStream, LogFilter, LogPage, StoreError};
use crate::stream::{GlobalPosition, StreamId, Version};

const READ_HEAD: &str =
    "SELECT position, epoch, writer, batch, chain_hash, recorded_at, log_id FROM essaim_head WHERE id = 1";

const READ_STREAM: &str = "
    SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
    FROM essaim_events
    WHERE category = ?1 AND key = ?2 AND version > ?3
    ORDER BY version
    LIMIT ?4";

// CROSS JOIN keeps the few requests on the outside and the long log on the inside. Versions being dense, a range of
// them is a limit for each stream. Sorting is cheaper outside, where rows are in order already.
const READ_STREAMS: &str = "
    SELECT e.position, e.event_id, e.category, e.key, e.version, e.event_type, e.schema_version, e.data, e.metadata,
           e.recorded_at, e.hash, wanted.key
    FROM json_each(?1) AS wanted
    CROSS JOIN essaim_events AS e
    WHERE e.category = json_extract(wanted.value, '$[0]')
      AND e.key = json_extract(wanted.value, '$[1]')
      AND e.version > json_extract(wanted.value, '$[2]')
      AND e.version <= json_extract(wanted.value, '$[3]')";

const READ_LOG: &str = "
    SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
    FROM essaim_events
    WHERE position > ?1 AND position <= ?2
    ORDER BY position";

const READ_LOG_FILTERED: &str = "
    SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
    FROM essaim_events
    WHERE position > ?1 AND position <= ?2
      AND (?3 IS NULL OR category IN (SELECT value FROM json_each(?3)))
      AND (?4 IS NULL OR event_type IN (SELECT value FROM json_each(?4)))
    ORDER BY position
    LIMIT ?5";

/// Positions that a page with a filter looks at before it says how far it came.
const FILTER_WINDOW: u64 = 16_384;

/// The head row.
pub(super) async fn read_head(executor: impl SqliteExecutor<'_>) -> Result<Head, StoreError> {
    let row = sqlx::query(READ_HEAD).fetch_optional(executor).await;
    let row = row.map_err(|error| errors::not_executed("reading the head", error))?;
    head_from(&row.ok_or_else(|| StoreError::Corrupt { what: "essaim_head has no row".into() })?)
}

/// The head in a row of its columns in this order: position, epoch, writer, batch, chain_hash, recorded_at, log_id.
pub(super) fn head_from(row: &SqliteRow) -> Result<Head, StoreError> {
    let columns = Columns(row);
    Ok(Head {
        position: GlobalPosition(columns.unsigned(0)?),
        epoch: Epoch(columns.unsigned(1)?),
        writer: columns.uuid(2)?,
        batch: columns.uuid(3)?,
        chain_hash: columns.chain_hash(4)?,
        recorded_at: columns.time(5)?,
        log_id: columns.uuid(6)?,
    })
}

/// See [`crate::store::EventStore::read_log`].
pub(super) async fn read_log(
    pool: &SqlitePool,
    after: GlobalPosition,
    limit: usize,
    filter: &LogFilter,
) -> Result<LogPage, StoreError> {
    let head = read_head(pool).await?.position;
    if after >= head || limit == 0 {
        return Ok(LogPage { events: Vec::new(), scanned_to: after.min(head), head });
    }
    let window = if filter.is_all() { limit as u64 } else { FILTER_WINDOW.max(limit as u64) };
    let until = GlobalPosition(after.0.saturating_add(window)).min(head);
    let (after_bound, until_bound) = (values::bound(after.0), values::bound(until.0));
    if filter.is_all() {
        let query = sqlx::query(READ_LOG).bind(after_bound).bind(until_bound);
        let (events, scanned_to) = fetch_page(pool, query, (until.0 - after.0) as usize, until).await?;
        return match events.len() as u64 == scanned_to.0 - after.0 {
            true => Ok(LogPage { events, scanned_to, head }),
            false => Err(StoreError::Corrupt {
                what: format!("{} events stand at the positions {} to {scanned_to}", events.len(), after.next()),
            }),
        };
    }
    let query = sqlx::query(READ_LOG_FILTERED).bind(after_bound).bind(until_bound);
    let query = query.bind(list(&filter.categories)).bind(list(&filter.event_types)).bind(values::bound(limit));
    let (events, scanned_to) = fetch_page(pool, query, 0, until).await?;
    let scanned_to = match events.last() {
        Some(last) if events.len() == limit => last.position,
        _ => scanned_to,
    };
    Ok(LogPage { events, scanned_to, head })
}

fn list(values: &[Cow<'static, str>]) -> Option<String> {
    (!values.is_empty()).then(|| json!(values).to_string())
}

/// See [`crate::store::EventStore::read_stream`].
pub(super) async fn read_stream(
    pool: &SqlitePool,
    stream: &StreamId,
    after: Version,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let query = sqlx::query(READ_STREAM).bind(stream.category()).bind(stream.key());
    let query = query.bind(values::bound(after.0)).bind(values::bound(limit));
    fetch_events(pool, query).await
}

/// See [`crate::store::EventStore::load_streams`]. Events and snapshots never change, so that two statements see what
/// one would.
pub(super) async fn load_streams(
    pool: &SqlitePool,
    requests: &[LoadRequest],
    limit: usize,
) -> Result<Vec<LoadedStream>, StoreError> {
    let mut loaded: Vec<LoadedStream> = requests.iter().map(|_| LoadedStream::default()).collect();
    for (index, snapshot) in snapshots::read(pool, requests).await? {
        loaded[index].snapshot = Some(snapshot);
    }
    let wanted: Vec<_> = requests.iter().zip(&loaded).map(|(request, found)| range_of(request, found, limit)).collect();
    let mut decoder = EventDecoder::default();
    let mut rows = sqlx::query(READ_STREAMS).bind(json!(wanted).to_string()).fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(reading_events)? {
        let index = Columns(&row).small::<usize>(11)?;
        let stream = loaded.get_mut(index).ok_or_else(|| Columns(&row).damaged(11, "out of range"))?;
        stream.events.push(decoder.decode(&row)?);
    }
    for stream in &mut loaded {
        stream.events.sort_by_key(|event| event.version);
        // One more than the limit was read, to know whether there is more.
        stream.more = stream.events.len() > limit;
        stream.events.truncate(limit);
    }
    Ok(loaded)
}

fn range_of(request: &LoadRequest, found: &LoadedStream, limit: usize) -> serde_json::Value {
    let after = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.version.0);
    let until = values::bound(limit).saturating_add(1).saturating_add_unsigned(after);
    json!([request.stream.category(), request.stream.key(), after, until])
}

type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

async fn fetch_events(pool: &SqlitePool, query: Query) -> Result<Vec<RecordedEvent>, StoreError> {
    let (mut decoder, mut events) = (EventDecoder::default(), Vec::new());
    let mut rows = query.fetch(pool);
    while let Some(row) = rows.next().await {
        events.push(decoder.decode(&row.map_err(reading_events)?)?);
    }
    Ok(events)
}

/// Events up to `until`, or to where they are too many bytes for one page; second, how far.
async fn fetch_page(
    pool: &SqlitePool,
    query: Query,
    expected: usize,
    until: GlobalPosition,
) -> Result<(Vec<RecordedEvent>, GlobalPosition), StoreError> {
    let (mut decoder, mut page) = (EventDecoder::default(), Collected::expecting(expected));
    let mut rows = query.fetch(pool);
    while let Some(row) = rows.next().await {
        page.push(decoder.decode(&row.map_err(reading_events)?)?);
        if page.is_full() {
            break;
        }
    }
    let reached = if page.is_full() { page.events.last().map(|last| last.position) } else { None };
    Ok((page.events, reached.unwrap_or(until)))
}

pub(super) fn reading_events(error: sqlx::Error) -> StoreError {
    errors::not_executed("reading events", error)
}

/// Decodes rows one after the other; neighbours often share what is costly to decode or worth keeping once.
#[derive(Default)]
pub(super) struct EventDecoder {
    metadata: Option<Metadata>,
    recorded_at: Option<(String, DateTime<Utc>)>,
}

impl EventDecoder {
    pub(super) fn decode(&mut self, row: &SqliteRow) -> Result<RecordedEvent, StoreError> {
        let columns = Columns(row);
        Ok(RecordedEvent {
            position: GlobalPosition(columns.unsigned(0)?),
            event_id: columns.uuid(1)?,
            stream: StreamId::new(columns.text(2)?, columns.text(3)?),
            version: Version(columns.unsigned(4)?),
            event_type: Cow::Owned(columns.text(5)?.to_owned()),
            schema_version: columns.small(6)?,
            json: columns.text(7)?.into(),
            metadata: self.metadata(columns.text(8)?),
            recorded_at: self.recorded_at(&columns)?,
            hash: columns.chain_hash(10)?,
            decoded: None,
        })
    }

    fn metadata(&mut self, json: &str) -> Metadata {
        match &self.metadata {
            Some(last) if last.as_json() == json => last.clone(),
            _ => self.metadata.insert(Metadata::from_json(json)).clone(),
        }
    }

    fn recorded_at(&mut self, columns: &Columns<'_>) -> Result<DateTime<Utc>, StoreError> {
        let text = columns.text(9)?;
        match &self.recorded_at {
            Some((last, time)) if last == text => Ok(*time),
            _ => Ok(self.recorded_at.insert((text.to_owned(), columns.time(9)?)).1),
        }
    }
}
