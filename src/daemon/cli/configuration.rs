//! This file is `essaim config`: the template, the values in force, and a check of both.

use clap::Subcommand;
use serde::Serialize;

use super::{Format, output};
use crate::daemon::auth;
use crate::daemon::config::layers::{Layers, Setting, Settings, template};
use crate::daemon::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Print a configuration file with every key, its meaning, range and default, all commented out
    Template,
    /// Print the values in force and where each comes from
    Show {
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Exit with 0 when the configuration is right, else with 2 and the reason
    Check,
}

/// Does what was asked for.
///
/// # Errors
/// [`Failure::Config`] when the configuration is wrong.
pub(super) fn run(action: Action, layers: Layers) -> Result<(), Failure> {
    match action {
        Action::Template => output::print(template().as_bytes()),
        Action::Show { output: Format::Table } => output::print(as_toml(&layers.load()?).as_bytes()),
        Action::Show { output: Format::Json } => output::print_json(&as_json(&layers.load()?)),
        Action::Check => {
            auth::settings::Settings::of(&layers.load()?.config)?;
            output::print_line("the configuration is right")
        }
    }
}

/// A file that would give the same configuration, with the sources as comments.
fn as_toml(settings: &Settings) -> String {
    let lines = settings.values.iter().map(|Setting { key, value, .. }| format!("{key} = {value}"));
    let lines: Vec<_> = lines.collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let described = lines.iter().zip(&settings.values);
    described.map(|(line, setting)| format!("{line:width$}  # {}\n", setting.source)).collect()
}

#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    value: &'a toml::Value,
    source: String,
}

fn as_json(settings: &Settings) -> Vec<Entry<'_>> {
    let values = settings.values.iter();
    values.map(|Setting { key, value, source }| Entry { key, value, source: source.to_string() }).collect()
}
