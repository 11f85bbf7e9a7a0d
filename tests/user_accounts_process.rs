//! The daemon and an identity provider: kill -9 again and again, operators, and what users do at the provider.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;
mod support;

use std::process::Command;
use std::time::Duration;

use essaim::domain::identity::Identity;
use essaim::domain::user::{User, UserCommand};
use essaim::identity::double::Faults;
use essaim::prelude::*;
use essaim::testing::whole_log;
use realm::{CLIENT, Realm, SECRET};
use reqwest::Method;
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::eventually;
use uuid::Uuid;

/// A database with these users in it, whom no provider knows yet.
async fn registered(names: &[String]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.db");
    let engine = Engine::builder(SqliteStore::open(&file).await.unwrap()).aggregate::<User>().start().await.unwrap();
    // One after the other, so that the order of their intents is that of their names.
    for (n, name) in names.iter().enumerate() {
        let register = json!({"Register": {
            "username": name, "email": format!("{name}@example.org"), "first_name": "Ada", "last_name": "Byron",
            "organization_id": Uuid::from_u128(42), "roles": [],
        }});
        let command: UserCommand = serde_json::from_value(register).unwrap();
        engine.execute(&User::id(Uuid::from_u128(n as u128 + 1)), command).await.unwrap();
    }
    assert!(engine.shutdown(Duration::from_secs(10)).await);
    (folder, format!("sqlite://{}", file.display()))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("user{n}")).collect()
}

/// A daemon that brings its users to this realm.
async fn daemon(database: &str, realm: &Realm) -> Daemon {
    let flags = [
        ["--keycloak-url", &realm.url],
        ["--keycloak-realm", &realm.name],
        ["--keycloak-client-id", CLIENT],
        ["--keycloak-client-secret", SECRET],
        ["--keycloak-poll-every-ms", "100"],
        ["--checkpoint-every-ms", "50"],
    ];
    Daemon::start_with(database, &flags.concat()).await
}

