//! The daemon is killed with SIGKILL at every step of the synchroniser, for every kind of change, at the double and at
//! a real Keycloak: afterwards there is one account, as wanted, and each outcome is in the log once.

#[path = "support/forwarder.rs"]
mod forwarder;
#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;
#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::path::PathBuf;

use forwarder::{Forwarder, Stop};
use realm::{CLIENT, Realm, SECRET};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use support::daemon::Daemon;
use support::eventually;
use tempfile::TempDir;
use uuid::Uuid;

/// One kind of change; to enable somebody is to update them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Register,
    Update,
    Disable,
    Enable,
    Delete,
}

const ALL: &[Change] = &[Change::Register, Change::Update, Change::Disable, Change::Delete];

macro_rules! killed {
    ($($step:ident: $real:expr,)*) => {
        mod double {
            $(#[tokio::test]
            async fn $step() {
                for change in super::ALL {
                    super::$step(&super::Realm::double().await, *change).await;
                }
            })*
        }

        mod real_keycloak {
            use super::Change::*;

            $(#[tokio::test]
            async fn $step() {
                for change in $real {
                    if let Some(realm) = super::Realm::real().await {
                        super::$step(&realm, change).await;
                        realm.close().await;
                    }
                }
            })*
        }
    };
}

killed! {
    killed_before_the_call: [Register],
    killed_before_a_call_that_arrives_all_the_same_later: [Register, Update],
    killed_after_the_effect_but_before_the_answer: [Register, Update, Delete],
    killed_before_the_outcome_is_in_the_log: [Register, Disable],
    killed_before_the_checkpoint: [Update],
    killed_after_the_effect_and_again_while_looking_for_it: [Register],
}

/// A daemon, its database, and the way to its provider.
struct Stage<'a> {
    realm: &'a Realm,
    forwarder: Forwarder,
    daemon: Daemon,
    database: PathBuf,
    http: reqwest::Client,
    _folder: TempDir,
}

const ADA: Uuid = Uuid::from_u128(1);
/// Never, as tests go.
const AN_HOUR_MS: &str = "3600000";
const SOON_MS: &str = "20";

impl<'a> Stage<'a> {
    /// With everything in step that has to be there before this change; checkpoints come that often.
    async fn before(realm: &'a Realm, change: Change, checkpoint_every_ms: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("log.db");
        let forwarder = Forwarder::to(&realm.url).await;
        let flags = [
            ["--keycloak-url", &forwarder.url],
            ["--keycloak-realm", &realm.name],
            ["--keycloak-client-id", CLIENT],
            ["--keycloak-client-secret", SECRET],
            ["--keycloak-poll-every-ms", AN_HOUR_MS],
            ["--checkpoint-every-ms", checkpoint_every_ms],
        ];
        let daemon = Daemon::start_with(&format!("sqlite://{}", database.display()), &flags.concat()).await;
        let stage = Self { realm, forwarder, daemon, database, http: reqwest::Client::new(), _folder: folder };
        if change != Change::Register {
            stage.send(Change::Register).await;
            stage.settled(1).await;
            let account = realm.account("ada").await.unwrap();
            realm.set_password(account["id"].as_str().unwrap()).await;
            assert_eq!(realm.login("ada").await.0, 200);
        }
        stage
    }

    /// Sends the command, which is answered whatever the provider does; the version behind it.
    async fn send(&self, change: Change) -> u64 {
        let user = format!("/v1/users/{ADA}");
        let (method, path, body) = match change {
            Change::Register => {
                let body = json!({"id": ADA, "username": "ada", "email": "ada@example.org", "first_name": "Ada",
                    "last_name": "Byron", "organization_id": Uuid::from_u128(42), "roles": ["writer"]});
                (Method::POST, "/v1/users".to_owned(), body)
            }
            Change::Update => (Method::PATCH, user, json!({"last_name": "King", "email": "countess@example.org"})),
            Change::Disable => (Method::POST, format!("{user}/disable"), json!({"reason": "on leave"})),
            Change::Enable => (Method::POST, format!("{user}/enable"), json!({})),
            Change::Delete => (Method::DELETE, user, json!({})),
        };
        let url = format!("{}{path}", self.daemon.address());
        let answer = self.http.request(method, url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{change:?}: {}", answer.status());
        answer.json::<Value>().await.unwrap()["version"].as_u64().unwrap()
    }

    /// Sends it; returns when the call that changes the account is stopped there.
    async fn send_and_stop(&self, change: Change, stop: Stop) -> u64 {
        let is_account: fn(&str) -> bool = |path| path.rsplit('/').nth(1) == Some("users");
        let (method, fits): (_, fn(&str) -> bool) = match change {
            Change::Register => ("POST", |path| path.ends_with("/users")),
            Change::Update | Change::Disable | Change::Enable => ("PUT", is_account),
            Change::Delete => ("DELETE", is_account),
        };
        self.forwarder.stop_next(stop, method, fits);
        let version = self.send(change).await;
        self.forwarder.has_stopped().await;
        version
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.daemon.address())).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn synchroniser(&self) -> Value {
        self.get("/v1/admin/synchronisers/user_accounts").await
    }

