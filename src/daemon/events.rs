//! This file shows the log: pages of it, and the same address as a stream that goes on as the log grows.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;

use super::AppState;
use super::document::{ReadParams, ReadProblems};
use super::problem::Problem;
use super::request::headers::ReadHeaders;
use super::request::parameters::Parameters;
use super::request::{invalid, shown, whole_number};
use super::shape::{EventShape, Json};
use crate::engine::Engine;
use crate::event::RecordedEvent;
use crate::store::{LogFilter, StoreError};
use crate::stream::GlobalPosition;

/// Positions are signed in the databases.
const MAX_POSITION: u64 = i64::MAX.unsigned_abs();
const MAX_PAGE: u64 = 1_000;
const DEFAULT_PAGE: u64 = 100;
/// A comment goes out this often, so that neither side takes a quiet stream for a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A page of the log.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct EventPage<'a> {
    /// Oldest first.
    items: Vec<EventShape<'a>>,
    /// Where the next page starts; the same as `after` at the end of the log.
    next_after: u64,
}

/// A page of the log behind `after`; with `Accept: text/event-stream`, all of it from there on, as it grows: the
/// `id` of each message is the position, its `data` one event as in `items`.
#[utoipa::path(get, path = "/v1/events", operation_id = "list_events", tag = "log",
    params(
        ("after" = Option<u64>, Query, description = "Position before the first event wanted; 0 by default"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1_000, description = "100 by default; not for streams"),
        ("category" = Option<String>, Query, description = "Only events of this category"),
        ("type" = Option<String>, Query, description = "Only events of this type"),
        ("Last-Event-ID" = Option<u64>, Header, description = "Resumes a stream behind this position, instead of `after`"),
        ReadParams,
    ),
    responses((status = 200, description = "A page", headers(("Essaim-Position" = u64, description = "The head of the log")),
        content((EventPage = "application/json"), (String = "text/event-stream"))), ReadProblems))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    read: ReadHeaders,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let after = GlobalPosition(parameters.number("after", 0..=MAX_POSITION)?.unwrap_or_default());
    let limit = parameters.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let filter = filter(&mut parameters)?;
    parameters.finish()?;
    if wants_a_stream(&headers) {
        let after = last_event_id(&headers)?.unwrap_or(after);
        let stream = follow(&state.engine, after, filter);
        return Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response());
    }
    state.log_at_least(read).await?;
    let limit = usize::try_from(limit).expect("at most 1,000");
    let page = state.engine.store().read_log(after, limit, &filter).await;
    let page = page.map_err(|error| Problem::from_store(&error))?;
    let items = page.events.iter().map(EventShape::of).collect::<Result<_, _>>();
    let body = EventPage {
        items: items.map_err(|error| Problem::from_store(&error))?,
        next_after: page.scanned_to.max(after).0,
    };
    Ok(([shown("essaim-position", page.head)], Json(body)).into_response())
}

fn filter(parameters: &mut Parameters) -> Result<LogFilter, Problem> {
    let name = |text: &str| if text.is_empty() { Err("must not be empty") } else { Ok(Cow::Owned(text.to_owned())) };
    let categories = parameters.take("category", name)?.into_iter().collect();
    let event_types = parameters.take("type", name)?.into_iter().collect();
    Ok(LogFilter { categories, event_types })
}

fn wants_a_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).filter_map(|kind| kind.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<GlobalPosition>, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let position = id.to_str().ok().and_then(whole_number).filter(|position| *position <= MAX_POSITION);
    position
        .map(|position| Some(GlobalPosition(position)))
        .ok_or_else(|| invalid("last-event-id", "must be a position"))
}

/// Ends at the first event that cannot be read: the client comes back to where it was, and has missed nothing.
fn follow(
    engine: &Engine,
    after: GlobalPosition,
    filter: LogFilter,
) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
    let wanted = engine
        .subscribe(after)
        .filter(move |event| std::future::ready(event.as_ref().map_or(true, |event| filter.allows(event))));
    let messages = wanted.map(|event| event.and_then(|event| message(&event)));
    messages.scan((), |(), message| {
        if let Err(error) = &message {
            tracing::warn!(%error, "a follower of the log is sent away");
        }
        std::future::ready(message.ok().map(Ok))
    })
}

/// Without a name of its own, so that a browser's `onmessage` gets every type of event.
fn message(event: &RecordedEvent) -> Result<Event, StoreError> {
    let shape = EventShape::of(event)?;
    let data = serde_json::to_string(&shape).expect("texts, numbers and raw JSON can be written as JSON");
    Ok(Event::default().id(event.position.to_string()).data(data))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
    }

    #[test]
    fn a_stream_is_for_those_who_name_it_among_what_they_accept() {
        let wants = |value| wants_a_stream(&headers("accept", value));

        assert!(wants("text/event-stream") && wants("application/json, Text/Event-Stream; q=0.5"));
        assert!(!wants("application/json") && !wants("*/*") && !wants("text/event-streams"));
        assert!(!wants_a_stream(&HeaderMap::new()));
    }

    #[test]
    fn a_stream_resumes_behind_a_position_and_nothing_else() {
        let resumes = |value| last_event_id(&headers("last-event-id", value));

        assert_eq!(resumes("7").unwrap(), Some(GlobalPosition(7)));
        assert_eq!(last_event_id(&HeaderMap::new()).unwrap(), None);
        for wrong in ["", "x", "-1", "+1", "9223372036854775808"] {
            assert!(resumes(wrong).is_err(), "{wrong}");
        }
    }
}
