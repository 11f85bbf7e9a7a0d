//! This file is `/double/…`: how the double is steered and looked at while it runs. No fault reaches it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::Shared;
use super::faults::{Counters, Faults};
use super::refusal::Refusal;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/double/faults", get(faults).patch(change_faults))
        .route("/double/counters", get(counters))
        .route("/double/users/{username}/verify-email", post(verify_email))
}

async fn faults(State(shared): State<Shared>) -> Json<Faults> {
    Json(shared.switches.faults())
}

/// Changes the faults that are named; the others stay.
async fn change_faults(State(shared): State<Shared>, Json(changes): Json<Value>) -> Response {
    match changed(&shared, changes) {
        Ok(faults) => Json(faults).into_response(),
        Err(message) => Refusal::error(StatusCode::BAD_REQUEST, &message).into_response(),
    }
}

fn changed(shared: &Shared, changes: Value) -> Result<Faults, String> {
    let Value::Object(changes) = changes else { return Err("an object of faults is wanted".into()) };
    let current = serde_json::to_value(shared.switches.faults()).map_err(|error| error.to_string())?;
    let Value::Object(mut wanted) = current else { return Err("an object of faults is wanted".into()) };
    wanted.extend(changes);
    let wanted: Faults = serde_json::from_value(Value::Object(wanted)).map_err(|error| error.to_string())?;
    shared.switches.set(wanted.clone())?;
    Ok(wanted)
}

async fn counters(State(shared): State<Shared>) -> Json<Counters> {
    Json(shared.counters())
}

async fn verify_email(State(shared): State<Shared>, Path(username): Path<String>) -> Response {
    if shared.realm().verify_email(&username) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        Refusal::no_user().into_response()
    }
}
