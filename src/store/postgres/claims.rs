//! This file takes, releases and transfers claims, one statement a list, and finds all losers of a batch by one more.

use sqlx::PgExecutor;
use sqlx::postgres::{PgArguments, PgConnection, Postgres};

use super::errors;
use super::values::Columns;
use crate::aggregate::Claim;
use crate::store::{ClaimChanges, StoreError};
use crate::stream::StreamId;

const RELEASE: &str = "
    DELETE FROM essaim_claims AS held
    USING unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS gone (scope, value, category, key)
    WHERE held.scope = gone.scope
      AND held.value = gone.value
      AND held.category = gone.category
      AND held.key = gone.key";

const TRANSFER: &str = "
    UPDATE essaim_claims AS held
    SET category = moved.category, key = moved.key
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
        AS moved (scope, value, holder_category, holder_key, category, key)
    WHERE held.scope = moved.scope
      AND held.value = moved.value
      AND held.category = moved.holder_category
      AND held.key = moved.holder_key";

const TAKE: &str = "
    INSERT INTO essaim_claims (scope, value, category, key)
    SELECT scope, value, category, key
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS taken (scope, value, category, key)";

const READ_HOLDERS: &str = "
    SELECT held.scope, held.value, held.category, held.key
    FROM unnest($1::text[], $2::text[]) AS wanted (scope, value)
    JOIN essaim_claims AS held ON held.scope = wanted.scope AND held.value = wanted.value";

/// Whether the claims of a batch are as it supposes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// All of them were changed.
    All,
    /// Some were not: the transaction must be rolled back, and [`losers`] asked which.
    NotAll,
}

/// Changes the claims of one batch. The transaction holds the head row, so that nobody else changes claims.
pub(super) async fn change(connection: &mut PgConnection, changes: &ClaimChanges) -> Result<Changed, StoreError> {
    let release = changes.release.iter().map(|(claim, from)| (claim, [from].into_iter()));
    let transfer = changes.transfer.iter().map(|(claim, from, to)| (claim, [from, to].into_iter()));
    let take = changes.take.iter().map(|(claim, by)| (claim, [by].into_iter()));
    if run(connection, RELEASE, release).await? == Changed::NotAll {
        return Ok(Changed::NotAll);
    }
    if run(connection, TRANSFER, transfer).await? == Changed::NotAll {
        return Ok(Changed::NotAll);
    }
    run(connection, TAKE, take).await
}

/// Runs one of the statements over claims and the streams that hold or want each.
async fn run<'a, S: Iterator<Item = &'a StreamId>>(
    connection: &mut PgConnection,
    statement: &'static str,
    changes: impl ExactSizeIterator<Item = (&'a Claim, S)>,
) -> Result<Changed, StoreError> {
    let wanted = changes.len() as u64;
    if wanted == 0 {
        return Ok(Changed::All);
    }
    let done = bind(sqlx::query(statement), changes).execute(connection).await;
    match done {
        Ok(done) if done.rows_affected() == wanted => Ok(Changed::All),
        Ok(_) => Ok(Changed::NotAll),
        Err(error) if errors::is_claim_taken(&error) => Ok(Changed::NotAll),
        Err(error) => Err(errors::not_executed("changing claims", error)),
    }
}

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

fn bind<'a, S: Iterator<Item = &'a StreamId>>(query: Query, changes: impl Iterator<Item = (&'a Claim, S)>) -> Query {
    let (mut scopes, mut values, mut streams) = (Vec::new(), Vec::new(), Vec::<Vec<&StreamId>>::new());
    for (claim, parties) in changes {
        scopes.push(&*claim.scope);
        values.push(&*claim.value);
        for (place, stream) in parties.enumerate() {
            if streams.len() <= place {
                streams.push(Vec::new());
            }
            streams[place].push(stream);
        }
    }
    let query = query.bind(scopes).bind(values);
    streams.into_iter().fold(query, |query, streams| {
        query
            .bind(streams.iter().map(|stream| stream.category()).collect::<Vec<_>>())
            .bind(streams.iter().map(|stream| stream.key()).collect::<Vec<_>>())
    })
}

/// Why a batch's claims were not changed: [`StoreError::ClaimsTaken`] with all that others hold, or a
/// [`StoreError::Conflict`] when one that was to be let go of is not held by whom the batch says.
pub(super) async fn losers(connection: &mut PgConnection, changes: &ClaimChanges) -> StoreError {
    let taken = changes.take.iter().map(|(claim, _)| claim);
    let wanted: Vec<Claim> = taken.chain(changes.transfer.iter().map(|(claim, ..)| claim)).cloned().collect();
    let held = match holders(connection, &wanted).await {
        Ok(held) => held,
        Err(error) => return error,
    };
    let lets_go = |claim: &Claim, holder: &StreamId| {
        changes.transfer.iter().any(|(moved, from, _)| moved == claim && from == holder)
    };
    let lost = held.into_iter().filter(|(claim, holder)| !lets_go(claim, holder)).map(|(claim, _)| claim);
    let claims: Vec<Claim> = lost.collect();
    match claims.is_empty() {
        true => StoreError::Conflict { what: "a claim is not held by who lets go of it".into() },
        false => StoreError::ClaimsTaken { claims },
    }
}

/// See [`crate::store::EventStore::claim_holders`].
pub(super) async fn holders(
    executor: impl PgExecutor<'_>,
    claims: &[Claim],
) -> Result<Vec<(Claim, StreamId)>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query(READ_HOLDERS)
        .bind(claims.iter().map(|claim| &*claim.scope).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| &*claim.value).collect::<Vec<_>>());
    let rows = query.fetch_all(executor).await.map_err(|error| errors::not_executed("reading claims", error))?;
    let held = rows.iter().map(|row| {
        let columns = Columns(row);
        let claim = Claim::new(columns.get::<&str>(0)?, columns.get::<&str>(1)?);
        Ok((claim, StreamId::new(columns.get(2)?, columns.get(3)?)))
    });
    held.collect()
}
