//! This file turns what SQLite says into the reactions of [`StoreError`]: the one place that knows its result codes.

use std::path::Path;
use std::sync::Arc;

use sqlx::error::DatabaseError;

use crate::store::{Cause, StoreError};

// Primary result codes: https://www.sqlite.org/rescode.html
const ERROR: i32 = 1;
const PERM: i32 = 3;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const CORRUPT: i32 = 11;
const CANTOPEN: i32 = 14;
const TOOBIG: i32 = 18;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const RANGE: i32 = 25;
const NOTADB: i32 = 26;
// Extended result codes: primary | (n << 8).
const CONSTRAINT_NOTNULL: i32 = CONSTRAINT | (5 << 8);
const CONSTRAINT_PRIMARYKEY: i32 = CONSTRAINT | (6 << 8);
const CONSTRAINT_UNIQUE: i32 = CONSTRAINT | (8 << 8);
const CONSTRAINT_ROWID: i32 = CONSTRAINT | (10 << 8);

/// The reaction to an error that came before any COMMIT was sent; `what` says what was tried.
pub(super) fn not_executed(what: &'static str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(error) => from_database(what, error),
        sqlx::Error::Encode(source) => StoreError::Data { what: source.to_string() },
        sqlx::Error::ColumnDecode { index, source } => {
            StoreError::Corrupt { what: format!("{what}: column {index}: {source}") }
        }
        sqlx::Error::Decode(source) => StoreError::Corrupt { what: format!("{what}: {source}") },
        other => StoreError::unavailable(what, other),
    }
}

fn from_database(what: &'static str, error: Box<dyn DatabaseError>) -> StoreError {
    let extended = extended_code(&*error);
    let message = error.message().to_owned();
    match (extended & 0xff, extended) {
        (_, CONSTRAINT_UNIQUE | CONSTRAINT_PRIMARYKEY | CONSTRAINT_ROWID) => StoreError::Conflict { what: message },
        (CONSTRAINT | TOOBIG | MISMATCH | RANGE, _) => StoreError::Data { what: message },
        (CORRUPT, _) => StoreError::Corrupt { what: message },
        (NOTADB, _) => StoreError::NotADatabase { what: message, source: None },
        // SQL that does not fit the tables: one is missing, or has other columns.
        (ERROR, _) => StoreError::Schema { what: format!("{what}: {message}") },
        // Busy, locked, out of memory or disk, I/O: nothing of it was executed.
        _ => StoreError::unavailable(what, sqlx::Error::Database(error)),
    }
}

/// The reaction to any error of COMMIT: even a plain I/O error can leave a commit that comes back with the next open.
pub(super) fn unknown(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    let source: Cause = Arc::new(error);
    StoreError::Unknown { source: Some(source) }
}

/// The reaction to an error of opening this file: what cannot be opened at the start is refused by name.
pub(super) fn at_start(error: StoreError, database: &Path) -> StoreError {
    let (problem, source) = match error {
        StoreError::NotADatabase { what, source } if what.contains(&*database.to_string_lossy()) => {
            return StoreError::NotADatabase { what, source };
        }
        StoreError::NotADatabase { source, .. } => ("is no SQLite database", source),
        StoreError::Unavailable { source: Some(source), .. } if is_closed_to_us(&source) => {
            ("cannot be opened: check who may read and write it and its folder", Some(source))
        }
        other => return other,
    };
    StoreError::NotADatabase { what: format!("the file {} {problem}", database.display()), source }
}

fn is_closed_to_us(source: &Cause) -> bool {
    let error = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    error.is_some_and(|error| matches!(extended_code(error) & 0xff, PERM | READONLY | CANTOPEN))
}

/// Whether another connection is in the way for the moment.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| matches!(extended_code(error) & 0xff, BUSY | LOCKED))
}

/// Whether a column refused to be null.
pub(super) fn is_null_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| extended_code(error) == CONSTRAINT_NOTNULL)
}

fn extended_code(error: &dyn DatabaseError) -> i32 {
    error.code().and_then(|code| code.parse().ok()).unwrap_or(ERROR)
}
