//! This file fills an empty read table by COPY in the text format: many rows go into a page at once, where an INSERT
//! puts them there one by one.

use std::fmt::Write;

use chrono::{DateTime, Datelike, Utc};
use sqlx::postgres::PgConnection;

use super::columns::unfit;
use crate::projections::{Column, ColumnKind, Value};
use crate::store::StoreError;

/// Bytes in one message; the rows of a message are in memory twice.
const MESSAGE_BYTES: usize = 256 * 1024;

/// Copies these rows, each with one value a column, with `statement`, a `COPY … FROM STDIN`.
///
/// # Errors
/// [`StoreError::Data`] for a value that is not of its column's type; otherwise what `failed` makes of the driver's.
pub(super) async fn copy(
    connection: &mut PgConnection,
    statement: &str,
    columns: &[Column],
    rows: &[Vec<Value>],
    failed: impl Fn(sqlx::Error) -> StoreError,
) -> Result<(), StoreError> {
    let mut copy = connection.copy_in_raw(statement).await.map_err(&failed)?;
    let mut message = String::with_capacity(MESSAGE_BYTES);
    for row in rows {
        if let Err(error) = write_row(&mut message, columns, row) {
            // The server's own words on that say less.
            let _ = copy.abort("a value does not fit").await;
            return Err(error);
        }
        if message.len() >= MESSAGE_BYTES {
            copy.send(message.as_bytes()).await.map_err(&failed)?;
            message.clear();
        }
    }
    if !message.is_empty() {
        copy.send(message.as_bytes()).await.map_err(&failed)?;
    }
    copy.finish().await.map_err(&failed)?;
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
