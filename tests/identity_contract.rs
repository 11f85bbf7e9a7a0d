//! One contract for the identity provider, held by a real Keycloak and by its double alike: what the synchroniser rests
//! on, asserted by asking the realm itself.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;

use std::collections::BTreeSet;

use essaim::identity::keycloak::{Keycloak, KeycloakOptions};
use essaim::identity::{
    EventKind, IdentityProvider, Lookup, ProviderError, ProviderId, ReadinessCheck, Refusal, WantedUser,
};
use serde_json::{Value, json};
use uuid::Uuid;

use realm::{CLIENT, READER, Realm, SECRET};

macro_rules! contract {
    ($($case:ident,)*) => {
        mod double {
            $(#[tokio::test]
            async fn $case() {
                super::$case(&super::Realm::double().await).await;
            })*
        }

        mod real_keycloak {
            $(#[tokio::test]
            async fn $case() {
                if let Some(realm) = super::Realm::real().await {
                    super::$case(&realm).await;
                    realm.close().await;
                }
            })*
        }
    };
}

contract! {
    an_account_is_created_with_every_field_and_carries_our_id_and_version,
    an_account_may_be_created_disabled,
    putting_again_replaces_every_field_and_keeps_the_attributes_of_others,
    a_put_that_does_not_know_the_id_finds_the_account_by_ours_under_whatever_name,
    a_put_whose_known_account_is_gone_creates_it_anew,
    simultaneous_first_puts_of_one_user_make_one_account,
    disabling_ends_sessions_and_logins_and_enabling_lets_them_in_again,
    a_foreign_account_with_the_username_or_the_address_is_a_refusal_for_good,
    a_renaming_onto_a_foreign_account_is_a_refusal_for_good_and_changes_nothing,
    a_name_that_another_of_our_users_still_has_is_to_be_tried_later,
    a_known_id_of_a_foreign_account_is_a_refusal_and_leaves_it_alone,
    looking_up_a_username_is_exact_and_folds_case,
    a_put_that_comes_late_changes_nothing,
    deleting_removes_the_account_and_again_is_success,
    values_that_keycloak_does_not_take_are_a_refusal_for_good_in_its_words,
    removing_takes_the_one_account_and_only_while_it_carries_our_id,
    whether_somebody_is_logged_in_is_known_until_the_sessions_end,
    an_address_verified_there_stays_verified_until_it_changes,
    listing_goes_through_every_account_page_by_page,
    logins_are_polled_once_each_oldest_first,
    a_verified_address_is_polled_with_the_address_it_was,
    what_is_done_to_accounts_is_an_admin_event,
    a_realm_as_it_should_be_is_ready,
    readiness_names_each_missing_setting_and_how_to_mend_it,
    readiness_names_the_rights_that_our_client_lacks,
    a_realm_that_drops_our_attributes_is_a_fault_of_the_set_up_and_of_no_user,
    a_wrong_secret_client_or_realm_is_a_fault_of_the_set_up_and_names_no_secret,
}

fn wanted(name: &str) -> WantedUser {
    WantedUser {
        user_id: id_of(name),
        version: 1,
        username: name.into(),
        email: format!("{name}@example.org"),
        email_verified: false,
        first_name: "Ada".into(),
        last_name: "Łovelace".into(),
        organization_id: Uuid::from_u128(42),
        roles: vec!["writer".into(), "admin".into()],
        enabled: true,
    }
}

/// An id that follows from a name.
fn id_of(name: &str) -> Uuid {
    let hash = blake3::hash(name.as_bytes());
    Uuid::from_slice(&hash.as_bytes()[..16]).unwrap()
}

