//! This file is how an engine tells of its parts: checks for readiness, and the state of each projection.

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
