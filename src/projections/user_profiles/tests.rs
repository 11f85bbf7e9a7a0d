//! This file tells users' events, and what came of their syncs, to a table and looks at what it shows.

use super::*;
use crate::projections::told_users::{Told, at, metadata, registered};

const ADA: u128 = 0xADA;

fn told_of(events: &[(&'static str, &str)]) -> Told<UserProfiles> {
    let mut told = Told::default();
    told.tell(ADA, "UserRegistered", &registered(7, "ada", "Ada", "Lovelace"));
    for (event_type, json) in events {
        let category = if event_type.starts_with("Identity") { "identity" } else { "user" };
        told.tell_of(category, ADA, event_type, json);
    }
    told
}

fn row(told: &Told<UserProfiles>) -> UserProfileRow {
    (*told.table.get(&Uuid::from_u128(ADA)).unwrap()).clone()
}

#[test]
fn a_row_has_every_field_and_who_did_it_and_survives_the_way_to_sql_and_back() {
    let told = told_of(&[
        ("UserUpdated", r#"{"last_name":"King"}"#),
        ("UserLoggedIn", r#"{"at":"2023-11-15T10:00:00.000000Z"}"#),
        ("UserLoggedIn", r#"{"at":"2023-11-15T09:00:00.000000Z"}"#),
        ("UserDisabled", r#"{"reason":"left"}"#),
        ("UserDeleted", "{}"),
        ("IdentityLinked", r#"{"provider_id":"kc-1"}"#),
        ("IdentitySynced", r#"{"version":6}"#),
    ]);

    let row = row(&told);

    let read = UserProfileRow::read(&mut Values::new(UserProfileRow::COLUMNS, row.write())).unwrap();
    assert_eq!(read, row);
    assert_eq!((row.username.as_str(), row.email.as_str(), row.last_name.as_str()), ("ada", "ada@example.org", "King"));
    assert_eq!((row.created_at, row.created_by.as_str()), (at(1), "admin-1"));
    assert_eq!((row.updated_at, row.updated_by.as_deref()), (Some(at(5)), Some("admin-5")), "a login is no change");
    assert_eq!((row.deleted_at, row.deleted_by.as_deref()), (Some(at(6)), Some("admin-6")));
    let logins = [row.first_login_at, row.last_login_at].map(|time| time.unwrap().to_rfc3339());
    assert_eq!(logins, ["2023-11-15T09:00:00+00:00", "2023-11-15T10:00:00+00:00"]);
    assert_eq!((row.enabled, row.disabled_reason.as_deref(), row.version), (false, Some("left"), 6));
    assert_eq!((row.provider_id.as_deref(), row.sync_state()), (Some("kc-1"), SyncState::Synced));
    assert_eq!(row.metadata, metadata("admin-1"));
}

#[test]
fn who_is_enabled_again_has_no_reason_not_to_be() {
    let told = told_of(&[("UserDisabled", r#"{"reason":"left"}"#), ("UserEnabled", "{}")]);

    assert_eq!((row(&told).enabled, row(&told).disabled_reason), (true, None));
}

#[test]
fn a_changed_address_is_unverified_and_a_changed_name_is_not() {
    let renamed = told_of(&[("UserEmailVerified", "{}"), ("UserUpdated", r#"{"first_name":"Augusta"}"#)]);
    let moved = told_of(&[("UserEmailVerified", "{}"), ("UserUpdated", r#"{"email":"king@example.org"}"#)]);

    assert!(row(&renamed).email_verified && !row(&moved).email_verified);
}

#[test]
fn the_sync_state_is_that_of_the_last_event_the_provider_must_learn_of() {
    let state = |events: &[_]| row(&told_of(events)).sync_state();
    let change = ("UserUpdated", r#"{"last_name":"King"}"#);
    let login = ("UserLoggedIn", r#"{"at":"2023-11-15T10:00:00Z"}"#);
    let synced = |version| if version == 1 { r#"{"version":1}"# } else { r#"{"version":2}"# };
    let failed = ("IdentitySyncFailed", r#"{"version":2,"reason":"another's name","permanent":true}"#);

    assert_eq!(state(&[]), SyncState::Pending);
    assert_eq!(state(&[("IdentitySynced", synced(1))]), SyncState::Synced);
    assert_eq!(state(&[("IdentitySynced", synced(1)), login]), SyncState::Synced, "the provider knows of logins");
    assert_eq!(state(&[("IdentitySynced", synced(1)), change]), SyncState::Pending);
    assert_eq!(state(&[("IdentitySynced", synced(1)), change, failed]), SyncState::Failed);
    assert_eq!(state(&[("IdentitySynced", synced(1)), change, failed, change]), SyncState::Failed, "it waits behind");
    assert_eq!(state(&[change, failed, ("IdentitySynced", synced(2))]), SyncState::Synced);
    assert_eq!(state(&[change, failed, ("IdentitySynced", synced(2)), change]), SyncState::Pending);
}

#[test]
fn an_outcome_of_a_user_that_never_was_shows_nothing() {
    let mut told = Told::<UserProfiles>::default();

    told.tell_of("identity", ADA, "IdentitySynced", r#"{"version":1}"#);

    assert!(told.table.is_empty());
}
