//! This file searches the log: who did what to whom, when and why. It is the log itself, and no copy of it.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::document::{ReadParams, ReadProblems};
use super::problem::Problem;
use super::request::headers::ReadHeaders;
use super::request::parameters::Parameters;
use super::request::{invalid, shown};
use super::shape::{EventShape, Json};
use super::users::boundary::Boundary;
use super::{AppState, cursor};
use crate::aggregate::Aggregate;
use crate::domain::identity::Identity;
use crate::domain::user::User;
use crate::event::RecordedEvent;
use crate::projections::user_profiles::UserProfiles;
use crate::store::audit::{AuditFilter, MAX_PRINCIPAL_CHARACTERS};
use crate::store::{EventStore, LogFilter, StoreError};
use crate::stream::{GlobalPosition, StreamId};

const MAX_PAGE: u64 = 200;
const DEFAULT_PAGE: u64 = 50;

/// Part of the audit trail.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct AuditPage<'a> {
    /// Newest first. Fewer than `limit` is no sign of the end.
    items: Vec<EventShape<'a>>,
    /// For the page behind this one; null at the end.
    next_cursor: Option<String>,
}

/// The audit trail, newest first: every event with who asked for it and why, in its `metadata`. Who is kept to an
/// organisation finds what was done to its users.
#[utoipa::path(get, path = "/v1/audit", operation_id = "search_audit_trail", tag = "log",
    params(("subject" = Option<String>, Query, description = "A stream such as `user-6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d11`, or a key alone: every stream with it"),
        ("principal" = Option<String>, Query, description = "Asked for by this one"),
        ("type" = Option<String>, Query, description = "Only events of this type"),
        ("from" = Option<String>, Query, description = "Recorded then or later (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Recorded then or earlier (RFC 3339)"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "50 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same filters"),
        ReadParams),
    responses((status = 200, body = AuditPage,
        headers(("Essaim-Position" = u64, description = "The head of the log"))), ReadProblems))]
pub(crate) async fn search(
    State(state): State<Arc<AppState>>,
    boundary: Boundary,
    headers: ReadHeaders,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let wanted = Wanted::read(&mut parameters)?;
    let limit = parameters.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let cursor = parameters.take("cursor", |text| Ok::<_, &str>(text.to_owned()))?;
    parameters.finish()?;
    let listing = format!("audit {boundary:?} {wanted:?}");
    let before = cursor.map(|cursor| cursor::decode(&cursor, &listing)).transpose()?.map(position_of);
    state.log_at_least(headers).await?;
    let head = state.engine.head();
    let limit = usize::try_from(limit).expect("at most 200");
    let found = find(&state, &wanted, before, limit).await.map_err(|error| Problem::from_store(&error))?;
    let last = found.last().filter(|_| found.len() == limit).map(|event| event.position);
    let shown_to = visible(&state, boundary, found).await?;
    let items = shown_to.iter().map(EventShape::of).collect::<Result<_, _>>();
    let body = AuditPage {
        items: items.map_err(|error| Problem::from_store(&error))?,
        next_cursor: last.map(|position| cursor::encode(order_of(position), &listing)),
    };
    Ok(([shown("essaim-position", head)], Json(body)).into_response())
}

/// What is asked for.
#[derive(Debug)]
struct Wanted {
    subject: Option<String>,
    principal: Option<String>,
    event_type: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
}

impl Wanted {
    fn read(parameters: &mut Parameters) -> Result<Self, Problem> {
        let name = |text: &str| match text.chars().count() {
            1..=MAX_PRINCIPAL_CHARACTERS => Ok(text.to_owned()),
            _ => Err("must be 1 to 255 characters"),
        };
        let wanted = Self {
            subject: parameters.take("subject", name)?,
            principal: parameters.take("principal", name)?,
            event_type: parameters.take("type", name)?,
            from: parameters.time("from")?,
            to: parameters.time("to")?,
        };
        match wanted.from.zip(wanted.to) {
            Some((from, to)) if to < from => Err(invalid("to", "must not lie before from")),
            _ => Ok(wanted),
        }
    }

