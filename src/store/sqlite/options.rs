//! This file says which database file a store is opened on, and how.

use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// How many connections read at the same time unless told otherwise.
const READ_CONNECTIONS: u32 = 4;

/// How a [`super::SqliteStore`] is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The database file; its folder must exist. Its log is `<path>-wal`, its writer's lock `<path>-writer.lock`.
    pub path: PathBuf,
    /// When a commit counts; less than [`Synchronous::Full`] needs `allow_weak_durability`.
    pub synchronous: Synchronous,
    /// Whether commits that a crash of the machine could lose are accepted.
    pub allow_weak_durability: bool,
    /// Whether the file is only read: nothing is created or migrated, and everything that writes is refused.
    pub read_only: bool,
    /// How many connections read at the same time, at least 1; each is a thread.
    pub read_connections: u32,
}

/// SQLite's `synchronous`: when it waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// Never.
    Off,
    /// At checkpoints of its write-ahead log only: a crash of the machine loses the last commits.
    Normal,
    /// At every commit.
    #[default]
    Full,
}

impl SqliteOptions {
    /// A durable, writable store in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            synchronous: Synchronous::Full,
            allow_weak_durability: false,
            read_only: false,
            read_connections: READ_CONNECTIONS,
        }
    }

    /// From a plain path, or an address such as `sqlite://essaim.db` (in the working directory),
    /// `sqlite:///var/lib/essaim.db` or `sqlite://essaim.db?synchronous=normal`. An address is taken as it is, without
    /// percent-decoding.
    ///
    /// # Errors
    /// [`StoreError::NotADatabase`] for databases in memory, empty paths and unknown parameters.
    pub fn parse(path_or_url: impl AsRef<Path>) -> Result<Self, StoreError> {
        let given = path_or_url.as_ref();
        let address = given.to_str().and_then(|text| text.strip_prefix("sqlite:"));
        let options = match address {
            Some(address) => Self::parse_address(address)?,
            None => Self::new(given),
        };
        if options.path.as_os_str().is_empty() {
            return Err(refused("a SQLite database needs a file: give its path, e.g. sqlite://essaim.db".into()));
        }
        if options.path.to_str().is_some_and(|path| path.contains(":memory:")) {
            let what = "a SQLite database in memory would not survive the process: give the path of a file, \
                        or take the memory store";
            return Err(refused(what.into()));
        }
        Ok(options)
    }

    fn parse_address(address: &str) -> Result<Self, StoreError> {
        let address = address.strip_prefix("//").unwrap_or(address);
        let (path, parameters) = address.split_once('?').unwrap_or((address, ""));
        let mut options = Self::new(path);
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            options.synchronous = match parameter {
                "synchronous=off" => Synchronous::Off,
                "synchronous=normal" => Synchronous::Normal,
                "synchronous=full" => Synchronous::Full,
                other => return Err(refused(format!("{other:?} is no parameter of a SQLite database address"))),
            };
        }
        Ok(options)
    }

    /// Accepts commits that a crash of the machine could lose.
    #[must_use]
    pub fn allow_weak_durability(mut self, allow: bool) -> Self {
        self.allow_weak_durability = allow;
        self
    }

    /// Only reads; may stand beside a writer.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Reads on so many connections at a time (≥ 1).
    #[must_use]
    pub fn read_connections(mut self, connections: u32) -> Self {
        self.read_connections = connections.max(1);
        self
    }

    /// Waits for the disk at these moments.
    #[must_use]
    pub fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }
}

fn refused(what: String) -> StoreError {
    StoreError::NotADatabase { what, source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_addresses_lead_to_the_same_file() {
        for given in ["a/b.db", "sqlite:a/b.db", "sqlite://a/b.db"] {
            assert_eq!(SqliteOptions::parse(given).unwrap(), SqliteOptions::new("a/b.db"), "{given}");
        }
        assert_eq!(SqliteOptions::parse("sqlite:///a/b.db").unwrap().path, Path::new("/a/b.db"));
    }

    #[test]
    fn what_names_no_file_is_refused() {
        for given in ["", "sqlite:", "sqlite::memory:", ":memory:", "sqlite://a.db?mode=memory", "sqlite://a.db?x"] {
            assert!(matches!(SqliteOptions::parse(given), Err(StoreError::NotADatabase { .. })), "{given}");
        }
    }
}
