//! This file keeps the double's events: what users did, and what administrators did.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// Events of each kind that are kept; the oldest go first.
const MAX_KEPT: usize = 100_000;

/// What is stored, and what was.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) enabled: bool,
    pub(super) types: Vec<String>,
    user_events: VecDeque<UserEvent>,
    admin_events: VecDeque<Value>,
}

/// What a user did.
#[derive(Debug, Clone)]
pub(super) struct UserEvent {
    pub(super) id: String,
    pub(super) at_millis: i64,
    pub(super) kind: &'static str,
    pub(super) user_id: String,
    pub(super) client_id: String,
    pub(super) details: Value,
}

impl Default for Events {
    fn default() -> Self {
        let types = vec!["LOGIN".into(), "VERIFY_EMAIL".into()];
        Self { enabled: true, types, user_events: VecDeque::new(), admin_events: VecDeque::new() }
    }
}

/// Which events a poll asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct EventSearch {
    /// Empty is all.
    pub(super) types: Vec<String>,
    pub(super) from_millis: i64,
    pub(super) oldest_first: bool,
    pub(super) first: usize,
    pub(super) max: usize,
}

impl Events {
    pub(super) fn record(&mut self, event: UserEvent) {
        if self.enabled && self.types.iter().any(|kind| kind == event.kind) {
            keep(&mut self.user_events, event);
        }
    }

    pub(super) fn record_admin(&mut self, id: String, at_millis: i64, operation: &str, path: &str) {
        let event = json!({"id": id, "time": at_millis, "operationType": operation, "resourceType": "USER", "resourcePath": path});
        keep(&mut self.admin_events, event);
    }

    pub(super) fn search(&self, search: &EventSearch) -> Vec<Value> {
        let wanted = |event: &&UserEvent| {
            event.at_millis >= search.from_millis
                && (search.types.is_empty() || search.types.iter().any(|kind| kind == event.kind))
        };
        let mut found: Vec<_> = self.user_events.iter().filter(wanted).collect();
        if !search.oldest_first {
            found.reverse();
        }
        found.into_iter().skip(search.first).take(search.max).map(UserEvent::shown).collect()
    }

    /// Newest first.
    pub(super) fn admin_events(&self, first: usize, max: usize) -> Vec<Value> {
        self.admin_events.iter().rev().skip(first).take(max).cloned().collect()
    }

    pub(super) fn settings(&self) -> Value {
        json!({
            "eventsEnabled": self.enabled, "eventsExpiration": 0, "eventsListeners": ["jboss-logging"],
            "enabledEventTypes": self.types, "adminEventsEnabled": true, "adminEventsDetailsEnabled": false,
        })
    }
}

fn keep<T>(events: &mut VecDeque<T>, event: T) {
    if events.len() == MAX_KEPT {
        events.pop_front();
    }
    events.push_back(event);
}

impl UserEvent {
    fn shown(&self) -> Value {
        json!({
            "id": self.id, "time": self.at_millis, "type": self.kind, "userId": self.user_id,
            "clientId": self.client_id, "ipAddress": "127.0.0.1", "details": self.details,
        })
    }
}
