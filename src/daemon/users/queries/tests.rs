//! This file asks for users, and changes them, as one who is kept to an organisation.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::domain::identity::Identity;
use crate::engine::Engine;
use crate::store::memory::MemoryStore;

const OWN: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

/// Ada is of the own organisation, Bob of another.
struct Desk {
    engine: Engine,
    ada: String,
    bob: String,
}

impl Desk {
    async fn open() -> Self {
        let engine = Engine::builder(MemoryStore::new()).aggregate::<User>().aggregate::<Identity>();
        let engine = engine.projection(UserProfiles).projection(UserList).projection(UserAnalytics);
        let engine = engine.start().await.unwrap();
        let desk = Self { engine, ada: String::new(), bob: String::new() };
        let ada = desk.register("ada", OWN).await;
        let bob = desk.register("bob", OTHER).await;
        Self { ada, bob, ..desk }
    }

    async fn register(&self, username: &str, organization: Uuid) -> String {
        let body = json!({
            "username": username, "email": format!("{username}@example.org"), "first_name": "A", "last_name": "B",
            "organization_id": organization,
        });
        let (status, registered) = self.ask(Boundary::Organization(organization), "POST", "/v1/users", body).await;
        assert_eq!(status, StatusCode::CREATED, "{registered}");
        format!("/v1/users/{}", registered["id"].as_str().unwrap())
    }

    async fn ask(&self, boundary: Boundary, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let (payment_expiry, read_wait) = (Duration::from_secs(86_400), Duration::from_secs(2));
        let authentication = crate::daemon::auth::Authentication::off();
        let state = AppState { engine: self.engine.clone(), payment_expiry, read_wait, authentication };
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.header("essaim-at-least", self.engine.head().0);
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let routes = crate::daemon::router(state).layer(Extension(boundary));
        let response = routes.oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    /// As one of the own organisation.
    async fn own(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Boundary::Organization(OWN), method, path, body).await
    }
}

#[tokio::test]
async fn what_is_another_organisations_is_not_there_for_any_command() {
    let desk = Desk::open().await;
    let commands = [
        ("PATCH", "", json!({"last_name": "King"})),
        ("PUT", "/roles", json!({"roles": ["admin"]})),
        ("POST", "/enable", Value::Null),
        ("POST", "/disable", Value::Null),
        ("POST", "/verify-email", Value::Null),
        ("POST", "/logins", json!({"at": "2026-01-01T00:00:00Z"})),
        ("DELETE", "", Value::Null),
    ];
    for (method, verb, body) in commands {
        let (refused, problem) = desk.own(method, &format!("{}{verb}", desk.bob), body.clone()).await;
        assert_eq!((refused, &problem["code"]), (StatusCode::NOT_FOUND, &json!("not_found")), "{method} {verb}");
        let (nobody, _) = desk.own(method, &format!("/v1/users/{}{verb}", Uuid::nil()), body.clone()).await;
        assert_eq!(nobody, StatusCode::NOT_FOUND, "{method} {verb}: what is nowhere is told alike");
        let (taken, answer) = desk.own(method, &format!("{}{verb}", desk.ada), body).await;
        assert_eq!(taken, StatusCode::OK, "{method} {verb}: {answer}");
    }
    assert_eq!(desk.engine.head().0, 2 + 6, "Ada was enabled already; nothing happened to Bob");
}

#[tokio::test]
async fn what_is_another_organisations_is_not_there_for_any_query() {
    let desk = Desk::open().await;
    let listed = |answer: &Value| answer["items"].as_array().unwrap().len();

    assert_eq!(desk.own("GET", &desk.ada, Value::Null).await.0, StatusCode::OK);
    for path in [desk.bob.clone(), format!("{}?version=1", desk.bob), format!("{}?at=2999-01-01T00:00:00Z", desk.bob)] {
        assert_eq!(desk.own("GET", &path, Value::Null).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/v1/users", "/v1/users/analytics"] {
        let other = format!("{path}?organization_id={OTHER}");
        assert_eq!(desk.own("GET", &other, Value::Null).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let (_, list) = desk.own("GET", "/v1/users", Value::Null).await;
    assert_eq!((listed(&list), &list["total"]), (1, &json!(1)));
    let (_, figures) = desk.own("GET", "/v1/users/analytics", Value::Null).await;
    assert_eq!((&figures["total_users"], &figures["organization_id"]), (&json!(1), &json!(OWN)));
    let (_, trail) = desk.own("GET", "/v1/audit", Value::Null).await;
    assert_eq!((listed(&trail), &trail["items"][0]["position"]), (1, &json!(1)));
    let (_, trail) = desk.ask(Boundary::Everything, "GET", "/v1/audit", Value::Null).await;
    assert_eq!(listed(&trail), 2, "who is kept to nothing sees all");
    let (_, trail) = desk.ask(Boundary::Nothing, "GET", "/v1/audit", Value::Null).await;
    assert_eq!(listed(&trail), 0, "who belongs nowhere sees nothing");
    assert_eq!(desk.ask(Boundary::Nothing, "GET", &desk.ada, Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nobody_is_registered_in_another_organisation() {
    let desk = Desk::open().await;
    let body = json!({
        "username": "eve", "email": "eve@example.org", "first_name": "A", "last_name": "B", "organization_id": OTHER,
    });

    let (status, problem) = desk.own("POST", "/v1/users", body).await;

    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
}
