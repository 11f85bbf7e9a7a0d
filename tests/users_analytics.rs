//! The analytics of users against the same question asked in SQL of the typed table they are kept in.

#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use essaim::clock::{Clock, SystemClock};
use essaim::domain::user::{User, UserCommand};
use essaim::prelude::*;
use essaim::projections::user_analytics::{UserAnalytics, figures};
use futures::StreamExt;
use postgres::Database;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

const ORGANIZATIONS: u128 = 3;
/// Commands under way at once.
const CALLERS: usize = 64;

// The question of the read model, word for word of SQL: averages of whole days, cut towards zero.
const IN_SQL: &str = "
    SELECT COUNT(*) AS total_users,
           COUNT(*) FILTER (WHERE enabled) AS active_users,
           COUNT(*) FILTER (WHERE NOT enabled) AS inactive_users,
           COUNT(*) FILTER (WHERE email_verified) AS verified_users,
           COUNT(first_login_at) AS users_with_login,
           ROUND(AVG(EXTRACT(DAY FROM first_login_at - created_at)), 4)::text AS average_days_to_first_login
    FROM user_api_analytics_projections
    WHERE organization_id = $1 AND created_at BETWEEN $2 AND $3";

/// A clock on which every look takes some minutes, so that users are registered over months.
struct Fast(AtomicI64);

/// When it starts.
fn beginning() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

impl Clock for Fast {
    fn now(&self) -> DateTime<Utc> {
        const STEP_MICROS: i64 = 251_000_007;
        beginning() + TimeDelta::microseconds(self.0.fetch_add(STEP_MICROS, Ordering::AcqRel))
    }

    fn time_ordered_id(&self) -> Uuid {
        SystemClock.time_ordered_id()
    }

    fn random_id(&self) -> Uuid {
        SystemClock.random_id()
    }
}

/// A number that looks random and is the same in every run (SplitMix64).
fn scattered(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

fn users() -> u64 {
    if std::env::var_os("TEST_LONG").is_some() { 100_000 } else { 10_000 }
}

/// What happens to one user, some of it to few only.
fn life(n: u64) -> Vec<UserCommand> {
    let chance = scattered(n);
    let register = json!({"Register": {
        "username": format!("user{n}"), "email": format!("user{n}@example.org"), "first_name": "A", "last_name": "B",
        "organization_id": Uuid::from_u128(u128::from(chance) % ORGANIZATIONS), "roles": [],
    }});
    let mut commands = vec![serde_json::from_value(register).unwrap()];
    // From some days before the first registration to long behind the last; the second login may be told first.
    let login = |chance: u64| {
        let seconds = i64::try_from(chance % (86_400 * 200)).unwrap() - 86_400 * 5;
        UserCommand::RecordLogin { at: (beginning() + TimeDelta::seconds(seconds)).into() }
    };
    if chance & 0b1 == 0 {
        commands.push(login(chance >> 8));
    }
    if chance & 0b1_000_001 == 0 {
        commands.push(login(scattered(chance)));
    }
    if chance & 0b110 == 0 {
        commands.push(UserCommand::VerifyEmail);
    }
    if chance & 0b111_000 == 0 {
        commands.push(UserCommand::Disable { reason: None });
    }
    if chance & 0b11_111_000 == 0 {
        commands.push(UserCommand::Delete);
    }
    commands
}

async fn live(engine: &Engine, n: u64) {
    let user = User::id(Uuid::from_u128(u128::from(n) + 1));
    for command in life(n) {
        engine.execute(&user, command).await.expect("nothing is refused in these lives");
    }
}

async fn in_sql(connection: &mut PgConnection, organization: Uuid, from: DateTime<Utc>, to: DateTime<Utc>) -> Found {
    let row = sqlx::query(IN_SQL).bind(organization).bind(from).bind(to).fetch_one(connection).await.unwrap();
    let count = |name: &str| u64::try_from(row.get::<i64, _>(name)).unwrap();
    let counts = ["total_users", "active_users", "inactive_users", "verified_users", "users_with_login"].map(count);
    Found { counts, average: row.get("average_days_to_first_login") }
}

#[derive(Debug, PartialEq)]
struct Found {
    counts: [u64; 5],
    average: Option<String>,
}

fn hot(view: &View<UserAnalytics>, organization: Uuid, from: DateTime<Utc>, to: DateTime<Utc>) -> Found {
    let found = view.read(|users| figures(users, organization, &(from..=to)));
    let inactive = found.inactive_users();
    Found {
        counts: [found.total_users, found.active_users, inactive, found.verified_users, found.users_with_login],
        average: found.average_days_to_first_login(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn analytics_equal_the_same_question_in_sql_for_a_thousand_random_ranges() {
    let database = Database::fresh().await;
    let store = PostgresStore::open(&database.url).await.unwrap();
    let engine = Engine::builder(store).clock(Arc::new(Fast(AtomicI64::new(0))));
    let engine = engine.aggregate::<User>().projection(UserAnalytics).start().await.unwrap();
    futures::stream::iter(0..users()).for_each_concurrent(CALLERS, |n| live(&engine, n)).await;
    let view = engine.read_model::<UserAnalytics>().at_least(engine.head()).within(Duration::from_secs(20)).await;
    let view = view.unwrap();
    assert!(engine.shutdown(Duration::from_secs(30)).await, "the table is saved up to the head");

    let mut created: Vec<_> = view.read(|users| users.rows().iter().map(|row| row.created_at).collect());
    created.sort_unstable();
    let (first, last) = (created[0], created[created.len() - 1]);
    let span = u64::try_from((last - first).num_microseconds().unwrap()).unwrap();
    let mut connection = database.connection().await;
    let mut counted = 0;
    for round in 0..1_000 {
        let organization = Uuid::from_u128(u128::from(scattered(round)) % ORGANIZATIONS);
        let moment = |n: u64| first + TimeDelta::microseconds(i64::try_from(scattered(n) % span).unwrap());
        // Every other range begins and ends with a registration, so that its ends matter.
        let exactly = |n: u64| created[usize::try_from(scattered(n)).unwrap() % created.len()];
        let ends = [2 * round, 2 * round + 1].map(|n| if round % 2 == 0 { moment(n + 7_777) } else { exactly(n) });
        let (from, to) = (ends[0].min(ends[1]), ends[0].max(ends[1]));

        let (hot, sql) = (hot(&view, organization, from, to), in_sql(&mut connection, organization, from, to).await);

        assert_eq!(hot, sql, "{organization} from {from} to {to}");
        counted += hot.counts[0];
    }
    assert!(counted > 100 * users(), "the ranges are not all but empty: {counted}");
}
