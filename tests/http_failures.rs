//! What clients are told when the machinery fails: whether it was executed, and when to try again.

mod support;

use std::sync::Arc;
use std::time::Duration;

use essaim::prelude::*;
use essaim::testing::{Faults, FaultyStore};
use serde_json::json;
use support::api::Api;
use support::eventually;
use uuid::Uuid;

const KEY: (&str, &str) = ("idempotency-key", "order-1");

fn body() -> serde_json::Value {
    json!({"amount": "12.50", "currency": "EUR"})
}

async fn start(limits: Limits) -> (Api, Faults) {
    let store = FaultyStore::new(Arc::new(MemoryStore::default()));
    let faults = store.faults();
    (Api::start_on(Engine::builder(store).limits(limits)).await, faults)
}

#[tokio::test]
async fn a_deadline_that_passes_after_the_decision_leaves_the_outcome_unknown_until_the_key_is_sent_again() {
    let (api, faults) = start(Limits::default()).await;
    faults.hold_appends();

    let unknown = api.post_with("/v1/payments", &[KEY, ("essaim-deadline-ms", "100")], body()).await;
    faults.release_appends();
    let again = api.post_with("/v1/payments", &[KEY], body()).await;

    assert_eq!(unknown.problem(503, "outcome_unknown")["outcome"], "unknown");
    assert_eq!((again.status, &again.json()["position"]), (201, &json!(1)));
    assert_eq!(api.engine.head().0, 1, "one effect");
}

#[tokio::test]
async fn a_deadline_that_passes_before_the_decision_means_not_executed() {
    let (api, faults) = start(Limits::default()).await;
    // Nobody has this payment in memory, so that it must be read before anything is decided.
    let cold = format!("/v1/payments/{}/cancel", Uuid::from_u128(7));
    faults.delay_reads(Duration::from_millis(500));

    let answer = api.post_with(&cold, &[("essaim-deadline-ms", "50")], json!({})).await;

    assert_eq!(answer.problem(503, "store_unavailable")["outcome"], "not_executed");
    assert_eq!(api.engine.head().0, 0);
}

#[tokio::test]
async fn a_command_too_many_is_refused_at_once_and_the_others_are_not() {
    let (api, faults) = start(Limits { max_commands: 1, ..Limits::default() }).await;
    faults.hold_appends();

    let (accepted, refused) = tokio::join!(api.post("/v1/payments", body()), async {
        faults.append_is_held().await;
        let refused = api.post("/v1/payments", body()).await;
        faults.release_appends();
        refused
    });

    assert_eq!(accepted.status, 201);
    assert_eq!(refused.problem(503, "overloaded")["outcome"], "not_executed");
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn a_concurrent_repeat_waits_for_the_first_and_gets_its_answer() {
    let (api, faults) = start(Limits::default()).await;
    faults.hold_appends();

    let (first, second, ()) = tokio::join!(
        api.post_with("/v1/payments", &[KEY], body()),
        api.post_with("/v1/payments", &[KEY], body()),
        async {
            faults.append_is_held().await;
            faults.release_appends();
        }
    );

    assert_eq!((first.status, &first.body), (201, &second.body));
    let replayed = [&first, &second].map(|answer| answer.header("idempotency-replayed").is_some());
    assert_eq!(replayed.iter().filter(|replayed| **replayed).count(), 1);
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_said_to_be_and_hot_reads_go_on() {
    let (api, faults) = start(Limits::default()).await;
    let payment = api.create("1", "EUR").await;
    assert_eq!(api.get_latest(&payment).await.status, 200);
    faults.fail_reads();

    for path in ["/v1/events", &format!("{payment}/events"), &format!("{payment}?version=1")] {
        assert_eq!(api.get(path).await.problem(503, "store_unavailable")["outcome"], "not_executed");
    }
    for path in ["/v1/payments", "/v1/payments/stats", &payment] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    faults.mend_reads();
    assert_eq!(api.get("/v1/events").await.status, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_command_to_be_finished() {
    let (api, faults) = start(Limits::default()).await;
    faults.hold_appends();

    tokio::select! {
        _ = api.post_with("/v1/payments", &[KEY], body()) => unreachable!("it cannot be answered before it is released"),
        () = faults.append_is_held() => {}
    }
    faults.release_appends();

    eventually("the command is executed", || async { api.engine.head().0 == 1 }).await;
    let again = api.post_with("/v1/payments", &[KEY], body()).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
}
