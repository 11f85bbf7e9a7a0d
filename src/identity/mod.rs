//! This file is the contract of outside identity providers: what we want of an account there, and how a call can end.
//!
//! ```text
//! mod          IdentityProvider, WantedUser, ProviderUser
//! ├─ error     ProviderError: one variant a reaction
//! ├─ event     logins and verified addresses, as they are polled
//! ├─ keycloak  over its Admin REST API
//! └─ double    a stand-in for a Keycloak, for tests and demonstrations
//! ```
//!
//! A provider is worked from the log: whoever calls may have been killed at any instant, and calls again. So every
//! call here may be repeated, takes the full wanted state and not a difference, and finds by itself what an earlier
//! call of unknown outcome has left behind. The provider's account carries our id and the version it was put at.

pub mod double;
mod error;
mod event;
pub mod keycloak;

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::error::{ProviderError, Refusal};
pub use self::event::{EventCursor, EventKind, EventPage, ProviderEvent};

/// A system that keeps accounts for our users.
#[async_trait]
pub trait IdentityProvider: Send + Sync + 'static {
    /// What it is called in logs and metrics, e.g. `keycloak`.
    fn name(&self) -> &'static str;

    /// Makes the account be as `wanted`, creating it when there is none, and answers the account's id.
    ///
    /// The account is the one of id `known`; without it, or when that one is gone, the one that carries our user's id;
    /// else it is created. One that carries a higher version than `wanted` is left as it is: the call came late. The
    /// same version is put again. An address that the provider itself verified stays verified. Putting a disabled user
    /// also ends its sessions. What others keep on the account (attributes that are not ours) stays.
    ///
    /// # Errors
    /// [`ProviderError::Permanent`] when the name or address belongs to an account that is not ours, or when the
    /// provider refuses the values; the other variants as described there.
    async fn put(&self, wanted: &WantedUser, known: Option<&ProviderId>) -> Result<ProviderId, ProviderError>;

    /// Removes every account that carries our user's id; none there is success.
    ///
    /// # Errors
    /// As described at [`ProviderError`]. An account `known` that carries another id than ours is
    /// [`ProviderError::Permanent`] and stays.
    async fn delete(&self, user_id: Uuid, known: Option<&ProviderId>) -> Result<(), ProviderError>;

    /// Removes the account of this id alone, if it carries this user's id; gone, or another's by now, is success.
    ///
    /// # Errors
    /// As described at [`ProviderError`].
    async fn remove(&self, id: &ProviderId, user_id: Uuid) -> Result<(), ProviderError>;

    /// The account that `lookup` names, or `None`; names are compared whole and case-folded.
    ///
    /// # Errors
    /// As described at [`ProviderError`], never [`ProviderError::OutcomeUnknown`].
    async fn read(&self, lookup: Lookup<'_>) -> Result<Option<ProviderUser>, ProviderError>;

    /// Whether the owner of this account is logged in anywhere; of an account that is not there nobody is.
    ///
    /// # Errors
    /// As described at [`ProviderError`], never [`ProviderError::OutcomeUnknown`].
    async fn is_logged_in(&self, id: &ProviderId) -> Result<bool, ProviderError>;

    /// At most `limit` (1 to [`MAX_PAGE`]) accounts behind the first `skip`, in an order that is stable while none is
    /// created, removed or renamed; ours and others'. An empty page is the end.
    ///
    /// # Errors
    /// As described at [`ProviderError`], never [`ProviderError::OutcomeUnknown`].
    async fn list(&self, skip: u32, limit: u32) -> Result<Vec<ProviderUser>, ProviderError>;

    /// At most `limit` (1 to [`MAX_PAGE`]) logins and verified addresses that came behind `after`, oldest first; from
    /// the oldest one kept when `after` is `None`.
    ///
    /// Each is given once along a chain of cursors. An event that the provider recorded late, up to a few seconds
    /// behind others, is still found.
    ///
    /// # Errors
    /// As described at [`ProviderError`], never [`ProviderError::OutcomeUnknown`].
    async fn events(&self, after: Option<&EventCursor>, limit: u32) -> Result<EventPage, ProviderError>;

    /// Whether the provider is reached and set up as the other calls need it, one line a thing. A provider that is not
    /// reached is one line that failed; nothing is changed there.
    async fn check(&self) -> Vec<ReadinessCheck>;
}

/// The most accounts or events one page holds.
pub const MAX_PAGE: u32 = 200;