async fn an_account_is_created_with_every_field_and_carries_our_id_and_version(realm: &Realm) {
    let keycloak = realm.keycloak();
    let ada = wanted("ada");

    let id = keycloak.put(&ada, None).await.unwrap();

    let account = realm.account("ada").await.unwrap();
    assert_eq!(account["id"], id.0);
    assert_eq!(account["email"], "ada@example.org");
    assert_eq!(account["firstName"], "Ada");
    assert_eq!(account["lastName"], "Łovelace");
    assert_eq!(account["enabled"], true);
    assert_eq!(account["emailVerified"], false);
    assert_eq!(account["attributes"]["essaim_user_id"], json!([ada.user_id.to_string()]));
    assert_eq!(account["attributes"]["essaim_version"], json!(["1"]));
    assert_eq!(account["attributes"]["organization_id"], json!([ada.organization_id.to_string()]));
    assert_eq!(words(&account["attributes"]["roles"]), ["admin", "writer"]);
    for lookup in [Lookup::Id(&id), Lookup::User(ada.user_id), Lookup::Username("ada")] {
        let read = keycloak.read(lookup).await.unwrap().unwrap();
        assert_eq!(read.differences(&ada), Vec::<&str>::new(), "{lookup:?}");
        assert_eq!(read.id, id);
        assert!(read.created_at.is_some());
    }
}

fn words(list: &Value) -> Vec<&str> {
    let mut words: Vec<_> = list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    words.sort_unstable();
    words
}

async fn an_account_may_be_created_disabled(realm: &Realm) {
    let disabled = WantedUser { enabled: false, roles: vec![], ..wanted("ada") };

    realm.keycloak().put(&disabled, None).await.unwrap();

    let account = realm.account("ada").await.unwrap();
    assert_eq!(account["enabled"], false);
    assert!(account["attributes"].get("roles").is_none(), "an attribute without values is none");
}

async fn putting_again_replaces_every_field_and_keeps_the_attributes_of_others(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    add_attribute(realm, "ada", "phone").await;
    let changed = WantedUser {
        version: 2,
        username: "countess".into(),
        email: "countess@example.org".into(),
        email_verified: true,
        first_name: "Augusta".into(),
        last_name: "King".into(),
        organization_id: Uuid::from_u128(43),
        roles: vec!["owner".into()],
        ..wanted("ada")
    };

    assert_eq!(keycloak.put(&changed, Some(&id)).await.unwrap(), id);

    assert_eq!(realm.account("ada").await, None);
    let account = realm.account("countess").await.unwrap();
    assert_eq!(account["attributes"]["phone"], json!(["1"]));
    assert_eq!(keycloak.read(Lookup::Id(&id)).await.unwrap().unwrap().differences(&changed), Vec::<&str>::new());
    assert_eq!(realm.count().await, 1);
}

/// As an operator of the realm would.
async fn add_attribute(realm: &Realm, username: &str, attribute: &str) {
    let mut account = realm.account(username).await.unwrap();
    account["attributes"][attribute] = json!(["1"]);
    realm.replace(&account).await;
}

async fn a_put_that_does_not_know_the_id_finds_the_account_by_ours_under_whatever_name(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    let renamed =
        WantedUser { version: 2, username: "countess".into(), email: "countess@example.org".into(), ..wanted("ada") };

    assert_eq!(keycloak.put(&renamed, None).await.unwrap(), id);

    assert_eq!(realm.count().await, 1);
    assert_eq!(realm.account("countess").await.unwrap()["id"], id.0);
}

async fn a_put_whose_known_account_is_gone_creates_it_anew(realm: &Realm) {
    let keycloak = realm.keycloak();
    let gone = keycloak.put(&wanted("ada"), None).await.unwrap();
    realm.remove(&gone.0).await;

    let id = keycloak.put(&wanted("ada"), Some(&gone)).await.unwrap();

    assert_ne!(id, gone);
    assert_eq!(realm.account("ada").await.unwrap()["id"], id.0);
}

async fn simultaneous_first_puts_of_one_user_make_one_account(realm: &Realm) {
    let (keycloak, ada) = (realm.keycloak(), wanted("ada"));

    let puts = (0..8).map(|_| keycloak.put(&ada, None));
    let ids: Vec<_> = futures::future::join_all(puts).await;

    // Whoever loses a race with itself may be told to come again; nobody is told that the name is another's.
    let ids: BTreeSet<_> = ids
        .into_iter()
        .filter_map(|put| match put {
            Ok(id) => Some(id),
            Err(ProviderError::RetryLater { .. } | ProviderError::OutcomeUnknown { .. }) => None,
            Err(error) => panic!("{error}"),
        })
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(realm.count().await, 1);
}

