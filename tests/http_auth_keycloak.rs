//! Who is asking, with tokens of a real Keycloak: what was registered here comes back as the claims of who logs in.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;
mod support;

use realm::{CLIENT, PASSWORD, Realm, SECRET};
use reqwest::Client;
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::eventually;
use tempfile::TempDir;

const AUDIENCE: &str = "essaim-api";
const ACME: &str = "8a524f3a-9d5e-4c7b-8a1f-2d116f0f2e44";
const OTHERS: &str = "8a524f3a-9d5e-4c7b-8a1f-2d116f0f2e45";
/// Where users log in; its tokens carry what they are.
const PORTAL: &str = "portal";
/// A program that may do everything.
const BACK_OFFICE: &str = "back-office";

/// How Keycloak is told to put something into access tokens.
fn mapper(name: &str, kind: &str, config: Value) -> Value {
    let mut config = config;
    config["access.token.claim"] = "true".into();
    json!({"name": name, "protocol": "openid-connect", "protocolMapper": kind, "config": config})
}

fn audience() -> Value {
    mapper("audience", "oidc-audience-mapper", json!({"included.custom.audience": AUDIENCE}))
}

fn attribute(name: &str, is_list: bool) -> Value {
    let config = json!({"user.attribute": name, "claim.name": name, "jsonType.label": "String",
                        "multivalued": is_list.to_string()});
    mapper(name, "oidc-usermodel-attribute-mapper", config)
}

/// A realm whose users have their organisation and roles in their tokens, and a daemon that takes them.
struct Stage {
    realm: Realm,
    daemon: Daemon,
    http: Client,
    _folder: TempDir,
}

impl Stage {
    async fn set() -> Option<Self> {
        let realm = Realm::real().await?;
        let portal = json!({"clientId": PORTAL, "publicClient": true, "standardFlowEnabled": false,
            "directAccessGrantsEnabled": true,
            "protocolMappers": [audience(), attribute("organization_id", false), attribute("roles", true)]});
        let admin = json!({"claim.name": "roles", "claim.value": "[\"admin\"]", "jsonType.label": "JSON"});
        let back_office = json!({"clientId": BACK_OFFICE, "secret": SECRET, "publicClient": false,
            "standardFlowEnabled": false, "serviceAccountsEnabled": true,
            "protocolMappers": [audience(), mapper("roles", "oidc-hardcoded-claim-mapper", admin)]});
        realm.add_client(portal).await;
        realm.add_client(back_office).await;
        let folder = tempfile::tempdir().unwrap();
        let issuer = format!("{}/realms/{}", realm.url, realm.name);
        let flags = [
            ["--auth-issuer", issuer.as_str()],
            ["--auth-audience", AUDIENCE],
            ["--auth-leeway-seconds", "0"],
            ["--keycloak-url", &realm.url],
            ["--keycloak-realm", &realm.name],
            ["--keycloak-client-id", CLIENT],
            ["--keycloak-client-secret", SECRET],
        ];
        let database = format!("sqlite://{}", folder.path().join("log.db").display());
        let daemon = Daemon::start_with(&database, &flags.concat()).await;
        Some(Self { realm, daemon, http: Client::new(), _folder: folder })
    }

    /// An access token of this realm.
    async fn token(&self, form: &[(&str, &str)]) -> String {
        let url = format!("{}/realms/{}/protocol/openid-connect/token", self.realm.url, self.realm.name);
        let answer = self.http.post(url).form(form).send().await.unwrap();
        let granted: Value = answer.json().await.unwrap();
        granted["access_token"].as_str().unwrap_or_else(|| panic!("{granted}")).to_owned()
    }

    async fn token_of_the_back_office(&self) -> String {
        let form = [("grant_type", "client_credentials"), ("client_id", BACK_OFFICE), ("client_secret", SECRET)];
        self.token(&form).await
    }

    async fn token_of(&self, username: &str) -> String {
        let form = [("grant_type", "password"), ("client_id", PORTAL), ("username", username), ("password", PASSWORD)];
        self.token(&form).await
    }

