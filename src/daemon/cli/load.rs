//! This file is `essaim load`: it gives the load harness what stands on the command line besides its own flags.

use clap::{Arg, Command};

use super::remote::{TOKEN_FILE, Token};
use crate::daemon::config::layers::{Layers, documented_keys};
use crate::daemon::failure::Failure;
use crate::daemon::logging;
use crate::loadtest::cli::{self as loadtest, Surroundings, load};
use crate::loadtest::error::LoadError;
use crate::store::StoreError;

/// What the harness is asked for, and who asks the daemon that it loads.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Flags {
    #[command(flatten)]
    harness: loadtest::Flags,
    #[command(flatten)]
    token: Token,
}

/// Says of the configuration's flags what they mean here.
pub(super) fn with_own_words(command: Command) -> Command {
    const HEADING: &str = "Configuration of the engine, or of a daemon of its own (also in --config FILE)";
    let keys: Vec<_> = documented_keys().map(|(key, ..)| key).collect();
    let command = keys.into_iter().fold(command, |command, key| command.mut_arg(key, |arg| arg.help_heading(HEADING)));
    let hidden = ["listen", "allow_unauthenticated", "log_format"];
    let command = hidden.into_iter().fold(command, |command, key| command.mut_arg(key, |arg| arg.hide(true)));
    let database: fn(Arg) -> Arg = |arg| {
        arg.help("Where the log is kept: sqlite://FILE or postgres://… [default: a temporary SQLite file]")
            .help_heading(None::<&str>)
    };
    command
        .mut_arg("database", database)
        .mut_arg("log_level", |arg| arg.help("Least important log messages shown [default: warn]"))
}

/// Whether somebody typed the flag; the variable may be set for other commands.
fn is_on_command_line(Token { token_file }: &Token) -> bool {
    token_file.is_some() && *token_file != std::env::var_os(TOKEN_FILE)
}

/// Runs the harness. The environment, `./essaim.toml` and the database of a configuration file are left out: they are
/// a daemon's, and its database is not to be loaded by accident.
pub(super) async fn run(Flags { harness, token }: Flags, layers: Layers) -> Result<(), Failure> {
    if !harness.is_over_http() && is_on_command_line(&token) {
        return Err(Failure::Usage(
            "--token-file does nothing for an engine in this process, which asks nobody: it is for --url, and for \
             --kill-every"
                .into(),
        ));
    }
    // The variable may be set for other commands, and an engine in this process asks for nothing.
    let bearer = if harness.is_over_http() { token.read()? } else { None };
    let given = layers.flags;
    let of = |key: &str| given.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let (database, log_level) = (of("database"), of("log_level"));
    let own = ["listen", "database"];
    let keys = given.iter().filter(|(key, _)| !own.contains(&key.as_str()));
    let keys = keys.map(|(key, value)| format!("--{}={value}", key.replace('_', "-")));
    let file = layers.file.as_deref().and_then(|file| std::path::absolute(file).ok());
    let daemon_flags = file.map(|file| format!("--config={}", file.display())).into_iter().chain(keys).collect();
    let mut config = Layers { flags: given, file: layers.file, ..Layers::default() }.load()?.config;
    // What goes well is for the report.
    config.log_level = log_level.unwrap_or_else(|| "warn".to_owned());
    logging::start(&config);
    let (limits, allow_weak_durability) = (config.limits(), config.allow_weak_durability);
    let surroundings = Surroundings { database, limits, allow_weak_durability, daemon_flags, bearer };
    load(harness, surroundings).await.map_err(Failure::from)
}

/// The way out of a database that is held: a load takes nobody's away.
const WHEN_HELD: &str = "stop that one first, or, if it is a daemon, load it with --url";

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit_code = error.exit_code();
        match error {
            LoadError::Usage(what) => Self::Usage(what),
            LoadError::Store(held @ StoreError::Held { .. }) => {
                Self::Checked { message: format!("{held}; {WHEN_HELD}"), exit_code }
            }
            LoadError::Store(error) => Self::Store(error),
            LoadError::Io { what, source } => Self::Io { what, source },
            other => Self::Checked { message: other.to_string(), exit_code },
        }
    }
}