async fn disabling_ends_sessions_and_logins_and_enabling_lets_them_in_again(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    realm.set_password(&id.0).await;
    let (status, token) = realm.login("ada").await;
    assert_eq!(status, 200, "{token}");
    assert!(token["access_token"].as_str().is_some_and(|token| token.len() > 20));
    assert_eq!(realm.sessions(&id.0).await, 1);

    keycloak.put(&WantedUser { version: 2, enabled: false, ..wanted("ada") }, Some(&id)).await.unwrap();

    assert_eq!(realm.sessions(&id.0).await, 0);
    let (status, refusal) = realm.login("ada").await;
    assert_eq!((status.as_u16(), &refusal["error"]), (400, &json!("invalid_grant")));
    assert_eq!(refusal["error_description"], "Account disabled");

    keycloak.put(&WantedUser { version: 3, ..wanted("ada") }, Some(&id)).await.unwrap();

    assert_eq!(realm.login("ada").await.0, 200, "the password survived");
}

async fn a_foreign_account_with_the_username_or_the_address_is_a_refusal_for_good(realm: &Realm) {
    let foreign = realm.create(json!({"username": "ada", "email": "other@example.org", "enabled": true})).await;
    realm.create(json!({"username": "someone", "email": "bob@example.org", "enabled": true})).await;
    let keycloak = realm.keycloak();

    let name_taken = keycloak.put(&wanted("ada"), None).await.unwrap_err();
    let email_taken = keycloak.put(&wanted("bob"), None).await.unwrap_err();

    assert_eq!(refusal(&name_taken), Some(Refusal::UsernameTaken), "{name_taken}");
    assert!(name_taken.to_string().contains(&foreign), "{name_taken}");
    assert_eq!(refusal(&email_taken), Some(Refusal::EmailTaken), "{email_taken}");
    assert_eq!(realm.account("ada").await.unwrap()["email"], "other@example.org");
    assert_eq!(realm.count().await, 2);
}

fn refusal(error: &ProviderError) -> Option<Refusal> {
    match error {
        ProviderError::Permanent { reason, .. } => Some(*reason),
        _ => None,
    }
}

async fn a_renaming_onto_a_foreign_account_is_a_refusal_for_good_and_changes_nothing(realm: &Realm) {
    realm.create(json!({"username": "bob", "email": "taken@example.org", "enabled": true})).await;
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    let same_name = WantedUser { version: 2, username: "bob".into(), ..wanted("ada") };
    let same_address = WantedUser { version: 2, email: "taken@example.org".into(), ..wanted("ada") };

    let name_taken = keycloak.put(&same_name, Some(&id)).await.unwrap_err();
    let email_taken = keycloak.put(&same_address, Some(&id)).await.unwrap_err();

    assert_eq!(refusal(&name_taken), Some(Refusal::UsernameTaken), "{name_taken}");
    assert_eq!(refusal(&email_taken), Some(Refusal::EmailTaken), "{email_taken}");
    let read = keycloak.read(Lookup::Id(&id)).await.unwrap().unwrap();
    assert_eq!(read.differences(&wanted("ada")), Vec::<&str>::new());
}

async fn a_name_that_another_of_our_users_still_has_is_to_be_tried_later(realm: &Realm) {
    let keycloak = realm.keycloak();
    let ada = keycloak.put(&wanted("ada"), None).await.unwrap();
    let heir = WantedUser { username: "ada".into(), ..wanted("heir") };

    let early = keycloak.put(&heir, None).await.unwrap_err();
    let renamed =
        WantedUser { version: 2, username: "countess".into(), email: "countess@example.org".into(), ..wanted("ada") };
    keycloak.put(&renamed, Some(&ada)).await.unwrap();

    assert!(matches!(early, ProviderError::RetryLater { .. }), "{early}");
    keycloak.put(&heir, None).await.unwrap();
}

async fn a_known_id_of_a_foreign_account_is_a_refusal_and_leaves_it_alone(realm: &Realm) {
    let id = realm.create(json!({"username": "bob", "email": "bob@example.org", "enabled": true})).await;
    let keycloak = realm.keycloak();

    let put = keycloak.put(&wanted("ada"), Some(&ProviderId(id.clone()))).await.unwrap_err();
    let deleted = keycloak.delete(wanted("ada").user_id, Some(&ProviderId(id))).await.unwrap_err();

    assert_eq!(refusal(&put), Some(Refusal::ForeignAccount), "{put}");
    assert_eq!(refusal(&deleted), Some(Refusal::ForeignAccount), "{deleted}");
    assert_eq!(realm.account("bob").await.unwrap()["email"], "bob@example.org");
}

