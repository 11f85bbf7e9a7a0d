//! This file stands in for the load harness in a program that was built without it.

use std::ffi::OsString;

use crate::daemon::config::layers::Layers;
use crate::daemon::failure::Failure;

/// Whatever was asked of it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Flags {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    asked: Vec<OsString>,
}

/// As it is.
pub(super) fn with_own_words(command: clap::Command) -> clap::Command {
    command
}

/// Says that it is not there.
#[expect(clippy::unused_async, reason = "as the harness has it")]
pub(super) async fn run(flags: Flags, _: Layers) -> Result<(), Failure> {
    let Flags { asked } = flags;
    drop(asked);
    Err(Failure::Usage("this program was built without the load harness (the feature loadtest)".to_owned()))
}
