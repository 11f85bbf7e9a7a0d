//! A daemon that cancels expired payments, killed while their deadlines wait and when they have fired.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use essaim::clock::{Clock, SystemClock};
use essaim::domain::currency::Currency;
use essaim::domain::money::Money;
use essaim::domain::payment::{Payment, PaymentCommand, PaymentMetadata};
use essaim::prelude::*;
use serde_json::Value;
use support::daemon::Daemon;
use support::eventually;
use uuid::Uuid;

/// The machine's clock, so much behind.
struct Behind(TimeDelta);

impl Clock for Behind {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() - self.0
    }

    fn time_ordered_id(&self) -> Uuid {
        SystemClock.time_ordered_id()
    }

    fn random_id(&self) -> Uuid {
        SystemClock.random_id()
    }
}

const LONG_EXPIRED: Uuid = Uuid::from_u128(1);
const PENDING: Uuid = Uuid::from_u128(2);
const AUTHORIZED: Uuid = Uuid::from_u128(3);
const COMPLETED: Uuid = Uuid::from_u128(4);

/// Executes these commands as if so much time had passed since.
async fn happened(file: &Path, ago: TimeDelta, commands: Vec<(Uuid, PaymentCommand)>) {
    let store = SqliteStore::open(file).await.unwrap();
    let builder = Engine::builder(store).aggregate::<Payment>().clock(Arc::new(Behind(ago)));
    let engine = builder.start().await.unwrap();
    for (payment, command) in commands {
        engine.execute(&Payment::id(payment), command).await.unwrap();
    }
    assert!(engine.shutdown(Duration::from_secs(20)).await);
}

fn create() -> PaymentCommand {
    let money = Money::parse("12.50", Currency::from_code("EUR").unwrap()).unwrap();
    PaymentCommand::Create { money, metadata: PaymentMetadata::new() }
}

fn authorize() -> PaymentCommand {
    PaymentCommand::Authorize { authorization_code: "A-1".to_owned().try_into().unwrap() }
}

async fn get(daemon: &Daemon, path: &str) -> Value {
    let url = format!("{}{path}", daemon.address());
    reqwest::get(url).await.expect("the daemon answers").json().await.expect("with JSON")
}

/// What readiness says of the manager.
async fn manager(daemon: &Daemon) -> Option<String> {
    let report = get(daemon, "/readyz").await;
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "process_manager:payment_expiry")?;
    Some(check["detail"].as_str().unwrap().to_owned())
}

/// The payment's last event and how many it has.
async fn last_event(daemon: &Daemon, payment: Uuid) -> (Value, usize) {
    let events = get(daemon, &format!("/v1/payments/{payment}/events")).await;
    let events = events["items"].as_array().unwrap_or_else(|| panic!("no events of {payment}: {events}"));
    (events.last().unwrap().clone(), events.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_that_reach_their_expiry_are_cancelled_once_although_the_daemon_is_killed() {
    const AN_HOUR: TimeDelta = TimeDelta::hours(1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.db");
    let database = format!("sqlite://{}", file.display());
    happened(&file, AN_HOUR * 2, vec![(LONG_EXPIRED, create())]).await;

    // Without the flag nothing is cancelled.
    let daemon = Daemon::start(&database).await;
    assert_eq!(manager(&daemon).await, None);
    assert_eq!(last_event(&daemon, LONG_EXPIRED).await.1, 1);
    drop(daemon);

    // Eight seconds before they expire.
    let commands = vec![
        (PENDING, create()),
        (AUTHORIZED, create()),
        (AUTHORIZED, authorize()),
        (COMPLETED, create()),
        (COMPLETED, authorize()),
        (COMPLETED, PaymentCommand::Complete),
    ];
    happened(&file, AN_HOUR - TimeDelta::seconds(8), commands).await;
    let flags = ["--cancel-expired-payments", "--payment-expiry-hours", "1"];
    let mut daemon = Daemon::start_with(&database, &flags).await;
    let two_wait = "2 deadlines, 0 commands open, 0 of them stuck";
    eventually("two deadlines wait", async || manager(&daemon).await.is_some_and(|said| said.contains(two_wait))).await;
    assert_eq!(last_event(&daemon, LONG_EXPIRED).await.0["data"]["reason"], "expired");
    assert_eq!(last_event(&daemon, PENDING).await.1, 1);
    daemon.kill_and_restart().await;
    daemon.ready().await;

    let is_cancelled = async |payment| last_event(&daemon, payment).await.0["type"] == "PaymentCancelled";
    eventually("both are cancelled", async || is_cancelled(PENDING).await && is_cancelled(AUTHORIZED).await).await;
    daemon.kill_and_restart().await;
    daemon.ready().await;
    let none_waits = "0 deadlines, 0 commands open";
    eventually("all is done", async || manager(&daemon).await.is_some_and(|said| said.contains(none_waits))).await;

    for (payment, events) in [(LONG_EXPIRED, 2), (PENDING, 2), (AUTHORIZED, 3), (COMPLETED, 3)] {
        let (last, count) = last_event(&daemon, payment).await;
        assert_eq!(count, events, "{last}");
        if payment != COMPLETED {
            assert_eq!(last["data"]["reason"], "expired", "{last}");
            assert_eq!(last["metadata"]["principal"], "system:payment-expiry", "{last}");
        }
    }
}
