//! This file is the contract of an aggregate: `decide` turns commands into events, `apply` turns events into state.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::codec;
use crate::event::{CommandId, Event, NewEvent, RecordedEvent};
use crate::stream::StreamId;

/// Something with an identity that decides commands one after the other.
///
/// Both methods are pure: no clock, no randomness, no waiting, no outside call. What needs one of those reacts to
/// events afterwards. `Default` is the state of an empty stream.
pub trait Aggregate: Default + Send + Sync + 'static {
    /// First half of the name of every stream of this kind: `[a-z][a-z0-9_-]*`, at most 64 bytes; never changed.
    const CATEGORY: &'static str;

    /// What can be asked of it.
    type Command: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What can have happened to it: an enum whose variants' names are the events' types.
    type Event: Event;
    /// Why it may refuse.
    type Rejection: Serialize + DeserializeOwned + std::error::Error + Send + Sync + 'static;

    /// The events that follow from `command` in this state; none when there is nothing to change.
    ///
    /// # Errors
    /// The business reason for refusing. It is an answer, not a failure: it is given durably, like a success.
    fn decide(&self, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Brings the state up to date with an event that happened. It must not refuse.
    fn apply(&mut self, event: &Self::Event);

    /// Values that belong to this aggregate alone among all in the log, as a function of its state.
    ///
    /// The difference between two states is claimed and released in the transaction that appends the events between
    /// them; a command whose claim another holds is refused.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    /// How older events are lifted to the present shape; one entry for each step ever made.
    fn upcasters() -> &'static [Upcaster] {
        &[]
    }

    /// Whether and how often the state is saved so that a load need not read the whole stream.
    fn snapshots() -> Option<SnapshotPolicy<Self>> {
        None
    }

    /// What the state holds on the heap, in bytes, about; counted against the memory budget of resident aggregates.
    fn heap_bytes(&self) -> usize {
        0
    }

    /// Names the instance with this key.
    fn id(key: impl fmt::Display) -> AggregateId<Self> {
        AggregateId::new(key)
    }
}

/// Names one instance of `A`.
pub struct AggregateId<A> {
    stream: StreamId,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Aggregate> AggregateId<A> {
    /// The instance with this key; the key is checked when a command is sent to it.
    pub fn new(key: impl fmt::Display) -> Self {
        Self { stream: StreamId::new(A::CATEGORY, &key.to_string()), aggregate: PhantomData }
    }

    /// The stream that holds its events.
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// The key within the category.
    pub fn key(&self) -> &str {
        self.stream.key()
    }
}

impl<A> Clone for AggregateId<A> {
    fn clone(&self) -> Self {
        Self { stream: self.stream.clone(), aggregate: PhantomData }
    }
}

impl<A> fmt::Debug for AggregateId<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.stream, f)
    }
}

impl<A> fmt::Display for AggregateId<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.stream, f)
    }
}

/// A value that one aggregate at most may hold at any time, e.g. an email address among all users.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
pub struct Claim {
    /// What kind of value, e.g. `user_email`.
    pub scope: String,
    /// The value, compared byte for byte; at most [`crate::stream::MAX_KEY_BYTES`] bytes.
    pub value: String,
}

impl Claim {
    /// A claim on `value` within `scope`.
    pub fn new(scope: impl Into<String>, value: impl Into<String>) -> Self {
        Self { scope: scope.into(), value: value.into() }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.scope, self.value)
    }
}

/// Lifts events of one type and schema version to the next schema version.
#[derive(Clone, Copy)]
pub struct Upcaster {
    event_type: &'static str,
    from: u16,
    upcast: fn(Value) -> Value,
}

impl Upcaster {
    /// Lifts `event_type` from schema version `from` (≥ 1) to `from + 1`.
    pub const fn new(event_type: &'static str, from: u16, upcast: fn(Value) -> Value) -> Self {
        Self { event_type, from, upcast }
    }
}

/// The schema version that new events of this type are written with: one more than the last upcaster lifts from.
pub fn schema_version<A: Aggregate>(event_type: &str) -> u16 {
    let lifted = A::upcasters().iter().filter(|upcaster| upcaster.event_type == event_type);
    lifted.map(|upcaster| upcaster.from).max().unwrap_or(0) + 1
}

