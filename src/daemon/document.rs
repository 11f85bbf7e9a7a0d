//! This file holds what many routes have in common in the OpenAPI document: headers, and problems by status.

use uuid::Uuid;

use super::health;
use super::metrics;
use super::problem::ProblemBody;

pub(crate) mod access;

/// The document that describes every route; they add themselves to it.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Essaim",
        description = "Payments and users, kept durably. A success is in the log, every answer says the position it \
                       was given at, and whatever is refused says why: `application/problem+json` with a `code` from \
                       `/problems/{code}`."
    ),
    paths(health::live, health::ready, metrics::show)
)]
pub(crate) struct Document;

/// Headers of every command.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes headers for the document; request/headers.rs reads them")]
pub(crate) struct CommandParams {
    /// Makes the command safe to repeat: 1 to 255 visible ASCII characters, scoped by principal. The same key and
    /// command get the stored status and body again.
    #[param(rename = "Idempotency-Key", max_length = 255)]
    idempotency_key: Option<String>,
    /// Milliseconds in which the command must be decided, 1 to 600000; 5000 by default.
    #[param(rename = "Essaim-Deadline-Ms", minimum = 1, maximum = 600_000)]
    deadline: Option<u64>,
    /// Shared by everything that one outside request sets off; else the trace id of `traceparent`, else the command id.
    #[param(rename = "Essaim-Correlation-Id")]
    correlation_id: Option<Uuid>,
    /// What directly caused the command; else the command id.
    #[param(rename = "Essaim-Causation-Id")]
    causation_id: Option<Uuid>,
    /// Who asks; taken only while authentication is off, else `anonymous`.
    #[param(rename = "Essaim-Principal", max_length = 255)]
    principal: Option<String>,
}

/// The header of commands on something that exists.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a header for the document; request/headers.rs reads it")]
pub(crate) struct IfMatchParams {
    /// The version expected, in quotes such as `"3"`; `*` when it must merely exist.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// Headers of every read.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes headers for the document; request/headers.rs reads them")]
pub(crate) struct ReadParams {
    /// Answer once this position is included, e.g. the `position` of a command's answer.
    #[param(rename = "Essaim-At-Least")]
    at_least: Option<u64>,
    /// The `Essaim-Log` of the answer that gave the position: 409 `log_changed` when the log went backwards since.
    #[param(rename = "Essaim-Log")]
    log: Option<Uuid>,
    /// Milliseconds to wait for it, 0 to 60000; 2000 by default.
    #[param(rename = "Essaim-Wait-Ms", maximum = 60_000)]
    wait: Option<u64>,
    /// Comes back in the answer.
    #[param(rename = "Essaim-Correlation-Id")]
    correlation_id: Option<Uuid>,
}

/// Problems of a command that creates.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes answers for the document; problem.rs makes them")]
pub(crate) enum CreateProblems<'a> {
    /// `malformed`, `unknown_field`, `invalid_field`, `unknown_parameter`, `invalid_parameter`
    #[response(status = 400, content_type = "application/problem+json")]
    Wrong(ProblemBody<'a>),
    /// `already_created`, `idempotency_key_reused`; of users `email_taken`, `username_taken`
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody<'a>),
    /// `body_too_large`
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'a>),
    /// `unsupported_media_type`
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(ProblemBody<'a>),
    /// `overloaded`, `store_unavailable`, `outcome_unknown`, `fenced`, `quarantined`, `draining`; `outcome` says
    /// whether it was executed
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u64, description = "Whole seconds")))]
    Unavailable(ProblemBody<'a>),
}

/// Problems of a command on something that exists.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes answers for the document; problem.rs makes them")]
pub(crate) enum CommandProblems<'a> {
    /// `malformed`, `unknown_field`, `invalid_field`, `unknown_parameter`, `invalid_parameter`
    #[response(status = 400, content_type = "application/problem+json")]
    Wrong(ProblemBody<'a>),
    /// `not_found`
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemBody<'a>),
    /// `idempotency_key_reused`; of users `email_taken`, `username_taken`
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody<'a>),
    /// `version_mismatch`
    #[response(status = 412, content_type = "application/problem+json",
        headers(("ETag" = String, description = "The version it is at")))]
    VersionMismatch(ProblemBody<'a>),
    /// `body_too_large`
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody<'a>),
    /// `unsupported_media_type`
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(ProblemBody<'a>),
    /// `not_pending`, `not_authorized`, `already_completed`; of users `cannot_delete`
    #[response(status = 422, content_type = "application/problem+json",
        headers(("ETag" = String, description = "The version it was decided upon"),
            ("Essaim-Position" = u64, description = "The position reached"),
            ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer")))]
    Rejected(ProblemBody<'a>),
    /// `overloaded`, `store_unavailable`, `outcome_unknown`, `fenced`, `quarantined`, `draining`; `outcome` says
    /// whether it was executed
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u64, description = "Whole seconds")))]
    Unavailable(ProblemBody<'a>),
}

/// Problems of every read.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes answers for the document; problem.rs makes them")]
pub(crate) enum ReadProblems<'a> {
    /// `unknown_parameter`, `invalid_parameter`, `invalid_cursor`
    #[response(status = 400, content_type = "application/problem+json")]
    Wrong(ProblemBody<'a>),
    /// `store_unavailable`, `quarantined`
    #[response(status = 503, content_type = "application/problem+json",
        headers(("Retry-After" = u64, description = "Whole seconds")))]
    Unavailable(ProblemBody<'a>),
    /// `read_timeout`, with `lag_events`
    #[response(status = 504, content_type = "application/problem+json")]
    Lagging(ProblemBody<'a>),
}

/// The problem of asking for something that is not there.
#[derive(utoipa::IntoResponses)]
#[response(status = 404, description = "`not_found`", content_type = "application/problem+json")]
#[expect(dead_code, reason = "describes an answer for the document; problem.rs makes it")]
pub(crate) struct NoneSuch<'a>(ProblemBody<'a>);

