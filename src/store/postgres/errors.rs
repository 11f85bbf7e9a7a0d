//! This file turns what Postgres says into the reactions of [`StoreError`]: the one place that knows its codes and the
//! names of our constraints.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::connection::Place;
use crate::store::{Cause, StoreError};

// SQLSTATE: Postgres, Appendix A. The first two characters are the class.
const DATABASE_MISSING: &str = "3D000";
const STATEMENT_COMPLETION_UNKNOWN: &str = "40003";
const ADMIN_SHUTDOWN: &str = "57P01";
const CRASH_SHUTDOWN: &str = "57P02";
const UNIQUE_VIOLATION: &str = "23505";
const DEPENDENT_OBJECTS_EXIST: &str = "2BP01";

/// The primary key of claims; who violates it wanted what another holds.
const CLAIMS_KEY: &str = "essaim_claims_pkey";

/// The reaction to an error that came before anything was asked to commit; `what` says what was tried.
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
    let code = code_of(&*error);
    match (&code[..2], &*code) {
        (_, UNIQUE_VIOLATION) => StoreError::Conflict { what: already_there(error.constraint()) },
        // Text behind a colon quotes the value, which may be personal.
        ("21" | "22" | "23" | "54", _) => {
            StoreError::Data { what: error.message().split(": ").next().unwrap_or_default().to_owned() }
        }
        ("28" | "3D", _) => StoreError::NotADatabase { what: error.message().to_owned(), source: None },
        ("3F" | "42", _) | (_, DEPENDENT_OBJECTS_EXIST) => {
            StoreError::Schema { what: format!("{what}: {}", error.message()) }
        }
        (_, "XX001" | "XX002") => StoreError::Corrupt { what: error.message().to_owned() },
        // Deadlocks, full disks, time-outs, a server in recovery: nothing of it was executed.
        _ => StoreError::unavailable(what, sqlx::Error::Database(error)),
    }
}

/// What a violated unique constraint means.
fn already_there(constraint: Option<&str>) -> String {
    match constraint {
        Some("essaim_events_pkey") => "the position has an event already".into(),
        Some("essaim_events_stream_version") => "the version exists already in its stream".into(),
        Some("essaim_outcomes_pkey") => "the command has an outcome already".into(),
        Some(CLAIMS_KEY) => "the claim is held already".into(),
        other => format!("{} is violated", other.unwrap_or("a unique constraint")),
    }
}

/// Whether the claims of a batch could not be taken because some are held.
pub(super) fn is_claim_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.constraint() == Some(CLAIMS_KEY))
}

/// The reaction to an error of COMMIT, or of a statement that commits by itself. Only a plain error of the server, sent
/// before it committed, says that nothing was executed.
pub(super) fn at_commit(what: &'static str, error: sqlx::Error) -> StoreError {
    let definite = match &error {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(error) => says_not_committed(&**error),
        _ => false,
    };
    if definite { not_executed(what, error) } else { unknown(error) }
}

fn says_not_committed(error: &dyn DatabaseError) -> bool {
    let fatal = error
        .try_downcast_ref::<PgDatabaseError>()
        .is_none_or(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic));
    let code = code_of(error);
    // Class 57 is the operator's intervention, a cancelled statement too: it can hit the moment behind the commit.
    !fatal && !matches!(&code[..2], "08" | "57") && *code != *STATEMENT_COMPLETION_UNKNOWN
}

/// Whether nothing is wrong but the connection, which may have died while it stood in its pool.
pub(super) fn is_connection_lost(error: &StoreError) -> bool {
    let StoreError::Unavailable { source: Some(source), .. } = error else { return false };
    match source.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Io(_)) => true,
        Some(sqlx::Error::Database(error)) => matches!(&*code_of(&**error), ADMIN_SHUTDOWN | CRASH_SHUTDOWN),
        _ => false,
    }
}

/// Sent, and not answered.
pub(super) fn unknown(error: impl Error + Send + Sync + 'static) -> StoreError {
    let source: Cause = Arc::new(error);
    StoreError::Unknown { source: Some(source) }
}

/// What may be done twice without harm need not be known to have been done.
pub(super) fn repeatable(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown { source } => StoreError::Unavailable { what: "waiting for a commit", source },
        other => other,
    }
}

/// Names the address in the chain of causes.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {source}")]
struct Unreachable {
    place: String,
    #[source]
    source: sqlx::Error,
}

/// The reaction to a connection that did not come about. Nothing of it holds the password.
pub(super) fn connecting(place: &Place, error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().map(code_of).unwrap_or_default();
    let refused = |what: String, error| StoreError::NotADatabase { what, source: Some(Arc::new(error)) };
    match &error {
        _ if code == DATABASE_MISSING => {
            let name = place.database();
            refused(format!("database \"{name}\" does not exist at {place}: create it with createdb {name}"), error)
        }
        _ if code.starts_with("28") => {
            let what = format!(
                "{place} does not let user \"{}\" in: check the user name, the password and pg_hba.conf",
                place.user()
            );
            refused(what, error)
        }
        sqlx::Error::Configuration(_) => refused(format!("{place} cannot be used: check the address"), error),
        sqlx::Error::Tls(_) => {
            refused(format!("{place} offers no TLS that could be agreed on: check sslmode and certificates"), error)
        }
        _ if is_no_postgres(&error) => {
            refused(format!("what answers at {place} is no Postgres server: check host and port"), error)
        }
        _ => StoreError::unavailable(
            "connecting to Postgres (check that the server runs there)",
            Unreachable { place: place.to_string(), source: error },
        ),
    }
}

fn is_no_postgres(error: &sqlx::Error) -> bool {
    match error {
        // The driver reads the end of the stream as a zero: a server that is going down hangs up like that.
        sqlx::Error::Protocol(what) => !what.contains("SSLRequest: 0x00"),
        sqlx::Error::Io(error) => matches!(error.kind(), ErrorKind::InvalidData),
        _ => false,
    }
}

/// Five characters; those of an internal error when the driver has none.
fn code_of(error: &dyn DatabaseError) -> String {
    error.code().filter(|code| code.len() == 5 && code.is_ascii()).map_or_else(|| "XX000".to_owned(), Into::into)
}
