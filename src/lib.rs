#![forbid(unsafe_code)]
//! Essaim runs every aggregate instance as an actor: it serialises its own commands, appends events to one gap-free
//! log in Postgres or SQLite, and supervised projections keep hot read models beside it.
//!
//! ```text
//! actors run it       src/actors/       supervision tree, dispatcher, aggregates, journal, feed, projections, process managers
//! store keeps it      src/store/        the log, outcomes, claims, snapshots, read tables: memory, SQLite, Postgres
//! projections show it src/projections/  what a read model is, and the built-in ones
//! domain decides it   src/domain/       payments: pure, one aggregate a file
//! synchronisers       src/synchronisers/ which outside system follows which aggregate
//! identity            src/identity/     outside identity providers: the contract, Keycloak, a stand-in for it
//! daemon exposes it   src/daemon/       HTTP, configuration, command line
//! loadtest proves it  src/loadtest/     load, the checker that holds every answer against the log, the report
//! ```
//!
//! The way in is [`engine::Engine`]; [`prelude`] has what most programs need. `examples/account.rs` is a whole program.

mod actors;
pub mod aggregate;
mod causes;
pub mod clock;
mod codec;
pub mod command;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod domain;
pub mod engine;
pub mod event;
pub mod health;
#[cfg(feature = "keycloak")]
pub mod identity;
pub mod limits;
#[cfg(feature = "loadtest")]
pub mod loadtest;
pub mod process_manager;
pub mod projections;
pub mod store;
pub mod stream;
pub mod synchroniser;
#[cfg(feature = "keycloak")]
pub mod synchronisers;
pub mod testing;

/// What a program that embeds the engine needs most.
pub mod prelude {
    pub use serde::{Deserialize, Serialize};

    pub use crate::aggregate::{Aggregate, AggregateId, Claim, SnapshotPolicy, Upcaster};
    pub use crate::command::{ExecuteError, NotExecuted, Options, Receipt};
    pub use crate::engine::{Engine, EngineBuilder, StartError, UpTo};
    pub use crate::event::{CommandId, RecordedEvent, TypedEvent};
    pub use crate::limits::Limits;
    pub use crate::process_manager::{Due, ProcessManager, ReactTo, Reaction, Reactions};
    pub use crate::projections::read_model::{ReadError, ReadModel, View};
    pub use crate::projections::{
        Column, ColumnKind, Index, JsonRow, ProjectFrom, Projection, Row, RowError, Rows, Sources, Value, Values,
    };
    pub use crate::store::memory::MemoryStore;
    #[cfg(feature = "postgres")]
    pub use crate::store::postgres::PostgresStore;
    #[cfg(feature = "sqlite")]
    pub use crate::store::sqlite::SqliteStore;
    pub use crate::store::{EventStore, StoreError};
    pub use crate::stream::{ExpectedVersion, GlobalPosition, StreamId, Version};
}
