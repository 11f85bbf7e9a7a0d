//! This file commits one batch: one statement that commits by itself, or a transaction around it when claims change.
//!
//! The update of the head row is the fence. Everything else joins the row that it returns: beside it in the same
//! statement, a look at the head or at any other table would still see what was there before the wait for that row.

use sqlx::Executor;
use sqlx::postgres::{PgArguments, PgConnection, Postgres};

use super::claims::{self, Changed};
use super::values;
use super::{errors, log};
use crate::event::RecordedEvent;
use crate::store::{Batch, StoreError};

const BEGIN: &str = "BEGIN";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

// Null leaves what describes the last event as it is, and asks for no particular position.
macro_rules! head {
    () => {
        "WITH head AS (
            UPDATE essaim_head
            SET position = position + $4,
                batch = $3,
                chain_hash = COALESCE($5, chain_hash),
                recorded_at = COALESCE($6, recorded_at)
            WHERE id = 1 AND epoch = $1 AND batch = $2 AND position = COALESCE($7, position)
            RETURNING position
        )"
    };
}

// Rows made in the list of columns, all arrays in step, go into the table as they come; those of one `unnest` in FROM are
// kept and copied first, which is a sixth of the server's work.
macro_rules! many_events {
    () => {
        ", events AS (
            INSERT INTO essaim_events (
                position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at,
                hash
            )
            SELECT unnest($8::bigint[]), unnest($9::uuid[]), unnest($10::text[]), unnest($11::text[]),
                   unnest($12::bigint[]), unnest($13::text[]), unnest($14::integer[]), unnest($15::text[])::json,
                   unnest($16::text[])::json, unnest($17::timestamptz[]), unnest($18::bytea[])
            FROM head
        )"
    };
}

// A third of the server's work on a command alone is to take arrays apart.
macro_rules! one_event {
    () => {
        ", events AS (
            INSERT INTO essaim_events (
                position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at,
                hash
            )
            SELECT $8::bigint, $9::uuid, $10::text, $11::text, $12::bigint, $13::text, $14::integer, $15::text::json,
                   $16::text::json, $17::timestamptz, $18::bytea
            FROM head
        )"
    };
}

macro_rules! outcomes {
    () => {
        ", outcomes AS (
            INSERT INTO essaim_outcomes (command_id, fingerprint, outcome, recorded_at, internal)
            SELECT unnest($19::uuid[]), unnest($20::bytea[]), unnest($21::text[])::json, unnest($22::timestamptz[]),
                   unnest($23::boolean[])
            FROM head
        )"
    };
}

macro_rules! answer {
    () => {
        " SELECT position FROM head"
    };
}

const APPEND_ONE: &str = concat!(head!(), one_event!(), answer!());
const APPEND_ONE_WITH_OUTCOMES: &str = concat!(head!(), one_event!(), outcomes!(), answer!());
const APPEND_MANY: &str = concat!(head!(), many_events!(), answer!());
const APPEND_MANY_WITH_OUTCOMES: &str = concat!(head!(), many_events!(), outcomes!(), answer!());

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

/// See [`crate::store::LogWriter::append`]. After [`StoreError::Unavailable`] and [`StoreError::Unknown`] the
/// connection may be in any state and must not be used again.
pub(super) async fn commit(connection: &mut PgConnection, batch: &Batch) -> Result<(), StoreError> {
    let statement = statement(batch)?;
    if batch.claims.is_empty() {
        return match statement.fetch_optional(&mut *connection).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(why_fenced(connection, batch).await),
            Err(error) => Err(errors::at_commit("appending", error)),
        };
    }
    run(connection, BEGIN).await?;
    match write(connection, statement, batch).await {
        Ok(Changed::All) => {
            let committed = connection.execute(COMMIT).await;
            committed.map_err(|error| errors::at_commit("appending", error))?;
            Ok(())
        }
        Ok(Changed::NotAll) => {
            run(connection, ROLLBACK).await?;
            Err(claims::losers(connection, &batch.claims).await)
        }
        Err(error) => {
            run(connection, ROLLBACK).await?;
            Err(error)
        }
    }
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), StoreError> {
    connection.execute(sql).await.map_err(|error| errors::not_executed("appending", error))?;
    Ok(())
}

/// All of the batch but its COMMIT.
async fn write(connection: &mut PgConnection, statement: Query, batch: &Batch) -> Result<Changed, StoreError> {
    let head = statement.fetch_optional(&mut *connection).await;
    match head.map_err(|error| errors::not_executed("appending", error))? {
        Some(_) => claims::change(connection, &batch.claims).await,
        None => Err(why_fenced(connection, batch).await),
    }
}

