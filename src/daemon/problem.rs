//! This file is every way in which the daemon says no, as RFC 9457 has it.
//!
//! ```text
//! kinds   one table from code to status, title and explanation
//! pages   GET /problems/{code}, and the answers of addresses and methods that are none
//! ```

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use self::kinds::kind_of;
use super::request::shown;
use crate::command::{ExecuteError, NotExecuted};
use crate::domain::payment::PaymentRejection;
use crate::domain::user::{EMAIL_SCOPE, USERNAME_SCOPE, UserRejection};
use crate::projections::read_model::ReadError;
use crate::store::StoreError;
use crate::stream::{GlobalPosition, Version};

mod kinds;
pub(crate) mod pages;

/// Faults told at once; who sends more of them learns of the rest when these are mended.
const MAX_ERRORS: usize = 20;
/// Characters of a name that a client chose, shown back to it.
const MAX_NAME: usize = 100;
/// When to try again what may be over any moment.
const SOON: Duration = Duration::from_secs(1);
const NOT_EXECUTED: &str = "not_executed";

/// A field, parameter or header at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct FieldError {
    /// Its name.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) message: String,
}

/// A refusal.
#[derive(Debug)]
pub(crate) struct Problem {
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    outcome: Option<&'static str>,
    lag_events: Option<u64>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A refusal as clients see it, by RFC 9457.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// Address of a page that explains this kind of problem.
    #[schema(example = "/problems/invalid_field")]
    r#type: String,
    /// What kind of problem it is, in short.
    title: &'a str,
    /// The HTTP status again.
    status: u16,
    /// What is wrong with this very request.
    detail: &'a str,
    /// What kind of problem it is, for programs.
    code: &'a str,
    /// The fields, parameters or headers at fault, where some are.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// With every 503: `not_executed` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a str>,
    /// With every 504: how many events the read model is behind the position asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_events: Option<u64>,
}