async fn looking_up_a_username_is_exact_and_folds_case(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada.lovelace"), None).await.unwrap();

    for prefix_or_pattern in ["ada", "ada.lovelac", "ada*", "ada_lovelace", ""] {
        assert_eq!(keycloak.read(Lookup::Username(prefix_or_pattern)).await.unwrap(), None, "{prefix_or_pattern}");
    }
    assert_eq!(keycloak.read(Lookup::Username("ADA.Lovelace")).await.unwrap().unwrap().id, id);
    assert_eq!(keycloak.read(Lookup::User(Uuid::from_u128(7))).await.unwrap(), None);
    assert_eq!(keycloak.read(Lookup::Id(&ProviderId("nobody".into()))).await.unwrap(), None);
}

async fn a_put_that_comes_late_changes_nothing(realm: &Realm) {
    let keycloak = realm.keycloak();
    let newer = WantedUser { version: 5, first_name: "Augusta".into(), ..wanted("ada") };
    let id = keycloak.put(&newer, None).await.unwrap();

    for (version, known) in [(4, Some(&id)), (3, None)] {
        let late = WantedUser { version, enabled: false, ..wanted("ada") };
        assert_eq!(keycloak.put(&late, known).await.unwrap(), id);
    }

    assert_eq!(keycloak.read(Lookup::Id(&id)).await.unwrap().unwrap().differences(&newer), Vec::<&str>::new());
}

async fn deleting_removes_the_account_and_again_is_success(realm: &Realm) {
    let keycloak = realm.keycloak();
    let ada = keycloak.put(&wanted("ada"), None).await.unwrap();
    keycloak.put(&wanted("bob"), None).await.unwrap();
    realm.create(json!({"username": "foreign", "email": "foreign@example.org", "enabled": true})).await;

    keycloak.delete(wanted("ada").user_id, Some(&ada)).await.unwrap();
    keycloak.delete(wanted("ada").user_id, Some(&ada)).await.unwrap();
    keycloak.delete(wanted("bob").user_id, None).await.unwrap();
    keycloak.delete(wanted("bob").user_id, None).await.unwrap();

    assert_eq!(realm.account("ada").await, None);
    assert_eq!(realm.account("bob").await, None);
    assert_eq!(realm.count().await, 1, "the foreign one is there");
}

async fn values_that_keycloak_does_not_take_are_a_refusal_for_good_in_its_words(realm: &Realm) {
    let keycloak = realm.keycloak();
    let bad = [
        (WantedUser { email: "no address".into(), ..wanted("ada") }, "email: error-invalid-email", "email"),
        (
            WantedUser { username: "aa".into(), ..wanted("ada") },
            "username: error-invalid-length (3 to 255)",
            "username",
        ),
        (
            WantedUser { username: "x".repeat(256), ..wanted("ada") },
            "username: error-invalid-length (3 to 255)",
            "username",
        ),
        (
            WantedUser { username: "a<b>c".into(), ..wanted("ada") },
            "username: error-username-invalid-character",
            "username",
        ),
        (
            WantedUser { first_name: "<script>".into(), ..wanted("ada") },
            "firstName: error-person-name-invalid-character",
            "first_name",
        ),
        (
            WantedUser { last_name: "Ada?".into(), ..wanted("ada") },
            "lastName: error-person-name-invalid-character",
            "last_name",
        ),
    ];
    for (user, said, field) in &bad {
        let error = keycloak.put(user, None).await.unwrap_err();
        let ProviderError::Permanent { reason: Refusal::InvalidUser, detail } = &error else { panic!("{error:?}") };
        let expected = format!(
            "Keycloak refuses it ({said}): change the user's {field}, or what the realm takes (Realm settings > User \
             profile), and retry"
        );
        assert_eq!(*detail, expected, "the values themselves stay out of it");
    }
    let long = WantedUser { last_name: "x".repeat(256), first_name: "<".into(), ..wanted("ada") };
    let error = keycloak.put(&long, None).await.unwrap_err().to_string();
    assert!(error.contains("error-invalid-length") && error.contains("error-person-name-invalid-character"), "{error}");
    assert!(error.contains("first_name and last_name"), "{error}");
    assert_eq!(realm.count().await, 0);
}

