//! This file is `essaim load`: it gives the load harness what stands on the command line besides its own flags.

use crate::daemon::config::layers::Layers;
use crate::daemon::failure::Failure;
use crate::daemon::logging;
use crate::loadtest::cli::{Surroundings, load};
use crate::loadtest::error::LoadError;

pub(super) use crate::loadtest::cli::Flags;

/// Runs the harness. The environment and `./essaim.toml` are left out: they are a daemon's, and its database is not to
/// be loaded by accident.
pub(super) async fn run(flags: Flags, layers: Layers) -> Result<(), Failure> {
    let given = layers.flags;
    let of = |key: &str| given.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let (database, log_level) = (of("database"), of("log_level"));
    let own = ["listen", "database"];
    let daemon_flags = given.iter().filter(|(key, _)| !own.contains(&key.as_str()));
    let daemon_flags = daemon_flags.map(|(key, value)| format!("--{}={value}", key.replace('_', "-"))).collect();
    let mut config = Layers { flags: given, ..Layers::default() }.load()?.config;
    // What goes well is for the report.
    config.log_level = log_level.unwrap_or_else(|| "warn".to_owned());
    logging::start(&config);
    let (limits, allow_weak_durability) = (config.limits(), config.allow_weak_durability);
    load(flags, Surroundings { database, limits, allow_weak_durability, daemon_flags }).await.map_err(Failure::from)
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit_code = error.exit_code();
        match error {
            LoadError::Usage(what) => Self::Usage(what),
            LoadError::Store(error) => Self::Store(error),
            LoadError::Io { what, source } => Self::Io { what, source },
            other => Self::Checked { message: other.to_string(), exit_code },
        }
    }
}