    /// The outcomes in the log, each with its data.
    async fn outcomes(&self) -> Vec<(String, Value)> {
        let page = self.get("/v1/events?category=identity&limit=1000").await;
        let told = |event: &Value| (event["type"].as_str().unwrap().to_owned(), event["data"].clone());
        page["items"].as_array().unwrap().iter().map(told).collect()
    }

    /// Waits until this version is settled, and nothing else is to be done.
    async fn settled(&self, version: u64) {
        self.daemon.ready().await;
        let synced = ("IdentitySynced".to_owned(), json!({"version": version}));
        eventually(&format!("version {version} is settled"), || async {
            let status = self.synchroniser().await;
            status["pending"] == 0 && status["calls_in_flight"] == 0 && self.outcomes().await.contains(&synced)
        })
        .await;
    }

    /// One account, as wanted behind this change, or none; and each outcome once, in order.
    async fn is_right(&self, change: Change, version: u64) {
        self.settled(version).await;
        let account = self.realm.account("ada").await;
        assert_eq!(self.realm.count().await, u64::from(change != Change::Delete), "{change:?}");
        assert_eq!(account.is_none(), change == Change::Delete, "{change:?}");
        if let Some(account) = &account {
            let is_updated = change == Change::Update;
            let (last_name, email) =
                if is_updated { ("King", "countess@example.org") } else { ("Byron", "ada@example.org") };
            assert_eq!((&account["lastName"], &account["email"]), (&json!(last_name), &json!(email)), "{change:?}");
            assert_eq!(account["enabled"], json!(change != Change::Disable), "{change:?}");
            assert_eq!(account["attributes"]["essaim_user_id"], json!([ADA.to_string()]), "{change:?}");
            assert_eq!(account["attributes"]["essaim_version"], json!([version.to_string()]), "{change:?}");
        }
        if change == Change::Disable {
            let id = account.as_ref().unwrap()["id"].as_str().unwrap().to_owned();
            assert_eq!((self.realm.sessions(&id).await, self.realm.login("ada").await.0.as_u16()), (0, 400));
        }
        let outcomes = self.outcomes().await;
        let types: Vec<_> = outcomes.iter().map(|(kind, _)| kind.as_str()).collect();
        let expected = ["IdentityLinked"].into_iter().chain((0..version).map(|_| "IdentitySynced"));
        assert_eq!(types, expected.collect::<Vec<_>>(), "{change:?}: {outcomes:?}");
        if let Some(account) = account {
            assert_eq!(outcomes[0].1["provider_id"], account["id"], "{change:?}");
        }
    }

    /// Takes the database's only place for writers, so that the daemon's next append has to wait.
    async fn lock(&self) -> SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.database);
        let mut connection = options.connect().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
        connection
    }

    /// How many calls the daemon that runs took for successful, recorded or not.
    async fn calls_that_succeeded(&self) -> u64 {
        let url = format!("{}/metrics", self.daemon.address());
        let text = self.http.get(url).send().await.unwrap().text().await.unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("essaim_synchroniser_calls_total{"));
        let line = lines.find(|line| line.contains("outcome=\"synced\""));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

async fn killed_before_the_call(realm: &Realm, change: Change) {
    let mut stage = Stage::before(realm, change, SOON_MS).await;
    let before = realm.account("ada").await;
    let version = stage.send_and_stop(change, Stop::Request).await;
    stage.daemon.kill();
    assert_eq!(realm.account("ada").await, before, "nothing has happened there");
    stage.daemon.restart().await;

    stage.is_right(change, version).await;
}

