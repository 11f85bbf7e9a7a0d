//! This file reads users: from the read models as they are, from the log as they were.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::boundary::Boundary;
use super::none_such;
use super::shapes::{UserAnalyticsShape, UserListItem, UserListPage, UserShape};
use crate::aggregate::Aggregate;
use crate::daemon::document::{NoneSuch, ReadParams, ReadProblems};
use crate::daemon::problem::Problem;
use crate::daemon::request::headers::ReadHeaders;
use crate::daemon::request::language::Accepted;
use crate::daemon::request::parameters::Parameters;
use crate::daemon::request::{Id, invalid, shown, uuid};
use crate::daemon::shape::Json;
use crate::daemon::{AppState, cursor};
use crate::domain::user::User;
use crate::engine::UpTo;
use crate::projections::user_analytics::{UserAnalytics, figures};
use crate::projections::user_list::{Prefix, UserFilter, UserList, UserStatus, numbered_page, page};
use crate::projections::user_profiles::{UserProfileRow, UserProfiles};
use crate::stream::Version;

const MAX_PAGE: u64 = 200;
const DEFAULT_PAGE: u64 = 50;
const MAX_PREFIX_CHARACTERS: usize = 255;

/// One user, as it is or as it was; a deleted one too.
#[utoipa::path(get, path = "/v1/users/{id}", operation_id = "get_user", tag = "users",
    params(("id" = Uuid, Path),
        ("version" = Option<u64>, Query, minimum = 1, description = "As it was at this version; not beside `at`"),
        ("at" = Option<String>, Query, description = "As it was at this moment (RFC 3339); not beside `version`"), ReadParams),
    responses((status = 200, body = UserShape, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems, NoneSuch))]
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    boundary: Boundary,
    headers: ReadHeaders,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let version = parameters.number("version", 1..=u64::MAX)?;
    let at = parameters.time("at")?;
    parameters.finish()?;
    match (version, at) {
        (None, None) => as_it_is(&state, user, boundary, headers).await,
        (Some(version), None) => as_it_was(&state, user, boundary, headers, UpTo::Version(Version(version))).await,
        (None, Some(at)) => as_it_was(&state, user, boundary, headers, UpTo::Time(at)).await,
        (Some(_), Some(_)) => Err(invalid("at", "cannot stand beside version: ask for one of them")),
    }
}

async fn as_it_is(state: &AppState, user: Uuid, boundary: Boundary, headers: ReadHeaders) -> Result<Response, Problem> {
    let view = state.read_model_at_least::<UserProfiles>(headers).await?;
    let row = view.get(&user).filter(|row| boundary.allows(row.organization_id)).ok_or_else(none_such)?;
    let shape = UserShape::of(&row, Some(sync_of(state, &row)));
    let headers = [shown("essaim-position", view.position()), etag(row.version)];
    Ok((headers, Json(shape)).into_response())
}

/// Where no identity provider is configured, nothing is pending either.
fn sync_of(state: &AppState, row: &UserProfileRow) -> &'static str {
    if state.has_identity_provider() { row.sync_state().as_str() } else { "disabled" }
}

/// What came of syncs stands in another stream, which this does not fold.
async fn as_it_was(
    state: &AppState,
    user: Uuid,
    boundary: Boundary,
    headers: ReadHeaders,
    up_to: UpTo,
) -> Result<Response, Problem> {
    state.log_at_least(headers).await?;
    let head = state.engine.head();
    let rows = state.engine.project_stream(&UserProfiles, User::id(user).stream(), up_to).await;
    let rows = rows.map_err(|error| Problem::from_store(&error))?;
    let row = rows.first().filter(|row| boundary.allows(row.organization_id)).ok_or_else(none_such)?;
    let headers = [shown("essaim-position", head), etag(row.version)];
    Ok((headers, Json(UserShape::of(row, None))).into_response())
}

fn etag(version: u64) -> (HeaderName, HeaderValue) {
    shown("etag", format!("\"{version}\""))
}

