//! This file gathers the configuration from its layers: flags, environment, file, defaults, in this order.
//!
//! Every value is checked by itself, whether or not a higher layer hides it, so that a message can name its key and
//! where it stands.

use std::fmt;
use std::path::{Path, PathBuf};

use confique::meta::{Expr, Field, FieldKind, LeafKind};
use confique::{Config as _, Layer as _};

use super::{Config, without_password};

type ConfigLayer = <Config as confique::Config>::Layer;

/// What the environment variables of the daemon begin with.
const PREFIX: &str = "ESSAIM_";
/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "essaim.toml";

/// The places a configuration may come from, before they are read.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Keys and values given as flags.
    pub flags: Vec<(String, String)>,
    /// The whole environment; only variables with the prefix `ESSAIM_` are looked at.
    pub environment: Vec<(String, String)>,
    /// The file to read, which must exist.
    pub file: Option<PathBuf>,
    /// The file to read when none is named, if it exists.
    pub default_file: PathBuf,
}

/// A configuration, and where each of its values comes from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The values in force.
    pub config: Config,
    /// One entry a key, in the order of [`Config`].
    pub values: Vec<Setting>,
}

/// One value in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its key.
    pub key: &'static str,
    /// The value; passwords are hidden.
    pub value: toml::Value,
    /// Where it stands.
    pub source: Source,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the command line.
    Flag,
    /// In an environment variable.
    Environment,
    /// In this file.
    File(PathBuf),
    /// Nowhere.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {} cannot be read", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}, line {line}: {what}", path.display())]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// There is no such key.
    #[error("{place}: there is no configuration key {key:?}{}", did_you_mean(suggestion.as_deref()))]
    UnknownKey {
        /// The file or the variable.
        place: String,
        /// The key.
        key: String,
        /// The key that was probably meant.
        suggestion: Option<String>,
    },
    /// The value cannot be that of the key.
    #[error("{place}: {key}: {what}")]
    Invalid {
        /// The flag, the file or the variable.
        place: String,
        /// The key.
        key: String,
        /// What is wrong with the value, and what it may be.
        what: String,
    },
}

impl Layers {
    /// Reads the layers and merges them.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing found wrong, from the strongest layer to the weakest.
    pub fn load(self) -> Result<Settings, ConfigError> {
        let layers = [flags(&self.flags)?, environment(&self.environment)?, file(self.file, &self.default_file)?];
        let config = merged(&layers);
        let values = fields()
            .map(|(field, default)| {
                let found = layers.iter().find_map(|layer| Some((layer.values.get(field.name)?, &layer.source)));
                let (value, source) = found.map_or((default, Source::Default), |(value, s)| (value.clone(), s.clone()));
                Setting { key: field.name, value: shown(field.name, value), source }
            })
            .collect();
        Ok(Settings { config, values })
    }
}

/// Every key with its documentation as one text, in order.
pub(crate) fn documented_keys() -> impl Iterator<Item = (&'static str, String, &'static Expr)> {
    Config::META.fields.iter().filter_map(|field| {
        let doc = field.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        Some((field.name, doc, default_of(field)?))
    })
}

/// A file with every key, its documentation and its default, all commented out.
pub(crate) fn template() -> String {
    confique::toml::template::<Config>(confique::toml::FormatOptions::default())
}

struct Found {
    source: Source,
    values: toml::Table,
}

fn flags(flags: &[(String, String)]) -> Result<Found, ConfigError> {
    let mut values = toml::Table::new();
    for (key, text) in flags {
        let place = format!("--{}", key.replace('_', "-"));
        values.insert(key.clone(), checked(&place, key, from_text(key, text))?);
    }
    Ok(Found { source: Source::Flag, values })
}

/// A variable that is set to nothing counts as not set, as in `ESSAIM_LISTEN= essaim`.
fn environment(environment: &[(String, String)]) -> Result<Found, ConfigError> {
    let mut values = toml::Table::new();
    for (variable, text) in environment {
        let Some(key) = variable.strip_prefix(PREFIX) else { continue };
        // These name files for the command line; clap takes them.
        if ["CONFIG", "TOKEN_FILE"].contains(&key) || text.is_empty() {
            continue;
        }
        let known = known_key(&key.to_ascii_lowercase()).filter(|known| known.to_ascii_uppercase() == key);
        let Some(known) = known else {
            let suggestion = nearest(&key.to_ascii_lowercase());
            return Err(ConfigError::UnknownKey {
                place: format!("environment variable {variable}"),
                key: key.to_ascii_lowercase(),
                suggestion: suggestion.map(|key| format!("{PREFIX}{}", key.to_ascii_uppercase())),
            });
        };
        let place = format!("environment variable {variable}");
        values.insert(known.to_owned(), checked(&place, known, from_text(known, text))?);
    }
    Ok(Found { source: Source::Environment, values })
}

