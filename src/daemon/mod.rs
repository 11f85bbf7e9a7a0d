//! This file draws the daemon: what exposes the engine to operators and, over HTTP, to clients.
//!
//! ```text
//! cli          commands and flags          config      every key, its layers
//! ├─ serve     bind, start, serve, drain   failure     what ends the program, and its exit codes
//! │  ├─ connections   accept, at most so many
//! │  ├─ edge          what wraps every request
//! │  ├─ auth          who asks, and whether he may
//! │  └─ router        payments, users, events (the log), audit, admin, synchronisers; request and problem; health, metrics
//! ├─ doctor, events, projections           read the store beside a running daemon
//! ├─ provider  users kept in step with Keycloak, and what they did there
//! └─ built_in  the aggregates and projections that the daemon runs
//! ```

mod admin;
mod audit;
pub mod auth;
mod built_in;
pub mod cli;
pub mod config;
mod connections;
mod cursor;
mod document;
mod edge;
mod events;
mod execute;
pub mod failure;
mod health;
mod log_identity;
mod logging;
mod metrics;
mod payments;
mod problem;
#[cfg(feature = "keycloak")]
mod provider;
#[path = "no_provider.rs"]
#[cfg(not(feature = "keycloak"))]
mod provider;
mod reading;
mod request;
mod serve;
mod shape;
mod synchronisers;
mod users;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use self::auth::Authentication;
use self::document::Document;
use self::problem::pages;
use crate::engine::Engine;

/// What the resources share.
#[derive(Clone)]
pub struct AppState {
    /// The engine.
    pub engine: Engine,
    /// The age at which an open payment counts as expired.
    pub payment_expiry: Duration,
    /// How long a read waits for its position when it does not say.
    pub read_wait: Duration,
    /// Who may ask.
    pub authentication: Authentication,
}

impl AppState {
    /// Whether users are kept in step with an identity provider.
    pub(crate) fn has_identity_provider(&self) -> bool {
        built_in::identity_provider(&self.engine).is_some()
    }
}

/// The resources, the pages that explain problems, and the document that describes them all: `/openapi.json`, and as
/// a page, offline, `/docs`.
pub fn router(state: AppState) -> axum::Router {
    let (routes, document) = documented();
    // Cloned several times a request, so that it is one pointer.
    let state = Arc::new(state);
    routes
        .with_state(Arc::clone(&state))
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
        .fallback(pages::unknown_route)
        .method_not_allowed_fallback(pages::unknown_method)
        .layer(from_fn_with_state(state, admit))
}

/// What every request passes on its way to its route. One layer for all of it: each clones whatever is below it, for
/// every request.
async fn admit(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    correlated(request, |mut request| async {
        if let Err(problem) = auth::guard(&state.authentication, &mut request).await {
            return problem.into_response();
        }
        let inner = |request| log_identity::name_the_log(&state.engine, request, next);
        users::waiting::wait_when_told(&state.engine, request, inner).await
    })
    .await
}

fn documented() -> (axum::Router<Arc<AppState>>, utoipa::openapi::OpenApi) {
    let (routes, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(payments::create, payments::queries::list))
        .routes(routes!(payments::queries::statistics))
        .routes(routes!(payments::queries::get))
        .routes(routes!(payments::authorize))
        .routes(routes!(payments::complete))
        .routes(routes!(payments::cancel))
        .routes(routes!(payments::queries::report))
        .routes(routes!(payments::queries::events))
        .routes(routes!(users::register, users::queries::list))
        .routes(routes!(users::queries::analytics))
        .routes(routes!(users::queries::get, users::update, users::delete))
        .routes(routes!(users::assign_roles))
        .routes(routes!(users::enable))
        .routes(routes!(users::disable))
        .routes(routes!(users::verify_email))
        .routes(routes!(users::record_login))
        .routes(routes!(events::list))
        .routes(routes!(audit::search))
        .routes(routes!(admin::status))
        .routes(routes!(admin::list))
        .routes(routes!(admin::digest))
        .routes(routes!(admin::rebuild))
        .routes(routes!(admin::release))
        .routes(routes!(synchronisers::list))
        .routes(routes!(synchronisers::get))
        .routes(routes!(synchronisers::reconcile))
        .routes(routes!(synchronisers::dead_letters::list))
        .routes(routes!(synchronisers::dead_letters::get))
        .routes(routes!(synchronisers::dead_letters::retry))
        .routes(routes!(synchronisers::dead_letters::skip))
        .routes(routes!(pages::explain))
        .split_for_parts();
    document::access::add(&mut document);
    (routes, document)
}

/// Every answer names the correlation id that its request brought, refusals too.
async fn correlated(request: Request, inner: impl AsyncFnOnce(Request) -> Response) -> Response {
    // One that cannot be read is refused by whoever needs it.
    let id = request::headers::correlation_id(request.headers()).ok().flatten();
    let mut response = inner(request).await;
    if let Some(id) = id {
        let (name, value) = request::shown("essaim-correlation-id", id);
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}
