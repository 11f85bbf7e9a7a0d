//! This file is what an operator asks of a running daemon: what it is, how the read models are, make one anew, let one
//! try again.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;

use super::AppState;
use super::document::NoneSuch;
use super::problem::{Problem, ProblemBody};
use super::request::body::{Body, text};
use super::request::parameters::Parameters;
use super::shape::Json;
use crate::engine::{ProjectionState, ProjectionStatus};

/// What runs here, and on what.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Status {
    /// Version of this daemon.
    #[schema(example = "0.1.0")]
    essaim: &'static str,
    /// Whether it was built with optimisation.
    optimised: bool,
    /// The database's address, without user and password.
    #[schema(example = "postgres://localhost/essaim")]
    database: String,
    /// What makes commits durable there, as it is in force, and which release the database is.
    durability: Vec<StoreSetting>,
}

/// A setting of the database.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct StoreSetting {
    #[schema(example = "synchronous_commit")]
    name: String,
    #[schema(example = "on")]
    value: String,
}

/// Versions, and what makes commits durable.
#[utoipa::path(get, path = "/v1/admin/status", operation_id = "get_status", tag = "admin",
    responses((status = 200, body = Status),
        (status = 503, body = ProblemBody, content_type = "application/problem+json",
            description = "`store_unavailable`", headers(("Retry-After" = u64, description = "Whole seconds")))))]
pub(crate) async fn status(
    State(state): State<Arc<AppState>>,
    parameters: Parameters,
) -> Result<Json<Status>, Problem> {
    parameters.finish()?;
    let store = state.engine.store();
    let settings = store.durability().await.map_err(|error| {
        tracing::warn!(%error, "the store does not say what makes it durable");
        Problem::new("store_unavailable", "the database does not answer")
    })?;
    let durability = settings.into_iter().map(|(name, value)| StoreSetting { name, value }).collect();
    let (essaim, optimised) = (env!("CARGO_PKG_VERSION"), !cfg!(debug_assertions));
    Ok(Json(Status { essaim, optimised, database: store.describe(), durability }))
}

/// The read models of this daemon.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ProjectionList {
    items: Vec<ProjectionShape>,
}

/// How a read model is doing.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Projection)]
pub(crate) struct ProjectionShape {
    name: &'static str,
    /// The SQL view that shows it.
    view: String,
    /// Which function of the log it is.
    version: u32,
    /// How far the hot rows are.
    position: u64,
    /// How far the SQL table is.
    checkpoint: u64,
    rows: usize,
    /// `catching_up`, `live`, `restarting` or `quarantined`.
    state: &'static str,
    /// What failed; null when nothing did.
    reason: Option<String>,
}

impl ProjectionShape {
    fn of(status: ProjectionStatus) -> Self {
        let ProjectionStatus { name, view, version, position, checkpoint, rows, state } = status;
        let (state, reason) = state_of(state);
        Self { name, view, version, position: position.0, checkpoint: checkpoint.0, rows, state, reason }
    }
}

/// The state of a part by name, and what failed.
pub(super) fn state_of(state: ProjectionState) -> (&'static str, Option<String>) {
    match state {
        ProjectionState::CatchingUp => ("catching_up", None),
        ProjectionState::Live => ("live", None),
        ProjectionState::Restarting(reason) => ("restarting", Some(reason)),
        ProjectionState::Quarantined(reason) => ("quarantined", Some(reason)),
    }
}

/// The read models: how far, and what is the matter with them.
#[utoipa::path(get, path = "/v1/admin/projections", operation_id = "list_projections", tag = "admin",
    responses((status = 200, body = ProjectionList)))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    parameters: Parameters,
) -> Result<Json<ProjectionList>, Problem> {
    parameters.finish()?;
    let items = state.engine.projections().into_iter().map(ProjectionShape::of).collect();
    Ok(Json(ProjectionList { items }))
}

/// Digest of a read model's hot rows.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ProjectionDigest {
    name: String,
    /// The position at which the rows have this digest.
    position: u64,
    /// Equal digests at equal positions mean equal rows.
    digest: String,
}

/// A digest of all rows of a read model, to be held against that of a rebuild.
#[utoipa::path(get, path = "/v1/admin/projections/{name}/digest", operation_id = "digest_projection", tag = "admin",
    params(("name" = String, Path, description = "The projection's name")),
    responses((status = 200, body = ProjectionDigest), NoneSuch))]
pub(crate) async fn digest(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    parameters: Parameters,
) -> Result<Json<ProjectionDigest>, Problem> {
    parameters.finish()?;
    let name = name_of(name)?;
    let (position, digest) = state.engine.digest(&name).await.ok_or_else(no_such_projection)?;
    Ok(Json(ProjectionDigest { name, position: position.0, digest: digest.to_string() }))
}

fn name_of(name: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    name.map(|Path(name)| name).map_err(|_| no_such_projection())
}

fn no_such_projection() -> Problem {
    Problem::new("not_found", "there is no such projection")
}

/// A read model that was built anew.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Rebuilt {
    name: String,
    rebuilt: bool,
}

/// Builds a read model anew from the first event, and answers when it is done. It goes on when the client does not
/// wait for it; the old rows are shown until then.
#[utoipa::path(post, path = "/v1/admin/projections/{name}/rebuild", operation_id = "rebuild_projection", tag = "admin",
    params(("name" = String, Path, description = "The projection's name")),
    responses((status = 200, body = Rebuilt), NoneSuch,
        (status = 500, body = ProblemBody, content_type = "application/problem+json", description = "`internal`")))]
pub(crate) async fn rebuild(
    State(state): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    parameters: Parameters,
    body: Body,
) -> Result<Json<Rebuilt>, Problem> {
    parameters.finish()?;
    body.finish()?;
    let name = name_of(name)?;
    let asked = name.clone();
    match tokio::spawn(async move { state.engine.rebuild(&asked).await }).await {
        Ok(true) => Ok(Json(Rebuilt { name, rebuilt: true })),
        Ok(false) => Err(no_such_projection()),
        Err(_) => Err(Problem::new("internal", "the rebuild failed; the log says more")),
    }
}

/// What is to be released.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct ReleaseBody {
    /// A projection's name, or `category-key` of an aggregate.
    #[schema(example = "payment_summaries")]
    name: String,
}

/// A part that may try again.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Released {
    name: String,
    released: bool,
}

/// Lets a part that was set aside after too many failures try again.
#[utoipa::path(post, path = "/v1/admin/release", operation_id = "release_part", tag = "admin", request_body = ReleaseBody,
    responses((status = 200, body = Released), NoneSuch,
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "`malformed`, `unknown_field`, `invalid_field`, `unknown_parameter`")))]
pub(crate) async fn release(
    State(state): State<Arc<AppState>>,
    parameters: Parameters,
    mut body: Body,
) -> Result<Json<Released>, Problem> {
    parameters.finish()?;
    let name = body.required("name", text);
    body.finish()?;
    let name = name.expect("a body without faults has a name");
    if state.engine.release(&name).await {
        Ok(Json(Released { name, released: true }))
    } else {
        Err(Problem::new("not_found", "no part of that name is set aside"))
    }
}
