//! The double's faults, and what comes of a provider worked through them: one account each, as wanted, and none lost.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use essaim::identity::double::{Double, DoubleOptions, Faults};
use essaim::identity::keycloak::{Keycloak, KeycloakOptions};
use essaim::identity::{IdentityProvider, Lookup, ProviderError, ProviderId, WantedUser};
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use realm::Realm;

fn user(n: u32) -> WantedUser {
    WantedUser {
        user_id: Uuid::from_u128(u128::from(n) + 1),
        version: 1,
        username: format!("user-{n}"),
        email: format!("user-{n}@example.org"),
        email_verified: false,
        first_name: "Ada".into(),
        last_name: "Lovelace".into(),
        organization_id: Uuid::from_u128(42),
        roles: vec![],
        enabled: true,
    }
}

async fn with_faults(faults: Faults) -> Realm {
    Realm::double_with(DoubleOptions { faults, seed: 11, ..DoubleOptions::default() }).await
}

fn double(realm: &Realm) -> &Double {
    realm.double.as_ref().expect("it is one")
}

/// Calls until it succeeds, as the synchroniser does, only without its patience.
async fn persistently(keycloak: &Keycloak, wanted: &WantedUser) -> ProviderId {
    for _ in 0..500 {
        match keycloak.put(wanted, None).await {
            Ok(id) => return id,
            Err(ProviderError::Permanent { reason, detail }) => panic!("{reason}: {detail}"),
            Err(_) => {}
        }
    }
    panic!("500 calls for {} were in vain", wanted.username);
}

#[tokio::test]
async fn two_hundred_users_through_errors_and_lost_answers_are_one_account_each() {
    let faults =
        Faults { error_share: 0.3, throttle_share: 0.05, lost_share: 0.1, token_seconds: 1, ..Faults::default() };
    let realm = with_faults(faults).await;
    let keycloak = realm.keycloak();

    let puts = (0..200).map(|n| {
        let keycloak = &keycloak;
        async move { persistently(keycloak, &user(n)).await }
    });
    let ids: Vec<_> = futures::stream::iter(puts).buffer_unordered(16).collect().await;

    let counters = double(&realm).counters();
    assert!(counters.errors > 100 && counters.lost > 20 && counters.throttled > 10, "{counters:?}");
    assert_eq!((ids.len(), counters.users), (200, 200));
    double(&realm).set_faults(Faults::default()).unwrap();
    for n in 0..200 {
        let account = keycloak.read(Lookup::User(user(n).user_id)).await.unwrap().unwrap();
        assert_eq!(account.differences(&user(n)), Vec::<&str>::new());
    }
}

#[tokio::test]
async fn a_lost_answer_is_none_at_all_and_the_effect_is_there() {
    let realm = with_faults(Faults::default()).await;
    let keycloak = realm.keycloak();
    let id = keycloak.put(&user(1), None).await.unwrap();

    // Reads are lost, too; so the write is sent by hand.
    let token = realm.admin_token().await;
    double(&realm).set_faults(Faults { lost_share: 1.0, ..Faults::default() }).unwrap();
    let read = keycloak.read(Lookup::Id(&id)).await.unwrap_err();
    let created = reqwest::Client::new()
        .post(format!("{}/admin/realms/{}/users", realm.url, realm.name))
        .bearer_auth(token)
        .json(&json!({"username": "lost"}))
        .send()
        .await;
    double(&realm).set_faults(Faults::default()).unwrap();

    assert!(matches!(read, ProviderError::Unavailable { .. }), "{read:?}");
    assert!(created.is_err(), "no answer at all");
    assert!(realm.account("lost").await.is_some(), "and yet it is there");
    assert_eq!(double(&realm).counters().lost, 2);
}

#[tokio::test]
async fn in_an_outage_nothing_answers_nothing_happens_and_the_probes_are_counted() {
    let realm = with_faults(Faults::default()).await;
    let keycloak = realm.keycloak();
    keycloak.put(&user(1), None).await.unwrap();

    double(&realm).set_faults(Faults { outage: true, ..Faults::default() }).unwrap();
    let put = keycloak.put(&user(2), None).await.unwrap_err();
    let late = keycloak.put(&WantedUser { version: 2, ..user(1) }, None).await.unwrap_err();
    double(&realm).set_faults(Faults::default()).unwrap();

    for error in [put, late] {
        assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    }
    let counters = double(&realm).counters();
    assert_eq!((counters.users, counters.probes), (1, 2));
    assert_eq!(counters.most_probes_a_second, 2);
    keycloak.put(&user(2), None).await.unwrap();
}

