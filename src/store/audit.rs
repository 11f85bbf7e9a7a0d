//! This file says which events an audit asks for; every store finds them without reading the rest of the log.

use std::borrow::Cow;

use crate::event::RecordedEvent;
use crate::stream::{GlobalPosition, StreamId};

/// Which events are wanted; what is none does not matter.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditFilter {
    /// Any of these streams.
    pub streams: Option<Vec<StreamId>>,
    /// Asked for by this principal, of at most [`MAX_PRINCIPAL_CHARACTERS`].
    pub principal: Option<String>,
    /// Of this type.
    pub event_type: Option<Cow<'static, str>>,
    /// Behind this position.
    pub after: GlobalPosition,
    /// Before this position.
    pub before: GlobalPosition,
}

/// Longest principal that can be searched for; longer ones are none that a request can bring.
pub const MAX_PRINCIPAL_CHARACTERS: usize = 255;

impl Default for AuditFilter {
    fn default() -> Self {
        let (after, before) = (GlobalPosition::START, GlobalPosition(u64::MAX));
        Self { streams: None, principal: None, event_type: None, after, before }
    }
}

impl AuditFilter {
    /// Whether it lets this event pass.
    pub fn allows(&self, event: &RecordedEvent) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.contains(&event.stream))
            && self.principal.as_ref().is_none_or(|principal| event.metadata.principal == *principal)
            && self.event_type.as_ref().is_none_or(|event_type| event.event_type == *event_type)
            && event.position > self.after
            && event.position < self.before
    }
}
