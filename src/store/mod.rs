//! This file is the contract of a store: one log with a head row, what commits together with it, and what is read back.
//!
//! ```text
//! EventStore   reads (log, streams, outcomes, claims), snapshots, read tables and their checkpoints; shared, concurrent
//! LogWriter    the one who appends, fenced by the epoch in the head row; owned by the journal alone
//! ```
//! Implementations: [`memory`], `sqlite`, `postgres`. One suite, [`crate::testing::conformance`], holds all to this page.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::audit::AuditFilter;
use crate::aggregate::Claim;
use crate::event::{ChainHash, CommandId, RecordedEvent};
use crate::projections::{TableSpec, Value};
use crate::stream::{GlobalPosition, StreamId, Version};

pub mod audit;
pub mod memory;
pub mod open;
mod page;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use open::{OpenOptions, open};
pub use page::MAX_PAGE_BYTES;

/// Raised by every take-over of the log and after every append of unknown outcome; a writer of a lower one is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The one row that says how far the log goes and who may append to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Position of the last event; 0 for an empty log.
    pub position: GlobalPosition,
    /// The epoch in force.
    pub epoch: Epoch,
    /// The writer that raised it; nil when nobody ever wrote.
    pub writer: Uuid,
    /// The last batch that committed; nil before the first.
    pub batch: Uuid,
    /// Hash of the last event.
    pub chain_hash: ChainHash,
    /// When the last event was recorded; the Unix epoch for an empty log.
    pub recorded_at: DateTime<Utc>,
    /// Which history this is: made when the log was created, kept by a restored copy, and renewed by
    /// [`LogWriter::renew`]. Positions are comparable only within one.
    pub log_id: Uuid,
}

/// What commits together, or not at all: one group of appends.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The writer's epoch; another one in the head row means the writer is fenced.
    pub epoch: Epoch,
    /// The batch that must be the last committed one.
    pub previous: Uuid,
    /// The name of this batch.
    pub id: Uuid,
    /// In order, with dense positions right behind the head's; may be empty.
    pub events: Arc<[RecordedEvent]>,
    /// The net claim operations of all events.
    pub claims: ClaimChanges,
    /// The outcomes to keep, in no particular order; no command id twice.
    pub outcomes: Vec<StoredOutcome>,
    /// When this batch was stamped, never below the head's.
    pub recorded_at: DateTime<Utc>,
}

/// Claim operations, netted: no claim stands in more than one of the three lists, nor twice in one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClaimChanges {
    /// Free claims and who takes them.
    pub take: Vec<(Claim, StreamId)>,
    /// Held claims and who lets go of them.
    pub release: Vec<(Claim, StreamId)>,
    /// Held claims, who lets go and who takes them in the same batch.
    pub transfer: Vec<(Claim, StreamId, StreamId)>,
}

impl ClaimChanges {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.take.is_empty() && self.release.is_empty() && self.transfer.is_empty()
    }
}

/// The kept answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOutcome {
    /// The command it answers.
    pub command_id: CommandId,
    /// blake3 over the command and its target: another command under the same id is told apart.
    pub fingerprint: [u8; 32],
    /// The answer.
    pub outcome: Outcome,
    /// When it became durable.
    pub recorded_at: DateTime<Utc>,
    /// Internal commands keep their outcome as long as the events; those of clients expire.
    pub internal: bool,
}

/// The answer to a command, the same for every retry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// Events were appended.
    Committed {
        /// Version of the stream behind them.
        version: Version,
        /// Position of the last of them.
        position: GlobalPosition,
    },
    /// There was nothing to change.
    Unchanged {
        /// Version of the stream.
        version: Version,
        /// How far the log went.
        position: GlobalPosition,
    },
    /// The aggregate refused.
    Rejected {
        /// Version of the stream.
        version: Version,
        /// How far the log went.
        position: GlobalPosition,
        /// The rejection as JSON text.
        rejection: Box<str>,
    },
    /// Another aggregate holds a claim.
    ClaimRefused {
        /// Version of the stream.
        version: Version,
        /// How far the log went.
        position: GlobalPosition,
        /// The claim that is taken.
        claim: Claim,
    },
}

