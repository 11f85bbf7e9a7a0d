//! This file replaces all rows of a read table, once it was built anew.
//!
//! Most rows come out as they were, so that the new ones are set beside the old and only what differs is written. They
//! come by COPY in the text format: many go into a page at once, where an INSERT puts them there one by one.

use std::fmt::Write;

use chrono::{DateTime, Datelike, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::columns::unfit;
use super::read_tables::{column_list, execute, writing};
use crate::projections::{Column, ColumnKind, TableSpec, Value};
use crate::store::StoreError;

// Whether there is anything to compare with, and a place to do that in.
const LOOK: &str = "
    SELECT EXISTS (SELECT FROM {table}), has_database_privilege(current_database(), 'TEMPORARY')";

const STAGE: &str = "CREATE TEMPORARY TABLE essaim_staged (LIKE {table}) ON COMMIT DROP";

const DELETE_GONE: &str = "
    DELETE FROM {table} AS kept
    WHERE NOT EXISTS (SELECT FROM pg_temp.essaim_staged AS staged WHERE staged.{key} = kept.{key})";

const UPDATE_CHANGED: &str = "
    UPDATE {table} AS kept
    SET {assignments}
    FROM pg_temp.essaim_staged AS staged
    WHERE staged.{key} = kept.{key} AND ({differs})";

const INSERT_ADDED: &str = "
    INSERT INTO {table} ({columns})
    SELECT {columns}
    FROM pg_temp.essaim_staged AS staged
    WHERE NOT EXISTS (SELECT FROM {table} AS kept WHERE kept.{key} = staged.{key})";

// TRUNCATE would take the rows from those who read an earlier state.
const DELETE_ALL: &str = "DELETE FROM {table}";

/// Leaves these rows in the table, each with one value a column and no two of one key, and no others. Inside the
/// caller's transaction.
///
/// # Errors
/// [`StoreError::Data`] for a value that its column cannot hold; otherwise as any statement.
pub(super) async fn replace_all(
    connection: &mut PgConnection,
    table: &TableSpec,
    rows: &[Vec<Value>],
) -> Result<(), StoreError> {
    let name = format!("\"{}\"", table.table_name());
    let look = sqlx::query(AssertSqlSafe(LOOK.replace("{table}", &name))).persistent(false);
    let look = look.fetch_one(&mut *connection).await.map_err(writing)?;
    let (is_filled, may_stage): (bool, bool) = (look.try_get(0).map_err(writing)?, look.try_get(1).map_err(writing)?);
    if !is_filled {
        return copy(connection, &name, table, rows).await;
    }
    if !may_stage {
        execute(connection, DELETE_ALL.replace("{table}", &name)).await?;
        return copy(connection, &name, table, rows).await;
    }
    execute(connection, STAGE.replace("{table}", &name)).await?;
    copy(connection, "pg_temp.essaim_staged", table, rows).await?;
    for statement in [DELETE_GONE, UPDATE_CHANGED, INSERT_ADDED] {
        if let Some(statement) = of_table(statement, &name, table) {
            execute(connection, statement).await?;
        }
    }
    Ok(())
}

/// The statement for this table; none where it has nothing to do.
fn of_table(statement: &str, name: &str, table: &TableSpec) -> Option<String> {
    let (key, others) = table.columns.split_first()?;
    if others.is_empty() && statement.contains("{assignments}") {
        return None;
    }
    let assignments: Vec<_> = others.iter().map(|column| format!("\"{0}\" = staged.\"{0}\"", column.name)).collect();
    let differs: Vec<_> = others.iter().map(differs).collect();
    let statement = statement.replace("{table}", name).replace("{key}", &format!("\"{}\"", key.name));
    let statement = statement.replace("{columns}", &column_list(table));
    Some(statement.replace("{assignments}", &assignments.join(", ")).replace("{differs}", &differs.join(" OR ")))
}

/// Whether a value is another one to the last digit: 12.5 equals 12.50, and JSON is not compared at all.
fn differs(column: &Column) -> String {
    let cast = match column.kind {
        ColumnKind::Numeric | ColumnKind::Json | ColumnKind::Double => "::text",
        _ => "",
    };
    format!("kept.\"{0}\"{cast} IS DISTINCT FROM staged.\"{0}\"{cast}", column.name)
}

/// Bytes in one message; the rows of a message are in memory twice.
const MESSAGE_BYTES: usize = 256 * 1024;

async fn copy(
    connection: &mut PgConnection,
    into: &str,
    table: &TableSpec,
    rows: &[Vec<Value>],
) -> Result<(), StoreError> {
    let statement = format!("COPY {into} ({}) FROM STDIN", column_list(table));
    let mut copy = connection.copy_in_raw(&statement).await.map_err(writing)?;
    let mut message = String::with_capacity(MESSAGE_BYTES);
    for row in rows {
        if let Err(error) = write_row(&mut message, table.columns, row) {
            // The server's own words on that say less.
            let _ = copy.abort("a value does not fit").await;
            return Err(error);
        }
        if message.len() >= MESSAGE_BYTES {
            copy.send(message.as_bytes()).await.map_err(writing)?;
            message.clear();
        }
    }
    if !message.is_empty() {
        copy.send(message.as_bytes()).await.map_err(writing)?;
    }
    copy.finish().await.map_err(writing)?;
    Ok(())
}

/// PostgreSQL manual, COPY, Text Format: a tab between values, a line feed behind a row.
fn write_row(text: &mut String, columns: &[Column], row: &[Value]) -> Result<(), StoreError> {
    for (n, (column, value)) in columns.iter().zip(row).enumerate() {
        if n > 0 {
            text.push('\t');
        }
        match (column.kind, value) {
            (_, Value::Null) => text.push_str("\\N"),
            (ColumnKind::Text, Value::Text(value))
            | (ColumnKind::Numeric, Value::Numeric(value))
            | (ColumnKind::Json, Value::Json(value)) => escape(text, value),
            (ColumnKind::BigInt, Value::BigInt(value)) => write(text, value),
            (ColumnKind::Boolean, Value::Boolean(value)) => text.push(if *value { 't' } else { 'f' }),
            (ColumnKind::Double, Value::Double(value)) if value.is_finite() => write(text, value),
            (ColumnKind::Uuid, Value::Uuid(value)) => write(text, value.as_simple()),
            (ColumnKind::Timestamp, Value::Timestamp(value)) => write_time(text, *value),
            _ => return Err(unfit(column)),
        }
    }
    text.push('\n');
    Ok(())
}

fn write(text: &mut String, value: impl std::fmt::Display) {
    write!(text, "{value}").expect("a string takes everything");
}

/// With its era, where a year has none of its own in front.
fn write_time(text: &mut String, time: DateTime<Utc>) {
    let (is_common_era, year) = time.year_ce();
    write(text, format_args!("{year:04}-{}", time.format("%m-%d %H:%M:%S%.6f+00")));
    if !is_common_era {
        text.push_str(" BC");
    }
}

/// The signs that mean something in a copied row.
fn escape(text: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\t' => "\\t",
            b'\n' => "\\n",
            b'\r' => "\\r",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const COLUMNS: &[Column] = &[
        Column::required("text", ColumnKind::Text),
        Column::nullable("number", ColumnKind::BigInt),
        Column::nullable("time", ColumnKind::Timestamp),
        Column::nullable("id", ColumnKind::Uuid),
    ];

    fn written(row: &[Value]) -> Result<String, StoreError> {
        let mut text = String::new();
        write_row(&mut text, COLUMNS, row).map(|()| text)
    }

    #[test]
    fn signs_that_mean_something_in_a_copied_row_are_escaped_and_null_is_not_its_letters() {
        let row = |text: &str| written(&[Value::Text(text.into()), Value::Null, Value::Null, Value::Null]).unwrap();

        assert_eq!(row("a\tb\nc\rd\\e"), "a\\tb\\nc\\rd\\\\e\t\\N\t\\N\t\\N\n");
        assert_eq!(row("\\N"), "\\\\N\t\\N\t\\N\t\\N\n");
        assert_eq!(row("\\."), "\\\\.\t\\N\t\\N\t\\N\n");
        assert_eq!(row("é → 🦀"), "é → 🦀\t\\N\t\\N\t\\N\n");
    }

    #[test]
    fn times_of_any_era_are_written_as_the_server_reads_them() {
        let row = |micros: i64| {
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            written(&[Value::Text(String::new()), Value::BigInt(-7), Value::Timestamp(time), Value::Uuid(Uuid::nil())])
        };

        assert_eq!(
            row(1_700_000_000_123_456).unwrap(),
            "\t-7\t2023-11-14 22:13:20.123456+00\t00000000000000000000000000000000\n"
        );
        assert!(row(253_402_300_800_000_000).unwrap().contains("\t10000-01-01 00:00:00.000000+00\t"));
        assert!(row(-62_167_219_200_000_000).unwrap().contains("\t0001-01-01 00:00:00.000000+00 BC\t"));
    }

    #[test]
    fn a_value_of_another_type_is_told_by_its_columns_name() {
        let told = written(&[Value::Text("a".into()), Value::Boolean(true), Value::Null, Value::Null]).unwrap_err();

        assert!(matches!(&told, StoreError::Data { what } if what.contains("column number")), "{told}");
    }
}
