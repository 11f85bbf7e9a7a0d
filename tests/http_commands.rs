//! The headers of commands: keys, expected versions, deadlines, and who asks and why.

mod support;

use futures::future::join_all;
use serde_json::json;
use support::api::{Answer, Api, sent};
use uuid::Uuid;

const KEY: (&str, &str) = ("idempotency-key", "order-1");

fn body() -> serde_json::Value {
    json!({"amount": "12.50", "currency": "EUR"})
}

/// Status, body and the headers that follow from the outcome.
fn told(answer: &Answer) -> (u16, &str, [Option<&str>; 3]) {
    (answer.status, &answer.body, ["location", "etag", "essaim-position"].map(|name| answer.header(name)))
}

#[tokio::test]
async fn a_repeated_key_gets_the_stored_answer_and_makes_no_second_payment() {
    let api = Api::start().await;

    let first = api.post_with("/v1/payments", &[KEY], body()).await;
    let again = api.post_with("/v1/payments", &[KEY], body()).await;
    // Canonical: the order of fields, spaces, and another way to write the same amount do not matter.
    let same = br#" { "currency" : "EUR", "amount": "12.5", "metadata": null } "#.to_vec();
    let request = api.request(reqwest::Method::POST, "/v1/payments").header(KEY.0, KEY.1);
    let otherwise = sent(request.header("content-type", "application/json").body(same)).await;

    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    assert_eq!((told(&again), again.header("idempotency-replayed")), (told(&first), Some("true")));
    assert_eq!((told(&otherwise), otherwise.header("idempotency-replayed")), (told(&first), Some("true")));
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn many_at_once_with_one_key_have_one_effect_and_equal_answers() {
    let api = Api::start().await;

    let answers = join_all((0..32).map(|_| api.post_with("/v1/payments", &[KEY], body()))).await;

    assert!(answers.iter().all(|answer| told(answer) == told(&answers[0])), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count(), 1);
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn refusals_and_commands_that_change_nothing_are_stored_too() {
    let api = Api::start().await;
    let payment = api.create("12.50", "EUR").await;
    let complete = format!("{payment}/complete");
    let cancel = format!("{payment}/cancel");

    let refused = api.post_with(&complete, &[("idempotency-key", "a")], json!({})).await;
    api.authorize(&payment).await;
    let refused_again = api.post_with(&complete, &[("idempotency-key", "a")], json!({})).await;
    api.cancel(&payment).await;
    let unchanged = api.post_with(&cancel, &[("idempotency-key", "b")], json!({})).await;
    api.create("1", "EUR").await;
    let unchanged_again = api.post_with(&cancel, &[("idempotency-key", "b")], json!({})).await;

    refused.problem(422, "not_authorized");
    assert_eq!((refused.header("etag"), refused.header("essaim-position")), (Some("\"1\""), Some("1")));
    assert_eq!((told(&refused_again), refused_again.header("idempotency-replayed")), (told(&refused), Some("true")));
    assert_eq!((unchanged.status, unchanged.header("idempotency-replayed")), (200, None));
    assert_eq!(
        (told(&unchanged_again), unchanged_again.header("idempotency-replayed")),
        (told(&unchanged), Some("true"))
    );
}

#[tokio::test]
async fn a_key_belongs_to_one_command_on_one_target_of_one_principal() {
    let api = Api::start().await;
    let first = api.post_with("/v1/payments", &[KEY], body()).await;
    let payment = first.header("location").unwrap();

    let other_amount = api.post_with("/v1/payments", &[KEY], json!({"amount": "13", "currency": "EUR"})).await;
    let other_command = api.post_with(&format!("{payment}/complete"), &[KEY], json!({})).await;
    let own_id = json!({"id": Uuid::from_u128(7), "amount": "12.50", "currency": "EUR"});
    let other_target = api.post_with("/v1/payments", &[KEY], own_id).await;
    let other_principal = api.post_with("/v1/payments", &[KEY, ("essaim-principal", "bob")], body()).await;

    for reused in [other_amount, other_command, other_target] {
        reused.problem(409, "idempotency_key_reused");
        assert_eq!(reused.header("idempotency-replayed"), None);
    }
    assert_eq!(other_principal.status, 201);
    assert_ne!(other_principal.json()["id"], first.json()["id"]);
}

#[tokio::test]
async fn a_known_key_is_answered_whatever_version_is_expected_by_then() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let path = format!("{payment}/authorize");
    let headers = [KEY, ("if-match", "\"1\"")];

    let first = api.post_with(&path, &headers, json!({"authorization_code": "A-1"})).await;
    let again = api.post_with(&path, &headers, json!({"authorization_code": "A-1"})).await;

    assert_eq!(first.status, 200);
    assert_eq!(told(&again), told(&first), "though it is at version 2 now");
}

#[tokio::test]
async fn what_was_refused_for_its_shape_or_its_version_leaves_the_key_free() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let path = format!("{payment}/authorize");

    let malformed = api.post_with(&path, &[KEY], json!({"authorization_code": ""})).await;
    let stale = api.post_with(&path, &[KEY, ("if-match", "\"7\"")], json!({"authorization_code": "A"})).await;
    let executed = api.post_with(&path, &[KEY], json!({"authorization_code": "B"})).await;

    malformed.names("invalid_field", "authorization_code");
    stale.problem(412, "version_mismatch");
    assert_eq!((executed.status, executed.header("idempotency-replayed")), (200, None));
}

