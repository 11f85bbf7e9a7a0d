//! This file holds what an event is: the fact itself, who caused it, and where it stands in the log.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::shared_json;
use crate::stream::{GlobalPosition, StreamId, Version};

/// What can be an event: a serde enum whose variants' names are the events' types.
///
/// Implemented for every type that fits; there is nothing to write.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Event for T {}

/// Names one command, across retries and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(pub Uuid);

impl CommandId {
    /// The id of the command that `principal` sends under `key`: equal for every retry, and never another's.
    pub fn from_key(principal: &str, key: &str) -> Self {
        Self(derived_id("essaim command", &[principal.as_bytes(), key.as_bytes()]))
    }

    /// The id of the `n`-th event of this command, counted from 0. A re-run writes the same ids.
    pub fn event_id(self, n: usize) -> Uuid {
        derived_id("essaim event", &[self.0.as_bytes(), &(n as u64).to_be_bytes()])
    }

    /// The id of an internal command: equal whenever purpose and parts are, and never a client's.
    pub(crate) fn from_parts(purpose: &str, parts: &[&[u8]]) -> Self {
        Self(derived_id(purpose, parts))
    }

    /// An id for the aggregate that this command creates, so that a retry creates the same one.
    pub fn aggregate_id(self) -> Uuid {
        derived_id("essaim aggregate", &[self.0.as_bytes()])
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A UUID v8 (RFC 9562 §5.8) from blake3 over length-prefixed parts.
fn derived_id(purpose: &str, parts: &[&[u8]]) -> Uuid {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Uuid::new_v8(bytes)
}

/// Who caused an event and why; the same for all events of one command, shared, and encoded once.
#[derive(Clone)]
pub struct Metadata(Arc<MetadataInner>);

struct MetadataInner {
    json: Arc<str>,
    fields: OnceLock<MetadataFields>,
}

/// The readable parts of [`Metadata`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetadataFields {
    /// The command that made the event.
    pub command_id: CommandId,
    /// Shared by everything that one outside request set off.
    pub correlation_id: Uuid,
    /// What directly caused the command: an event, or the command itself.
    pub causation_id: Uuid,
    /// Who asked, e.g. the subject of a token.
    pub principal: String,
    /// What else the command brought.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl MetadataFields {
    /// As its `Serialize` writes it, which takes ten times as long over the ids; every command has its own metadata.
    fn write(&self, json: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let ids = [
            ("{\"command_id\":\"", self.command_id.0),
            ("\",\"correlation_id\":\"", self.correlation_id),
            ("\",\"causation_id\":\"", self.causation_id),
        ];
        let mut digits = Uuid::encode_buffer();
        for (name, id) in ids {
            json.extend_from_slice(name.as_bytes());
            json.extend_from_slice(id.as_hyphenated().encode_lower(&mut digits).as_bytes());
        }
        json.extend_from_slice(b"\",\"principal\":");
        serde_json::to_writer(&mut *json, &self.principal)?;
        for (name, value) in &self.extra {
            json.push(b',');
            serde_json::to_writer(&mut *json, name)?;
            json.push(b':');
            serde_json::to_writer(&mut *json, value)?;
        }
        json.push(b'}');
        Ok(())
    }
}

impl Metadata {
    /// Encodes the fields once.
    pub fn new(fields: MetadataFields) -> Self {
        let json = shared_json(|json| fields.write(json));
        let json = json.expect("ids, strings and JSON values can be written as JSON");
        Self(Arc::new(MetadataInner { json, fields: OnceLock::from(fields) }))
    }

    /// Metadata as stored; decoded when first asked for.
    pub fn from_json(json: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(MetadataInner { json: json.into(), fields: OnceLock::new() }))
    }

    /// The stored text.
    pub fn as_json(&self) -> &str {
        &self.0.json
    }

    /// The stored text, shared.
    pub fn shared_json(&self) -> Arc<str> {
        Arc::clone(&self.0.json)
    }

    /// The decoded fields. Text that is no metadata of ours (written by other hands) shows nil ids and no principal.
    pub fn fields(&self) -> &MetadataFields {
        self.0.fields.get_or_init(|| {
            serde_json::from_str(&self.0.json).unwrap_or_else(|_| MetadataFields {
                command_id: CommandId(Uuid::nil()),
                correlation_id: Uuid::nil(),
                causation_id: Uuid::nil(),
                principal: String::new(),
                extra: BTreeMap::new(),
            })
        })
    }
}

impl Deref for Metadata {
    type Target = MetadataFields;

    fn deref(&self) -> &MetadataFields {
        self.fields()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.json)
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.0.json == other.0.json
    }
}

