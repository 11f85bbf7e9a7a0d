//! This file is the contract of a projection: which events it follows, which rows it makes of them, and how a row
//! stands in a SQL table.
//!
//! ```text
//! Projection ── sources ──> ProjectFrom<A> for every aggregate it follows
//!      │
//!      └─ Row (one row of the read table)   Index (ordered look-ups and sums, kept with the rows)
//! ```
//! [`table`] holds the rows in memory; `actors/projection.rs` feeds it and saves checkpoints.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::aggregate::{Aggregate, DecodeError, with_decoded};
use crate::event::{RecordedEvent, TypedEvent};

mod blocks;
pub mod payment_summaries;
pub mod read_model;
pub mod table;
#[cfg(test)]
mod told_users;
pub mod user_analytics;
pub mod user_list;
pub mod user_profiles;

/// A read model and how it follows from the log.
///
/// It is a pure function of the events: the same log always gives the same rows. Change [`Projection::VERSION`] with
/// every change of that function; the next start then builds a new table from the first event and shows it once it
/// has caught up.
pub trait Projection: Send + Sync + Sized + 'static {
    /// Name in logs, metrics and the checkpoint row: `[a-z][a-z0-9_]*`, at most 40 bytes.
    const NAME: &'static str;
    /// The SQL view that shows the rows; the table behind it carries the version. As [`Projection::NAME`] by default.
    const TABLE: &'static str = Self::NAME;
    /// Which function of the log this is, from 1.
    const VERSION: u32 = 1;

    /// One row.
    type Row: Row;
    /// What is kept in step with the rows: ordered look-ups, sums. `()` for none.
    type Index: Index<Self::Row>;

    /// The aggregates it follows: `sources.from::<Account>()`.
    fn sources(sources: Sources<Self>) -> Sources<Self>;
}

/// How one aggregate's events change the rows.
pub trait ProjectFrom<A: Aggregate>: Projection {
    /// Changes rows as the event says. All changes of one event become visible together. It must not refuse.
    fn project(&self, event: &TypedEvent<'_, A::Event>, rows: &mut Rows<'_, Self::Row>);
}

/// One row of a read table.
pub trait Row: Clone + Send + Sync + 'static {
    /// Identifies the row; the table's only unique index.
    type Key: RowKey;

    /// The columns in the order of [`Row::write`], the key first.
    const COLUMNS: &'static [Column];

    /// The row's key.
    fn key(&self) -> Self::Key;

    /// One value a column, in order, the key first.
    fn write(&self) -> Vec<Value>;

    /// The reverse of [`Row::write`].
    ///
    /// # Errors
    /// [`RowError`] names the column that does not hold what it should.
    fn read(values: &mut Values) -> Result<Self, RowError>;
}

/// What can be the key of a row.
pub trait RowKey: Clone + Eq + Ord + Hash + fmt::Debug + Send + Sync + 'static {
    /// The value in the key column.
    fn to_value(&self) -> Value;
}

impl RowKey for Uuid {
    fn to_value(&self) -> Value {
        Value::Uuid(*self)
    }
}

impl RowKey for String {
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl RowKey for i64 {
    fn to_value(&self) -> Value {
        Value::BigInt(*self)
    }
}

/// The UUID that a key is. Written otherwise than in lower case with hyphens, the same UUID names another stream.
fn uuid_key(key: &str) -> Option<Uuid> {
    let id = Uuid::parse_str(key).ok()?;
    (id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == key).then_some(id)
}

/// Look-ups and sums over the rows of one table. The table calls `leave` with the old row and `enter` with the new one
/// whenever a row changes, so that both methods together are all it takes to stay exact.
pub trait Index<R>: Default + Send + Sync + 'static {
    /// The row is in the table now.
    fn enter(&mut self, row: &Arc<R>);
    /// The row is no longer in the table.
    fn leave(&mut self, row: &Arc<R>);
}

impl<R> Index<R> for () {
    fn enter(&mut self, _: &Arc<R>) {}
    fn leave(&mut self, _: &Arc<R>) {}
}

/// A column of a read table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name in SQL.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnKind,
    /// Whether it may be null.
    pub nullable: bool,
}

impl Column {
    /// A column that always holds a value.
    pub const fn required(name: &'static str, kind: ColumnKind) -> Self {
        Self { name, kind, nullable: false }
    }

    /// A column that may be null.
    pub const fn nullable(name: &'static str, kind: ColumnKind) -> Self {
        Self { name, kind, nullable: true }
    }
}

