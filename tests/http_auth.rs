//! Who is asking: tokens of an issuer that this test runs, taken or refused by a daemon in a process of its own.

#[path = "support/issuer.rs"]
mod issuer;
mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use essaim::clock::{Clock, SystemClock};
use issuer::{AUDIENCE, Issuer, Key, OWN};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::StatusCode;
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::eventually;

const FOREIGN: &str = "8a524f3a-9d5e-4c7b-8a1f-2d116f0f2e45";
/// Seconds, as configured by default.
const LEEWAY: i64 = 30;

/// Why tokens are not taken, as clients are told.
mod reasons {
    pub(super) const SCHEME: &str = "the Authorization header is not of the scheme Bearer";
    pub(super) const TOO_LONG: &str = "the token is longer than 16384 bytes";
    pub(super) const MALFORMED: &str = "the token is no signed JWT";
    pub(super) const HEADER: &str = "the token's header names a type, a key or an extension that is not taken";
    pub(super) const ALGORITHM: &str = "the token is not signed with RS256, ES256 or EdDSA";
    pub(super) const UNKNOWN_KEY: &str = "the issuer has no such key";
    pub(super) const KEY_MISMATCH: &str = "the key is for another algorithm";
    pub(super) const SIGNATURE: &str = "the signature is wrong";
    pub(super) const EXPIRED: &str = "the token has expired";
    pub(super) const NOT_YET_VALID: &str = "the token is not valid yet";
    pub(super) const ISSUER: &str = "the token is of another issuer";
    pub(super) const AUDIENCE: &str = "the token is meant for others";
    pub(super) const CLAIMS: &str = "iss, aud, exp or sub is missing, or a claim is of the wrong type";
    pub(super) const SUBJECT: &str = "sub must be 1 to 255 visible ASCII characters";
    pub(super) const ORGANIZATION: &str = "the organization must be a UUID";
    pub(super) const ROLES: &str = "the roles must be a list of names";
}

