//! This file says how numbers stand in Postgres columns, and reads columns of results.

use std::fmt::Display;

use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Column, Decode, Row, Type};

use crate::event::ChainHash;
use crate::store::StoreError;

/// An unsigned number as Postgres's widest integer.
pub(super) fn integer(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Data { what: format!("{number} is beyond 63 bits") })
}

/// A number to compare with or to count to; what is beyond Postgres's integers is beyond everything stored in them.
pub(super) fn bound(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// One row of a result, read by column number.
pub(super) struct Columns<'r>(pub(super) &'r PgRow);

impl<'r> Columns<'r> {
    /// A value of the column's own type.
    pub(super) fn get<T: Decode<'r, Postgres> + Type<Postgres>>(&self, index: usize) -> Result<T, StoreError> {
        self.0.try_get(index).map_err(|error| self.damaged(index, error))
    }

    /// The text of a json column, byte for byte; a json value travels as its text.
    pub(super) fn json(&self, index: usize) -> Result<&'r str, StoreError> {
        self.0.try_get_unchecked(index).map_err(|error| self.damaged(index, error))
    }

    /// A bigint that is never negative.
    pub(super) fn unsigned(&self, index: usize) -> Result<u64, StoreError> {
        u64::try_from(self.get::<i64>(index)?).map_err(|error| self.damaged(index, error))
    }

    /// A number of a smaller type.
    pub(super) fn small<T: TryFrom<i64, Error: Display>>(&self, index: usize) -> Result<T, StoreError> {
        T::try_from(self.get::<i64>(index)?).map_err(|error| self.damaged(index, error))
    }

    /// The schema version of an event or a snapshot.
    pub(super) fn schema_version(&self, index: usize) -> Result<u16, StoreError> {
        u16::try_from(self.get::<i32>(index)?).map_err(|error| self.damaged(index, error))
    }

    /// 32 bytes.
    pub(super) fn hash(&self, index: usize) -> Result<[u8; 32], StoreError> {
        self.get::<&[u8]>(index)?.try_into().map_err(|error| self.damaged(index, error))
    }

    /// A hash of the chain.
    pub(super) fn chain_hash(&self, index: usize) -> Result<ChainHash, StoreError> {
        self.hash(index).map(ChainHash)
    }

    /// What to say of a column that cannot be understood.
    pub(super) fn damaged(&self, index: usize, why: impl Display) -> StoreError {
        let name = self.0.columns().get(index).map_or("(missing)", |column| column.name());
        StoreError::Corrupt { what: format!("column {name}: {why}") }
    }
}