/// The types of columns, as Postgres and SQLite name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// `text` in both.
    Text,
    /// `bigint`, `INTEGER`.
    BigInt,
    /// `boolean`, `INTEGER` 0 or 1.
    Boolean,
    /// `double precision`, `REAL`.
    Double,
    /// `uuid`, `TEXT` in lower case with hyphens.
    Uuid,
    /// `timestamptz`, `TEXT` as RFC 3339 in UTC with six digits.
    Timestamp,
    /// `numeric`, `TEXT`.
    Numeric,
    /// `json`, `TEXT`.
    Json,
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL's null.
    Null,
    /// For [`ColumnKind::Text`]; holds no U+0000.
    Text(String),
    /// For [`ColumnKind::BigInt`].
    BigInt(i64),
    /// For [`ColumnKind::Boolean`].
    Boolean(bool),
    /// For [`ColumnKind::Double`]; finite.
    Double(f64),
    /// For [`ColumnKind::Uuid`].
    Uuid(Uuid),
    /// For [`ColumnKind::Timestamp`], UTC, microseconds.
    Timestamp(DateTime<Utc>),
    /// For [`ColumnKind::Numeric`]: a plain decimal such as `12.50`, which comes back with the digits it went with.
    Numeric(String),
    /// For [`ColumnKind::Json`]: JSON text, which comes back byte for byte.
    Json(String),
}

/// The values of one row, taken from the left.
#[derive(Debug)]
pub struct Values {
    columns: &'static [Column],
    values: std::vec::IntoIter<Value>,
    taken: usize,
}

/// A stored row that is not what its type says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column} holds {found}, not {wanted}")]
pub struct RowError {
    /// Which column.
    pub column: String,
    /// What it holds.
    pub found: String,
    /// What it should hold.
    pub wanted: String,
}

impl Values {
    /// The values of one row under these columns.
    pub fn new(columns: &'static [Column], values: Vec<Value>) -> Self {
        Self { columns, values: values.into_iter(), taken: 0 }
    }

    /// The next value as `T`; `Option<T>` for a column that may be null.
    ///
    /// # Errors
    /// [`RowError`] when the column holds something else.
    pub fn take<T: FromValue>(&mut self) -> Result<T, RowError> {
        let column = self.columns.get(self.taken).map_or("(none left)", |column| column.name);
        self.taken += 1;
        let value = self.values.next().unwrap_or(Value::Null);
        T::from_value(value).map_err(|value| RowError {
            column: column.to_owned(),
            found: format!("{value:?}").chars().take(120).collect(),
            wanted: T::WANTED.to_owned(),
        })
    }
}

/// What can be taken from a column.
pub trait FromValue: Sized {
    /// How errors call it.
    const WANTED: &'static str;
    /// The value, or what was there instead.
    ///
    /// # Errors
    /// Gives back a value of another kind.
    fn from_value(value: Value) -> Result<Self, Value>;
}

macro_rules! from_value {
    ($($type:ty, $wanted:literal, $pattern:pat => $result:expr;)*) => {
        $(impl FromValue for $type {
            const WANTED: &'static str = $wanted;
            fn from_value(value: Value) -> Result<Self, Value> {
                match value { $pattern => Ok($result), other => Err(other) }
            }
        })*
    };
}

from_value! {
    String, "a text, number or JSON text", Value::Text(text) | Value::Numeric(text) | Value::Json(text) => text;
    i64, "an integer", Value::BigInt(number) => number;
    bool, "a truth value", Value::Boolean(truth) => truth;
    f64, "a double", Value::Double(number) => number;
    Uuid, "a UUID", Value::Uuid(id) => id;
    DateTime<Utc>, "a time", Value::Timestamp(time) => time;
}

impl<T: FromValue> FromValue for Option<T> {
    const WANTED: &'static str = T::WANTED;

