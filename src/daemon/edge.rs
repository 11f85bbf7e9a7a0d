//! This file wraps every request: a span with its correlation id, counts, limits, headers that each answer carries,
//! and the end of endless answers when the daemon drains.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutBody;
use tracing::{Instrument, Span, debug, error, field, info_span, warn};

use super::config::Config;
use super::metrics::Requests;
use super::problem::Problem;
use super::request::headers::correlation_id;

/// Wraps the routes. `draining` ends streams that would otherwise never end.
pub(crate) fn wrap(routes: Router, config: &Config, draining: CancellationToken) -> Router {
    let edge = Edge {
        max_body: config.max_body_bytes.count(),
        body_timeout: config.request_body_timeout_seconds.seconds(),
        draining,
        requests: Requests::default(),
    };
    routes.layer(from_fn_with_state(Arc::new(edge), pass))
}

/// What all requests have in common.
struct Edge {
    max_body: usize,
    body_timeout: Duration,
    draining: CancellationToken,
    requests: Requests,
}

/// One layer for all of it: each clones whatever is below it, for every request.
async fn pass(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    let response = observed(&edge.requests, request, async |request| {
        let request = edge.limited(request);
        AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| defect())
    });
    let mut response = edge.ending_with_the_daemon(response.await);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// One span a request. The correlation id is the one the request brings; whoever knows a better one records it.
async fn observed(requests: &Requests, request: Request, inner: impl AsyncFnOnce(Request) -> Response) -> Response {
    let count = requests.begin();
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = info_span!("request", %method, route, correlation_id = field::Empty);
    // One that cannot be read is refused by whoever needs it.
    if let Ok(Some(id)) = correlation_id(request.headers()) {
        span.record("correlation_id", field::display(id));
    }
    let response = inner(request).instrument(span.clone()).await;
    log_answer(&span, response.status(), started);
    count.answered(route, &method, response.status(), started.elapsed());
    response
}

impl Edge {
    fn limited(&self, mut request: Request) -> Request {
        DefaultBodyLimit::max(self.max_body).apply(&mut request);
        if request.body().is_end_stream() {
            return request;
        }
        request.map(|body| Body::new(TimeoutBody::new(self.body_timeout, body)))
    }

    /// A follower of the log would keep its connection open beyond every deadline; it resumes with `Last-Event-ID`.
    fn ending_with_the_daemon(&self, response: Response) -> Response {
        let content_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if !content_type.is_some_and(|value| value.starts_with(b"text/event-stream")) {
            return response;
        }
        let drained = self.draining.clone().cancelled_owned();
        response.map(|body| Body::from_stream(body.into_data_stream().take_until(drained)))
    }
}

fn log_answer(span: &Span, status: StatusCode, started: Instant) {
    let micros = started.elapsed().as_micros();
    span.in_scope(|| match status {
        StatusCode::INTERNAL_SERVER_ERROR => error!(status = status.as_u16(), micros, "request failed"),
        status if status.is_server_error() => warn!(status = status.as_u16(), micros, "request not answered"),
        status => debug!(status = status.as_u16(), micros, "request answered"),
    });
}

/// The panic's own words go to the log by the hook, not to the client.
fn defect() -> Response {
    Problem::new("internal", "a defect in the daemon; see its log").into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::routing::{get, post};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt;

    use super::*;
    use crate::daemon::config::layers::Layers;

    fn wrapped() -> Router {
        let routes = Router::new()
            .route("/meters/{id}", get(async || "read"))
            .route("/broken", get(async || -> &'static str { panic!("as this test wants it") }))
            .route("/body", post(async |body: Bytes| body.len().to_string()));
        let config = Layers { flags: vec![("max_body_bytes".into(), "1024".into())], ..Layers::default() };
        wrap(routes, &config.load().unwrap().config, CancellationToken::new())
    }

    async fn answer(request: Request) -> Response {
        wrapped().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_defect_in_one_request_is_its_own_answer_and_tells_nothing() {
        let response = answer(Request::get("/broken").body(Body::empty()).unwrap()).await;

        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("as this test wants it"));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
        let post = |bytes: usize| Request::post("/body").body(Body::from(vec![b' '; bytes])).unwrap();

        assert_eq!(answer(post(1_024)).await.status(), StatusCode::OK);
        assert_eq!(answer(post(1_025)).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn requests_are_counted_by_the_template_of_their_route_and_never_by_their_path() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        metrics::with_local_recorder(&recorder, || {
            for path in ["/meters/17", "/meters/18", "/nowhere/19"] {
                let request = Request::get(path).body(Body::empty()).unwrap();
                runtime.block_on(answer(request));
            }
        });

        let shown = recorder.handle().render();

        let of_meters = r#"essaim_http_requests_total{route="/meters/{id}",method="GET",status="2xx"} 2"#;
        let of_nothing = r#"essaim_http_requests_total{route="unmatched",method="GET",status="4xx"} 1"#;
        assert!(shown.contains(of_meters) && shown.contains(of_nothing), "{shown}");
        assert!(shown.contains("essaim_http_requests_in_flight 0"), "{shown}");
        assert!(!shown.contains("/17") && !shown.contains("nowhere"), "{shown}");
    }

    #[tokio::test]
    async fn an_endless_event_stream_ends_when_the_daemon_drains() {
        let draining = CancellationToken::new();
        let endless = || async {
            let body = Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
            ([(header::CONTENT_TYPE, "text/event-stream")], body)
        };
        let config = Layers::default().load().unwrap().config;
        let router = wrap(Router::new().route("/", get(endless)), &config, draining.clone());
        let response = router.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();

        draining.cancel();

        assert!(axum::body::to_bytes(response.into_body(), 1).await.unwrap().is_empty());
    }
}
