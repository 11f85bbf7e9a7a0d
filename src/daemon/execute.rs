//! This file executes a command that a request brought and answers with its outcome.

use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use super::AppState;
use super::problem::{Problem, Refusal};
use super::request::headers::CommandHeaders;
use super::request::shown;
use super::shape::Json;
use crate::aggregate::Aggregate;

/// What a command answers.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Done {
    /// What the command was for.
    id: Uuid,
    /// How many events it has.
    version: u64,
    /// How far the log went.
    position: u64,
}

/// Executes a command; the answer's status and body follow from its outcome alone, so that a retry gets the same bytes.
///
/// # Errors
/// The problem that says why there is no receipt.
pub(crate) async fn execute<A: Aggregate<Rejection: Refusal>>(
    state: &AppState,
    id: Uuid,
    command: A::Command,
    headers: CommandHeaders,
) -> Result<Response, Problem> {
    let CommandHeaders { options, correlation_id, .. } = headers;
    let correlation = shown("essaim-correlation-id", correlation_id);
    match state.engine.execute_with(&A::id(id), command, options).await {
        Ok(receipt) => {
            let done = Done { id, version: receipt.version.0, position: receipt.position.0 };
            let etag = shown("etag", format!("\"{}\"", receipt.version));
            let headers = [shown("essaim-position", receipt.position), etag, correlation];
            let mut response = (headers, Json(done)).into_response();
            response.headers_mut().extend(receipt.replayed.then(replayed));
            Ok(response)
        }
        Err(error) => {
            let is_replayed = error.is_replayed();
            let problem = Problem::from_execute(error).with(correlation.0, correlation.1);
            if !is_replayed {
                return Err(problem);
            }
            let (name, value) = replayed();
            Err(problem.with(name, value))
        }
    }
}

fn replayed() -> (axum::http::HeaderName, axum::http::HeaderValue) {
    shown("idempotency-replayed", true)
}
