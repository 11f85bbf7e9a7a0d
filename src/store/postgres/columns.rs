//! This file says how the values of read tables stand in Postgres columns: written as one array a column, read as rows.

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use uuid::Uuid;

use super::values::Columns;
use crate::projections::{Column, ColumnKind, TableSpec, Value};
use crate::store::StoreError;

/// The type's name, as `format_type` gives it.
pub(super) fn sql_type(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Text => "text",
        ColumnKind::BigInt => "bigint",
        ColumnKind::Boolean => "boolean",
        ColumnKind::Double => "double precision",
        ColumnKind::Uuid => "uuid",
        ColumnKind::Timestamp => "timestamp with time zone",
        ColumnKind::Numeric => "numeric",
        ColumnKind::Json => "json",
    }
}

/// Numbers of any size and JSON travel as text, which keeps their digits and bytes.
fn travels_as_text(kind: ColumnKind) -> bool {
    matches!(kind, ColumnKind::Numeric | ColumnKind::Json)
}

/// The n-th parameter, an array of values of this column.
pub(super) fn parameter(n: usize, column: &Column) -> String {
    let kind = sql_type(column.kind);
    if travels_as_text(column.kind) { format!("${n}::text[]::{kind}[]") } else { format!("${n}::{kind}[]") }
}

/// The n-th parameter taken apart: one row for each of its values.
pub(super) fn unnested(n: usize, column: &Column) -> String {
    let kind = sql_type(column.kind);
    if travels_as_text(column.kind) {
        format!("unnest(${n}::text[])::{kind}")
    } else {
        format!("unnest(${n}::{kind}[])")
    }
}

/// The column in the list of a SELECT.
pub(super) fn selected(column: &Column) -> String {
    if travels_as_text(column.kind) { format!("\"{}\"::text", column.name) } else { format!("\"{}\"", column.name) }
}

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

/// Binds these values of one column as an array.
///
/// # Errors
/// [`StoreError::Data`] for a value that is not of the column's type.
pub(super) fn bind<'a>(
    query: Query,
    column: &Column,
    values: impl Iterator<Item = &'a Value>,
) -> Result<Query, StoreError> {
    Ok(match column.kind {
        ColumnKind::Text => query.bind(array(column, values, |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })?),
        ColumnKind::Numeric => query.bind(array(column, values, |value| match value {
            Value::Numeric(digits) => Some(digits.as_str()),
            _ => None,
        })?),
        ColumnKind::Json => query.bind(array(column, values, |value| match value {
            Value::Json(json) => Some(json.as_str()),
            _ => None,
        })?),
        ColumnKind::BigInt => query.bind(array(column, values, |value| match value {
            Value::BigInt(number) => Some(*number),
            _ => None,
        })?),
        ColumnKind::Boolean => query.bind(array(column, values, |value| match value {
            Value::Boolean(truth) => Some(*truth),
            _ => None,
        })?),
        ColumnKind::Double => query.bind(array(column, values, |value| match value {
            Value::Double(number) if number.is_finite() => Some(*number),
            _ => None,
        })?),
        ColumnKind::Uuid => query.bind(array(column, values, |value| match value {
            Value::Uuid(id) => Some(*id),
            _ => None,
        })?),
        ColumnKind::Timestamp => query.bind(array(column, values, |value| match value {
            Value::Timestamp(time) => Some(*time),
            _ => None,
        })?),
    })
}

fn array<'a, T>(
    column: &Column,
    values: impl Iterator<Item = &'a Value>,
    as_kind: impl Fn(&'a Value) -> Option<T>,
) -> Result<Vec<Option<T>>, StoreError> {
    let nullable = values.map(|value| match value {
        Value::Null => Ok(None),
        value => as_kind(value).map(Some).ok_or_else(|| unfit(column)),
    });
    nullable.collect()
}

/// The value itself stays out of messages: it may be personal.
pub(super) fn unfit(column: &Column) -> StoreError {
    let what = format!("column {} of type {:?} cannot hold the value it was given", column.name, column.kind);
    StoreError::Data { what }
}

/// The values in a row that was [`selected`].
pub(super) fn read_row(row: &PgRow, table: &TableSpec) -> Result<Vec<Value>, StoreError> {
    table.columns.iter().enumerate().map(|(index, column)| read_value(row, index, column)).collect()
}

fn read_value(row: &PgRow, index: usize, column: &Column) -> Result<Value, StoreError> {
    let columns = Columns(row);
    let value = match column.kind {
        ColumnKind::Text => columns.get::<Option<String>>(index)?.map(Value::Text),
        ColumnKind::Numeric => columns.get::<Option<String>>(index)?.map(Value::Numeric),
        ColumnKind::Json => columns.get::<Option<String>>(index)?.map(Value::Json),
        ColumnKind::BigInt => columns.get::<Option<i64>>(index)?.map(Value::BigInt),
        ColumnKind::Boolean => columns.get::<Option<bool>>(index)?.map(Value::Boolean),
        ColumnKind::Double => columns.get::<Option<f64>>(index)?.map(Value::Double),
        ColumnKind::Uuid => columns.get::<Option<Uuid>>(index)?.map(Value::Uuid),
        ColumnKind::Timestamp => columns.get::<Option<DateTime<Utc>>>(index)?.map(Value::Timestamp),
    };
    Ok(value.unwrap_or(Value::Null))
}
