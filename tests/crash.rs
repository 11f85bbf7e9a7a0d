//! This file kills the daemon under load, again and again, and then asks the log who was told the truth.
//!
//! Clients bring a key with every command and repeat it until it is answered, as a careful client would. In the end
//! every key must have exactly one effect, every answer must be in the log as it was given, positions and versions
//! must be dense, and the read model must equal a rebuild from the first event.

#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use postgres::{Cluster, Database};
use serde_json::{Value, json};
use support::daemon::Daemon;
use tokio::task::JoinSet;
use uuid::Uuid;

/// An answer that a client got: success, so it must be in the log.
#[derive(Debug, Clone)]
struct Acknowledged {
    key: String,
    payment: String,
    event_type: &'static str,
    version: u64,
    position: u64,
}

/// One client: takes payments through their life until it is told to stop.
async fn client(
    number: u64,
    address: String,
    stop: Arc<AtomicBool>,
    acknowledged_so_far: Arc<AtomicU64>,
) -> Vec<Acknowledged> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let mut acknowledged = Vec::new();
    let mut round = 0;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        let step = |name: &str| format!("client-{number}-{round}-{name}");
        let created = insist(
            &http,
            &format!("{address}/v1/payments"),
            &step("create"),
            json!({"amount": "12.50", "currency": "EUR"}),
        )
        .await;
        let id = created["id"].as_str().expect("an answer names the payment").to_owned();
        let mut note = |key: String, event_type, answer: &Value| {
            acknowledged_so_far.fetch_add(1, Ordering::AcqRel);
            acknowledged.push(Acknowledged {
                key,
                payment: id.clone(),
                event_type,
                version: answer["version"].as_u64().expect("a version"),
                position: answer["position"].as_u64().expect("a position"),
            });
        };
        note(step("create"), "PaymentCreated", &created);
        let path = |verb: &str| format!("{address}/v1/payments/{id}/{verb}");
        let authorized =
            insist(&http, &path("authorize"), &step("authorize"), json!({"authorization_code": "A-1"})).await;
        note(step("authorize"), "PaymentAuthorized", &authorized);
        let (verb, event_type) =
            if round % 3 == 0 { ("cancel", "PaymentCancelled") } else { ("complete", "PaymentCompleted") };
        let ended = insist(&http, &path(verb), &step(verb), json!({})).await;
        note(step(verb), event_type, &ended);
    }
    acknowledged
}

