//! Who is asking, over time, by tokens that a real Keycloak grants: to a client in its own name, until a session ends,
//! and after the realm's keys changed.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;
mod support;

use std::time::Duration;

use essaim::daemon::auth::Authentication;
use essaim::daemon::config::layers::Layers;
use essaim::prelude::*;
use realm::{DESK, Realm, SECRET};
use reqwest::Method;
use serde_json::{Value, json};
use support::api::Api;
use support::eventually;

const AUDIENCE: &str = "essaim-api";
const OWN: &str = "8a524f3a-9d5e-4c7b-8a1f-2d116f0f2e44";
/// A client that asks in its own name.
const CLERK: &str = "clerk";
/// Longer than the daemon waits between two looks for a key that it does not know.
const OVER_A_MINUTE: Duration = Duration::from_secs(61);
/// Longer than it takes its keys for fresh.
const OVER_TEN_MINUTES: Duration = Duration::from_secs(601);

/// The interface of a daemon that takes this realm's tokens, to the second.
async fn api_asking(realm: &Realm) -> Api {
    let issuer = format!("{}/realms/{}", realm.url, realm.name);
    let flags = [("auth_issuer", issuer.as_str()), ("auth_audience", AUDIENCE), ("auth_leeway_seconds", "0")];
    let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let config = Layers { flags, ..Layers::default() }.load().unwrap().config;
    Api::start_asking(Engine::builder(MemoryStore::new()), Authentication::of(&config).unwrap()).await
}

/// A claim mapper of a client.
fn mapper(kind: &str, config: Value) -> Value {
    let mut config = config;
    config["access.token.claim"] = json!("true");
    json!({"name": config["claim.name"].as_str().unwrap_or("audience"), "protocol": "openid-connect",
           "protocolMapper": kind, "config": config})
}

fn audience(name: &str) -> Value {
    mapper("oidc-audience-mapper", json!({ "included.custom.audience": name }))
}

fn organization() -> Value {
    let config = json!({"claim.name": "organization_id", "claim.value": OWN, "jsonType.label": "String"});
    mapper("oidc-hardcoded-claim-mapper", config)
}

fn realm_roles() -> Value {
    let config = json!({"claim.name": "roles", "multivalued": "true", "jsonType.label": "String"});
    mapper("oidc-usermodel-realm-role-mapper", config)
}

/// What is written on the account, as our synchroniser writes it.
fn attribute(name: &str, multivalued: &str) -> Value {
    let config = json!({"user.attribute": name, "claim.name": name, "multivalued": multivalued,
                        "aggregate.attrs": "false", "jsonType.label": "String"});
    mapper("oidc-usermodel-attribute-mapper", config)
}

async fn post(realm: &Realm, below: &str, body: Value) {
    let (status, answer) = realm.request(Method::POST, &realm.path(below), Some(body)).await;
    assert!(status.is_success(), "{below}: {status} {answer}");
}

/// A client that asks in its own name, with these mappers and roles of the realm.
async fn add_client(realm: &Realm, client: &str, mappers: &[Value], roles: &[&str]) {
    let body = json!({"clientId": client, "secret": SECRET, "publicClient": false, "serviceAccountsEnabled": true,
                      "standardFlowEnabled": false, "directAccessGrantsEnabled": false, "protocolMappers": mappers});
    realm.add_client(body).await;
    let account = realm.account(&format!("service-account-{client}")).await.expect("it has an account");
    let account = account["id"].as_str().expect("an id").to_owned();
    let mut given = Vec::new();
    for role in roles {
        post(realm, "/roles", json!({ "name": role })).await;
        given.push(realm.get(&realm.path(&format!("/roles/{role}"))).await);
    }
    post(realm, &format!("/users/{account}/role-mappings/realm"), json!(given)).await;
}

/// Gives the public client these mappers.
async fn add_mappers(realm: &Realm, mappers: &[Value]) {
    let found = realm.get(&realm.path(&format!("/clients?clientId={DESK}"))).await;
    let id = found[0]["id"].as_str().expect("an id");
    for mapper in mappers {
        post(realm, &format!("/clients/{id}/protocol-mappers/models"), mapper.clone()).await;
    }
}

async fn token_of(realm: &Realm, client: &str) -> String {
    let (status, granted) = realm.client_login(client).await;
    assert_eq!(status, 200, "{granted}");
    granted["access_token"].as_str().expect("a token").to_owned()
}

