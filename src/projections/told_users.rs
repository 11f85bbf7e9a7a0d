//! This file tells events of users to a table, for the tests of every read model of users.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::table::{Keys, Table};
use super::{Projection, Sources};
use crate::event::{ChainHash, Metadata, RecordedEvent};
use crate::stream::{GlobalPosition, StreamId, Version};

/// A table that events are told to, one second after the other.
pub(super) struct Told<P: Projection> {
    pub(super) table: Table<P>,
    versions: BTreeMap<StreamId, u64>,
}

impl<P: Projection> Default for Told<P> {
    fn default() -> Self {
        Self { table: Table::default(), versions: BTreeMap::new() }
    }
}

impl<P: Projection + Default> Told<P> {
    /// Tells an event of a user.
    pub(super) fn tell(&mut self, user: u128, event_type: &'static str, json: &str) {
        self.tell_of("user", user, event_type, json);
    }

    /// Tells an event of another aggregate under a user's key.
    pub(super) fn tell_of(&mut self, category: &str, user: u128, event_type: &'static str, json: &str) {
        let stream = StreamId::new(category, &Uuid::from_u128(user).to_string());
        let version = self.versions.entry(stream.clone()).or_default();
        *version += 1;
        let version = Version(*version);
        let position = self.table.position().0 + 1;
        let event = RecordedEvent {
            position: GlobalPosition(position),
            event_id: Uuid::nil(),
            stream,
            version,
            event_type: event_type.into(),
            schema_version: 1,
            json: json.into(),
            metadata: Metadata::from_json(metadata(&format!("admin-{position}"))),
            recorded_at: at(position),
            hash: ChainHash::START,
            decoded: None,
        };
        self.table.apply(&P::default(), &Sources::of(), &event, &mut Keys::<P>::default()).unwrap();
    }
}

/// What stands beside an event that this one asked for.
pub(super) fn metadata(principal: &str) -> String {
    let nil = Uuid::nil();
    format!(r#"{{"command_id":"{nil}","correlation_id":"{nil}","causation_id":"{nil}","principal":"{principal}"}}"#)
}

/// The time of the event at this position.
pub(super) fn at(position: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + i64::try_from(position).unwrap(), 0).unwrap()
}

/// The fields of a `UserRegistered`.
pub(super) fn registered(organization: u128, username: &str, first_name: &str, last_name: &str) -> String {
    let organization = Uuid::from_u128(organization);
    format!(
        r#"{{"username":"{username}","email":"{username}@example.org","first_name":"{first_name}",
            "last_name":"{last_name}","organization_id":"{organization}","roles":["reader"]}}"#
    )
}
