//! This file is the double's state as one realm: what administrators do with its accounts and settings.

use serde_json::{Map, Value, json};

use super::events::{Events, UserEvent};
use super::faults::Dice;
use super::logins::Logins;
use super::profile::Profile;
use super::refusal::Refusal;
use super::users::{Search, User, Users, Wanted};
use super::{DoubleClient, DoubleOptions};
use crate::clock::{Clock, SystemClock};

/// The realm, its accounts and whoever is logged in.
#[derive(Debug)]
pub(super) struct Realm {
    name: String,
    clients: Vec<DoubleClient>,
    pub(super) admin: (String, String),
    pub(super) users: Users,
    pub(super) logins: Logins,
    pub(super) events: Events,
    pub(super) profile: Profile,
    edit_username_allowed: bool,
    registration_email_as_username: bool,
    ids: Dice,
}

impl Realm {
    pub(super) fn new(options: DoubleOptions) -> Self {
        Self {
            name: options.realm,
            clients: options.clients,
            admin: (options.admin, options.admin_password),
            users: Users::default(),
            logins: Logins::default(),
            events: Events::default(),
            profile: Profile::default(),
            edit_username_allowed: true,
            registration_email_as_username: false,
            ids: Dice::new(options.seed, "ids"),
        }
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name
    }

    pub(super) fn client(&self, id: &str) -> Option<&DoubleClient> {
        self.clients.iter().find(|client| client.id == id)
    }

    /// A fresh id, which follows from the seed.
    pub(super) fn id(&self) -> String {
        uuid::Builder::from_random_bytes(self.ids.bytes()).into_uuid().to_string()
    }

    pub(super) fn now_millis(&self) -> i64 {
        SystemClock.now().timestamp_millis()
    }

    /// Creates an account, and answers its id. An id that was sent is not taken.
    pub(super) fn create(&mut self, body: &Map<String, Value>) -> Result<String, Refusal> {
        let mut wanted = Wanted::created_by(body)?;
        self.users.free(&wanted, None)?;
        self.profile.validate(&wanted)?;
        self.profile.filter(&mut wanted);
        let id = self.id();
        self.users.insert(User { id: id.clone(), wanted, created_millis: self.now_millis(), password: None })?;
        self.note("CREATE", &id);
        Ok(id)
    }

    pub(super) fn replace(&mut self, id: &str, body: &Map<String, Value>) -> Result<(), Refusal> {
        let user = self.users.get(id)?.clone();
        let mut wanted = user.wanted.replaced_by(body, self.edit_username_allowed)?;
        self.users.free(&wanted, Some(id))?;
        self.profile.validate(&wanted)?;
        if body.get("attributes").is_some_and(Value::is_object) {
            self.profile.filter(&mut wanted);
        }
        self.users.replace(User { wanted, ..user })?;
        self.note("UPDATE", id);
        Ok(())
    }

    pub(super) fn delete(&mut self, id: &str) -> Result<(), Refusal> {
        self.users.remove(id)?;
        self.logins.end_sessions(id);
        self.note("DELETE", id);
        Ok(())
    }

    pub(super) fn end_sessions(&mut self, id: &str) -> Result<(), Refusal> {
        self.users.get(id)?;
        self.logins.end_sessions(id);
        self.note("ACTION", id);
        Ok(())
    }

    pub(super) fn set_password(&mut self, id: &str, body: &Map<String, Value>) -> Result<(), Refusal> {
        let user = self.users.get(id)?.clone();
        let password = body.get("value").and_then(Value::as_str).filter(|password| !password.is_empty());
        let password = password.ok_or_else(|| Refusal::bad("Empty password not allowed"))?;
        self.users.replace(User { password: Some(blake3::hash(password.as_bytes())), ..user })?;
        self.note("ACTION", id);
        Ok(())
    }

    pub(super) fn verify_email(&mut self, username: &str) -> bool {
        let Some(user) = self.users.named(username).cloned() else { return false };
        let details = json!({"email": user.wanted.email, "username": user.wanted.username});
        let event = UserEvent {
            id: self.id(),
            at_millis: self.now_millis(),
            kind: "VERIFY_EMAIL",
            user_id: user.id.clone(),
            client_id: "account".into(),
            details,
        };
        let verified = User { wanted: Wanted { email_verified: true, ..user.wanted.clone() }, ..user };
        let replaced = self.users.replace(verified).is_ok();
        self.events.record(event);
        replaced
    }

    pub(super) fn shown(&self, id: &str) -> Result<Value, Refusal> {
        Ok(self.users.get(id)?.shown(&self.profile))
    }

    /// Without attributes when `brief`.
    pub(super) fn search(&self, search: &Search, brief: bool) -> Vec<Value> {
        let mut found: Vec<_> = self.users.search(search).into_iter().map(|user| user.shown(&self.profile)).collect();
        if brief {
            found.iter_mut().filter_map(Value::as_object_mut).for_each(|user| drop(user.remove("attributes")));
        }
        found
    }

    pub(super) fn sessions(&self, id: &str) -> Result<Value, Refusal> {
        self.users.get(id)?;
        Ok(self.logins.sessions(id).iter().map(|session| json!({"id": session, "userId": id})).collect())
    }

    /// The settings, or the little that is shown to whoever may not view the realm.
    pub(super) fn settings(&self, whole: bool) -> Value {
        if !whole {
            return json!({"realm": self.name, "registrationEmailAsUsername": self.registration_email_as_username});
        }
        json!({
            "realm": self.name, "enabled": true,
            "editUsernameAllowed": self.edit_username_allowed,
            "registrationEmailAsUsername": self.registration_email_as_username,
            "eventsEnabled": self.events.enabled, "enabledEventTypes": self.events.types,
        })
    }

    /// Changes the settings that are named.
    pub(super) fn change(&mut self, body: &Map<String, Value>) {
        let flag = |name: &str, current: bool| body.get(name).and_then(Value::as_bool).unwrap_or(current);
        self.edit_username_allowed = flag("editUsernameAllowed", self.edit_username_allowed);
        self.registration_email_as_username = flag("registrationEmailAsUsername", self.registration_email_as_username);
        self.events.enabled = flag("eventsEnabled", self.events.enabled);
        if let Some(types) = body.get("enabledEventTypes").and_then(Value::as_array) {
            self.events.types = types.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
    }

    fn note(&mut self, operation: &str, user_id: &str) {
        let (id, now) = (self.id(), self.now_millis());
        self.events.record_admin(id, now, operation, &format!("users/{user_id}"));
    }
}