/// Status and problem of an answer.
async fn get(api: &Api, path: &str, token: &str) -> (u16, Value) {
    let answer = api.request(Method::GET, path).bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn post_user(api: &Api, token: &str, name: &str, organization: &str) -> (u16, Value) {
    let body = json!({"username": name, "email": format!("{name}@example.org"), "first_name": "Ada",
                      "last_name": "Byron", "organization_id": organization, "roles": []});
    let answer = api.request(Method::POST, "/v1/users").bearer_auth(token).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Time goes on at once, while the network keeps its own.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A realm, where there is a Keycloak.
macro_rules! realm_or_return {
    () => {
        match Realm::real().await {
            Some(realm) => realm,
            None => return,
        }
    };
}

mod real_keycloak {
    use super::*;

    #[tokio::test]
    async fn a_client_whose_mappers_say_organisation_and_roles_may_do_what_they_allow() {
        let realm = realm_or_return!();
        let mappers = [audience(AUDIENCE), organization(), realm_roles()];
        add_client(&realm, CLERK, &mappers, &["users:write", "users:read"]).await;
        let api = api_asking(&realm).await;
        let token = token_of(&realm, CLERK).await;

        let (status, registered) = post_user(&api, &token, "ada", OWN).await;
        let (elsewhere, _) = post_user(&api, &token, "eve", "8a524f3a-9d5e-4c7b-8a1f-2d116f0f2e45").await;
        let (payments, refused) = get(&api, "/v1/payments", &token).await;

        assert_eq!(status, 201, "{registered}");
        assert_eq!(elsewhere, 404, "another organisation is not there for it");
        assert_eq!((payments, &refused["detail"]), (403, &json!("this needs the role payments:read")));
        realm.close().await;
    }

    #[tokio::test]
    async fn a_token_ends_with_the_longest_life_of_its_session() {
        let realm = realm_or_return!();
        // A token lives five minutes by default, unless its session ends before.
        realm.change(json!({"ssoSessionMaxLifespan": 3})).await;
        add_mappers(&realm, &[audience(AUDIENCE), attribute("roles", "true")]).await;
        let ada = json!({"username": "ada", "email": "ada@example.org", "emailVerified": true, "enabled": true,
                         "firstName": "Ada", "lastName": "Byron", "attributes": {"roles": ["operator"]}});
        let id = realm.create(ada).await;
        realm.set_password(&id).await;
        let api = api_asking(&realm).await;
        let (status, granted) = realm.login("ada").await;
        assert_eq!(status, 200, "{granted}");
        let token = granted["access_token"].as_str().expect("a token");

        eventually("the end of the session", || async {
            let (status, answer) = get(&api, "/v1/events", token).await;
            assert!(status == 200 || answer["detail"] == "the token has expired", "{status} {answer}");
            status == 401
        })
        .await;

        realm.close().await;
    }

    #[tokio::test]
    async fn new_keys_are_followed_and_withdrawn_ones_are_forgotten() {
        let realm = realm_or_return!();
        add_client(&realm, CLERK, &[audience(AUDIENCE), organization(), realm_roles()], &["users:read"]).await;
        let api = api_asking(&realm).await;
        let old = token_of(&realm, CLERK).await;
        assert_eq!(get(&api, "/v1/users", &old).await.0, 200);
        let keys = realm.path("/components?type=org.keycloak.keys.KeyProvider");
        let first = realm.get(&keys).await;
        let new_key = json!({
            "name": "new", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
            "config": {"priority": ["1000"], "enabled": ["true"], "active": ["true"], "algorithm": ["RS256"],
                       "keySize": ["2048"]},
        });

        post(&realm, "/components", new_key).await;
        let new = token_of(&realm, CLERK).await;

        let (early, problem) = get(&api, "/v1/users", &new).await;
        assert_eq!((early, &problem["detail"]), (401, &json!("the issuer has no such key")), "within the minute");
        pass(OVER_A_MINUTE).await;
        assert_eq!(get(&api, "/v1/users", &new).await.0, 200);
        assert_eq!(get(&api, "/v1/users", &old).await.0, 200, "the realm still shows the key of before");

        for provider in first.as_array().expect("a list").iter().filter(|found| found["providerId"] == "rsa-generated")
        {
            let path = realm.path(&format!("/components/{}", provider["id"].as_str().expect("an id")));
            assert_eq!(realm.request(Method::DELETE, &path, None).await.0, 204);
        }
        pass(OVER_TEN_MINUTES).await;
        eventually("the withdrawn key to be forgotten", || async {
            // A request with a good token has the keys looked at behind it.
            assert_eq!(get(&api, "/v1/users", &new).await.0, 200);
            get(&api, "/v1/users", &old).await.1["detail"] == "the issuer has no such key"
        })
        .await;
        realm.close().await;
    }
}
