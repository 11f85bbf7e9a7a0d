//! This file says which Postgres database a store is opened on, and how.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::store::StoreError;

/// How many connections read at the same time unless told otherwise.
const QUERY_CONNECTIONS: u32 = 8;
/// How many connections save checkpoints and snapshots at the same time unless told otherwise.
const CHECKPOINT_CONNECTIONS: u32 = 2;

/// How a [`super::PostgresStore`] is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) connect: PgConnectOptions,
    pub(super) allow_weak_durability: bool,
    pub(super) read_only: bool,
    pub(super) query_connections: u32,
    pub(super) checkpoint_connections: u32,
}

impl PostgresOptions {
    /// A durable, writable store at an address such as `postgres://user:password@localhost/essaim?sslmode=require`.
    /// Everything lives in the current schema; `options[search_path]=name` in the address, or the role's settings,
    /// choose another than `public`.
    ///
    /// # Errors
    /// [`StoreError::NotADatabase`] when it is no such address; the message does not repeat it.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        // Neither message repeats the address: it may hold the password.
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(refused("a Postgres address starts with postgres://, e.g. postgres://user@localhost/essaim"));
        }
        let understood = PgConnectOptions::from_str(url).map_err(|_| {
            refused(
                "the Postgres address cannot be understood: it has the form \
                 postgres://user:password@host:port/database, special characters percent-encoded",
            )
        });
        understood.map(Self::connecting)
    }

    /// A durable, writable store at the address that these options lead to.
    pub(super) fn connecting(connect: PgConnectOptions) -> Self {
        Self {
            connect,
            allow_weak_durability: false,
            read_only: false,
            query_connections: QUERY_CONNECTIONS,
            checkpoint_connections: CHECKPOINT_CONNECTIONS,
        }
    }

    /// Accepts commits that a crash of the server could lose.
    #[must_use]
    pub fn allow_weak_durability(mut self, allow: bool) -> Self {
        self.allow_weak_durability = allow;
        self
    }

    /// Only reads, beside a running writer: nothing is created or migrated, and everything that writes is refused.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Reads on so many connections at a time (≥ 1), 8 unless said. The writer has one more, and each load of a whole
    /// table one for as long as it takes.
    #[must_use]
    pub fn query_connections(mut self, connections: u32) -> Self {
        self.query_connections = connections.max(1);
        self
    }

    /// Saves checkpoints and snapshots on so many connections at a time (≥ 1), 2 unless said.
    #[must_use]
    pub fn checkpoint_connections(mut self, connections: u32) -> Self {
        self.checkpoint_connections = connections.max(1);
        self
    }
}

fn refused(what: &str) -> StoreError {
    StoreError::NotADatabase { what: what.to_owned(), source: None }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("allow_weak_durability", &self.allow_weak_durability)
            .field("read_only", &self.read_only)
            .field("query_connections", &self.query_connections)
            .field("checkpoint_connections", &self.checkpoint_connections)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_postgres_address_is_refused_without_repeating_it() {
        for url in ["mysql://root:secret@localhost/x", "secret", "", "postgres://u:secret@localhost:port/x"] {
            let error = PostgresOptions::parse(url).unwrap_err();

            assert!(matches!(error, StoreError::NotADatabase { .. }), "{error:?}");
            assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn debug_output_keeps_the_password_to_itself() {
        let options = PostgresOptions::parse("postgres://ada:secret@localhost/essaim").unwrap();

        assert!(!format!("{options:?}").contains("secret"));
    }
}
