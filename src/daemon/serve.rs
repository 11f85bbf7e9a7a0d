//! This file runs the daemon: bind, start the engine, announce, serve, drain.
//!
//! ```text
//! bind ──> answer /livez ──> start the engine ──> open all routes ──> "listening on …"
//!                                                    │
//!                       SIGTERM, SIGINT ─────────────┤ drain: edge, commands, journal, checkpoints; exit 0
//!                       a second signal ─────────────┤ exit 1 at once
//!                       the engine gives up ─────────┘ exit 1
//! ```

use std::future::poll_fn;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::auth::Authentication;
use super::config::{Config, without_password};
use super::connections::{Front, accept};
use super::failure::Failure;
use super::metrics::Recorder;
use super::problem::pages::unknown_method;
use super::{AppState, built_in, edge, health, logging, provider};
use crate::engine::{Engine, EngineBuilder};
use crate::store::{self, OpenOptions, TakeOver};

/// What is left for the engine when requests have used up the deadline.
const LEAST_ENGINE_SHUTDOWN: Duration = Duration::from_secs(1);

/// Serves until a signal, and drains.
///
/// # Errors
/// [`Failure`] when it cannot start, when the engine gives up, or when not everything was finished in time.
pub(crate) async fn serve(config: Config, take_over: TakeOver) -> Result<(), Failure> {
    logging::log_panics();
    let authentication = Authentication::of(&config)?;
    let provider = provider::configured(&config)?;
    let listener = bind(&config).await?;
    let address = listener.local_addr().map_err(Failure::io("the address listened on is unknown"))?;
    let recorder = Recorder::install().map_err(Failure::Stopped)?;
    tokio::spawn(recorder.clone().keep_up());
    let mut signals = Signals::catch()?;
    let front = Front::new(health::routes_while_starting());
    let draining = CancellationToken::new();
    let connections = tokio::spawn(accept(listener, front.clone(), config.clone(), draining.clone()));

    let engine = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        engine = start_engine(&config, take_over, |engine| match &provider {
            Some(provider) => provider.attach(engine, &config),
            None => engine,
        }) => engine?,
    };
    if let Some(provider) = provider {
        provider.poll(&engine, &config, draining.clone());
    }
    let health = health::routes(engine.clone(), authentication.clone());
    let state = AppState {
        engine: engine.clone(),
        payment_expiry: config.payment_expiry(),
        read_wait: config.read_wait_ms.milliseconds(),
        authentication,
    };
    let routes =
        super::router(state).merge(health).merge(recorder.routes()).method_not_allowed_fallback(unknown_method);
    front.open(edge::wrap(routes, &config, draining.clone()));
    announce(address);

    let daemon = Daemon { engine, connections, draining, deadline: config.shutdown_deadline_seconds.seconds() };
    daemon.run(&mut signals).await
}

struct Daemon {
    engine: Engine,
    connections: JoinHandle<GracefulShutdown>,
    draining: CancellationToken,
    deadline: Duration,
}

impl Daemon {
    async fn run(self, signals: &mut Signals) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = signals.next() => {}
            reason = self.engine.failed() => {
                error!(reason, "the engine has given up");
                return Err(Failure::Stopped(format!("the engine has given up: {reason}")));
            }
        }
        info!(deadline_seconds = self.deadline.as_secs(), "draining; a second signal quits at once");
        tell_service_manager(NotifyState::Stopping);
        tokio::select! {
            biased;
            () = signals.next() => Err(Failure::Stopped("a second signal: quit without finishing".into())),
            drained = self.drain() => drained,
        }
    }

    /// Requests may take three quarters of the deadline, so that commands and checkpoints have the rest.
    async fn drain(self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.deadline;
        self.draining.cancel();
        if let Ok(open) = self.connections.await {
            let closed = tokio::time::timeout_at(deadline - self.deadline / 4, open.shutdown()).await;
            if closed.is_err() {
                warn!("some requests were not finished in time");
            }
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST_ENGINE_SHUTDOWN);
        if self.engine.shutdown(left).await {
            info!("drained");
            Ok(())
        } else {
            Err(Failure::Stopped("not everything was finished before the shutdown deadline".into()))
        }
    }
}

