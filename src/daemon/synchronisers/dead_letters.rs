//! This file is what an operator does about subjects that were set aside: list, show, retry, skip with a reason.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::Value;
use tracing::info;

use super::named;
use crate::daemon::AppState;
use crate::daemon::auth::Caller;
use crate::daemon::document::NoneSuch;
use crate::daemon::problem::{Problem, ProblemBody};
use crate::daemon::request::body::{Body, text};
use crate::daemon::request::parameters::Parameters;
use crate::daemon::shape::{Json, time};
use crate::stream::GlobalPosition;
use crate::synchroniser::{DeadLetter, Skip, WaitingChange};

const MAX_PAGE: u64 = 200;
const DEFAULT_PAGE: u64 = 50;
/// Changes shown behind one dead letter.
const MAX_CHANGES: usize = 200;
const MAX_REASON_CHARACTERS: usize = 500;

/// Dead letters, in the order in which their last changes were recorded.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetterList {
    items: Vec<DeadLetterShape>,
    next_cursor: Option<String>,
}

/// A subject that was set aside.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct DeadLetterShape {
    synchroniser: &'static str,
    subject: String,
    /// The version that failed.
    version: u64,
    /// The last version that is wanted; later changes wait behind the one that failed.
    wanted_version: u64,
    /// The last version that is outside; 0 for none.
    synced_version: u64,
    reason: String,
    /// Whether it is hopeless; else its attempts were used up.
    permanent: bool,
    attempts: u32,
    since: String,
    /// Who does without this version; null while it waits.
    skipped: Option<SkipShape>,
}

/// An operator's decision to do without a version that failed.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Skip)]
pub(crate) struct SkipShape {
    /// The operator's principal.
    by: String,
    reason: String,
    at: String,
}

impl DeadLetterShape {
    fn of(synchroniser: &'static str, letter: DeadLetter) -> Self {
        Self {
            synchroniser,
            subject: letter.subject,
            version: letter.version.0,
            wanted_version: letter.wanted.0,
            synced_version: letter.synced.0,
            reason: letter.reason,
            permanent: letter.permanent,
            attempts: letter.attempts,
            since: time(letter.since),
            skipped: letter.skipped.map(|Skip { by, reason, at }| SkipShape { by, reason, at: time(at) }),
        }
    }
}

/// A dead letter and what waits behind it.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetterDetail {
    #[serde(flatten)]
    letter: DeadLetterShape,
    /// The changes from the one that failed on, oldest first; at most 200.
    changes: Vec<ChangeShape>,
}

/// A change of a subject that is not outside.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WaitingChange)]
pub(crate) struct ChangeShape {
    version: u64,
    position: u64,
    r#type: String,
    recorded_at: String,
}

impl ChangeShape {
    fn of(change: WaitingChange) -> Self {
        Self {
            version: change.version.0,
            position: change.position.0,
            r#type: change.event_type,
            recorded_at: time(change.recorded_at),
        }
    }
}

/// Subjects that were set aside, of one synchroniser or of all; or those that were skipped, by whom, and why.
#[utoipa::path(get, path = "/v1/admin/dead-letters", operation_id = "list_dead_letters", tag = "admin",
    params(("synchroniser" = Option<String>, Query, description = "Only of this one"),
        ("skipped" = Option<bool>, Query, description = "Those that were skipped, instead of those that wait"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "50 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before")),
    responses((status = 200, body = DeadLetterList), NoneSuch,
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "`unknown_parameter`, `invalid_parameter`, `invalid_cursor`")))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    mut parameters: Parameters,
) -> Result<Json<DeadLetterList>, Problem> {
    let only = parameters.take("synchroniser", |name| Ok::<_, &str>(name.to_owned()))?;
    let skipped = parameters.take("skipped", str::parse::<bool>)?.unwrap_or(false);
    let limit = parameters.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let limit = usize::try_from(limit).expect("at most 200");
    let cursor = parameters.take("cursor", |text| Cursor::read(text).ok_or("is none of this listing"));
    let cursor = cursor.map_err(|_| Problem::field("invalid_cursor", "cursor", "is none of this listing"))?;
    parameters.finish()?;
    let handles = match &only {
        Some(name) => vec![named(&state, Some(name))?],
        None => state.engine.synchronisers(),
    };
    let mut found = Vec::new();
    for handle in handles {
        let name = handle.status().name;
        let after = match &cursor {
            // Synchronisers come one after the other, by name.
            Some(cursor) if cursor.synchroniser.as_str() > name => continue,
            Some(cursor) if cursor.synchroniser == name => Some((cursor.position, cursor.subject.clone())),
            _ => None,
        };
        let letters = if skipped { handle.skipped(after, limit + 1) } else { handle.dead_letters(after, limit + 1) };
        found.extend(letters.into_iter().map(|(at, letter)| (name, at, letter)));
    }
    found.sort_by(|one, other| (one.0, one.1, &one.2.subject).cmp(&(other.0, other.1, &other.2.subject)));
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|(name, position, letter)| {
        let (synchroniser, subject) = ((*name).to_owned(), letter.subject.clone());
        Cursor { synchroniser, position: *position, subject }.write()
    });
    let items = found.into_iter().map(|(name, _, letter)| DeadLetterShape::of(name, letter)).collect();
    Ok(Json(DeadLetterList { items, next_cursor }))
}

/// Where a listing goes on.
#[derive(Debug, PartialEq)]
struct Cursor {
    synchroniser: String,
    position: GlobalPosition,
    subject: String,
}

