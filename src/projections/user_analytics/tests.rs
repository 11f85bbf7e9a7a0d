//! This file tells users' events to a table and counts by hand what it counts.

use proptest::prelude::*;

use super::*;
use crate::projections::table::Table;
use crate::projections::told_users::{Told, at, registered};

const ORGANIZATION: u128 = 1;

fn counted(told: &Told<UserAnalytics>, from: u64, to: u64) -> UserFigures {
    told.table.read(|users| figures(users, Uuid::from_u128(ORGANIZATION), &(at(from)..=at(to))))
}

fn login(days: i64) -> String {
    format!(r#"{{"at":"{}"}}"#, (at(0) + chrono::Duration::days(days)).to_rfc3339())
}

/// Users 1, 2, 3 … each registered at the position of its number.
fn registered_users(count: u128) -> Told<UserAnalytics> {
    let mut told = Told::default();
    (1..=count).for_each(|user| {
        told.tell(user, "UserRegistered", &registered(ORGANIZATION, &format!("user{user}"), "A", "B"))
    });
    told
}

#[test]
fn users_are_counted_by_what_became_of_them() {
    let mut told = registered_users(5);
    told.tell(1, "UserDisabled", "{}");
    told.tell(2, "UserDisabled", "{}");
    told.tell(2, "UserEnabled", "{}");
    told.tell(3, "UserEmailVerified", "{}");
    told.tell(4, "UserEmailVerified", "{}");
    told.tell(4, "UserUpdated", r#"{"email":"other@example.org"}"#);
    told.tell(5, "UserDeleted", "{}");

    let all = counted(&told, 1, 5);

    assert_eq!((all.total_users, all.active_users, all.inactive_users(), all.verified_users), (4, 3, 1, 1));
    assert_eq!((all.users_with_login, all.average_days_to_first_login()), (0, None));
}

#[test]
fn both_ends_of_the_range_are_included() {
    let told = registered_users(5);

    assert_eq!(counted(&told, 2, 4).total_users, 3);
    assert_eq!(counted(&told, 2, 2).total_users, 1);
    assert_eq!(counted(&told, 6, 9).total_users, 0);
    assert_eq!(counted(&told, 4, 2).total_users, 0, "nothing lies between a later and an earlier time");
}

#[test]
fn another_organisation_is_not_counted() {
    let mut told = registered_users(2);
    told.tell(3, "UserRegistered", &registered(2, "other", "A", "B"));

    assert_eq!(counted(&told, 0, 9).total_users, 2);
}

#[test]
fn days_are_whole_and_counted_to_the_earliest_login() {
    let mut told = registered_users(3);
    // Each was registered some seconds after at(0): a day less those seconds is no whole day, and so on.
    told.tell(1, "UserLoggedIn", &login(9));
    told.tell(1, "UserLoggedIn", &login(4));
    told.tell(1, "UserLoggedIn", &login(7));
    told.tell(2, "UserLoggedIn", &login(1));
    told.tell(3, "UserLoggedIn", &login(-3));

    let (first, second, third) = (counted(&told, 1, 1), counted(&told, 2, 2), counted(&told, 3, 3));

    assert_eq!((first.days_to_first_login, second.days_to_first_login, third.days_to_first_login), (3, 0, -3));
    // (3 + 0) / 2
    assert_eq!(counted(&told, 1, 2).average_days_to_first_login().as_deref(), Some("1.5000"));
}

#[test]
fn an_average_has_four_decimals_rounded_half_away_from_zero() {
    let average = |days_to_first_login, users_with_login| {
        let figures = UserFigures { users_with_login, days_to_first_login, ..UserFigures::default() };
        figures.average_days_to_first_login().unwrap()
    };

    assert_eq!(average(1, 3), "0.3333");
    assert_eq!(average(2, 3), "0.6667");
    // 1 / 20,000 is half of the last decimal.
    assert_eq!((average(1, 20_000).as_str(), average(-1, 20_000).as_str()), ("0.0001", "-0.0001"));
    assert_eq!((average(1, 20_001).as_str(), average(-1, 20_001).as_str()), ("0.0000", "0.0000"));
    assert_eq!(average(1_000_000_000, 1), "1000000000.0000");
}

#[test]
fn a_row_survives_the_way_to_sql_and_back() {
    let mut told = registered_users(1);
    told.tell(1, "UserLoggedIn", &login(2));
    let row = told.table.get(&Uuid::from_u128(1)).unwrap();

    let read = UserAnalyticsRow::read(&mut Values::new(UserAnalyticsRow::COLUMNS, row.write())).unwrap();

    assert_eq!(read, *row);
}

/// Printed for the record: `cargo test --lib a_million_users -- --ignored --nocapture`.
#[test]
#[ignore = "measures, and takes some seconds"]
fn figures_of_a_million_users_over_a_thousand_ranges_are_measured() {
    const USERS: u64 = 1_000_000;
    let row = |n: u64| UserAnalyticsRow {
        id: Uuid::from_u128(u128::from(n)),
        organization_id: Uuid::from_u128(ORGANIZATION),
        created_at: at(n),
        enabled: n.is_multiple_of(3),
        email_verified: n.is_multiple_of(5),
        first_login_at: n.is_multiple_of(2).then(|| at(n) + chrono::Duration::days(i64::try_from(n % 50).unwrap())),
    };
    // In another order than that of their registration, as a database would give them.
    let rows = (0..USERS).map(|n| row(n * 600_011 % USERS)).collect();
    let table =
        Table::<UserAnalytics>::with_rows(rows, crate::stream::GlobalPosition(USERS), crate::event::ChainHash::START);
    let organization = Uuid::from_u128(ORGANIZATION);
    let mut times = Vec::new();
    for n in 0..1_000 {
        let (from, to) = (n * 7_919 % USERS, n * 104_729 % USERS);
        let range = at(from.min(to))..=at(from.max(to));
        let began = std::time::Instant::now();

        let found = table.read(|users| figures(users, organization, &range));

        times.push(began.elapsed());
        assert_eq!(found.total_users, from.abs_diff(to) + 1);
    }
    times.sort_unstable();
    println!("a thousand ranges over {USERS} users: median {:?}, 99th percentile {:?}", times[500], times[990]);
}

/// The same, one row after the other.
fn recounted(rows: &[Arc<UserAnalyticsRow>], range: &RangeInclusive<DateTime<Utc>>) -> UserFigures {
    let wanted = |row: &&Arc<UserAnalyticsRow>| {
        row.organization_id == Uuid::from_u128(ORGANIZATION) && range.contains(&row.created_at)
    };
    let rows: Vec<_> = rows.iter().filter(wanted).collect();
    let count = |is_counted: fn(&UserAnalyticsRow) -> bool| rows.iter().filter(|row| is_counted(row)).count() as u64;
    let days = rows.iter().filter_map(|row| Some((row.first_login_at? - row.created_at).num_seconds() / 86_400));
    UserFigures {
        total_users: rows.len() as u64,
        active_users: count(|row| row.enabled),
        verified_users: count(|row| row.email_verified),
        users_with_login: count(|row| row.first_login_at.is_some()),
        days_to_first_login: days.sum(),
    }
}

proptest! {
    #[test]
    fn figures_equal_those_of_a_straightforward_recount(
        steps in prop::collection::vec((1..40_u128, 0..7_usize, -50..50_i64), 1..150),
        ranges in prop::collection::vec((0..160_u64, 0..160_u64), 20),
    ) {
        let (mut told, mut gone) = (Told::<UserAnalytics>::default(), Vec::new());
        for (user, step, days) in steps {
            let is_there = told.table.get(&Uuid::from_u128(user)).is_some();
            match step {
                _ if gone.contains(&user) => {}
                _ if !is_there => {
                    let fields = registered(1 + user % 2, &format!("user{user}"), "A", "B");
                    told.tell(user, "UserRegistered", &fields);
                }
                0 => told.tell(user, "UserDisabled", "{}"),
                1 => told.tell(user, "UserEnabled", "{}"),
                2 => told.tell(user, "UserEmailVerified", "{}"),
                3 => told.tell(user, "UserUpdated", r#"{"email":"other@example.org"}"#),
                4 => {
                    gone.push(user);
                    told.tell(user, "UserDeleted", "{}");
                }
                _ => told.tell(user, "UserLoggedIn", &login(days)),
            }
        }
        let rows = told.table.read(|users| users.rows());
        let loaded = rows.iter().map(|row| (**row).clone()).collect();
        let loaded = Table::<UserAnalytics>::with_rows(loaded, told.table.position(), crate::event::ChainHash::START);

        for (from, to) in ranges {
            let range = at(from)..=at(to);
            let expected = recounted(&rows, &range);
            prop_assert_eq!(counted(&told, from, to), expected);
            let organization = Uuid::from_u128(ORGANIZATION);
            prop_assert_eq!(loaded.read(|users| figures(users, organization, &range)), expected);
        }
    }
}