/// SIGTERM and SIGINT, one by one.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(Failure::io("signals cannot be caught"));
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        poll_fn(|context| {
            let terminate = self.terminate.poll_recv(context).is_ready();
            let interrupt = self.interrupt.poll_recv(context).is_ready();
            if terminate || interrupt { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

async fn bind(config: &Config) -> Result<TcpListener, Failure> {
    let addresses = resolve(config).await?;
    refuse_open_doors(config, &addresses)?;
    let cannot = Failure::io(format!("cannot listen on {}", config.listen));
    TcpListener::bind(addresses.as_slice()).await.map_err(cannot)
}

/// The addresses that `listen` stands for.
///
/// # Errors
/// [`Failure::Usage`] when its host has none.
pub(crate) async fn resolve(config: &Config) -> Result<Vec<SocketAddr>, Failure> {
    let unknown = |what: String| Failure::Usage(format!("listen: {:?} has no address: {what}", config.listen));
    let found = tokio::net::lookup_host(&config.listen).await.map_err(|error| unknown(error.to_string()))?;
    let addresses: Vec<_> = found.collect();
    if addresses.is_empty() { Err(unknown("nothing found".into())) } else { Ok(addresses) }
}

/// # Errors
/// [`Failure::Usage`] when other machines could reach a daemon that asks nobody who they are.
pub(crate) fn refuse_open_doors(config: &Config, addresses: &[SocketAddr]) -> Result<(), Failure> {
    if config.allow_unauthenticated
        || !config.auth_issuer.is_empty()
        || addresses.iter().all(|address| address.ip().is_loopback())
    {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{} can be reached from other machines, and no authentication is configured: \
         listen on 127.0.0.1, set auth_issuer, or add --allow-unauthenticated",
        config.listen
    )))
}

/// Opens the store and starts everything the daemon runs over it, with what `attach` adds.
///
/// # Errors
/// [`Failure`] when the store refuses or fails.
pub(crate) async fn start_engine(
    config: &Config,
    take_over: TakeOver,
    attach: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Result<Engine, Failure> {
    let options = OpenOptions { allow_weak_durability: config.allow_weak_durability, read_only: false };
    let store = store::open(&config.database, options).await?;
    info!(database = without_password(&config.database), "starting");
    if config.allow_weak_durability {
        warn!("weak durability is allowed: a crash of the machine may lose acknowledged commands");
    }
    let engine = Engine::builder_shared(store).limits(config.limits()).take_over(take_over);
    let engine = attach(built_in::install(engine, config)).start().await?;
    if let Err(error) = engine.store().index_audit().await {
        warn!(%error, "the log is not indexed for audits; searching it will be slow");
    }
    Ok(engine)
}

/// Whoever started us may have stopped reading; that is no reason to end.
fn announce(address: SocketAddr) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "listening on http://{address}").and_then(|()| stdout.flush());
    info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    tell_service_manager(NotifyState::Ready);
}

fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::layers::Layers;

    fn config(flags: &[(&str, &str)]) -> Config {
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Layers { flags, ..Layers::default() }.load().unwrap().config
    }

    #[test]
    fn an_address_beyond_the_loopback_needs_the_explicit_flag() {
        let everywhere: [SocketAddr; 1] = ["0.0.0.0:7700".parse().unwrap()];
        let loopback: [SocketAddr; 2] = ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()];

        let refused = refuse_open_doors(&config(&[]), &everywhere).unwrap_err();

        assert_eq!(refused.exit_code(), 2);
        assert!(refused.to_string().contains("--allow-unauthenticated"));
        assert!(refuse_open_doors(&config(&[]), &loopback).is_ok());
        assert!(refuse_open_doors(&config(&[("auth_issuer", "https://id.example")]), &everywhere).is_ok());
        assert!(refuse_open_doors(&config(&[("allow_unauthenticated", "true")]), &everywhere).is_ok());
    }

    #[tokio::test]
    async fn a_host_without_an_address_is_a_mistake_in_the_configuration() {
        let error = resolve(&config(&[("listen", "no-such-host.invalid:80")])).await.unwrap_err();

        assert_eq!(error.exit_code(), 2);
    }
}