    /// The streams that the subject may be: one by its name, else one of each category by its key.
    fn streams(&self, categories: &[&'static str]) -> Option<Vec<StreamId>> {
        let subject = self.subject.as_deref()?;
        let named = categories.iter().find_map(|category| {
            let key = subject.strip_prefix(category)?.strip_prefix('-')?;
            Some(vec![StreamId::new(category, key)])
        });
        let by_key = || categories.iter().map(|category| StreamId::new(category, subject)).collect();
        Some(named.unwrap_or_else(by_key))
    }
}

/// A cursor holds a place in the order of creation; positions are such an order too.
fn order_of(position: GlobalPosition) -> (DateTime<Utc>, Uuid) {
    (DateTime::UNIX_EPOCH, Uuid::from_u128(position.0.into()))
}

fn position_of((_, position): (DateTime<Utc>, Uuid)) -> GlobalPosition {
    GlobalPosition(u64::try_from(position.as_u128()).unwrap_or(u64::MAX))
}

async fn find(
    state: &AppState,
    wanted: &Wanted,
    before: Option<GlobalPosition>,
    limit: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let store = state.engine.store().as_ref();
    let head = state.engine.head();
    let after = match wanted.from {
        Some(from) => GlobalPosition(first_recorded(store, head, |at| at >= from).await?.0 - 1),
        None => GlobalPosition::START,
    };
    let until = match wanted.to {
        Some(to) => first_recorded(store, head, |at| at > to).await?,
        None => head.next(),
    };
    let categories: Vec<&'static str> = state.engine.resident().into_iter().map(|(category, _)| category).collect();
    let filter = AuditFilter {
        streams: wanted.streams(&categories),
        principal: wanted.principal.clone(),
        event_type: wanted.event_type.clone().map(Cow::Owned),
        after,
        before: before.map_or(until, |before| before.min(until)),
    };
    store.search_log(&filter, limit).await
}

/// The first position whose time is `reached`; the one behind the head when there is none. Times in the log never run
/// back, so that halving finds it, and no index on them has to be kept.
async fn first_recorded(
    store: &dyn EventStore,
    head: GlobalPosition,
    reached: impl Fn(DateTime<Utc>) -> bool,
) -> Result<GlobalPosition, StoreError> {
    let (mut low, mut high) = (1, head.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let page = store.read_log(GlobalPosition(middle - 1), 1, &LogFilter::default()).await?;
        match page.events.first() {
            Some(event) if !reached(event.recorded_at) => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(GlobalPosition(low))
}

/// What who asks may see. The organisation of a user is known by its profile, which has to know all these events.
async fn visible(
    state: &AppState,
    boundary: Boundary,
    events: Vec<RecordedEvent>,
) -> Result<Vec<RecordedEvent>, Problem> {
    let Some(newest) = events.first().filter(|_| boundary != Boundary::Everything) else { return Ok(events) };
    let profiles = state.engine.read_model::<UserProfiles>().at_least(newest.position).within(state.read_wait);
    let profiles = profiles.await.map_err(Problem::from_read)?;
    let is_visible = |event: &RecordedEvent| {
        let is_of_a_user = [User::CATEGORY, Identity::CATEGORY].contains(&event.stream.category());
        let id = Uuid::try_parse(event.stream.key()).ok().filter(|_| is_of_a_user);
        let row = id.and_then(|id| profiles.get(&id));
        row.is_some_and(|row| boundary.allows(row.organization_id))
    };
    Ok(events.into_iter().filter(is_visible).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_a_stream_or_a_key_of_any() {
        let streams = |subject: &str| {
            let wanted =
                Wanted { subject: Some(subject.into()), principal: None, event_type: None, from: None, to: None };
            let streams = wanted.streams(&["payment", "user"]).unwrap();
            streams.iter().map(|stream| stream.as_str().to_owned()).collect::<Vec<_>>()
        };

        assert_eq!(streams("user-7"), ["user-7"]);
        assert_eq!(streams("7"), ["payment-7", "user-7"]);
        assert_eq!(streams("users-7"), ["payment-users-7", "user-users-7"]);
    }

    #[test]
    fn a_position_survives_its_cursor() {
        let cursor = cursor::encode(order_of(GlobalPosition(7)), "audit");

        assert_eq!(position_of(cursor::decode(&cursor, "audit").unwrap()), GlobalPosition(7));
    }
}
