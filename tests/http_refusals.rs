//! Input that cannot be meant: each refused with its name, and the daemon goes on.

#[path = "support/postgres.rs"]
mod postgres;
mod support;

use postgres::Database;
use reqwest::Method;
use serde_json::{Value, json};
use support::api::{Api, sent};
use support::daemon::Daemon;
use uuid::Uuid;

#[tokio::test]
async fn a_body_that_is_no_json_object_is_malformed() {
    let api = Api::start().await;
    let deep =
        format!(r#"{{"amount":"1","currency":"EUR","metadata":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let unclosed = "[".repeat(100_000);
    let wrong: [&[u8]; 14] = [
        b"{",
        b"{\"amount\":",
        b"{'amount':1}",
        b"[]",
        b"null",
        b"\"text\"",
        b"12",
        b"{} {}",
        b"{\"amount\":1e400}",
        b"{\"amount\":\"1\",\"amount\":\"2\",\"currency\":\"EUR\"}",
        b"{\"amount\":\"\xff\"}",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
        unclosed.as_bytes(),
    ];

    for body in wrong {
        api.post_bytes("/v1/payments", body.to_vec()).await.problem(400, "malformed");
    }
    api.create("1", "EUR").await;
}

#[tokio::test]
async fn unknown_fields_are_refused_on_every_command() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;

    let create = api.post("/v1/payments", json!({"amount": "1", "currency": "EUR", "colour": "red"})).await;

    create.names("unknown_field", "colour");
    for (command, body) in [
        ("authorize", json!({"authorization_code": "A", "extra": 1})),
        ("complete", json!({"reason": "x"})),
        ("cancel", json!({"why": "x"})),
    ] {
        api.post(&format!("{payment}/{command}"), body).await.problem(400, "unknown_field");
    }
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn an_amount_is_a_positive_decimal_string_of_its_currency() {
    let api = Api::start().await;
    let wrong = [
        (json!("12.505"), "EUR"),
        (json!("1.5"), "JPY"),
        (json!("-1"), "EUR"),
        (json!("+1"), "EUR"),
        (json!("1e400"), "EUR"),
        (json!("1e3"), "EUR"),
        (json!(12.5), "EUR"),
        (json!(12), "EUR"),
        (json!("0"), "EUR"),
        (json!("0.00"), "EUR"),
        (json!("01"), "EUR"),
        (json!("1."), "EUR"),
        (json!(".5"), "EUR"),
        (json!("1,5"), "EUR"),
        (json!(" 1"), "EUR"),
        (json!(""), "EUR"),
        (json!("NaN"), "EUR"),
        (json!("1000000000000000000"), "JPY"),
        (json!("99999999999999999"), "EUR"),
        (json!("1\u{0}"), "EUR"),
        (json!(null), "EUR"),
        (json!(["1"]), "EUR"),
        (json!({}), "EUR"),
    ];

    for (amount, currency) in wrong {
        let answer = api.post("/v1/payments", json!({"amount": amount, "currency": currency})).await;
        answer.names("invalid_field", "amount");
    }
    assert_eq!(api.engine.head().0, 0);
}

#[tokio::test]
async fn other_fields_are_refused_by_name_and_all_at_once() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let create = |change: Value| {
        let mut body = json!({"amount": "1", "currency": "EUR"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        api.post("/v1/payments", body)
    };

    for currency in [json!("XXX"), json!("XAU"), json!("eur"), json!("EURO"), json!(""), json!(978), json!(null)] {
        create(json!({"currency": currency})).await.names("invalid_field", "currency");
    }
    for id in [json!("x"), json!(""), json!(7), json!("{6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d11}")] {
        create(json!({"id": id})).await.names("invalid_field", "id");
    }
    for metadata in [json!([]), json!("x"), json!({"a": "\u{0}"}), json!({"a": [{"\u{0}": 1}]})] {
        create(json!({"metadata": metadata})).await.names("invalid_field", "metadata");
    }
    for code in [json!(""), json!("a b"), json!("é"), json!("x".repeat(129)), json!("a\u{0}"), json!(1), json!(null)] {
        let answer = api.post(&format!("{payment}/authorize"), json!({"authorization_code": code})).await;
        answer.names("invalid_field", "authorization_code");
    }
    for reason in [json!("x".repeat(501)), json!("\u{0}"), json!(1)] {
        api.post(&format!("{payment}/cancel"), json!({"reason": reason})).await.names("invalid_field", "reason");
    }
    let nothing = sent(api.request(Method::POST, "/v1/payments")).await.problem(400, "invalid_field");
    let fields: Vec<_> = nothing["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect();
    assert_eq!(fields, ["currency", "amount"]);
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn metadata_come_back_as_they_went_even_when_they_are_as_deep_as_may_be() {
    let api = Api::start().await;
    // The body and metadata themselves are two of the 64 levels.
    let deepest: Value = serde_json::from_str(&format!("{}{}", "[".repeat(62), "]".repeat(62))).unwrap();
    let metadata =
        json!({"deep": deepest, "third": 0.3333333333333333, "big": 18446744073709551615_u64, "é": "\u{1f41d}"});
    let created = api.post("/v1/payments", json!({"amount": "1", "currency": "EUR", "metadata": metadata})).await;
    let payment = created.header("location").expect("it was taken");

    assert_eq!(api.get_latest(payment).await.json()["metadata"], metadata);
    assert_eq!(api.get(&format!("{payment}?version=1")).await.json()["metadata"], metadata);
    assert_eq!(api.get("/v1/events").await.json()["items"][0]["data"]["metadata"], metadata);
}

#[tokio::test]
async fn an_id_in_a_path_is_a_uuid() {
    let api = Api::start().await;
    for id in ["7", "x", "%00", "%FF", "6f0f2e448a524f3a9d5e0c7b6a1f2d11", "6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d1g"] {
        api.get(&format!("/v1/payments/{id}")).await.names("invalid_parameter", "id");
        api.get(&format!("/v1/payments/{id}/report")).await.names("invalid_parameter", "id");
        api.get(&format!("/v1/payments/{id}/events")).await.names("invalid_parameter", "id");
        for command in ["authorize", "complete", "cancel"] {
            api.post(&format!("/v1/payments/{id}/{command}"), json!({})).await.names("invalid_parameter", "id");
        }
    }
}

#[tokio::test]
async fn parameters_are_known_stand_once_and_keep_to_their_values() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let unknown = [
        "/v1/payments?colour=red",
        "/v1/payments/stats?status=pending",
        "/v1/events?cursor=x",
        &format!("{payment}?typo=1"),
        &format!("{payment}/report?version=1"),
        &format!("{payment}/events?limit=1"),
        "/v1/admin/projections?x",
    ];
    for path in unknown {
        api.get(path).await.problem(400, "unknown_parameter");
    }
    api.post("/v1/payments?dry_run=true", json!({"amount": "1", "currency": "EUR"}))
        .await
        .names("unknown_parameter", "dry_run");
    api.post(&format!("{payment}/cancel?x=1"), json!({})).await.names("unknown_parameter", "x");
    let wrong = [
        ("/v1/payments?limit=1&limit=1", "limit"),
        ("/v1/events?after=0&after=1", "after"),
        ("/v1/payments?limit=0", "limit"),
        ("/v1/payments?limit=201", "limit"),
        ("/v1/payments?limit=x", "limit"),
        ("/v1/payments?status=lost", "status"),
        ("/v1/payments?status=", "status"),
        ("/v1/payments?currency=eur", "currency"),
        ("/v1/payments?currency=%00", "currency"),
        ("/v1/payments?min_amount=1", "min_amount"),
        ("/v1/payments?currency=EUR&max_amount=1.005", "max_amount"),
        ("/v1/payments?currency=EUR&max_amount=-1", "max_amount"),
        ("/v1/payments?expired=maybe", "expired"),
        ("/v1/payments?created_after=yesterday", "created_after"),
        ("/v1/payments?created_before=2026-13-01T00:00:00Z", "created_before"),
        ("/v1/events?limit=1001", "limit"),
        ("/v1/events?after=-1", "after"),
        ("/v1/events?after=9223372036854775808", "after"),
        ("/v1/events?category=%00", "category"),
        ("/v1/events?type=", "type"),
    ];
    for (path, parameter) in wrong {
        api.get(path).await.names("invalid_parameter", parameter);
    }
    assert_eq!(api.engine.head().0, 1);
}

#[tokio::test]
async fn a_body_is_json_and_said_to_be() {
    let api = Api::start().await;
    let payment = api.create("1", "EUR").await;
    let body = r#"{"amount":"1","currency":"EUR"}"#;
    let send = |content_type: Option<&'static str>| {
        let request = api.request(Method::POST, "/v1/payments").body(body);
        sent(match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        })
    };

    for other in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/xml")] {
        send(other).await.problem(415, "unsupported_media_type");
    }
    assert_eq!(send(Some("application/json; charset=utf-8")).await.status, 201);
    let without_body = api.request(Method::POST, &format!("{payment}/cancel")).header("content-type", "text/plain");
    assert_eq!(sent(without_body).await.status, 200, "what is not there has no type");
}

