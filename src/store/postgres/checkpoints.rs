//! This file reads checkpoint rows, and moves one under the fence of the log's epoch.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{PgExecutor, PgPool};

use super::values::{self, Columns};
use super::{errors, log};
use crate::store::{Checkpoint, Epoch, StoreError};
use crate::stream::GlobalPosition;

const READ: &str = "
    SELECT projection, version, position, chain_hash, epoch, saved_at
    FROM essaim_checkpoints
    WHERE projection = $1 AND version = $2";

const READ_ALL: &str = "
    SELECT projection, version, position, chain_hash, epoch, saved_at
    FROM essaim_checkpoints
    ORDER BY projection, version";

const CREATE: &str = "
    INSERT INTO essaim_checkpoints (projection, version, position, chain_hash, epoch, saved_at)
    SELECT $1, $2, $3, $4, $5, $6
    FROM essaim_head
    WHERE id = 1 AND epoch <= $5
    ON CONFLICT (projection, version) DO NOTHING";

// Whoever waited here for another save sees the head as it was before, but this row as it is: that is why the row's own
// epoch is looked at too.
const MOVE: &str = "
    UPDATE essaim_checkpoints
    SET position = $3, chain_hash = $4, epoch = $5, saved_at = $6
    WHERE projection = $1 AND version = $2 AND position = $7 AND epoch <= $5
      AND (SELECT epoch FROM essaim_head WHERE id = 1) <= $5";

/// The row of one projection version.
pub(super) async fn read(
    executor: impl PgExecutor<'_>,
    projection: &str,
    version: u32,
) -> Result<Option<Checkpoint>, StoreError> {
    let query = sqlx::query(READ).bind(projection).bind(i64::from(version));
    let row = query.fetch_optional(executor).await.map_err(reading)?;
    row.as_ref().map(checkpoint_from).transpose()
}

/// All rows.
pub(super) async fn read_all(pool: &PgPool) -> Result<Vec<Checkpoint>, StoreError> {
    let rows = sqlx::query(READ_ALL).fetch_all(pool).await.map_err(reading)?;
    rows.iter().map(checkpoint_from).collect()
}

fn reading(error: sqlx::Error) -> StoreError {
    errors::not_executed("reading checkpoints", error)
}

fn checkpoint_from(row: &PgRow) -> Result<Checkpoint, StoreError> {
    let columns = Columns(row);
    Ok(Checkpoint {
        projection: columns.get(0)?,
        version: columns.small(1)?,
        position: GlobalPosition(columns.unsigned(2)?),
        chain_hash: columns.chain_hash(3)?,
        epoch: Epoch(columns.unsigned(4)?),
        saved_at: columns.get(5)?,
    })
}

/// Moves the row from `previous`, or creates it.
///
/// # Errors
/// [`StoreError::Fenced`] when the log's epoch is higher, [`StoreError::Conflict`] when the row is elsewhere.
pub(super) async fn move_from(
    connection: &mut PgConnection,
    previous: Option<GlobalPosition>,
    to: &Checkpoint,
) -> Result<(), StoreError> {
    let mut query = sqlx::query(if previous.is_some() { MOVE } else { CREATE })
        .bind(&to.projection)
        .bind(i64::from(to.version))
        .bind(values::integer(to.position.0)?)
        .bind(&to.chain_hash.0[..])
        .bind(values::integer(to.epoch.0)?)
        .bind(to.saved_at);
    if let Some(previous) = previous {
        query = query.bind(values::integer(previous.0)?);
    }
    let moved = query.execute(&mut *connection).await;
    let moved = moved.map_err(|error| errors::not_executed("saving a checkpoint", error))?;
    if moved.rows_affected() == 1 {
        return Ok(());
    }
    let found = log::read_head(connection).await?.epoch;
    if found > to.epoch {
        return Err(StoreError::Fenced { mine: to.epoch, found });
    }
    let expected = previous.map_or_else(|| "absent".to_owned(), |position| format!("at {position}"));
    Err(StoreError::Conflict { what: format!("the checkpoint of {} v{} is not {expected}", to.projection, to.version) })
}
