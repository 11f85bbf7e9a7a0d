//! A user's life from the daemon's routes to the account and back, in the double and in a real Keycloak: what is done
//! here is asked of the realm itself, and what users do there is shown here.

#[path = "support/forwarder.rs"]
mod forwarder;
#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;
#[path = "support/scripted.rs"]
mod scripted;
mod support;

use forwarder::Forwarder;
use realm::{CLIENT, Realm, SECRET};
use reqwest::Method;
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::eventually;
use uuid::Uuid;

macro_rules! both {
    ($($test:ident,)*) => {
        mod double {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::Realm::double().await).await;
            })*
        }

        mod real_keycloak {
            $(#[tokio::test]
            async fn $test() {
                if let Some(realm) = super::Realm::real().await {
                    super::$test(&realm).await;
                    realm.close().await;
                }
            })*
        }
    };
}

both! {
    what_happens_to_a_user_here_happens_to_the_account_and_what_the_user_does_there_is_shown_here,
    an_address_that_is_verified_there_is_verified_here_only_while_it_is_the_users,
}

const ADA: Uuid = Uuid::from_u128(1);
const ORGANIZATION: Uuid = Uuid::from_u128(42);
/// Never, as tests go.
const AN_HOUR_MS: &str = "3600000";

/// A daemon and its database.
struct Desk {
    daemon: Daemon,
    folder: tempfile::TempDir,
    http: reqwest::Client,
}

impl Desk {
    async fn at(url: &str, realm: &Realm, poll_every_ms: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = daemon(&folder, url, realm, poll_every_ms).await;
        Self { daemon, folder, http: reqwest::Client::new() }
    }

    /// The same database under another daemon.
    async fn polling(self, realm: &Realm, every_ms: &str) -> Self {
        let Self { mut daemon, folder, http } = self;
        daemon.kill();
        Self { daemon: self::daemon(&folder, &realm.url, realm, every_ms).await, folder, http }
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.daemon.address())).json(&body);
        let answer = request.header("essaim-deadline-ms", 30_000).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn register(&self, wait: &str) -> (u16, Value) {
        let body = json!({"id": ADA, "username": "ada", "email": "ada@example.org", "first_name": "Ada",
            "last_name": "Łovelace", "organization_id": ORGANIZATION, "roles": ["writer", "admin"]});
        self.send(Method::POST, &format!("/v1/users{wait}"), body).await
    }

    /// Sends a command to Ada, and waits until the realm follows.
    async fn brings(&self, method: Method, below: &str, body: Value) {
        let (status, answer) = self.send(method, &format!("/v1/users/{ADA}{below}?wait=synced"), body).await;
        assert_eq!((status, &answer["sync"]), (200, &json!("synced")), "{below}: {answer}");
    }

    /// Ada as she is shown.
    async fn ada(&self) -> Value {
        let (status, shown) = self.send(Method::GET, &format!("/v1/users/{ADA}"), Value::Null).await;
        assert_eq!(status, 200, "{shown}");
        shown
    }

    /// The user's events of this type.
    async fn events(&self, event_type: &str) -> Vec<Value> {
        let path = format!("/v1/events?category=user&type={event_type}&limit=1000");
        let (status, page) = self.send(Method::GET, &path, Value::Null).await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().unwrap().clone()
    }
}

async fn daemon(folder: &tempfile::TempDir, url: &str, realm: &Realm, poll_every_ms: &str) -> Daemon {
    let flags = [
        ["--keycloak-url", url],
        ["--keycloak-realm", &realm.name],
        ["--keycloak-client-id", CLIENT],
        ["--keycloak-client-secret", SECRET],
        ["--keycloak-poll-every-ms", poll_every_ms],
    ];
    Daemon::start_with(&format!("sqlite://{}", folder.path().join("log.db").display()), &flags.concat()).await
}

async fn account(realm: &Realm) -> Value {
    realm.account("ada").await.expect("there is an account")
}

