//! Payments over HTTP: their life, and every way to read them.

mod support;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use essaim::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use support::api::Api;
use uuid::Uuid;

#[tokio::test]
async fn a_created_payment_says_where_it_is_and_how_far_the_log_went() {
    let api = Api::start().await;
    let id = "6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d11";
    let body = json!({"id": id, "amount": "12.5", "currency": "EUR", "metadata": {"order": 7, "x": null}});

    let created = api.post("/v1/payments", body).await;

    assert_eq!(created.status, 201);
    assert_eq!(created.json(), json!({"id": id, "version": 1, "position": 1}));
    assert_eq!(created.header("location"), Some(&*format!("/v1/payments/{id}")));
    assert_eq!((created.header("etag"), created.header("essaim-position")), (Some("\"1\""), Some("1")));
    let read = api.get_with(&format!("/v1/payments/{id}"), &[("essaim-at-least", "1")]).await;
    assert_eq!((read.status, read.header("etag"), read.header("essaim-position")), (200, Some("\"1\""), Some("1")));
    let mut payment = read.json();
    let created_at = payment["created_at"].as_str().unwrap().to_owned();
    assert!(is_a_time_with_six_digits(&created_at), "{created_at}");
    let history = json!([{"status": "pending", "at": created_at, "by": "anonymous", "position": 1}]);
    assert_eq!(payment["status_history"].take(), history);
    let expected = json!({
        "id": id, "amount": "12.50", "amount_minor": 1250, "currency": "EUR", "status": "pending",
        "authorization_code": null, "created_at": created_at, "processed_at": null, "cancelled_at": null,
        "version": 1, "status_history": null, "metadata": {"order": 7, "x": null}, "is_active": true,
        "is_completed": false, "is_cancelled": false, "is_expired": false, "age_days": 0, "processing_time": null,
    });
    assert_eq!(payment, expected);
}

fn is_a_time_with_six_digits(text: &str) -> bool {
    text.len() == "2026-11-22T02:35:00.123456Z".len() && text.ends_with('Z') && text.parse::<DateTime<Utc>>().is_ok()
}

#[tokio::test]
async fn a_payment_is_authorized_and_completed_and_then_takes_nothing_more() {
    let api = Api::start().await;
    let payment = api.create("12.50", "EUR").await;

    let (authorized, completed) = (api.authorize(&payment).await, api.complete(&payment).await);

    assert_eq!((authorized.status, &authorized.json()["version"]), (200, &json!(2)));
    assert_eq!((completed.status, &completed.json()["position"]), (200, &json!(3)));
    assert_eq!((completed.header("etag"), completed.header("essaim-position")), (Some("\"3\""), Some("3")));
    let read = api.get_latest(&payment).await.json();
    assert_eq!((&read["status"], &read["authorization_code"]), (&json!("completed"), &json!("A-1")));
    assert!(is_a_time_with_six_digits(read["processed_at"].as_str().unwrap()));
    assert!(read["processing_time"].as_str().unwrap().starts_with("PT"), "{read}");
    api.authorize(&payment).await.problem(422, "not_pending");
    api.complete(&payment).await.problem(422, "not_authorized");
    api.cancel(&payment).await.problem(422, "already_completed");
    assert_eq!(api.engine.head().0, 3, "refusals leave no events");
}

#[tokio::test]
async fn a_payment_is_cancelled_once_and_cancelling_it_again_changes_nothing() {
    let api = Api::start().await;
    let payment = api.create("12.50", "EUR").await;
    let reason = json!({"reason": "é".repeat(500)});

    let cancelled = api.post(&format!("{payment}/cancel"), reason).await;
    let again = api.cancel(&payment).await;

    assert_eq!((cancelled.status, &cancelled.json()["version"]), (200, &json!(2)));
    assert_eq!((again.status, &again.json()["version"]), (200, &json!(2)));
    assert_eq!(api.engine.head().0, 2);
    let read = api.get_latest(&payment).await.json();
    assert_eq!((&read["is_cancelled"], &read["is_active"]), (&json!(true), &json!(false)));
    assert!(read["cancelled_at"].is_string());
}