impl Cursor {
    fn write(&self) -> String {
        let text = format!("{} {} {}", self.synchroniser, self.position, self.subject);
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn read(text: &str) -> Option<Self> {
        let digits = Some(text).filter(|text| text.is_ascii() && text.len().is_multiple_of(2))?;
        let bytes: Result<Vec<u8>, _> =
            (0..digits.len()).step_by(2).map(|n| u8::from_str_radix(&digits[n..n + 2], 16)).collect();
        let text = String::from_utf8(bytes.ok()?).ok()?;
        let (synchroniser, rest) = text.split_once(' ')?;
        let (position, subject) = rest.split_once(' ')?;
        Some(Self {
            synchroniser: synchroniser.into(),
            position: GlobalPosition(position.parse().ok()?),
            subject: subject.into(),
        })
    }
}

type Names = Result<Path<(String, String)>, PathRejection>;

fn names_of(names: Names) -> Result<(String, String), Problem> {
    names.map(|Path(names)| names).map_err(|_| no_such_letter())
}

fn no_such_letter() -> Problem {
    Problem::new("not_found", "there is no such dead letter")
}

/// One dead letter, and the changes that wait behind it. One that was skipped is shown with who did, and why.
#[utoipa::path(get, path = "/v1/admin/dead-letters/{synchroniser}/{subject}", operation_id = "get_dead_letter",
    tag = "admin", params(("synchroniser" = String, Path), ("subject" = String, Path)),
    responses((status = 200, body = DeadLetterDetail), NoneSuch))]
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    names: Names,
    parameters: Parameters,
) -> Result<Json<DeadLetterDetail>, Problem> {
    parameters.finish()?;
    let (name, subject) = names_of(names)?;
    let handle = named(&state, Some(&name))?;
    let found = handle.dead_letter(&subject, MAX_CHANGES).await.map_err(|error| Problem::from_store(&error))?;
    let (letter, changes) = found.ok_or_else(no_such_letter)?;
    let letter = DeadLetterShape::of(handle.status().name, letter);
    Ok(Json(DeadLetterDetail { letter, changes: changes.into_iter().map(ChangeShape::of).collect() }))
}

/// A dead letter that is none any more.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Handled {
    synchroniser: String,
    subject: String,
    /// `retried` or `skipped`.
    handled: &'static str,
}

/// Tries a dead letter again, with a fresh budget; what waited behind it goes with it, as one full state.
#[utoipa::path(post, path = "/v1/admin/dead-letters/{synchroniser}/{subject}/retry", operation_id = "retry_dead_letter",
    tag = "admin", params(("synchroniser" = String, Path), ("subject" = String, Path)),
    responses((status = 200, body = Handled), NoneSuch))]
pub(crate) async fn retry(
    State(state): State<Arc<AppState>>,
    names: Names,
    parameters: Parameters,
    body: Body,
) -> Result<Json<Handled>, Problem> {
    parameters.finish()?;
    body.finish()?;
    let (synchroniser, subject) = names_of(names)?;
    let changed = named(&state, Some(&synchroniser))?.retry(&subject).await;
    handled(changed, synchroniser, subject, "retried")
}

/// Why a version is done without.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct SkipBody {
    /// 1 to 500 characters.
    #[schema(example = "the account is kept by hand", min_length = 1, max_length = 500)]
    reason: String,
}

/// Does without the version that failed; what waited behind it is brought. The log keeps who did, and why.
#[utoipa::path(post, path = "/v1/admin/dead-letters/{synchroniser}/{subject}/skip", operation_id = "skip_dead_letter",
    tag = "admin", params(("synchroniser" = String, Path), ("subject" = String, Path)), request_body = SkipBody,
    responses((status = 200, body = Handled), NoneSuch,
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "`malformed`, `unknown_field`, `invalid_field`, `unknown_parameter`")))]
pub(crate) async fn skip(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    names: Names,
    parameters: Parameters,
    mut body: Body,
) -> Result<Json<Handled>, Problem> {
    parameters.finish()?;
    let reason = body.required("reason", reason);
    body.finish()?;
    let (synchroniser, subject) = names_of(names)?;
    let reason = reason.expect("a body without faults has a reason");
    let changed = named(&state, Some(&synchroniser))?.skip(&subject, &reason, &caller.principal).await;
    handled(changed, synchroniser, subject, "skipped")
}

fn reason(value: Value) -> Result<String, String> {
    let reason = text(value)?;
    let characters = reason.trim().chars().count();
    if (1..=MAX_REASON_CHARACTERS).contains(&characters) {
        Ok(reason.trim().to_owned())
    } else {
        Err(format!("must have 1 to {MAX_REASON_CHARACTERS} characters"))
    }
}

fn handled(
    changed: Option<bool>,
    synchroniser: String,
    subject: String,
    handled: &'static str,
) -> Result<Json<Handled>, Problem> {
    match changed {
        Some(true) => {
            info!(synchroniser, handled, "a dead letter was taken up");
            Ok(Json(Handled { synchroniser, subject, handled }))
        }
        Some(false) => Err(no_such_letter()),
        None => Err(Problem::restarting("the synchroniser is not running at the moment")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_to_where_it_was_made() {
        let cursor =
            Cursor { synchroniser: "users".into(), position: GlobalPosition(7), subject: "Zoë with spaces".into() };

        assert_eq!(Cursor::read(&cursor.write()), Some(cursor));
        for none in ["", "0", "zz", "2020", "é", "75736572"] {
            assert_eq!(Cursor::read(none), None, "{none}");
        }
    }
}
