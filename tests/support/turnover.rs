//! This file is a read table with a column of every type, its rows, and what a store holds of it.
#![allow(dead_code, reason = "no test program needs all of it")]

use essaim::prelude::*;
use essaim::projections::{TableSpec, Value};
use uuid::Uuid;

use super::log::recorded_at;

const COLUMNS: &[Column] = &[
    Column::required("id", ColumnKind::Text),
    Column::nullable("amount", ColumnKind::Numeric),
    Column::nullable("cents", ColumnKind::BigInt),
    Column::nullable("open", ColumnKind::Boolean),
    Column::nullable("share", ColumnKind::Double),
    Column::nullable("account", ColumnKind::Uuid),
    Column::nullable("seen_at", ColumnKind::Timestamp),
    Column::nullable("details", ColumnKind::Json),
];

pub fn turnover(version: u32) -> TableSpec {
    TableSpec { projection: "turnover".into(), view: "turnover".into(), version, columns: COLUMNS }
}

pub fn full_row(id: &str, amount: &str) -> Vec<Value> {
    vec![
        Value::Text(id.into()),
        Value::Numeric(amount.into()),
        Value::BigInt(i64::MIN),
        Value::Boolean(true),
        Value::Double(0.1),
        Value::Uuid(Uuid::from_u128(9)),
        Value::Timestamp(recorded_at()),
        Value::Json("{ \"b\": 1,\n\"a\":1.0, \"a\":\"\\u0000\" }".into()),
    ]
}

pub fn empty_row(id: &str) -> Vec<Value> {
    std::iter::once(Value::Text(id.into())).chain(std::iter::repeat_n(Value::Null, 7)).collect()
}

pub async fn rows(store: &PostgresStore, table: &TableSpec) -> (Option<u64>, Vec<Vec<Value>>) {
    let mut rows = Vec::new();
    let mut take = |row| {
        rows.push(row);
        Ok(())
    };
    let checkpoint = store.load_table(table, &mut take).await.unwrap();
    rows.sort_by(|a, b| format!("{:?}", a[0]).cmp(&format!("{:?}", b[0])));
    (checkpoint.map(|checkpoint| checkpoint.position.0), rows)
}