/// The problem of asking something of what is gone for good.
#[derive(utoipa::IntoResponses)]
#[response(status = 410, description = "`deleted`", content_type = "application/problem+json")]
#[expect(dead_code, reason = "describes an answer for the document; problem.rs makes it")]
pub(crate) struct Gone<'a>(ProblemBody<'a>);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn document() -> Value {
        let (_, document) = crate::daemon::documented();
        serde_json::to_value(document).unwrap()
    }

    /// Method, path and description of every operation.
    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let paths = document["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
        });
        operations.collect()
    }

    fn headers_of(operation: &Value) -> BTreeSet<&str> {
        let parameters = operation["parameters"].as_array().unwrap().iter();
        parameters.filter(|found| found["in"] == "header").map(|found| found["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn every_route_is_described() {
        let document = document();

        let found: BTreeSet<String> = operations(&document).into_iter().map(|(route, _)| route).collect();

        let routes = "DELETE /v1/users/{id}
            GET /livez
            GET /metrics
            GET /readyz
            GET /problems/{code}
            GET /v1/audit
            GET /v1/users
            GET /v1/users/analytics
            GET /v1/users/{id}
            PATCH /v1/users/{id}
            POST /v1/users
            POST /v1/users/{id}/disable
            POST /v1/users/{id}/enable
            POST /v1/users/{id}/logins
            POST /v1/users/{id}/verify-email
            PUT /v1/users/{id}/roles
            GET /v1/admin/dead-letters
            GET /v1/admin/dead-letters/{synchroniser}/{subject}
            POST /v1/admin/dead-letters/{synchroniser}/{subject}/retry
            POST /v1/admin/dead-letters/{synchroniser}/{subject}/skip
            GET /v1/admin/synchronisers
            GET /v1/admin/synchronisers/{name}
            POST /v1/admin/synchronisers/{name}/reconcile
            GET /v1/admin/status
            GET /v1/admin/projections
            GET /v1/admin/projections/{name}/digest
            GET /v1/events
            GET /v1/payments
            GET /v1/payments/stats
            GET /v1/payments/{id}
            GET /v1/payments/{id}/events
            GET /v1/payments/{id}/report
            POST /v1/admin/projections/{name}/rebuild
            POST /v1/admin/release
            POST /v1/payments
            POST /v1/payments/{id}/authorize
            POST /v1/payments/{id}/cancel
            POST /v1/payments/{id}/complete";
        assert_eq!(found, routes.lines().map(|route| route.trim().to_owned()).collect());
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_what_it_does() {
        let document = document();
        let mut names = BTreeSet::new();
        for (route, operation) in operations(&document) {
            assert!(names.insert(operation["operationId"].as_str().unwrap()), "{route}");
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 10), "{route}");
        }
    }

    #[test]
    fn every_command_and_every_read_lists_its_headers() {
        let document = document();
        for (route, operation) in operations(&document) {
            let expected: &[&str] = match route.as_str() {
                route if route.contains("/admin/") || !route.contains("/v1/") => continue,
                route if route.starts_with("GET") => &["Essaim-At-Least", "Essaim-Wait-Ms", "Essaim-Correlation-Id"],
                "POST /v1/payments" | "POST /v1/users" => {
                    &["Idempotency-Key", "Essaim-Deadline-Ms", "Essaim-Causation-Id"]
                }
                _ => &["Idempotency-Key", "If-Match", "Essaim-Deadline-Ms", "Essaim-Principal"],
            };
            let found = headers_of(operation);
            assert!(expected.iter().all(|header| found.contains(header)), "{route} has {found:?}");
        }
    }

    #[test]
    fn every_problem_is_described_as_one_and_every_503_says_when_to_retry() {
        let document = document();
        for (route, operation) in operations(&document) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with('2') || route == "GET /readyz" {
                    continue;
                }
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{route} {status}");
                assert!(status != "503" || response["headers"]["Retry-After"].is_object(), "{route}");
            }
        }
    }

    #[test]
    fn every_operation_below_v1_says_which_role_it_needs_and_no_other_asks_for_a_token() {
        let document = document();
        assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
        for (route, operation) in operations(&document) {
            let role = operation["security"][0]["token"][0].as_str();
            assert_eq!(role.is_some(), route.contains(" /v1/"), "{route}");
            let Some(role) = role else { continue };
            assert!(operation["description"].as_str().unwrap().contains(&format!("`{role}`")), "{route}");
            let answers = &operation["responses"];
            assert!(answers["401"].is_object() && answers["403"].is_object(), "{route}");
        }
    }

    #[test]
    fn commands_of_users_can_wait_and_nothing_else_can() {
        let document = document();
        for (route, operation) in operations(&document) {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let can_wait = parameters.filter(|found| found["in"] == "query").any(|found| found["name"] == "wait");
            assert_eq!(can_wait, route.contains("/v1/users") && !route.starts_with("GET"), "{route}");
        }
    }

    #[test]
    fn whatever_the_document_refers_to_is_in_it() {
        let document = document();
        let text = document.to_string();
        let references = text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap());
        for name in references.collect::<BTreeSet<_>>() {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