/// blake3 over an event's stored bytes and its predecessor's hash; all zero before the first event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// Before the first event.
    pub const START: ChainHash = ChainHash([0; 32]);

    /// The hash of `event`, which stands right behind the event with this hash.
    #[must_use]
    pub fn extended_by(&self, event: &RecordedEvent) -> ChainHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&event.position.0.to_be_bytes());
        hasher.update(event.event_id.as_bytes());
        hasher.update(&event.version.0.to_be_bytes());
        hasher.update(&event.schema_version.to_be_bytes());
        hasher.update(&event.recorded_at.timestamp_micros().to_be_bytes());
        let texts =
            [event.stream.category(), event.stream.key(), &event.event_type, &event.json, event.metadata.as_json()];
        for text in texts {
            hasher.update(&(text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        ChainHash(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A decided event, encoded, on its way to the journal; it has no place in the log yet.
#[derive(Clone)]
pub struct NewEvent {
    /// Derived from the command, see [`CommandId::event_id`].
    pub event_id: Uuid,
    /// The variant's name.
    pub event_type: Cow<'static, str>,
    /// Which shape of that type `json` has, from 1.
    pub schema_version: u16,
    /// The fields as JSON text.
    pub json: Arc<str>,
    /// The event before encoding, so that projections in this process need not decode it.
    pub decoded: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("event_type", &self.event_type)
            .field("event_id", &self.event_id)
            .finish_non_exhaustive()
    }
}

/// An event as it stands in the log.
#[derive(Clone)]
pub struct RecordedEvent {
    /// Place in the whole log, from 1, without gaps.
    pub position: GlobalPosition,
    /// Unique; derived from the command.
    pub event_id: Uuid,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Place in its stream, from 1, without gaps.
    pub version: Version,
    /// The variant's name.
    pub event_type: Cow<'static, str>,
    /// Which shape of that type `json` has, from 1.
    pub schema_version: u16,
    /// The fields as JSON text, byte for byte as written.
    pub json: Arc<str>,
    /// Who and why.
    pub metadata: Metadata,
    /// When the journal stamped it: UTC, microseconds, never before its predecessor.
    pub recorded_at: DateTime<Utc>,
    /// Covers this event and everything before it.
    pub hash: ChainHash,
    /// The event before encoding, when it was made in this process.
    pub decoded: Option<Arc<dyn Any + Send + Sync>>,
}

impl RecordedEvent {
    /// About how much memory it holds, in bytes.
    pub fn weight(&self) -> usize {
        const FIXED: usize = size_of::<RecordedEvent>() + 64;
        FIXED + self.json.len() + self.metadata.as_json().len() + self.stream.as_str().len()
    }
}

impl fmt::Debug for RecordedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}@{} {} {}", self.position, self.stream, self.version, self.event_type, self.json)
    }
}

impl PartialEq for RecordedEvent {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position
            && self.event_id == other.event_id
            && self.stream == other.stream
            && self.version == other.version
            && self.event_type == other.event_type
            && self.schema_version == other.schema_version
            && self.json == other.json
            && self.metadata == other.metadata
            && self.recorded_at == other.recorded_at
            && self.hash == other.hash
    }
}

/// A recorded event together with its decoded data; everything of [`RecordedEvent`] can be read through it.
#[derive(Debug)]
pub struct TypedEvent<'a, E> {
    /// The event itself.
    pub data: &'a E,
    /// The same event as stored.
    pub recorded: &'a RecordedEvent,
}

impl<E> Clone for TypedEvent<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for TypedEvent<'_, E> {}

impl<E> Deref for TypedEvent<'_, E> {
    type Target = RecordedEvent;

    fn deref(&self) -> &RecordedEvent {
        self.recorded
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_are_written_as_their_fields_say() {
        let id = |n: u128| Uuid::from_u128(0x0190_a3c4_0000_7000_8000_0000_0000_0000 + n);
        let nothing = BTreeMap::new();
        let much = [("a \"b\"\\", json!({"c": [1, null, "é\u{1}"]})), ("principal", json!("twice"))];
        let much: BTreeMap<_, _> = much.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        for principal in ["", "anonymous", "a \"quoted\" \\ one\n\u{0}", "Zoë 🐝"] {
            for extra in [&nothing, &much] {
                let fields = MetadataFields {
                    command_id: CommandId(id(1)),
                    correlation_id: id(2),
                    causation_id: Uuid::nil(),
                    principal: principal.into(),
                    extra: extra.clone(),
                };
                let written = serde_json::to_string(&fields).unwrap();

                assert_eq!(Metadata::new(fields).as_json(), written);
            }
        }
    }
}
