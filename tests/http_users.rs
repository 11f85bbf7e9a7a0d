//! Users over HTTP: their life, every way to read them, and what is refused.

mod support;

use std::time::Duration;

use essaim::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};
use support::api::{Answer, Api, sent};
use uuid::Uuid;

const ORGANIZATION: &str = "00000000-0000-0000-0000-000000000007";
const OTHER: &str = "00000000-0000-0000-0000-000000000008";

fn person(username: &str) -> Value {
    json!({
        "username": username, "email": format!("{username}@example.org"), "first_name": "Ada",
        "last_name": "Lovelace", "organization_id": ORGANIZATION, "roles": ["writer"],
    })
}

/// The same with some fields replaced; null removes nothing, it is sent.
fn with(mut person: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        person[name] = value.clone();
    }
    person
}

/// The path of a user just registered.
async fn registered(api: &Api, person: Value) -> String {
    let answer = api.post("/v1/users", person).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    format!("/v1/users/{}", answer.json()["id"].as_str().unwrap())
}

async fn send(api: &Api, method: Method, path: &str, body: Value) -> Answer {
    sent(api.request(method, path).json(&body)).await
}

async fn verb(api: &Api, user: &str, verb: &str) -> Answer {
    api.post(&format!("{user}/{verb}"), json!({})).await
}

async fn login(api: &Api, user: &str, at: &str) -> Answer {
    api.post(&format!("{user}/logins"), json!({"at": at})).await
}