/// The provider's own id of an account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderId(pub String);

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The whole state that an account should have, as of one version of our user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedUser {
    /// Our user's id.
    pub user_id: Uuid,
    /// The version of our user's stream that this is the state of.
    pub version: u64,
    /// Lower case.
    pub username: String,
    /// Lower case.
    pub email: String,
    /// Whether our log says that the address is theirs.
    pub email_verified: bool,
    /// May be any text.
    pub first_name: String,
    /// May be any text.
    pub last_name: String,
    /// The organisation the user belongs to.
    pub organization_id: Uuid,
    /// Names of roles, in any order, each once.
    pub roles: Vec<String>,
    /// Whether the user may log in.
    pub enabled: bool,
}

/// An account as the provider has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderUser {
    /// The provider's id.
    pub id: ProviderId,
    /// Our user's id, when the account carries one.
    pub user_id: Option<Uuid>,
    /// The version it was last put at, when the account carries one.
    pub version: Option<u64>,
    /// As the provider stores it.
    pub username: String,
    /// Empty when the account has none.
    pub email: String,
    /// Whether the provider takes the address for theirs.
    pub email_verified: bool,
    /// Empty when the account has none.
    pub first_name: String,
    /// Empty when the account has none.
    pub last_name: String,
    /// The organisation, when the account carries one.
    pub organization_id: Option<Uuid>,
    /// The roles the account carries, sorted.
    pub roles: Vec<String>,
    /// Whether its owner may log in.
    pub enabled: bool,
    /// When the provider created it.
    pub created_at: Option<DateTime<Utc>>,
}

impl ProviderUser {
    /// The names of the fields that are not as wanted; empty when nothing is to be put. An address that only the
    /// provider takes for verified is no difference: its event will come.
    pub fn differences(&self, wanted: &WantedUser) -> Vec<&'static str> {
        let mut roles = wanted.roles.clone();
        roles.sort_unstable();
        let compared = [
            ("user_id", self.user_id == Some(wanted.user_id)),
            ("version", self.version == Some(wanted.version)),
            ("username", self.username == wanted.username),
            ("email", self.email == wanted.email),
            ("email_verified", self.email_verified || !wanted.email_verified),
            ("first_name", self.first_name == wanted.first_name),
            ("last_name", self.last_name == wanted.last_name),
            ("organization_id", self.organization_id == Some(wanted.organization_id)),
            ("roles", self.roles == roles),
            ("enabled", self.enabled == wanted.enabled),
        ];
        compared.into_iter().filter(|(_, equal)| !equal).map(|(name, _)| name).collect()
    }
}

/// What names an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The provider's id.
    Id(&'a ProviderId),
    /// Our user's id, which the account carries.
    User(Uuid),
    /// The whole username, never a prefix of it.
    Username(&'a str),
}

/// One thing that the provider needs to be or to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessCheck {
    /// A short name in snake case, e.g. `reached`, `attribute_policy`.
    pub name: &'static str,
    /// Whether it is as needed.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// How to mend it; `None` when it is as needed.
    pub remedy: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> WantedUser {
        WantedUser {
            user_id: Uuid::from_u128(1),
            version: 3,
            username: "ada".into(),
            email: "ada@example.org".into(),
            email_verified: false,
            first_name: "Ada".into(),
            last_name: "Lovelace".into(),
            organization_id: Uuid::from_u128(2),
            roles: vec!["writer".into(), "admin".into()],
            enabled: true,
        }
    }

    fn account() -> ProviderUser {
        let WantedUser { user_id, version, username, email, first_name, last_name, organization_id, .. } = wanted();
        ProviderUser {
            id: ProviderId("a".into()),
            user_id: Some(user_id),
            version: Some(version),
            username,
            email,
            email_verified: true,
            first_name,
            last_name,
            organization_id: Some(organization_id),
            roles: vec!["admin".into(), "writer".into()],
            enabled: true,
            created_at: None,
        }
    }

    #[test]
    fn an_account_as_wanted_shows_no_difference_whatever_the_order_of_its_roles() {
        assert_eq!(account().differences(&wanted()), Vec::<&str>::new());
    }

    #[test]
    fn an_address_verified_here_and_not_there_is_a_difference_but_not_the_other_way_round() {
        let unverified = ProviderUser { email_verified: false, ..account() };
        let verified_here = WantedUser { email_verified: true, ..wanted() };

        assert_eq!(unverified.differences(&verified_here), ["email_verified"]);
        assert_eq!(account().differences(&wanted()), Vec::<&str>::new());
    }

    #[test]
    fn each_field_that_drifted_is_named() {
        let drifted = ProviderUser { version: Some(2), roles: vec!["admin".into()], enabled: false, ..account() };

        assert_eq!(drifted.differences(&wanted()), ["version", "roles", "enabled"]);
    }
}
