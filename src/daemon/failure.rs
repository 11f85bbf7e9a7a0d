//! This file maps what can end the program to its exit codes.

use std::io;

use super::config::layers::ConfigError;
use crate::causes::with_causes;
use crate::engine::StartError;
use crate::store::StoreError;

/// Why the program ends without having done its work; one message, one exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store refuses or fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something could not be read or written.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The reader of our output went away. Nothing is wrong with that, and nothing is left to do.
    #[error("the output was closed")]
    OutputClosed,
    /// A check found something wrong, and has already said so.
    #[error("{message}")]
    Checked {
        /// The one line that sums it up.
        message: String,
        /// The exit code of what was found.
        exit_code: u8,
    },
    /// The daemon stopped before it was asked to, or not in time.
    #[error("{0}")]
    Stopped(String),
}

impl Failure {
    /// What the shell is told: 2 for usage and configuration, 3 when the store refuses, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Store(error) => store_exit_code(error),
            Self::Checked { exit_code, .. } => *exit_code,
            Self::Io { .. } | Self::Stopped(_) => 1,
        }
    }

    /// What to do about it, where that is known.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => store_advice(error),
            _ => None,
        }
    }

    /// A failure to read or write.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A failure to write our output.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Io { what: "the output cannot be written".into(), source: error },
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::Store(error),
            StartError::Invalid(what) => Self::Stopped(what),
        }
    }
}

pub(crate) fn store_exit_code(error: &StoreError) -> u8 {
    match error {
        StoreError::WeakDurability { .. }
        | StoreError::Schema { .. }
        | StoreError::Held { .. }
        | StoreError::NotADatabase { .. } => 3,
        _ => 1,
    }
}

/// The way out of a store's refusal, where there is one.
pub(crate) fn store_advice(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Held { .. } => Some("stop that one first, or fence it with --take-over"),
        StoreError::WeakDurability { .. } => {
            Some("change the setting, or accept the loss with --allow-weak-durability")
        }
        StoreError::Unavailable { .. } => Some("check that the database runs and that `database` is its address"),
        _ => None,
    }
}

/// The message of a failure and of everything behind it, on one line.
pub fn told(failure: &(dyn std::error::Error + 'static)) -> String {
    with_causes(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_refuses_is_told_apart_from_one_that_fails() {
        let held = Failure::from(StoreError::Held { holder: "process 7".into() });
        let gone = Failure::from(StoreError::Unavailable { what: "connecting", source: None });

        assert_eq!((held.exit_code(), gone.exit_code()), (3, 1));
    }

    #[test]
    fn a_closed_output_is_no_error() {
        assert_eq!(Failure::output(io::ErrorKind::BrokenPipe.into()).exit_code(), 0);
        assert_eq!(Failure::output(io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }
}
