//! This file is how an engine tells of its parts: checks for readiness, the state of each projection, process manager
//! and synchroniser.

use chrono::{DateTime, Utc};

use crate::stream::GlobalPosition;

/// One line of [`crate::engine::Engine::health`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `store`, `journal`, `projection:<name>` …
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What is the matter, or how far it is.
    pub detail: String,
}

/// How a projection is doing.
#[derive(Debug, Clone)]
pub struct ProjectionStatus {
    /// Its name.
    pub name: &'static str,
    /// Its view in SQL.
    pub view: String,
    /// Its version.
    pub version: u32,
    /// How far it is.
    pub position: GlobalPosition,
    /// How far its table is.
    pub checkpoint: GlobalPosition,
    /// How many rows it has.
    pub rows: usize,
    /// What it is doing.
    pub state: ProjectionState,
}

/// What a projection is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProjectionState {
    /// Loading its table, or reading the log up to the head found at start.
    CatchingUp,
    /// Following.
    Live,
    /// Waiting to be restarted after a failure.
    Restarting(String),
    /// Failed too often; waits for [`crate::engine::Engine::release`].
    Quarantined(String),
}

/// How a synchroniser is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynchroniserStatus {
    /// Its name, which is that of its table too.
    pub name: &'static str,
    /// How far it has followed the log.
    pub position: GlobalPosition,
    /// How far its table is.
    pub checkpoint: GlobalPosition,
    /// How many subjects it knows.
    pub subjects: usize,
    /// How many are not yet outside as wanted, without dead letters.
    pub pending: usize,
    /// How many were set aside.
    pub dead_letters: usize,
    /// Calls under way.
    pub calls_in_flight: usize,
    /// For how long the outside has been taken for unavailable; none while it answers.
    pub unavailable_for: Option<std::time::Duration>,
    /// What it is doing.
    pub state: ProjectionState,
}

/// How a process manager is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessManagerStatus {
    /// Its name, which is that of its table too.
    pub name: &'static str,
    /// Its version.
    pub version: u32,
    /// How far it has reacted to the log.
    pub position: GlobalPosition,
    /// How far its table is.
    pub checkpoint: GlobalPosition,
    /// How many instances it has.
    pub instances: usize,
    /// How many deadlines are set, all instances together.
    pub deadlines: usize,
    /// The earliest of them.
    pub next_deadline: Option<DateTime<Utc>>,
    /// How many commands have no durable outcome yet.
    pub commands: usize,
    /// How many of them wait to be tried again although only somebody's help will let them through.
    pub stuck: usize,
    /// What it is doing.
    pub state: ProjectionState,
}
