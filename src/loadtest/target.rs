//! This file is what a run is against: payments to work with, and the side on which it can be watched and verified.
//!
//! ```text
//! Payments   commands and reads, as a workload sends them     embedded: Engine      http: reqwest
//! Target     how far, how big, how fast; the log, read back   embedded: the store   http: /metrics, /v1/events
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::checker::{Findings, LoggedEvent};
use super::workload::{Answer, Attempt};
use crate::domain::payment::PaymentCommand;
use crate::stream::GlobalPosition;

pub mod embedded;
pub mod http;

/// Who the harness is to an engine, and to a daemon that it brings no token.
const ANONYMOUS: &str = "anonymous";

/// Payments, wherever they are.
#[async_trait]
pub trait Payments: Send + Sync + 'static {
    /// Sends a command to a payment under the attempt's key.
    async fn execute(&self, id: Uuid, command: PaymentCommand, attempt: &Attempt) -> Answer;

    /// The payment's row, at `at_least` or later.
    async fn read(&self, id: Uuid, at_least: GlobalPosition) -> Answer;
}

/// One look at a running target; what it does not tell is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// How many events the slowest projection is behind.
    pub lag_events: Option<u64>,
    /// Memory of the process that runs the engine.
    pub resident_bytes: Option<u64>,
    /// Processor time of that process since it started, in seconds.
    pub cpu_seconds: Option<f64>,
    /// When that process started, in seconds since the Unix epoch: after a restart its counts begin anew.
    pub started_seconds: Option<u64>,
    /// Seconds that a process which may be started again has run.
    pub uptime_seconds: Option<f64>,
    /// Batches that the journal has committed since it started.
    pub batches: Option<u64>,
    /// Commands in those batches.
    pub batch_commands: Option<u64>,
    /// Commands in the largest batch since the last look.
    pub batch_max: Option<u64>,
}

/// What a target is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The database's address, without user and password; empty when it does not say.
    pub database: String,
    /// The daemon's own version, when it is one.
    pub server: Option<String>,
    /// Whether what runs the engine was built with optimisation; none when it is this program.
    pub optimised: Option<bool>,
    /// Names and values of the settings that make commits durable, and of the database's release.
    pub durability: Vec<(String, String)>,
}

impl About {
    /// Kind and release of the store, e.g. `PostgreSQL 15.8`; empty when it does not say.
    pub fn store(&self) -> String {
        let kind = match self.database.split(':').next().unwrap_or_default() {
            "postgres" | "postgresql" => "PostgreSQL",
            "sqlite" => "SQLite",
            other => other,
        };
        let version = self.durability.iter().find(|(name, _)| name.ends_with("_version"));
        let version = version.map(|(_, version)| version.as_str()).unwrap_or_default();
        format!("{kind} {version}").trim().to_owned()
    }
}

/// Why a target cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nobody answers there.
    #[error("{what}")]
    Unreachable {
        /// Who was asked, and what the system says.
        what: String,
    },
    /// It answers, and not as a target does.
    #[error("{what}")]
    Unexpected {
        /// What it was asked, and what came.
        what: String,
    },
    /// It does not let whoever asks do what a run does.
    #[error("{what}")]
    Refused {
        /// What it was asked, what came, and what it takes to be let in.
        what: String,
    },
}

/// Read models held against the log.
#[derive(Debug, Clone, Default)]
pub struct ReadModels {
    /// Which ones.
    pub names: Vec<String>,
    /// What is amiss with them.
    pub findings: Findings,
}

/// Takes how long it was from a commit, by its position, until the read models showed it.
pub type VisibleAfter = Arc<dyn Fn(GlobalPosition, Duration) + Send + Sync>;

/// What a run is against, to be watched and verified.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// Kind and place without secrets, e.g. `sqlite://a.db, in this process`.
    fn describe(&self) -> String;

    /// Whether it answers at all.
    ///
    /// # Errors
    /// [`TargetError::Unreachable`] when nobody does.
    async fn probe(&self) -> Result<(), TargetError>;

    /// Whether it lets the harness do what a run does; asked before the load, and nothing is left of it.
    ///
    /// # Errors
    /// [`TargetError::Refused`] when it does not.
    async fn admits(&self) -> Result<(), TargetError> {
        Ok(())
    }

    /// Who the harness is to it, by whom keys are told apart.
    fn principal(&self) -> &str {
        ANONYMOUS
    }

    /// What it tells of itself; a target that cannot be asked tells nothing.
    async fn look(&self) -> Look;

    /// How many events the slowest projection is behind; none where asking costs more than a look at memory.
    fn lag_events(&self) -> Option<u64> {
        None
    }

    /// How far the log is.
    ///
    /// # Errors
    /// [`TargetError`] when it does not say.
    async fn head(&self) -> Result<GlobalPosition, TargetError>;

    /// The next events behind `after`, at most a page of them, oldest first; none at the end.
    ///
    /// # Errors
    /// [`TargetError`] when they cannot be read.
    async fn events(&self, after: GlobalPosition) -> Result<Vec<LoggedEvent>, TargetError>;

    /// Waits until the read models show this position, the last of the log, and compares each with what the log makes.
    ///
    /// # Errors
    /// [`TargetError`] when they cannot be asked, or do not get there.
    async fn read_models(&self, position: GlobalPosition) -> Result<ReadModels, TargetError>;

    /// What it is; a target that does not say leaves it open.
    async fn about(&self) -> About;

    /// Resolves when it is certain that it will not answer any more, with what is known of that.
    async fn gone(&self) -> String;

    /// Waits until the read models show this position; false at once when that cannot be told from here.
    async fn shows(&self, _position: GlobalPosition) -> bool {
        false
    }

    /// Tells, for some commits, how long after the commit itself the read models showed it; as long as it is polled.
    /// Resolves at once when that cannot be told from here.
    async fn time_commits(&self, _visible: VisibleAfter) {}

    /// Ends what was started for the run.
    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(database: &str, settings: &[(&str, &str)]) -> About {
        let durability = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        About { database: database.to_owned(), durability, ..About::default() }
    }

    #[test]
    fn a_store_is_named_by_its_kind_and_its_release() {
        let postgres = about("postgres://localhost/a", &[("fsync", "on"), ("server_version", "15.8")]);
        let sqlite = about("sqlite://a.db", &[("synchronous", "full"), ("sqlite_version", "3.50.4")]);

        assert_eq!((postgres.store(), sqlite.store()), ("PostgreSQL 15.8".into(), "SQLite 3.50.4".into()));
        assert_eq!((about("memory", &[]).store(), About::default().store()), ("memory".into(), String::new()));
    }
}