#[tokio::test]
async fn what_was_never_created_is_found_by_nobody() {
    let api = Api::start().await;
    let nobody = format!("/v1/payments/{}", Uuid::from_u128(7));

    api.authorize(&nobody).await.problem(404, "not_found");
    api.complete(&nobody).await.problem(404, "not_found");
    api.cancel(&nobody).await.problem(404, "not_found");
    for path in ["", "?version=1", "?at=2026-11-22T02:35:00Z", "/report", "/events"] {
        api.get(&format!("{nobody}{path}")).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn an_id_is_taken_once() {
    let api = Api::start().await;
    let body = json!({"id": Uuid::from_u128(7), "amount": "1", "currency": "JPY"});

    let first = api.post("/v1/payments", body.clone()).await;
    let second = api.post("/v1/payments", body).await;

    assert_eq!(first.status, 201);
    second.problem(409, "already_created");
    assert_eq!((second.header("location"), second.header("etag")), (None, Some("\"1\"")));
}

#[tokio::test]
async fn a_payment_can_be_seen_as_it_was_at_any_version_and_time() {
    let api = Api::start().await;
    let payment = api.create("12.50", "EUR").await;
    api.authorize(&payment).await;
    api.complete(&payment).await;
    let now = api.get_latest(&payment).await.json();
    let at = |step: usize| now["status_history"][step]["at"].as_str().unwrap().to_owned();
    let status = |read: Value| (read["status"].clone(), read["version"].clone());

    for (version, expected) in [(1, "pending"), (2, "authorized"), (3, "completed")] {
        let read = api.get(&format!("{payment}?version={version}")).await;
        assert_eq!(status(read.json()), (json!(expected), json!(version)));
        assert_eq!(read.header("etag"), Some(&*format!("\"{version}\"")));
        assert_eq!(read.json().as_object().unwrap().keys().count(), now.as_object().unwrap().keys().count());
    }
    let then = api.get(&format!("{payment}?at={}", at(0))).await.json();
    assert_eq!((status(then.clone()), &then["age_days"]), ((json!("pending"), json!(1)), &json!(0)));
    assert_eq!(status(api.get(&format!("{payment}?at=2999-01-01T00:00:00Z")).await.json()).0, "completed");
    api.get(&format!("{payment}?version=4")).await.problem(404, "not_found");
    api.get(&format!("{payment}?version=18446744073709551615")).await.problem(404, "not_found");
    api.get(&format!("{payment}?at=2000-01-01T00:00:00Z")).await.problem(404, "not_found");
    api.get(&format!("{payment}?version=1&at={}", at(0))).await.names("invalid_parameter", "at");
    api.get(&format!("{payment}?version=0")).await.names("invalid_parameter", "version");
}

async fn listed(api: &Api, query: &str) -> Vec<String> {
    let list = api.get_latest(&format!("/v1/payments?{query}")).await;
    assert_eq!(list.status, 200, "{list:?}");
    let path = |item: &Value| format!("/v1/payments/{}", item["id"].as_str().unwrap());
    list.json()["items"].as_array().unwrap().iter().map(path).collect()
}

#[tokio::test]
async fn the_list_is_newest_first_and_keeps_to_its_filters() {
    let api = Api::start().await;
    let ten = api.create("10", "EUR").await;
    let twenty = api.create("20.00", "EUR").await;
    let yen = api.create("30", "JPY").await;
    api.cancel(&twenty).await;
    let created_at = |read: Value| read["created_at"].as_str().unwrap().to_owned();
    let second = created_at(api.get_latest(&twenty).await.json());

    assert_eq!(listed(&api, "").await, [&*yen, &twenty, &ten]);
    assert_eq!(listed(&api, "status=pending").await, [&*yen, &ten]);
    assert_eq!(listed(&api, "status=completed").await, [""; 0]);
    assert_eq!(listed(&api, "currency=EUR").await, [&*twenty, &ten]);
    assert_eq!(listed(&api, "currency=EUR&min_amount=10.01").await, [&*twenty]);
    assert_eq!(listed(&api, "currency=EUR&min_amount=0&max_amount=10").await, [&*ten]);
    assert_eq!(listed(&api, &format!("created_after={second}")).await, [&*yen, &twenty], "inclusive");
    assert_eq!(listed(&api, &format!("created_before={second}")).await, [&*ten], "exclusive");
    assert_eq!(listed(&api, "expired=true").await, [""; 0]);
    assert_eq!(listed(&api, "expired=false").await, [&*yen, &twenty, &ten]);
    let item = &api.get_latest("/v1/payments?limit=1").await.json()["items"][0];
    assert!(item.get("status_history").is_none() && item["is_active"] == true, "{item}");
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps_or_doubles_while_payments_come() {
    let api = Api::start().await;
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.insert(0, api.create("1", "EUR").await);
    }

    let mut found = Vec::new();
    let mut next = "/v1/payments?currency=EUR&limit=2".to_owned();
    loop {
        let page = api.get_latest(&next).await.json();
        for item in page["items"].as_array().unwrap() {
            found.push(format!("/v1/payments/{}", item["id"].as_str().unwrap()));
        }
        api.create("1", "EUR").await;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        next = format!("/v1/payments?currency=EUR&limit=2&cursor={cursor}");
    }

    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_cursor_is_good_for_the_listing_it_came_from_and_for_no_other() {
    let api = Api::start().await;
    for _ in 0..3 {
        api.create("1", "EUR").await;
    }
    let page = api.get_latest("/v1/payments?currency=EUR&limit=1").await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let changed = format!("{}{}", &cursor[..cursor.len() - 1], if cursor.ends_with('0') { '1' } else { '0' });

    let other_limit = api.get(&format!("/v1/payments?currency=EUR&limit=2&cursor={cursor}")).await;

    assert_eq!(other_limit.json()["items"].as_array().map(Vec::len), Some(2), "the size of a page is no filter");
    for foreign in ["", "currency=USD", "currency=EUR&status=pending"] {
        api.get(&format!("/v1/payments?{foreign}&cursor={cursor}")).await.names("invalid_cursor", "cursor");
    }
    for bad in [&*changed, "", "x", "%00", "%F0%9F%92%A9"] {
        let answer = api.get(&format!("/v1/payments?currency=EUR&cursor={bad}")).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert_eq!(answer.json()["errors"][0]["field"], "cursor", "{bad}");
    }
}

#[tokio::test]
async fn the_sums_are_exact_and_sorted_and_say_their_position() {
    let api = Api::start().await;
    for amount in ["0.10", "0.20", "9999999999999999.99"] {
        api.create(amount, "EUR").await;
    }
    api.cancel(&api.create("5", "EUR").await).await;
    api.create("7", "JPY").await;

    let stats = api.get_latest("/v1/payments/stats").await;

    let expected = json!({"position": 6, "items": [
        {"status": "cancelled", "currency": "EUR", "count": 1, "sum": "5.00"},
        {"status": "pending", "currency": "EUR", "count": 3, "sum": "10000000000000000.29"},
        {"status": "pending", "currency": "JPY", "count": 1, "sum": "7"},
    ]});
    assert_eq!((stats.json(), stats.header("essaim-position")), (expected, Some("6")));
}

#[tokio::test]
async fn a_report_tells_who_did_what_and_why() {
    let api = Api::start().await;
    let (trace, cause) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let body = json!({"amount": "12.50", "currency": "EUR", "metadata": {"order": "7"}});
    let headers = [
        ("essaim-principal", "ada"),
        ("essaim-correlation-id", &trace.to_string()),
        ("essaim-causation-id", &cause.to_string()),
    ];
    let created = api.post_with("/v1/payments", &headers, body).await;
    let payment = created.header("location").unwrap();
    api.authorize(payment).await;

    let report = api.get_latest(&format!("{payment}/report")).await;

    assert_eq!((report.header("etag"), report.header("essaim-position")), (Some("\"2\""), Some("2")));
    let report = report.json();
    assert_eq!((&report["payment"]["amount"], &report["metadata"]), (&json!("12.50"), &json!({"order": "7"})));
    let steps: Vec<_> = report["status_history"].as_array().unwrap().iter().map(|step| &step["status"]).collect();
    assert_eq!(steps, ["pending", "authorized"]);
    let first = &report["audit_trail"][0];
    assert_eq!(
        (&first["type"], &first["by"], &first["position"]),
        (&json!("PaymentCreated"), &json!("ada"), &json!(1))
    );
    assert_eq!((&first["correlation_id"], &first["causation_id"]), (&json!(trace), &json!(cause)));
    assert!(is_a_time_with_six_digits(first["at"].as_str().unwrap()));
    let second = &report["audit_trail"][1];
    assert_eq!(second["correlation_id"], second["command_id"], "nothing else was brought");
    assert_eq!(second["causation_id"], second["command_id"]);
}

/// A clock that is late.
struct Late(Duration);

impl Clock for Late {
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

#[tokio::test]
async fn an_old_payment_is_expired_as_long_as_it_is_active() {
    let api = Api::start_at(Arc::new(Late(Duration::from_secs(86_400 * 3 + 60)))).await;
    let active = api.create("1", "EUR").await;
    let cancelled = api.create("1", "EUR").await;
    api.cancel(&cancelled).await;

    let read = api.get_latest(&active).await.json();

    assert_eq!((&read["is_expired"], &read["age_days"]), (&json!(true), &json!(3)));
    assert_eq!(api.get_latest(&cancelled).await.json()["is_expired"], false);
    assert_eq!(listed(&api, "expired=true").await, [&*active]);
    assert_eq!(listed(&api, "expired=false").await, [&*cancelled]);
    assert_eq!(api.get(&format!("{active}?version=1")).await.json()["is_expired"], false, "as of then");
}

#[tokio::test]
async fn a_read_waits_for_its_position_and_says_how_far_it_is_when_that_does_not_come() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let beyond = [("essaim-at-least", "4"), ("essaim-wait-ms", "20")];

    for path in ["/v1/payments", "/v1/payments/stats", &payment, &format!("{payment}/report")] {
        let answer = api.get_with(path, &beyond).await;
        // The read model is at 0 or at 1.
        assert!(answer.problem(504, "read_timeout")["lag_events"].as_u64().is_some_and(|lag| lag == 3 || lag == 4));
    }
    for path in ["/v1/events", &format!("{payment}?version=1"), &format!("{payment}/events")] {
        assert_eq!(api.get_with(path, &beyond).await.problem(504, "read_timeout")["lag_events"], 3);
    }
}

#[tokio::test]
async fn a_read_that_waits_is_answered_when_its_position_comes() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let next = [("essaim-at-least", "2"), ("essaim-wait-ms", "20000")];

    let (of_the_model, of_the_log, _) =
        tokio::join!(api.get_with(&payment, &next), api.get_with("/v1/events", &next), api.authorize(&payment));

    assert_eq!((of_the_model.status, &of_the_model.json()["version"]), (200, &json!(2)));
    assert_eq!(of_the_log.json()["items"].as_array().map(Vec::len), Some(2));
}