/// What the head says when it is not as the batch supposes.
async fn why_fenced(connection: &mut PgConnection, batch: &Batch) -> StoreError {
    match log::read_head(connection).await {
        Ok(head) if head.epoch == batch.epoch && head.batch == batch.previous => {
            let what = format!("the batch does not start right behind position {}, where the log ends", head.position);
            StoreError::Conflict { what }
        }
        Ok(head) => StoreError::Fenced { mine: batch.epoch, found: head.epoch },
        Err(error) => error,
    }
}

/// The leanest statement that does it: most batches of a quiet log have one event, and many have no outcome to keep.
fn statement(batch: &Batch) -> Result<Query, StoreError> {
    let events = &*batch.events;
    let text = match (events, batch.outcomes.is_empty()) {
        ([_], true) => APPEND_ONE,
        ([_], false) => APPEND_ONE_WITH_OUTCOMES,
        (_, true) => APPEND_MANY,
        (_, false) => APPEND_MANY_WITH_OUTCOMES,
    };
    let query = sqlx::query(text)
        .bind(values::integer(batch.epoch.0)?)
        .bind(batch.previous)
        .bind(batch.id)
        .bind(values::integer(events.len() as u64)?)
        .bind(events.last().map(|event| event.hash.0.to_vec()))
        .bind(events.last().map(|event| event.recorded_at))
        .bind(base(events)?);
    let query = match events {
        [event] => bind_event(query, event)?,
        many => bind_events(query, many)?,
    };
    if batch.outcomes.is_empty() { Ok(query) } else { bind_outcomes(query, batch) }
}

/// The position that the head must have, none when there are no events.
fn base(events: &[RecordedEvent]) -> Result<Option<i64>, StoreError> {
    let dense = events.windows(2).all(|pair| pair[0].position.next() == pair[1].position);
    match events.first() {
        None => Ok(None),
        Some(first) if dense && first.position.0 > 0 => Ok(Some(values::integer(first.position.0)? - 1)),
        Some(first) => {
            Err(StoreError::Conflict { what: format!("the positions behind {} are not dense", first.position) })
        }
    }
}

fn bind_event(query: Query, event: &RecordedEvent) -> Result<Query, StoreError> {
    Ok(query
        .bind(values::integer(event.position.0)?)
        .bind(event.event_id)
        .bind(event.stream.category().to_owned())
        .bind(event.stream.key().to_owned())
        .bind(values::integer(event.version.0)?)
        .bind(event.event_type.clone().into_owned())
        .bind(i32::from(event.schema_version))
        .bind(event.json.to_string())
        .bind(event.metadata.as_json().to_owned())
        .bind(event.recorded_at)
        .bind(event.hash.0.to_vec()))
}

fn bind_events(query: Query, events: &[RecordedEvent]) -> Result<Query, StoreError> {
    let positions: Result<Vec<i64>, _> = events.iter().map(|event| values::integer(event.position.0)).collect();
    let versions: Result<Vec<i64>, _> = events.iter().map(|event| values::integer(event.version.0)).collect();
    Ok(query
        .bind(positions?)
        .bind(events.iter().map(|event| event.event_id).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.stream.category()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.stream.key()).collect::<Vec<_>>())
        .bind(versions?)
        .bind(events.iter().map(|event| &*event.event_type).collect::<Vec<_>>())
        .bind(events.iter().map(|event| i32::from(event.schema_version)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| &*event.json).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.metadata.as_json()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.recorded_at).collect::<Vec<_>>())
        .bind(events.iter().map(|event| &event.hash.0[..]).collect::<Vec<_>>()))
}

fn bind_outcomes(query: Query, batch: &Batch) -> Result<Query, StoreError> {
    let outcomes = &batch.outcomes;
    let json: Result<Vec<String>, _> = outcomes.iter().map(|stored| serde_json::to_string(&stored.outcome)).collect();
    let json = json.map_err(|error| StoreError::Data { what: format!("an outcome: {error}") })?;
    Ok(query
        .bind(outcomes.iter().map(|stored| stored.command_id.0).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|stored| &stored.fingerprint[..]).collect::<Vec<_>>())
        .bind(json)
        .bind(outcomes.iter().map(|stored| stored.recorded_at).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|stored| stored.internal).collect::<Vec<_>>()))
}
