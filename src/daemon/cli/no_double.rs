//! This file is in the place of `keycloak_double` where that is not built: no command.

use clap::Subcommand;

use crate::daemon::failure::Failure;

/// No command.
#[derive(Debug, Subcommand)]
pub(super) enum Action {}

pub(super) async fn run(none: Action) -> Result<(), Failure> {
    match none {}
}