    fn from_value(value: Value) -> Result<Self, Value> {
        if value == Value::Null { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

/// The SQL table of one projection version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// The projection's name, as in the checkpoint row.
    pub projection: String,
    /// The view; the table is called `<view>_v<version>`.
    pub view: String,
    /// The projection's version.
    pub version: u32,
    /// The columns, the key first.
    pub columns: &'static [Column],
}

impl TableSpec {
    /// The table of this projection.
    pub fn of<P: Projection>() -> Self {
        Self { projection: P::NAME.into(), view: P::TABLE.into(), version: P::VERSION, columns: P::Row::COLUMNS }
    }

    /// The table behind the view.
    pub fn table_name(&self) -> String {
        format!("{}_v{}", self.view, self.version)
    }
}

type Handler<P> = fn(&P, &RecordedEvent, &mut Rows<'_, <P as Projection>::Row>) -> Result<(), DecodeError>;

/// The aggregates that a projection follows.
pub struct Sources<P: Projection> {
    handlers: HashMap<&'static str, Handler<P>>,
}

impl<P: Projection> Sources<P> {
    /// What `P` follows.
    pub fn of() -> Self {
        P::sources(Self { handlers: HashMap::new() })
    }

    /// Follows `A` too.
    #[must_use]
    pub fn from<A: Aggregate>(mut self) -> Self
    where
        P: ProjectFrom<A>,
    {
        self.handlers.insert(A::CATEGORY, |projection, event, rows| {
            with_decoded::<A, _>(event, |data| projection.project(&TypedEvent { data, recorded: event }, rows))
        });
        self
    }

    /// The categories, sorted.
    pub fn categories(&self) -> Vec<&'static str> {
        let mut categories: Vec<_> = self.handlers.keys().copied().collect();
        categories.sort_unstable();
        categories
    }

    /// Projects one event; events of other aggregates change nothing.
    ///
    /// # Errors
    /// [`DecodeError`] when this program cannot understand the event.
    pub(crate) fn project(
        &self,
        projection: &P,
        event: &RecordedEvent,
        rows: &mut Rows<'_, P::Row>,
    ) -> Result<(), DecodeError> {
        match self.handlers.get(event.stream.category()) {
            Some(handler) => handler(projection, event, rows),
            None => Ok(()),
        }
    }
}

/// The rows as one event sees and changes them. Nothing is visible to readers before the event is done with.
pub struct Rows<'a, R: Row> {
    committed: &'a dyn Fn(&R::Key) -> Option<Arc<R>>,
    changes: Vec<(R::Key, Option<Arc<R>>)>,
}

impl<'a, R: Row> Rows<'a, R> {
    /// Rows over those that `committed` finds.
    pub(crate) fn over(committed: &'a dyn Fn(&R::Key) -> Option<Arc<R>>) -> Self {
        Self { committed, changes: Vec::new() }
    }

    /// The row with this key, with the changes made so far.
    pub fn get(&self, key: &R::Key) -> Option<Arc<R>> {
        match self.changes.iter().find(|(changed, _)| changed == key) {
            Some((_, row)) => row.clone(),
            None => (self.committed)(key),
        }
    }

    /// Inserts the row, or replaces the one with its key.
    pub fn put(&mut self, row: R) {
        self.set(row.key(), Some(Arc::new(row)));
    }

    /// Changes the row with this key in place; returns whether there is one. The key must stay as it is.
    pub fn update(&mut self, key: &R::Key, change: impl FnOnce(&mut R)) -> bool {
        let Some(mut row) = self.get(key) else { return false };
        change(Arc::make_mut(&mut row));
        debug_assert!(row.key() == *key, "an update must not change the row's key");
        self.set(key.clone(), Some(row));
        true
    }

    /// Removes the row with this key, if there is one.
    pub fn remove(&mut self, key: &R::Key) {
        self.set(key.clone(), None);
    }

    /// The changes, at most one a key, in the order first made.
    pub(crate) fn into_changes(self) -> Vec<(R::Key, Option<Arc<R>>)> {
        self.changes
    }

    fn set(&mut self, key: R::Key, row: Option<Arc<R>>) {
        match self.changes.iter_mut().find(|(changed, _)| *changed == key) {
            Some((_, change)) => *change = row,
            None => self.changes.push((key, row)),
        }
    }
}

/// A row of any serde type under a text key: the columns are `key` and `data`.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonRow<T> {
    /// The row's key.
    pub key: String,
    /// The rest, kept as JSON.
    pub data: T,
}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Row for JsonRow<T> {
    type Key = String;

    const COLUMNS: &'static [Column] =
        &[Column::required("key", ColumnKind::Text), Column::required("data", ColumnKind::Json)];

    fn key(&self) -> String {
        self.key.clone()
    }

    fn write(&self) -> Vec<Value> {
        let json = serde_json::to_string(&self.data).expect("a JsonRow's data can be written as JSON");
        vec![Value::Text(self.key.clone()), Value::Json(json)]
    }

    fn read(values: &mut Values) -> Result<Self, RowError> {
        let key = values.take()?;
        let json: String = values.take()?;
        let data = serde_json::from_str(&json).map_err(|error| RowError {
            column: "data".into(),
            found: error.to_string(),
            wanted: std::any::type_name::<T>().into(),
        })?;
        Ok(Self { key, data })
    }
}
