//! This file accepts the double's connections, and closes those whose request meets with no answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::Shared;
use super::faults::Fate;
use super::routes::routes;

/// Serves until `stop`.
pub(super) async fn accept(listener: TcpListener, shared: Shared, stop: CancellationToken) {
    let routes = routes(shared.clone());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        // Out of descriptors, or the client went away: the next one may fare better.
        let Ok((stream, _)) = accepted else { continue };
        tokio::spawn(stop.clone().run_until_cancelled_owned(converse(stream, routes.clone(), shared.clone())));
    }
}

async fn converse(stream: TcpStream, routes: Router, shared: Shared) {
    let _ = stream.set_nodelay(true);
    let http = auto::Builder::new(TokioExecutor::new()).http1_only();
    let service = TowerToHyperService::new(Answers { routes, shared });
    // A connection that is closed on purpose ends in an error.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

/// Answers requests, or fails, upon which the connection is closed.
#[derive(Clone)]
struct Answers {
    routes: Router,
    shared: Shared,
}

impl<B> Service<Request<B>> for Answers
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Closed;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Closed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(answered(self.routes.clone(), self.shared.clone(), request.map(Body::new)))
    }
}

async fn answered(routes: Router, shared: Shared, request: Request) -> Result<Response, Closed> {
    let path = request.uri().path();
    if path.starts_with("/double/") {
        return Ok(routed(routes, request).await);
    }
    let fate = shared.switches.next(path.ends_with("/token"), is_write(&request));
    let latency = shared.switches.latency();
    if !latency.is_zero() && fate != Fate::Unreachable {
        tokio::time::sleep(latency).await;
    }
    match fate {
        Fate::Answered => Ok(routed(routes, request).await),
        Fate::Failed(status) => Ok(failed(status)),
        Fate::Throttled(seconds) => Ok(throttled(seconds)),
        Fate::Lost => {
            routed(routes, request).await;
            Err(Closed)
        }
        Fate::Unreachable => Err(Closed),
    }
}

fn is_write(request: &Request) -> bool {
    request.method() != Method::GET && request.uri().path().starts_with("/admin/")
}

async fn routed(mut routes: Router, request: Request) -> Response {
    routes.call(request).await.unwrap_or_else(|never| match never {})
}

fn failed(status: u16) -> Response {
    let status = StatusCode::from_u16(status).expect("one of four statuses");
    let body = json!({"error": "unknown_error", "error_description": "For more on this error consult the server log."});
    (status, axum::Json(body)).into_response()
}

fn throttled(seconds: u64) -> Response {
    (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds.to_string())]).into_response()
}

/// The connection ends without an answer.
#[derive(Debug)]
pub(super) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}
