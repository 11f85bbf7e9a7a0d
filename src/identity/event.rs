//! This file is what users did at the provider: logins and verified addresses, and how far they were read.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ProviderId;

/// Something a user did at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderEvent {
    /// The provider's id of the event, the same whenever it is given: what a command id is made of.
    pub id: String,
    /// The account. Whether it is one of ours is for the caller to find out.
    pub account: ProviderId,
    /// What was done.
    pub kind: EventKind,
    /// The address that was verified, lower case, when the provider says so: by now the user may have another.
    pub email: Option<String>,
    /// When, by the provider's clock, to the millisecond or finer.
    pub at: DateTime<Utc>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The user logged in.
    Login,
    /// The user showed that the email address is theirs.
    EmailVerified,
}

/// Events, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// Oldest first.
    pub events: Vec<ProviderEvent>,
    /// What to pass next time; `None` when no event was ever there.
    pub next: Option<EventCursor>,
}

/// How far events were read; made and understood by the provider's adapter only. At most 64 KiB of ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventCursor(pub String);

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
