//! This file records what came of keeping a user in step with the identity provider.
//!
//! It is an aggregate of its own under the user's key, so that a sync nobody asked for never spoils an `If-Match` on
//! the user, and the last sync of a deleted user can still be recorded. Outcomes arrive more than once and out of
//! order; one that is not newer than what is recorded changes nothing.

use serde::{Deserialize, Serialize};

use super::reason::{InvalidText, Reason};
use crate::aggregate::Aggregate;
use crate::stream::Version;

/// How far the identity provider is with one user.
#[derive(Debug, Default)]
pub struct Identity {
    provider_id: Option<ProviderId>,
    synced: Version,
    /// The last failure: a hopeless one outranks one of the same version that is not.
    failed: (Version, bool),
    /// The last version that an operator does without.
    skipped: Version,
}

/// What can be asked of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum IdentityCommand {
    /// Notes that the provider has the user as of this version.
    RecordSynced {
        /// Version of the user.
        version: Version,
        /// What the provider calls the user, when it said so.
        provider_id: Option<ProviderId>,
    },
    /// Notes that the provider could not be brought to this version.
    RecordSyncFailed {
        /// Version of the user.
        version: Version,
        /// Why.
        reason: Reason,
        /// Whether trying again is hopeless until somebody changes something.
        permanent: bool,
    },
    /// Notes that an operator does without this version.
    RecordSyncSkipped {
        /// Version of the user.
        version: Version,
        /// The operator's words.
        reason: Reason,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum IdentityEvent {
    /// The provider has the user under this id.
    IdentityLinked {
        /// What the provider calls the user.
        provider_id: ProviderId,
    },
    /// The provider has the user as of this version.
    IdentitySynced {
        /// Version of the user.
        version: Version,
    },
    /// The provider could not be brought to this version.
    IdentitySyncFailed {
        /// Version of the user.
        version: Version,
        /// Why.
        reason: Reason,
        /// Whether trying again is hopeless until somebody changes something.
        permanent: bool,
    },
    /// An operator, whom the event's metadata name, does without the version that failed.
    IdentitySyncSkipped {
        /// Version of the user.
        version: Version,
        /// The operator's words.
        reason: Reason,
    },
}

/// It refuses nothing: what happened outside has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum IdentityRejection {}

impl Identity {
    /// What the provider calls the user, once it said so.
    pub fn provider_id(&self) -> Option<&ProviderId> {
        self.provider_id.as_ref()
    }

    /// The version of the user that the provider has; [`Version::EMPTY`] when it has none.
    pub fn synced(&self) -> Version {
        self.synced
    }
}

impl Aggregate for Identity {
    const CATEGORY: &'static str = "identity";
    type Command = IdentityCommand;
    type Event = IdentityEvent;
    type Rejection = IdentityRejection;

    fn decide(&self, command: &IdentityCommand) -> Result<Vec<IdentityEvent>, IdentityRejection> {
        Ok(match command {
            IdentityCommand::RecordSynced { version, provider_id } => {
                // An older call may still name an account that has been replaced since.
                let is_current = *version >= self.synced;
                let linked = provider_id.clone().filter(|id| is_current && self.provider_id.as_ref() != Some(id));
                let linked = linked.map(|provider_id| IdentityEvent::IdentityLinked { provider_id });
                let synced = (*version > self.synced).then_some(IdentityEvent::IdentitySynced { version: *version });
                linked.into_iter().chain(synced).collect()
            }
            IdentityCommand::RecordSyncFailed { version, reason, permanent } => {
                let is_newer = *version > self.synced && (*version, *permanent) > self.failed;
                let failed = is_newer.then(|| IdentityEvent::IdentitySyncFailed {
                    version: *version,
                    reason: reason.clone(),
                    permanent: *permanent,
                });
                failed.into_iter().collect()
            }
            IdentityCommand::RecordSyncSkipped { version, reason } => {
                let is_newer = *version > self.synced.max(self.skipped);
                let skipped =
                    is_newer.then(|| IdentityEvent::IdentitySyncSkipped { version: *version, reason: reason.clone() });
                skipped.into_iter().collect()
            }
        })
    }

    fn apply(&mut self, event: &IdentityEvent) {
        match event {
            IdentityEvent::IdentityLinked { provider_id } => self.provider_id = Some(provider_id.clone()),
            IdentityEvent::IdentitySynced { version } => self.synced = *version,
            IdentityEvent::IdentitySyncFailed { version, permanent, .. } => self.failed = (*version, *permanent),
            IdentityEvent::IdentitySyncSkipped { version, .. } => self.skipped = *version,
        }
    }
}

/// What the provider calls a user: 1 to 255 characters, no control characters among them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderId(Box<str>);

impl ProviderId {
    const MAX_CHARACTERS: usize = 255;

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProviderId {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, InvalidText> {
        let fits = (1..=Self::MAX_CHARACTERS).contains(&text.chars().count());
        if fits && !text.contains(|character: char| character.is_control()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidText("must be 1 to 255 characters, without control characters"))
        }
    }
}

impl From<ProviderId> for String {
    fn from(id: ProviderId) -> Self {
        id.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_variant;
    use crate::testing::given;

    fn id(text: &str) -> ProviderId {
        text.to_owned().try_into().unwrap()
    }

    fn record_synced(version: u64, provider_id: Option<&str>) -> IdentityCommand {
        IdentityCommand::RecordSynced { version: Version(version), provider_id: provider_id.map(id) }
    }

    fn record_failed(version: u64, permanent: bool) -> IdentityCommand {
        IdentityCommand::RecordSyncFailed { version: Version(version), reason: Reason::cut("down"), permanent }
    }

    fn linked(text: &str) -> IdentityEvent {
        IdentityEvent::IdentityLinked { provider_id: id(text) }
    }

    fn synced(version: u64) -> IdentityEvent {
        IdentityEvent::IdentitySynced { version: Version(version) }
    }

    fn failed(version: u64, permanent: bool) -> IdentityEvent {
        IdentityEvent::IdentitySyncFailed { version: Version(version), reason: Reason::cut("down"), permanent }
    }

    #[test]
    fn the_first_sync_links_and_a_repeated_or_late_one_changes_nothing() {
        given::<Identity>([])
            .when(record_synced(2, Some("kc-1")))
            .then_events([linked("kc-1"), synced(2)])
            .when(record_synced(2, Some("kc-1")))
            .then_nothing()
            .when(record_synced(1, Some("kc-0")))
            .then_nothing()
            .when(record_synced(3, None))
            .then_events([synced(3)]);
    }

    #[test]
    fn an_account_that_was_made_anew_is_linked_anew_at_the_same_version() {
        given::<Identity>([linked("kc-1"), synced(2)])
            .when(record_synced(2, Some("kc-2")))
            .then_events([linked("kc-2")]);
    }

    #[test]
    fn a_failure_counts_only_for_a_version_that_is_not_there_yet() {
        given::<Identity>([synced(2)])
            .when(record_failed(2, true))
            .then_nothing()
            .when(record_failed(3, false))
            .then_events([failed(3, false)])
            .when(record_failed(3, false))
            .then_nothing()
            .when(record_failed(3, true))
            .then_events([failed(3, true)])
            .when(record_failed(3, false))
            .then_nothing()
            .when(record_synced(3, None))
            .then_events([synced(3)])
            .when(record_failed(4, false))
            .then_events([failed(4, false)]);
    }

    #[test]
    fn a_version_is_done_without_once_and_never_when_the_provider_has_it() {
        let skip =
            |version| IdentityCommand::RecordSyncSkipped { version: Version(version), reason: Reason::cut("by hand") };
        let skipped =
            |version| IdentityEvent::IdentitySyncSkipped { version: Version(version), reason: Reason::cut("by hand") };

        given::<Identity>([failed(2, true)])
            .when(skip(2))
            .then_events([skipped(2)])
            .when(skip(2))
            .then_nothing()
            .when(record_failed(3, true))
            .then_events([failed(3, true)])
            .when(record_synced(3, None))
            .then_events([synced(3)])
            .when(skip(3))
            .then_nothing();
    }

    #[test]
    fn events_stand_in_the_log_as_plain_fields() {
        let written = |event: IdentityEvent| encode_variant(&event).unwrap();

        assert_eq!(written(linked("kc-1")), ("IdentityLinked", r#"{"provider_id":"kc-1"}"#.into()));
        assert_eq!(written(synced(3)), ("IdentitySynced", r#"{"version":3}"#.into()));
        assert_eq!(
            written(failed(3, true)),
            ("IdentitySyncFailed", r#"{"version":3,"reason":"down","permanent":true}"#.into())
        );
        let skipped = IdentityEvent::IdentitySyncSkipped { version: Version(3), reason: Reason::cut("by hand") };
        assert_eq!(written(skipped), ("IdentitySyncSkipped", r#"{"version":3,"reason":"by hand"}"#.into()));
    }

    #[test]
    fn a_providers_id_is_a_bounded_text() {
        let is_one = |text: &str| ProviderId::try_from(text.to_owned()).is_ok();

        assert!(is_one("6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d11") && is_one(&"é".repeat(255)));
        assert!(!is_one("") && !is_one("a\nb") && !is_one(&"x".repeat(256)));
    }
}