async fn removing_takes_the_one_account_and_only_while_it_carries_our_id(realm: &Realm) {
    let keycloak = realm.keycloak();
    let (ada, bob) = (wanted("ada").user_id, wanted("bob").user_id);
    let first = keycloak.put(&wanted("ada"), None).await.unwrap();
    let attributes = json!({"essaim_user_id": [ada.to_string()]});
    let second =
        ProviderId(realm.create(json!({"username": "second", "enabled": true, "attributes": attributes})).await);
    let foreign = ProviderId(realm.create(json!({"username": "foreign", "enabled": true})).await);

    keycloak.remove(&second, bob).await.unwrap();
    keycloak.remove(&foreign, ada).await.unwrap();
    assert_eq!(realm.count().await, 3, "none of them carries that id");
    keycloak.remove(&second, ada).await.unwrap();
    keycloak.remove(&second, ada).await.unwrap();

    assert_eq!(realm.account("second").await, None);
    assert_eq!(realm.account("ada").await.unwrap()["id"], first.0);
}

async fn whether_somebody_is_logged_in_is_known_until_the_sessions_end(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    realm.set_password(&id.0).await;
    assert!(!keycloak.is_logged_in(&id).await.unwrap());

    assert_eq!(realm.login("ada").await.0, 200);
    assert!(keycloak.is_logged_in(&id).await.unwrap());
    keycloak.put(&WantedUser { version: 2, enabled: false, ..wanted("ada") }, Some(&id)).await.unwrap();

    assert!(!keycloak.is_logged_in(&id).await.unwrap());
    assert!(!keycloak.is_logged_in(&ProviderId("nobody".into())).await.unwrap());
}

async fn an_address_verified_there_stays_verified_until_it_changes(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    let mut account = realm.account("ada").await.unwrap();
    account["emailVerified"] = json!(true);
    realm.replace(&account).await;

    let renamed = WantedUser { version: 2, first_name: "Augusta".into(), ..wanted("ada") };
    keycloak.put(&renamed, Some(&id)).await.unwrap();
    assert_eq!(realm.account("ada").await.unwrap()["emailVerified"], true);

    let moved = WantedUser { version: 3, email: "new@example.org".into(), ..wanted("ada") };
    keycloak.put(&moved, Some(&id)).await.unwrap();
    assert_eq!(realm.account("ada").await.unwrap()["emailVerified"], false);
}

async fn listing_goes_through_every_account_page_by_page(realm: &Realm) {
    let keycloak = realm.keycloak();
    let names = ["ada", "bob", "cyd", "dan", "eve"];
    for name in names {
        keycloak.put(&wanted(name), None).await.unwrap();
    }
    realm.create(json!({"username": "foreign", "enabled": true})).await;

    let mut seen = Vec::new();
    for skip in [0, 4] {
        seen.extend(keycloak.list(skip, 4).await.unwrap());
    }

    assert_eq!(seen.len(), 6);
    assert_eq!(keycloak.list(6, 4).await.unwrap(), []);
    let ours: BTreeSet<_> = seen.iter().filter_map(|account| account.user_id).collect();
    assert_eq!(ours, names.iter().map(|name| wanted(name).user_id).collect());
}

