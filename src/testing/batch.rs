//! This file builds batches as the journal would: dense positions, the chain of hashes, time that never runs back.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::aggregate::Claim;
use crate::clock::{Clock, SystemClock};
use crate::event::{ChainHash, CommandId, Metadata, MetadataFields, RecordedEvent};
use crate::store::{Batch, ClaimChanges, Epoch, Head, StoredOutcome};
use crate::stream::{GlobalPosition, StreamId, Version};

/// Builds the batch that follows a head.
///
/// ```
/// # use essaim::store::{EventStore, TakeOver, memory::MemoryStore};
/// # use essaim::{stream::StreamId, testing::BatchBuilder};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), essaim::store::StoreError> {
/// let store = MemoryStore::new();
/// let mut writer = store.open_writer(uuid::Uuid::from_u128(1), TakeOver::OnlyDead).await?;
/// let batch = BatchBuilder::after(writer.head()).event(&StreamId::new("account", "ada"), 1, "Opened", "{}").build();
/// writer.append(&batch).await?;
/// assert_eq!(store.head().await?.batch, batch.id);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    epoch: Epoch,
    previous: Uuid,
    position: GlobalPosition,
    hash: ChainHash,
    recorded_at: DateTime<Utc>,
    events: Vec<RecordedEvent>,
    claims: ClaimChanges,
    outcomes: Vec<StoredOutcome>,
}

impl BatchBuilder {
    /// An empty batch right behind `head`, stamped a microsecond later (on an empty log: at a fixed instant of 2026).
    pub fn after(head: &Head) -> Self {
        let first = DateTime::from_timestamp_micros(1_767_323_045_678_901).expect("an instant of 2026");
        Self {
            epoch: head.epoch,
            previous: head.batch,
            position: head.position,
            hash: head.chain_hash,
            recorded_at: first.max(head.recorded_at + TimeDelta::microseconds(1)),
            events: Vec::new(),
            claims: ClaimChanges::default(),
            outcomes: Vec::new(),
        }
    }

    /// One more event, the `version`-th of its stream.
    #[must_use]
    pub fn event(self, stream: &StreamId, version: u64, event_type: &str, json: &str) -> Self {
        self.event_with(stream, version, |event| {
            event.event_type = event_type.to_owned().into();
            event.json = json.into();
        })
    }

    /// `count` more events of one stream, the first of them its `first`-th: `Counted {"n":version}`.
    #[must_use]
    pub fn events(self, stream: &StreamId, first: u64, count: u64) -> Self {
        (first..first + count).fold(self, |batch, version| batch.event_with(stream, version, |_| {}))
    }

    /// One more event, changed by `edit` before it is hashed; an edited position or
    /// time is where the next event goes on from.
    #[must_use]
    pub fn event_with(mut self, stream: &StreamId, version: u64, edit: impl FnOnce(&mut RecordedEvent)) -> Self {
        let command_id = CommandId(SystemClock.random_id());
        let mut event = RecordedEvent {
            position: self.position.next(),
            event_id: command_id.event_id(0),
            stream: stream.clone(),
            version: Version(version),
            event_type: "Counted".into(),
            schema_version: 1,
            json: format!(r#"{{"n":{version}}}"#).into(),
            metadata: metadata(command_id),
            recorded_at: self.recorded_at,
            hash: ChainHash::START,
            decoded: None,
        };
        edit(&mut event);
        event.hash = self.hash.extended_by(&event);
        self.position = event.position;
        self.hash = event.hash;
        self.recorded_at = event.recorded_at;
        self.events.push(event);
        self
    }

    /// `holder` takes a free claim.
    #[must_use]
    pub fn take(mut self, claim: Claim, holder: &StreamId) -> Self {
        self.claims.take.push((claim, holder.clone()));
        self
    }

    /// `holder` lets go of a claim.
    #[must_use]
    pub fn release(mut self, claim: Claim, holder: &StreamId) -> Self {
        self.claims.release.push((claim, holder.clone()));
        self
    }

    /// A claim goes from one holder to another.
    #[must_use]
    pub fn transfer(mut self, claim: Claim, from: &StreamId, to: &StreamId) -> Self {
        self.claims.transfer.push((claim, from.clone(), to.clone()));
        self
    }

    /// One more outcome to keep.
    #[must_use]
    pub fn outcome(mut self, outcome: StoredOutcome) -> Self {
        self.outcomes.push(outcome);
        self
    }

    /// Another epoch than the head's.
    #[must_use]
    pub fn epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = epoch;
        self
    }

    /// Another predecessor than the head's last batch.
    #[must_use]
    pub fn previous(mut self, batch: Uuid) -> Self {
        self.previous = batch;
        self
    }

    /// The batch, under a fresh random id.
    pub fn build(self) -> Batch {
        Batch {
            epoch: self.epoch,
            previous: self.previous,
            id: SystemClock.random_id(),
            events: self.events.into(),
            claims: self.claims,
            outcomes: self.outcomes,
            recorded_at: self.recorded_at,
        }
    }
}

fn metadata(command_id: CommandId) -> Metadata {
    Metadata::new(MetadataFields {
        command_id,
        correlation_id: command_id.0,
        causation_id: command_id.0,
        principal: "tester".into(),
        extra: Default::default(),
    })
}
