//! This file keeps the read tables: their shape, the view that shows the version in force, and their rows.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::columns::{self, sql_type};
use super::{checkpoints, errors, replaced};
use crate::projections::{TableSpec, Value};
use crate::store::{Checkpoint, StoreError};

const BEGIN_LOADING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

// Two starts at once prepare one after the other: CREATE IF NOT EXISTS alone can collide with itself.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('essaim read tables'))";

const READ_KIND: &str = "
    SELECT relkind::text
    FROM pg_class
    WHERE relname = $1 AND relnamespace = to_regnamespace(quote_ident(current_schema()))";

const READ_COLUMNS: &str = "
    SELECT attname::text, format_type(atttypid, atttypmod), attnotnull
    FROM pg_attribute
    WHERE attrelid = to_regclass(quote_ident(current_schema()) || '.' || quote_ident($1))
      AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum";

const SHOWS: &str = "
    SELECT EXISTS (
        SELECT FROM pg_rewrite AS rule
        JOIN pg_depend AS needs ON needs.classid = 'pg_rewrite'::regclass AND needs.objid = rule.oid
        WHERE rule.ev_class = to_regclass(quote_ident(current_schema()) || '.' || quote_ident($1))
          AND needs.refobjid = to_regclass(quote_ident(current_schema()) || '.' || quote_ident($2))
    )";

/// Longest name in bytes, with room for `_v<version>` within 63; the same for all stores.
const MAX_NAME_BYTES: usize = 60;
/// Postgres cuts longer names off.
const MAX_IDENTIFIER_BYTES: usize = 63;

/// Rows in one statement: enough to make the round trip cheap, few enough to keep its arrays small.
const ROWS_AT_ONCE: usize = 2_000;

/// Whether SQL can be made of this table's names.
///
/// # Errors
/// [`StoreError::Schema`] names the one at fault.
pub(super) fn validate(table: &TableSpec) -> Result<(), StoreError> {
    let names = [table.view.as_str()].into_iter().chain(table.columns.iter().map(|column| column.name));
    if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
        let what =
            format!("{name:?} is no name of a table or column: [a-z][a-z0-9_]* with at most {MAX_NAME_BYTES} bytes");
        return Err(StoreError::Schema { what });
    }
    let ours = ["essaim_", "pg_"].iter().any(|prefix| table.view.starts_with(prefix));
    if ours || table.columns.is_empty() || table.table_name().len() > MAX_IDENTIFIER_BYTES {
        let what = format!("{} is no read table: its name is reserved or too long, or it has no columns", table.view);
        return Err(StoreError::Schema { what });
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= MAX_NAME_BYTES
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Creates the table when it is missing and lets the view show it.
pub(super) async fn prepare(connection: &mut PgConnection, table: TableSpec) -> Result<(), StoreError> {
    let table = &table;
    sqlx::query(LOCK).execute(&mut *connection).await.map_err(preparing)?;
    if exists(connection, table).await? {
        compare_columns(connection, table).await?;
    } else {
        run(connection, create_table(table)).await?;
    }
    match read_kind(connection, &table.view).await?.as_deref() {
        None => {}
        Some("v") if shows(connection, table).await? => return Ok(()),
        // The same columns let other people's views on ours stay; others cannot be had without a new view.
        Some("v") if read_columns(connection, &table.view).await? == without_nulls(wanted_columns(table)) => {}
        Some("v") => run(connection, format!("DROP VIEW \"{}\"", table.view)).await?,
        Some(_) => {
            let what =
                format!("{} is there already and no view: rename it, the read table's view belongs there", table.view);
            return Err(StoreError::Schema { what });
        }
    }
    let (view, list, name) = (&table.view, column_list(table), table.table_name());
    run(connection, format!("CREATE OR REPLACE VIEW \"{view}\" AS SELECT {list} FROM \"{name}\"")).await
}

fn create_table(table: &TableSpec) -> String {
    let columns = table.columns.iter().enumerate().map(|(index, column)| {
        let null = if column.nullable { "" } else { " NOT NULL" };
        let key = if index == 0 { " PRIMARY KEY" } else { "" };
        format!("\"{}\" {}{null}{key}", column.name, sql_type(column.kind))
    });
    format!("CREATE TABLE \"{}\" ({})", table.table_name(), columns.collect::<Vec<_>>().join(", "))
}

type Shape = Vec<(String, String, bool)>;

fn wanted_columns(table: &TableSpec) -> Shape {
    // A primary key is never null.
    let wanted = table.columns.iter().enumerate().map(|(index, column)| {
        (column.name.to_owned(), sql_type(column.kind).to_owned(), index == 0 || !column.nullable)
    });
    wanted.collect()
}

/// The same shape as a view has it, whose columns may all be null.
fn without_nulls(shape: Shape) -> Shape {
    shape.into_iter().map(|(name, kind, _)| (name, kind, false)).collect()
}

async fn compare_columns(connection: &mut PgConnection, table: &TableSpec) -> Result<(), StoreError> {
    let found = read_columns(connection, &table.table_name()).await?;
    if found == wanted_columns(table) {
        return Ok(());
    }
    let found = found.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect::<Vec<_>>().join(", ");
    let what = format!(
        "the table {} has other columns than {} needs ({found}): raise the projection's version, or drop the table",
        table.table_name(),
        table.projection
    );
    Err(StoreError::Schema { what })
}

async fn read_columns(connection: &mut PgConnection, name: &str) -> Result<Shape, StoreError> {
    sqlx::query_as(READ_COLUMNS).bind(name).fetch_all(connection).await.map_err(preparing)
}

/// What there is of that name, as `pg_class.relkind`.
async fn read_kind(connection: &mut PgConnection, name: &str) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar(READ_KIND).bind(name).fetch_optional(connection).await.map_err(preparing)
}

