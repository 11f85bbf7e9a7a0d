//! This file is what an operator asks of synchronisers: how they do, what was set aside, and what drifted outside.
//!
//! ```text
//! synchronisers    list and show, begin a reconcile
//! dead_letters     list, show, retry, skip with a reason
//! ```

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::AppState;
use super::admin::state_of;
use super::document::NoneSuch;
use super::problem::{Problem, ProblemBody};
use super::request::body::Body;
use super::request::parameters::Parameters;
use super::shape::{Json, time};
use crate::engine::SynchroniserHandle;
use crate::synchroniser::{Drift, Reconciliation};

pub(crate) mod dead_letters;

/// The synchronisers of this daemon.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SynchroniserList {
    items: Vec<SynchroniserShape>,
}

/// How a synchroniser is doing.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Synchroniser)]
pub(crate) struct SynchroniserShape {
    /// Also the table of its subjects.
    name: &'static str,
    /// How far it has followed the log.
    position: u64,
    /// How far its SQL table is.
    checkpoint: u64,
    subjects: usize,
    /// Subjects that are not yet outside as wanted, without dead letters.
    pending: usize,
    dead_letters: usize,
    calls_in_flight: usize,
    /// For how long the outside has been taken for unavailable; null while it answers.
    unavailable_for_seconds: Option<u64>,
    /// `catching_up`, `live`, `restarting` or `quarantined`.
    state: &'static str,
    /// What failed; null when nothing did.
    reason: Option<String>,
    /// The comparison with the outside that goes on, or the last one since the start.
    reconciliation: Option<ReconciliationShape>,
}

impl SynchroniserShape {
    fn of(handle: &SynchroniserHandle) -> Self {
        let status = handle.status();
        let (state, reason) = state_of(status.state);
        Self {
            name: status.name,
            position: status.position.0,
            checkpoint: status.checkpoint.0,
            subjects: status.subjects,
            pending: status.pending,
            dead_letters: status.dead_letters,
            calls_in_flight: status.calls_in_flight,
            unavailable_for_seconds: status.unavailable_for.map(|since| since.as_secs()),
            state,
            reason,
            reconciliation: handle.reconciliation().map(ReconciliationShape::of),
        }
    }
}

/// What a comparison with the outside found, so far or at last.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Reconciliation)]
pub(crate) struct ReconciliationShape {
    started_at: String,
    /// Null while it goes on.
    finished_at: Option<String>,
    repair: bool,
    /// Settled subjects that were looked at.
    checked: u64,
    /// Those that could not be looked at, or were changed meanwhile.
    passed_over: u64,
    /// Things outside that carry an id of ours; null until they are listed to the end.
    surveyed: Option<u64>,
    /// Those that are not as wanted, and those outside that belong to nobody here.
    drifted: u64,
    /// The first 1,000 of them.
    drifts: Vec<DriftShape>,
}

impl ReconciliationShape {
    fn of(report: Reconciliation) -> Self {
        Self {
            started_at: time(report.started_at),
            finished_at: report.finished_at.map(time),
            repair: report.repairs,
            checked: report.checked,
            passed_over: report.passed_over,
            surveyed: report.surveyed,
            drifted: report.drifted,
            drifts: report.drifts.into_iter().map(DriftShape::of).collect(),
        }
    }
}

/// A subject that is not outside as it should be, or something outside that belongs to nobody here.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Drift)]
pub(crate) struct DriftShape {
    /// The subject, or the id of ours that the thing outside carries.
    subject: String,
    /// The version that should be outside; 0 when there is no such subject.
    version: u64,
    /// Names of what differs: fields, `missing`, `left over`; `unknown` when there is no such subject.
    differs: Vec<String>,
    /// What the outside calls the thing that belongs to nobody; else null.
    outside_id: Option<String>,
    /// Whether it was put up for another call, or removed.
    repaired: bool,
}

impl DriftShape {
    fn of(drift: Drift) -> Self {
        let Drift { subject, version, differs, outside_id, repaired } = drift;
        Self { subject, version: version.0, differs, outside_id, repaired }
    }
}

/// The synchronisers: how far, and what is the matter with them.
#[utoipa::path(get, path = "/v1/admin/synchronisers", operation_id = "list_synchronisers", tag = "admin",
    responses((status = 200, body = SynchroniserList)))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    parameters: Parameters,
) -> Result<Json<SynchroniserList>, Problem> {
    parameters.finish()?;
    Ok(Json(SynchroniserList { items: state.engine.synchronisers().iter().map(SynchroniserShape::of).collect() }))
}

/// One synchroniser.
#[utoipa::path(get, path = "/v1/admin/synchronisers/{name}", operation_id = "get_synchroniser", tag = "admin",
    params(("name" = String, Path, description = "The synchroniser's name")),
    responses((status = 200, body = SynchroniserShape), NoneSuch))]
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    parameters: Parameters,
) -> Result<Json<SynchroniserShape>, Problem> {
    parameters.finish()?;
    Ok(Json(SynchroniserShape::of(&named(&state, name.ok().map(|Path(name)| name).as_deref())?)))
}

/// How a comparison with the outside is to be.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct ReconcileBody {
    /// Whether what drifted is brought again, and what the report before this one calls `unknown` is removed; false
    /// when absent.
    repair: Option<bool>,
}

/// Begins to compare every settled subject with the outside, at a limited rate. The report is part of the synchroniser.
#[utoipa::path(post, path = "/v1/admin/synchronisers/{name}/reconcile", operation_id = "reconcile", tag = "admin",
    params(("name" = String, Path, description = "The synchroniser's name")), request_body = ReconcileBody,
    responses((status = 202, body = SynchroniserShape), NoneSuch,
        (status = 409, body = ProblemBody, content_type = "application/problem+json",
            description = "`conflict`: one is going on"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "`malformed`, `unknown_field`, `invalid_field`, `unknown_parameter`")))]
pub(crate) async fn reconcile(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    parameters: Parameters,
    mut body: Body,
) -> Result<(StatusCode, Json<SynchroniserShape>), Problem> {
    parameters.finish()?;
    let repair = body.optional("repair", truth).unwrap_or(false);
    body.finish()?;
    let handle = named(&state, name.ok().map(|Path(name)| name).as_deref())?;
    if !handle.reconcile(repair) {
        return Err(Problem::new("conflict", "a comparison is going on; its report says how far it is"));
    }
    Ok((StatusCode::ACCEPTED, Json(SynchroniserShape::of(&handle))))
}

fn truth(value: Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".into())
}

fn named(state: &AppState, name: Option<&str>) -> Result<SynchroniserHandle, Problem> {
    name.and_then(|name| state.engine.synchroniser(name))
        .ok_or_else(|| Problem::new("not_found", "there is no such synchroniser"))
}