fn file(named: Option<PathBuf>, default_file: &Path) -> Result<Found, ConfigError> {
    let required = named.is_some();
    let path = named.unwrap_or_else(|| default_file.to_owned());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => String::new(),
        Err(source) => return Err(ConfigError::File { path, source }),
    };
    let table: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::Toml {
        line: error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
        what: error.message().replace('\n', ", "),
        path: path.clone(),
    })?;
    let place = path.display().to_string();
    let mut values = toml::Table::new();
    for (key, value) in table {
        if known_key(&key).is_none() {
            let suggestion = nearest(&key).map(str::to_owned);
            return Err(ConfigError::UnknownKey { place, key, suggestion });
        }
        let value = checked(&place, &key, value)?;
        values.insert(key, value);
    }
    Ok(Found { source: Source::File(path), values })
}

/// Gives the value back when it can be that of the key.
fn checked(place: &str, key: &str, value: toml::Value) -> Result<toml::Value, ConfigError> {
    let table = toml::Table::from_iter([(key.to_owned(), value.clone())]);
    match toml::Value::Table(table).try_into::<ConfigLayer>() {
        Ok(_) => Ok(value),
        Err(error) => Err(ConfigError::Invalid {
            place: place.to_owned(),
            key: key.to_owned(),
            what: error.message().trim_start_matches("validation failed: ").replace('\n', ", "),
        }),
    }
}

fn merged(layers: &[Found]) -> Config {
    let layer = layers.iter().fold(ConfigLayer::empty(), |above, layer| {
        let values = toml::Value::Table(layer.values.clone());
        above.with_fallback(values.try_into().expect("each value was checked"))
    });
    Config::from_layer(layer.with_fallback(ConfigLayer::default_values())).expect("every key has a default")
}