/// A daemon that takes this issuer's tokens.
struct Guarded {
    daemon: Daemon,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Guarded {
    async fn start(issuer: &Issuer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = format!("sqlite://{}", folder.path().join("essaim.db").display());
        let flags = ["--auth-issuer", &issuer.address, "--auth-audience", AUDIENCE];
        let daemon = Daemon::start_with(&database, &flags).await;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        Self { daemon, http, _folder: folder }
    }

    async fn get(&self, path: &str, authorization: &[&str]) -> (u16, Option<String>, Value) {
        let mut request = self.http.get(format!("{}{path}", self.daemon.address()));
        for value in authorization {
            request = request.header("authorization", *value);
        }
        told(request.send().await.unwrap()).await
    }

    async fn get_with(&self, path: &str, token: &str) -> (u16, Option<String>, Value) {
        self.get(path, &[&format!("Bearer {token}")]).await
    }

    async fn post_with(&self, path: &str, token: &str, key: &str, body: Value) -> (u16, Option<String>, Value) {
        let request = self.http.post(format!("{}{path}", self.daemon.address())).bearer_auth(token);
        told(request.header("idempotency-key", key).json(&body).send().await.unwrap()).await
    }
}

/// Status, challenge and body.
async fn told(answer: reqwest::Response) -> (u16, Option<String>, Value) {
    let status = answer.status();
    let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    let is_problem = answer.headers()["content-type"] == "application/problem+json";
    assert_eq!(is_problem, status >= StatusCode::BAD_REQUEST, "{status}");
    (status.as_u16(), challenge, answer.json().await.unwrap())
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// The same claims with one of them changed; null takes it out.
fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_the_three_algorithms_are_taken_and_name_who_asked() {
    let keys = [Key::new("r", Algorithm::RS256), Key::new("e", Algorithm::ES256), Key::new("d", Algorithm::EdDSA)];
    let issuer = Issuer::start(&keys.each_ref()).await;
    let guarded = Guarded::start(&issuer).await;
    let claims = issuer.claims(&["payments:write", "payments:read", "operator"]);

    for (key, n) in keys.iter().zip(1..) {
        let body = json!({"amount": "1", "currency": "EUR"});
        let (status, _, created) = guarded.post_with("/v1/payments", &key.sign(&claims), key.id, body).await;
        assert_eq!((status, &created["position"]), (201, &json!(n)), "{:?}: {created}", key.algorithm);
    }
    let audiences = with(&claims, "aud", json!(["others", AUDIENCE]));
    let lower_case = format!("bearer {}", keys[0].sign(&audiences));
    let (status, _, log) = guarded.get("/v1/events", &[&lower_case]).await;
    assert_eq!((status, &log["items"][0]["metadata"]["principal"]), (200, &json!("ann")));
    for open in ["/livez", "/readyz", "/openapi.json"] {
        assert_eq!(guarded.get(open, &[]).await.0, 200, "{open}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_bad_tokens_are_refused_each_with_its_reason() {
    use reasons::*;

    let (rsa, ec) = (Key::new("r", Algorithm::RS256), Key::new("e", Algorithm::ES256));
    let issuer = Issuer::start(&[&rsa, &ec]).await;
    let guarded = Guarded::start(&issuer).await;
    let good = issuer.claims(&["payments:read"]);
    let now = SystemClock.now().timestamp();
    let signed = |name: &str, value: Value| rsa.sign(&with(&good, name, value));
    let headed = |header: Value| format!("{}.{}.{}", part(&header), part(&good), "c2ln");
    let token = rsa.sign(&good);
    let [header, payload, signature]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let public_as_secret = EncodingKey::from_secret(rsa.public()["n"].as_str().unwrap().as_bytes());
    let hmac = Header { kid: Some("r".into()), ..Header::new(Algorithm::HS256) };
    let (own_key, stranger) = (Key::new("r", Algorithm::RS256), Key::new("x", Algorithm::RS256));
    let embedded = Header { jwk: Some(serde_json::from_value(own_key.public()).unwrap()), ..own_key.header() };
    let elsewhere = Header { jku: Some("http://127.0.0.1:1/keys".into()), ..rsa.header() };
    let x5u = Header { x5u: Some("http://127.0.0.1:1/chain".into()), ..rsa.header() };
    let swapped = Header { kid: Some("e".into()), ..rsa.header() };
    let anonymous_key = Header { kid: None, ..own_key.header() };

    let bad: Vec<(&str, String, &str)> = vec![
        ("no token", "Bearer ".into(), SCHEME),
        ("no scheme", token.clone(), SCHEME),
        ("basic", "Basic YTpi".into(), SCHEME),
        ("two dots only", "Bearer ..".into(), MALFORMED),
        ("no dots", "Bearer abc".into(), MALFORMED),
        ("two parts", format!("Bearer {header}.{payload}"), MALFORMED),
        ("four parts", format!("Bearer {token}.{signature}"), MALFORMED),
        ("five parts, a JWE", format!("Bearer {header}.{payload}.{signature}.a.b"), MALFORMED),
        ("broken base64", format!("Bearer %%%.{payload}.{signature}"), MALFORMED),
        ("huge", format!("Bearer {header}.{}.{signature}", "A".repeat(17_000)), TOO_LONG),
        ("alg none", format!("Bearer {}", headed(json!({"alg": "none", "kid": "r"}))), MALFORMED),
        ("alg none, unsigned", format!("Bearer {}.{payload}.", part(&json!({"alg": "none", "kid": "r"}))), MALFORMED),
        ("alg unknown", format!("Bearer {}", headed(json!({"alg": "XX256", "kid": "r"}))), MALFORMED),
        ("alg RS512", format!("Bearer {}", headed(json!({"alg": "RS512", "kid": "r"}))), ALGORITHM),
        ("alg a number", format!("Bearer {}", headed(json!({"alg": 5, "kid": "r"}))), MALFORMED),
        (
            "HS256 with the public key",
            format!("Bearer {}", encode(&hmac, &good, &public_as_secret).unwrap()),
            ALGORITHM,
        ),
        ("crit", format!("Bearer {}", headed(json!({"alg": "RS256", "kid": "r", "crit": ["exp"]}))), HEADER),
        ("its own key embedded", format!("Bearer {}", own_key.sign_as(&embedded, &good)), HEADER),
        ("keys from elsewhere", format!("Bearer {}", rsa.sign_as(&elsewhere, &good)), HEADER),
        ("a chain from elsewhere", format!("Bearer {}", rsa.sign_as(&x5u, &good)), HEADER),
        ("another's key of that name", format!("Bearer {}", own_key.sign(&good)), SIGNATURE),
        ("a key nobody knows", format!("Bearer {}", stranger.sign(&good)), UNKNOWN_KEY),
        ("no key named, another's signature", format!("Bearer {}", own_key.sign_as(&anonymous_key, &good)), SIGNATURE),
        ("a key of another algorithm", format!("Bearer {}", rsa.sign_as(&swapped, &good)), KEY_MISMATCH),
        (
            "claims changed",
            format!("Bearer {header}.{}.{signature}", part(&with(&good, "sub", json!("eve")))),
            SIGNATURE,
        ),
        ("signature cut", format!("Bearer {header}.{payload}.{}", &signature[..20]), SIGNATURE),
        ("no signature", format!("Bearer {header}.{payload}."), MALFORMED),
        ("expired", format!("Bearer {}", signed("exp", json!(now - 120))), EXPIRED),
        ("not yet valid", format!("Bearer {}", signed("nbf", json!(now + 120))), NOT_YET_VALID),
        ("expired a second beyond the leeway", format!("Bearer {}", signed("exp", json!(now - LEEWAY - 1))), EXPIRED),
        ("exp a text", format!("Bearer {}", signed("exp", json!("tomorrow"))), CLAIMS),
        ("no exp", format!("Bearer {}", signed("exp", Value::Null)), CLAIMS),
        ("another issuer", format!("Bearer {}", signed("iss", json!("http://127.0.0.1:1"))), ISSUER),
        ("no issuer", format!("Bearer {}", signed("iss", Value::Null)), CLAIMS),
        ("another audience", format!("Bearer {}", signed("aud", json!("others"))), AUDIENCE),
        ("audiences without us", format!("Bearer {}", signed("aud", json!(["a", "b"]))), AUDIENCE),
        ("no audience", format!("Bearer {}", signed("aud", Value::Null)), CLAIMS),
        ("no subject", format!("Bearer {}", signed("sub", Value::Null)), CLAIMS),
        ("an empty subject", format!("Bearer {}", signed("sub", json!(""))), SUBJECT),
        ("a subject that is no text", format!("Bearer {}", signed("sub", json!(5))), CLAIMS),
        ("a subject with spaces", format!("Bearer {}", signed("sub", json!("a b"))), SUBJECT),
        (
            "an organisation that is no UUID",
            format!("Bearer {}", signed("organization_id", json!("acme"))),
            ORGANIZATION,
        ),
        ("roles that are no list", format!("Bearer {}", signed("roles", json!("admin"))), ROLES),
        ("roles that are no names", format!("Bearer {}", signed("roles", json!([1]))), ROLES),
    ];
    assert!(bad.len() >= 40);
    assert_eq!(guarded.get_with("/v1/payments", &token).await.0, 200, "the token they were made from is good");
    for (what, authorization, reason) in bad {
        let (status, challenge, problem) = guarded.get("/v1/payments", &[&authorization]).await;
        assert_eq!((status, &problem["code"]), (401, &json!("unauthenticated")), "{what}: {problem}");
        assert_eq!(problem["detail"], reason, "{what}");
        assert!(challenge.is_some_and(|challenge| challenge.starts_with("Bearer realm=")), "{what}");
    }
    let (status, _, none) = guarded.get("/v1/payments", &[]).await;
    let bearer = format!("Bearer {token}");
    let (twice, _, two) = guarded.get("/v1/payments", &[&bearer, &bearer]).await;
    let (in_address, _, told) = guarded.get(&format!("/v1/payments?access_token={token}"), &[]).await;
    assert_eq!((status, twice, in_address), (401, 401, 401));
    let reasons = [(none, "there is no bearer token"), (two, "more than one"), (told, "in the address")];
    for (problem, reason) in reasons {
        assert!(problem["detail"].as_str().unwrap().contains(reason), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_organisations_bound_what_a_caller_may_do_and_see() {
    let key = Key::new("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&key]).await;
    let guarded = Guarded::start(&issuer).await;
    let reader = key.sign(&issuer.claims(&["payments:read"]));
    let writer = issuer.claims(&["users:write", "users:read"]);
    let foreign = key.sign(&with(&with(&writer, "organization_id", json!(FOREIGN)), "sub", json!("eve")));
    let homeless = key.sign(&with(&writer, "organization_id", Value::Null));
    let (admin, writer) = (key.sign(&with(&issuer.claims(&["admin"]), "sub", json!("root"))), key.sign(&writer));
    let ada = |organization: &str| {
        json!({"username": "ada", "email": "ada@example.org", "first_name": "Ada", "last_name": "Lovelace",
               "organization_id": organization, "roles": []})
    };

    let payment = guarded.post_with("/v1/payments", &reader, "k", json!({"amount": "1", "currency": "EUR"})).await;
    let registered = guarded.post_with("/v1/users", &writer, "k", ada(OWN)).await;
    let elsewhere = guarded.post_with("/v1/users", &writer, "l", ada(FOREIGN)).await;

    assert_eq!((payment.0, &payment.2["code"]), (403, &json!("forbidden")), "{payment:?}");
    assert!(payment.1.unwrap().contains("scope=\"payments:write\""));
    assert_eq!(registered.0, 201, "{registered:?}");
    assert!((400..500).contains(&elsewhere.0), "nobody founds users in another's organisation: {elsewhere:?}");
    let ada = format!("/v1/users/{}", registered.2["id"].as_str().unwrap());
    let address = format!("{}{ada}", guarded.daemon.address());
    let behind = guarded.http.get(address).bearer_auth(&writer);
    let behind = behind.header("essaim-at-least", registered.2["position"].to_string()).send().await.unwrap();
    assert_eq!(behind.status(), StatusCode::OK, "the read model has followed");
    let seen = |token: String| {
        let (guarded, ada) = (&guarded, &ada);
        async move { guarded.get_with(ada, &token).await.0 }
    };
    let statuses = [seen(writer.clone()).await, seen(foreign.clone()).await, seen(homeless).await, seen(admin).await];
    assert_eq!(statuses, [200, 404, 404, 200], "one's own, another's, nobody's, everything");
    let disabled = guarded.post_with(&format!("{ada}/disable"), &foreign, "m", json!({})).await;
    assert_eq!(disabled.0, 404, "{disabled:?}");
    let (operator, _, _) = guarded.get_with("/v1/admin/projections", &writer).await;
    assert_eq!(operator, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_reads_the_log_of_every_organisation_and_nothing_else_of_another() {
    let key = Key::new("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&key]).await;
    let guarded = Guarded::start(&issuer).await;
    let of = |organization: &str, roles: &[&str]| {
        key.sign(&with(&issuer.claims(roles), "organization_id", json!(organization)))
    };
    let foreign = of(FOREIGN, &["users:write"]);
    let operator = of(OWN, &["operator", "users:read", "audit:read"]);
    let merely_reads = of(OWN, &["users:read", "audit:read"]);
    let eve = json!({"username": "eve", "email": "eve@example.org", "first_name": "Eve", "last_name": "M",
                     "organization_id": FOREIGN, "roles": []});

    let (status, _, registered) = guarded.post_with("/v1/users", &foreign, "k", eve).await;

    assert_eq!(status, 201, "{registered}");
    let id = registered["id"].as_str().unwrap();
    let (status, _, log) = guarded.get_with("/v1/events", &operator).await;
    assert_eq!((status, &log["items"][0]["key"]), (200, &json!(id)), "{log}");
    assert_eq!(guarded.get_with("/v1/events", &merely_reads).await.0, 403);
    assert_eq!(guarded.get_with(&format!("/v1/users/{id}"), &operator).await.0, 404);
    let (status, _, audit) = guarded.get_with("/v1/audit", &operator).await;
    assert_eq!((status, &audit["items"]), (200, &json!([])));
    let (status, _, audit) = guarded.get_with("/v1/audit", &of(FOREIGN, &["audit:read"])).await;
    assert_eq!((status, audit["items"].as_array().unwrap().len()), (200, 1), "whose it is sees it: {audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_scoped_by_who_sent_it() {
    let key = Key::new("d", Algorithm::EdDSA);
    let issuer = Issuer::start(&[&key]).await;
    let guarded = Guarded::start(&issuer).await;
    let ann = issuer.claims(&["payments:write"]);
    let bob = key.sign(&with(&ann, "sub", json!("bob")));
    let body = json!({"amount": "1", "currency": "EUR"});

    let (first, again) = (key.sign(&ann), key.sign(&ann));
    let first = guarded.post_with("/v1/payments", &first, "order-1", body.clone()).await;
    let again = guarded.post_with("/v1/payments", &again, "order-1", body.clone()).await;
    let other = guarded.post_with("/v1/payments", &bob, "order-1", body).await;

    assert_eq!((first.0, &first.2), (201, &again.2));
    assert_ne!(first.2["id"], other.2["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_a_role_that_opens_something_here_without_having_it() {
    let key = Key::new("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&key]).await;
    let guarded = Guarded::start(&issuer).await;
    let token = |roles: &[&str]| key.sign(&issuer.claims(roles));
    let (writer, operator, admin) =
        (token(&["users:write"]), token(&["users:write", "operator"]), token(&["users:write", "admin"]));
    let user = |name: &str, roles: &[&str]| {
        json!({"username": name, "email": format!("{name}@example.org"), "first_name": "Ada", "last_name": "L",
               "organization_id": OWN, "roles": roles})
    };
    let registered = |token: &str, name: &'static str, roles: &'static [&'static str]| {
        let (guarded, token) = (&guarded, token.to_owned());
        async move { guarded.post_with("/v1/users", &token, name, user(name, roles)).await }
    };

    let plain = registered(&writer, "ann", &["accountant"]).await;
    let raised = registered(&writer, "eve", &["accountant", "operator"]).await;
    let by_operator = registered(&operator, "bob", &["operator"]).await;
    let above_operator = registered(&operator, "mallory", &["admin"]).await;
    let by_admin = registered(&admin, "root", &["admin", "operator"]).await;

    assert_eq!([plain.0, by_operator.0, by_admin.0], [201, 201, 201], "{plain:?} {by_operator:?} {by_admin:?}");
    assert_eq!((raised.0, &raised.2["code"]), (403, &json!("forbidden")), "{raised:?}");
    assert!(raised.2["detail"].as_str().unwrap().contains("role operator"), "{raised:?}");
    assert!(above_operator.0 == 403 && above_operator.2["detail"].as_str().unwrap().contains("role admin"));
    let roles = format!("/v1/users/{}/roles", plain.2["id"].as_str().unwrap());
    let assigned = |token: &str, roles_given: &'static [&'static str]| {
        let request = guarded.http.put(format!("{}{roles}", guarded.daemon.address())).bearer_auth(token);
        async move { told(request.json(&json!({ "roles": roles_given })).send().await.unwrap()).await }
    };
    let (to_admin, back) = (assigned(&writer, &["admin"]).await, assigned(&writer, &["accountant", "clerk"]).await);
    assert_eq!((to_admin.0, back.0), (403, 200), "{to_admin:?} {back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_an_address_does_not_take_is_405_for_who_is_known_and_401_for_others() {
    let key = Key::new("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&key]).await;
    let guarded = Guarded::start(&issuer).await;
    let url = format!("{}/v1/payments", guarded.daemon.address());
    let known = guarded.http.delete(&url).bearer_auth(key.sign(&issuer.claims(&[]))).send().await.unwrap();
    let unknown = guarded.http.delete(&url).send().await.unwrap();

    assert_eq!(known.headers()["allow"], "POST,GET,HEAD");
    let (status, _, problem) = told(known).await;
    assert_eq!((status, &problem["code"]), (405, &json!("method_not_allowed")));
    assert_eq!(unknown.status(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_issuer_that_was_never_reached_the_daemon_is_not_ready_and_says_what_to_look_at() {
    let key = Key::new("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&key]).await;
    let mut guarded = Guarded::start(&issuer).await;
    let token = key.sign(&issuer.claims(&["payments:read"]));

    issuer.is_down.store(true, Ordering::SeqCst);
    guarded.daemon.kill_and_restart().await;
    let checks = || async {
        let ready = guarded.http.get(format!("{}/readyz", guarded.daemon.address())).send().await.unwrap();
        (ready.status().as_u16(), ready.json::<Value>().await.unwrap()["checks"].as_array().unwrap().clone())
    };
    let of_tokens = |checks: &[Value]| checks.iter().find(|check| check["name"] == "tokens").cloned();
    eventually("the daemon to have started", || async { of_tokens(&checks().await.1).is_some() }).await;

    let (ready, found) = checks().await;
    let tokens = of_tokens(&found).unwrap();
    let (status, _, problem) = guarded.get_with("/v1/payments", &token).await;

    assert_eq!((ready, &tokens["ok"]), (503, &json!(false)));
    let detail = tokens["detail"].as_str().unwrap();
    assert!(detail.contains("status 502") && detail.contains("essaim doctor"), "{detail}");
    assert_eq!((status, &problem["code"]), (503, &json!("issuer_unavailable")));
    assert_eq!(problem["outcome"], "not_executed");
    issuer.is_down.store(false, Ordering::SeqCst);
    guarded.daemon.ready().await;
    assert_eq!(guarded.get_with("/v1/payments", &token).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_sends_the_token_in_a_file_and_says_so_when_one_is_asked_for() {
    let key = Key::new("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&key]).await;
    let guarded = Guarded::start(&issuer).await;
    let file = guarded._folder.path().join("token");
    std::fs::write(&file, key.sign(&issuer.claims(&["operator"]))).unwrap();
    let stale = guarded._folder.path().join("stale");
    let long_ago = SystemClock.now().timestamp() - 3_600;
    std::fs::write(&stale, key.sign(&with(&issuer.claims(&["operator"]), "exp", json!(long_ago)))).unwrap();
    let url = guarded.daemon.address();
    let essaim = |command: &[&str], token: &[&str], variable: &str| {
        let mut essaim = std::process::Command::new(env!("CARGO_BIN_EXE_essaim"));
        essaim.args(command).args(["--url", &url]).args(token).env("ESSAIM_TOKEN_FILE", variable);
        essaim.current_dir(guarded._folder.path()).output().unwrap()
    };
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 3] = [
        &["synchronisers", "list", "--output", "json"],
        &["dead-letters", "list", "--output", "json"],
        &["projections", "rebuild", "user_list"],
    ];

    for command in commands {
        let (known, by_variable) = (essaim(command, &["--token-file", file], ""), essaim(command, &[], file));
        let (unknown, expired) = (essaim(command, &[], ""), essaim(command, &["--token-file", "stale"], file));
        let nowhere = essaim(command, &["--token-file", "nowhere"], "");

        assert!(known.status.success() && by_variable.status.success(), "{known:?} {by_variable:?}");
        let said = String::from_utf8_lossy(&unknown.stderr);
        assert!(unknown.status.code() == Some(1) && said.contains("401") && said.contains("--token-file"), "{said}");
        let said = String::from_utf8_lossy(&expired.stderr);
        assert!(expired.status.code() == Some(1) && said.contains("the token has expired"), "{said}");
        let said = String::from_utf8_lossy(&nowhere.stderr);
        assert!(nowhere.status.code() == Some(2) && said.contains("nowhere"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_minute_unknown_keys_do_not_make_a_daemon_ask_its_issuer_again() {
    let (old, new) = (Key::new("old", Algorithm::ES256), Key::new("new", Algorithm::ES256));
    let issuer = Issuer::start(&[&old]).await;
    let guarded = Guarded::start(&issuer).await;
    let claims = issuer.claims(&["payments:read"]);
    let ask = |key: &Key| {
        let (guarded, token) = (&guarded, key.sign(&claims));
        async move { guarded.get_with("/v1/payments", &token).await.0 }
    };
    assert_eq!(ask(&old).await, 200);
    let before = issuer.asked.load(Ordering::SeqCst);

    issuer.keys.lock().await.push(new.public());
    assert_eq!(ask(&new).await, 401, "it is fetched when the minute is over: see the tests of the keys");
    let stranger = Key::new("stranger", Algorithm::ES256);
    for _ in 0..20 {
        assert_eq!(ask(&stranger).await, 401);
    }

    assert_eq!(ask(&old).await, 200);
    let asked = issuer.asked.load(Ordering::SeqCst) - before;
    assert_eq!(asked, 0);
}
