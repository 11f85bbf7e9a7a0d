//! This file answers whether the daemon is alive and whether it is ready.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::auth::Authentication;
use super::problem::Problem;
use super::shape::Json;
use crate::engine::{Check, Engine};

/// How long the parts may take to say how they are.
const HEALTH_DEADLINE: Duration = Duration::from_secs(5);

/// What `/livez` and `/readyz` answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Health)]
pub(crate) struct Report {
    /// `ok`, or `unavailable` when a check fails.
    status: &'static str,
    /// One entry a part.
    checks: Vec<Entry>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = HealthCheck)]
struct Entry {
    /// The part.
    name: String,
    /// Whether it is as it should be.
    ok: bool,
    /// How it is; where it fails, why.
    detail: String,
}

/// `/livez` (the process answers) and `/readyz` (every part is as it should be, one entry each).
pub(crate) fn routes(engine: Engine, authentication: Authentication) -> Router {
    Router::new().route("/livez", get(live)).route("/readyz", get(ready)).with_state((engine, authentication))
}

/// The same two while the engine is being started, and 503 for everything else.
pub(crate) fn routes_while_starting() -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(async || answer(vec![check("engine", false, "starting")])))
        .fallback(async || Problem::starting())
}

/// Whether the process answers.
#[utoipa::path(get, path = "/livez", operation_id = "live", tag = "operation",
    responses((status = 200, body = Report, description = "It does")))]
pub(crate) async fn live() -> Response {
    answer(vec![check("process", true, "answering")])
}

/// Whether every part is as it should be; which is not, and why.
#[utoipa::path(get, path = "/readyz", operation_id = "ready", tag = "operation",
    responses((status = 200, body = Report, description = "Every check passes"),
        (status = 503, body = Report, description = "One or more checks fail; each says why")))]
pub(crate) async fn ready(State((engine, authentication)): State<(Engine, Authentication)>) -> Response {
    let parts = tokio::time::timeout(HEALTH_DEADLINE, engine.health());
    let tokens = tokio::time::timeout(HEALTH_DEADLINE, authentication.health());
    let (parts, tokens) = tokio::join!(parts, tokens);
    let mut checks = parts.unwrap_or_else(|_| vec![check("engine", false, "no answer within 5 s")]);
    checks.extend(tokens.unwrap_or_else(|_| Some(check("tokens", false, "the issuer does not answer within 5 s"))));
    answer(checks)
}

fn answer(checks: Vec<Check>) -> Response {
    let ok = checks.iter().all(|check| check.ok);
    let (code, status) = if ok { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    let checks = checks.into_iter().map(|Check { name, ok, detail }| Entry { name, ok, detail }).collect();
    (code, [(header::CACHE_CONTROL, "no-store")], Json(Report { status, checks })).into_response()
}

fn check(name: &str, ok: bool, detail: &str) -> Check {
    Check { name: name.into(), ok, detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn get_from(router: Router, path: &str) -> (StatusCode, serde_json::Value) {
        let response = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_daemon_that_is_starting_is_alive_but_not_ready_and_executes_nothing() {
        let (live, _) = get_from(routes_while_starting(), "/livez").await;
        let (ready, checks) = get_from(routes_while_starting(), "/readyz").await;
        let (other, problem) = get_from(routes_while_starting(), "/v1/payments").await;

        assert_eq!((live, ready, other), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE, ready));
        assert_eq!(checks["checks"][0]["detail"], "starting");
        assert_eq!((&problem["outcome"], &problem["code"]), (&"not_executed".into(), &"store_unavailable".into()));
    }

    #[tokio::test]
    async fn one_failing_check_makes_the_whole_not_ready_and_is_named() {
        let response = answer(vec![check("store", true, "at 7"), check("projection:a", false, "quarantined")]);

        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(report["checks"][1]["name"], "projection:a");
        assert_eq!(report["checks"][0]["ok"], true);
    }
}
