//! This file gives tests a realm of their own, in a real Keycloak or in the double, and another's hands on it.
//!
//! The real Keycloak is the one that `TEST_KEYCLOAK_URL` names, administered by `TEST_KEYCLOAK_ADMIN` with
//! `TEST_KEYCLOAK_ADMIN_PASSWORD`; `./test` starts one. What a test asks of the realm here goes past the code under
//! test.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use super::mailbox::Mailbox;
use essaim::identity::double::{Double, DoubleClient, DoubleOptions};
use essaim::identity::keycloak::{Keycloak, KeycloakOptions};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Our client's secret in every realm of the tests.
pub const SECRET: &str = "only-for-tests-8f3a";
/// A client with all that is needed.
pub const CLIENT: &str = "essaim";
/// A client that may look at users and at nothing else.
pub const READER: &str = "reader";
/// A public client at which people log in.
pub const DESK: &str = "desk";
/// The password of everybody.
pub const PASSWORD: &str = "correct horse battery";

const ROLES: [(&str, &[&str]); 2] =
    [(CLIENT, &["manage-users", "view-realm", "view-events"]), (READER, &["view-users"])];

/// A realm of its own.
pub struct Realm {
    pub url: String,
    pub name: String,
    pub double: Option<Double>,
    http: reqwest::Client,
    admin: (String, String),
}