impl Outcome {
    /// The same answer at a position known only when it commits.
    #[must_use]
    pub fn at(mut self, reached: GlobalPosition) -> Self {
        match &mut self {
            Self::Committed { position, .. }
            | Self::Unchanged { position, .. }
            | Self::Rejected { position, .. }
            | Self::ClaimRefused { position, .. } => *position = reached,
        }
        self
    }
}

/// Part of the log, in order.
#[derive(Debug, Clone, Default)]
pub struct LogPage {
    /// The events that pass the filter, oldest first.
    pub events: Vec<RecordedEvent>,
    /// Every event up to here was looked at; the next page starts behind it. Equal to `after` at the end of the log.
    pub scanned_to: GlobalPosition,
    /// The head when the page was read; never below `scanned_to`.
    pub head: GlobalPosition,
}

/// Which events of the log are wanted; empty means all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogFilter {
    /// Any of these categories.
    pub categories: Vec<Cow<'static, str>>,
    /// Any of these types.
    pub event_types: Vec<Cow<'static, str>>,
}

impl LogFilter {
    /// Whether it lets every event pass.
    pub fn is_all(&self) -> bool {
        self.categories.is_empty() && self.event_types.is_empty()
    }

    /// Whether it lets this event pass.
    pub fn allows(&self, event: &RecordedEvent) -> bool {
        let listed = |list: &[Cow<'static, str>], value: &str| list.is_empty() || list.iter().any(|item| item == value);
        listed(&self.categories, event.stream.category()) && listed(&self.event_types, &event.event_type)
    }
}

/// One stream to be loaded.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// The stream.
    pub stream: StreamId,
    /// The state's schema version when a snapshot is welcome, else none.
    pub snapshot_schema: Option<u16>,
}

/// What was found of a stream.
#[derive(Debug, Clone, Default)]
pub struct LoadedStream {
    /// The newest snapshot that was asked for and whose chain hash is that of its event; else none.
    pub snapshot: Option<Snapshot>,
    /// The events behind the snapshot, or from the first, oldest first; at most the limit that was given.
    pub events: Vec<RecordedEvent>,
    /// Whether there are more behind the limit; read on with [`EventStore::read_stream`].
    pub more: bool,
}

/// The saved state of an aggregate at a durable version.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Whose state.
    pub stream: StreamId,
    /// Of which version.
    pub version: Version,
    /// Position of the event that made this version.
    pub position: GlobalPosition,
    /// Hash of that event; a load that finds another in the log ignores the snapshot.
    pub chain_hash: ChainHash,
    /// The state's shape.
    pub schema_version: u16,
    /// The encoded state.
    pub state: Vec<u8>,
}

/// How far a read table is.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The projection's name.
    pub projection: String,
    /// The projection's version.
    pub version: u32,
    /// Everything up to here is in the table.
    pub position: GlobalPosition,
    /// Hash of the event at that position.
    pub chain_hash: ChainHash,
    /// Epoch of the writer that saved it.
    pub epoch: Epoch,
    /// When it was saved.
    pub saved_at: DateTime<Utc>,
}

/// A frozen set of changes of one read table, and the position they bring it to.
#[derive(Debug)]
pub struct CheckpointSave<'a> {
    /// The table.
    pub table: &'a TableSpec,
    /// What the row must say now, or none when there must be no row yet; else nothing is saved and it is a conflict.
    pub previous: Option<GlobalPosition>,
    /// What the row says afterwards; `epoch` must not be below the one in the head row.
    pub checkpoint: Checkpoint,
    /// Rows to insert or replace, no two of one key, each with one value a column, the key first. Stores are quickest
    /// when they come in the order of their keys.
    pub upserts: Vec<Vec<Value>>,
    /// Keys of rows to delete; these go first.
    pub deletes: Vec<Value>,
    /// Whether all rows that were there go first (a rebuild).
    pub replace_all: bool,
}

/// How a start deals with a writer that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TakeOver {
    /// A living one is left alone, and the start is refused; a dead one is replaced.
    #[default]
    OnlyDead,
    /// Even a living one is fenced.
    Force,
}

/// Takes the rows of a read table one by one.
pub type RowSink<'a> = dyn FnMut(Vec<Value>) -> Result<(), StoreError> + Send + 'a;

