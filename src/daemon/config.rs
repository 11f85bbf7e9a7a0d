//! This file names every configuration key of the daemon, with its meaning, its range and its default.
//!
//! ```text
//! layers    where values come from, which one wins, and what is refused
//! bounded   numbers that know their range
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::bounded::Bounded;
use crate::engine::Limits;

pub(crate) mod bounded;
pub mod layers;

const KIB: u64 = 1_024;
const MIB: u64 = 1_024 * KIB;
const GIB: u64 = 1_024 * MIB;

/// Configuration of the Essaim daemon. Every key is optional.
///
/// A value is taken from the first of: the flag `--<key>`, the environment variable `ESSAIM_<KEY>`, this file
/// (`--config FILE`, else `./essaim.toml`), the default. Keys that do not exist are refused.
#[derive(Debug, Clone, confique::Config)]
#[config(layer_attr(derive(Debug, Clone)))]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Config {
    /// Address and port to listen on, e.g. `127.0.0.1:7700`, `[::1]:7700`, `localhost:0`; port 0 takes a free one.
    /// Anything but the loopback needs `auth_issuer` or
    /// `allow_unauthenticated`.
    #[config(default = "127.0.0.1:7700", validate = has_host_and_port)]
    pub listen: String,

    /// Where the log is kept: `sqlite://FILE` or `postgres://USER:PASSWORD@HOST/DATABASE`.
    #[config(default = "sqlite://essaim.db")]
    pub database: String,

    /// Serve other machines although nobody has to say who they are.
    #[config(default = false)]
    pub allow_unauthenticated: bool,

    /// Issuer of the bearer tokens that every request below `/v1` must bring, exactly as its tokens name it in `iss`, e.g.
    /// `https://id.example/realms/shop`. Empty: nobody has to say who they are.
    #[config(default = "")]
    pub auth_issuer: String,

    /// What tokens must be meant for: a value of their `aud`. Required with `auth_issuer`.
    #[config(default = "")]
    pub auth_audience: String,

    /// Where the issuer's keys are. Empty: where its OpenID discovery document says.
    #[config(default = "")]
    pub auth_jwks_url: String,

    /// Seconds by which the issuer's clock and this one may differ: 0 to 60.
    #[config(default = 30)]
    pub auth_leeway_seconds: Bounded<0, 60>,

    /// Claim that names the caller's organisation, a UUID; dots lead into objects.
    #[config(default = "organization_id")]
    pub auth_organization_claim: String,

    /// Claim that lists the caller's roles; dots lead into objects, e.g. `realm_access.roles`.
    #[config(default = "roles")]
    pub auth_roles_claim: String,

    /// Fetch the issuer's keys without TLS although it is not on the loopback.
    #[config(default = false)]
    pub auth_allow_http: bool,

    /// Start although a crash of the machine could lose acknowledged commands.
    #[config(default = false)]
    pub allow_weak_durability: bool,

    /// Hours after which a payment that is neither completed nor cancelled counts as expired: 1 to 876000.
    #[config(default = 24)]
    pub payment_expiry_hours: Bounded<1, 876_000>,

    /// Cancel payments when they expire, with the reason `expired`. Payments keep the expiry they were created under.
    #[config(default = false)]
    pub cancel_expired_payments: bool,

    /// Days that the outcomes of clients' commands are kept for retries with their key: 1 to 3650.
    #[config(default = 7)]
    pub outcomes_retention_days: Bounded<1, 3_650>,

    /// Least important log messages shown: `error`, `warn`, `info`, `debug`, `trace`, `off`, or by part, e.g.
    /// `info,essaim::store=debug`.
    #[config(default = "info", validate = is_log_filter)]
    pub log_level: String,

    /// How log messages are written to stderr: `text` or `json`.
    #[config(default = "text")]
    pub log_format: LogFormat,

    /// Open connections; more are answered 503 and closed: 1 to 1000000.
    #[config(default = 4096)]
    pub max_connections: Bounded<1, 1_000_000>,

    /// Bytes of one request's body; more are answered 413: 1024 to 67108864.
    #[config(default = 262144)]
    pub max_body_bytes: Bounded<KIB, { 64 * MIB }>,

    /// Seconds in which a request's head must arrive, and after which an idle connection is closed: 1 to 3600.
    #[config(default = 30)]
    pub request_header_timeout_seconds: Bounded<1, 3_600>,

    /// Seconds that a request's body may pause: 1 to 3600.
    #[config(default = 30)]
    pub request_body_timeout_seconds: Bounded<1, 3_600>,

    /// Whether a connection may carry more than one request.
    #[config(default = true)]
    pub http_keep_alive: bool,

    /// Seconds from SIGTERM until requests, commands and checkpoints under way must be finished: 1 to 3600.
    #[config(default = 30)]
    pub shutdown_deadline_seconds: Bounded<1, 3_600>,

    /// Commands in flight; more are answered 503: 1 to 1000000.
    #[config(default = 4096)]
    pub max_commands: Bounded<1, 1_000_000>,

    /// Bytes of the commands in flight; more are answered 503: 1048576 to 17179869184.
    #[config(default = 67108864)]
    pub max_command_bytes: Bounded<MIB, { 16 * GIB }>,

    /// Commands of the daemon's own parts in flight, beside those of clients: 1 to 100000.
    #[config(default = 256)]
    pub max_internal_commands: Bounded<1, 100_000>,

    /// Milliseconds until a command that brings no deadline must be decided: 1 to 600000.
    #[config(default = 5000)]
    pub command_deadline_ms: Bounded<1, 600_000>,

    /// Events that one command may append: 1 to 100000.
    #[config(default = 1000)]
    pub max_events_per_command: Bounded<1, 100_000>,

    /// Bytes of one event's data: 1024 to 67108864.
    #[config(default = 1048576)]
    pub max_event_bytes: Bounded<KIB, { 64 * MIB }>,

    /// Commands in one transaction of the journal: 1 to 65536.
    #[config(default = 1024)]
    pub max_batch_commands: Bounded<1, 65_536>,

    /// Bytes in one transaction of the journal: 1024 to 268435456.
    #[config(default = 4194304)]
    pub max_batch_bytes: Bounded<KIB, { 256 * MIB }>,

    /// Bytes of recent events kept in memory for projections and followers: 65536 to 17179869184.
    #[config(default = 33554432)]
    pub max_feed_bytes: Bounded<{ 64 * KIB }, { 16 * GIB }>,

    /// Seconds after which an unused aggregate leaves the memory: 1 to 604800.
    #[config(default = 300)]
    pub passivate_after_seconds: Bounded<1, 604_800>,

    /// Bytes of aggregates in memory, about; the longest unused leave first: 1048576 to 1099511627776.
    #[config(default = 268435456)]
    pub max_resident_bytes: Bounded<MIB, { 1_024 * GIB }>,

    /// Loads of aggregates from the database under way at once: 1 to 1024.
    #[config(default = 4)]
    pub max_loads: Bounded<1, 1_024>,

    /// Milliseconds between two checkpoints of a read model that changes: 10 to 3600000.
    #[config(default = 1000)]
    pub checkpoint_every_ms: Bounded<10, 3_600_000>,

    /// Changed rows after which a checkpoint is saved sooner; at four times as many the read model waits: 1 to 1000000.
    #[config(default = 10000)]
    pub checkpoint_rows: Bounded<1, 1_000_000>,

    /// Milliseconds that a read waits for its position when it does not say: 0 to 60000.
    #[config(default = 2000)]
    pub read_wait_ms: Bounded<0, 60_000>,

    /// Times that a command is decided again because the one before it fell: 0 to 1000.
    #[config(default = 8)]
    pub max_redecisions: Bounded<0, 1_000>,

    /// Address of the Keycloak that users are kept in step with, e.g. `https://id.example.org`; empty: none.
    #[config(default = "")]
    pub keycloak_url: String,

    /// The Keycloak realm whose users are ours.
    #[config(default = "essaim")]
    pub keycloak_realm: String,

    /// A confidential client of that realm with a service account that has the roles `manage-users`, `view-realm` and
    /// `view-events` of `realm-management`.
    #[config(default = "essaim")]
    pub keycloak_client_id: String,

    /// That client's secret; rather use `keycloak_client_secret_file`, or the environment.
    #[config(default = "")]
    pub keycloak_client_secret: String,

    /// A file with that client's secret and nothing else; not beside `keycloak_client_secret`.
    #[config(default = "")]
    pub keycloak_client_secret_file: String,

    /// Send tokens and users to Keycloak over plain http, to other machines too.
    #[config(default = false)]
    pub keycloak_allow_http: bool,

    /// A PEM file with further authorities whose certificates Keycloak may have; empty: none.
    #[config(default = "")]
    pub keycloak_certificates_file: String,

    /// Users brought to Keycloak at once: 1 to 256.
    #[config(default = 16)]
    pub keycloak_parallel_users: Bounded<1, 256>,

    /// Attempts before a user becomes a dead letter; those while Keycloak is unavailable do not count: 1 to 1000.
    #[config(default = 100)]
    pub keycloak_max_attempts: Bounded<1, 1_000>,

    /// Milliseconds until a call of Keycloak counts as unanswered: 100 to 120000.
    #[config(default = 10000)]
    pub keycloak_call_deadline_ms: Bounded<100, 120_000>,

    /// Users a second that a reconcile compares: 1 to 1000.
    #[config(default = 20)]
    pub keycloak_reconcile_per_second: Bounded<1, 1_000>,

    /// Milliseconds between two looks at what users did at Keycloak (logins, verified addresses): 100 to 3600000.
    #[config(default = 5000)]
    pub keycloak_poll_every_ms: Bounded<100, 3_600_000>,
}

