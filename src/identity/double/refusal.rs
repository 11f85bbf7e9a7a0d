//! This file is how the double says no, in Keycloak's words and shapes.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Value,
}

impl Refusal {
    pub(super) fn unauthorized() -> Self {
        Self::error(StatusCode::UNAUTHORIZED, "HTTP 401 Unauthorized")
    }

    pub(super) fn forbidden() -> Self {
        Self::error(StatusCode::FORBIDDEN, "HTTP 403 Forbidden")
    }

    pub(super) fn no_user() -> Self {
        Self::error(StatusCode::NOT_FOUND, "User not found")
    }

    pub(super) fn no_realm() -> Self {
        Self::error(StatusCode::NOT_FOUND, "Realm not found.")
    }

    pub(super) fn no_route() -> Self {
        Self::error(StatusCode::NOT_FOUND, "Unable to find matching target resource method")
    }

    pub(super) fn error(status: StatusCode, error: &str) -> Self {
        Self { status, body: json!({"error": error}) }
    }

    /// As the token endpoint says it.
    pub(super) fn grant(status: StatusCode, error: &str, description: &str) -> Self {
        Self { status, body: json!({"error": error, "error_description": description}) }
    }

    pub(super) fn taken(what: &str) -> Self {
        Self { status: StatusCode::CONFLICT, body: json!({"errorMessage": format!("User exists with same {what}")}) }
    }

    /// A request that is wrong as a whole.
    pub(super) fn bad(message: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: json!({"errorMessage": message}) }
    }

    /// One or more fields that are wrong.
    pub(super) fn fields(mut errors: Vec<Value>) -> Self {
        let body = if errors.len() == 1 { errors.remove(0) } else { json!({"errors": errors}) };
        Self { status: StatusCode::BAD_REQUEST, body }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
