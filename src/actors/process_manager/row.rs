//! This file is how an instance of a process manager stands in its table: state, deadlines, and the commands whose
//! outcome is not known to be durable.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::event::CommandId;
use crate::projections::{Column, ColumnKind, FromValue, Row, RowError, Value, Values};
use crate::stream::StreamId;

/// One row. `next_deadline` repeats the earliest of `deadlines` for those who look with SQL.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InstanceRow {
    pub(super) key: String,
    /// The state as JSON; none when the instance has ended, or never had one.
    pub(super) state: Option<String>,
    pub(super) deadlines: Vec<Deadline>,
    /// In the order they are sent.
    pub(super) commands: Vec<Command>,
}

/// A deadline that is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deadline {
    pub(super) name: String,
    pub(super) at: DateTime<Utc>,
    /// The event that set it, or what came of another deadline: part of its commands' ids.
    pub(super) set_by: Uuid,
    pub(super) origin: Origin,
}

/// The event behind a deadline or a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(super) event_id: Uuid,
    pub(super) correlation_id: Uuid,
}

/// A command whose outcome is not known to be durable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) id: CommandId,
    category: Box<str>,
    key: Box<str>,
    command: Box<RawValue>,
    origin: Origin,
}

impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.stream() == other.stream() && self.json() == other.json()
    }
}

impl Command {
    pub(super) fn new(id: CommandId, to: &StreamId, command: Box<RawValue>, origin: Origin) -> Self {
        Self { id, category: to.category().into(), key: to.key().into(), command, origin }
    }

    pub(crate) fn stream(&self) -> StreamId {
        StreamId::new(&self.category, &self.key)
    }

    pub(crate) fn json(&self) -> &str {
        self.command.get()
    }

    /// What directly caused it.
    pub(crate) fn causation_id(&self) -> Uuid {
        self.origin.event_id
    }

    pub(crate) fn correlation_id(&self) -> Uuid {
        self.origin.correlation_id
    }

    /// About how much memory it holds, in bytes.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.category.len() + self.key.len() + self.command.get().len()
    }
}

impl Row for InstanceRow {
    type Key = String;

    const COLUMNS: &'static [Column] = &[
        Column::required("key", ColumnKind::Text),
        Column::nullable("state", ColumnKind::Json),
        Column::nullable("next_deadline", ColumnKind::Timestamp),
        Column::required("deadlines", ColumnKind::Json),
        Column::required("commands", ColumnKind::Json),
    ];

    fn key(&self) -> String {
        self.key.clone()
    }

    fn write(&self) -> Vec<Value> {
        vec![
            Value::Text(self.key.clone()),
            self.state.clone().map_or(Value::Null, Value::Json),
            self.deadlines.iter().map(|deadline| deadline.at).min().map_or(Value::Null, Value::Timestamp),
            Value::Json(json(&self.deadlines)),
            Value::Json(json(&self.commands)),
        ]
    }

    fn read(values: &mut Values) -> Result<Self, RowError> {
        let (key, state) = (values.take()?, values.take()?);
        let _: Option<DateTime<Utc>> = values.take()?;
        Ok(Self { key, state, deadlines: parsed(values, "deadlines")?, commands: parsed(values, "commands")? })
    }
}

fn json(list: &impl Serialize) -> String {
    serde_json::to_string(list).expect("ids, texts, times and JSON can be written as JSON")
}

fn parsed<T: DeserializeOwned>(values: &mut Values, column: &str) -> Result<T, RowError> {
    let json: String = values.take()?;
    serde_json::from_str(&json).map_err(|error| RowError {
        column: column.to_owned(),
        found: error.to_string(),
        wanted: String::WANTED.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was_written_and_shows_its_earliest_deadline() {
        let origin = Origin { event_id: Uuid::from_u128(1), correlation_id: Uuid::from_u128(2) };
        let at = |micros| DateTime::from_timestamp_micros(micros).expect("within range");
        let deadline =
            |name: &str, micros| Deadline { name: name.into(), at: at(micros), set_by: Uuid::from_u128(3), origin };
        let json = RawValue::from_string(r#"{"Put":{"cents":5}}"#.into()).unwrap();
        let row = InstanceRow {
            key: "a".into(),
            state: Some("{}".into()),
            deadlines: vec![deadline("late", 9_000_001), deadline("soon", 5)],
            commands: vec![Command::new(CommandId(Uuid::from_u128(4)), &StreamId::new("purse", "a-b"), json, origin)],
        };

        let written = row.write();
        let read = InstanceRow::read(&mut Values::new(InstanceRow::COLUMNS, written.clone())).unwrap();

        assert_eq!(written[2], Value::Timestamp(at(5)));
        assert_eq!(read, row);
        assert_eq!(read.commands[0].causation_id(), Uuid::from_u128(1));
    }
}
