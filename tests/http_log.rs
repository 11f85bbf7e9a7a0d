//! The log over HTTP: pages, streams, what operators ask, and the document that describes it all.

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use support::api::Api;
use uuid::Uuid;

fn positions(page: &Value) -> Vec<u64> {
    page["items"].as_array().unwrap().iter().map(|item| item["position"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn an_event_is_shown_whole() {
    let api = Api::start().await;
    let body = json!({"amount": "12.5", "currency": "EUR", "metadata": {"order": 7}});
    let created = api.post_with("/v1/payments", &[("essaim-principal", "ada")], body).await;
    let payment = created.header("location").unwrap().to_owned();
    let id = payment.rsplit('/').next().unwrap();
    api.authorize(&payment).await;
    api.complete(&payment).await;

    let page = api.get("/v1/events").await;

    assert_eq!(page.header("essaim-position"), Some("3"));
    let page = page.json();
    let mut first = page["items"][0].clone();
    assert!(first["event_id"].as_str().is_some_and(|id| Uuid::try_parse(id).is_ok()));
    assert_eq!(first["recorded_at"].as_str().map(str::len), Some("2026-11-22T02:35:00.123456Z".len()));
    assert_eq!(first["metadata"]["principal"], "ada");
    let command = first["metadata"]["command_id"].clone();
    assert_eq!((&first["metadata"]["correlation_id"], &first["metadata"]["causation_id"]), (&command, &command));
    for varying in ["event_id", "recorded_at", "metadata"] {
        first.as_object_mut().unwrap().remove(varying);
    }
    let expected = json!({
        "position": 1, "stream": format!("payment-{id}"), "category": "payment", "key": id, "version": 1,
        "type": "PaymentCreated", "schema_version": 1,
        "data": {"amount": "12.50", "currency": "EUR", "metadata": {"order": 7}},
    });
    assert_eq!(first, expected);
    assert_eq!(page["items"][2]["data"], json!({}), "an event without fields");
    let own = api.get(&format!("{payment}/events")).await;
    assert_eq!((own.json()["items"].clone(), own.header("etag")), (page["items"].clone(), Some("\"3\"")));
}

#[tokio::test]
async fn pages_of_the_log_follow_each_other_and_keep_to_their_filter() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    api.create("1", "EUR").await;
    api.cancel(&payment).await;
    let page = |query: &'static str| {
        let api = &api;
        async move {
            let page = api.get(&format!("/v1/events?{query}")).await.json();
            (positions(&page), page["next_after"].as_u64().unwrap())
        }
    };

    assert_eq!(page("limit=2").await, (vec![1, 2], 2));
    assert_eq!(page("limit=2&after=2").await, (vec![3], 3));
    assert_eq!(page("after=3").await, (vec![], 3));
    assert_eq!(page("after=9223372036854775807").await, (vec![], 9_223_372_036_854_775_807));
    assert_eq!(page("type=PaymentCancelled").await, (vec![3], 3));
    assert_eq!(page("category=payment&type=PaymentCreated").await.0, [1, 2]);
    assert_eq!(page("category=user").await.0, [0; 0]);
}

/// The messages of a stream as (id, data), read until there are so many.
async fn followed(api: &Api, path: &str, headers: &[(&str, &str)], count: usize) -> Vec<(u64, Value)> {
    let request = api.request(Method::GET, path).header("accept", "text/event-stream");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let mut answer = request.send().await.expect("the server answers");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let reading = async {
        while text.matches("\n\n").count() < count {
            let chunk = answer.chunk().await.expect("the stream goes on").expect("it does not end by itself");
            text.push_str(std::str::from_utf8(&chunk).expect("messages are not cut within a character here"));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the messages come");
    text.split("\n\n").filter(|message| !message.is_empty()).map(message).collect()
}

fn message(text: &str) -> (u64, Value) {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect("the message is whole").trim();
    (field("id:").parse().unwrap(), serde_json::from_str(field("data:")).unwrap())
}

#[tokio::test]
async fn a_stream_has_what_was_and_goes_on_with_what_comes() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;

    let (followed, _) = tokio::join!(followed(&api, "/v1/events", &[], 3), async {
        api.authorize(&payment).await;
        api.complete(&payment).await;
    });

    let page = api.get("/v1/events").await.json();
    assert_eq!(followed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3]);
    let data: Vec<_> = followed.into_iter().map(|(_, data)| data).collect();
    assert_eq!(Value::Array(data), page["items"], "each message is an event as in a page");
}

#[tokio::test]
async fn a_stream_resumes_where_it_was_left_whatever_after_says() {
    let api = Api::start().await;
    for _ in 0..4 {
        api.create("1", "EUR").await;
    }
    let ids = |messages: Vec<(u64, Value)>| messages.into_iter().map(|(id, _)| id).collect::<Vec<_>>();

    assert_eq!(ids(followed(&api, "/v1/events?after=2", &[], 2).await), [3, 4]);
    assert_eq!(ids(followed(&api, "/v1/events?after=0", &[("last-event-id", "3")], 1).await), [4]);
    let wrong = [("accept", "text/event-stream"), ("last-event-id", "x")];
    api.get_with("/v1/events", &wrong).await.names("invalid_parameter", "last-event-id");
}

#[tokio::test]
async fn a_stream_keeps_to_its_filter() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    api.authorize(&payment).await;
    api.create("1", "EUR").await;

    let created = followed(&api, "/v1/events?type=PaymentCreated", &[], 2).await;

    assert_eq!(created.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test]
async fn an_operator_sees_the_read_models_and_builds_them_anew() {
    let api = Api::start().await;
    api.create("1", "EUR").await;
    api.get_latest("/v1/payments").await;
    let base = "/v1/admin/projections";

    let list = api.get(base).await.json();
    let before = api.get(&format!("{base}/payment_summaries/digest")).await.json();
    let rebuilt = api.post(&format!("{base}/payment_summaries/rebuild"), json!({})).await;
    let after = api.get(&format!("{base}/payment_summaries/digest")).await.json();

    let one = &list["items"][0];
    assert_eq!((&one["name"], &one["view"]), (&json!("payment_summaries"), &json!("payments_query")));
    assert_eq!((&one["position"], &one["rows"], &one["reason"]), (&json!(1), &json!(1), &json!(null)));
    assert_eq!(rebuilt.json(), json!({"name": "payment_summaries", "rebuilt": true}));
    assert_eq!((&before["position"], &before["name"]), (&json!(1), &json!("payment_summaries")));
    assert_eq!(after, before, "a rebuild from the first event is equal");
    for path in ["none/digest", "%FF/digest"] {
        api.get(&format!("{base}/{path}")).await.problem(404, "not_found");
    }
    api.post(&format!("{base}/none/rebuild"), json!({})).await.problem(404, "not_found");
}

#[tokio::test]
async fn an_operator_sees_what_runs_and_what_makes_it_durable() {
    let api = Api::start().await;

    let status = api.get("/v1/admin/status").await.json();

    assert_eq!(status["essaim"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["optimised"], !cfg!(debug_assertions));
    assert!(!status["database"].as_str().unwrap().is_empty(), "{status}");
    let settings = status["durability"].as_array().unwrap();
    assert!(
        !settings.is_empty() && settings.iter().all(|it| it["name"].is_string() && it["value"].is_string()),
        "{status}"
    );
    api.get("/v1/admin/status?x").await.problem(400, "unknown_parameter");
}

#[tokio::test]
async fn only_what_is_set_aside_can_be_released() {
    let api = Api::start().await;
    let release = |body: Value| api.post("/v1/admin/release", body);

    release(json!({"name": "none"})).await.problem(404, "not_found");
    release(json!({})).await.names("invalid_field", "name");
    release(json!({"name": 1})).await.names("invalid_field", "name");
    release(json!({"name": "a", "force": true})).await.names("unknown_field", "force");
}

#[tokio::test]
async fn the_document_and_its_page_are_served_without_the_network() {
    let api = Api::start().await;

    let document = api.get("/openapi.json").await;
    let page = api.get("/docs/").await;

    assert_eq!(document.status, 200);
    assert!(document.json()["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    assert!(document.json()["paths"]["/v1/payments/{id}/authorize"]["post"].is_object());
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("https://"), "nothing comes from elsewhere: {}", page.body);
    assert_eq!(api.get("/docs/swagger-ui-bundle.js").await.status, 200);
}
