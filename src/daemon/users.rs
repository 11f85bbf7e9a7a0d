//! This file takes the commands of users; [`queries`] reads them, [`shapes`] is how they look.
//!
//! The identity provider is never asked here: a command is answered when its event is durable, and the profile says how
//! far the provider is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use self::boundary::Boundary;
use super::AppState;
use super::auth::Caller;
use super::document::{CommandParams, CommandProblems, CreateProblems, Gone, IfMatchParams};
use super::execute::{Done, execute};
use super::problem::Problem;
use super::request::body::{Body, text};
use super::request::headers::CommandHeaders;
use super::request::parameters::Parameters;
use super::request::{Id, invalid, shown, uuid};
use crate::clock::{Clock, SystemClock};
use crate::domain::reason::Reason;
use crate::domain::role::{RoleName, Roles};
use crate::domain::user::{User, UserCommand};
use crate::stream::ExpectedVersion;

pub(crate) mod boundary;
pub(crate) mod queries;
mod shapes;
pub(crate) mod waiting;

fn none_such() -> Problem {
    Problem::new("not_found", "there is no such user, or it was not there at that version or time")
}

/// Who is registered.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct RegisterBody {
    /// The user's id; made by the server when absent, the same for every retry with one key.
    id: Option<Uuid>,
    /// 3 to 255 ASCII letters, digits or any of `. _ @ + -`; kept in lower case, no two users have the same.
    #[schema(example = "ada", min_length = 3, max_length = 255)]
    username: String,
    /// Checked for its form, kept in lower case, no two users have the same.
    #[schema(example = "ada@example.org", max_length = 254)]
    email: String,
    /// Not empty.
    #[schema(min_length = 1, max_length = 100)]
    first_name: String,
    /// Not empty.
    #[schema(min_length = 1, max_length = 100)]
    last_name: String,
    /// The organisation it belongs to, for good.
    organization_id: Uuid,
    /// `[a-z][a-z0-9_-]*` each; none when absent. One that opens something here only who has it may give.
    roles: Option<Vec<String>>,
}

/// Registers a user, enabled, with an address yet to be verified.
#[utoipa::path(post, path = "/v1/users", operation_id = "register_user", tag = "users", request_body = RegisterBody,
    params(CommandParams),
    responses((status = 201, body = Done, headers(("Location" = String, description = "Address of the user"),
        ("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CreateProblems, Gone))]
pub(crate) async fn register(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    if headers.options.expected != ExpectedVersion::Any {
        return Err(invalid("if-match", "means nothing where a user is registered"));
    }
    let id = body.optional("id", |value| text(value).and_then(|id| uuid(&id).ok_or("must be a UUID".to_owned())));
    let (organization_id, command) = registration(body)?;
    boundary.narrow(Some(organization_id))?;
    if let UserCommand::Register { roles, .. } = &command {
        caller.may_give(names(roles))?;
    }
    // Made from the command's id, so that a retry makes the same one.
    let id = id.unwrap_or_else(|| headers.command_id.aggregate_id());
    let mut response = execute::<User>(&state, id, command, headers).await?;
    *response.status_mut() = StatusCode::CREATED;
    let (name, location) = shown("location", format!("/v1/users/{id}"));
    response.headers_mut().insert(name, location);
    Ok(response)
}

fn registration(mut body: Body) -> Result<(Uuid, UserCommand), Problem> {
    let username = body.required("username", parsed);
    let email = body.required("email", parsed);
    let first_name = body.required("first_name", parsed);
    let last_name = body.required("last_name", parsed);
    let organization_id = body
        .required("organization_id", |value| text(value).and_then(|id| uuid(&id).ok_or("must be a UUID".to_owned())));
    let roles = body.optional("roles", read_roles);
    body.finish()?;
    let there = "a body without faults has what is required";
    let organization_id = organization_id.expect(there);
    let command = UserCommand::Register {
        username: username.expect(there),
        email: email.expect(there),
        first_name: first_name.expect(there),
        last_name: last_name.expect(there),
        organization_id,
        roles: roles.unwrap_or_default(),
    };
    Ok((organization_id, command))
}

fn parsed<T: TryFrom<String, Error: ToString>>(value: Value) -> Result<T, String> {
    text(value).and_then(|text| T::try_from(text).map_err(|error| error.to_string()))
}

fn read_roles(value: Value) -> Result<Roles, String> {
    let Value::Array(names) = value else { return Err("must be a list of names of roles".into()) };
    let names: Result<std::collections::BTreeSet<RoleName>, _> = names.into_iter().map(parsed).collect();
    Roles::try_from(names?).map_err(|error| error.to_string())
}

fn names(roles: &Roles) -> impl Iterator<Item = &str> {
    roles.iter().map(RoleName::as_str)
}

/// What of a user is changed; what is absent or null stays.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct UpdateBody {
    /// As at the registration.
    username: Option<String>,
    /// As at the registration; another one than before is unverified.
    email: Option<String>,
    /// Not empty.
    first_name: Option<String>,
    /// Not empty.
    last_name: Option<String>,
}

/// Changes names or address. What is as it was changes nothing.
#[utoipa::path(patch, path = "/v1/users/{id}", operation_id = "update_user", tag = "users",
    request_body = UpdateBody, params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems, Gone))]
