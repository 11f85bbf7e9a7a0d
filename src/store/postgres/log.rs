//! This file reads the log: its head row, pages of it, and streams.

use std::borrow::Cow;

use futures::TryStreamExt;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::{PgExecutor, PgPool};

use super::values::{self, Columns};
use super::{copied, errors, snapshots};
use crate::event::{Metadata, RecordedEvent};
use crate::store::page::Collected;
use crate::store::{Epoch, Head, LoadRequest, LoadedStream, LogFilter, LogPage, StoreError};
use crate::stream::{GlobalPosition, StreamId, Version};

const READ_HEAD: &str =
    "SELECT position, epoch, writer, batch, chain_hash, recorded_at, log_id FROM essaim_head WHERE id = 1";

const READ_STREAM: &str = "
    SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
    FROM essaim_events
    WHERE category = $1 AND key = $2 AND version > $3
    ORDER BY version
    LIMIT $4";

// Sorting is cheaper outside, where rows are in order already.
const READ_STREAMS: &str = "
    SELECT e.position, e.event_id, e.category, e.key, e.version, e.event_type, e.schema_version, e.data, e.metadata,
           e.recorded_at, e.hash, wanted.number
    FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS wanted (category, key, after, number)
    CROSS JOIN LATERAL (
        SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at,
               hash
        FROM essaim_events
        WHERE category = wanted.category AND key = wanted.key AND version > wanted.after
        ORDER BY version
        LIMIT $4
    ) AS e";

// The head is in every row, and alone in one without an event when there is none. One head makes one ordered run, which
// the server would sort once more if it were asked to.
pub(super) const READ_LOG: &str = "
    SELECT e.position, e.event_id, e.category, e.key, e.version, e.event_type, e.schema_version, e.data, e.metadata,
           e.recorded_at, e.hash, head.position
    FROM essaim_head AS head
    LEFT JOIN LATERAL (
        SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at,
               hash
        FROM essaim_events
        WHERE position > $1 AND position <= LEAST($2, head.position)
        ORDER BY position
    ) AS e ON true
    WHERE head.id = 1";

const READ_LOG_FILTERED: &str = "
    SELECT e.position, e.event_id, e.category, e.key, e.version, e.event_type, e.schema_version, e.data, e.metadata,
           e.recorded_at, e.hash, head.position
    FROM essaim_head AS head
    LEFT JOIN LATERAL (
        SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at,
               hash
        FROM essaim_events
        WHERE position > $1 AND position <= LEAST($2, head.position)
          AND ($3::text[] IS NULL OR category = ANY ($3))
          AND ($4::text[] IS NULL OR event_type = ANY ($4))
        ORDER BY position
        LIMIT $5
    ) AS e ON true
    WHERE head.id = 1";

/// Events from which on a page is copied.
const COPIED_FROM: usize = 256;

/// Positions that a page with a filter looks at before it says how far it came.
const FILTER_WINDOW: u64 = 16_384;

/// The head row.
pub(super) async fn read_head(executor: impl PgExecutor<'_>) -> Result<Head, StoreError> {
    let row = sqlx::query(READ_HEAD).fetch_optional(executor).await;
    let row = row.map_err(|error| errors::not_executed("reading the head", error))?;
    head_from(&row.ok_or_else(no_head)?)
}

/// What to say when the one row is missing.
pub(super) fn no_head() -> StoreError {
    StoreError::Corrupt { what: "essaim_head has no row".into() }
}

/// The head in a row of its columns in this order: position, epoch, writer, batch, chain_hash, recorded_at, log_id.
pub(super) fn head_from(row: &PgRow) -> Result<Head, StoreError> {
    let columns = Columns(row);
    Ok(Head {
        position: GlobalPosition(columns.unsigned(0)?),
        epoch: Epoch(columns.unsigned(1)?),
        writer: columns.get(2)?,
        batch: columns.get(3)?,
        chain_hash: columns.chain_hash(4)?,
        recorded_at: columns.get(5)?,
        log_id: columns.get(6)?,
    })
}

/// See [`crate::store::EventStore::read_log`].
pub(super) async fn read_log(
    pool: &PgPool,
    after: GlobalPosition,
    limit: usize,
    filter: &LogFilter,
) -> Result<LogPage, StoreError> {
    if limit == 0 {
        let head = read_head(pool).await?.position;
        return Ok(LogPage { events: Vec::new(), scanned_to: after.min(head), head });
    }
    let window = if filter.is_all() { limit as u64 } else { FILTER_WINDOW.max(limit as u64) };
    let until = after.0.saturating_add(window);
    let range = (values::bound(after.0), values::bound(until));
    let Fetched { mut events, head, is_cut } = match filter.is_all() {
        true if limit >= COPIED_FROM => copied::fetch_page(pool, range, limit).await?,
        true => fetch_page(pool, sqlx::query(READ_LOG).bind(range.0).bind(range.1)).await?,
        false => {
            let query = sqlx::query(READ_LOG_FILTERED).bind(range.0).bind(range.1);
            let query = query.bind(list(&filter.categories)).bind(list(&filter.event_types));
            fetch_page(pool, query.bind(values::bound(limit))).await?
        }
    };
    events.sort_by_key(|event| event.position);
    if after >= head {
        return Ok(LogPage { events, scanned_to: head, head });
    }
    let reached = events.last().filter(|_| is_cut).map(|last| last.position);
    let until = reached.unwrap_or(GlobalPosition(until)).min(head);
    if filter.is_all() && events.len() as u64 != until.0 - after.0 {
        let what = format!("{} events stand at the positions {} to {until}", events.len(), after.next());
        return Err(StoreError::Corrupt { what });
    }
    let scanned_to = match events.last() {
        Some(last) if events.len() == limit => last.position,
        _ => until,
    };
    Ok(LogPage { events, scanned_to, head })
}

