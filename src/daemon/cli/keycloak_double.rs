//! This file is `essaim keycloak-double`: a stand-in for Keycloak, for demonstrations, load and tests without Java.

use std::io::{self, Write};
use std::net::SocketAddr;

use clap::Subcommand;

use crate::daemon::failure::Failure;
use crate::identity::double::{Double, DoubleClient, DoubleOptions, Faults};

/// What a client of our own needs.
const SERVICE_ROLES: [&str; 3] = ["manage-users", "view-realm", "view-events"];
/// The public client at which people log in.
const LOGIN_CLIENT: &str = "desk";

/// The commands of this file, among the others.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Serve a stand-in for Keycloak, with faults on command; everything is kept in memory
    ///
    /// It knows one realm, one client with a service account (--client, --secret), and the public client `desk` for
    /// logins by password. Faults can be changed while it runs:
    /// `curl -X PATCH -H 'content-type: application/json' -d '{"outage": true}' http://127.0.0.1:7701/double/faults`.
    /// GET /double/counters tells what came, POST /double/users/{username}/verify-email follows the link of a message.
    #[command(verbatim_doc_comment)]
    KeycloakDouble(Flags),
}

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// Where to listen, on this machine only; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7701")]
    listen: SocketAddr,
    /// The realm
    #[arg(long, default_value = "essaim")]
    realm: String,
    /// The client that may manage its users
    #[arg(long, default_value = "essaim")]
    client: String,
    /// That client's secret
    #[arg(long, default_value = "secret")]
    secret: String,
    /// What ids and faults follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How long each request takes, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 0)]
    latency_ms: u64,
    /// Share of requests answered with a 5xx, without effect
    #[arg(long, value_name = "0..1", default_value_t = 0.0)]
    errors: f64,
    /// Share of requests answered with a 429, without effect
    #[arg(long, value_name = "0..1", default_value_t = 0.0)]
    throttled: f64,
    /// What a 429 asks for, in seconds
    #[arg(long, value_name = "N", default_value_t = 1)]
    retry_after_seconds: u64,
    /// Share of requests whose connection is closed after the effect, instead of an answer
    #[arg(long, value_name = "0..1", default_value_t = 0.0)]
    lost: f64,
    /// How long tokens live, in seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    token_seconds: u64,
    /// Begin with an outage: connections are closed without effect or answer
    #[arg(long)]
    outage: bool,
}

/// Serves until the process is ended.
///
/// # Errors
/// [`Failure::Usage`] when a fault or the address is out of range, [`Failure::Io`] when it cannot listen there.
pub(super) async fn run(Action::KeycloakDouble(flags): Action) -> Result<(), Failure> {
    let options = flags.options();
    options.validate().map_err(Failure::Usage)?;
    let cannot = Failure::io(format!("cannot listen on {}", options.listen));
    let double = Double::start(options).await.map_err(cannot)?;
    let mut stdout = io::stdout();
    // Whoever started us may have stopped reading; that is no reason to end.
    let _ = writeln!(stdout, "listening on {}", double.url()).and_then(|()| stdout.flush());
    tokio::signal::ctrl_c().await.map_err(Failure::io("signals cannot be caught"))
}

impl Flags {
    fn options(self) -> DoubleOptions {
        let clients = vec![
            DoubleClient::confidential(self.client, self.secret, &SERVICE_ROLES),
            DoubleClient::public(LOGIN_CLIENT),
        ];
        let faults = Faults {
            latency_ms: self.latency_ms,
            error_share: self.errors,
            throttle_share: self.throttled,
            retry_after_seconds: self.retry_after_seconds,
            lost_share: self.lost,
            token_seconds: self.token_seconds,
            outage: self.outage,
        };
        DoubleOptions {
            listen: self.listen,
            realm: self.realm,
            clients,
            seed: self.seed,
            faults,
            ..DoubleOptions::default()
        }
    }
}