/// When the state is saved, and how.
pub struct SnapshotPolicy<A> {
    /// A snapshot is due when this many events came since the last one.
    pub every_events: u64,
    /// The state's shape; snapshots of another one are ignored and the stream is replayed.
    pub schema_version: u16,
    pub(crate) encode: fn(&A) -> Result<Vec<u8>, serde_json::Error>,
    pub(crate) decode: fn(&[u8]) -> Result<A, serde_json::Error>,
}

impl<A: Aggregate + Serialize + DeserializeOwned> SnapshotPolicy<A> {
    /// Saves the state as JSON after every `events` events (≥ 1).
    pub fn every(events: u64) -> Self {
        Self {
            every_events: events.max(1),
            schema_version: 1,
            encode: |state| serde_json::to_vec(state),
            decode: |bytes| serde_json::from_slice(bytes),
        }
    }

    /// To be raised whenever the state's shape changes.
    #[must_use]
    pub fn schema(mut self, version: u16) -> Self {
        self.schema_version = version;
        self
    }
}

/// Why a stored event cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a later release than this one.
    #[error("event {position} of type {event_type} has schema version {found}, this program knows up to {known}")]
    NewerSchema {
        /// Its position.
        position: u64,
        /// Its type.
        event_type: String,
        /// The version it was written with.
        found: u16,
        /// The latest version known here.
        known: u16,
    },
    /// No upcaster lifts it.
    #[error("event {position} of type {event_type}: no upcaster from schema version {from}")]
    NoUpcaster {
        /// Its position.
        position: u64,
        /// Its type.
        event_type: String,
        /// The version that nothing lifts.
        from: u16,
    },
    /// The data is not what the type says.
    #[error("event {position} of type {event_type} cannot be decoded")]
    Malformed {
        /// Its position.
        position: u64,
        /// Its type.
        event_type: String,
        /// What serde found.
        #[source]
        source: serde_json::Error,
    },
}

/// Encodes a decided event as the `n`-th of its command, counted from 0, in its present schema.
///
/// # Errors
/// When serde cannot write it as a variant with JSON fields: a bug of the event's type, the same at every try.
pub fn encode_event<A: Aggregate>(
    event: &A::Event,
    command: CommandId,
    n: usize,
) -> Result<NewEvent, serde_json::Error> {
    let (event_type, json) = codec::encode_variant(event)?;
    Ok(NewEvent {
        event_id: command.event_id(n),
        event_type: event_type.into(),
        schema_version: schema_version::<A>(event_type),
        json,
        decoded: None,
    })
}

/// Calls `read` with the decoded event: the one made in this process where there is one, else from its JSON, lifted.
///
/// # Errors
/// [`DecodeError`] when this program cannot understand the event.
pub fn with_decoded<A: Aggregate, T>(
    event: &RecordedEvent,
    read: impl FnOnce(&A::Event) -> T,
) -> Result<T, DecodeError> {
    if let Some(decoded) = event.decoded.as_ref().and_then(|decoded| decoded.downcast_ref::<A::Event>()) {
        return Ok(read(decoded));
    }
    decode_event::<A>(event).map(|event| read(&event))
}

/// Decodes the event from its JSON, lifting it to the present schema first.
///
/// # Errors
/// [`DecodeError`] when this program cannot understand the event.
pub fn decode_event<A: Aggregate>(event: &RecordedEvent) -> Result<A::Event, DecodeError> {
    let event_type = event.event_type.as_ref();
    let position = event.position.0;
    let malformed = |source| DecodeError::Malformed { position, event_type: event_type.to_owned(), source };
    let known = schema_version::<A>(event_type);
    let found = event.schema_version;
    if found > known {
        return Err(DecodeError::NewerSchema { position, event_type: event_type.to_owned(), found, known });
    }
    if found == known {
        return codec::decode_variant(event_type, &event.json).map_err(malformed);
    }
    let mut data: Value = serde_json::from_str(&event.json).map_err(malformed)?;
    for from in found..known {
        let step = A::upcasters().iter().find(|upcaster| upcaster.event_type == event_type && upcaster.from == from);
        let step = step.ok_or_else(|| DecodeError::NoUpcaster { position, event_type: event_type.to_owned(), from })?;
        data = (step.upcast)(data);
    }
    codec::decode_variant(event_type, &data.to_string()).map_err(malformed)
}