async fn logins_are_polled_once_each_oldest_first(realm: &Realm) {
    let keycloak = realm.keycloak();
    let nothing = keycloak.events(None, 10).await.unwrap();
    assert_eq!((nothing.events, nothing.next), (vec![], None));
    let mut ids = Vec::new();
    for name in ["ada", "bob"] {
        let id = keycloak.put(&wanted(name), None).await.unwrap();
        realm.set_password(&id.0).await;
        ids.push(id);
    }
    for name in ["ada", "bob", "ada", "bob", "ada"] {
        assert_eq!(realm.login(name).await.0, 200);
    }

    let mut cursor = None;
    let mut polled = Vec::new();
    // Five events make three pages, and an empty one.
    for _ in 0..4 {
        let page = keycloak.events(cursor.as_ref(), 2).await.unwrap();
        assert!(page.events.len() <= 2);
        cursor = page.next;
        polled.extend(page.events);
    }
    assert_eq!(polled.len(), 5);
    assert_eq!(realm.login("bob").await.0, 200);
    polled.extend(keycloak.events(cursor.as_ref(), 2).await.unwrap().events);

    let accounts: Vec<_> = polled.iter().map(|event| &event.account).collect();
    assert_eq!(accounts, [&ids[0], &ids[1], &ids[0], &ids[1], &ids[0], &ids[1]]);
    assert!(polled.iter().all(|event| event.kind == EventKind::Login && event.email.is_none()));
    assert!(polled.is_sorted_by_key(|event| event.at));
    assert_eq!(polled.iter().map(|event| &event.id).collect::<BTreeSet<_>>().len(), 6);
}

async fn a_verified_address_is_polled_with_the_address_it_was(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();

    realm.verify_email("ada").await;

    assert_eq!(realm.account("ada").await.unwrap()["emailVerified"], true);
    let page = keycloak.events(None, 10).await.unwrap();
    let [event] = &page.events[..] else { panic!("one event: {page:?}") };
    assert_eq!((event.kind, &event.account), (EventKind::EmailVerified, &id));
    assert_eq!(event.email.as_deref(), Some("ada@example.org"));
    assert_eq!(keycloak.events(page.next.as_ref(), 10).await.unwrap().events, []);
}

async fn what_is_done_to_accounts_is_an_admin_event(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    keycloak.put(&WantedUser { version: 2, ..wanted("ada") }, Some(&id)).await.unwrap();
    keycloak.delete(wanted("ada").user_id, Some(&id)).await.unwrap();

    let events = realm.get(&format!("/admin/realms/{}/admin-events?max=3", realm.name)).await;

    let done: Vec<_> =
        events.as_array().unwrap().iter().map(|event| event["operationType"].as_str().unwrap()).collect();
    assert_eq!(done, ["DELETE", "UPDATE", "CREATE"], "newest first");
    assert_eq!(events[0]["resourcePath"], format!("users/{id}"));
}

async fn a_realm_as_it_should_be_is_ready(realm: &Realm) {
    let checks = realm.keycloak().check().await;

    let names: Vec<_> = checks.iter().map(|check| check.name).collect();
    assert_eq!(names, ["reached", "manage_users", "attributes", "profile_fields", "usernames", "events"]);
    assert!(checks.iter().all(|check| check.ok && check.remedy.is_none()), "{checks:#?}");
    assert_eq!(realm.count().await, 0, "looking changes nothing");
}

async fn readiness_names_each_missing_setting_and_how_to_mend_it(realm: &Realm) {
    let keycloak = realm.keycloak();
    for policy in [Value::Null, json!("ADMIN_VIEW"), json!("ENABLED")] {
        realm.change_profile(|profile| profile["unmanagedAttributePolicy"] = policy.clone()).await;
        the_only_fault(&keycloak, "attributes", "unmanagedAttributePolicy").await;
    }
    realm.change_profile(|profile| profile["unmanagedAttributePolicy"] = json!("ADMIN_EDIT")).await;

    realm.change_profile(|profile| attributes(profile).retain(|attribute| attribute["name"] != "lastName")).await;
    let fault = the_only_fault(&keycloak, "profile_fields", "User profile").await;
    assert!(fault.detail.contains("lastName") && !fault.detail.contains("firstName"), "{fault:?}");
    realm
        .change_profile(|profile| {
            let both = json!({"view": ["admin", "user"], "edit": ["admin", "user"]});
            attributes(profile).push(json!({"name": "lastName", "permissions": both}));
        })
        .await;

    realm.change(json!({"editUsernameAllowed": false})).await;
    the_only_fault(&keycloak, "usernames", "editUsernameAllowed").await;
    realm.change(json!({"editUsernameAllowed": true, "registrationEmailAsUsername": true})).await;
    the_only_fault(&keycloak, "usernames", "Email as username").await;
    realm.change(json!({"registrationEmailAsUsername": false})).await;

    realm.change(json!({"eventsEnabled": false})).await;
    the_only_fault(&keycloak, "events", "Save events").await;
    realm.change(json!({"eventsEnabled": true, "enabledEventTypes": ["LOGIN"]})).await;
    let fault = the_only_fault(&keycloak, "events", "Verify email").await;
    assert!(fault.detail.contains("VERIFY_EMAIL"), "{fault:?}");
}

