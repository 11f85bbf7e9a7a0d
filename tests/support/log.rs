//! This file builds batches and read tables for tests of stores, right behind a head.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use chrono::{DateTime, Utc};
use essaim::event::{ChainHash, Metadata};
use essaim::prelude::*;
use essaim::projections::TableSpec;
use essaim::store::{Batch, Checkpoint, CheckpointSave, ClaimChanges, Epoch, Head};
use uuid::Uuid;

pub const ME: Uuid = Uuid::from_u128(1);
pub const OTHER: Uuid = Uuid::from_u128(2);

pub fn stream() -> StreamId {
    StreamId::new("account", "ada")
}

pub fn recorded_at() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 123_456_000).expect("a time in this millennium")
}

/// The events number `from` to `from + count - 1` of a log that holds nothing but one stream.
pub fn batch(head: &Head, count: u64) -> Batch {
    let mut hash = head.chain_hash;
    let events = (1..=count).map(|n| {
        let number = head.position.0 + n;
        let mut event = RecordedEvent {
            position: GlobalPosition(number),
            event_id: Uuid::from_u128(number.into()),
            stream: stream(),
            version: Version(number),
            event_type: "Deposited".into(),
            schema_version: 1,
            json: format!("{{\"cents\":  {number}}}").into(),
            metadata: Metadata::from_json(format!("{{ \"command\":{} }}", number / 3)),
            recorded_at: recorded_at(),
            hash: ChainHash::START,
            decoded: None,
        };
        hash = hash.extended_by(&event);
        event.hash = hash;
        event
    });
    Batch {
        epoch: head.epoch,
        previous: head.batch,
        id: Uuid::from_u128(u128::from(head.position.0) + 1_000_000),
        events: events.collect(),
        claims: ClaimChanges::default(),
        outcomes: Vec::new(),
        recorded_at: recorded_at(),
    }
}

/// A save of one row a value list, from `previous` to `position`.
pub fn save(
    table: &TableSpec,
    previous: Option<u64>,
    position: u64,
    upserts: Vec<Vec<essaim::projections::Value>>,
) -> CheckpointSave<'_> {
    CheckpointSave {
        table,
        previous: previous.map(GlobalPosition),
        checkpoint: Checkpoint {
            projection: table.projection.clone(),
            version: table.version,
            position: GlobalPosition(position),
            chain_hash: ChainHash::START,
            epoch: Epoch(1),
            saved_at: recorded_at(),
        },
        upserts,
        deletes: Vec::new(),
        replace_all: false,
    }
}