#[tokio::test]
async fn addresses_and_methods_that_are_none_are_told_as_problems() {
    let api = Api::start().await;
    let id = Uuid::from_u128(7);

    for path in ["/", "/v1", "/v1/payment", "/v1/payments/", &format!("/v1/payments/{id}/refund"), "/problems/none"] {
        api.get(path).await.problem(404, "not_found");
    }
    let wrong = [
        (Method::DELETE, format!("/v1/payments/{id}"), "GET,HEAD"),
        (Method::PUT, "/v1/payments".to_owned(), "GET,HEAD,POST"),
        (Method::GET, format!("/v1/payments/{id}/cancel"), "POST"),
        (Method::POST, "/v1/events".to_owned(), "GET,HEAD"),
        (Method::POST, "/v1/payments/stats".to_owned(), "GET,HEAD"),
    ];
    for (method, path, allowed) in wrong {
        let answer = sent(api.request(method, &path)).await;
        answer.problem(405, "method_not_allowed");
        let mut methods: Vec<_> =
            answer.header("allow").expect("405 lists methods").split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed, "{path}");
    }
}

#[tokio::test]
async fn every_kind_of_problem_has_a_page_that_explains_it() {
    let api = Api::start().await;

    let problem = api.get("/v1/payments?colour=red").await.json();
    let page = api.get(problem["type"].as_str().unwrap()).await;

    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("<h1>Unknown parameter</h1>") && page.body.contains("HTTP status 400"), "{}", page.body);
}