fn attributes(profile: &mut Value) -> &mut Vec<Value> {
    profile["attributes"].as_array_mut().unwrap()
}

/// The one check that fails, which is called `name` and whose remedy names `remedy`.
async fn the_only_fault(keycloak: &Keycloak, name: &str, remedy: &str) -> ReadinessCheck {
    let faults: Vec<_> = keycloak.check().await.into_iter().filter(|check| !check.ok).collect();
    let [fault] = &faults[..] else { panic!("one fault, {name}, expected: {faults:#?}") };
    assert_eq!(fault.name, name, "{fault:?}");
    assert!(fault.remedy.as_ref().is_some_and(|text| text.contains(remedy)), "{fault:?}");
    fault.clone()
}

async fn readiness_names_the_rights_that_our_client_lacks(realm: &Realm) {
    let reader = Keycloak::new(KeycloakOptions::new(&realm.url, &realm.name, READER, SECRET)).unwrap();

    let checks = reader.check().await;
    let put = reader.put(&wanted("ada"), None).await.unwrap_err();

    let faults: Vec<_> =
        checks.iter().filter(|check| !check.ok).map(|check| (check.name, check.remedy.as_deref())).collect();
    let [("manage_users", Some(manage)), ("usernames", Some(realm_view)), ("events", Some(events))] = faults[..] else {
        panic!("{checks:#?}")
    };
    assert!(manage.contains("assign manage-users") && manage.contains(READER), "{manage}");
    assert!(realm_view.contains("assign view-realm"), "{realm_view}");
    assert!(events.contains("assign view-events"), "{events}");
    assert!(matches!(&put, ProviderError::Configuration { detail } if detail.contains("manage-users")), "{put}");
}

async fn a_realm_that_drops_our_attributes_is_a_fault_of_the_set_up_and_of_no_user(realm: &Realm) {
    let keycloak = realm.keycloak();
    let id = keycloak.put(&wanted("ada"), None).await.unwrap();
    realm.change_profile(|profile| profile["unmanagedAttributePolicy"] = Value::Null).await;

    let known = keycloak.put(&WantedUser { version: 2, ..wanted("ada") }, Some(&id)).await.unwrap_err();
    let unknown = keycloak.delete(wanted("ada").user_id, None).await.unwrap_err();
    let fresh = realm.keycloak().put(&wanted("bob"), None).await.unwrap_err();

    for error in [known, unknown, fresh] {
        let says = |detail: &str| detail.contains("unmanagedAttributePolicy");
        assert!(matches!(&error, ProviderError::Configuration { detail } if says(detail)), "{error}");
    }
    assert_eq!(realm.count().await, 1, "no account was made that nobody could find again");
}

async fn a_wrong_secret_client_or_realm_is_a_fault_of_the_set_up_and_names_no_secret(realm: &Realm) {
    let wrong = "wrong-secret-5d1c";
    let cases = [
        (KeycloakOptions::new(&realm.url, &realm.name, CLIENT, wrong), "its id or secret"),
        (KeycloakOptions::new(&realm.url, &realm.name, "nobody", wrong), "its id or secret"),
        (KeycloakOptions::new(&realm.url, "no-such-realm", CLIENT, wrong), "the realm \"no-such-realm\" is not there"),
        (KeycloakOptions::new(format!("{}/auth", realm.url), &realm.name, CLIENT, wrong), "correct the"),
    ];
    for (options, says) in cases {
        let keycloak = Keycloak::new(options.clone()).unwrap();

        let error = keycloak.put(&wanted("ada"), None).await.unwrap_err();
        let checks = keycloak.check().await;

        assert!(matches!(&error, ProviderError::Configuration { detail } if detail.contains(says)), "{error}");
        assert!(checks.len() == 1 && !checks[0].ok && checks[0].name == "reached", "{checks:?}");
        assert!(!format!("{error} {error:?} {checks:?} {options:?} {keycloak:?}").contains(wrong));
    }
}
