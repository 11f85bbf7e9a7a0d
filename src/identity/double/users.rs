//! This file keeps the double's accounts: found by id, whole name, address and attribute.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::profile::Profile;
use super::refusal::Refusal;

pub(super) type Attributes = BTreeMap<String, Vec<String>>;

/// Fields that an account may be sent with; another is refused.
const FIELDS: [&str; 22] = [
    "id",
    "username",
    "email",
    "emailVerified",
    "firstName",
    "lastName",
    "enabled",
    "attributes",
    "createdTimestamp",
    "totp",
    "disableableCredentialTypes",
    "requiredActions",
    "notBefore",
    "access",
    "userProfileMetadata",
    "credentials",
    "groups",
    "realmRoles",
    "clientRoles",
    "federatedIdentities",
    "serviceAccountClientId",
    "origin",
];

/// An account.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) wanted: Wanted,
    pub(super) created_millis: i64,
    /// Never the password itself.
    pub(super) password: Option<blake3::Hash>,
}

/// The part of an account that its owner's administrators decide.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) username: String,
    pub(super) email: Option<String>,
    pub(super) email_verified: bool,
    pub(super) first_name: Option<String>,
    pub(super) last_name: Option<String>,
    pub(super) enabled: bool,
    pub(super) attributes: Attributes,
}

impl User {
    /// The account as it is shown; attributes that the profile hides are left out.
    pub(super) fn shown(&self, profile: &Profile) -> Value {
        let Wanted { username, email, email_verified, first_name, last_name, enabled, .. } = &self.wanted;
        let attributes: Attributes =
            self.wanted.attributes.clone().into_iter().filter(|(name, _)| profile.keeps(name)).collect();
        let mut shown = json!({
            "id": self.id, "username": username, "email": email, "emailVerified": email_verified,
            "firstName": first_name, "lastName": last_name, "enabled": enabled, "attributes": attributes,
            "createdTimestamp": self.created_millis, "totp": false, "disableableCredentialTypes": [],
            "requiredActions": [], "notBefore": 0, "access": {"manage": true},
        });
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|_, value| !value.is_null() && !value.as_object().is_some_and(Map::is_empty));
        }
        shown
    }
}

/// What a search asks for; all of it has to be met.
#[derive(Debug, Clone, Default)]
pub(super) struct Search {
    pub(super) username: Option<String>,
    pub(super) email: Option<String>,
    /// Whole values, or parts of them.
    pub(super) exact: bool,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) first: usize,
    pub(super) max: usize,
}

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Users {
    by_id: HashMap<String, User>,
    by_name: BTreeMap<String, String>,
    by_email: HashMap<String, String>,
    by_attribute: HashMap<(String, String), BTreeSet<String>>,
}

impl Users {
    pub(super) fn count(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: &str) -> Result<&User, Refusal> {
        self.by_id.get(id).ok_or_else(Refusal::no_user)
    }

    /// By whole username or, failing that, by whole address, as a login names it.
    pub(super) fn named(&self, name: &str) -> Option<&User> {
        let name = name.to_lowercase();
        self.by_id.get(self.by_name.get(&name).or_else(|| self.by_email.get(&name))?)
    }

    /// Sorted by username.
    pub(super) fn search<'a>(&'a self, search: &Search) -> Vec<&'a User> {
        let matching = self.candidates(search).filter(|user| search.matches(user));
        matching.skip(search.first).take(search.max).collect()
    }

    /// As few as an index can tell.
    fn candidates<'a>(&'a self, search: &Search) -> Box<dyn Iterator<Item = &'a User> + 'a> {
        let ids: Vec<&String> = match search {
            Search { attributes, .. } if !attributes.is_empty() => {
                self.by_attribute.get(&attributes[0]).into_iter().flatten().collect()
            }
            Search { username: Some(name), exact: true, .. } => {
                self.by_name.get(&name.to_lowercase()).into_iter().collect()
            }
            Search { email: Some(email), exact: true, .. } => {
                self.by_email.get(&email.to_lowercase()).into_iter().collect()
            }
            _ => return Box::new(self.by_name.values().map(|id| &self.by_id[id])),
        };
        let mut users: Vec<_> = ids.into_iter().map(|id| &self.by_id[id]).collect();
        users.sort_unstable_by(|a, b| a.wanted.username.cmp(&b.wanted.username));
        Box::new(users.into_iter())
    }

    pub(super) fn insert(&mut self, user: User) -> Result<(), Refusal> {
        self.free(&user.wanted, None)?;
        self.index(&user);
        self.by_id.insert(user.id.clone(), user);
        Ok(())
    }

    pub(super) fn replace(&mut self, user: User) -> Result<(), Refusal> {
        self.free(&user.wanted, Some(&user.id))?;
        self.remove(&user.id)?;
        self.index(&user);
        self.by_id.insert(user.id.clone(), user);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<(), Refusal> {
        let User { wanted, .. } = self.by_id.remove(id).ok_or_else(Refusal::no_user)?;
        self.by_name.remove(&wanted.username);
        if let Some(email) = &wanted.email {
            self.by_email.remove(email);
        }
        for entry in entries(&wanted.attributes) {
            if let Some(ids) = self.by_attribute.get_mut(&entry) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_attribute.remove(&entry);
                }
            }
        }
        Ok(())
    }

    /// Whether nobody but `own` has the name or address.
    pub(super) fn free(&self, wanted: &Wanted, own: Option<&str>) -> Result<(), Refusal> {
        let is_other = |id: &String| Some(id.as_str()) != own;
        if wanted.email.as_ref().and_then(|email| self.by_email.get(email)).is_some_and(is_other) {
            return Err(Refusal::taken("email"));
        }
        if self.by_name.get(&wanted.username).is_some_and(is_other) {
            return Err(Refusal::taken("username"));
        }
        Ok(())
    }

    fn index(&mut self, user: &User) {
        self.by_name.insert(user.wanted.username.clone(), user.id.clone());
        if let Some(email) = &user.wanted.email {
            self.by_email.insert(email.clone(), user.id.clone());
        }
        for entry in entries(&user.wanted.attributes) {
            self.by_attribute.entry(entry).or_default().insert(user.id.clone());
        }
    }
}

