//! This file tells users what happened to them and asks what they decide.

use super::*;
use crate::codec::encode_variant;
use crate::testing::given;

fn text<T: TryFrom<String>>(text: &str) -> T {
    T::try_from(text.to_owned()).ok().unwrap()
}

fn roles(names: &[&str]) -> Roles {
    serde_json::from_value(serde_json::json!(names)).unwrap()
}

fn at(second: i64) -> Moment {
    chrono::DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap().into()
}

fn register() -> UserCommand {
    UserCommand::Register {
        username: text("Ada"),
        email: text("Ada@Example.org"),
        first_name: text("Ada"),
        last_name: text("Lovelace"),
        organization_id: Uuid::from_u128(7),
        roles: roles(&["writer"]),
    }
}

fn registered() -> UserEvent {
    UserEvent::UserRegistered {
        username: text("ada"),
        email: text("ada@example.org"),
        first_name: text("Ada"),
        last_name: text("Lovelace"),
        organization_id: Uuid::from_u128(7),
        roles: roles(&["writer"]),
    }
}

fn disabled() -> UserEvent {
    UserEvent::UserDisabled { reason: None }
}

fn logged_in() -> UserEvent {
    UserEvent::UserLoggedIn { at: at(1) }
}

fn change_of_email(email: &str) -> UserCommand {
    UserCommand::Update { username: None, email: Some(text(email)), first_name: None, last_name: None }
}

fn email_changed(email: &str) -> UserEvent {
    UserEvent::UserUpdated { username: None, email: Some(text(email)), first_name: None, last_name: None }
}

fn claims(user: &User) -> Vec<String> {
    user.claims().into_iter().map(|claim| format!("{} {}", claim.scope, claim.value)).collect()
}

#[test]
fn every_state_takes_its_commands_and_refuses_the_others_for_its_reason() {
    use UserRejection::{AlreadyCreated, CannotDelete, Deleted, NotFound};
    // What happened, and how many events each command makes, or why it is refused.
    type Row = (Vec<UserEvent>, [Result<usize, UserRejection>; 8]);
    let commands = || {
        [
            register(),
            change_of_email("countess@example.org"),
            UserCommand::AssignRoles { roles: roles(&["admin"]) },
            UserCommand::Enable,
            UserCommand::Disable { reason: None },
            UserCommand::VerifyEmail,
            UserCommand::RecordLogin { at: at(2) },
            UserCommand::Delete,
        ]
    };
    let none = [
        Ok(1),
        Err(NotFound),
        Err(NotFound),
        Err(NotFound),
        Err(NotFound),
        Err(NotFound),
        Err(NotFound),
        Err(NotFound),
    ];
    let taken = Err(AlreadyCreated);
    //                                                      register  update roles enable disable verify login delete
    let rows: [Row; 7] = [
        (vec![], none),
        (vec![registered()], [taken, Ok(1), Ok(1), Ok(0), Ok(1), Ok(1), Ok(1), Ok(1)]),
        (vec![registered(), UserEvent::UserEmailVerified], [taken, Ok(1), Ok(1), Ok(0), Ok(1), Ok(0), Ok(1), Ok(1)]),
        (vec![registered(), logged_in()], [taken, Ok(1), Ok(1), Ok(0), Ok(1), Ok(1), Ok(1), Err(CannotDelete)]),
        (vec![registered(), logged_in(), disabled()], [taken, Ok(1), Ok(1), Ok(1), Ok(0), Ok(1), Ok(1), Ok(1)]),
        (
            vec![registered(), logged_in(), disabled(), UserEvent::UserEnabled],
            [taken, Ok(1), Ok(1), Ok(0), Ok(1), Ok(1), Ok(1), Err(CannotDelete)],
        ),
        (vec![registered(), UserEvent::UserDeleted], [Err(Deleted); 8]),
    ];
    for (events, expected) in rows {
        let told = format!("{events:?}");
        let user = given::<User>(events);

        let found = commands().map(|command| user.state().decide(&command).map(|events| events.len()));

        assert_eq!(found, expected, "{told}");
    }
}

