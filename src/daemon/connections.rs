//! This file accepts connections, at most so many, and lets them finish when the daemon drains.
//!
//! HTTP/1.1 only: the detection of other versions would wait without limit for a client that sends nothing.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::Router;
use axum::body::{Bytes, HttpBody, to_bytes};
use axum::http::Request;
use axum::response::IntoResponse;
use axum::routing::future::RouteFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use metrics::{counter, gauge};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, warn};

use super::config::Config;
use super::problem::Problem;

/// How long to wait after a failed accept: usually the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Refusals under way at once; beyond these a connection is closed without a word.
const MAX_REFUSALS: usize = 256;
/// How long a refused client may take to read its refusal.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(1);

/// What requests are handed to: other routes before the engine runs than after.
#[derive(Clone)]
pub(crate) struct Front {
    starting: Router,
    running: Arc<OnceLock<Router>>,
}

impl Front {
    /// Hands requests to `starting` until [`Front::open`].
    pub(crate) fn new(starting: Router) -> Self {
        Self { starting, running: Arc::default() }
    }

    /// Hands all further requests to `running`.
    pub(crate) fn open(&self, running: Router) {
        self.running.set(running).expect("the daemon starts its engine once");
    }
}

impl<B> Service<Request<B>> for Front
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.running.get().unwrap_or(&self.starting).clone().call(request)
    }
}

/// Accepts connections until `stop`. What is returned lets the open ones finish their requests.
pub(crate) async fn accept(
    listener: TcpListener,
    front: Front,
    config: Config,
    stop: CancellationToken,
) -> GracefulShutdown {
    let open = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(config.max_connections.count()));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let http = Arc::new(http(&config));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => drop(tokio::spawn(converse(stream, Arc::clone(&http), front.clone(), open.watcher(), slot))),
            Err(_) => refuse(stream, &refusals),
        }
    }
    open
}

fn http(config: &Config) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.request_header_timeout_seconds.seconds())
        .keep_alive(config.http_keep_alive);
    http
}

async fn converse(
    stream: TcpStream,
    http: Arc<auto::Builder<TokioExecutor>>,
    front: Front,
    watcher: Watcher,
    _slot: OwnedSemaphorePermit,
) {
    gauge!("essaim_http_connections").increment(1.0);
    // Answers are small and written whole; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(front));
    if let Err(error) = watcher.watch(connection.into_owned()).await {
        debug!(%error, "a connection ended early");
    }
    gauge!("essaim_http_connections").decrement(1.0);
}

fn refuse(stream: TcpStream, refusals: &Arc<Semaphore>) {
    counter!("essaim_http_connections_refused_total").increment(1);
    let Ok(slot) = Arc::clone(refusals).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let _slot = slot;
        let _ = tokio::time::timeout(REFUSAL_DEADLINE, tell_refusal(stream)).await;
    });
}

/// Closing with unread input would reset the connection, and the client would never see the answer.
async fn tell_refusal(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(&refusal().await).await?;
    stream.shutdown().await?;
    let mut unread = [0; 4_096];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// What connections over the limit are told, as it goes over the wire.
async fn refusal() -> Vec<u8> {
    let (head, body) = Problem::too_many_connections().into_response().into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a problem is in memory already");
    let mut answer = format!("HTTP/1.1 {}\r\nconnection: close\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    answer.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
    answer.extend(body);
    answer
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;
    use crate::daemon::config::layers::Layers;

    fn config(flags: &[(&str, &str)]) -> Config {
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Layers { flags, ..Layers::default() }.load().unwrap().config
    }

    async fn listening(config: Config, router: Router) -> (std::net::SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Front::new(router), config, stop.clone()));
        (address, stop)
    }

    async fn answer_to(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_refused_at_once_and_a_freed_place_is_taken_again() {
        let router = Router::new().route("/", get(async || "hello"));
        let (address, _stop) = listening(config(&[("max_connections", "1")]), router).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        first.readable().await.unwrap();

        let mut second = TcpStream::connect(address).await.unwrap();
        let refused = answer_to(&mut second, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        drop(first);

        let (head, body) = refused.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 1"), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "overloaded");
        loop {
            let mut third = TcpStream::connect(address).await.unwrap();
            let answer = answer_to(&mut third, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            if answer.ends_with("hello") {
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_no_head_in_time_is_let_go() {
        let (address, _stop) = listening(config(&[("request_header_timeout_seconds", "1")]), Router::new()).await;

        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTT").await.unwrap();

        let (mut of_silent, mut of_slow) = (Vec::new(), Vec::new());
        silent.read_to_end(&mut of_silent).await.unwrap();
        slow.read_to_end(&mut of_slow).await.unwrap();
        assert!(of_silent.is_empty());
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_after_the_daemon_has_stopped_accepting() {
        let (arrived, go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (in_arrived, in_go) = (Arc::clone(&arrived), Arc::clone(&go));
        let slow = async move || {
            in_arrived.notify_one();
            in_go.notified().await;
            "finished"
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let front = Front::new(Router::new().route("/", get(slow)));
        let accepting = tokio::spawn(accept(listener, front, config(&[]), stop.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        arrived.notified().await;

        stop.cancel();
        let closing = tokio::spawn(accepting.await.unwrap().shutdown());
        assert!(TcpStream::connect(address).await.is_err());
        go.notify_one();

        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        closing.await.unwrap();
        assert!(answer.ends_with("finished"), "{answer}");
    }
}
