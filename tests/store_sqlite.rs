//! The SQLite store keeps the contract of a store.

use std::sync::Arc;

use essaim::store::SharedStore;
use essaim::store::sqlite::SqliteStore;
use essaim::testing::StoreUnderTest;
use tempfile::TempDir;

struct Sqlite {
    folder: TempDir,
}

impl Sqlite {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }
}

#[async_trait::async_trait(?Send)]
impl StoreUnderTest for Sqlite {
    async fn open(&self) -> SharedStore {
        Arc::new(SqliteStore::open(self.folder.path().join("log.db")).await.expect("the file can be opened"))
    }
}

essaim::store_conformance_tests!(Sqlite::new());
