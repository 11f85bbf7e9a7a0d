//! This file opens a store by its URL: the one place that knows which kinds of database are compiled in.

use std::path::PathBuf;

use super::{SharedStore, StoreError};

/// How to open a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Take a database whose commits would not survive a crash of the machine.
    pub allow_weak_durability: bool,
    /// Only read: nothing is created or migrated, and a running writer is not disturbed.
    pub read_only: bool,
}

/// Whether `url` is the address of a store, by its form alone.
///
/// # Errors
/// [`StoreError::NotADatabase`] when the scheme is unknown or not compiled in, or the rest cannot be understood.
pub fn check(url: &str) -> Result<(), StoreError> {
    match scheme(url)? {
        Scheme::Sqlite => check_sqlite(url),
        Scheme::Postgres => check_postgres(url),
    }
}

/// Opens the store at `url`: `sqlite://FILE` or `postgres://USER:PASSWORD@HOST/DATABASE`.
///
/// # Errors
/// [`StoreError::NotADatabase`] when the scheme is unknown or not compiled in, else whatever the store says.
pub async fn open(url: &str, options: OpenOptions) -> Result<SharedStore, StoreError> {
    match scheme(url)? {
        Scheme::Sqlite => open_sqlite(url, options).await,
        Scheme::Postgres => open_postgres(url, options).await,
    }
}

enum Scheme {
    Sqlite,
    Postgres,
}

fn scheme(url: &str) -> Result<Scheme, StoreError> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "sqlite" => Ok(Scheme::Sqlite),
        "postgres" | "postgresql" => Ok(Scheme::Postgres),
        "" => Err(refused("the address of a database must begin with sqlite:// or postgres://".to_owned())),
        _ => Err(refused(format!(
            "{scheme:?} is no kind of database; the address must begin with sqlite:// or postgres://"
        ))),
    }
}

/// The file of a `sqlite:` address; none for other addresses.
pub fn sqlite_file(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("sqlite:")?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    Some(path.split_once('?').map_or(path, |(path, _)| path))
}

/// The side file by which the writer of a `sqlite:` address shows that it lives; none for other addresses.
pub fn sqlite_lock_file(url: &str) -> Option<PathBuf> {
    Some(format!("{}-writer.lock", sqlite_file(url)?).into())
}

#[cfg(feature = "sqlite")]
async fn open_sqlite(url: &str, options: OpenOptions) -> Result<SharedStore, StoreError> {
    use super::sqlite::{SqliteOptions, SqliteStore};

    let file = SqliteOptions::parse(url)?.allow_weak_durability(options.allow_weak_durability);
    let file = if options.read_only { file.read_only() } else { file };
    Ok(std::sync::Arc::new(SqliteStore::open_with(file).await?))
}

#[cfg(feature = "sqlite")]
fn check_sqlite(url: &str) -> Result<(), StoreError> {
    super::sqlite::SqliteOptions::parse(url).map(drop)
}

#[cfg(not(feature = "sqlite"))]
fn check_sqlite(_: &str) -> Result<(), StoreError> {
    Err(refused("this program was built without SQLite".into()))
}

#[cfg(not(feature = "sqlite"))]
async fn open_sqlite(_: &str, _: OpenOptions) -> Result<SharedStore, StoreError> {
    Err(refused("this program was built without SQLite".into()))
}

#[cfg(feature = "postgres")]
async fn open_postgres(url: &str, options: OpenOptions) -> Result<SharedStore, StoreError> {
    use super::postgres::{PostgresOptions, PostgresStore};

    let database = PostgresOptions::parse(url)?.allow_weak_durability(options.allow_weak_durability);
    let database = if options.read_only { database.read_only() } else { database };
    Ok(std::sync::Arc::new(PostgresStore::open_with(database).await?))
}

#[cfg(feature = "postgres")]
fn check_postgres(url: &str) -> Result<(), StoreError> {
    super::postgres::PostgresOptions::parse(url).map(drop)
}

#[cfg(not(feature = "postgres"))]
fn check_postgres(_: &str) -> Result<(), StoreError> {
    Err(refused("this program was built without Postgres".into()))
}

#[cfg(not(feature = "postgres"))]
async fn open_postgres(_: &str, _: OpenOptions) -> Result<SharedStore, StoreError> {
    Err(refused("this program was built without Postgres".into()))
}

fn refused(what: String) -> StoreError {
    StoreError::NotADatabase { what, source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_of_an_unknown_kind_is_refused_with_the_kinds_that_are_known() {
        for url in ["mysql://host/db", "essaim.db", ""] {
            let error = open(url, OpenOptions::default()).await.err().unwrap().to_string();
            assert!(error.contains("sqlite:// or postgres://"), "{url}: {error}");
        }
    }

    #[test]
    fn the_file_of_a_sqlite_address_is_found_with_and_without_slashes_and_options() {
        assert_eq!(sqlite_file("sqlite://essaim.db"), Some("essaim.db"));
        assert_eq!(sqlite_file("sqlite:///var/lib/a.db?mode=ro"), Some("/var/lib/a.db"));
        assert_eq!(sqlite_file("sqlite:a.db"), Some("a.db"));
        assert_eq!(sqlite_file("postgres://host/a"), None);
    }
}
