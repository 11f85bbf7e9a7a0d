//! How fast commands become durable on Postgres, beside a loop that loads and inserts, in one run: `cargo bench
//! --bench throughput`. Prints ratios, since machines differ and neighbours are noisy.
//!
//! Wants `TEST_DATABASE_URL`, a Postgres where it may create databases. `RUNS` (3) and `SECONDS_A_RUN` (4) say how
//! often and how long; names of lines (`loop loop-hot hot spread wide without flood flood-without bare lone
//! lone-without`) leave out the rest.

use std::sync::Arc;
use std::time::Duration;

use essaim::clock::{Clock, SystemClock};
use essaim::prelude::*;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};

use self::measuring::{Case, Gauge, Measured, Plan, Processor, Run, Totals, drive, fresh_database, measure, note};

mod measuring;

async fn table_of_the_loop(server: &str) -> (PgPool, Processor) {
    let url = fresh_database(server, "essaim_bench_loop").await;
    let pool: PgPool =
        PgPoolOptions::new().max_connections(64).test_before_acquire(false).connect(&url).await.expect("connects");
    pool.execute(
        "CREATE TABLE events (position bigserial PRIMARY KEY, stream text NOT NULL, version bigint NOT NULL, event_id uuid NOT NULL,
             type text NOT NULL, data json NOT NULL, metadata json NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now(),
             UNIQUE (stream, version))",
    )
    .await
    .expect("a fresh database takes a table");
    (pool, Processor::of_database(&url).await)
}

/// Reads the version and inserts the next; false when somebody else was quicker.
async fn load_and_insert(pool: &PgPool, stream: &str, data: &str) -> bool {
    let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM events WHERE stream = $1")
        .bind(stream)
        .fetch_one(pool)
        .await
        .expect("reads");
    let inserted = sqlx::query(
        "INSERT INTO events (stream, version, event_id, type, data, metadata) VALUES ($1, $2, $3, 'Read', $4::json, '{}')",
    )
    .bind(stream)
    .bind(version + 1)
    .bind(SystemClock.time_ordered_id())
    .bind(data)
    .execute(pool)
    .await;
    match inserted {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => false,
        Err(error) => panic!("the insert failed: {error}"),
    }
}

/// The loop that every design without group commit comes to: read the version, insert one row, commit.
async fn spread_loop(server: &str, streams: u64, callers: usize, time: Duration) -> Measured {
    let (pool, processor) = table_of_the_loop(server).await;
    let data = format!(r#"{{"value":1,"note":"{}"}}"#, note());
    measure(callers, time, processor, move |caller, n| {
        let (pool, data) = (pool.clone(), data.clone());
        async move {
            // One caller's streams are its own, so that nobody has to retry.
            let stream = format!("gauge-{}-{}", caller, n % streams.div_ceil(callers as u64).max(1));
            assert!(load_and_insert(&pool, &stream, &data).await, "nobody else writes there");
        }
    })
    .await
}

/// The same loop with everybody on one stream: who was too late tries again.
async fn hot_loop(server: &str, callers: usize, time: Duration) -> Measured {
    let (pool, processor) = table_of_the_loop(server).await;
    let data = format!(r#"{{"value":1,"note":"{}"}}"#, note());
    measure(callers, time, processor, move |_, _| {
        let (pool, data) = (pool.clone(), data.clone());
        async move { while !load_and_insert(&pool, "gauge-1", &data).await {} }
    })
    .await
}

/// One row, one statement, one connection, nobody else: the least a durable answer can cost here.
async fn bare_insert(server: &str, time: Duration) -> Measured {
    let url = fresh_database(server, "essaim_bench_bare").await;
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    connection
        .execute("CREATE TABLE events (position bigint PRIMARY KEY, data json NOT NULL)")
        .await
        .expect("takes a table");
    let processor = Processor::of_database(&url).await;
    let connection = Arc::new(tokio::sync::Mutex::new((connection, 0_i64)));
    let data = format!(r#"{{"value":1,"note":"{}"}}"#, note());
    measure(1, time, processor, move |_, _| {
        let (connection, data) = (Arc::clone(&connection), data.clone());
        async move {
            let mut guard = connection.lock().await;
            let (connection, position) = &mut *guard;
            *position += 1;
            sqlx::query("INSERT INTO events (position, data) SELECT p, d::json FROM unnest($1::bigint[], $2::text[]) AS e (p, d)")
                .bind(vec![*position])
                .bind(vec![data])
                .execute(connection)
                .await
                .expect("inserts");
        }
    })
    .await
}

async fn through_the_engine(
    server: &str,
    streams: usize,
    callers: usize,
    time: Duration,
    with_projection: bool,
) -> Measured {
    let url = fresh_database(server, "essaim_bench_engine").await;
    let builder = Engine::builder(PostgresStore::open(&url).await.expect("opens")).aggregate::<Gauge>();
    let builder = if with_projection { builder.projection(Totals) } else { builder };
    let engine = builder.start().await.expect("starts");
    drive(engine, streams, callers, time, Processor::of_database(&url).await).await
}

fn case(name: &str, shown: &str, beside: Option<&str>, run: Run) -> Case {
    Case { name: name.into(), shown: shown.into(), beside: beside.map(Into::into), run }
}

fn through(streams: usize, callers: usize, with_projection: bool) -> Run {
    Box::new(move |server, time| {
        Box::pin(async move { through_the_engine(&server, streams, callers, time, with_projection).await })
    })
}

fn cases() -> Vec<Case> {
    let spread: Run = Box::new(|server, time| Box::pin(async move { spread_loop(&server, 1_000, 64, time).await }));
    let hot: Run = Box::new(|server, time| Box::pin(async move { hot_loop(&server, 64, time).await }));
    let bare: Run = Box::new(|server, time| Box::pin(async move { bare_insert(&server, time).await }));
    vec![
        case("loop", "load-and-insert loop, 64 connections", None, spread),
        case("loop-hot", "  the same on one stream", Some("loop"), hot),
        case("spread", "engine, 64 callers, 1,000 aggregates", Some("loop"), through(1_000, 64, true)),
        case("hot", "engine, 64 callers, one aggregate", Some("spread"), through(1, 64, true)),
        case("wide", "engine, 256 callers, 1,000 aggregates", Some("loop"), through(1_000, 256, true)),
        case("without", "  the same without a projection", Some("loop"), through(1_000, 256, false)),
        case("flood", "engine, 4,096 callers, 1,000 aggregates", Some("loop"), through(1_000, 4_096, true)),
        case("flood-without", "  the same without a projection", Some("loop"), through(1_000, 4_096, false)),
        case("bare", "bare one-row insert, one connection", None, bare),
        case("lone", "engine, one caller", Some("bare"), through(1_000, 1, true)),
        case("lone-without", "  the same without a projection", Some("bare"), through(1_000, 1, false)),
    ]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (Some(plan), Some(server)) = (Plan::from_environment(), Plan::server()) else { return };
    plan.run(&server, cases()).await;
}
