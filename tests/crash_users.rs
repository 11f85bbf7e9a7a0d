//! This file kills the daemon while names and addresses change hands, and then looks for claims that nobody holds.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use essaim::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};
use support::daemon::Daemon;
use tokio::task::JoinSet;
use uuid::Uuid;

/// So few names for so many clients, that they want each other's.
const NAMES: u64 = 6;
const CLIENTS: u64 = 8;

fn email(name: u64) -> String {
    format!("name{name}@example.org")
}

/// Sends the command under its key until there is an answer that says how it ended.
async fn insist(http: &reqwest::Client, method: Method, url: &str, key: &str, body: &Value) -> (u16, Value) {
    loop {
        let request = http.request(method.clone(), url).header("idempotency-key", key).json(body);
        if let Ok(answer) = request.send().await {
            let status = answer.status().as_u16();
            if status != 503
                && let Ok(body) = answer.json().await
            {
                return (status, body);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Registers, takes another address, and deletes, again and again; returns the addresses it holds in the end.
async fn client(number: u64, address: String, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Vec<String> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let mut held = Vec::new();
    let mut round = 0;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        let key = |step: &str| format!("client-{number}-{round}-{step}");
        let (first, second) = ((number + round) % NAMES, (number + round * 3 + 1) % NAMES);
        let body = json!({
            "username": format!("user-{number}-{round}"), "email": email(first), "first_name": "A", "last_name": "B",
            "organization_id": Uuid::from_u128(1),
        });
        let (status, registered) =
            insist(&http, Method::POST, &format!("{address}/v1/users"), &key("register"), &body).await;
        done.fetch_add(1, Ordering::AcqRel);
        if status == 409 {
            assert_eq!(registered["code"], "email_taken", "{registered}");
            continue;
        }
        assert_eq!(status, 201, "{registered}");
        let user = format!("{address}/v1/users/{}", registered["id"].as_str().unwrap());
        let body = json!({"email": email(second)});
        let (status, changed) = insist(&http, Method::PATCH, &user, &key("change"), &body).await;
        assert!(status == 200 || (status == 409 && changed["code"] == "email_taken"), "{status} {changed}");
        held = vec![if status == 200 { email(second) } else { email(first) }];
        // Stopped here, it keeps what it has.
        if stop.load(Ordering::Acquire) {
            break;
        }
        let (status, deleted) = insist(&http, Method::DELETE, &user, &key("delete"), &json!({})).await;
        assert_eq!(status, 200, "{deleted}");
        held = Vec::new();
    }
    held
}

async fn taken(database: &Path) -> BTreeSet<String> {
    let store = SqliteStore::open_read_only(database).await.unwrap();
    let claims: Vec<_> = (0..NAMES).map(|name| Claim::new("user_email", email(name))).collect();
    let held = store.claim_holders(&claims).await.unwrap();
    held.into_iter().map(|(claim, _)| claim.value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_claim_is_left_behind_by_a_daemon_that_is_killed_while_addresses_change_hands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("essaim.db");
    let mut daemon = Daemon::start(&format!("sqlite://{}", file.display())).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(number, daemon.address(), Arc::clone(&stop), Arc::clone(&done)));
    }

    let kills = if std::env::var_os("TEST_LONG").is_some() { 20 } else { 4 };
    for _ in 0..kills {
        let reached = done.load(Ordering::Acquire) + 50;
        support::eventually("fifty more answers", async || done.load(Ordering::Acquire) >= reached).await;
        daemon.kill_and_restart().await;
    }
    stop.store(true, Ordering::Release);
    let held: Vec<String> = clients.join_all().await.into_iter().flatten().collect();

    daemon.ready().await;
    let distinct: BTreeSet<String> = held.iter().cloned().collect();
    assert_eq!(distinct.len(), held.len(), "no address has two holders: {held:?}");
    // What a client was told it has is claimed, and nothing else is.
    let free = (0..NAMES).map(email).filter(|email| !distinct.contains(email));
    let http = reqwest::Client::new();
    for (n, email) in free.enumerate() {
        let body = json!({
            "username": format!("heir-{n}"), "email": email, "first_name": "A", "last_name": "B",
            "organization_id": Uuid::from_u128(1),
        });
        let url = format!("{}/v1/users", daemon.address());
        let (status, answer) = insist(&http, Method::POST, &url, &format!("heir-{n}"), &body).await;
        assert_eq!(status, 201, "a released address is free again: {answer}");
    }
    drop(daemon);
    assert_eq!(taken(&file).await.len() as u64, NAMES, "now each has its one holder");
}
