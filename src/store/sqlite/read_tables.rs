//! This file keeps the read tables: their shape, their rows, and how values stand in their columns.

use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Sqlite};

use super::errors;
use super::statements::{self, Chunks};
use super::values::{self, Columns};
use crate::projections::{Column, ColumnKind, TableSpec, Value};
use crate::store::StoreError;

const READ_OBJECT: &str = "SELECT type, sql FROM sqlite_master WHERE name = ?1";
const READ_COLUMNS: &str = "SELECT name, type, \"notnull\" FROM pragma_table_info(?1) ORDER BY cid";

/// Longest name in bytes; leaves room for `_v<version>` within Postgres's 63.
const MAX_NAME_BYTES: usize = 60;

/// Whether SQL can be made of this table's names.
///
/// # Errors
/// [`StoreError::Schema`] names the one at fault.
pub(super) fn validate(table: &TableSpec) -> Result<(), StoreError> {
    let ours = ["essaim_", "sqlite_"].iter().any(|prefix| table.view.starts_with(prefix));
    let names = [table.view.as_str()].into_iter().chain(table.columns.iter().map(|column| column.name));
    if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
        let what =
            format!("{name:?} is no name of a table or column: [a-z][a-z0-9_]* with at most {MAX_NAME_BYTES} bytes");
        return Err(StoreError::Schema { what });
    }
    if ours || table.columns.is_empty() {
        let what = format!("{} is no read table: its name is reserved, or it has no columns", table.view);
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
pub(super) async fn prepare(connection: &mut SqliteConnection, table: &TableSpec) -> Result<(), StoreError> {
    let name = table.table_name();
    match read_object(connection, &name).await? {
        None => run(connection, create_table(table)).await?,
        Some(_) => compare_columns(connection, table).await?,
    }
    let view = format!("CREATE VIEW \"{}\" AS SELECT {} FROM \"{name}\"", table.view, column_list(table));
    match read_object(connection, &table.view).await? {
        Some((kind, sql)) if kind == "view" => {
            if sql.as_deref() == Some(&view) {
                return Ok(());
            }
            run(connection, format!("DROP VIEW \"{}\"", table.view)).await?;
        }
        Some((kind, _)) => {
            let what = format!("{} is a {kind}, where a view on the read table belongs: rename it", table.view);
            return Err(StoreError::Schema { what });
        }
        None => {}
    }
    run(connection, view).await
}

fn create_table(table: &TableSpec) -> String {
    let columns = table.columns.iter().enumerate().map(|(index, column)| {
        let null = if column.nullable { "" } else { " NOT NULL" };
        let key = if index == 0 { " PRIMARY KEY" } else { "" };
        format!("\"{}\" {}{null}{key}", column.name, sql_type(column.kind))
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    format!("CREATE TABLE \"{}\" ({columns}) STRICT, WITHOUT ROWID", table.table_name())
}

fn sql_type(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::BigInt | ColumnKind::Boolean => "INTEGER",
        ColumnKind::Double => "REAL",
        ColumnKind::Text | ColumnKind::Uuid | ColumnKind::Timestamp | ColumnKind::Numeric | ColumnKind::Json => "TEXT",
    }
}

async fn compare_columns(connection: &mut SqliteConnection, table: &TableSpec) -> Result<(), StoreError> {
    let found: Vec<(String, String, bool)> =
        sqlx::query_as(READ_COLUMNS).bind(table.table_name()).fetch_all(connection).await.map_err(preparing)?;
    let wanted = table.columns.iter().enumerate().map(|(index, column)| {
        // A key of a table without rowids is never null.
        (column.name.to_owned(), sql_type(column.kind).to_owned(), index == 0 || !column.nullable)
    });
    if found.iter().cloned().eq(wanted) {
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

async fn read_object(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    sqlx::query_as(READ_OBJECT).bind(name.to_owned()).fetch_optional(connection).await.map_err(preparing)
}

/// Whether the table of this version exists.
pub(super) async fn exists(connection: &mut SqliteConnection, table: &TableSpec) -> Result<bool, StoreError> {
    Ok(read_object(connection, &table.table_name()).await?.is_some())
}

async fn run(connection: &mut SqliteConnection, sql: String) -> Result<(), StoreError> {
    // Made of validated names and our own words only.
    let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    query.execute(connection).await.map_err(preparing)?;
    Ok(())
}

fn preparing(error: sqlx::Error) -> StoreError {
    errors::not_executed("preparing a read table", error)
}

/// Deletes first, then inserts and replaces.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    table: &TableSpec,
    replace_all: bool,
    deletes: Vec<Value>,
    upserts: Vec<Vec<Value>>,
) -> Result<(), StoreError> {
    let (name, key) = (table.table_name(), &table.columns[0]);
    if replace_all {
        run(connection, format!("DELETE FROM \"{name}\"")).await?;
    }
    for chunk in Chunks::of(&deletes) {
        let places = statements::rows(1, chunk.len());
        let sql = format!("DELETE FROM \"{name}\" WHERE \"{}\" IN {places}", key.name);
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in chunk {
            query = bind(query, key, value)?;
        }
        query.execute(&mut *connection).await.map_err(writing)?;
    }
    for chunk in Chunks::with_binds(&upserts, table.columns.len()) {
        let places = statements::rows(chunk.len(), table.columns.len());
        let sql = format!("INSERT OR REPLACE INTO \"{name}\" ({}) VALUES {places}", column_list(table));
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for row in chunk {
            if row.len() != table.columns.len() {
                let what = format!("a row of {} values for the {} columns of {name}", row.len(), table.columns.len());
                return Err(StoreError::Data { what });
            }
            for (column, value) in table.columns.iter().zip(row) {
                query = bind(query, column, value)?;
            }
        }
        query.execute(&mut *connection).await.map_err(writing)?;
    }
    Ok(())
}

fn writing(error: sqlx::Error) -> StoreError {
    errors::not_executed("writing a read table", error)
}

fn column_list(table: &TableSpec) -> String {
    let names: Vec<_> = table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    names.join(", ")
}

/// The statement that reads all rows.
pub(super) fn select(table: &TableSpec) -> String {
    format!("SELECT {} FROM \"{}\"", column_list(table), table.table_name())
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

fn bind<'q>(query: Query<'q>, column: &Column, value: &Value) -> Result<Query<'q>, StoreError> {
    Ok(match (column.kind, value) {
        (_, Value::Null) => query.bind(None::<i64>),
        (ColumnKind::Text, Value::Text(text))
        | (ColumnKind::Numeric, Value::Numeric(text))
        | (ColumnKind::Json, Value::Json(text)) => query.bind(values::text(text)?),
        (ColumnKind::BigInt, Value::BigInt(number)) => query.bind(*number),
        (ColumnKind::Boolean, Value::Boolean(truth)) => query.bind(*truth),
        // SQLite would store NaN as null.
        (ColumnKind::Double, Value::Double(number)) if number.is_finite() => query.bind(*number),
        (ColumnKind::Uuid, Value::Uuid(id)) => query.bind(id.hyphenated().to_string()),
        (ColumnKind::Timestamp, Value::Timestamp(time)) => query.bind(values::time(*time)?),
        // The value itself stays out of messages: it may be personal.
        (kind, _) => {
            let what = format!("column {} of type {kind:?} cannot hold the value it was given", column.name);
            return Err(StoreError::Data { what });
        }
    })
}

/// The values in a row of [`select`].
pub(super) fn read_row(row: &SqliteRow, table: &TableSpec) -> Result<Vec<Value>, StoreError> {
    table.columns.iter().enumerate().map(|(index, column)| read_value(row, index, column)).collect()
}

fn read_value(row: &SqliteRow, index: usize, column: &Column) -> Result<Value, StoreError> {
    use sqlx::{Row, ValueRef};

    let columns = Columns(row);
    if row.try_get_raw(index).map_err(|error| columns.damaged(index, error))?.is_null() {
        return Ok(Value::Null);
    }
    Ok(match column.kind {
        ColumnKind::Text => Value::Text(columns.text(index)?.to_owned()),
        ColumnKind::Numeric => Value::Numeric(columns.text(index)?.to_owned()),
        ColumnKind::Json => Value::Json(columns.text(index)?.to_owned()),
        ColumnKind::BigInt => Value::BigInt(columns.integer(index)?),
        ColumnKind::Boolean => Value::Boolean(columns.integer(index)? != 0),
        ColumnKind::Double => Value::Double(columns.double(index)?),
        ColumnKind::Uuid => Value::Uuid(columns.uuid(index)?),
        ColumnKind::Timestamp => Value::Timestamp(columns.time(index)?),
    })
}