#[tokio::test]
async fn a_daemon_takes_bodies_of_256_kib_and_no_more_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&format!("sqlite://{}", folder.path().join("log.db").display())).await;
    let http = reqwest::Client::new();
    let url = format!("{}/v1/payments", daemon.address());
    let of_size = |bytes: usize| {
        let empty = json!({"amount": "1", "currency": "EUR", "metadata": {"pad": ""}}).to_string().len();
        let body =
            json!({"amount": "1", "currency": "EUR", "metadata": {"pad": "x".repeat(bytes - empty)}}).to_string();
        assert_eq!(body.len(), bytes);
        sent(http.post(&url).header("content-type", "application/json").body(body))
    };

    of_size(256 * 1024 + 1).await.problem(413, "body_too_large");
    assert_eq!(of_size(256 * 1024).await.status, 201);
    let wrong_method = sent(http.delete(format!("{}/readyz", daemon.address()))).await;
    wrong_method.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn extreme_bounds_and_texts_are_answered_on_postgres_as_on_sqlite() {
    let database = Database::fresh().await;
    let daemon = Daemon::start(&database.url).await;
    let http = reqwest::Client::new();
    let get = |path: &str| sent(http.get(format!("{}{path}", daemon.address())));
    let body =
        json!({"amount": "12345678901234567", "currency": "EUR", "metadata": {"\u{1f41d}": "\u{ffff}\\u0000", "": ""}});
    let created = sent(http.post(format!("{}/v1/payments", daemon.address())).json(&body)).await;
    let payment = created.header("location").expect("it was taken").to_owned();

    for path in [
        "/v1/events?after=9223372036854775807&limit=1000",
        "/v1/events?after=9223372036854775807&category=payment",
        "/v1/events?category=%F0%9F%90%9D&type=%27%3B--",
        "/v1/payments?created_after=0000-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999999Z",
    ] {
        assert_eq!(get(path).await.status, 200, "{path}");
    }
    get(&format!("{payment}?version=18446744073709551615")).await.problem(404, "not_found");
    get(&format!("{payment}?at=0000-01-01T00:00:00Z")).await.problem(404, "not_found");
    let shown = get(&format!("{payment}?at=9999-12-31T23:59:59Z")).await.json();
    assert_eq!((&shown["amount"], &shown["metadata"]), (&json!("12345678901234567.00"), &body["metadata"]));
}