async fn shows(connection: &mut PgConnection, table: &TableSpec) -> Result<bool, StoreError> {
    let query = sqlx::query_scalar(SHOWS).bind(&table.view).bind(table.table_name());
    query.fetch_one(connection).await.map_err(preparing)
}

/// Opens a transaction in which everything is seen as of one instant, and reads the checkpoint in it; none when there
/// is nothing to load.
pub(super) async fn begin_loading(
    connection: &mut PgConnection,
    table: &TableSpec,
) -> Result<Option<Checkpoint>, StoreError> {
    let begun = sqlx::query(BEGIN_LOADING).execute(&mut *connection).await;
    begun.map_err(|error| errors::not_executed("loading a read table", error))?;
    let checkpoint = checkpoints::read(&mut *connection, &table.projection, table.version).await?;
    Ok(if exists(connection, table).await? { checkpoint } else { None })
}

/// Whether the table of this version exists.
async fn exists(connection: &mut PgConnection, table: &TableSpec) -> Result<bool, StoreError> {
    Ok(read_kind(connection, &table.table_name()).await?.is_some())
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), StoreError> {
    // Made of validated names and our own words only.
    let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    query.execute(connection).await.map_err(preparing)?;
    Ok(())
}

/// Executes a statement that writes rows, made of validated names and our own words only.
pub(super) async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), StoreError> {
    let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    query.execute(connection).await.map_err(writing)?;
    Ok(())
}

fn preparing(error: sqlx::Error) -> StoreError {
    errors::not_executed("preparing a read table", error)
}

/// Deletes first, then inserts and replaces.
pub(super) async fn write(
    connection: &mut PgConnection,
    table: &TableSpec,
    replace_all: bool,
    deletes: &[Value],
    upserts: &[Vec<Value>],
) -> Result<(), StoreError> {
    let (name, key) = (table.table_name(), &table.columns[0]);
    if let Some(row) = upserts.iter().find(|row| row.len() != table.columns.len()) {
        let what = format!("a row of {} values for the {} columns of {name}", row.len(), table.columns.len());
        return Err(StoreError::Data { what });
    }
    if replace_all {
        return replaced::replace_all(connection, table, upserts).await;
    }
    let delete = format!("DELETE FROM \"{name}\" WHERE \"{}\" = ANY ({})", key.name, columns::parameter(1, key));
    for chunk in deletes.chunks(ROWS_AT_ONCE) {
        let query = columns::bind(sqlx::query(AssertSqlSafe(delete.clone())), key, chunk.iter())?;
        query.execute(&mut *connection).await.map_err(writing)?;
    }
    let upsert = upsert(table);
    for chunk in upserts.chunks(ROWS_AT_ONCE) {
        let mut query = sqlx::query(AssertSqlSafe(upsert.clone()));
        for (index, column) in table.columns.iter().enumerate() {
            query = columns::bind(query, column, chunk.iter().map(|row| &row[index]))?;
        }
        query.execute(&mut *connection).await.map_err(writing)?;
    }
    Ok(())
}

fn upsert(table: &TableSpec) -> String {
    let replaced: Vec<_> =
        table.columns[1..].iter().map(|column| format!("\"{0}\" = EXCLUDED.\"{0}\"", column.name)).collect();
    let otherwise = match replaced.is_empty() {
        true => "NOTHING".to_owned(),
        false => format!("UPDATE SET {}", replaced.join(", ")),
    };
    let arrays: Vec<_> =
        table.columns.iter().enumerate().map(|(index, column)| columns::unnested(index + 1, column)).collect();
    let (name, list, arrays) = (table.table_name(), column_list(table), arrays.join(", "));
    let key = table.columns[0].name;
    format!("INSERT INTO \"{name}\" ({list}) SELECT {arrays} ON CONFLICT (\"{key}\") DO {otherwise}")
}

pub(super) fn writing(error: sqlx::Error) -> StoreError {
    errors::not_executed("writing a read table", error)
}

pub(super) fn column_list(table: &TableSpec) -> String {
    let names: Vec<_> = table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    names.join(", ")
}

/// The statement that reads all rows.
pub(super) fn select(table: &TableSpec) -> String {
    let columns: Vec<_> = table.columns.iter().map(columns::selected).collect();
    format!("SELECT {} FROM \"{}\"", columns.join(", "), table.table_name())
}