/// What keeps the log. Shared and concurrent; every reading method may be repeated safely.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// The kind and place without secrets, e.g. `postgres://localhost/essaim`, for logs and reports.
    fn describe(&self) -> String;

    /// What makes commits durable here, as name and value, e.g. `("synchronous", "full")`, and which release of the
    /// database it is, under a name that ends with `_version`; for reports.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn durability(&self) -> Result<Vec<(String, String)>, StoreError>;

    /// The head row as committed now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn head(&self) -> Result<Head, StoreError>;

    /// Events of one stream with `version > after`, oldest first, at most `limit`; empty when there are none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn read_stream(
        &self,
        stream: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError>;

    /// Many streams in one go, in the order asked, each with at most `limit` events.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn load_streams(&self, requests: &[LoadRequest], limit: usize) -> Result<Vec<LoadedStream>, StoreError>;

    /// Events with `position > after`, oldest first. At most `limit` positions are looked at without a filter; with
    /// one, at most `limit` events are returned. The store may stop looking sooner and say so in `scanned_to`: it does
    /// once the events come to [`MAX_PAGE_BYTES`].
    /// Never goes beyond the head read in or before the same statement.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn read_log(&self, after: GlobalPosition, limit: usize, filter: &LogFilter) -> Result<LogPage, StoreError>;

    /// Makes the indexes by principal and by type that searches want. Every append keeps them from then on, so only a
    /// program that audits asks for them. On a long log it takes its time, and appends wait; repeating it does no harm.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer; searches work without, slowly.
    async fn index_audit(&self) -> Result<(), StoreError>;

    /// Events that pass the filter, newest first, at most `limit`; with [`EventStore::index_audit`], the rest of the log
    /// is not read for it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn search_log(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The kept outcomes among these commands, in any order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn read_outcomes(&self, commands: &[CommandId]) -> Result<Vec<StoredOutcome>, StoreError>;

    /// Who holds which of these claims, in any order; free ones are left out.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn claim_holders(&self, claims: &[Claim]) -> Result<Vec<(Claim, StreamId)>, StoreError>;

    /// Removes outcomes of clients' commands recorded before `before`; returns how many. Internal ones stay.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn prune_outcomes(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;

    /// Keeps a snapshot in place of the stream's older ones; an older one than the kept is ignored.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError>;

    /// Creates the table of this version when it is missing, and lets the view of its name show it. The tables of
    /// other versions are left as they are.
    ///
    /// # Errors
    /// [`StoreError::Schema`] when a table of that name exists with other columns.
    async fn prepare_table(&self, table: &TableSpec) -> Result<(), StoreError>;

    /// Hands every row to `rows`, in no particular order, and returns the checkpoint they belong to: both read at one
    /// instant. None (and no rows) before the first save or when the table does not exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer; whatever `rows` returns.
    async fn load_table(&self, table: &TableSpec, rows: &mut RowSink<'_>) -> Result<Option<Checkpoint>, StoreError>;

    /// Saves rows and position together.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the checkpoint row is not as `previous` says, [`StoreError::Fenced`] when the
    /// head row has a higher epoch; nothing is saved then. [`StoreError::Unknown`] when the commit was not answered:
    /// ask [`EventStore::checkpoint`] before saving again.
    async fn save_checkpoint(&self, save: CheckpointSave<'_>) -> Result<(), StoreError>;

    /// The checkpoint row of one projection version, if any.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn checkpoint(&self, projection: &str, version: u32) -> Result<Option<Checkpoint>, StoreError>;

    /// All checkpoint rows, by projection and version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError>;

    /// Becomes the writer of the log: checks durability, raises the epoch under the writer id given, and reads the head.
    ///
    /// # Errors
    /// [`StoreError::Held`] when a living writer is there and [`TakeOver::OnlyDead`] was asked for;
    /// [`StoreError::WeakDurability`] when commits would not survive a crash and the store was not opened to allow it.
    async fn open_writer(&self, writer: Uuid, take_over: TakeOver) -> Result<Box<dyn LogWriter>, StoreError>;
}

/// The one who appends. Its connection is its own; no call of it may be dropped half way.
#[async_trait]
pub trait LogWriter: Send {
    /// The head as of the take-over or the last reclaim.
    fn head(&self) -> &Head;

    /// Commits the batch, whole, in one transaction that starts with the fenced update of the head row.
    ///
    /// # Errors
    /// Only [`StoreError::Unknown`] leaves open whether it committed; [`LogWriter::reclaim`] must follow. After every
    /// other error nothing of the batch is in the log: [`StoreError::Fenced`] (another epoch or batch in the head),
    /// [`StoreError::ClaimsTaken`] (all of them), [`StoreError::Data`] (some value cannot be stored; with one append
    /// in the batch it is that one's), [`StoreError::Conflict`], [`StoreError::Unavailable`] (not executed).
    async fn append(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Reads whether the head still has this epoch and batch, without writing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when it has not; [`StoreError::Unavailable`] when it cannot be known.
    async fn check_fence(&mut self, epoch: Epoch, batch: Uuid) -> Result<(), StoreError>;

    /// Connects anew, checks durability again, raises the epoch under the same writer id, and reads the head. From
    /// then on nothing sent before can still commit, so that `head.batch` tells whether the last batch is in.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another writer took over; [`StoreError::Unavailable`] is to be tried again.
    async fn reclaim(&mut self) -> Result<Head, StoreError>;

    /// As [`LogWriter::reclaim`], and gives the log another id: positions handed out so far are of another history.
    ///
    /// # Errors
    /// Those of [`LogWriter::reclaim`]. Repeating it with the same id does no harm.
    async fn renew(&mut self, log_id: Uuid) -> Result<Head, StoreError>;

    /// Gives the log back at the end of a clean shutdown, so that a successor need not look for the dead.
    async fn release(self: Box<Self>);
}

/// Why a store did not do what it was asked; one variant for each reaction.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not executed, and worth repeating: no connection, shutting down, a deadlock, a time-out before anything ran.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// What was tried.
        what: &'static str,
        /// What the driver says.
        #[source]
        source: Option<Cause>,
    },
    /// Sent, and not answered: it may have committed.
    #[error("the outcome of the commit is unknown")]
    Unknown {
        /// What the driver says.
        #[source]
        source: Option<Cause>,
    },
    /// Another writer has the log.
    #[error("this writer is fenced: the log is at epoch {found}, not {mine}")]
    Fenced {
        /// The writer's own epoch.
        mine: Epoch,
        /// The one in the head row.
        found: Epoch,
    },
    /// A living writer holds the log.
    #[error("the database is held by another writer: {holder}")]
    Held {
        /// Who, as far as the store can tell: process id, backend, since when.
        holder: String,
    },
    /// Commits could be lost by a crash.
    #[error("commits here would not survive a crash: {setting} is {found}, it must be {wanted}")]
    WeakDurability {
        /// Which setting.
        setting: String,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: String,
    },
    /// The tables are not what this release knows.
    #[error("{what}")]
    Schema {
        /// What differs, and what to do.
        what: String,
    },
    /// The address or file is no database of ours.
    #[error("{what}")]
    NotADatabase {
        /// Which, and what to do.
        what: String,
        /// What the driver says.
        #[source]
        source: Option<Cause>,
    },
    /// A value cannot be stored, ever.
    #[error("a value cannot be stored: {what}")]
    Data {
        /// What the database says of it.
        what: String,
    },
    /// Claims that others hold.
    #[error("{} claims are taken", claims.len())]
    ClaimsTaken {
        /// All of those in the batch that are taken.
        claims: Vec<Claim>,
    },
    /// Something changed in between: a version that exists already, a checkpoint that moved.
    #[error("conflict: {what}")]
    Conflict {
        /// What is not as expected.
        what: String,
    },
    /// What was read cannot be right.
    #[error("the stored data are damaged: {what}")]
    Corrupt {
        /// What was found where.
        what: String,
    },
}

/// A driver's error, kept as the source of ours.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

impl StoreError {
    /// Not executed, worth repeating.
    pub fn unavailable(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { what, source: Some(Arc::new(source)) }
    }

    /// Whether the same call may succeed later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Unknown { .. })
    }
}

/// A shared store.
pub type SharedStore = Arc<dyn EventStore>;
