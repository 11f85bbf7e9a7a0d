//! This file is the command line: its commands, their help, and the flags that every configuration key has.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use confique::meta::Expr;

use super::config::layers::{DEFAULT_FILE, Layers, Settings, documented_keys};
use super::failure::Failure;
use super::{logging, serve};
use crate::store::{self, OpenOptions, SharedStore, TakeOver};

mod configuration;
mod doctor;
mod events;
mod export;
#[cfg(feature = "keycloak")]
mod keycloak_double;
#[path = "cli/no_double.rs"]
#[cfg(not(feature = "keycloak"))]
mod keycloak_double;
#[cfg(feature = "loadtest")]
mod load;
#[path = "cli/no_load.rs"]
#[cfg(not(feature = "loadtest"))]
mod load;
mod output;
mod projections;
mod remote;
mod synchronisers;

/// Keys that are worth their lines in the short help, and in that of commands that only read.
const COMMON: [&str; 6] =
    ["listen", "database", "allow_unauthenticated", "allow_weak_durability", "log_level", "log_format"];
/// Commands that have nothing to do with the daemon's configuration.
const WITHOUT_KEYS: [&str; 2] = ["completions", "keycloak-double"];
const HEADING: &str = "Configuration (also as ESSAIM_<KEY>, or in essaim.toml)";

/// Essaim: event-sourced CQRS on actors. Without a command, serves.
#[derive(Debug, Parser)]
#[command(name = "essaim", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    /// Read the configuration from this file instead of ./essaim.toml
    #[arg(long, global = true, value_name = "FILE", env = "ESSAIM_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    serve: ServeFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  essaim                                              serve on 127.0.0.1:7700, log in ./essaim.db
  essaim --listen 127.0.0.1:0 --database sqlite:///var/lib/essaim/payments.db
  essaim serve --database postgres://essaim@localhost/essaim
  essaim config template > essaim.toml                every key, commented
  essaim doctor                                       what would keep the daemon from running well
  essaim events tail --category payment               follow the log

Exit codes: 0 done or drained, 2 usage or configuration, 3 the store refused, 1 the rest.";

#[derive(Debug, Clone, Copy, clap::Args)]
struct ServeFlags {
    /// Fence a living writer of the same database instead of being refused
    #[arg(long)]
    take_over: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then drain
    Serve(ServeFlags),
    /// Print a template of the configuration, show the one in force, or check it
    #[command(subcommand)]
    Config(configuration::Action),
    /// Check configuration, database, schema, durability, disk and read models
    Doctor(doctor::Flags),
    /// List, follow or export the log; may run beside a daemon
    #[command(subcommand)]
    Events(events::Action),
    /// List, verify or rebuild the read models
    #[command(subcommand)]
    Projections(projections::Action),
    /// How the systems outside are kept in step, by a running daemon
    #[command(subcommand)]
    Synchronisers(synchronisers::Action),
    /// What a running daemon could not bring outside: list, show, retry, skip
    #[command(subcommand)]
    DeadLetters(synchronisers::DeadLetters),
    /// Put load on an engine or a daemon, measure it, and hold every answer against the log
    Load(Box<load::Flags>),
    #[command(flatten)]
    KeycloakDouble(keycloak_double::Action),
    /// Print a completion script for a shell, e.g. `essaim completions bash > /etc/bash_completion.d/essaim`
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// A command line that makes sense.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    layers: Layers,
}

/// Understands the command line.
///
/// # Errors
/// The text to show instead of doing anything: help, the version, or what is wrong; it knows its exit code.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command_line().try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let take_over = cli.serve.take_over;
    let command = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(flags) => Command::Serve(ServeFlags { take_over: flags.take_over || take_over }),
        other => other,
    };
    let layers = Layers {
        flags: given_keys(&matches),
        environment: std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect(),
        file: cli.config.filter(|path| !path.as_os_str().is_empty()),
        default_file: DEFAULT_FILE.into(),
    };
    Ok(Invocation { command, layers })
}

impl Invocation {
    /// Does what was asked for.
    ///
    /// # Errors
    /// [`Failure`], with the exit code that belongs to it.
    pub async fn run(self) -> Result<(), Failure> {
        let Self { command, layers } = self;
        match command {
            Command::Completions { shell } => complete(shell),
            Command::Config(action) => configuration::run(action, layers),
            Command::Doctor(flags) => doctor::run(flags, layers.load()).await,
            Command::Serve(flags) => serve::serve(started(layers)?.config, take_over(flags.take_over)).await,
            Command::Events(action) => events::run(action, &started(layers)?.config).await,
            Command::Load(flags) => load::run(*flags, layers).await,
            Command::Projections(action) => projections::run(action, &started(layers)?.config).await,
            Command::Synchronisers(action) => synchronisers::run(action, &started(layers)?.config).await,
            Command::DeadLetters(action) => synchronisers::run_dead_letters(action, &started(layers)?.config).await,
            Command::KeycloakDouble(action) => keycloak_double::run(action).await,
        }
    }
}

