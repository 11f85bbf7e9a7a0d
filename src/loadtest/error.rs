//! This file is every way in which a run cannot be done, and the exit codes that go with them.

use std::io;

use crate::engine::StartError;
use crate::store::StoreError;

use super::target::TargetError;

/// Why there is no verdict, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The store refuses or fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log has events already.
    #[error("{database} is not empty: its log has {events} events; name an empty one, or add --allow-existing")]
    NotEmpty {
        /// Which one.
        database: String,
        /// How many.
        events: u64,
    },
    /// The target cannot be reached, is none, or lets nobody in who brings no better token.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The daemon of the harness's own ended instead of serving.
    #[error("the daemon did not start: {said}")]
    Daemon {
        /// What it said last.
        said: String,
        /// What it ended with.
        exit_code: u8,
    },
    /// Something could not be read or written.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Something else stands in the way.
    #[error("{0}")]
    Failed(String),
    /// The run was done, and it is not well; it was said already why.
    #[error("{0}")]
    NotMet(String),
}

impl LoadError {
    /// What the shell is told: 2 for usage, 3 when the store refuses, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotEmpty { .. } => 3,
            Self::Daemon { exit_code, .. } => *exit_code,
            Self::Store(error) if !error.is_transient() => 3,
            Self::Store(_) | Self::Target(_) | Self::Io { .. } | Self::Failed(_) | Self::NotMet(_) => 1,
        }
    }

    /// A failure to read or write.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl From<StartError> for LoadError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::Store(error),
            StartError::Invalid(what) => Self::Failed(what),
        }
    }
}