#[tokio::test]
async fn a_throttled_call_says_when_to_come_again() {
    let realm = with_faults(Faults { throttle_share: 1.0, retry_after_seconds: 9, ..Faults::default() }).await;

    let error = realm.keycloak().put(&user(1), None).await.unwrap_err();

    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)), "{error:?}");
}

#[tokio::test]
async fn a_slow_provider_is_given_up_at_the_time_out() {
    let realm = with_faults(Faults { latency_ms: 60_000, ..Faults::default() }).await;
    let options = realm.options();
    let keycloak = Keycloak::new(KeycloakOptions { request_timeout: Duration::from_millis(200), ..options });

    let error = keycloak.unwrap().put(&user(1), None).await.unwrap_err();

    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn tokens_that_live_a_second_are_fetched_again_and_no_call_fails() {
    let realm = with_faults(Faults { token_seconds: 1, ..Faults::default() }).await;
    let keycloak = realm.keycloak();
    let started = std::time::Instant::now();

    let mut calls = 0;
    while started.elapsed() < Duration::from_millis(2_500) {
        keycloak.read(Lookup::Username("ada")).await.unwrap();
        calls += 1;
    }

    // One at the start, and one each 0.8 s: a fifth of a second ahead of the end.
    let fetched = double(&realm).counters().token_requests;
    assert!((3..=5).contains(&fetched), "{fetched} tokens for {calls} calls");
}

#[tokio::test]
async fn faults_are_changed_while_it_runs_and_what_is_none_is_refused() {
    let realm = with_faults(Faults::default()).await;
    let http = reqwest::Client::new();
    let faults = format!("{}/double/faults", realm.url);
    let change = async |changes: Value| {
        let answer = http.patch(&faults).json(&changes).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };

    let (status, changed) = change(json!({"outage": true, "token_seconds": 5})).await;
    let put = realm.keycloak().put(&user(1), None).await;
    let (too_much, message) = change(json!({"lost_share": 2})).await;
    let (unknown, _) = change(json!({"losst_share": 0.1})).await;

    assert_eq!(
        (status, &changed["outage"], &changed["token_seconds"], &changed["error_share"]),
        (200, &json!(true), &json!(5), &json!(0.0))
    );
    assert!(put.is_err());
    assert_eq!((too_much, unknown), (400, 400));
    assert!(message["error"].as_str().unwrap().contains("lost_share"), "{message}");
    assert!(double(&realm).faults().outage);
    let counters: Value =
        http.get(format!("{}/double/counters", realm.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(counters["probes"], 1, "{counters}");
}

#[tokio::test]
async fn a_double_that_others_could_reach_is_refused() {
    let options = DoubleOptions { listen: "0.0.0.0:0".parse().unwrap(), ..DoubleOptions::default() };

    let error = Double::start(options).await.unwrap_err();

    assert!(error.to_string().contains("may steer it"), "{error}");
}

/// The program, killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn essaim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
    command.arg("keycloak-double").args(arguments).stdin(Stdio::null());
    command
}

#[tokio::test]
async fn the_command_line_serves_a_double_that_the_client_works_with() {
    let arguments =
        ["--listen", "127.0.0.1:0", "--realm", "shop", "--client", "till", "--secret", "s", "--token-seconds", "7"];
    let mut program = Program(essaim(&arguments).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();

    let keycloak = Keycloak::new(KeycloakOptions::new(&url, "shop", "till", "s")).unwrap();
    let id = keycloak.put(&user(1), None).await.unwrap();

    assert_eq!(keycloak.read(Lookup::Username("user-1")).await.unwrap().unwrap().id, id);
    assert!(keycloak.check().await.iter().all(|check| check.ok));
    let faults: Value = reqwest::get(format!("{url}/double/faults")).await.unwrap().json().await.unwrap();
    assert_eq!(faults["token_seconds"], 7);
}

#[test]
fn a_double_that_cannot_be_is_a_usage_error() {
    for (arguments, says) in [
        (["--lost", "1.5"], "lost_share is 1.5"),
        (["--listen", "0.0.0.0:0"], "may steer it"),
        (["--token-seconds", "0"], "token_seconds is 0"),
    ] {
        let output = essaim(&arguments).output().unwrap();

        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(says), "{message}");
    }
}