async fn killed_before_a_call_that_arrives_all_the_same_later(realm: &Realm, change: Change) {
    let mut stage = Stage::before(realm, change, SOON_MS).await;
    let version = stage.send_and_stop(change, Stop::Request).await;
    stage.daemon.kill_and_restart().await;
    stage.is_right(change, version).await;

    stage.forwarder.let_go();
    eventually("the late call was answered", || async { stage.forwarder.stopped() == 0 }).await;
    stage.is_right(change, version).await;
    if change != Change::Update {
        return;
    }

    // One that comes after a newer one does harm, which no look of that moment can show; reconcile finds it.
    let disabled = stage.send_and_stop(Change::Disable, Stop::Request).await;
    stage.daemon.kill_and_restart().await;
    stage.settled(disabled).await;
    let enabled = stage.send(Change::Enable).await;
    stage.settled(enabled).await;
    stage.forwarder.let_go();
    eventually("it did harm", || async { realm.account("ada").await.unwrap()["enabled"] == json!(false) }).await;
    let reconcile = format!("{}/v1/admin/synchronisers/user_accounts/reconcile", stage.daemon.address());
    let begun = stage.http.post(reconcile).json(&json!({"repair": true})).send().await.unwrap();
    assert_eq!(begun.status(), 202);
    eventually("it is mended", || async { realm.account("ada").await.unwrap()["enabled"] == json!(true) }).await;
    eventually("the pass is over", || async {
        stage.synchroniser().await["reconciliation"]["finished_at"].is_string()
    })
    .await;
    let report = stage.synchroniser().await["reconciliation"].clone();
    assert_eq!(report["drifts"][0]["differs"], json!(["version", "enabled"]), "{report}");
}

async fn killed_after_the_effect_but_before_the_answer(realm: &Realm, change: Change) {
    let mut stage = Stage::before(realm, change, SOON_MS).await;
    let before = realm.account("ada").await;
    let version = stage.send_and_stop(change, Stop::Answer).await;
    stage.daemon.kill();
    assert_ne!(realm.account("ada").await, before, "it has happened there");
    stage.daemon.restart().await;

    stage.is_right(change, version).await;
}

async fn killed_before_the_outcome_is_in_the_log(realm: &Realm, change: Change) {
    let mut stage = Stage::before(realm, change, SOON_MS).await;
    let before = stage.outcomes().await;
    let version = stage.send_and_stop(change, Stop::Answer).await;
    let succeeded = stage.calls_that_succeeded().await;
    let lock = stage.lock().await;
    stage.forwarder.let_go();
    eventually("the call has succeeded", || async { stage.calls_that_succeeded().await == succeeded + 1 }).await;
    assert_eq!(stage.outcomes().await, before, "the outcome is not in the log");
    stage.daemon.kill();
    lock.close().await.unwrap();
    stage.daemon.restart().await;

    stage.is_right(change, version).await;
}

async fn killed_before_the_checkpoint(realm: &Realm, change: Change) {
    let mut stage = Stage::before(realm, change, AN_HOUR_MS).await;
    let version = stage.send(change).await;
    stage.settled(version).await;
    assert_eq!(stage.synchroniser().await["checkpoint"], 0, "nothing but the log knows of it");
    stage.daemon.kill_and_restart().await;

    stage.is_right(change, version).await;
    assert_eq!(stage.calls_that_succeeded().await, 0, "the log says that it was done");
}

async fn killed_after_the_effect_and_again_while_looking_for_it(realm: &Realm, change: Change) {
    let mut stage = Stage::before(realm, change, SOON_MS).await;
    let version = stage.send_and_stop(change, Stop::Answer).await;
    // The one that comes next is killed while it looks what became of that.
    stage.daemon.kill();
    stage.forwarder.let_go();
    eventually("the answer went nowhere", || async { stage.forwarder.stopped() == 0 }).await;
    stage.forwarder.stop_next(Stop::Answer, "GET", |path| path.ends_with("/users"));
    stage.daemon.restart().await;
    stage.forwarder.has_stopped().await;
    stage.daemon.kill_and_restart().await;

    stage.is_right(change, version).await;
}

/// Disabling is two requests, and the second one ends the sessions.
async fn killed_between_disabling_and_the_end_of_the_sessions(realm: &Realm) {
    let mut stage = Stage::before(realm, Change::Disable, SOON_MS).await;
    let id = realm.account("ada").await.unwrap()["id"].as_str().unwrap().to_owned();
    stage.forwarder.stop_next(Stop::Request, "POST", |path| path.ends_with("/logout"));
    let version = stage.send(Change::Disable).await;
    stage.forwarder.has_stopped().await;
    stage.daemon.kill();
    let account = realm.account("ada").await.unwrap();
    assert_eq!((&account["enabled"], realm.sessions(&id).await), (&json!(false), 1), "half of it is done");
    stage.daemon.restart().await;

    stage.is_right(Change::Disable, version).await;
}

mod double_disabling {
    #[tokio::test]
    async fn killed_between_disabling_an_account_and_ending_its_sessions() {
        super::killed_between_disabling_and_the_end_of_the_sessions(&super::Realm::double().await).await;
    }
}

mod real_keycloak_disabling {
    #[tokio::test]
    async fn killed_between_disabling_an_account_and_ending_its_sessions() {
        if let Some(realm) = super::Realm::real().await {
            super::killed_between_disabling_and_the_end_of_the_sessions(&realm).await;
            realm.close().await;
        }
    }
}