/// A flag or a variable is text; the key's default says what it should be. What does not fit stays text, and is
/// refused by the key's own type with a message that says what it takes.
fn from_text(key: &str, text: &str) -> toml::Value {
    let default = documented_keys().find(|(known, ..)| *known == key).map(|(_, _, default)| default);
    let value = match default {
        Some(Expr::Bool(_)) => truth(text).map(toml::Value::Boolean),
        Some(Expr::Integer(_)) => text.trim().replace('_', "").parse().ok().map(toml::Value::Integer),
        _ => None,
    };
    value.unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn fields() -> impl Iterator<Item = (&'static Field, toml::Value)> {
    Config::META.fields.iter().filter_map(|field| {
        let value = toml::Value::try_from(default_of(field)?).expect("defaults can be written as TOML");
        Some((field, value))
    })
}

fn default_of(field: &'static Field) -> Option<&'static Expr> {
    match &field.kind {
        FieldKind::Leaf { kind: LeafKind::Required { default: Some(default) }, .. } => Some(default),
        _ => None,
    }
}

fn known_key(key: &str) -> Option<&'static str> {
    Config::META.fields.iter().map(|field| field.name).find(|name| *name == key)
}

/// The key that is most like this one, if any is.
fn nearest(key: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.7;
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(&key.replace('-', "_"), name);
    let nearest = Config::META.fields.iter().map(|field| (likeness(field.name), field.name));
    nearest.filter(|(likeness, _)| *likeness > ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(|| "; see `essaim config template`".into(), |key| format!(", did you mean {key}?"))
}

fn shown(key: &str, value: toml::Value) -> toml::Value {
    match value {
        toml::Value::String(text) if key.ends_with("_secret") && !text.is_empty() => toml::Value::String("***".into()),
        toml::Value::String(text) => toml::Value::String(without_password(&text)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn source_of(settings: &Settings, key: &str) -> Source {
        settings.values.iter().find(|setting| setting.key == key).unwrap().source.clone()
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        let settings = Layers::default().load().unwrap();

        assert_eq!(settings.config.listen, "127.0.0.1:7700");
        assert_eq!(settings.config.max_body_bytes.get(), 262_144);
        assert!(settings.values.iter().all(|setting| setting.source == Source::Default));
    }

    #[test]
    fn a_secret_is_in_force_but_never_shown() {
        let flags = pairs(&[("keycloak_client_secret", "swordfish")]);
        let settings = Layers { flags, ..Layers::default() }.load().unwrap();

        assert_eq!(settings.config.keycloak_client_secret, "swordfish");
        assert!(!format!("{:?}", settings.values).contains("swordfish"));
    }

    #[test]
    fn every_key_has_a_default() {
        assert_eq!(fields().count(), Config::META.fields.len());
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
        let (_folder, path) = file_with("max_loads = 11\nmax_commands = 12\nmax_connections = 13\n");

        let settings = Layers {
            flags: pairs(&[("max_loads", "31")]),
            environment: pairs(&[("ESSAIM_MAX_LOADS", "21"), ("ESSAIM_MAX_COMMANDS", "22"), ("PATH", "/bin")]),
            file: Some(path.clone()),
            ..Layers::default()
        }
        .load()
        .unwrap();

        let config = &settings.config;
        let numbers = [config.max_loads.get(), config.max_commands.get(), config.max_connections.get()];
        assert_eq!(numbers, [31, 22, 13]);
        assert_eq!(source_of(&settings, "max_loads"), Source::Flag);
        assert_eq!(source_of(&settings, "max_commands"), Source::Environment);
        assert_eq!(source_of(&settings, "max_connections"), Source::File(path));
        assert_eq!(source_of(&settings, "listen"), Source::Default);
    }

    #[test]
    fn an_unknown_key_of_the_file_is_refused_with_the_key_that_was_meant() {
        let (_folder, path) = file_with("max_conections = 13\n");

        let error = Layers { file: Some(path), ..Layers::default() }.load().unwrap_err().to_string();

        assert!(error.contains("some.toml: there is no configuration key \"max_conections\""), "{error}");
        assert!(error.ends_with("did you mean max_connections?"), "{error}");
    }

    #[test]
    fn an_unknown_variable_with_our_prefix_is_refused_with_the_one_that_was_meant() {
        let environment = pairs(&[("ESSAIM_LISTEM", "127.0.0.1:1")]);

        let error = Layers { environment, ..Layers::default() }.load().unwrap_err().to_string();

        assert!(error.contains("ESSAIM_LISTEM") && error.ends_with("did you mean ESSAIM_LISTEN?"), "{error}");
    }

    #[test]
    fn a_section_in_the_file_is_an_unknown_key_because_keys_are_flat() {
        let (_folder, path) = file_with("[http]\nmax_connections = 13\n");

        let error = Layers { file: Some(path), ..Layers::default() }.load().unwrap_err();

        assert!(matches!(error, ConfigError::UnknownKey { key, .. } if key == "http"));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_key_range_and_place() {
        let environment = pairs(&[("ESSAIM_MAX_LOADS", "0")]);

        let error = Layers { environment, ..Layers::default() }.load().unwrap_err().to_string();

        assert_eq!(
            error,
            "environment variable ESSAIM_MAX_LOADS: max_loads: invalid value: integer `0`, \
             expected a whole number from 1 to 1024"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_even_where_a_stronger_layer_hides_it() {
        let (_folder, path) = file_with("log_format = \"xml\"\n");
        let flags = pairs(&[("log_format", "json")]);

        let error = Layers { flags, file: Some(path), ..Layers::default() }.load().unwrap_err();

        assert!(matches!(error, ConfigError::Invalid { key, .. } if key == "log_format"));
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_what_it_should_be() {
        let flags = pairs(&[("max_loads", "many")]);

        let error = Layers { flags, ..Layers::default() }.load().unwrap_err().to_string();

        assert!(error.starts_with("--max-loads: max_loads: ") && error.contains("from 1 to 1024"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_line() {
        let (_folder, path) = file_with("max_loads = 1\nmax_commands = = 2\n");

        let error = Layers { file: Some(path), ..Layers::default() }.load().unwrap_err();

        assert!(matches!(error, ConfigError::Toml { line: 2, .. }), "{error:?}");
    }

    #[test]
    fn only_a_file_that_was_named_must_exist() {
        let missing = PathBuf::from("no/such/essaim.toml");

        assert!(Layers { default_file: missing.clone(), ..Layers::default() }.load().is_ok());
        let error = Layers { file: Some(missing), ..Layers::default() }.load().unwrap_err();
        assert!(matches!(error, ConfigError::File { .. }));
    }

    #[test]
    fn a_shown_database_address_hides_its_password() {
        let flags = pairs(&[("database", "postgres://ann:swordfish@db/essaim")]);

        let settings = Layers { flags, ..Layers::default() }.load().unwrap();

        assert!(!format!("{:?}", settings.values).contains("swordfish"));
        assert!(settings.config.database.contains("swordfish"));
    }

    #[test]
    fn the_template_is_a_file_that_changes_nothing_and_names_every_key() {
        let template = template();
        let (_folder, path) = file_with(&template);

        let settings = Layers { file: Some(path), ..Layers::default() }.load().unwrap();

        assert!(settings.values.iter().all(|setting| setting.source == Source::Default));
        for (key, ..) in documented_keys() {
            assert!(template.contains(&format!("\n#{key} = ")), "{key} is not in the template");
        }
    }

    #[test]
    fn the_template_with_every_line_in_force_is_valid_too() {
        let in_force: String = template()
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')))
            .map(|line| format!("{line}\n"))
            .collect();
        let (_folder, path) = file_with(&in_force);

        let settings = Layers { file: Some(path.clone()), ..Layers::default() }.load().unwrap();

        assert!(settings.values.iter().all(|setting| setting.source == Source::File(path.clone())));
    }
}
