//! This file draws the supervision tree and holds what all its parts share.
//!
//! ```text
//! root (supervisor)
//! ├── journal                   appends; watched by its actor, gives up the process when it cannot go on
//! ├── shards × n a category     dispatch misses, spawn and passivate
//! │   └── aggregates            one actor an instance: decide, apply, hand over
//! ├── projections               one actor a read model: pull, apply, checkpoint
//! ├── synchronisers             one actor an outside system: follow, call, record the outcome
//! └── process managers          one actor a manager: react, fire deadlines, save, send commands
//!
//! feed, loader, snapshots       shared by all of them, owned by nobody's mailbox
//! ```
//! A child that fails is restarted with back-off; one that fails too often is set aside, loudly, and the others go on.

use crate::limits::Limits;

pub(crate) mod admission;
pub(crate) mod aggregate;
pub(crate) mod answer;
pub(crate) mod batcher;
pub(crate) mod dispatcher;
pub(crate) mod feed;
pub(crate) mod flights;
pub(crate) mod journal;
pub(crate) mod journal_actor;
pub(crate) mod loader;
pub(crate) mod pages;
pub(crate) mod process_manager;
pub(crate) mod projection;
pub(crate) mod snapshots;
pub(crate) mod supervisor;
pub(crate) mod synchroniser;

/// What every aggregate needs to run.
pub(crate) struct Runtime {
    pub(crate) limits: Limits,
    pub(crate) feed: std::sync::Arc<feed::Feed>,
    pub(crate) journal: journal::JournalSender,
    pub(crate) loader: loader::Loader,
    /// Keys the hash that spreads instances over shards, so that nobody who names streams can aim at one of them.
    pub(crate) shard_key: uuid::Uuid,
}
