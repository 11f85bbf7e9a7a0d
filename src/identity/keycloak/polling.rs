//! This file polls Keycloak's user events, each once along a chain of cursors.
//!
//! Keycloak stamps an event when it happens and stores it when its transaction ends, so one may turn up behind others
//! that are newer. Each page therefore begins a few seconds before the newest event seen, and the cursor names the
//! events of those seconds that were given.

use std::str::FromStr;

use chrono::DateTime;
use serde::Deserialize;

use super::accounts::{not_keycloak, parsed};
use super::connection::{Ask, Connection, Reply};
use crate::identity::{EventCursor, EventKind, EventPage, MAX_PAGE, ProviderError, ProviderEvent, ProviderId};

/// How much later than a newer one an event may be stored.
const OVERLAP_MILLIS: i64 = 5_000;
/// Events that a cursor names at most; in a rush the overlap is shorter.
const MAX_NAMED: usize = 1_000;

/// See [`crate::identity::IdentityProvider::events`].
pub(super) async fn events(
    keycloak: &Connection,
    after: Option<&EventCursor>,
    limit: u32,
) -> Result<EventPage, ProviderError> {
    let progress = after.map(|cursor| cursor.0.parse::<Progress>()).transpose()?.unwrap_or_default();
    let mut skip = 0;
    // Pages of nothing but named events are passed over; there can be no more of them than the cursor names.
    for _ in 0..=MAX_NAMED / MAX_PAGE as usize {
        let page = page(keycloak, progress.from_millis, skip).await?;
        skip += page.len();
        let is_last = page.len() < MAX_PAGE as usize;
        let fresh: Vec<_> =
            page.into_iter().filter(|event| !progress.names(event)).take(limit.max(1) as usize).collect();
        if !fresh.is_empty() || is_last {
            return Ok(given(fresh, progress, after));
        }
    }
    Err(not_keycloak("GET /events answers the same page again and again"))
}

fn given(fresh: Vec<Event>, mut progress: Progress, after: Option<&EventCursor>) -> EventPage {
    fresh.iter().for_each(|event| progress.include(event));
    progress.narrow();
    let next = progress.newest().map(|_| EventCursor(progress.to_string())).or_else(|| after.cloned());
    EventPage { events: fresh.into_iter().filter_map(Event::understood).collect(), next }
}

async fn page(keycloak: &Connection, from_millis: i64, skip: usize) -> Result<Vec<Event>, ProviderError> {
    let (from, first, max) = (from_millis.to_string(), skip.to_string(), MAX_PAGE.to_string());
    let query = [
        ("type", "LOGIN"),
        ("type", "VERIFY_EMAIL"),
        ("direction", "asc"),
        ("dateFrom", from.as_str()),
        ("first", first.as_str()),
        ("max", max.as_str()),
    ];
    let Reply::Done(answer) = keycloak.ask(Ask::get(&["events"], &query)).await? else {
        return Err(not_keycloak("GET /events finds no such thing"));
    };
    let events: Vec<Event> = parsed(&answer)?;
    if events.is_sorted_by_key(|event| event.time) {
        return Ok(events);
    }
    Err(ProviderError::Configuration {
        detail: "events do not come oldest first: Keycloak 26.2 or newer is needed".into(),
    })
}

/// An event as Keycloak shows it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Event {
    id: String,
    time: i64,
    #[serde(rename = "type")]
    kind: String,
    user_id: Option<String>,
    details: Details,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Details {
    email: Option<String>,
}

impl Event {
    fn understood(self) -> Option<ProviderEvent> {
        let kind = match self.kind.as_str() {
            "LOGIN" => EventKind::Login,
            "VERIFY_EMAIL" => EventKind::EmailVerified,
            _ => return None,
        };
        Some(ProviderEvent {
            account: ProviderId(self.user_id?),
            kind,
            email: self.details.email.filter(|_| kind == EventKind::EmailVerified).map(|email| email.to_lowercase()),
            at: DateTime::from_timestamp_millis(self.time)?,
            id: self.id,
        })
    }

