//! This file tells users' events to a table and looks at what it lists.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::projections::table::Table;
use crate::projections::told_users::{Told, at, registered};

fn listed(told: &Told<UserList>, filter: &UserFilter) -> Vec<u128> {
    told.table.read(|users| ids(&page(users, filter, None, 100).rows))
}

fn ids(rows: &[Arc<UserListRow>]) -> Vec<u128> {
    rows.iter().map(|row| row.id.as_u128()).collect()
}

fn begins(prefix: &str) -> UserFilter {
    UserFilter { prefix: Some(Prefix::of(prefix)), ..UserFilter::default() }
}

#[test]
fn a_row_survives_the_way_to_sql_and_back() {
    let mut told = Told::<UserList>::default();
    told.tell(1, "UserRegistered", &registered(1, "ada", "Ada", "Lovelace"));
    told.tell(1, "UserEmailVerified", "{}");
    told.tell(1, "UserLoggedIn", r#"{"at":"2023-11-15T00:00:00.000000Z"}"#);
    told.tell(1, "UserLoggedIn", r#"{"at":"2023-11-14T00:00:00.000000Z"}"#);

    let row = told.table.get(&Uuid::from_u128(1)).unwrap();
    let read = UserListRow::read(&mut Values::new(UserListRow::COLUMNS, row.write())).unwrap();

    assert_eq!(read, *row);
    assert_eq!((row.full_name().as_str(), row.status(), row.version), ("Ada Lovelace", UserStatus::Active, 4));
    assert_eq!(row.last_login_at.map(|time| time.to_rfc3339()).as_deref(), Some("2023-11-15T00:00:00+00:00"));
    assert_eq!(row.write()[12..], [Value::Text("Ada Lovelace".into()), Value::Text("active".into())]);
}

#[test]
fn what_can_be_done_with_a_user_follows_from_where_it_stands() {
    let mut told = Told::<UserList>::default();
    (1..=4).for_each(|user| told.tell(user, "UserRegistered", &registered(1, &format!("user{user}"), "A", "B")));
    told.tell(2, "UserEmailVerified", "{}");
    told.tell(2, "UserLoggedIn", r#"{"at":"2023-11-15T00:00:00Z"}"#);
    told.tell(3, "UserLoggedIn", r#"{"at":"2023-11-15T00:00:00Z"}"#);
    told.tell(3, "UserDisabled", "{}");
    told.tell(4, "UserEmailVerified", "{}");
    told.tell(4, "UserUpdated", r#"{"email":"other@example.org"}"#);
    let shown = |user| {
        let row = told.table.get(&Uuid::from_u128(user)).unwrap();
        let can = [row.can_edit(), row.can_delete(), row.can_enable(), row.can_disable()];
        (row.status().as_str(), row.status().color(), can)
    };

    //                                        edit   delete enable disable
    assert_eq!(shown(1), ("unverified", "orange", [false, true, false, true]));
    assert_eq!(shown(2), ("active", "green", [true, false, false, true]));
    assert_eq!(shown(3), ("disabled", "red", [false, true, true, false]));
    assert_eq!(shown(4), ("unverified", "orange", [false, true, false, true]), "its address is another one");
}

#[test]
fn a_status_is_read_in_french_or_english() {
    let labels = |language| UserStatus::ALL.map(|status| status.label(language));

    assert_eq!(labels(Language::French), ["Désactivé", "Non vérifié", "Actif"]);
    assert_eq!(labels(Language::English), ["Disabled", "Unverified", "Active"]);
}

#[test]
fn a_deleted_user_leaves_the_list() {
    let mut told = Told::<UserList>::default();
    told.tell(1, "UserRegistered", &registered(1, "ada", "Ada", "Lovelace"));
    told.tell(2, "UserRegistered", &registered(1, "bob", "Bob", "Martin"));

    told.tell(1, "UserDeleted", "{}");

    assert_eq!(listed(&told, &UserFilter::default()), [2]);
    assert_eq!(listed(&told, &begins("ada")), Vec::<u128>::new());
}

#[test]
fn a_prefix_is_looked_for_in_both_names_username_and_email_whatever_its_case() {
    let mut told = Told::<UserList>::default();
    told.tell(1, "UserRegistered", &registered(1, "ada", "Élodie", "Martin"));
    told.tell(2, "UserRegistered", &registered(1, "martina", "Martine", "Strauß"));
    told.tell(3, "UserRegistered", &registered(2, "bob", "ΟΔΥΣΣΕΎΣ", "O'Hara"));

    assert_eq!(listed(&told, &begins("MARTIN")), [2, 1], "each once, however many texts begin so");
    assert_eq!(listed(&told, &begins("élo")), [1]);
    assert_eq!(listed(&told, &begins("strauSS")), [2]);
    assert_eq!(listed(&told, &begins("οδυσσεύς")), [3]);
    assert_eq!(listed(&told, &begins("bob@example")), [3]);
    assert_eq!(listed(&told, &begins("dy")), Vec::<u128>::new(), "not in the middle");
    let in_other = UserFilter { organization_id: Some(Uuid::from_u128(2)), ..begins("martin") };
    assert_eq!(listed(&told, &in_other), Vec::<u128>::new());
}

#[test]
fn a_renamed_user_is_found_by_the_other_name_only() {
    let mut told = Told::<UserList>::default();
    told.tell(1, "UserRegistered", &registered(1, "ada", "Ada", "Byron"));

    told.tell(1, "UserUpdated", r#"{"last_name":"King"}"#);

    assert_eq!((listed(&told, &begins("byron")), listed(&told, &begins("king"))), (vec![], vec![1]));
}

#[test]
fn a_prefix_that_many_have_and_one_that_few_have_give_the_same_pages() {
    let mut told = Told::<UserList>::default();
    let count = 2 * u128::try_from(pages::FEW).unwrap();
    (1..=count).for_each(|user| {
        let first_name = if user % 2 == 0 { "Even" } else { "Odd" };
        told.tell(user, "UserRegistered", &registered(1, &format!("user{user}"), first_name, "Evenson"));
    });

    let (all, next) = told.table.read(|users| {
        let page = page(users, &begins("even"), None, 3);
        (ids(&page.rows), page.next)
    });

    assert_eq!(all, [count, count - 1, count - 2]);
    let second = told.table.read(|users| ids(&page(users, &begins("even"), next, 2).rows));
    assert_eq!(second, [count - 3, count - 4]);
}

fn any_filter() -> impl Strategy<Value = UserFilter> {
    let organization_id = prop::option::of((1..3_u128).prop_map(Uuid::from_u128));
    let status = prop::option::of(prop::sample::select(UserStatus::ALL.to_vec()));
    let prefix = prop::option::of("[abAB]{1,2}".prop_map(|text| Prefix::of(&text)));
    (organization_id, status, prefix).prop_map(|(organization_id, status, prefix)| UserFilter {
        organization_id,
        status,
        prefix,
    })
}

/// Tells users with short names, some of them changed, disabled, verified or deleted.
fn told_of(steps: &[(u128, usize, String, String)]) -> Told<UserList> {
    let (mut told, mut deleted) = (Told::<UserList>::default(), HashSet::new());
    for (user, step, first_name, last_name) in steps {
        let is_there = told.table.get(&Uuid::from_u128(*user)).is_some();
        match step {
            _ if deleted.contains(user) => {}
            _ if !is_there => {
                told.tell(
                    *user,
                    "UserRegistered",
                    &registered(1 + user % 2, &format!("bab{user}"), first_name, last_name),
                );
            }
            0 => told.tell(*user, "UserDisabled", "{}"),
            1 => told.tell(*user, "UserEmailVerified", "{}"),
            2 => told.tell(*user, "UserUpdated", &format!(r#"{{"first_name":"{first_name}"}}"#)),
            3 => told.tell(*user, "UserEnabled", "{}"),
            _ => {
                deleted.insert(*user);
                told.tell(*user, "UserDeleted", "{}");
            }
        }
    }
    told
}

/// What the filter asks for, row by row.
fn is_wanted(filter: &UserFilter, row: &UserListRow) -> bool {
    let begins = |prefix: &Prefix| {
        let texts = [&row.username, &row.email, &row.first_name, &row.last_name];
        texts.into_iter().any(|text| text.to_ascii_lowercase().starts_with(prefix.as_str()))
    };
    filter.organization_id.is_none_or(|id| row.organization_id == id)
        && filter.status.is_none_or(|status| row.status() == status)
        && filter.prefix.as_ref().is_none_or(begins)
}

proptest! {
    #[test]
    fn pages_together_are_what_the_filter_asks_for(
        steps in prop::collection::vec((1..25_u128, 0..5_usize, "[a-c]{1,3}", "[A-C]{1,3}"), 1..80),
        filter in any_filter(),
        limit in 1..7_usize,
    ) {
        let told = told_of(&steps);
        let mut wanted = told.table.read(|users| users.rows());
        wanted.retain(|row| is_wanted(&filter, row));
        wanted.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));

        let (mut by_cursor, mut before) = (Vec::new(), None);
        loop {
            let page = told.table.read(|users| page(users, &filter, before, limit));
            prop_assert!(page.rows.len() == limit || page.next.is_none(), "only the last page is short");
            by_cursor.extend(page.rows);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        let mut by_number = Vec::new();
        for number in 1.. {
            let page = told.table.read(|users| numbered_page(users, &filter, number, limit));
            prop_assert_eq!(page.total, wanted.len());
            if page.rows.is_empty() {
                break;
            }
            by_number.extend(page.rows);
        }

        prop_assert_eq!(&by_cursor, &wanted);
        prop_assert_eq!(&by_number, &wanted);
    }

    #[test]
    fn a_table_made_from_its_rows_lists_what_the_told_one_lists(
        steps in prop::collection::vec((1..25_u128, 0..5_usize, "[a-c]{1,3}", "[A-C]{1,3}"), 1..80),
        filter in any_filter(),
    ) {
        let told = told_of(&steps);
        let rows = told.table.read(|users| users.rows().iter().map(|row| (**row).clone()).collect());
        let loaded = Table::<UserList>::with_rows(rows, told.table.position(), crate::event::ChainHash::START);

        let both = [&told.table, &loaded].map(|table| table.read(|users| numbered_page(users, &filter, 1, 100)));

        prop_assert_eq!(&both[0], &both[1]);
        prop_assert!(both[0].rows.iter().all(|row| row.created_at >= at(1)));
    }
}