#[tokio::test]
async fn an_expected_version_must_be_the_present_one() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let path = format!("{payment}/authorize");
    let code = json!({"authorization_code": "A-1"});
    let nobody = format!("/v1/payments/{}/complete", Uuid::from_u128(7));

    let stale = api.post_with(&path, &[("if-match", "\"2\"")], code.clone()).await;
    let missing = api.post_with(&nobody, &[("if-match", "*")], json!({})).await;
    let present = api.post_with(&path, &[("if-match", "\"1\"")], code).await;
    let existing = api.post_with(&format!("{payment}/complete"), &[("if-match", "*")], json!({})).await;

    stale.problem(412, "version_mismatch");
    assert_eq!(stale.header("etag"), Some("\"1\""), "what it is at");
    missing.problem(412, "version_mismatch");
    assert_eq!((present.status, existing.status), (200, 200));
}

#[tokio::test]
async fn headers_that_cannot_be_are_named_and_nothing_is_executed() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let too_long = "k".repeat(256);
    let wrong = [
        ("if-match", "1"),
        ("if-match", "W/\"1\""),
        ("if-match", "\"1\", \"2\""),
        ("if-match", "\"01\""),
        ("idempotency-key", ""),
        ("idempotency-key", "a b"),
        ("idempotency-key", &too_long),
        ("essaim-deadline-ms", "0"),
        ("essaim-deadline-ms", "soon"),
        ("essaim-correlation-id", "1"),
        ("essaim-causation-id", "x"),
    ];

    for (name, value) in wrong {
        let answer = api.post_with(&format!("{payment}/cancel"), &[(name, value)], json!({})).await;
        answer.names("invalid_parameter", name);
    }
    let twice = api.post_with(&format!("{payment}/cancel"), &[KEY, KEY], json!({})).await;
    twice.names("invalid_parameter", "idempotency-key");
    api.post_with("/v1/payments", &[("if-match", "*")], body()).await.names("invalid_parameter", "if-match");
    for header in [("essaim-at-least", "-1"), ("essaim-at-least", "x"), ("essaim-wait-ms", "60001")] {
        api.get_with(&payment, &[header]).await.names("invalid_parameter", header.0);
    }
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn every_answer_names_its_correlation() {
    let api = Api::start().await;
    let own = "0190a3c4-0000-7000-8000-000000000001";
    let trace = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let traced = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
    let of = |answer: Answer| answer.header("essaim-correlation-id").map(str::to_owned);

    let named = of(api.post_with("/v1/payments", &[("essaim-correlation-id", own), trace], body()).await);
    let from_trace = of(api.post_with("/v1/payments", &[trace], body()).await);
    let refused = of(api.post_with("/v1/payments", &[("essaim-correlation-id", own)], json!({})).await);
    let read = of(api.get_with("/v1/payments", &[("essaim-correlation-id", own)]).await);
    let nowhere = of(api.get_with("/nowhere", &[("essaim-correlation-id", own)]).await);
    let made = of(api.post("/v1/payments", body()).await).expect("the command's own id");

    assert_eq!((named.as_deref(), from_trace.as_deref()), (Some(own), Some(traced)));
    assert_eq!([refused, read, nowhere], [(); 3].map(|()| Some(own.to_owned())));
    let last = api.get("/v1/events?after=2").await.json()["items"][0]["metadata"].clone();
    assert_eq!((&last["correlation_id"], &last["command_id"]), (&json!(made), &json!(made)));
}

#[tokio::test]
async fn positions_of_another_log_are_refused_and_every_answer_names_its_log() {
    let api = Api::start().await;
    let created = api.post("/v1/payments", body()).await;
    let ours = created.header("essaim-log").expect("the log's id").to_owned();
    let (same, other) = (("essaim-log", &*ours), ("essaim-log", "0190a3c4-0000-7000-8000-000000000001"));

    let read = api.get_with("/v1/payments", &[same, ("essaim-at-least", "1")]).await;
    let stale = api.get_with("/v1/payments", &[other, ("essaim-at-least", "1")]).await;
    let decided_on_stale = api.post_with("/v1/payments", &[other], body()).await;

    assert_eq!((read.status, read.header("essaim-log")), (200, Some(&*ours)));
    stale.problem(409, "log_changed");
    assert_eq!(stale.header("essaim-log"), Some(&*ours), "to go on with");
    decided_on_stale.problem(409, "log_changed");
    assert_eq!(api.engine.head().0, 1, "nothing was executed");
}

#[tokio::test]
async fn a_daemon_that_drains_executes_nothing_more_and_says_so() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    assert!(api.engine.shutdown(std::time::Duration::from_secs(10)).await);

    let answer = api.cancel(&payment).await;

    assert_eq!(answer.problem(503, "draining")["outcome"], "not_executed");
}
