//! This file serves the HTTP interface from the test's own process, over a real engine; on a SQLite file unless the
//! test says otherwise.

use std::sync::Arc;
use std::time::Duration;

use essaim::clock::{Clock, SystemClock};
use essaim::daemon::auth::Authentication;
use essaim::daemon::{AppState, router};
use essaim::domain::identity::Identity;
use essaim::domain::payment::Payment;
use essaim::domain::user::User;
use essaim::prelude::*;
use essaim::projections::payment_summaries::PaymentSummaries;
use essaim::projections::user_analytics::UserAnalytics;
use essaim::projections::user_list::UserList;
use essaim::projections::user_profiles::UserProfiles;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::AbortHandle;

/// The interface, listening; gone when dropped.
pub struct Api {
    pub engine: Engine,
    address: String,
    http: reqwest::Client,
    _server: AbortOnDrop,
    _folder: Option<TempDir>,
}

impl Api {
    pub async fn start() -> Self {
        Self::start_at(Arc::new(SystemClock)).await
    }

    /// The same, recording what happens at the times of this clock.
    pub async fn start_at(clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let store = SqliteStore::open(folder.path().join("log.db")).await.expect("a fresh file can be opened");
        let api = Self::start_on(Engine::builder(store).clock(clock)).await;
        Self { _folder: Some(folder), ..api }
    }

    /// The same on an engine of the test's own choice, to which the domain is added.
    pub async fn start_on(engine: EngineBuilder) -> Self {
        Self::start_asking(engine, Authentication::off()).await
    }

    /// The same, asking who is there.
    pub async fn start_asking(engine: EngineBuilder, authentication: Authentication) -> Self {
        let engine = engine.aggregate::<Payment>().projection(PaymentSummaries);
        let engine = engine.aggregate::<User>().aggregate::<Identity>();
        let engine = engine.projection(UserProfiles).projection(UserList).projection(UserAnalytics);
        let engine = engine.start().await.expect("nothing else holds the log");
        let (payment_expiry, read_wait) = (Duration::from_secs(86_400), Duration::from_secs(2));
        let routes = router(AppState { engine: engine.clone(), payment_expiry, read_wait, authentication });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await }).abort_handle();
        let server = AbortOnDrop(server);
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
        Self { engine, address, http, _server: server, _folder: None }
    }

    /// A request that is not sent yet.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        sent(with(self.request(Method::GET, path), headers)).await
    }

    /// As of everything that is in the log by now.
    pub async fn get_latest(&self, path: &str) -> Answer {
        self.get_with(path, &[("essaim-at-least", &self.engine.head().to_string())]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        sent(with(self.request(Method::POST, path), headers).json(&body)).await
    }

    /// Exactly these bytes, said to be JSON.
    pub async fn post_bytes(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        sent(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }

    /// A payment's path.
    pub async fn create(&self, amount: &str, currency: &str) -> String {
        let answer = self.post("/v1/payments", json!({"amount": amount, "currency": currency})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        format!("/v1/payments/{}", answer.json()["id"].as_str().expect("an id"))
    }

    pub async fn authorize(&self, payment: &str) -> Answer {
        self.post(&format!("{payment}/authorize"), json!({"authorization_code": "A-1"})).await
    }

    pub async fn complete(&self, payment: &str) -> Answer {
        self.post(&format!("{payment}/complete"), json!({})).await
    }

    pub async fn cancel(&self, payment: &str) -> Answer {
        self.post(&format!("{payment}/cancel"), json!({})).await
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn with(request: RequestBuilder, headers: &[(&str, &str)]) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// Sends a request and reads the whole answer.
pub async fn sent(request: RequestBuilder) -> Answer {
    let answer = request.send().await.expect("the server answers");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, body: answer.text().await.expect("the whole body comes") }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value; none when it is not there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("headers are ASCII"))
    }

    /// The problem this is, which must be whole and of this status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!(format!("/problems/{code}"))));
        assert!(problem["title"].is_string() && problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        if status == 503 {
            let outcome = problem["outcome"].as_str();
            assert!(matches!(outcome, Some("not_executed" | "unknown")), "{self:?}");
            let seconds: u64 = self.header("retry-after").and_then(|text| text.parse().ok()).expect("whole seconds");
            assert!(seconds >= 1, "{self:?}");
        }
        problem
    }

    /// The problem of a 400 that names this field, parameter or header first.
    #[track_caller]
    pub fn names(&self, code: &str, field: &str) {
        let problem = self.problem(400, code);
        assert_eq!(problem["errors"][0]["field"], field, "{self:?}");
        assert!(problem["errors"][0]["message"].is_string(), "{self:?}");
    }
}