fn started(layers: Layers) -> Result<Settings, Failure> {
    let settings = layers.load()?;
    logging::start(&settings.config);
    Ok(settings)
}

fn take_over(force: bool) -> TakeOver {
    if force { TakeOver::Force } else { TakeOver::OnlyDead }
}

/// The configured store, for reading beside whoever writes.
async fn open_to_read(config: &super::config::Config) -> Result<SharedStore, Failure> {
    // What a reader reads is as durable as it is; refusing it would help nobody.
    Ok(store::open(&config.database, OpenOptions { read_only: true, allow_weak_durability: true }).await?)
}

fn complete(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line(), "essaim", &mut script);
    output::print(&script)
}

/// The commands as derived, each with the flags of the configuration keys.
fn command_line() -> clap::Command {
    with_keys(Cli::command(), true).mut_subcommand("load", load::with_own_words)
}

fn with_keys(command: clap::Command, serves: bool) -> clap::Command {
    let command = command.args(documented_keys().map(|(key, doc, default)| {
        let common = COMMON.contains(&key);
        flag_of(key, &doc, default).hide_short_help(!common).hide(!common && !serves)
    }));
    command.mut_subcommands(|below| {
        let serves = matches!(below.get_name(), "serve");
        if WITHOUT_KEYS.contains(&below.get_name()) { below } else { with_keys(below, serves) }
    })
}

/// `--max-loads`, and `--max_loads` for those who copy it from the file. Values are checked by the layers, which know
/// their ranges.
fn flag_of(key: &'static str, doc: &str, default: &Expr) -> Arg {
    let default = toml::Value::try_from(default).map_or_else(|_| String::new(), |value| value.to_string());
    let arg = Arg::new(key)
        .long(key.replace('_', "-"))
        .alias(key)
        .help_heading(HEADING)
        .help(format!("{} [default: {default}]", doc.trim_end_matches('.')))
        .value_parser(ValueParser::string())
        .action(ArgAction::Set);
    match default.as_str() {
        "true" | "false" => {
            arg.value_name("true|false").num_args(0..=1).require_equals(true).default_missing_value("true")
        }
        text if text.starts_with('"') => arg.value_name("TEXT"),
        _ => arg.value_name("N"),
    }
}

/// A key may stand before or behind the command's name; the later one counts.
fn given_keys(matches: &ArgMatches) -> Vec<(String, String)> {
    let mut levels = vec![matches];
    while let Some((_, below)) = levels.last().and_then(|matches| matches.subcommand()) {
        levels.push(below);
    }
    let given = |key: &str| levels.iter().rev().find_map(|level| level.try_get_one::<String>(key).ok().flatten());
    documented_keys().filter_map(|(key, ..)| Some((key.to_owned(), given(key)?.clone()))).collect()
}

fn lossy(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Invocation {
        parse(line.split(' ').map(OsString::from)).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn no_command_is_serve() {
        assert!(matches!(parsed("essaim").command, Command::Serve(ServeFlags { take_over: false })));
        assert!(matches!(parsed("essaim --take-over").command, Command::Serve(ServeFlags { take_over: true })));
        assert!(matches!(parsed("essaim --take-over serve").command, Command::Serve(ServeFlags { take_over: true })));
    }

    #[test]
    fn a_key_may_stand_before_or_behind_the_command_and_the_later_one_counts() {
        let invocation =
            parsed("essaim --max-loads 1 --database sqlite://a serve --max_loads=2 --allow-unauthenticated");

        let expected = [("database", "sqlite://a"), ("allow_unauthenticated", "true"), ("max_loads", "2")];
        let expected: Vec<_> = expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        assert_eq!(invocation.layers.flags, expected);
    }

    #[test]
    fn every_key_is_a_flag_of_every_command_that_has_a_configuration() {
        for line in ["essaim", "essaim serve", "essaim config check", "essaim doctor", "essaim events list"] {
            for (key, ..) in documented_keys() {
                let flag = key.replace('_', "-");
                assert_eq!(parsed(&format!("{line} --{flag}=x")).layers.flags, [(key.to_owned(), "x".to_owned())]);
            }
        }
    }
}
