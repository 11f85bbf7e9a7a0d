//! This file looks whether realm and client are set up as the calls need it, and says how to mend what is not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::accounts::{not_keycloak, parsed};
use super::connection::{Ask, Connection, Reply};
use super::representation::ATTRIBUTES;
use crate::identity::{ProviderError, ReadinessCheck, Refusal};

/// The events that are polled.
const EVENT_TYPES: [&str; 2] = ["LOGIN", "VERIFY_EMAIL"];
/// The fields of a profile that we fill.
const FIELDS: [&str; 4] = ["username", "email", "firstName", "lastName"];

/// See [`crate::identity::IdentityProvider::check`].
pub(super) async fn check(keycloak: &Connection) -> Vec<ReadinessCheck> {
    if let Err(error) = keycloak.token().await {
        return vec![failed("reached", error.to_string(), "see the message; nothing else can be checked until then")];
    }
    let mut checks = vec![passed("reached", "it answers, and knows our client".into())];
    checks.push(may_manage_users(keycloak).await);
    checks.extend(profile_checks(profile(keycloak).await));
    checks.push(usernames(keycloak, realm(keycloak).await));
    checks.push(events(keycloak, event_settings(keycloak).await));
    checks
}

/// Whether the realm keeps our attributes, for a caller that found an account without them.
///
/// # Errors
/// [`ProviderError::Configuration`] when it does not; another when it cannot be asked.
pub(super) async fn attributes_are_kept(keycloak: &Connection) -> Result<(), ProviderError> {
    match profile(keycloak).await?.attribute_fault() {
        Some(fault) => Err(ProviderError::Configuration { detail: format!("{fault}; {ALLOW_ATTRIBUTES}") }),
        None => Ok(()),
    }
}

/// The same, not asked more often than every [`LATELY`].
///
/// # Errors
/// Those of [`attributes_are_kept`].
pub(super) async fn attributes_were_kept_lately(keycloak: &Connection) -> Result<(), ProviderError> {
    if !keycloak.profile_seen.is_within(LATELY) {
        attributes_are_kept(keycloak).await?;
        keycloak.profile_seen.now();
    }
    Ok(())
}

/// As long may a realm that drops attributes go unnoticed.
const LATELY: Duration = Duration::from_secs(60);

/// When something was last seen to be as it should.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Option<Instant>>);

impl Seen {
    fn is_within(&self, period: Duration) -> bool {
        let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < period)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

const ALLOW_ATTRIBUTES: &str = "in the admin console, Realm settings > General > Unmanaged attributes, \
    choose \"Only administrators can write\" (unmanagedAttributePolicy ADMIN_EDIT)";

/// A creation without a name is refused after the right was looked at, and changes nothing.
async fn may_manage_users(keycloak: &Connection) -> ReadinessCheck {
    let name = "manage_users";
    match keycloak.ask(Ask::post(&["users"], Some(json!({})))).await {
        Err(ProviderError::Permanent { reason: Refusal::InvalidUser, .. }) => {
            passed(name, "our client may manage users".into())
        }
        Err(error) => failed(name, error.to_string(), &give_role(keycloak, "manage-users")),
        Ok(_) => {
            failed(name, "a user without a name was not refused".into(), "correct the address: this is no Keycloak")
        }
    }
}

fn profile_checks(profile: Result<Profile, ProviderError>) -> Vec<ReadinessCheck> {
    let profile = match profile {
        Ok(profile) => profile,
        Err(error) => return vec![failed("attributes", error.to_string(), "see the message")],
    };
    let attributes = match profile.attribute_fault() {
        None => passed("attributes", "our attributes are kept, and only administrators write them".into()),
        Some(fault) => failed("attributes", fault, ALLOW_ATTRIBUTES),
    };
    let missing: Vec<_> = FIELDS.into_iter().filter(|field| profile.attribute(field).is_none()).collect();
    let fields = if missing.is_empty() {
        passed("profile_fields", format!("the user profile has {}", FIELDS.join(", ")))
    } else {
        let fault = format!("the user profile lacks {}, so the values vanish", missing.join(", "));
        failed("profile_fields", fault, "add them in the admin console, Realm settings > User profile")
    };
    vec![attributes, fields]
}

fn usernames(keycloak: &Connection, realm: Result<Realm, ProviderError>) -> ReadinessCheck {
    let name = "usernames";
    let realm = match realm {
        Ok(realm) => realm,
        Err(error) => return failed(name, error.to_string(), &give_role(keycloak, "view-realm")),
    };
    match (realm.edit_username_allowed, realm.registration_email_as_username) {
        (None, _) => {
            failed(name, "the realm's settings are hidden from our client".into(), &give_role(keycloak, "view-realm"))
        }
        (_, Some(true)) => failed(
            name,
            "the realm takes the email address for the username".into(),
            "in the admin console, Realm settings > Login, turn \"Email as username\" off",
        ),
        (Some(false), _) => failed(
            name,
            "the realm does not let usernames be changed".into(),
            "in the admin console, Realm settings > Login, turn \"Edit username\" on (editUsernameAllowed)",
        ),
        (Some(true), _) => passed(name, "usernames can be changed".into()),
    }
}

fn events(keycloak: &Connection, settings: Result<EventSettings, ProviderError>) -> ReadinessCheck {
    let name = "events";
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return failed(name, error.to_string(), &give_role(keycloak, "view-events")),
    };
    let remedy = "in the admin console, Realm settings > Events > User events settings, turn \"Save events\" on, \
        with the types Login and Verify email among those saved";
    let missing: Vec<_> = EVENT_TYPES
        .into_iter()
        .filter(|kind| !settings.enabled_event_types.iter().any(|known| known == kind))
        .collect();
    if !settings.events_enabled {
        failed(name, "the realm stores no events, so logins are not seen".into(), remedy)
    } else if missing.is_empty() {
        passed(name, format!("the realm stores {}", EVENT_TYPES.join(" and ")))
    } else {
        failed(name, format!("the realm does not store {}", missing.join(" and ")), remedy)
    }
}

