//! This file says how numbers, times, ids and texts stand in SQLite columns, and refuses what cannot stand there.

use std::fmt::Display;
use std::sync::Arc;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::event::ChainHash;
use crate::store::StoreError;

/// An unsigned number as SQLite's only integer.
pub(super) fn integer(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Data { what: format!("{number} is beyond 63 bits") })
}

/// A number to compare with or to count to; what is beyond SQLite's integers is beyond everything stored in them.
pub(super) fn bound(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with six digits, so that texts sort as times do.
pub(super) fn time(time: DateTime<Utc>) -> Result<String, StoreError> {
    if !(0..=9999).contains(&time.year()) {
        return Err(StoreError::Data { what: format!("{time} is not in the years 0 to 9999") });
    }
    Ok(time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// A text that Postgres could keep too; U+0000 ends a text in too many tools.
pub(super) fn text(text: &str) -> Result<Arc<str>, StoreError> {
    refuse_nul(text)?;
    Ok(text.into())
}

/// The same for a text that is shared already: it is not copied.
pub(super) fn shared(text: Arc<str>) -> Result<Arc<str>, StoreError> {
    refuse_nul(&text)?;
    Ok(text)
}

/// Refuses U+0000.
pub(super) fn refuse_nul(text: &str) -> Result<(), StoreError> {
    match text.as_bytes().contains(&0) {
        true => Err(StoreError::Data { what: "a text contains U+0000".into() }),
        false => Ok(()),
    }
}

/// One row of a result, read by column number.
pub(super) struct Columns<'r>(pub(super) &'r SqliteRow);

impl<'r> Columns<'r> {
    /// A text.
    pub(super) fn text(&self, index: usize) -> Result<&'r str, StoreError> {
        self.0.try_get_unchecked(index).map_err(|error| self.damaged(index, error))
    }

    /// An integer.
    pub(super) fn integer(&self, index: usize) -> Result<i64, StoreError> {
        self.0.try_get_unchecked(index).map_err(|error| self.damaged(index, error))
    }

    /// An integer that is never negative.
    pub(super) fn unsigned(&self, index: usize) -> Result<u64, StoreError> {
        u64::try_from(self.integer(index)?).map_err(|error| self.damaged(index, error))
    }

    /// An integer of a smaller type.
    pub(super) fn small<T: TryFrom<i64, Error: Display>>(&self, index: usize) -> Result<T, StoreError> {
        T::try_from(self.integer(index)?).map_err(|error| self.damaged(index, error))
    }

    /// A floating point number.
    pub(super) fn double(&self, index: usize) -> Result<f64, StoreError> {
        self.0.try_get_unchecked(index).map_err(|error| self.damaged(index, error))
    }

    /// Bytes.
    pub(super) fn bytes(&self, index: usize) -> Result<&'r [u8], StoreError> {
        self.0.try_get_unchecked(index).map_err(|error| self.damaged(index, error))
    }

    /// 32 bytes.
    pub(super) fn hash(&self, index: usize) -> Result<[u8; 32], StoreError> {
        self.bytes(index)?.try_into().map_err(|error| self.damaged(index, error))
    }

    /// A hash of the chain.
    pub(super) fn chain_hash(&self, index: usize) -> Result<ChainHash, StoreError> {
        self.hash(index).map(ChainHash)
    }

    /// A UUID.
    pub(super) fn uuid(&self, index: usize) -> Result<Uuid, StoreError> {
        Uuid::try_parse(self.text(index)?).map_err(|error| self.damaged(index, error))
    }

    /// A time.
    pub(super) fn time(&self, index: usize) -> Result<DateTime<Utc>, StoreError> {
        let time = DateTime::parse_from_rfc3339(self.text(index)?).map_err(|error| self.damaged(index, error))?;
        Ok(time.to_utc())
    }

    /// What to say of a column that cannot be understood.
    pub(super) fn damaged(&self, index: usize, why: impl Display) -> StoreError {
        let name = sqlx::Column::name(self.0.column(index));
        StoreError::Corrupt { what: format!("column {name}: {why}") }
    }
}
