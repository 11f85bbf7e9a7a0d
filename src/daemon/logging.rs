//! This file sends log messages to stderr, as text or as JSON.

use std::io::{self, IsTerminal};
use std::panic;

use tracing_subscriber::EnvFilter;

use super::config::{Config, LogFormat};

/// Logs from now on as the configuration says. A second call changes nothing.
pub(crate) fn start(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_level).expect("the configuration checked its log level");
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // A closed stderr is no reason to end.
        .log_internal_errors(false);
    let _ = match config.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

/// Lets panics go the way of all other messages, so that one line stays one record.
pub(crate) fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, what = panic.payload_as_str(), "a defect: a task panicked");
    }));
}
