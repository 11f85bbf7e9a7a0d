//! This file keeps the accounts of an identity provider in step with our users.
//!
//! ```text
//! User's events (logins apart) ──> the user's whole state ──> put, or delete ──> outcome on Identity, same key
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::identity::{Identity, IdentityCommand, IdentityEvent, ProviderId as RecordedId};
use crate::domain::reason::Reason;
use crate::domain::user::{Profile, User, UserEvent};
use crate::identity::{IdentityProvider, Lookup, MAX_PAGE, ProviderError, ProviderId, WantedUser};
use crate::stream::Version;
use crate::synchroniser::{Brought, Call, Failure, Found, Outcome, Recorded, Seen, Survey, Synchroniser};

/// Brings users to an identity provider.
pub struct UserAccounts {
    provider: Arc<dyn IdentityProvider>,
}

impl UserAccounts {
    /// To this provider.
    pub fn at(provider: Arc<dyn IdentityProvider>) -> Self {
        Self { provider }
    }
}

#[async_trait]
impl Synchroniser for UserAccounts {
    const NAME: &'static str = "user_accounts";
    // The rows tell who skipped what.
    const VERSION: u32 = 2;
    type Subject = User;
    type Record = Identity;

    fn is_intent(event: &UserEvent) -> bool {
        // The provider knows of logins before we do.
        !matches!(event, UserEvent::UserLoggedIn { .. })
    }

    fn record(outcome: &Outcome) -> Option<IdentityCommand> {
        Some(match outcome {
            Outcome::Synced { version, outside_id } => IdentityCommand::RecordSynced {
                version: *version,
                provider_id: outside_id.clone().and_then(|id| RecordedId::try_from(id).ok()),
            },
            Outcome::Failed { version, reason, permanent } => IdentityCommand::RecordSyncFailed {
                version: *version,
                reason: Reason::cut(reason),
                permanent: *permanent,
            },
            Outcome::Skipped { version, reason } => {
                IdentityCommand::RecordSyncSkipped { version: *version, reason: Reason::cut(reason) }
            }
        })
    }

    fn recorded(event: &IdentityEvent) -> Option<Recorded> {
        Some(match event {
            IdentityEvent::IdentityLinked { provider_id } => {
                Recorded::Linked { outside_id: provider_id.as_str().to_owned() }
            }
            IdentityEvent::IdentitySynced { version } => Recorded::Synced(*version),
            IdentityEvent::IdentitySyncFailed { version, reason, permanent } => {
                Recorded::Failed { version: *version, reason: reason.as_str().to_owned(), permanent: *permanent }
            }
            IdentityEvent::IdentitySyncSkipped { version, reason } => {
                Recorded::Skipped { version: *version, reason: reason.as_str().to_owned() }
            }
        })
    }

    async fn bring(&self, call: &Call<'_, User>) -> Result<Brought, Failure> {
        let user_id = user_id(call)?;
        let known = call.outside_id.map(|id| ProviderId(id.to_owned()));
        let Some(profile) = present(call.wanted) else {
            self.provider.delete(user_id, known.as_ref()).await.map_err(failure)?;
            return Ok(Brought::default());
        };
        let wanted = wanted(user_id, call.version, profile);
        let id = self.provider.put(&wanted, known.as_ref()).await.map_err(failure)?;
        Ok(Brought { outside_id: Some(id.0) })
    }

    async fn read_back(&self, call: &Call<'_, User>) -> Result<Seen, Failure> {
        let user_id = user_id(call)?;
        let account = self.provider.read(Lookup::User(user_id)).await.map_err(failure)?;
        Ok(match (account, present(call.wanted)) {
            (None, None) => Seen::InStep(Brought::default()),
            (Some(_), None) => Seen::Differs(vec!["left over".into()]),
            (None, Some(_)) => Seen::Differs(vec!["missing".into()]),
            (Some(account), Some(profile)) => {
                let mut differs = account.differences(&wanted(user_id, call.version, profile));
                // Sessions are ended by a request of their own, which may be the one that was lost.
                if !profile.is_enabled && self.provider.is_logged_in(&account.id).await.map_err(failure)? {
                    differs.push("sessions");
                }
                if differs.is_empty() {
                    Seen::InStep(Brought { outside_id: Some(account.id.0) })
                } else {
                    Seen::Differs(differs.into_iter().map(str::to_owned).collect())
                }
            }
        })
    }

    async fn survey(&self, skip: u32) -> Result<Survey, Failure> {
        let accounts = self.provider.list(skip, MAX_PAGE).await.map_err(failure)?;
        let next = (!accounts.is_empty()).then(|| skip.saturating_add(accounts.len().try_into().unwrap_or(MAX_PAGE)));
        // Accounts that never carried an id of ours are other people's.
        let ours = accounts.into_iter().filter_map(|account| Some((account.id, account.user_id?)));
        Ok(Survey { found: ours.map(found).collect(), next })
    }

    async fn remove(&self, found: &Found) -> Result<(), Failure> {
        let user_id = found.subject.parse().map_err(|_| Failure::Permanent { reason: "the key is no UUID".into() })?;
        self.provider.remove(&ProviderId(found.outside_id.clone()), user_id).await.map_err(failure)
    }
}

fn found((account, user_id): (ProviderId, Uuid)) -> Found {
    Found { subject: user_id.to_string(), outside_id: account.0 }
}

fn user_id(call: &Call<'_, User>) -> Result<Uuid, Failure> {
    call.subject.parse().map_err(|_| Failure::Permanent { reason: "the user's key is no UUID".into() })
}

/// What should be at the provider; nothing of a user who was deleted.
fn present(user: &User) -> Option<&Profile> {
    user.profile().filter(|_| !user.is_deleted())
}

fn wanted(user_id: Uuid, version: Version, profile: &Profile) -> WantedUser {
    WantedUser {
        user_id,
        version: version.0,
        username: profile.username.as_str().to_owned(),
        email: profile.email.as_str().to_owned(),
        email_verified: profile.is_email_verified,
        first_name: profile.first_name.as_str().to_owned(),
        last_name: profile.last_name.as_str().to_owned(),
        organization_id: profile.organization_id,
        roles: profile.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        enabled: profile.is_enabled,
    }
}

fn failure(error: ProviderError) -> Failure {
    match error {
        ProviderError::RetryLater { retry_after, detail } => Failure::Later { reason: detail, after: retry_after },
        ProviderError::OutcomeUnknown { detail } => Failure::Unknown { reason: detail },
        ProviderError::Permanent { reason, detail } => Failure::Permanent { reason: format!("{reason}: {detail}") },
        // Nobody's call succeeds before an operator has mended it, and then everybody's does.
        ProviderError::Configuration { detail } => Failure::Unavailable { reason: detail, after: None },
        ProviderError::Unavailable { detail, retry_after } => {
            Failure::Unavailable { reason: detail, after: retry_after }
        }
    }
}
