//! This file holds the read tables of a log in memory, and their checkpoints.

use std::collections::BTreeMap;

use crate::projections::{Column, ColumnKind, TableSpec, Value};
use crate::store::{Checkpoint, CheckpointSave, Epoch, StoreError};

/// All read tables and checkpoint rows.
#[derive(Default)]
pub(super) struct Tables {
    tables: BTreeMap<String, Table>,
    checkpoints: BTreeMap<(String, u32), Checkpoint>,
}

struct Table {
    columns: &'static [Column],
    rows: BTreeMap<Key, Vec<Value>>,
}

/// A value as text: values of one column differ exactly when these do.
type Key = String;

impl Tables {
    pub(super) fn prepare(&mut self, table: &TableSpec) -> Result<(), StoreError> {
        let name = table.table_name();
        let found = self.tables.entry(name).or_insert_with(|| Table { columns: table.columns, rows: BTreeMap::new() });
        if found.columns == table.columns {
            return Ok(());
        }
        let names: Vec<_> = found.columns.iter().map(|column| column.name).collect();
        let what = format!(
            "the table {} has other columns than {} needs ({}): raise the projection's version",
            table.table_name(),
            table.projection,
            names.join(", ")
        );
        Err(StoreError::Schema { what })
    }

    pub(super) fn load(&self, table: &TableSpec) -> Option<(Checkpoint, Vec<Vec<Value>>)> {
        let checkpoint = self.checkpoint(&table.projection, table.version)?;
        let rows = self.tables.get(&table.table_name())?.rows.values().cloned().collect();
        Some((checkpoint, rows))
    }

    /// `epoch` is the one in the head row.
    pub(super) fn save(&mut self, save: CheckpointSave<'_>, epoch: Epoch) -> Result<(), StoreError> {
        let checkpoint = save.checkpoint;
        if checkpoint.epoch < epoch {
            return Err(StoreError::Fenced { mine: checkpoint.epoch, found: epoch });
        }
        let row = (checkpoint.projection.clone(), checkpoint.version);
        let found = self.checkpoints.get(&row).map(|checkpoint| checkpoint.position);
        if found != save.previous {
            let what = format!("the checkpoint of {} is {found:?}, not {:?}", row.0, save.previous);
            return Err(StoreError::Conflict { what });
        }
        let name = save.table.table_name();
        let Some(table) = self.tables.get_mut(&name) else {
            return Err(StoreError::Schema { what: format!("there is no table {name}: prepare it first") });
        };
        save.upserts.iter().try_for_each(|row| check_row(table.columns, row))?;
        if save.replace_all {
            table.rows.clear();
        }
        for key in &save.deletes {
            table.rows.remove(&key_of(key));
        }
        table.rows.extend(save.upserts.into_iter().map(|row| (key_of(&row[0]), row)));
        self.checkpoints.insert(row, checkpoint);
        Ok(())
    }

    pub(super) fn checkpoint(&self, projection: &str, version: u32) -> Option<Checkpoint> {
        self.checkpoints.get(&(projection.to_owned(), version)).cloned()
    }

    pub(super) fn checkpoints(&self) -> Vec<Checkpoint> {
        self.checkpoints.values().cloned().collect()
    }
}

fn key_of(value: &Value) -> Key {
    format!("{value:?}")
}

fn check_row(columns: &[Column], row: &[Value]) -> Result<(), StoreError> {
    if row.len() != columns.len() {
        return Err(StoreError::Data { what: format!("{} values for {} columns", row.len(), columns.len()) });
    }
    match columns.iter().zip(row).find(|(column, value)| !fits(column, value)) {
        // The value stays out of the message: it may be personal.
        Some((column, _)) => {
            Err(StoreError::Data { what: format!("column {} cannot hold the value it was given", column.name) })
        }
        None => Ok(()),
    }
}

fn fits(column: &Column, value: &Value) -> bool {
    match (column.kind, value) {
        (_, Value::Null) => column.nullable,
        (ColumnKind::Text, Value::Text(text))
        | (ColumnKind::Numeric, Value::Numeric(text))
        | (ColumnKind::Json, Value::Json(text)) => !text.contains('\0'),
        (ColumnKind::Double, Value::Double(number)) => number.is_finite(),
        (ColumnKind::BigInt, Value::BigInt(_))
        | (ColumnKind::Boolean, Value::Boolean(_))
        | (ColumnKind::Uuid, Value::Uuid(_))
        | (ColumnKind::Timestamp, Value::Timestamp(_)) => true,
        _ => false,
    }
}