impl Problem {
    /// A problem of a kind in the table.
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), outcome: None, lag_events: None, headers: Vec::new() }
    }

    /// A problem with named fields; its detail lists them.
    pub(crate) fn fields(code: &'static str, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(MAX_ERRORS);
        for error in &mut errors {
            if let Some((cut, _)) = error.field.char_indices().nth(MAX_NAME) {
                error.field.truncate(cut);
            }
        }
        let detail =
            errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect::<Vec<_>>().join("; ");
        Self { errors, ..Self::new(code, detail) }
    }

    /// A problem with one named field.
    pub(crate) fn field(code: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(code, vec![FieldError { field: field.into(), message: message.into() }])
    }

    fn unavailable(code: &'static str, outcome: &'static str, detail: impl Into<String>, retry: Duration) -> Self {
        // RFC 9110 §10.2.3: whole seconds; 0 would invite to hammer.
        let seconds = retry.as_millis().div_ceil(1_000).max(1);
        let (name, value) = shown(header::RETRY_AFTER.as_str(), seconds);
        Self { outcome: Some(outcome), ..Self::new(code, detail) }.with(name, value)
    }

    /// Nobody can be recognised.
    pub(crate) fn issuer_unavailable(detail: &str) -> Self {
        Self::unavailable("issuer_unavailable", NOT_EXECUTED, detail, SOON)
    }

    /// The daemon does not know its log yet.
    pub(crate) fn starting() -> Self {
        Self::unavailable("store_unavailable", NOT_EXECUTED, "the daemon is starting", SOON)
    }

    /// There is no room for one more connection.
    pub(crate) fn too_many_connections() -> Self {
        Self::unavailable("overloaded", NOT_EXECUTED, "too many connections are open", SOON)
    }

    /// A part of the engine that is being restarted.
    pub(crate) fn restarting(detail: &'static str) -> Self {
        Self::unavailable("quarantined", NOT_EXECUTED, detail, SOON)
    }

    /// The same with one more header.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same, with the position that the command reached and the version it was decided upon.
    fn decided_at(self, version: Version, position: GlobalPosition) -> Self {
        let (name, value) = shown("essaim-position", position);
        self.with(name, value).of_version(version)
    }

    /// Nothing that was never there has a version.
    fn of_version(self, version: Version) -> Self {
        if version == Version::EMPTY {
            return self;
        }
        let (name, value) = shown("etag", format!("\"{version}\""));
        self.with(name, value)
    }

    /// Something that has not reached the position asked for.
    pub(crate) fn lagging(applied: GlobalPosition, wanted: GlobalPosition) -> Self {
        Self {
            lag_events: Some(wanted.0.saturating_sub(applied.0)),
            ..Self::new("read_timeout", format!("at position {applied}, not yet at {wanted}"))
        }
    }

    /// A read model that does not answer.
    pub(crate) fn from_read(error: ReadError) -> Self {
        match error {
            ReadError::Lagging { applied, wanted } => Self::lagging(applied, wanted),
            ReadError::NotRegistered(name) => Self::new("internal", format!("the daemon runs without {name}")),
            ReadError::Quarantined { name, .. } => {
                Self::unavailable("quarantined", NOT_EXECUTED, format!("projection {name} is set aside"), SOON)
            }
        }
    }

    /// A log that cannot be read.
    pub(crate) fn from_store(error: &StoreError) -> Self {
        if error.is_transient() {
            tracing::warn!(%error, "the log cannot be read");
            return Self::unavailable("store_unavailable", NOT_EXECUTED, "the log cannot be read at the moment", SOON);
        }
        // Trying again would not help, so nobody is told to.
        tracing::error!(%error, "the log cannot be read");
        Self::new("internal", "the log cannot be read")
    }

    /// A command without a receipt. What is durable gives the same problem every time.
    pub(crate) fn from_execute<R: Refusal>(error: ExecuteError<R>) -> Self {
        match error {
            ExecuteError::Rejected { rejection, version, position, .. } => {
                Self::new(rejection.code(), rejection.to_string()).decided_at(version, position)
            }
            ExecuteError::ClaimRefused { claim, version, position, .. } => {
                let code = match claim.scope.as_str() {
                    EMAIL_SCOPE => "email_taken",
                    USERNAME_SCOPE => "username_taken",
                    _ => "conflict",
                };
                Self::new(code, "the value belongs to another").decided_at(version, position)
            }
            ExecuteError::VersionMismatch { expected, actual } => {
                Self::new("version_mismatch", format!("expected {expected}, it is at version {actual}"))
                    .of_version(actual)
            }
            ExecuteError::CommandIdReused => {
                Self::new("idempotency_key_reused", "the Idempotency-Key was used for another command or target")
            }
            ExecuteError::Invalid { what } => Self::new("invalid_field", what),
            ExecuteError::Overloaded { retry_after } => {
                Self::unavailable("overloaded", NOT_EXECUTED, "too many commands are in flight", retry_after)
            }
            ExecuteError::NotExecuted { reason } => {
                Self::unavailable(code_of(reason), NOT_EXECUTED, reason.to_string(), SOON)
            }
            ExecuteError::Unknown => Self::unavailable(
                "outcome_unknown",
                "unknown",
                "the command may have been executed; repeat it with the same Idempotency-Key",
                SOON,
            ),
            ExecuteError::Quarantined { stream, .. } => {
                Self::unavailable("quarantined", NOT_EXECUTED, format!("{stream} is set aside"), SOON)
            }
            ExecuteError::Failed { what } => {
                tracing::error!(what, "a command failed");
                Self::new("internal", "the command failed and was not executed")
            }
        }
    }
}

/// Why an aggregate refuses, with the code that clients act on.
pub(crate) trait Refusal: std::error::Error + 'static {
    /// One of the codes in the table of problems.
    fn code(&self) -> &'static str;
}

impl Refusal for PaymentRejection {
    fn code(&self) -> &'static str {
        (*self).code()
    }
}

impl Refusal for UserRejection {
    fn code(&self) -> &'static str {
        (*self).code()
    }
}