/// What a page's statement found.
pub(super) struct Fetched {
    pub(super) events: Vec<RecordedEvent>,
    pub(super) head: GlobalPosition,
    /// Whether there may be more, that were too many bytes for one page.
    pub(super) is_cut: bool,
}

async fn fetch_page(pool: &PgPool, query: Query) -> Result<Fetched, StoreError> {
    let (mut decoder, mut page, mut head) = (EventDecoder::default(), Collected::default(), None);
    let mut rows = query.fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(reading_events)? {
        let columns = Columns(&row);
        head = Some(GlobalPosition(columns.unsigned(11)?));
        if columns.get::<Option<i64>>(0)?.is_some() {
            page.push(decoder.decode(&row)?);
        }
        if page.is_full() {
            break;
        }
    }
    Ok(Fetched { is_cut: page.is_full(), events: page.events, head: head.ok_or_else(no_head)? })
}

fn list(values: &[Cow<'static, str>]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect())
}

/// See [`crate::store::EventStore::read_stream`].
pub(super) async fn read_stream(
    pool: &PgPool,
    stream: &StreamId,
    after: Version,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let query = sqlx::query(READ_STREAM).bind(stream.category()).bind(stream.key());
    let query = query.bind(values::bound(after.0)).bind(values::bound(limit));
    let rows = query.fetch_all(pool).await.map_err(reading_events)?;
    let mut decoder = EventDecoder::default();
    rows.iter().map(|row| decoder.decode(row)).collect()
}

/// See [`crate::store::EventStore::load_streams`]. Events never change, and a snapshot that was found stays true, so
/// that two statements see what one would.
pub(super) async fn load_streams(
    pool: &PgPool,
    requests: &[LoadRequest],
    limit: usize,
) -> Result<Vec<LoadedStream>, StoreError> {
    let mut loaded: Vec<LoadedStream> = requests.iter().map(|_| LoadedStream::default()).collect();
    for (index, snapshot) in snapshots::read(pool, requests).await? {
        loaded[index].snapshot = Some(snapshot);
    }
    let after = loaded.iter().map(|found| found.snapshot.as_ref().map_or(0, |snapshot| snapshot.version.0));
    let query = sqlx::query(READ_STREAMS)
        .bind(requests.iter().map(|request| request.stream.category()).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.stream.key()).collect::<Vec<_>>())
        .bind(after.map(values::bound).collect::<Vec<_>>())
        // One more than the limit, to know whether there is more.
        .bind(values::bound(limit).saturating_add(1));
    let mut decoder = EventDecoder::default();
    let mut rows = query.fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(reading_events)? {
        let index = request_index(&row, 11)?;
        let stream = loaded.get_mut(index).ok_or_else(|| Columns(&row).damaged(11, "out of range"))?;
        stream.events.push(decoder.decode(&row)?);
    }
    for stream in &mut loaded {
        stream.events.sort_by_key(|event| event.version);
        stream.more = stream.events.len() > limit;
        stream.events.truncate(limit);
    }
    Ok(loaded)
}

/// Which request a row answers; WITH ORDINALITY counts from 1.
pub(super) fn request_index(row: &PgRow, index: usize) -> Result<usize, StoreError> {
    let columns = Columns(row);
    columns.small::<usize>(index)?.checked_sub(1).ok_or_else(|| columns.damaged(index, "out of range"))
}

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

pub(super) fn reading_events(error: sqlx::Error) -> StoreError {
    errors::not_executed("reading events", error)
}

/// Decodes rows one after the other; neighbours often share metadata, which is worth keeping once.
#[derive(Default)]
pub(super) struct EventDecoder {
    metadata: Option<Metadata>,
}

impl EventDecoder {
    pub(super) fn decode(&mut self, row: &PgRow) -> Result<RecordedEvent, StoreError> {
        let columns = Columns(row);
        Ok(RecordedEvent {
            position: GlobalPosition(columns.unsigned(0)?),
            event_id: columns.get(1)?,
            stream: StreamId::new(columns.get(2)?, columns.get(3)?),
            version: Version(columns.unsigned(4)?),
            event_type: Cow::Owned(columns.get(5)?),
            schema_version: columns.schema_version(6)?,
            json: columns.json(7)?.into(),
            metadata: self.metadata(columns.json(8)?),
            recorded_at: columns.get(9)?,
            hash: columns.chain_hash(10)?,
            decoded: None,
        })
    }

    pub(super) fn metadata(&mut self, json: &str) -> Metadata {
        match &self.metadata {
            Some(last) if last.as_json() == json => last.clone(),
            _ => self.metadata.insert(Metadata::from_json(json)).clone(),
        }
    }
}