/// How log messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text a message.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// What bounds the engine.
    pub fn limits(&self) -> Limits {
        Limits {
            max_commands: self.max_commands.count(),
            max_command_bytes: self.max_command_bytes.count(),
            max_internal_commands: self.max_internal_commands.count(),
            command_deadline: self.command_deadline_ms.milliseconds(),
            max_events_per_command: self.max_events_per_command.count(),
            max_event_bytes: self.max_event_bytes.count(),
            max_batch_commands: self.max_batch_commands.count(),
            max_batch_bytes: self.max_batch_bytes.count(),
            max_feed_bytes: self.max_feed_bytes.count(),
            passivate_after: self.passivate_after_seconds.seconds(),
            max_resident_bytes: self.max_resident_bytes.count(),
            max_loads: self.max_loads.count(),
            checkpoint_every: self.checkpoint_every_ms.milliseconds(),
            checkpoint_rows: self.checkpoint_rows.count(),
            read_wait: self.read_wait_ms.milliseconds(),
            max_redecisions: self.max_redecisions.small(),
            outcomes_retention_days: self.outcomes_retention_days.small(),
        }
    }

    /// The age at which an open payment counts as expired.
    pub fn payment_expiry(&self) -> Duration {
        Duration::from_secs(self.payment_expiry_hours.get() * 3_600)
    }
}

