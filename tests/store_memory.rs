//! The memory store keeps the contract of a store, and so does the store that fails on command when nothing is to fail.

use std::sync::Arc;

use essaim::store::SharedStore;
use essaim::store::memory::MemoryStore;
use essaim::testing::{FaultyStore, StoreUnderTest};

#[derive(Default)]
struct Memory(MemoryStore);

#[async_trait::async_trait(?Send)]
impl StoreUnderTest for Memory {
    async fn open(&self) -> SharedStore {
        Arc::new(self.0.clone())
    }
}

essaim::store_conformance_tests!(Memory::default());

mod without_a_fault {
    use super::*;

    #[derive(Default)]
    struct Faulty(Memory);

    #[async_trait::async_trait(?Send)]
    impl StoreUnderTest for Faulty {
        async fn open(&self) -> SharedStore {
            Arc::new(FaultyStore::new(self.0.open().await))
        }
    }

    essaim::store_conformance_tests!(Faulty::default());
}
