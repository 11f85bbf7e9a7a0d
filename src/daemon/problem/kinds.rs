//! This file is the table of problems: from code to status, title and explanation.

use axum::http::StatusCode;

/// One kind of problem.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) code: &'static str,
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    /// For the page: what it means and what to do.
    pub(super) explanation: &'static str,
}

const fn kind(code: &'static str, status: StatusCode, title: &'static str, explanation: &'static str) -> Kind {
    Kind { code, status, title, explanation }
}

pub(super) const KINDS: &[Kind] = &[
    kind(
        "malformed",
        StatusCode::BAD_REQUEST,
        "Malformed request",
        "The body is not the JSON object it should be: it does not parse, names something twice, or is nested too deeply. Mend the request; sending it again as it is will not help.",
    ),
    kind(
        "unknown_field",
        StatusCode::BAD_REQUEST,
        "Unknown field",
        "The body has a field this call does not know. Check its spelling; `errors` names it.",
    ),
    kind(
        "invalid_field",
        StatusCode::BAD_REQUEST,
        "Invalid field",
        "A field of the body is missing or cannot have the value it has; `errors` says which and why.",
    ),
    kind(
        "unknown_parameter",
        StatusCode::BAD_REQUEST,
        "Unknown parameter",
        "The address has a query parameter this call does not know. Check its spelling; `errors` names it.",
    ),
    kind(
        "invalid_parameter",
        StatusCode::BAD_REQUEST,
        "Invalid parameter",
        "A query parameter, a part of the path, or a header cannot have the value it has, or stands more than once; `errors` says which and why.",
    ),
    kind(
        "invalid_cursor",
        StatusCode::BAD_REQUEST,
        "Invalid cursor",
        "A cursor is good for the very listing it came from: the same resource and the same filters. Start again without one.",
    ),
    kind(
        "unauthenticated",
        StatusCode::UNAUTHORIZED,
        "Unauthenticated",
        "This needs a bearer token of the configured issuer in the `Authorization` header, and there is none or it is not taken: it may have expired, or be meant for others. `detail` says why; get a new one from the issuer.",
    ),
    kind(
        "forbidden",
        StatusCode::FORBIDDEN,
        "Forbidden",
        "The token is good, but does not have the role that this needs. `detail` names it; whoever administers the issuer can grant it.",
    ),
    kind(
        "issuer_unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "Token issuer unavailable",
        "The keys of the token issuer were never reached since the daemon started, so that it cannot tell who asks. Nothing was executed; try again after `Retry-After`.",
    ),
    kind(
        "not_found",
        StatusCode::NOT_FOUND,
        "Not found",
        "There is no such thing, or it did not exist at the moment asked for.",
    ),
    kind(
        "method_not_allowed",
        StatusCode::METHOD_NOT_ALLOWED,
        "Method not allowed",
        "This address takes other methods; the `Allow` header lists them.",
    ),
    kind(
        "already_created",
        StatusCode::CONFLICT,
        "Already created",
        "A payment with this id exists. To repeat a request safely, send it with an `Idempotency-Key`.",
    ),
    kind(
        "idempotency_key_reused",
        StatusCode::CONFLICT,
        "Idempotency key reused",
        "This key was used for another command or another target. Use a fresh key for a new command.",
    ),
    kind("email_taken", StatusCode::CONFLICT, "Email taken", "Another user has this email address."),
    kind("username_taken", StatusCode::CONFLICT, "Username taken", "Another user has this username."),
    kind(
        "log_changed",
        StatusCode::CONFLICT,
        "Log changed",
        "The log went backwards since the position was given (`Essaim-Log` names another log): the position now stands for something else. Nothing was executed; read again what rests on it, without `Essaim-Log` and `Essaim-At-Least`.",
    ),
    kind("conflict", StatusCode::CONFLICT, "Conflict", "The command contradicts something that another one did."),
    kind("deleted", StatusCode::GONE, "Deleted", "It was deleted. What happened to it before can still be read."),
    kind(
        "version_mismatch",
        StatusCode::PRECONDITION_FAILED,
        "Version mismatch",
        "`If-Match` names another version than the present one. Read again and decide again.",
    ),
    kind(
        "body_too_large",
        StatusCode::PAYLOAD_TOO_LARGE,
        "Body too large",
        "The body is larger than this daemon takes (`max_body_bytes`).",
    ),
    kind(
        "unsupported_media_type",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "Unsupported media type",
        "Bodies are JSON: send `Content-Type: application/json`.",
    ),
    kind("not_pending", StatusCode::UNPROCESSABLE_ENTITY, "Not pending", "Only a pending payment can be authorized."),
    kind(
        "not_authorized",
        StatusCode::UNPROCESSABLE_ENTITY,
        "Not authorized",
        "Only an authorized payment can be completed.",
    ),
    kind(
        "already_completed",
        StatusCode::UNPROCESSABLE_ENTITY,
        "Already completed",
        "A completed payment cannot be cancelled.",
    ),
    kind(
        "cannot_delete",
        StatusCode::UNPROCESSABLE_ENTITY,
        "Cannot be deleted",
        "Only a user who is disabled, or who never logged in, can be deleted.",
    ),
    kind(
        "internal",
        StatusCode::INTERNAL_SERVER_ERROR,
        "Internal error",
        "A defect in the daemon, or damaged data. Its log says more; a command that is answered so was not executed.",
    ),
    kind(
        "overloaded",
        StatusCode::SERVICE_UNAVAILABLE,
        "Overloaded",
        "Too much is in flight. The command was not executed; try again after `Retry-After`.",
    ),
    kind(
        "store_unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "Store unavailable",
        "The database does not answer, or did not in time. The command was not executed.",
    ),
    kind(
        "outcome_unknown",
        StatusCode::SERVICE_UNAVAILABLE,
        "Outcome unknown",
        "The command may or may not have been executed. Repeat it with the same `Idempotency-Key` to learn which.",
    ),
    kind(
        "fenced",
        StatusCode::SERVICE_UNAVAILABLE,
        "Fenced",
        "Another process has taken over the log. The command was not executed; this daemon is ending.",
    ),
    kind(
        "quarantined",
        StatusCode::SERVICE_UNAVAILABLE,
        "Quarantined",
        "This part failed too often and is set aside until an operator releases it.",
    ),
    kind("read_model_full", StatusCode::SERVICE_UNAVAILABLE, "Read model full", "The read model cannot take more."),
    kind(
        "draining",
        StatusCode::SERVICE_UNAVAILABLE,
        "Draining",
        "The daemon is shutting down. The command was not executed.",
    ),
    kind(
        "read_timeout",
        StatusCode::GATEWAY_TIMEOUT,
        "Read timed out",
        "The read model did not reach the position asked for in time. `lag_events` says how far it is behind.",
    ),
];

/// The kind with this code.
pub(super) fn kind_of(code: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_once_in_the_table() {
        for (n, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..n].iter().all(|other| other.code != kind.code), "{}", kind.code);
            assert!(kind.explanation.len() > 20, "{}", kind.code);
        }
    }

    #[test]
    fn every_code_that_clients_were_promised_has_its_status() {
        let promised = [
            (400, "malformed unknown_field invalid_field unknown_parameter invalid_parameter invalid_cursor"),
            (404, "not_found"),
            (409, "already_created idempotency_key_reused email_taken username_taken conflict"),
            (410, "deleted"),
            (412, "version_mismatch"),
            (413, "body_too_large"),
            (422, "not_pending not_authorized already_completed cannot_delete"),
            (503, "overloaded store_unavailable outcome_unknown fenced quarantined read_model_full draining"),
            (504, "read_timeout"),
        ];
        for (status, codes) in promised {
            for code in codes.split(' ') {
                assert_eq!(kind_of(code).map(|kind| kind.status.as_u16()), Some(status), "{code}");
            }
        }
    }
}