pub(crate) async fn update(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let command = UserCommand::Update {
        username: body.optional("username", parsed),
        email: body.optional("email", parsed),
        first_name: body.optional("first_name", parsed),
        last_name: body.optional("last_name", parsed),
    };
    body.finish()?;
    execute_within(boundary, &state, user, command, headers).await
}

/// What a user may.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct RolesBody {
    /// All of them: `[a-z][a-z0-9_-]*` each, at most 100. One that opens something here only who has it may give,
    /// also again.
    roles: Vec<String>,
}

/// Gives a user exactly these roles.
#[utoipa::path(put, path = "/v1/users/{id}/roles", operation_id = "assign_roles", tag = "users",
    request_body = RolesBody, params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems, Gone))]
pub(crate) async fn assign_roles(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    caller: Caller,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let roles = body.required("roles", read_roles);
    body.finish()?;
    let roles = roles.expect("a body without faults has roles");
    caller.may_give(names(&roles))?;
    execute_within(boundary, &state, user, UserCommand::AssignRoles { roles }, headers).await
}

/// Lets a user log in. A second time changes nothing.
#[utoipa::path(post, path = "/v1/users/{id}/enable", operation_id = "enable_user", tag = "users",
    params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems, Gone))]
pub(crate) async fn enable(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    body.finish()?;
    execute_within(boundary, &state, user, UserCommand::Enable, headers).await
}

/// Why a user may not log in any more.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct DisableBody {
    /// At most 500 characters.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Keeps a user from logging in. A second time changes nothing.
#[utoipa::path(post, path = "/v1/users/{id}/disable", operation_id = "disable_user", tag = "users",
    request_body = Option<DisableBody>, params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems, Gone))]
pub(crate) async fn disable(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let reason = body.optional("reason", parsed::<Reason>);
    body.finish()?;
    execute_within(boundary, &state, user, UserCommand::Disable { reason }, headers).await
}

/// Notes that a user's address was shown to be theirs. A second time changes nothing.
#[utoipa::path(post, path = "/v1/users/{id}/verify-email", operation_id = "verify_email", tag = "users",
    params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems, Gone))]
pub(crate) async fn verify_email(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    body.finish()?;
    execute_within(boundary, &state, user, UserCommand::VerifyEmail, headers).await
}

/// When a user logged in.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct LoginBody {
    /// RFC 3339; not in the future.
    #[schema(example = "2026-11-22T02:35:00.123456Z")]
    at: String,
}

/// Notes that a user logged in. The notes may come out of order.
#[utoipa::path(post, path = "/v1/users/{id}/logins", operation_id = "record_login", tag = "users",
    request_body = LoginBody, params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems, Gone))]
pub(crate) async fn record_login(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let at = body.required("at", |value| text(value).and_then(|at| past(&at, SystemClock.now())));
    body.finish()?;
    let at = at.expect("a body without faults has a time").into();
    execute_within(boundary, &state, user, UserCommand::RecordLogin { at }, headers).await
}

/// A time that has come, allowing for clocks that differ.
fn past(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    const LEEWAY: TimeDelta = TimeDelta::minutes(1);
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| "must be a time such as 2026-11-22T02:35:00.123456Z")?;
    if time.to_utc() > now + LEEWAY { Err("must not lie in the future".into()) } else { Ok(time.to_utc()) }
}

/// Deletes a user for good; only one who is disabled or never logged in. Username and address are free again.
#[utoipa::path(delete, path = "/v1/users/{id}", operation_id = "delete_user", tag = "users",
    params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems, Gone))]
pub(crate) async fn delete(
    State(state): State<Arc<AppState>>,
    Id(user): Id,
    boundary: Boundary,
    parameters: Parameters,
    headers: CommandHeaders,
    body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    body.finish()?;
    execute_within(boundary, &state, user, UserCommand::Delete, headers).await
}

async fn execute_within(
    boundary: Boundary,
    state: &AppState,
    user: Uuid,
    command: UserCommand,
    headers: CommandHeaders,
) -> Result<Response, Problem> {
    boundary.check(state, user).await?;
    execute::<User>(state, user, command, headers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_lies_in_the_past_give_or_take_a_clock() {
        let now = "2026-11-22T12:00:00Z".parse::<DateTime<Utc>>().unwrap();

        assert!(past("2026-11-22T12:01:00Z", now).is_ok() && past("1999-01-01T00:00:00+02:00", now).is_ok());
        assert!(past("2026-11-22T12:01:01Z", now).is_err() && past("yesterday", now).is_err());
    }

    #[test]
    fn roles_are_a_list_of_names() {
        let read = |json: &str| read_roles(serde_json::from_str(json).unwrap()).map(|roles| roles.len());

        assert_eq!((read("[]"), read(r#"["a","b","a"]"#)), (Ok(0), Ok(2)));
        for wrong in [r#""admin""#, "{}", "[1]", r#"["Admin"]"#, r#"["a",null]"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