#[test]
fn a_life_of_a_user_is_told_in_events() {
    given::<User>([])
        .when(register())
        .then_events([registered()])
        .when(UserCommand::VerifyEmail)
        .then_events([UserEvent::UserEmailVerified])
        .when(UserCommand::RecordLogin { at: at(1) })
        .then_events([logged_in()])
        .when(UserCommand::AssignRoles { roles: roles(&["writer", "admin"]) })
        .then_events([UserEvent::UserRolesAssigned { roles: roles(&["admin", "writer"]) }])
        .when(UserCommand::Delete)
        .then_rejected(UserRejection::CannotDelete)
        .when(UserCommand::Disable { reason: Some(text("left")) })
        .then_events([UserEvent::UserDisabled { reason: Some(text("left")) }])
        .when(UserCommand::Delete)
        .then_events([UserEvent::UserDeleted])
        .when(UserCommand::Enable)
        .then_rejected(UserRejection::Deleted);
}

#[test]
fn an_update_tells_only_what_changed_and_nothing_when_nothing_did() {
    let everything_as_it_is = UserCommand::Update {
        username: Some(text("ADA")),
        email: Some(text("ada@EXAMPLE.org")),
        first_name: Some(text("Ada")),
        last_name: Some(text("Lovelace")),
    };
    let one_of_two = UserCommand::Update {
        username: None,
        email: None,
        first_name: Some(text("Ada")),
        last_name: Some(text("King")),
    };
    let last_name_changed =
        UserEvent::UserUpdated { username: None, email: None, first_name: None, last_name: Some(text("King")) };

    given::<User>([registered()])
        .when(everything_as_it_is)
        .then_nothing()
        .when(UserCommand::AssignRoles { roles: roles(&["writer", "writer"]) })
        .then_nothing()
        .when(one_of_two.clone())
        .then_events([last_name_changed])
        .when(one_of_two)
        .then_nothing();
}

#[test]
fn a_changed_email_is_unverified_again_and_a_changed_name_is_not() {
    let renamed =
        UserEvent::UserUpdated { username: Some(text("countess")), email: None, first_name: None, last_name: None };

    given::<User>([registered(), UserEvent::UserEmailVerified, renamed])
        .when(UserCommand::VerifyEmail)
        .then_nothing()
        .when(change_of_email("countess@example.org"))
        .then_events([email_changed("countess@example.org")])
        .when(UserCommand::VerifyEmail)
        .then_events([UserEvent::UserEmailVerified]);
}

#[test]
fn an_address_that_was_verified_elsewhere_counts_only_while_it_is_the_users() {
    let confirm = |email: &str| UserCommand::ConfirmEmail { email: text(email) };

    given::<User>([registered(), email_changed("countess@example.org")])
        .when(confirm("ada@example.org"))
        .then_nothing()
        .when(confirm("Countess@example.org"))
        .then_events([UserEvent::UserEmailVerified])
        .when(confirm("countess@example.org"))
        .then_nothing();
    given::<User>([]).when(confirm("ada@example.org")).then_rejected(UserRejection::NotFound);
}

#[test]
fn username_and_email_are_held_as_long_as_they_are_the_users() {
    let registered = given::<User>([registered()]);
    let changed = given::<User>([self::registered(), email_changed("countess@example.org")]);
    let deleted = given::<User>([self::registered(), UserEvent::UserDeleted]);

    assert_eq!(claims(&User::default()), Vec::<String>::new());
    assert_eq!(claims(registered.state()), ["user_email ada@example.org", "user_username ada"]);
    assert_eq!(claims(changed.state()), ["user_email countess@example.org", "user_username ada"]);
    assert_eq!(claims(deleted.state()), Vec::<String>::new());
}

#[test]
fn events_stand_in_the_log_as_clients_write_their_fields() {
    let written = |event: UserEvent| encode_variant(&event).unwrap();

    assert_eq!(
        written(registered()),
        (
            "UserRegistered",
            r#"{"username":"ada","email":"ada@example.org","first_name":"Ada","last_name":"Lovelace","organization_id":"00000000-0000-0000-0000-000000000007","roles":["writer"]}"#.into()
        )
    );
    assert_eq!(written(email_changed("a@b.co")), ("UserUpdated", r#"{"email":"a@b.co"}"#.into()));
    assert_eq!(written(disabled()), ("UserDisabled", r#"{"reason":null}"#.into()));
    assert_eq!(written(logged_in()), ("UserLoggedIn", r#"{"at":"2023-11-14T22:13:21.000000Z"}"#.into()));
    assert_eq!(written(UserEvent::UserDeleted), ("UserDeleted", "{}".into()));
}

#[test]
fn refusals_carry_the_codes_that_clients_act_on() {
    use UserRejection::{AlreadyCreated, CannotDelete, Deleted, NotFound};
    let codes = [AlreadyCreated, NotFound, Deleted, CannotDelete].map(UserRejection::code);

    assert_eq!(codes, ["already_created", "not_found", "deleted", "cannot_delete"]);
}
