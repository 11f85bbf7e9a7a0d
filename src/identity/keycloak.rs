//! This file is Keycloak behind [`IdentityProvider`], over its Admin REST API.
//!
//! ```text
//! keycloak            options, and which part answers which call
//! ├─ accounts         put, delete, read, list: what is asked in which order
//! │  └─ representation  our user ↔ Keycloak's JSON
//! ├─ polling          events and their cursor
//! ├─ readiness        what the realm and our client need
//! └─ connection       one request: token, limits, and what each answer means
//!    ├─ address       which URLs are taken
//!    ├─ token         fetched once, ahead of expiry
//!    └─ answer        bounded bodies, quoted texts
//! ```
//!
//! Our id, version, organisation and roles are attributes of the account. Keycloak drops attributes that the realm's
//! user profile neither declares nor allows, so [`IdentityProvider::check`] looks for that first.

mod accounts;
mod address;
mod answer;
mod connection;
mod polling;
mod readiness;
mod representation;
mod token;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

use self::connection::Connection;
use super::{
    EventCursor, EventPage, IdentityProvider, Lookup, ProviderError, ProviderId, ProviderUser, ReadinessCheck,
    WantedUser,
};

/// How a Keycloak is reached, and as whom.
#[derive(Clone)]
pub struct KeycloakOptions {
    /// Where it answers, e.g. `https://id.example.org` or, for one behind a path, `https://example.org/auth`.
    pub url: String,
    /// The realm whose users are ours.
    pub realm: String,
    /// A confidential client of that realm with a service account that has the roles `manage-users`, `view-realm` and
    /// `view-events` of `realm-management`.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: SecretString,
    /// Takes `http` for other hosts than this machine, too.
    pub allow_plain_http: bool,
    /// Further authorities whose certificates are good, as PEM.
    pub certificates: Option<Vec<u8>>,
    /// How long one request may take, from connecting to the last byte. Default 5 s.
    pub request_timeout: Duration,
    /// How long connecting may take. Default 2 s.
    pub connect_timeout: Duration,
}

impl KeycloakOptions {
    /// Options with defaults for everything that has one.
    pub fn new(
        url: impl Into<String>,
        realm: impl Into<String>,
        client_id: impl Into<String>,
        client_secret: impl Into<SecretString>,
    ) -> Self {
        Self {
            url: url.into(),
            realm: realm.into(),
            client_id: client_id.into(),
            client_secret: client_secret.into(),
            allow_plain_http: false,
            certificates: None,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for KeycloakOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the address either: whoever writes a password into it should not find it in a log.
        f.debug_struct("KeycloakOptions")
            .field("realm", &self.realm)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// A realm of a Keycloak, 26.2 or newer. Cheap to keep for as long as the program runs; connections are pooled.
#[derive(Debug)]
pub struct Keycloak {
    connection: Connection,
}

impl Keycloak {
    /// One that was not asked anything yet.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] when the address is no `https` one (`http` is taken for this machine, and where
    /// it is allowed), when it carries a password, or when the certificates are none.
    pub fn new(options: KeycloakOptions) -> Result<Self, ProviderError> {
        Ok(Self { connection: Connection::new(options)? })
    }
}

#[async_trait]
impl IdentityProvider for Keycloak {
    fn name(&self) -> &'static str {
        "keycloak"
    }

    async fn put(&self, wanted: &WantedUser, known: Option<&ProviderId>) -> Result<ProviderId, ProviderError> {
        accounts::put(&self.connection, wanted, known).await
    }

    async fn delete(&self, user_id: Uuid, known: Option<&ProviderId>) -> Result<(), ProviderError> {
        accounts::delete(&self.connection, user_id, known).await
    }

    async fn remove(&self, id: &ProviderId, user_id: Uuid) -> Result<(), ProviderError> {
        accounts::remove(&self.connection, id, user_id).await
    }

    async fn read(&self, lookup: Lookup<'_>) -> Result<Option<ProviderUser>, ProviderError> {
        accounts::read(&self.connection, lookup).await
    }

    async fn is_logged_in(&self, id: &ProviderId) -> Result<bool, ProviderError> {
        accounts::is_logged_in(&self.connection, id).await
    }

    async fn list(&self, skip: u32, limit: u32) -> Result<Vec<ProviderUser>, ProviderError> {
        accounts::list(&self.connection, skip, limit).await
    }

    async fn events(&self, after: Option<&EventCursor>, limit: u32) -> Result<EventPage, ProviderError> {
        polling::events(&self.connection, after, limit).await
    }

    async fn check(&self) -> Vec<ReadinessCheck> {
        readiness::check(&self.connection).await
    }
}