    /// A name for the cursor; two events of five seconds will not share it.
    fn short_name(&self) -> u64 {
        let hash = blake3::hash(self.id.as_bytes());
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
    }
}

/// How far events were read: where the next page begins, and which of its events were given.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    from_millis: i64,
    /// Sorted by time.
    given: Vec<(i64, u64)>,
}

impl Progress {
    fn names(&self, event: &Event) -> bool {
        let name = event.short_name();
        self.given.iter().any(|(time, given)| *time == event.time && *given == name)
    }

    fn include(&mut self, event: &Event) {
        let entry = (event.time, event.short_name());
        let at = self.given.partition_point(|given| *given < entry);
        self.given.insert(at, entry);
    }

    fn newest(&self) -> Option<i64> {
        self.given.last().map(|(time, _)| *time)
    }

    /// Begins the next page as late as the overlap and the cursor's size allow.
    fn narrow(&mut self) {
        let Some(newest) = self.newest() else { return };
        self.from_millis = self.from_millis.max(newest - OVERLAP_MILLIS);
        if let Some(oldest) = self.given.len().checked_sub(MAX_NAMED) {
            self.from_millis = self.from_millis.max(self.given[oldest].0);
        }
        let from = self.from_millis;
        self.given.retain(|(time, _)| *time >= from);
    }
}

/// `1:<from>:<time>-<name>,…`; times relative to `from`, names in hexadecimal.
impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1:{}:", self.from_millis)?;
        for (n, (time, name)) in self.given.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{}-{name:016x}", time - self.from_millis)?;
        }
        Ok(())
    }
}

impl FromStr for Progress {
    type Err = ProviderError;

    fn from_str(text: &str) -> Result<Self, ProviderError> {
        let parse = || {
            let (from, given) = text.strip_prefix("1:")?.split_once(':')?;
            let from_millis: i64 = from.parse().ok()?;
            let entry = |entry: &str| {
                let (time, name) = entry.split_once('-')?;
                Some((from_millis.checked_add(time.parse().ok()?)?, u64::from_str_radix(name, 16).ok()?))
            };
            let given = given.split(',').filter(|entry| !entry.is_empty()).map(entry).collect::<Option<Vec<_>>>()?;
            Some(Self { from_millis, given })
        };
        parse().ok_or_else(|| ProviderError::Configuration {
            detail: "the cursor of events is not one of Keycloak's".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, time: i64) -> Event {
        Event { id: id.into(), time, kind: "LOGIN".into(), user_id: Some("u".into()), ..Event::default() }
    }

    fn after(events: &[Event]) -> Progress {
        let mut progress = Progress::default();
        events.iter().for_each(|event| progress.include(event));
        progress.narrow();
        progress
    }

    #[test]
    fn a_cursor_names_what_was_given_in_the_seconds_before_the_newest() {
        let events = [event("a", 1_000), event("b", 20_000), event("c", 24_000)];

        let progress = after(&events);

        // 24,000 less the overlap of 5,000.
        assert_eq!(progress.from_millis, 19_000);
        assert!(progress.names(&events[1]) && progress.names(&events[2]) && !progress.names(&events[0]));
        assert!(!progress.names(&event("d", 23_000)), "one that is stored late is still given");
        assert_eq!(progress.to_string().parse::<Progress>().unwrap(), progress);
    }

    #[test]
    fn in_a_rush_the_cursor_stays_small() {
        let rush: Vec<_> = (0..5_000).map(|n| event(&n.to_string(), 100_000 + n)).collect();

        let progress = after(&rush);

        assert_eq!(progress.given.len(), MAX_NAMED);
        assert_eq!(progress.from_millis, 104_000);
        assert!(progress.to_string().len() < 64 * 1_024);
    }

    #[test]
    fn a_cursor_of_something_else_is_refused() {
        for text in ["", "2:0:", "1:x:", "1:0:5", "1:9223372036854775807:1-00"] {
            assert!(text.parse::<Progress>().is_err(), "{text}");
        }
    }
}