fn code_of(reason: NotExecuted) -> &'static str {
    match reason {
        NotExecuted::Fenced => "fenced",
        NotExecuted::Draining => "draining",
        NotExecuted::Deadline | NotExecuted::StoreUnavailable | NotExecuted::Contended | NotExecuted::Restarting => {
            "store_unavailable"
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = kind_of(self.code).expect("every code that is used stands in the table");
        let body = ProblemBody {
            r#type: format!("/problems/{}", kind.code),
            title: kind.title,
            status: kind.status.as_u16(),
            detail: &self.detail,
            code: kind.code,
            errors: &self.errors,
            outcome: self.outcome,
            lag_events: self.lag_events,
        };
        let json = serde_json::to_vec(&body).expect("texts and numbers can be written as JSON");
        let mut response = (kind.status, [(header::CONTENT_TYPE, "application/problem+json")], json).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use uuid::Uuid;

    use super::*;
    use crate::aggregate::Claim;
    use crate::stream::{ExpectedVersion, StreamId};

    fn from_payment(error: ExecuteError<PaymentRejection>) -> Problem {
        Problem::from_execute(error)
    }

    #[test]
    fn every_refusal_of_a_payment_has_its_kind() {
        use PaymentRejection::{AlreadyCompleted, AlreadyCreated, NotAuthorized, NotFound, NotPending};
        for rejection in [AlreadyCompleted, AlreadyCreated, NotAuthorized, NotFound, NotPending] {
            assert!(kind_of(rejection.code()).is_some(), "{rejection}");
        }
    }

    #[test]
    fn every_refusal_of_a_user_has_its_kind() {
        use UserRejection::{AlreadyCreated, CannotDelete, Deleted, NotFound};
        for rejection in [AlreadyCreated, CannotDelete, Deleted, NotFound] {
            assert!(kind_of(rejection.code()).is_some(), "{rejection}");
        }
    }

    #[test]
    fn every_503_says_whether_it_was_executed_and_when_to_retry() {
        use NotExecuted::{Contended, Deadline, Draining, Fenced, Restarting, StoreUnavailable};
        let not_executed = [Contended, Deadline, Draining, Fenced, Restarting, StoreUnavailable]
            .map(|reason| (NOT_EXECUTED, from_payment(ExecuteError::NotExecuted { reason })));
        let stream = StreamId::new("payment", &Uuid::nil().to_string());
        let others = [
            (NOT_EXECUTED, from_payment(ExecuteError::Overloaded { retry_after: Duration::from_millis(1) })),
            (NOT_EXECUTED, from_payment(ExecuteError::Quarantined { stream, reason: String::new() })),
            ("unknown", from_payment(ExecuteError::Unknown)),
            (NOT_EXECUTED, Problem::from_read(ReadError::Quarantined { name: "a", reason: String::new() })),
            (NOT_EXECUTED, Problem::from_store(&StoreError::Unavailable { what: "reading", source: None })),
        ];
        for (outcome, problem) in not_executed.into_iter().chain(others) {
            assert_eq!(problem.outcome, Some(outcome), "{problem:?}");
            let response = problem.into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
    }

    #[test]
    fn a_retry_is_told_to_wait_whole_seconds_rounded_up() {
        let wait = |millis| {
            let error = ExecuteError::Overloaded { retry_after: Duration::from_millis(millis) };
            from_payment(error).into_response().headers()[header::RETRY_AFTER].to_str().unwrap().to_owned()
        };

        assert_eq!((wait(0), wait(1_000), wait(1_001)), ("1".into(), "1".into(), "2".into()));
    }

    #[test]
    fn a_log_that_is_damaged_is_no_matter_of_waiting() {
        let problem = Problem::from_store(&StoreError::Corrupt { what: "event 7".into() });

        assert_eq!(problem.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn what_was_decided_says_upon_which_version_and_at_which_position() {
        let (version, position) = (Version(2), GlobalPosition(9));
        let rejected =
            ExecuteError::Rejected { rejection: PaymentRejection::NotPending, version, position, replayed: false };
        let claim = Claim::new("user_email", "a@b");
        let taken = ExecuteError::ClaimRefused { claim, version, position, replayed: false };

        for error in [rejected, taken] {
            let response = from_payment(error).into_response();
            let headers = response.headers();
            assert_eq!((&headers[header::ETAG], &headers["essaim-position"]), (&"\"2\"".parse().unwrap(), &9.into()));
        }
        let mismatch = ExecuteError::VersionMismatch { expected: ExpectedVersion::Exists, actual: Version::EMPTY };
        assert!(!from_payment(mismatch).into_response().headers().contains_key(header::ETAG));
    }

    #[test]
    fn a_client_is_not_sent_back_all_of_its_nonsense() {
        let error = |n: usize| FieldError { field: "é".repeat(n), message: "is not known here".into() };

        let problem = Problem::fields("unknown_field", (0..5_000).map(error).collect());

        assert_eq!(problem.errors.len(), MAX_ERRORS);
        let long = Problem::fields("unknown_field", vec![error(90_000)]);
        assert_eq!(long.errors[0].field.chars().count(), MAX_NAME);
        assert!(long.detail.len() < 1_000);
    }
}
