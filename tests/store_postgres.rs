//! The Postgres store keeps the contract of a store.

#[path = "support/postgres.rs"]
mod postgres;

use std::sync::Arc;

use essaim::store::SharedStore;
use essaim::store::postgres::PostgresStore;
use essaim::testing::StoreUnderTest;
use postgres::Database;

struct Postgres(Database);

#[async_trait::async_trait(?Send)]
impl StoreUnderTest for Postgres {
    async fn open(&self) -> SharedStore {
        Arc::new(PostgresStore::open(&self.0.url).await.expect("the database can be opened"))
    }
}

essaim::store_conformance_tests!(Postgres(Database::fresh().await));