async fn get(daemon: &Daemon, path: &str) -> Value {
    let answer = reqwest::get(format!("{}{path}", daemon.address())).await.unwrap();
    let status = answer.status();
    let body = answer.json().await.unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn synchroniser(daemon: &Daemon) -> Value {
    get(daemon, "/v1/admin/synchronisers/user_accounts").await
}

async fn settled(daemon: &Daemon, users: u64) {
    eventually("all users are settled", || async {
        let status = synchroniser(daemon).await;
        status["pending"] == 0 && status["subjects"] == users
    })
    .await;
}

/// How many events of this type are in the log.
async fn count(daemon: &Daemon, event_type: &str) -> usize {
    let page = get(daemon, &format!("/v1/events?limit=1000&type={event_type}")).await;
    page["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_daemon_killed_again_and_again_makes_one_account_for_each_user() {
    const USERS: usize = 60;
    let (folder, database) = registered(&names(USERS)).await;
    let realm = Realm::double().await;
    let slow = Faults { latency_ms: 15, ..Faults::default() };
    realm.double.as_ref().unwrap().set_faults(slow).unwrap();
    let mut daemon = daemon(&database, &realm).await;

    // Each kill meets other users before the call, in the midst of it, before the outcome and before the checkpoint.
    let mut kills = 0;
    while realm.count().await < USERS as u64 && kills < 40 {
        let before = realm.count().await;
        eventually("it goes on", || async { realm.count().await > before }).await;
        daemon.kill_and_restart().await;
        kills += 1;
    }
    daemon.ready().await;
    settled(&daemon, USERS as u64).await;

    assert!(kills >= 3, "it was killed {kills} times only");
    assert_eq!(realm.count().await, USERS as u64);
    for (n, name) in names(USERS).iter().enumerate() {
        let account = realm.account(name).await.unwrap();
        assert_eq!(account["attributes"]["essaim_user_id"], json!([Uuid::from_u128(n as u128 + 1).to_string()]));
    }
    assert_eq!((count(&daemon, "IdentityLinked").await, count(&daemon, "IdentitySynced").await), (USERS, USERS));
    drop(daemon);
    // One outcome for each user, and the account that it names is the one that is there.
    let store = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
    let log = whole_log(&store).await;
    for event in log.iter().filter(|event| event.event_type == "IdentityLinked") {
        let user: Uuid = event.stream.key().parse().unwrap();
        let account = realm.account(&format!("user{}", user.as_u128() - 1)).await.unwrap();
        assert_eq!(event.stream.category(), Identity::CATEGORY);
        assert_eq!(serde_json::from_str::<Value>(&event.json).unwrap()["provider_id"], account["id"]);
    }
}

#[tokio::test]
async fn logins_and_verified_addresses_at_the_provider_are_recorded_once_through_kills() {
    let (_folder, database) = registered(&names(2)).await;
    let realm = Realm::double().await;
    realm.create(json!({"username": "stranger", "enabled": true})).await;
    let mut daemon = daemon(&database, &realm).await;
    settled(&daemon, 2).await;
    for name in ["user0", "stranger"] {
        realm.set_password(realm.account(name).await.unwrap()["id"].as_str().unwrap()).await;
    }

    for round in 1..=4 {
        assert_eq!(realm.login("user0").await.0, 200);
        assert_eq!(realm.login("stranger").await.0, 200);
        eventually("the login is recorded", || async { count(&daemon, "UserLoggedIn").await >= round }).await;
        daemon.kill_and_restart().await;
        daemon.ready().await;
    }
    assert!(realm.double.as_ref().unwrap().verify_email("user1"));
    eventually("the address is verified", || async { count(&daemon, "UserEmailVerified").await == 1 }).await;
    settled(&daemon, 2).await;
    // Several more looks: nothing is taken twice.
    let looks = realm.double.as_ref().unwrap().counters().requests;
    eventually("it looked again", || async { realm.double.as_ref().unwrap().counters().requests > looks + 5 }).await;

    assert_eq!((count(&daemon, "UserLoggedIn").await, count(&daemon, "UserEmailVerified").await), (4, 1));
}

#[tokio::test]
async fn operators_list_show_retry_and_skip_dead_letters_over_http_and_on_the_command_line() {
    let (_folder, database) = registered(&names(3)).await;
    let realm = Realm::double().await;
    let foreign = realm.create(json!({"username": "user0", "enabled": true})).await;
    realm.create(json!({"username": "user1", "enabled": true})).await;
    let daemon = daemon(&database, &realm).await;
    settled(&daemon, 3).await;
    let (ada, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));

    let first = get(&daemon, "/v1/admin/dead-letters?limit=1").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = get(&daemon, &format!("/v1/admin/dead-letters?limit=1&cursor={cursor}")).await;
    assert_eq!((&first["items"][0]["subject"], &second["items"][0]["subject"]), (&json!(ada), &json!(bob)));
    assert_eq!((&first["items"][0]["permanent"], &second["next_cursor"]), (&json!(true), &Value::Null));
    let shown = get(&daemon, &format!("/v1/admin/dead-letters/user_accounts/{ada}")).await;
    assert_eq!((&shown["version"], &shown["changes"][0]["type"]), (&json!(1), &json!("UserRegistered")));

    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
        let output = command.args(arguments).args(["--url", &daemon.address()]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let listed = run(&["dead-letters", "list", "--output", "json"]);
    assert_eq!(listed.0, Some(0), "{listed:?}");
    assert_eq!(serde_json::from_str::<Value>(&listed.1).unwrap().as_array().unwrap().len(), 2);
    realm.remove(&foreign).await;
    let (ada, bob) = (ada.to_string(), bob.to_string());
    let retried = run(&["dead-letters", "retry", "user_accounts", &ada]);
    assert_eq!(retried.0, Some(0), "{retried:?}");
    let shown = run(&["dead-letters", "show", "user_accounts", &bob]);
    let letter: Value = serde_json::from_str(&shown.1).unwrap_or_else(|_| panic!("{shown:?}"));
    assert_eq!((&letter["version"], &letter["changes"][0]["type"]), (&json!(1), &json!("UserRegistered")));
    let table = run(&["dead-letters", "list"]);
    assert!(table.0 == Some(0) && table.1.contains(&bob) && table.1.contains("username_taken"), "{table:?}");
    let skipped = run(&["dead-letters", "skip", "user_accounts", &bob, "--reason", "kept by hand"]);
    assert_eq!(skipped.0, Some(0), "{skipped:?}");
    let again = run(&["dead-letters", "skip", "user_accounts", &bob, "--reason", "kept by hand"]);
    assert!(again.0 == Some(1) && again.2.contains("no such dead letter"), "{again:?}");
    let kept = run(&["dead-letters", "list", "--skipped", "--output", "json"]);
    let kept: Value = serde_json::from_str(&kept.1).unwrap_or_else(|_| panic!("{kept:?}"));
    assert_eq!((&kept[0]["subject"], &kept[0]["skipped"]["reason"]), (&json!(bob), &json!("kept by hand")));
    settled(&daemon, 3).await;
    assert_eq!(synchroniser(&daemon).await["dead_letters"], 0);
    assert_eq!(realm.account("user0").await.unwrap()["attributes"]["essaim_user_id"], json!([ada]));

    let client = reqwest::Client::new();
    let without = client.post(format!("{}/v1/admin/dead-letters/user_accounts/{bob}/skip", daemon.address()));
    assert_eq!(without.json(&json!({})).send().await.unwrap().status(), 400, "a reason is needed");
    let begun = run(&["synchronisers", "reconcile", "user_accounts"]);
    assert_eq!(begun.0, Some(0), "{begun:?}");
    eventually("the pass is over", || async {
        synchroniser(&daemon).await["reconciliation"]["finished_at"].is_string()
    })
    .await;
    let report = synchroniser(&daemon).await["reconciliation"].clone();
    assert_eq!((&report["checked"], &report["drifted"]), (&json!(2), &json!(0)));
    let shown = run(&["synchronisers", "list"]);
    assert!(shown.0 == Some(0) && shown.1.contains("user_accounts"), "{shown:?}");
}

#[tokio::test]
async fn a_dead_letter_names_the_field_and_what_to_do_and_over_http_it_is_retried_or_skipped_for_good() {
    let (_folder, database) = registered(&names(4)).await;
    let realm = Realm::double().await;
    let by_name = realm.create(json!({"username": "user0", "enabled": true})).await;
    let by_email = realm.create(json!({"username": "other", "email": "user1@example.org", "enabled": true})).await;
    realm.create(json!({"username": "user2", "enabled": true})).await;
    let daemon = daemon(&database, &realm).await;
    settled(&daemon, 4).await;
    let http = reqwest::Client::new();
    let subject = |n: u128| Uuid::from_u128(n).to_string();
    let path = |n: u128| format!("/v1/admin/dead-letters/user_accounts/{}", subject(n));
    let send = async |method: Method, path: &str, body: Value| {
        let request = http.request(method, format!("{}{path}", daemon.address())).json(&body);
        let answer = request.header("essaim-principal", "ann").send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let listed = async |query: &str| -> Vec<Value> {
        let page = get(&daemon, &format!("/v1/admin/dead-letters?{query}")).await;
        page["items"].as_array().unwrap().iter().map(|letter| letter["subject"].clone()).collect()
    };

    assert_eq!(listed("").await, [subject(1), subject(2), subject(3)]);
    let reason = async |n: u128| get(&daemon, &path(n)).await["reason"].as_str().unwrap().to_owned();
    let not_ours = |account: &str| format!("account {account} is not this user's: ");
    let rename = "rename it, remove it, or change the user's username, and retry";
    assert_eq!(reason(1).await, format!("username_taken: {}{rename}", not_ours(&by_name)));
    let readdress = "give it another address, remove it, or change the user's email, and retry";
    assert_eq!(reason(2).await, format!("email_taken: {}{readdress}", not_ours(&by_email)));
    // What the reason says is done: the user is changed, and waits until somebody retries.
    let user = format!("/v1/users/{}", subject(1));
    assert_eq!(send(Method::PATCH, &user, json!({"username": "augusta"})).await.0, 200);
    eventually("the change waits behind the letter", || async { get(&daemon, &path(1)).await["wanted_version"] == 2 })
        .await;
    let waiting = get(&daemon, &path(1)).await;
    let changes: Vec<_> =
        waiting["changes"].as_array().unwrap().iter().filter_map(|change| change["type"].as_str()).collect();
    assert_eq!((changes, &waiting["synced_version"]), (vec!["UserRegistered", "UserUpdated"], &json!(0)));

    let (status, retried) = send(Method::POST, &format!("{}/retry", path(1)), json!({})).await;
    assert_eq!((status, &retried["handled"]), (200, &json!("retried")), "{retried}");
    realm.remove(&by_email).await;
    assert_eq!(send(Method::POST, &format!("{}/retry", path(2)), json!({})).await.0, 200);
    let skip = format!("{}/skip", path(3));
    for none in [json!({}), json!({"reason": ""}), json!({"reason": "x".repeat(501)}), json!({"reason": 5})] {
        assert_eq!(send(Method::POST, &skip, none).await.0, 400);
    }
    let (status, skipped) = send(Method::POST, &skip, json!({"reason": "kept by hand"})).await;
    assert_eq!((status, &skipped["handled"]), (200, &json!("skipped")), "{skipped}");
    settled(&daemon, 4).await;
    eventually("those two are brought", || async { synchroniser(&daemon).await["dead_letters"] == 0 }).await;

    assert_eq!(realm.account("augusta").await.unwrap()["attributes"]["essaim_user_id"], json!([subject(1)]));
    assert_eq!(realm.account("user1").await.unwrap()["attributes"]["essaim_user_id"], json!([subject(2)]));
    assert_eq!((listed("").await, listed("skipped=true").await), (vec![], vec![json!(subject(3))]));
    let shown = get(&daemon, &path(3)).await;
    assert_eq!((&shown["skipped"]["by"], &shown["skipped"]["reason"]), (&json!("ann"), &json!("kept by hand")));
    assert_eq!(count(&daemon, "IdentitySyncSkipped").await, 1);
    for (method, gone) in [(Method::POST, format!("{}/retry", path(2))), (Method::GET, path(4))] {
        assert_eq!(send(method, &gone, json!({})).await.0, 404, "{gone}");
    }
    for (path, status) in [("?limit=0", 400), ("?cursor=zz", 400), ("?whose=mine", 400), ("?synchroniser=none", 404)] {
        assert_eq!(send(Method::GET, &format!("/v1/admin/dead-letters{path}"), Value::Null).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_daemon_whose_provider_is_down_is_ready_and_brings_its_users_when_it_is_back() {
    let (_folder, database) = registered(&names(20)).await;
    let realm = Realm::double().await;
    let switch = |outage| {
        realm.double.as_ref().unwrap().set_faults(Faults { outage, ..Faults::default() }).unwrap();
    };
    switch(true);

    let daemon = daemon(&database, &realm).await;
    eventually("the outage is noticed", || async { synchroniser(&daemon).await["unavailable_for_seconds"].is_u64() })
        .await;
    let ready = get(&daemon, "/readyz").await;
    assert!(ready.to_string().contains("unavailable for"), "{ready}");
    switch(false);

    settled(&daemon, 20).await;
    assert_eq!(realm.count().await, 20);
}

#[tokio::test]
async fn a_client_may_wait_until_its_user_is_at_the_provider_and_is_told_when_it_is_not_yet() {
    let (_folder, database) = registered(&[]).await;
    let realm = Realm::double().await;
    let daemon = daemon(&database, &realm).await;
    let client = reqwest::Client::new();
    let register = async |name: &str, deadline_ms: u64, wait: &str| {
        let body = json!({"username": name, "email": format!("{name}@example.org"), "first_name": "Ada",
            "last_name": "Byron", "organization_id": Uuid::from_u128(42)});
        let request = client.post(format!("{}/v1/users{wait}", daemon.address())).json(&body);
        let answer = request.header("essaim-deadline-ms", deadline_ms).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };

    let (status, synced) = register("ada", 20_000, "?wait=synced").await;
    assert_eq!((status, &synced["sync"]), (201, &json!("synced")), "{synced}");
    assert!(realm.account("ada").await.is_some());
    realm.create(json!({"username": "bob", "enabled": true})).await;
    let (status, failed) = register("bob", 20_000, "?wait=synced").await;
    assert_eq!((status, &failed["sync"]), (201, &json!("failed")), "{failed}");
    let logins = format!("{}/v1/users/{}/logins?wait=synced", daemon.address(), synced["id"].as_str().unwrap());
    let login = client.post(logins).json(&json!({"at": "2026-11-22T02:35:00Z"})).send().await.unwrap();
    assert_eq!(login.status(), 200, "a login is nothing the provider has to follow");
    assert_eq!(login.json::<Value>().await.unwrap()["sync"], "synced");

    realm.double.as_ref().unwrap().set_faults(Faults { outage: true, ..Faults::default() }).unwrap();
    let (status, pending) = register("cyd", 300, "?wait=synced").await;
    assert_eq!((status, &pending["sync"]), (202, &json!("pending")), "{pending}");
    let (status, plain) = register("dan", 5_000, "").await;
    assert_eq!((status, &plain["sync"]), (201, &Value::Null), "who does not wait is answered as ever");
    assert_eq!(register("eve", 5_000, "?wait=ever").await.0, 400);
}

#[test]
fn a_provider_that_cannot_be_is_refused_at_the_start_with_the_key_that_is_wrong_and_no_secret() {
    let run = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
        let database = ["--listen", "127.0.0.1:0", "--database", "sqlite://never-made.db"];
        let output = command.args(database).args(flags).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let there = ["--keycloak-url", "http://keycloak.example.org", "--keycloak-client-secret", "swordfish"];

    for (flags, named) in [
        (&there[..], "http"),
        (&there[..2], "keycloak_client_secret_file"),
        (
            &["--keycloak-url", "https://k.example.org", "--keycloak-client-secret-file", "no/such/file"][..],
            "no/such/file",
        ),
        (&[&there[..], &["--keycloak-client-secret-file", "x"]].concat()[..], "give one of them"),
    ] {
        let (code, error) = run(flags);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(named) && !error.contains("swordfish"), "{named}: {error}");
    }
}