/// Hides the password of a database address, for logs and reports.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let place = match place.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => place.to_owned(),
        },
        None => place.to_owned(),
    };
    let query = query.map(|query| {
        let parts = query.split('&').map(|part| if part.starts_with("password=") { "password=***" } else { part });
        format!("?{}", parts.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{place}{}", query.unwrap_or_default())
}

fn has_host_and_port(listen: &String) -> Result<(), String> {
    let (host, port) = listen.rsplit_once(':').unwrap_or((listen, ""));
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 || port.parse::<u16>().is_err() {
        return Err(format!("{listen:?} is not of the form HOST:PORT, e.g. 127.0.0.1:7700 or [::1]:7700"));
    }
    Ok(())
}

/// `EnvFilter` takes any single word for the name of a part, so that a mistyped level would show everything.
fn is_log_filter(filter: &String) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let words = filter.split(',').map(str::trim).filter(|part| !part.contains('=') && !part.contains('['));
    for word in words {
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            return Err(format!("{word:?} is none of {}, nor of the form PART=LEVEL", LEVELS.join(", ")));
        }
    }
    tracing_subscriber::EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use confique::Config as _;

    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_an_address_may_hold_them() {
        assert_eq!(without_password("postgres://a:b:c@d@host:1/e?x=1"), "postgres://a:***@host:1/e?x=1");
        assert_eq!(without_password("postgres://host/e?user=a&password=b"), "postgres://host/e?user=a&password=***");
        assert_eq!(without_password("postgres://a@host/e"), "postgres://a@host/e");
        assert_eq!(without_password("sqlite://essaim.db"), "sqlite://essaim.db");
    }

    #[test]
    fn a_log_level_that_does_not_exist_is_no_log_filter() {
        assert!(is_log_filter(&"verbose".into()).is_err());
        assert!(is_log_filter(&"info,essaim=louder".into()).is_err());
        assert!(is_log_filter(&"warn,essaim::store=debug".into()).is_ok());
    }

    #[test]
    fn a_listen_address_has_a_host_and_a_port() {
        for wrong in ["7700", ":7700", "localhost", "::1:7700", "127.0.0.1:77000", "[::1]"] {
            assert!(has_host_and_port(&wrong.into()).is_err(), "{wrong} was taken");
        }
        for right in ["127.0.0.1:0", "[::1]:7700", "localhost:7700"] {
            assert!(has_host_and_port(&right.into()).is_ok(), "{right} was refused");
        }
    }

    #[test]
    fn the_daemon_and_the_library_have_the_same_default_limits() {
        let config = layers::Layers::default().load().unwrap().config;

        assert_eq!(format!("{:?}", config.limits()), format!("{:?}", Limits::default()));
    }

    #[test]
    fn the_doc_of_every_number_states_the_range_that_is_enforced() {
        for field in Config::META.fields {
            let mut table = toml::Table::new();
            table.insert(field.name.into(), toml::Value::Integer(-1));
            let error = toml::Value::Table(table).try_into::<<Config as confique::Config>::Layer>().unwrap_err();
            let Some((_, range)) = error.message().split_once("a whole number from ") else { continue };

            assert!(field.doc.concat().contains(&format!(": {range}.")), "{} does not state {range}", field.name);
        }
    }
}