/// Users, newest first: by page, which says how many there are, or by cursor, which does not shift when users come.
#[utoipa::path(get, path = "/v1/users", operation_id = "list_users", tag = "users",
    params(("organization_id" = Option<Uuid>, Query, description = "Only of this organisation"),
        ("status" = Option<String>, Query, description = "`disabled`, `unverified` or `active`"),
        ("q" = Option<String>, Query, description = "Whose username, email, first or last name begins so, in any case"),
        ("page" = Option<u64>, Query, minimum = 1, description = "1 by default; not beside `cursor`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "50 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same filters"),
        ("Accept-Language" = Option<String>, Header, description = "Of the labels: French by default, or English"),
        ReadParams),
    responses((status = 200, body = UserListPage, headers(("Content-Language" = String, description = "Of the labels"),
        ("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems, NoneSuch))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    boundary: Boundary,
    headers: ReadHeaders,
    Accepted(language): Accepted,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let filter = filter(&mut parameters, boundary)?;
    let number = parameters.number("page", 1..=u64::from(u32::MAX))?;
    let limit = parameters.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let cursor = parameters.take("cursor", |text| Ok::<_, &str>(text.to_owned()))?;
    parameters.finish()?;
    if number.is_some() && cursor.is_some() {
        return Err(invalid("cursor", "cannot stand beside page: ask for one of them"));
    }
    let listing = format!("users {filter:?}");
    let before = cursor.map(|cursor| cursor::decode(&cursor, &listing)).transpose()?;
    let view = state.read_model_at_least::<UserList>(headers).await?;
    let at_most = usize::try_from(limit).expect("at most 200");
    let (position, rows, next, total) = view.read(|users| match before {
        Some(_) => {
            let page = page(users, &filter, before, at_most);
            (users.position(), page.rows, page.next, None)
        }
        None => {
            let before = usize::try_from(number.unwrap_or(1)).expect("at most 2^32");
            let page = numbered_page(users, &filter, before, at_most);
            let is_last = before.saturating_mul(at_most) >= page.total;
            let next = page.rows.last().filter(|_| !is_last).map(|row| (row.created_at, row.id));
            (users.position(), page.rows, next, Some(page.total))
        }
    });
    let body = UserListPage {
        items: rows.iter().map(|row| UserListItem::of(row, language)).collect(),
        next_cursor: next.map(|order| cursor::encode(order, &listing)),
        page: total.map(|_| number.unwrap_or(1)),
        limit,
        total,
    };
    let language = [shown("content-language", Accepted(language).tag()), shown("vary", "accept-language")];
    Ok(([shown("essaim-position", position)], language, Json(body)).into_response())
}

fn filter(parameters: &mut Parameters, boundary: Boundary) -> Result<UserFilter, Problem> {
    let organization_id = boundary.narrow(organization(parameters)?)?;
    let status = parameters
        .take("status", |name| UserStatus::from_name(name).ok_or("must be disabled, unverified or active"))?;
    let prefix = parameters.take("q", |text| match text.chars().count() {
        1..=MAX_PREFIX_CHARACTERS => Ok(Prefix::of(text)),
        _ => Err("must be 1 to 255 characters"),
    })?;
    Ok(UserFilter { organization_id, status, prefix })
}

fn organization(parameters: &mut Parameters) -> Result<Option<Uuid>, Problem> {
    parameters.take("organization_id", |text| uuid(text).ok_or("must be a UUID"))
}

/// How many users an organisation has, and what became of them; exact at the position stated.
#[utoipa::path(get, path = "/v1/users/analytics", operation_id = "user_analytics", tag = "users",
    params(("organization_id" = Option<Uuid>, Query, description = "Required of those who are not kept to one"),
        ("from" = Option<String>, Query, description = "Registered then or later (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Registered then or earlier (RFC 3339)"), ReadParams),
    responses((status = 200, body = UserAnalyticsShape,
        headers(("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems, NoneSuch))]
pub(crate) async fn analytics(
    State(state): State<Arc<AppState>>,
    boundary: Boundary,
    headers: ReadHeaders,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let organization_id = boundary.narrow(organization(&mut parameters)?)?;
    let (from, to) = (parameters.time("from")?, parameters.time("to")?);
    parameters.finish()?;
    let organization_id = organization_id.ok_or_else(|| invalid("organization_id", "is missing"))?;
    if from.zip(to).is_some_and(|(from, to)| to < from) {
        return Err(invalid("to", "must not lie before from"));
    }
    let created = from.unwrap_or(DateTime::<Utc>::MIN_UTC)..=to.unwrap_or(DateTime::<Utc>::MAX_UTC);
    let view = state.read_model_at_least::<UserAnalytics>(headers).await?;
    let (position, figures) = view.read(|users| (users.position(), figures(users, organization_id, &created)));
    let body = UserAnalyticsShape::of(organization_id, (from, to), position.0, figures);
    Ok(([shown("essaim-position", position)], Json(body)).into_response())
}

#[cfg(test)]
mod tests;
