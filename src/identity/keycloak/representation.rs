//! This file turns our users into Keycloak's JSON and back.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::identity::{ProviderId, ProviderUser, WantedUser};

/// The attribute with our user's id.
pub(super) const USER_ID: &str = "essaim_user_id";
/// The attribute with the version the account was put at.
pub(super) const VERSION: &str = "essaim_version";
/// The attribute with the organisation's id.
pub(super) const ORGANIZATION_ID: &str = "organization_id";
/// The attribute with the names of roles.
pub(super) const ROLES: &str = "roles";
/// All attributes that are ours.
pub(super) const ATTRIBUTES: [&str; 4] = [USER_ID, VERSION, ORGANIZATION_ID, ROLES];

type Attributes = BTreeMap<String, Vec<String>>;

/// An account as Keycloak shows it: the part that matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Account {
    pub(super) id: String,
    username: String,
    email: Option<String>,
    email_verified: bool,
    first_name: Option<String>,
    last_name: Option<String>,
    enabled: bool,
    attributes: Attributes,
    created_timestamp: Option<i64>,
}

impl Account {
    pub(super) fn provider_id(&self) -> ProviderId {
        ProviderId(self.id.clone())
    }

    /// Our user's id, when it carries one.
    pub(super) fn user_id(&self) -> Option<Uuid> {
        self.first(USER_ID)?.parse().ok()
    }

    /// The version it was put at, when it carries one.
    pub(super) fn version(&self) -> Option<u64> {
        self.first(VERSION)?.parse().ok()
    }

    /// Whether this is its username or its address, in whatever case.
    pub(super) fn goes_by(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.username == name || (!name.is_empty() && self.email.as_deref() == Some(name.as_str()))
    }

    fn first(&self, attribute: &str) -> Option<&str> {
        self.attributes.get(attribute)?.first().map(String::as_str)
    }

    /// The body that makes this account be as wanted. Its other attributes stay: a PUT replaces all of them.
    pub(super) fn replaced_by(&self, wanted: &WantedUser) -> Value {
        let mut attributes = self.attributes.clone();
        attributes.extend(ours(wanted));
        let same_address = self.email.as_deref() == Some(wanted.email.as_str());
        body(wanted, wanted.email_verified || (same_address && self.email_verified), &attributes)
    }
}

impl From<Account> for ProviderUser {
    fn from(account: Account) -> Self {
        let mut roles = account.attributes.get(ROLES).cloned().unwrap_or_default();
        roles.sort_unstable();
        Self {
            id: account.provider_id(),
            user_id: account.user_id(),
            version: account.version(),
            organization_id: account.first(ORGANIZATION_ID).and_then(|id| id.parse().ok()),
            roles,
            username: account.username,
            email: account.email.unwrap_or_default(),
            email_verified: account.email_verified,
            first_name: account.first_name.unwrap_or_default(),
            last_name: account.last_name.unwrap_or_default(),
            enabled: account.enabled,
            created_at: account.created_timestamp.and_then(DateTime::from_timestamp_millis),
        }
    }
}

/// The body that creates the account.
pub(super) fn created_as(wanted: &WantedUser) -> Value {
    body(wanted, wanted.email_verified, &ours(wanted))
}

fn body(wanted: &WantedUser, email_verified: bool, attributes: &Attributes) -> Value {
    json!({
        "username": wanted.username,
        "email": wanted.email,
        "emailVerified": email_verified,
        "firstName": wanted.first_name,
        "lastName": wanted.last_name,
        "enabled": wanted.enabled,
        "attributes": attributes,
    })
}

fn ours(wanted: &WantedUser) -> Attributes {
    let one = |name: &str, value: String| (name.to_owned(), vec![value]);
    Attributes::from([
        one(USER_ID, wanted.user_id.to_string()),
        one(VERSION, wanted.version.to_string()),
        one(ORGANIZATION_ID, wanted.organization_id.to_string()),
        (ROLES.to_owned(), wanted.roles.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> WantedUser {
        WantedUser {
            user_id: Uuid::from_u128(1),
            version: 7,
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

    fn account(json: Value) -> Account {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_was_created_reads_as_wanted() {
        let created = account(created_as(&wanted()));

        assert_eq!(ProviderUser::from(created).differences(&wanted()), Vec::<&str>::new());
    }

    #[test]
    fn an_account_of_others_carries_none_of_ours() {
        let foreign = account(json!({"id": "x", "username": "bob", "attributes": {"essaim_user_id": ["no uuid"]}}));

        assert_eq!((foreign.user_id(), foreign.version()), (None, None));
    }

    #[test]
    fn replacing_keeps_the_attributes_of_others_and_none_of_our_old_values() {
        let old = account(json!({"attributes": {"phone": ["1"], "roles": ["owner"], "essaim_version": ["3"]}}));

        let attributes = &old.replaced_by(&wanted())["attributes"];

        assert_eq!(attributes["phone"], json!(["1"]));
        assert_eq!(attributes["roles"], json!(["writer", "admin"]));
        assert_eq!(attributes["essaim_version"], json!(["7"]));
    }

    #[test]
    fn an_address_verified_there_stays_verified_until_it_changes() {
        let verified = |email: &str| account(json!({"email": email, "emailVerified": true}));

        assert_eq!(verified("ada@example.org").replaced_by(&wanted())["emailVerified"], json!(true));
        assert_eq!(verified("old@example.org").replaced_by(&wanted())["emailVerified"], json!(false));
    }
}