    async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.daemon.address())).bearer_auth(token).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Registers somebody in the name of the back office, and gives the account a password; answers the id.
    async fn register(&self, name: &str, organization_id: &str, roles: &[&str]) -> String {
        let body = json!({"username": name, "email": format!("{name}@example.org"), "first_name": "Ada",
                          "last_name": "Byron", "organization_id": organization_id, "roles": roles});
        let url = format!("{}/v1/users?wait=synced", self.daemon.address());
        let token = self.token_of_the_back_office().await;
        let answer = self.http.post(url).bearer_auth(token).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let user: Value = answer.json().await.unwrap();
        assert_eq!(user["sync"], "synced");
        let account = self.realm.account(name).await.expect("it was brought there");
        self.realm.set_password(account["id"].as_str().unwrap()).await;
        user["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_keycloak_who_was_registered_here_logs_in_there_and_is_known_here_with_organisation_and_roles() {
    let Some(stage) = Stage::set().await else { return };
    let ada = stage.register("ada", ACME, &["operator", "accountant"]).await;
    let bob = stage.register("bob", OTHERS, &[]).await;

    let (of_ada, of_bob) = (stage.token_of("ada").await, stage.token_of("bob").await);
    let (log, refused) = (stage.get("/v1/events", &of_ada).await, stage.get("/v1/payments", &of_ada).await);
    let without_roles = stage.get("/v1/events", &of_bob).await;

    assert_eq!(log.0, 200, "{log:?}");
    let principals = log.1["items"].as_array().unwrap().iter().map(|event| &event["metadata"]["principal"]);
    assert!(principals.clone().all(|principal| principal.as_str().is_some_and(|who| who != "anonymous")), "{log:?}");
    assert_eq!((refused.0, &refused.1["code"]), (403, &json!("forbidden")));
    assert_eq!(without_roles.0, 403, "{without_roles:?}");

    // Her organisation bounds what she sees, once she may see users at all.
    let reader = json!({"claim.name": "roles", "claim.value": "[\"users:read\"]", "jsonType.label": "JSON"});
    let desk = json!({"clientId": "directory", "publicClient": true, "standardFlowEnabled": false,
        "directAccessGrantsEnabled": true, "protocolMappers": [audience(), attribute("organization_id", false),
        mapper("roles", "oidc-hardcoded-claim-mapper", reader)]});
    stage.realm.add_client(desk).await;
    let form = [("grant_type", "password"), ("client_id", "directory"), ("username", "ada"), ("password", PASSWORD)];
    let of_ada = stage.token(&form).await;
    let seen = [
        stage.get(&format!("/v1/users/{ada}"), &of_ada).await.0,
        stage.get(&format!("/v1/users/{bob}"), &of_ada).await.0,
    ];
    assert_eq!(seen, [200, 404], "one's own, another's");
    stage.realm.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_keycloak_tokens_for_others_of_another_realm_and_expired_ones_are_refused() {
    let Some(stage) = Stage::set().await else { return };
    stage.register("ada", ACME, &["operator"]).await;
    let reason = |token: String| {
        let stage = &stage;
        async move {
            let (status, problem) = stage.get("/v1/events", &token).await;
            (status, problem["detail"].as_str().unwrap_or_default().to_owned())
        }
    };

    let for_others = stage.realm.login("ada").await.1["access_token"].as_str().unwrap().to_owned();
    let of_master = stage.realm.admin_token().await;
    assert_eq!(reason(for_others).await, (401, "the token is meant for others".to_owned()));
    assert_eq!(reason(of_master).await, (401, "the issuer has no such key".to_owned()));

    stage.realm.change(json!({"accessTokenLifespan": 1})).await;
    let short = stage.token_of("ada").await;
    eventually("it to expire", || async {
        let (status, detail) = reason(short.clone()).await;
        status == 401 && detail == "the token has expired"
    })
    .await;
    stage.realm.close().await;
}