async fn what_happens_to_a_user_here_happens_to_the_account_and_what_the_user_does_there_is_shown_here(realm: &Realm) {
    let desk = Desk::at(&realm.url, realm, "100").await;

    let (status, registered) = desk.register("?wait=synced").await;
    assert_eq!((status, &registered["sync"]), (201, &json!("synced")), "{registered}");
    let made = account(realm).await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        ["email", "firstName", "lastName"].map(|field| made[field].as_str().unwrap()),
        ["ada@example.org", "Ada", "Łovelace"]
    );
    assert_eq!((&made["enabled"], &made["emailVerified"]), (&json!(true), &json!(false)));
    let attributes = &made["attributes"];
    assert_eq!(attributes["essaim_user_id"], json!([ADA.to_string()]));
    assert_eq!(attributes["essaim_version"], json!(["1"]));
    assert_eq!(attributes["organization_id"], json!([ORGANIZATION.to_string()]));
    let mut roles: Vec<_> = attributes["roles"].as_array().unwrap().iter().map(|role| role.as_str().unwrap()).collect();
    roles.sort_unstable();
    assert_eq!(roles, ["admin", "writer"]);
    let shown = desk.ada().await;
    assert_eq!((&shown["provider_id"], &shown["synced_version"]), (&json!(id), &json!(1)));
    assert_eq!((&shown["first_login_at"], &shown["last_login_at"]), (&Value::Null, &Value::Null));

    // A password is set there, and a real login is shown here.
    realm.set_password(id).await;
    assert_eq!(realm.login("ada").await.0, 200);
    eventually("the login is shown", || async { desk.ada().await["last_login_at"].is_string() }).await;
    let shown = desk.ada().await;
    assert_eq!(shown["first_login_at"], shown["last_login_at"]);
    let logins = desk.events("UserLoggedIn").await;
    assert_eq!((logins.len(), &logins[0]["metadata"]["principal"]), (1, &json!("identity-provider")));

    desk.brings(Method::PATCH, "", json!({"last_name": "King"})).await;
    desk.brings(Method::PUT, "/roles", json!({"roles": ["reader"]})).await;
    let changed = account(realm).await;
    assert_eq!((&changed["lastName"], &changed["attributes"]["roles"]), (&json!("King"), &json!(["reader"])));
    assert_eq!(realm.sessions(id).await, 1, "a change of names or roles ends no session");

    desk.brings(Method::POST, "/disable", json!({"reason": "on leave"})).await;
    assert_eq!(account(realm).await["enabled"], json!(false));
    assert_eq!((realm.sessions(id).await, realm.login("ada").await.0.as_u16()), (0, 400));
    desk.brings(Method::POST, "/enable", json!({})).await;
    assert_eq!(realm.login("ada").await.0, 200);
    eventually("the second login is shown", || async {
        let shown = desk.ada().await;
        shown["last_login_at"].as_str() > shown["first_login_at"].as_str()
    })
    .await;
    assert_eq!(desk.ada().await["first_login_at"], shown["first_login_at"]);

    // The link in the message that Keycloak sends is followed, and the address is verified here, too.
    realm.verify_email("ada").await;
    eventually("the verified address is shown", || async { desk.ada().await["email_verified"] == json!(true) }).await;
    eventually("and synced", || async { desk.ada().await["sync"] == json!("synced") }).await;
    assert_eq!(account(realm).await["emailVerified"], json!(true));
    desk.brings(Method::PATCH, "", json!({"email": "countess@example.org"})).await;
    let moved = account(realm).await;
    assert_eq!((&moved["email"], &moved["emailVerified"]), (&json!("countess@example.org"), &json!(false)));
    desk.brings(Method::POST, "/verify-email", json!({})).await;
    assert_eq!(account(realm).await["emailVerified"], json!(true));

    desk.brings(Method::POST, "/disable", json!({})).await;
    desk.brings(Method::DELETE, "", json!({})).await;
    assert_eq!((realm.account("ada").await, realm.count().await), (None, 0));
    let shown = desk.ada().await;
    assert_eq!((&shown["deleted"], &shown["sync"]), (&json!(true), &json!("synced")), "{shown}");
    assert_eq!(desk.events("UserLoggedIn").await.len(), 2, "each login once, and a refused one not");
}

async fn an_address_that_is_verified_there_is_verified_here_only_while_it_is_the_users(realm: &Realm) {
    let desk = Desk::at(&realm.url, realm, AN_HOUR_MS).await;
    desk.register("?wait=synced").await;
    realm.verify_email("ada").await;
    assert_eq!(account(realm).await["emailVerified"], json!(true));

    // Before anybody here learns of that, the user has another address, which nobody has shown to be theirs.
    desk.brings(Method::PATCH, "", json!({"email": "countess@example.org"})).await;
    let account = account(realm).await;
    realm.set_password(account["id"].as_str().unwrap()).await;
    assert_eq!(realm.login("ada").await.0, 200);
    let desk = desk.polling(realm, "100").await;
    // Events are taken in their order, so the verified address came before the login.
    eventually("the login is shown", || async { desk.ada().await["last_login_at"].is_string() }).await;

    let shown = desk.ada().await;
    assert_eq!((&shown["email"], &shown["email_verified"]), (&json!("countess@example.org"), &json!(false)));
    assert_eq!(desk.events("UserEmailVerified").await, Vec::<Value>::new());
}

/// Nothing that the provider does or leaves undone has a part in the answer: it is given before the provider has
/// answered anything at all, its token not and not whether it is one.
#[tokio::test]
async fn a_registration_is_answered_while_the_provider_holds_every_request() {
    let realm = Realm::double().await;
    let forwarder = Forwarder::to(&realm.url).await;
    forwarder.shut();
    let desk = Desk::at(&forwarder.url, &realm, "100").await;
    forwarder.has_stopped().await;

    let (status, answer) = desk.register("").await;
    assert_eq!((status, &answer["sync"]), (201, &Value::Null), "{answer}");
    assert_eq!(realm.double.as_ref().unwrap().counters().requests, 0, "the provider has seen nothing");
    let (status, roles) = desk.send(Method::PUT, &format!("/v1/users/{ADA}/roles"), json!({"roles": ["reader"]})).await;
    assert_eq!((status, &roles["version"]), (200, &json!(2)), "{roles}");
    eventually("the user is shown", || async {
        let shown = desk.ada().await;
        (&shown["version"], &shown["sync"]) == (&json!(2), &json!("pending"))
    })
    .await;
    let (status, listed) = desk.send(Method::GET, "/v1/users", Value::Null).await;
    assert_eq!((status, &listed["items"][0]["username"]), (200, &json!("ada")), "{listed}");
    let payment = json!({"amount": "12.50", "currency": "EUR"});
    assert_eq!(desk.send(Method::POST, "/v1/payments", payment).await.0, 201);
    assert!(forwarder.stopped() > 0, "it is held all the while");
    assert_eq!(realm.count().await, 0);

    forwarder.let_go();
    eventually("the user is brought", || async { desk.ada().await["sync"] == json!("synced") }).await;
    assert_eq!(account(&realm).await["attributes"]["roles"], json!(["reader"]));
    assert_eq!(realm.count().await, 1);
}