/// Sends the command under its key until there is an answer that says how it ended.
async fn insist(http: &reqwest::Client, url: &str, key: &str, body: Value) -> Value {
    loop {
        match http.post(url).header("idempotency-key", key).json(&body).send().await {
            Ok(answer) if answer.status().is_success() => match answer.json().await {
                Ok(body) => return body,
                // The daemon died in the middle of its answer.
                Err(_) => continue,
            },
            Ok(answer) if answer.status() == 503 => {}
            Ok(answer) => panic!("{url} under {key}: {} {}", answer.status(), answer.text().await.unwrap_or_default()),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The whole log, as clients see it.
async fn log(http: &reqwest::Client, address: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut after = 0;
    loop {
        let page: Value = http
            .get(format!("{address}/v1/events?after={after}&limit=1000"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            return events;
        }
        events.extend(items.iter().cloned());
        after = page["next_after"].as_u64().unwrap();
    }
}

/// Holds every answer against the log.
fn check(acknowledged: &[Acknowledged], log: &[Value]) {
    assert!(
        log.iter().map(|event| event["position"].as_u64().unwrap()).eq(1..=log.len() as u64),
        "positions are dense"
    );
    let mut versions: HashMap<&str, u64> = HashMap::new();
    for event in log {
        let version = versions.entry(event["key"].as_str().unwrap()).or_default();
        *version += 1;
        assert_eq!(event["version"].as_u64(), Some(*version), "versions are dense: {event}");
    }
    let commands: HashSet<&str> = log.iter().map(|event| event["metadata"]["command_id"].as_str().unwrap()).collect();
    assert_eq!(commands.len(), log.len(), "no command left two events");
    assert_eq!(log.len(), acknowledged.len(), "every command that was repeated until its answer left one event");
    for answer in acknowledged {
        let event = &log[answer.position as usize - 1];
        assert_eq!(event["key"], answer.payment.as_str(), "{answer:?}");
        assert_eq!(event["version"], answer.version, "{answer:?}");
        assert_eq!(event["type"], answer.event_type, "{answer:?}");
        let command = essaim::event::CommandId::from_key("anonymous", &answer.key);
        assert_eq!(event["metadata"]["command_id"], command.to_string(), "{answer:?}");
    }
}

/// The digest of the hot rows as they are, and after a rebuild from the first event, at the same position.
async fn digests(http: &reqwest::Client, address: &str) -> (Value, Value) {
    let projection = format!("{address}/v1/admin/projections/payment_summaries");
    let digest =
        || async { http.get(format!("{projection}/digest")).send().await.unwrap().json::<Value>().await.unwrap() };
    let before = digest().await;
    let rebuilt = http.post(format!("{projection}/rebuild")).send().await.unwrap();
    assert!(rebuilt.status().is_success(), "{}", rebuilt.text().await.unwrap());
    (before, digest().await)
}

/// Clients at work against one daemon.
struct Load {
    clients: JoinSet<Vec<Acknowledged>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Load {
    fn on(address: &str) -> Self {
        let mut load = Self { clients: JoinSet::new(), stop: Arc::default(), acknowledged: Arc::default() };
        for number in 0..8 {
            let (stop, acknowledged) = (Arc::clone(&load.stop), Arc::clone(&load.acknowledged));
            load.clients.spawn(client(number, address.to_owned(), stop, acknowledged));
        }
        load
    }

    /// Returns once there was some progress, and then at a moment that differs each time.
    async fn progress(&self, round: usize) {
        let reached = self.acknowledged.load(Ordering::Acquire) + 20;
        support::eventually("twenty more answers", || async { self.acknowledged.load(Ordering::Acquire) >= reached })
            .await;
        tokio::time::sleep(Duration::from_millis((round as u64 * 37) % 101)).await;
    }

    /// Lets the clients finish what they are at, and holds all that they were told against the log.
    async fn finish(self, daemon: &Daemon) {
        self.stop.store(true, Ordering::Release);
        let acknowledged: Vec<Acknowledged> = self.clients.join_all().await.into_iter().flatten().collect();
        let (http, address) = (reqwest::Client::new(), daemon.address());
        daemon.ready().await;
        let log = log(&http, &address).await;
        check(&acknowledged, &log);
        let (hot, rebuilt) = digests(&http, &address).await;
        assert_eq!(hot, rebuilt, "the read model equals a rebuild");
        assert_eq!(hot["position"].as_u64(), Some(log.len() as u64));
        println!("{} commands acknowledged, all of them in the log once", acknowledged.len());
    }
}

/// Runs clients against a daemon on `database`, kills it `kills` times, and checks what is left.
async fn kill_again_and_again(database: &str, kills: usize) {
    let mut daemon = Daemon::start(database).await;
    let load = Load::on(&daemon.address());

    for kill in 0..kills {
        load.progress(kill).await;
        daemon.kill_and_restart().await;
    }

    load.finish(&daemon).await;
}

/// Twenty in the long campaign.
fn kills() -> usize {
    if std::env::var_os("TEST_LONG").is_some() { 20 } else { 4 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_on_sqlite_that_is_killed_under_load_loses_nothing_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("essaim.db").display());

    kill_again_and_again(&database, kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_sent_thirty_two_times_at_once_and_again_after_a_kill_has_one_effect_and_one_answer() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("essaim.db").display());
    let mut daemon = Daemon::start(&database).await;
    let address = daemon.address();
    let http = reqwest::Client::new();
    let send = || async {
        let request = http.post(format!("{address}/v1/payments")).header("idempotency-key", "one");
        let answer = request.json(&json!({"amount": "1", "currency": "EUR"})).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };

    let mut answers = futures::future::join_all((0..32).map(|_| send())).await;
    daemon.kill_and_restart().await;
    daemon.ready().await;
    answers.push(send().await);

    let (status, body) = &answers[0];
    assert_eq!(*status, 201);
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
    let id = serde_json::from_str::<Value>(body).unwrap()["id"].as_str().unwrap().to_owned();
    assert!(Uuid::parse_str(&id).is_ok(), "the server made the id, and the retry got the same");
    assert_eq!(log(&http, &address).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_on_postgres_that_is_killed_under_load_loses_nothing_and_doubles_nothing() {
    let database = Database::fresh().await;

    kill_again_and_again(&database.url, kills()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_recovers_by_itself_when_its_postgres_crashes_under_load() {
    let cluster = Cluster::start(&[]);
    let database = Database::on(&cluster.url()).await;
    let daemon = Daemon::start(&database.url).await;
    let load = Load::on(&daemon.address());

    for crash in 0..kills() / 2 {
        load.progress(crash).await;
        cluster.crash();
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.restart();
    }

    load.finish(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_daemon_that_was_taken_over_cannot_append_when_it_wakes() {
    let database = Database::fresh().await;
    let first = Daemon::start(&database.url).await;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
    let create = |address: String| {
        let request = http.post(format!("{address}/v1/payments")).json(&json!({"amount": "1", "currency": "EUR"}));
        async move { request.send().await.map(|answer| answer.status().as_u16()) }
    };
    assert_eq!(create(first.address()).await.unwrap(), 201);

    first.signal("STOP");
    let second = Daemon::start_with(&database.url, &["--take-over"]).await;
    assert_eq!(create(second.address()).await.unwrap(), 201);
    first.signal("CONT");
    let woken = create(first.address()).await;

    assert!(!matches!(woken, Ok(201)), "the first must not answer with success: {woken:?}");
    second.ready().await;
    assert_eq!(log(&http, &second.address()).await.len(), 2, "only what was acknowledged is in the log");
    let ended = first.ended().await;
    assert_eq!(ended.code(), Some(1), "a fenced daemon ends by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_on_the_same_postgres_is_refused_by_name() {
    let database = Database::fresh().await;
    let first = Daemon::start(&database.url).await;

    let second = first.beside(&[]).wait_with_output().unwrap();

    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(3), "{said}");
    assert!(said.contains("held by another writer") && said.contains("backend"), "{said}");
}