async fn ids(api: &Api, path: &str) -> Vec<String> {
    let answer = api.get_latest(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.json()["items"].as_array().unwrap().clone();
    items.iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_registered_user_is_shown_whole() {
    let api = Api::start().await;
    let id = "6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d11";

    let body = with(person("Ada"), json!({"id": id}));
    let answer = api.post_with("/v1/users", &[("essaim-principal", "root")], body).await;

    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json(), json!({"id": id, "version": 1, "position": 1}));
    assert_eq!(answer.header("location"), Some(&*format!("/v1/users/{id}")));
    let read = api.get_latest(&format!("/v1/users/{id}")).await;
    assert_eq!((read.status, read.header("etag"), read.header("essaim-position")), (200, Some("\"1\""), Some("1")));
    let mut user = read.json();
    let (created_at, metadata) = (user["created_at"].take(), user["metadata"].take());
    assert_eq!(created_at.as_str().unwrap().len(), "2026-11-22T02:35:00.123456Z".len());
    assert_eq!(metadata["principal"], "root");
    let expected = json!({
        "id": id, "username": "ada", "email": "ada@example.org", "first_name": "Ada", "last_name": "Lovelace",
        "organization_id": ORGANIZATION, "roles": ["writer"], "enabled": true, "disabled_reason": null,
        "email_verified": false, "created_at": null, "created_by": "root", "updated_at": null, "updated_by": null,
        "first_login_at": null, "last_login_at": null, "deleted": false, "deleted_at": null, "deleted_by": null,
        "version": 1, "sync": "disabled", "synced_version": null, "sync_failure": null, "provider_id": null,
        "metadata": null,
    });
    assert_eq!(user, expected);
}

#[tokio::test]
async fn a_user_lives_and_is_shown_as_it_is_and_as_it_was() {
    let api = Api::start().await;
    let user = registered(&api, person("ada")).await;

    assert_eq!(verb(&api, &user, "verify-email").await.json()["version"], 2);
    let renamed = send(&api, Method::PATCH, &user, json!({"last_name": "King", "first_name": "Ada"})).await;
    assert_eq!((renamed.status, renamed.header("etag")), (200, Some("\"3\"")));
    let roles = send(&api, Method::PUT, &format!("{user}/roles"), json!({"roles": ["b", "a", "b"]})).await;
    assert_eq!(roles.json()["version"], 4);
    assert_eq!(login(&api, &user, "2026-01-02T00:00:00Z").await.json()["version"], 5);
    assert_eq!(login(&api, &user, "2026-01-01T00:00:00Z").await.json()["version"], 6);
    sent(api.request(Method::DELETE, &user)).await.problem(422, "cannot_delete");
    let disabled = api.post(&format!("{user}/disable"), json!({"reason": "left"})).await;
    assert_eq!(disabled.json()["version"], 7);
    assert_eq!(verb(&api, &user, "disable").await.json()["version"], 7, "already so: nothing happens");

    let read = api.get_latest(&user).await.json();

    assert_eq!(
        (&read["last_name"], &read["roles"], &read["email_verified"]),
        (&json!("King"), &json!(["a", "b"]), &json!(true))
    );
    let logins = (&read["first_login_at"], &read["last_login_at"]);
    assert_eq!(logins, (&json!("2026-01-01T00:00:00.000000Z"), &json!("2026-01-02T00:00:00.000000Z")));
    assert_eq!(
        (&read["enabled"], &read["disabled_reason"], &read["version"]),
        (&json!(false), &json!("left"), &json!(7))
    );
    let was = api.get(&format!("{user}?version=2")).await.json();
    assert_eq!((&was["last_name"], &was["version"], &was["sync"]), (&json!("Lovelace"), &json!(2), &Value::Null));
    api.get(&format!("{user}?version=8")).await.problem(404, "not_found");
    api.get(&format!("{user}?at=2001-01-01T00:00:00Z")).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_deleted_user_stays_readable_and_takes_nothing_more() {
    let api = Api::start().await;
    let user = registered(&api, person("ada")).await;

    let deleted = sent(api.request(Method::DELETE, &user)).await;

    assert_eq!((deleted.status, &deleted.json()["version"]), (200, &json!(2)), "it never logged in");
    let read = api.get_latest(&user).await.json();
    assert_eq!(read["deleted"], true);
    assert!(read["deleted_at"].is_string() && read["deleted_by"] == "anonymous", "{read}");
    assert_eq!(ids(&api, "/v1/users").await, Vec::<String>::new());
    send(&api, Method::PATCH, &user, json!({"last_name": "King"})).await.problem(410, "deleted");
    send(&api, Method::PUT, &format!("{user}/roles"), json!({"roles": []})).await.problem(410, "deleted");
    for verb in ["enable", "disable", "verify-email"] {
        self::verb(&api, &user, verb).await.problem(410, "deleted");
    }
    sent(api.request(Method::DELETE, &user)).await.problem(410, "deleted");
    let again = with(person("ada"), json!({"id": user.strip_prefix("/v1/users/").unwrap()}));
    api.post("/v1/users", again).await.problem(410, "deleted");
    registered(&api, person("ada")).await;
}

#[tokio::test]
async fn what_cannot_be_a_user_is_refused_and_the_field_is_named() {
    let api = Api::start().await;
    let cases = [
        ("username", json!("ab")),
        ("username", json!("a da")),
        ("username", json!("élodie")),
        ("username", json!("x".repeat(256))),
        ("username", json!(7)),
        ("username", Value::Null),
        ("email", json!("")),
        ("email", json!("ada")),
        ("email", json!("ada@example")),
        ("email", json!("ada@@example.org")),
        ("email", json!("ada lovelace@example.org")),
        ("email", json!("<ada@example.org>")),
        ("email", json!(["ada@example.org"])),
        ("first_name", json!("")),
        ("first_name", json!("   ")),
        ("first_name", json!("é".repeat(101))),
        ("last_name", json!("")),
        ("last_name", json!("a\nb")),
        ("last_name", json!("a\u{0}b")),
        ("organization_id", json!("acme")),
        ("organization_id", json!("00000000000000000000000000000007")),
        ("organization_id", json!(7)),
        ("organization_id", Value::Null),
        ("roles", json!("admin")),
        ("roles", json!(["Admin"])),
        ("roles", json!(["2nd"])),
        ("roles", json!([""])),
        ("roles", json!([1])),
        ("roles", json!({"admin": true})),
        ("roles", json!((0..101).map(|n| format!("r{n}")).collect::<Vec<_>>())),
        ("id", json!("ada")),
    ];
    for (field, value) in cases {
        let answer = api.post("/v1/users", with(person("ada"), json!({field: value}))).await;
        let problem = answer.problem(400, "invalid_field");
        assert_eq!(problem["errors"][0]["field"], field, "{value}: {problem}");
    }
    api.post("/v1/users", with(person("ada"), json!({"password": "x"}))).await.problem(400, "unknown_field");
    let user = registered(&api, person("ada")).await;
    let unset = send(&api, Method::PATCH, &user, json!({"email": "nobody"})).await.problem(400, "invalid_field");
    assert_eq!(unset["errors"][0]["field"], "email");
    send(&api, Method::PATCH, &user, json!({"roles": []})).await.problem(400, "unknown_field");
    send(&api, Method::PUT, &format!("{user}/roles"), json!({})).await.problem(400, "invalid_field");
    login(&api, &user, "2999-01-01T00:00:00Z").await.problem(400, "invalid_field");
    login(&api, &user, "now").await.problem(400, "invalid_field");
    api.post(&format!("{user}/logins"), json!({})).await.problem(400, "invalid_field");
    for path in ["page=0", "limit=201", "status=gone", "organization_id=acme", "q=", "page=1&cursor=00", "typo=1"] {
        assert_eq!(api.get(&format!("/v1/users?{path}")).await.status, 400, "{path}");
    }
    for path in [
        "",
        "?organization_id=acme",
        "?organization_id=00000000-0000-0000-0000-000000000007&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        api.get(&format!("/v1/users/analytics{path}")).await.problem(400, "invalid_parameter");
    }
    api.get("/v1/users/ada").await.problem(400, "invalid_parameter");
    assert_eq!(api.engine.head().0, 1, "nothing of it left a trace");
}

#[tokio::test]
async fn nobody_is_told_what_a_user_is_that_is_none() {
    let api = Api::start().await;
    let nobody = format!("/v1/users/{}", Uuid::from_u128(1));

    api.get(&nobody).await.problem(404, "not_found");
    send(&api, Method::PATCH, &nobody, json!({"last_name": "King"})).await.problem(404, "not_found");
    verb(&api, &nobody, "enable").await.problem(404, "not_found");
    sent(api.request(Method::DELETE, &nobody)).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_name_or_address_of_another_is_refused_until_it_is_free() {
    let api = Api::start().await;
    let ada = registered(&api, person("ada")).await;
    let bob = registered(&api, person("bob")).await;

    api.post("/v1/users", with(person("carol"), json!({"email": "ADA@Example.org"}))).await.problem(409, "email_taken");
    api.post("/v1/users", with(person("Ada"), json!({"email": "x@example.org"}))).await.problem(409, "username_taken");
    let moved = json!({"email": "ada@example.org"});
    send(&api, Method::PATCH, &bob, moved.clone()).await.problem(409, "email_taken");
    send(&api, Method::PATCH, &ada, json!({"email": "countess@example.org"})).await;

    assert_eq!(send(&api, Method::PATCH, &bob, moved).await.status, 200, "a changed address is free");
    assert_eq!(sent(api.request(Method::DELETE, &ada)).await.status, 200);
    registered(&api, with(person("ada"), json!({"email": "countess@example.org"}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_simultaneous_registrations_of_one_address_one_wins() {
    let api = Api::start().await;
    let register = |n: usize| {
        let body = with(person(&format!("user{n}")), json!({"email": "one@example.org"}));
        api.post("/v1/users", body)
    };

    let answers = futures::future::join_all((0..1_000).map(register)).await;

    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!((won.len(), lost.len()), (1, 999));
    lost.iter().for_each(|answer| drop(answer.problem(409, "email_taken")));
    assert_eq!(api.engine.head().0, 1);
    // The names that the losers asked for are nobody's.
    let loser = answers.iter().position(|answer| answer.status == 409).unwrap();
    registered(&api, person(&format!("user{loser}"))).await;
}

#[tokio::test]
async fn a_repeated_command_gets_the_stored_answer_and_a_stale_version_is_refused() {
    let api = Api::start().await;
    let key = [("idempotency-key", "one")];

    let (first, second) =
        (api.post_with("/v1/users", &key, person("ada")).await, api.post_with("/v1/users", &key, person("ada")).await);

    assert_eq!((first.status, second.status, &first.body), (201, 201, &second.body));
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    api.post_with("/v1/users", &key, person("bob")).await.problem(409, "idempotency_key_reused");
    let user = format!("/v1/users/{}", first.json()["id"].as_str().unwrap());
    let stale = api.post_with(&format!("{user}/disable"), &[("if-match", "\"0\"")], json!({})).await;
    stale.problem(412, "version_mismatch");
    let refused = [("idempotency-key", "two")];
    login(&api, &user, "2026-01-01T00:00:00Z").await;
    for _ in 0..2 {
        let request = api.request(Method::DELETE, &user).header(refused[0].0, refused[0].1);
        sent(request).await.problem(422, "cannot_delete");
    }
}

#[tokio::test]
async fn a_list_is_read_by_page_or_by_cursor_and_not_by_both() {
    let api = Api::start().await;
    for name in ["anna", "bert", "cleo", "dora", "emil"] {
        registered(&api, person(name)).await;
    }
    registered(&api, with(person("fred"), json!({"organization_id": OTHER}))).await;

    let first = api.get_latest(&format!("/v1/users?organization_id={ORGANIZATION}&page=1&limit=2")).await.json();
    let third = api.get_latest(&format!("/v1/users?organization_id={ORGANIZATION}&page=3&limit=2")).await.json();
    let behind = api.get_latest(&format!("/v1/users?organization_id={ORGANIZATION}&page=4&limit=2")).await.json();

    assert_eq!((&first["items"][0]["username"], &first["items"][1]["username"]), (&json!("emil"), &json!("dora")));
    assert_eq!((&first["total"], &first["page"], &first["limit"]), (&json!(5), &json!(1), &json!(2)));
    assert_eq!((third["items"].as_array().unwrap().len(), &third["next_cursor"]), (1, &Value::Null));
    assert_eq!((&behind["items"], &behind["total"]), (&json!([]), &json!(5)));
    registered(&api, person("gina")).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second =
        api.get_latest(&format!("/v1/users?organization_id={ORGANIZATION}&limit=2&cursor={cursor}")).await.json();
    assert_eq!((&second["items"][0]["username"], &second["items"][1]["username"]), (&json!("cleo"), &json!("bert")));
    assert_eq!((&second["total"], &second["page"]), (&Value::Null, &Value::Null), "who came meanwhile shifts nothing");
    api.get(&format!("/v1/users?cursor={cursor}")).await.problem(400, "invalid_cursor");
    assert_eq!(ids(&api, "/v1/users?limit=2").await, ["gina", "fred"]);
}

#[tokio::test]
async fn a_list_says_what_each_user_is_and_what_can_be_done_in_the_language_asked_for() {
    let api = Api::start().await;
    let ada = registered(&api, person("ada")).await;
    verb(&api, &ada, "verify-email").await;
    let bob = registered(&api, with(person("bob"), json!({"first_name": "Élodie", "last_name": "Martin"}))).await;
    registered(&api, person("carol")).await;
    verb(&api, &bob, "disable").await;
    let labels = async |headers: &[(&str, &str)]| {
        let position = api.engine.head().to_string();
        let headers = [headers, &[("essaim-at-least", position.as_str())]].concat();
        let answer = api.get_with("/v1/users", &headers).await;
        let items = answer.json()["items"].as_array().unwrap().clone();
        let label = |user: &Value| user["status_label"].as_str().unwrap().to_owned();
        (answer.header("content-language").unwrap().to_owned(), items.iter().map(label).collect::<Vec<_>>())
    };

    let (french, english) = (labels(&[]).await, labels(&[("accept-language", "en-GB, fr;q=0.5")]).await);

    assert_eq!(french, ("fr".into(), vec!["Non vérifié".into(), "Désactivé".into(), "Actif".into()]));
    assert_eq!(english, ("en".into(), vec!["Unverified".into(), "Disabled".into(), "Active".into()]));
    assert_eq!(ids(&api, "/v1/users?status=disabled").await, ["bob"]);
    assert_eq!(ids(&api, "/v1/users?q=%C3%89LO").await, ["bob"], "É is é");
    assert_eq!(ids(&api, "/v1/users?q=love").await, ["carol", "ada"]);
    let mut listed = api.get_latest("/v1/users?q=ada@").await.json()["items"][0].take();
    listed["created_at"].take();
    let expected = json!({
        "id": ada.strip_prefix("/v1/users/").unwrap(), "username": "ada", "email": "ada@example.org",
        "first_name": "Ada", "last_name": "Lovelace", "full_name": "Ada Lovelace", "organization_id": ORGANIZATION,
        "status": "active", "status_label": "Actif", "status_color": "green", "roles": ["writer"],
        "created_at": null, "last_login_at": null, "version": 2, "can_edit": true, "can_delete": true,
        "can_enable": false, "can_disable": true,
    });
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn analytics_count_the_users_of_an_organisation() {
    let api = Api::start().await;
    let ada = registered(&api, person("ada")).await;
    registered(&api, person("bob")).await;
    registered(&api, with(person("carol"), json!({"organization_id": OTHER}))).await;
    verb(&api, &ada, "verify-email").await;
    verb(&api, &ada, "disable").await;
    login(&api, &ada, "2026-01-01T00:00:00Z").await;

    let path = format!("/v1/users/analytics?organization_id={ORGANIZATION}&from=2020-01-01T00:00:00Z");
    let mut figures = api.get_latest(&path).await;
    let raw = std::mem::take(&mut figures.body);
    let mut figures: Value = serde_json::from_str(&raw).unwrap();

    let average = figures["average_days_to_first_login"].take();
    assert!(average.is_number() && raw.contains(".0000"), "four decimals: {raw}");
    let expected = json!({
        "organization_id": ORGANIZATION, "from": "2020-01-01T00:00:00.000000Z", "to": null, "position": 6,
        "total_users": 2, "active_users": 1, "inactive_users": 1, "verified_users": 1, "users_with_login": 1,
        "average_days_to_first_login": null,
    });
    assert_eq!(figures, expected);
    let nobody = format!("/v1/users/analytics?organization_id={ORGANIZATION}&to=2020-01-01T00:00:00Z");
    let nobody = api.get_latest(&nobody).await.json();
    assert_eq!((&nobody["total_users"], &nobody["average_days_to_first_login"]), (&json!(0), &Value::Null));
}

#[tokio::test]
async fn the_audit_trail_is_searched_by_who_what_whom_and_when() {
    let api = Api::start().await;
    let by = |principal: &'static str| [("essaim-principal", principal)];
    let ada = api.post_with("/v1/users", &by("ann"), person("ada")).await.json()["id"].as_str().unwrap().to_owned();
    api.post_with("/v1/users", &by("ben"), person("bob")).await;
    api.post_with(&format!("/v1/users/{ada}/disable"), &by("ben"), json!({})).await;
    api.post_with("/v1/payments", &by("ann"), json!({"amount": "1", "currency": "EUR"})).await;
    let found = async |query: &str| {
        let answer = api.get(&format!("/v1/audit?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        let items = answer.json()["items"].as_array().unwrap().clone();
        items.iter().map(|event| event["position"].as_u64().unwrap()).collect::<Vec<_>>()
    };

    assert_eq!(found("").await, [4, 3, 2, 1]);
    assert_eq!(found("principal=ben").await, [3, 2]);
    assert_eq!(found("type=UserRegistered").await, [2, 1]);
    assert_eq!(found(&format!("subject=user-{ada}")).await, [3, 1]);
    assert_eq!(found(&format!("subject={ada}&principal=ann")).await, [1]);
    assert_eq!(found("principal=nobody").await, Vec::<u64>::new());
    let events = api.get("/v1/events").await.json();
    let time = |n: usize| events["items"][n]["recorded_at"].as_str().unwrap().to_owned();
    assert_eq!(found(&format!("from={}&to={}", time(1), time(2))).await, [3, 2], "both ends are included");
    assert_eq!(found("from=2999-01-01T00:00:00Z").await, Vec::<u64>::new());
    assert_eq!(found("to=2001-01-01T00:00:00Z").await, Vec::<u64>::new());
    let first = api.get("/v1/audit?limit=3").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = api.get(&format!("/v1/audit?limit=3&cursor={cursor}")).await.json();
    assert_eq!((&second["items"][0]["position"], &second["next_cursor"]), (&json!(1), &Value::Null));
    assert_eq!(second["items"][0]["metadata"]["principal"], "ann");
    api.get(&format!("/v1/audit?principal=ann&cursor={cursor}")).await.problem(400, "invalid_cursor");
    api.get("/v1/audit?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z").await.problem(400, "invalid_parameter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_model_of_users_equals_a_rebuild() {
    let api = Api::start().await;
    for n in 0..20 {
        let user = registered(&api, person(&format!("user{n}"))).await;
        for (verb, wanted) in [("verify-email", n % 2 == 0), ("disable", n % 3 == 0)] {
            if wanted {
                assert_eq!(self::verb(&api, &user, verb).await.status, 200);
            }
        }
        if n % 4 == 1 {
            login(&api, &user, "2026-01-01T00:00:00Z").await;
        }
        if n % 6 == 0 {
            assert_eq!(sent(api.request(Method::DELETE, &user)).await.status, 200);
        }
    }
    for name in ["user_profiles", "user_list", "user_analytics"] {
        let head = api.engine.head();
        let is_there = async || api.engine.digest(name).await.is_some_and(|(position, _)| position == head);
        support::eventually("the head", is_there).await;
        let before = api.engine.digest(name).await;

        assert!(api.engine.rebuild(name).await, "{name}");

        assert_eq!(api.engine.digest(name).await, before, "{name}");
    }
    assert!(api.engine.shutdown(Duration::from_secs(5)).await);
}

/// Whoever embeds the engine may use keys of its own; the daemon knows UUIDs.
#[tokio::test]
async fn a_user_whose_key_is_no_uuid_is_in_the_log_and_not_in_the_list() {
    use essaim::domain::user::{User, UserCommand};
    let api = Api::start().await;
    let command = serde_json::from_value::<UserCommand>(json!({"Register": person("ada")})).unwrap();

    let receipt = api.engine.execute(&User::id("ada"), command).await.unwrap();

    assert_eq!(receipt.position, GlobalPosition(1));
    assert_eq!(ids(&api, "/v1/users").await, Vec::<String>::new());
}