fn entries(attributes: &Attributes) -> impl Iterator<Item = (String, String)> + '_ {
    attributes.iter().flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
}

impl Search {
    fn matches(&self, user: &User) -> bool {
        let text = |wanted: &Option<String>, value: Option<&str>| match (wanted, value) {
            (None, _) => true,
            (Some(wanted), Some(value)) if self.exact => wanted.to_lowercase() == value,
            (Some(wanted), Some(value)) => value.contains(&wanted.to_lowercase()),
            (Some(_), None) => false,
        };
        let has = |(name, value): &(String, String)| {
            user.wanted.attributes.get(name).is_some_and(|values| values.contains(value))
        };
        text(&self.username, Some(&user.wanted.username))
            && text(&self.email, user.wanted.email.as_deref())
            && self.attributes.iter().all(has)
    }
}

impl Wanted {
    /// What a POST asks for.
    pub(super) fn created_by(body: &Map<String, Value>) -> Result<Self, Refusal> {
        known_fields(body)?;
        Ok(Self {
            username: username(body)?.ok_or_else(no_username)?,
            email: lower(text(body, "email")?),
            email_verified: flag(body, "emailVerified")?.unwrap_or(false),
            first_name: text(body, "firstName")?,
            last_name: text(body, "lastName")?,
            enabled: flag(body, "enabled")?.unwrap_or(false),
            attributes: attributes(body)?.unwrap_or_default(),
        })
    }

    /// What a PUT makes of this: with attributes it replaces the whole profile, without it changes what is named.
    pub(super) fn replaced_by(&self, body: &Map<String, Value>, edit_username: bool) -> Result<Self, Refusal> {
        known_fields(body)?;
        let attributes = attributes(body)?;
        let sent = username(body)?;
        if edit_username && attributes.is_some() && sent.is_none() {
            return Err(no_username());
        }
        if !edit_username && sent.as_ref().is_some_and(|sent| *sent != self.username) {
            let error =
                json!({"field": "username", "errorMessage": "error-user-attribute-read-only", "params": ["username"]});
            return Err(Refusal::fields(vec![error]));
        }
        let whole = attributes.is_some();
        let field = |name: &str, current: &Option<String>| {
            let sent = text(body, name)?;
            Ok(if whole || body.get(name).is_some_and(|value| !value.is_null()) { sent } else { current.clone() })
        };
        Ok(Self {
            username: sent.unwrap_or_else(|| self.username.clone()),
            email: lower(field("email", &self.email)?),
            email_verified: flag(body, "emailVerified")?.unwrap_or(self.email_verified),
            first_name: field("firstName", &self.first_name)?,
            last_name: field("lastName", &self.last_name)?,
            enabled: flag(body, "enabled")?.unwrap_or(self.enabled),
            attributes: attributes.unwrap_or_else(|| self.attributes.clone()),
        })
    }
}

fn username(body: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    Ok(lower(text(body, "username")?))
}

fn no_username() -> Refusal {
    Refusal::bad("User name is missing")
}

fn lower(text: Option<String>) -> Option<String> {
    text.map(|text| text.to_lowercase())
}

/// An empty text is none.
fn text(body: &Map<String, Value>, field: &str) -> Result<Option<String>, Refusal> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(unreadable()),
    }
}

fn flag(body: &Map<String, Value>, field: &str) -> Result<Option<bool>, Refusal> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(unreadable()),
    }
}

fn attributes(body: &Map<String, Value>) -> Result<Option<Attributes>, Refusal> {
    match body.get("attributes") {
        None | Some(Value::Null) => Ok(None),
        Some(attributes) => serde_json::from_value(attributes.clone()).map(Some).map_err(|_| unreadable()),
    }
}

fn unreadable() -> Refusal {
    Refusal::grant(StatusCode::BAD_REQUEST, "invalid_request", "Cannot parse the JSON")
}

fn known_fields(body: &Map<String, Value>) -> Result<(), Refusal> {
    match body.keys().find(|field| !FIELDS.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) => Err(Refusal::error(
            StatusCode::BAD_REQUEST,
            &format!("Invalid json representation for UserRepresentation. Unrecognized field \"{field}\"."),
        )),
    }
}
