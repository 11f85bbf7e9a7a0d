//! This file is the double's token endpoint, its tokens and its sessions.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::events::UserEvent;
use super::realm::Realm;
use super::refusal::Refusal;

/// Tokens kept before those that have expired are swept.
const SWEEP_AT: usize = 10_000;

/// Tokens and sessions.
#[derive(Debug, Default)]
pub(super) struct Logins {
    tokens: HashMap<String, Granted>,
    /// By account, the ids of its sessions.
    sessions: HashMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Granted {
    rights: Rights,
    expires_at: Instant,
}

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rights {
    /// Everything: the server's administrator.
    All,
    /// These roles of `realm-management`.
    Roles(Vec<String>),
}

impl Rights {
    pub(super) fn any_of(&self, roles: &[&str]) -> bool {
        match self {
            Self::All => true,
            Self::Roles(held) => held.iter().any(|role| roles.contains(&role.as_str())),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::Roles(held) if held.is_empty())
    }
}

impl Logins {
    pub(super) fn rights(&self, token: &str) -> Option<Rights> {
        let granted = self.tokens.get(token)?;
        (Instant::now() < granted.expires_at).then(|| granted.rights.clone())
    }

    pub(super) fn sessions(&self, user_id: &str) -> &[String] {
        self.sessions.get(user_id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn end_sessions(&mut self, user_id: &str) {
        self.sessions.remove(user_id);
    }

    fn issue(&mut self, token: String, rights: Rights, lifetime: Duration) {
        let now = Instant::now();
        if self.tokens.len() >= SWEEP_AT {
            self.tokens.retain(|_, granted| now < granted.expires_at);
        }
        self.tokens.insert(token, Granted { rights, expires_at: now + lifetime });
    }
}

/// A form of the token endpoint.
pub(super) type Form = HashMap<String, String>;

impl Realm {
    /// A token for a form sent to the endpoint of the realm `name`.
    pub(super) fn grant(&mut self, name: &str, form: &Form, lifetime: Duration) -> Result<Value, Refusal> {
        if !self.is_called(name) && name != "master" {
            return Err(Refusal::error(StatusCode::NOT_FOUND, "Realm does not exist"));
        }
        let grant = form.get("grant_type").map(String::as_str);
        match grant {
            None => Err(refused("invalid_request", "Missing form parameter: grant_type")),
            Some("password") if name == "master" => self.grant_administrator(form, lifetime),
            Some("client_credentials") => self.grant_client(form, lifetime),
            Some("password") => self.grant_user(form, lifetime),
            Some(_) => Err(refused("unsupported_grant_type", "Unsupported grant_type")),
        }
    }

    fn grant_administrator(&mut self, form: &Form, lifetime: Duration) -> Result<Value, Refusal> {
        let is_administrator = is(form, "username", &self.admin.0) && is(form, "password", &self.admin.1);
        if !is(form, "client_id", "admin-cli") || !is_administrator {
            return Err(no_user_credentials());
        }
        Ok(self.token(Rights::All, lifetime))
    }

    fn grant_client(&mut self, form: &Form, lifetime: Duration) -> Result<Value, Refusal> {
        const MESSAGE: &str = "Invalid client or Invalid client credentials";
        let unknown = Refusal::grant(StatusCode::UNAUTHORIZED, "invalid_client", MESSAGE);
        let client = form.get("client_id").and_then(|id| self.client(id)).ok_or(unknown)?;
        let Some(secret) = &client.secret else {
            return Err(Refusal::grant(
                StatusCode::UNAUTHORIZED,
                "unauthorized_client",
                "Public client not allowed to retrieve service account",
            ));
        };
        if !is(form, "client_secret", secret) {
            return Err(Refusal::grant(StatusCode::UNAUTHORIZED, "unauthorized_client", MESSAGE));
        }
        let rights = Rights::Roles(client.roles.clone());
        Ok(self.token(rights, lifetime))
    }

    fn grant_user(&mut self, form: &Form, lifetime: Duration) -> Result<Value, Refusal> {
        let client = form.get("client_id").and_then(|id| self.client(id)).filter(|client| client.secret.is_none());
        let Some(client_id) = client.map(|client| client.id.clone()) else {
            return Err(Refusal::grant(
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "Invalid client or Invalid client credentials",
            ));
        };
        let password = form.get("password").map(|password| blake3::hash(password.as_bytes()));
        let user = form.get("username").and_then(|name| self.users.named(name));
        let Some(user) = user.filter(|user| user.password.is_some() && user.password == password) else {
            return Err(no_user_credentials());
        };
        if !user.wanted.enabled {
            return Err(refused("invalid_grant", "Account disabled"));
        }
        let (user_id, username) = (user.id.clone(), user.wanted.username.clone());
        let session = self.id();
        self.logins.sessions.entry(user_id.clone()).or_default().push(session.clone());
        let event = UserEvent {
            id: self.id(),
            at_millis: self.now_millis(),
            kind: "LOGIN",
            user_id,
            client_id,
            details: json!({"grant_type": "password", "username": username}),
        };
        self.events.record(event);
        let mut token = self.token(Rights::Roles(Vec::new()), lifetime);
        token["session_state"] = json!(session);
        token["refresh_token"] = json!(self.id());
        Ok(token)
    }

    fn token(&mut self, rights: Rights, lifetime: Duration) -> Value {
        let token = format!("double-{}", self.id());
        self.logins.issue(token.clone(), rights, lifetime);
        json!({
            "access_token": token, "expires_in": lifetime.as_secs(), "refresh_expires_in": 0,
            "token_type": "Bearer", "not-before-policy": 0, "scope": "email profile",
        })
    }
}

fn is(form: &Form, field: &str, value: &str) -> bool {
    form.get(field).is_some_and(|sent| sent == value)
}

fn refused(error: &str, description: &str) -> Refusal {
    Refusal::grant(StatusCode::BAD_REQUEST, error, description)
}

fn no_user_credentials() -> Refusal {
    refused("invalid_grant", "Invalid user credentials")
}