impl Realm {
    /// One in a real Keycloak; none, and a line that says so, where there is no Keycloak.
    pub async fn real() -> Option<Self> {
        static TOLD: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Ok(url) = std::env::var("TEST_KEYCLOAK_URL") else {
            // Straight to the stream: what tests print is shown only when they fail.
            TOLD.call_once(|| {
                let _ = writeln!(std::io::stderr(), "SKIPPED: no real Keycloak (TEST_KEYCLOAK_URL is not set)");
            });
            return None;
        };
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} belongs to TEST_KEYCLOAK_URL"));
        let admin = (variable("TEST_KEYCLOAK_ADMIN"), variable("TEST_KEYCLOAK_ADMIN_PASSWORD"));
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let realm = Self { url, name, double: None, http: reqwest::Client::new(), admin };
        let (status, answer) = realm.request(Method::POST, "/admin/realms", Some(import_of(&realm.name))).await;
        assert_eq!(status, 201, "{answer}");
        Some(realm)
    }

    /// One in a double of its own.
    pub async fn double() -> Self {
        Self::double_with(DoubleOptions::default()).await
    }

    /// The same with these options; realm and clients are the tests'.
    pub async fn double_with(options: DoubleOptions) -> Self {
        let client = |(id, roles): &(&str, &[&str])| DoubleClient::confidential(*id, SECRET, roles);
        let clients = ROLES.iter().map(client).chain([DoubleClient::public(DESK)]).collect();
        let options = DoubleOptions { realm: "test".into(), clients, ..options };
        let admin = (options.admin.clone(), options.admin_password.clone());
        let double = Double::start(options).await.expect("a free port");
        Self { url: double.url(), name: "test".into(), double: Some(double), http: reqwest::Client::new(), admin }
    }

    /// Removes a real one; a double goes with its handle.
    pub async fn close(self) {
        if self.double.is_none() {
            let (status, answer) = self.request(Method::DELETE, &self.path(""), None).await;
            assert_eq!(status, 204, "{answer}");
        }
    }

    pub fn options(&self) -> KeycloakOptions {
        KeycloakOptions::new(&self.url, &self.name, CLIENT, SECRET)
    }

    pub fn keycloak(&self) -> Keycloak {
        Keycloak::new(self.options()).expect("its address is good")
    }

    /// The whole account of this username.
    pub async fn account(&self, username: &str) -> Option<Value> {
        let path = self.path(&format!("/users?username={username}&exact=true&briefRepresentation=false"));
        let found = self.get(&path).await;
        found.as_array().expect("a list").first().cloned()
    }

    /// How many accounts there are.
    pub async fn count(&self) -> u64 {
        self.get(&self.path("/users/count")).await.as_u64().expect("a number")
    }

    /// Creates an account that is not ours, and answers its id.
    pub async fn create(&self, account: Value) -> String {
        let username = account["username"].as_str().expect("it has a name").to_owned();
        let (status, answer) = self.request(Method::POST, &self.path("/users"), Some(account)).await;
        assert_eq!(status, 201, "{answer}");
        self.account(&username).await.expect("it was created")["id"].as_str().expect("an id").to_owned()
    }

    /// Puts a whole account, as the admin console does.
    pub async fn replace(&self, account: &Value) {
        let path = self.path(&format!("/users/{}", account["id"].as_str().expect("an id")));
        let (status, answer) = self.request(Method::PUT, &path, Some(account.clone())).await;
        assert_eq!(status, 204, "{answer}");
    }

    pub async fn remove(&self, id: &str) {
        let (status, answer) = self.request(Method::DELETE, &self.path(&format!("/users/{id}")), None).await;
        assert_eq!(status, 204, "{answer}");
    }

    pub async fn set_password(&self, id: &str) {
        let body = json!({"type": "password", "value": PASSWORD, "temporary": false});
        let path = self.path(&format!("/users/{id}/reset-password"));
        let (status, answer) = self.request(Method::PUT, &path, Some(body)).await;
        assert_eq!(status, 204, "{answer}");
    }

    /// What the realm answers to a login by password.
    pub async fn login(&self, username: &str) -> (StatusCode, Value) {
        self.token(&self.name, &[("client_id", DESK), ("username", username), ("password", PASSWORD)]).await
    }

    /// What the realm answers to a client that asks in its own name, with [`SECRET`].
    pub async fn client_login(&self, client: &str) -> (StatusCode, Value) {
        let form = [("grant_type", "client_credentials"), ("client_id", client), ("client_secret", SECRET)];
        self.granted(&self.name, &form).await
    }

    /// Does what a user does who follows the link in the message: the address is theirs from then on.
    pub async fn verify_email(&self, username: &str) {
        if let Some(double) = &self.double {
            assert!(double.verify_email(username), "there is such a user");
            return;
        }
        let mut mailbox = Mailbox::open().await;
        let server = json!({"host": "127.0.0.1", "port": mailbox.port.to_string(), "from": "realm@example.org"});
        self.change(json!({"smtpServer": server})).await;
        let id = self.account(username).await.expect("there is such a user")["id"].clone();
        let path = self.path(&format!("/users/{}/send-verify-email?client_id={DESK}", id.as_str().expect("an id")));
        let (status, answer) = self.request(Method::PUT, &path, None).await;
        assert_eq!(status, 204, "{answer}");
        mailbox.follow_link().await;
    }

    pub async fn sessions(&self, id: &str) -> usize {
        let sessions = self.get(&self.path(&format!("/users/{id}/sessions"))).await;
        sessions.as_array().expect("a list").len()
    }

    /// A client of the realm besides those of the tests.
    pub async fn add_client(&self, client: Value) {
        let (status, answer) = self.request(Method::POST, &self.path("/clients"), Some(client)).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// Changes settings of the realm.
    pub async fn change(&self, settings: Value) {
        let (status, answer) = self.request(Method::PUT, &self.path(""), Some(settings)).await;
        assert_eq!(status, 204, "{answer}");
    }

    /// Changes the realm's user profile.
    pub async fn change_profile(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("/users/profile");
        let mut profile = self.get(&path).await;
        change(&mut profile);
        let (status, answer) = self.request(Method::PUT, &path, Some(profile)).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// The address of something of this realm's administration.
    pub fn path(&self, below: &str) -> String {
        format!("/admin/realms/{}{below}", self.name)
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.request(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// As the administrator of the whole server.
    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let token = self.admin_token().await;
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// A token for everything.
    pub async fn admin_token(&self) -> String {
        let (user, password) = &self.admin;
        let form = [("client_id", "admin-cli"), ("username", user.as_str()), ("password", password.as_str())];
        let (status, granted) = self.token("master", &form).await;
        assert_eq!(status, 200, "{granted}");
        granted["access_token"].as_str().expect("a token").to_owned()
    }

    async fn token(&self, realm: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let form: Vec<_> = form.iter().copied().chain([("grant_type", "password")]).collect();
        self.granted(realm, &form).await
    }

    async fn granted(&self, realm: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let url = format!("{}/realms/{realm}/protocol/openid-connect/token", self.url);
        let answer = self.http.post(url).form(form).send().await.expect("an answer");
        (answer.status(), answer.json().await.expect("JSON"))
    }
}

/// A realm as it should be.
fn import_of(name: &str) -> Value {
    let service = |(id, _): &(&str, &[&str])| {
        json!({"clientId": id, "secret": SECRET, "publicClient": false, "serviceAccountsEnabled": true,
               "standardFlowEnabled": false, "directAccessGrantsEnabled": false})
    };
    let account = |(id, roles): &(&str, &[&str])| {
        json!({"username": format!("service-account-{id}"), "enabled": true, "serviceAccountClientId": id,
               "clientRoles": {"realm-management": roles}})
    };
    let desk = json!({"clientId": DESK, "publicClient": true, "standardFlowEnabled": false, "directAccessGrantsEnabled": true});
    let profile = json!({"providerId": "declarative-user-profile", "config": {"kc.user.profile.config": [profile().to_string()]}});
    json!({
        "realm": name, "enabled": true, "sslRequired": "none", "editUsernameAllowed": true,
        "eventsEnabled": true, "adminEventsEnabled": true, "enabledEventTypes": ["LOGIN", "VERIFY_EMAIL"],
        "clients": ROLES.iter().map(service).chain([desk]).collect::<Vec<_>>(),
        "users": ROLES.iter().map(account).collect::<Vec<_>>(),
        "components": {"org.keycloak.userprofile.UserProfileProvider": [profile]},
    })
}

/// What Keycloak gives a fresh realm, and leave for administrators to write other attributes.
fn profile() -> Value {
    let everybody = json!({"view": ["admin", "user"], "edit": ["admin", "user"]});
    let name = |name: &str| {
        json!({"name": name, "validations": {"length": {"max": 255}, "person-name-prohibited-characters": {}},
               "required": {"roles": ["user"]}, "permissions": everybody})
    };
    json!({
        "unmanagedAttributePolicy": "ADMIN_EDIT",
        "attributes": [
            {"name": "username", "permissions": everybody, "validations": {"length": {"min": 3, "max": 255},
             "username-prohibited-characters": {}, "up-username-not-idn-homograph": {}}},
            {"name": "email", "permissions": everybody, "required": {"roles": ["user"]},
             "validations": {"email": {}, "length": {"max": 255}}},
            name("firstName"),
            name("lastName"),
        ],
    })
}