fn give_role(keycloak: &Connection, role: &str) -> String {
    let client = keycloak.client_id();
    format!("in the admin console, Clients > {client} > Service account roles, assign {role} of realm-management")
}

fn passed(name: &'static str, detail: String) -> ReadinessCheck {
    ReadinessCheck { name, ok: true, detail, remedy: None }
}

fn failed(name: &'static str, detail: String, remedy: &str) -> ReadinessCheck {
    ReadinessCheck { name, ok: false, detail, remedy: Some(remedy.into()) }
}

/// The realm's user profile: what an account may hold.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Profile {
    attributes: Vec<ProfileAttribute>,
    unmanaged_attribute_policy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProfileAttribute {
    name: String,
    permissions: Permissions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Permissions {
    edit: Vec<String>,
}

impl Profile {
    fn attribute(&self, name: &str) -> Option<&ProfileAttribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// Why our attributes are not safe, if they are not: dropped, or open to the users whose roles they hold.
    fn attribute_fault(&self) -> Option<String> {
        let policy = self.unmanaged_attribute_policy.as_deref().unwrap_or("off");
        ATTRIBUTES.into_iter().find_map(|name| match self.attribute(name) {
            Some(declared) if declared.permissions.edit.iter().any(|who| who == "user") => {
                Some(format!("users may change their own attribute {name}, and with it what they may do"))
            }
            Some(declared) if !declared.permissions.edit.iter().any(|who| who == "admin") => {
                Some(format!("administrators may not write the attribute {name}"))
            }
            Some(_) => None,
            None => match policy {
                "ADMIN_EDIT" => None,
                "ENABLED" => Some("users may change their own attributes, and with them what they may do".into()),
                _ => Some(format!("the realm drops the attribute {name} (unmanagedAttributePolicy is {policy})")),
            },
        })
    }
}

/// The part of a realm's settings that matters here; others are hidden without the right to view them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Realm {
    edit_username_allowed: Option<bool>,
    registration_email_as_username: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EventSettings {
    events_enabled: bool,
    enabled_event_types: Vec<String>,
}

async fn profile(keycloak: &Connection) -> Result<Profile, ProviderError> {
    match keycloak.ask(Ask::get(&["users", "profile"], &[])).await? {
        Reply::Done(answer) => parsed(&answer),
        Reply::Missing | Reply::Conflict => Err(not_keycloak("GET /users/profile finds none")),
    }
}

async fn realm(keycloak: &Connection) -> Result<Realm, ProviderError> {
    match keycloak.ask(Ask::get(&[], &[])).await? {
        Reply::Done(answer) => parsed(&answer),
        Reply::Missing | Reply::Conflict => Err(not_keycloak("the realm is not there")),
    }
}

async fn event_settings(keycloak: &Connection) -> Result<EventSettings, ProviderError> {
    match keycloak.ask(Ask::get(&["events", "config"], &[])).await? {
        Reply::Done(answer) => parsed(&answer),
        Reply::Missing | Reply::Conflict => Err(not_keycloak("GET /events/config finds none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: serde_json::Value) -> Profile {
        serde_json::from_value(json).unwrap()
    }

    fn declared(edit: &[&str]) -> Vec<serde_json::Value> {
        ATTRIBUTES.iter().map(|name| json!({"name": name, "permissions": {"edit": edit}})).collect()
    }

    #[test]
    fn unmanaged_attributes_are_safe_only_when_administrators_alone_write_them() {
        assert_eq!(profile(json!({"unmanagedAttributePolicy": "ADMIN_EDIT"})).attribute_fault(), None);
        for policy in [json!(null), json!("ENABLED"), json!("ADMIN_VIEW")] {
            assert!(profile(json!({"unmanagedAttributePolicy": policy})).attribute_fault().is_some(), "{policy}");
        }
    }

    #[test]
    fn declared_attributes_need_no_policy_but_must_not_be_the_users_to_change() {
        assert_eq!(profile(json!({"attributes": declared(&["admin"])})).attribute_fault(), None);
        for edit in [&["admin", "user"][..], &[]] {
            assert!(profile(json!({"attributes": declared(edit)})).attribute_fault().is_some(), "{edit:?}");
        }
    }
}
