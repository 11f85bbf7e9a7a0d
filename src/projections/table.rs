//! This file keeps the hot rows of one read model: concurrent reads by key, consistent reads of rows, index and sums
//! together, and the set of rows that changed since the last checkpoint.
//!
//! Readers by key touch one shard of a concurrent map. Everything that looks at more than one row holds the read half
//! of `ordered`; an event's changes enter under its write half, so nobody sees half of them. No guard leaves this file.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::{Index, Projection, Row, RowKey, Rows, Sources, Value};
use crate::aggregate::DecodeError;
use crate::event::{ChainHash, RecordedEvent};
use crate::stream::GlobalPosition;

type KeyOf<P> = <<P as Projection>::Row as Row>::Key;

/// Keys of rows. They come from outside, so that the hash is seeded; it is quicker than the standard library's.
pub type Keys<P> = HashSet<KeyOf<P>, RandomState>;

/// The hot rows of one projection.
pub struct Table<P: Projection> {
    rows: DashMap<KeyOf<P>, Arc<P::Row>, RandomState>,
    ordered: RwLock<Ordered<P>>,
    position: AtomicU64,
}

struct Ordered<P: Projection> {
    index: P::Index,
    position: GlobalPosition,
    chain_hash: ChainHash,
}

/// Rows, index and position at one instant; lives inside [`Table::read`].
pub struct Snapshot<'a, P: Projection> {
    table: &'a Table<P>,
    ordered: RwLockReadGuard<'a, Ordered<P>>,
}

impl<P: Projection> Snapshot<'_, P> {
    /// The look-ups and sums.
    pub fn index(&self) -> &P::Index {
        &self.ordered.index
    }

    /// Everything up to here is in rows and index, and nothing behind it.
    pub fn position(&self) -> GlobalPosition {
        self.ordered.position
    }

    /// Hash of the event at that position.
    pub fn chain_hash(&self) -> ChainHash {
        self.ordered.chain_hash
    }

    /// The row with this key.
    pub fn get(&self, key: &KeyOf<P>) -> Option<Arc<P::Row>> {
        self.table.get(key)
    }

    /// All rows, in no particular order.
    pub fn rows(&self) -> Vec<Arc<P::Row>> {
        self.table.rows.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// Equal exactly when the rows are equal; independent of their order.
    pub fn digest(&self) -> Digest {
        let mut rows = self.rows();
        rows.sort_by_key(|row| row.key());
        let mut hasher = RowHasher::default();
        rows.iter().for_each(|row| hasher.add(&row.write()));
        hasher.finish()
    }
}

impl<P: Projection> Default for Table<P> {
    fn default() -> Self {
        Self {
            rows: DashMap::default(),
            ordered: RwLock::new(Ordered {
                index: P::Index::default(),
                position: GlobalPosition::START,
                chain_hash: ChainHash::START,
            }),
            position: AtomicU64::new(0),
        }
    }
}

impl<P: Projection> Table<P> {
    /// A table with these rows at this position.
    pub fn with_rows(rows: Vec<P::Row>, position: GlobalPosition, chain_hash: ChainHash) -> Self {
        let table = Self::default();
        {
            let mut ordered = table.ordered.write().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                let row = Arc::new(row);
                ordered.index.enter(&row);
                table.rows.insert(row.key(), row);
            }
            ordered.position = position;
            ordered.chain_hash = chain_hash;
        }
        table.position.store(position.0, Ordering::Release);
        table
    }

    /// Everything up to here is visible. Read it before the rows of an answer.
    pub fn position(&self) -> GlobalPosition {
        GlobalPosition(self.position.load(Ordering::Acquire))
    }

    /// The row with this key.
    pub fn get(&self, key: &KeyOf<P>) -> Option<Arc<P::Row>> {
        self.rows.get(key).map(|row| Arc::clone(row.value()))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Looks at rows, index and sums as of one instant. `look` must be short: the projection waits for it.
    pub fn read<T>(&self, look: impl FnOnce(&Snapshot<'_, P>) -> T) -> T {
        let ordered = self.ordered.read().unwrap_or_else(PoisonError::into_inner);
        look(&Snapshot { table: self, ordered })
    }

    /// Projects one event: all its changes become visible together, and their keys are added to `dirty`.
    ///
    /// # Errors
    /// [`DecodeError`] when this program cannot understand the event; nothing has changed then.
    pub fn apply(
        &self,
        projection: &P,
        sources: &Sources<P>,
        event: &RecordedEvent,
        dirty: &mut Keys<P>,
    ) -> Result<(), DecodeError> {
        let committed = |key: &KeyOf<P>| self.get(key);
        let mut rows = Rows::over(&committed);
        sources.project(projection, event, &mut rows)?;
        let changes = rows.into_changes();
        let mut ordered = self.ordered.write().unwrap_or_else(PoisonError::into_inner);
        for (key, row) in changes {
            let old = match &row {
                Some(row) => self.rows.insert(key.clone(), Arc::clone(row)),
                None => self.rows.remove(&key).map(|(_, old)| old),
            };
            if let Some(old) = old {
                ordered.index.leave(&old);
            }
            if let Some(row) = &row {
                ordered.index.enter(row);
            }
            dirty.insert(key);
        }
        ordered.position = event.position;
        ordered.chain_hash = event.hash;
        self.position.store(event.position.0, Ordering::Release);
        Ok(())
    }

    /// The present rows of these keys as SQL values, and the keys that have no row any more.
    pub fn freeze(&self, keys: &Keys<P>) -> (Vec<Arc<P::Row>>, Vec<Value>) {
        let mut rows = Vec::with_capacity(keys.len());
        let mut gone = Vec::new();
        for key in keys {
            match self.get(key) {
                Some(row) => rows.push(row),
                None => gone.push(key.to_value()),
            }
        }
        (rows, gone)
    }
}

/// blake3 over all rows in the order of their keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[derive(Default)]
struct RowHasher(blake3::Hasher);

impl RowHasher {
    fn add(&mut self, values: &[Value]) {
        for value in values {
            let (kind, bytes) = canonical(value);
            self.0.update(&[kind]);
            self.0.update(&(bytes.len() as u64).to_be_bytes());
            self.0.update(&bytes);
        }
    }

    fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

fn canonical(value: &Value) -> (u8, Vec<u8>) {
    match value {
        Value::Null => (0, Vec::new()),
        Value::Text(text) => (1, text.clone().into_bytes()),
        Value::BigInt(number) => (2, number.to_be_bytes().to_vec()),
        Value::Boolean(truth) => (3, vec![u8::from(*truth)]),
        Value::Double(number) => (4, number.to_bits().to_be_bytes().to_vec()),
        Value::Uuid(id) => (5, id.as_bytes().to_vec()),
        Value::Timestamp(time) => (6, time.timestamp_micros().to_be_bytes().to_vec()),
        Value::Numeric(digits) => (7, digits.clone().into_bytes()),
        Value::Json(json) => (8, json.clone().into_bytes()),
    }
}
