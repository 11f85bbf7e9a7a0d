//! How fast commands become durable on Postgres, beside a loop that loads and inserts, in one run: `cargo bench
//! --bench throughput`. Prints ratios, since machines differ and neighbours are noisy.
//!
//! Wants `TEST_DATABASE_URL`, a Postgres where it may create databases. `RUNS` (3) and `SECONDS_A_RUN` (4) say how
//! often and how long; names of lines (`loop hot spread wide without flood flood-without bare lone
//! lone-without`) leave out the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use essaim::prelude::*;
use futures::future::LocalBoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};

/// One event of about 200 bytes a command.
#[derive(Default)]
struct Gauge {
    total: i64,
}

#[derive(Serialize, Deserialize)]
enum GaugeCommand {
    Read { value: i64, note: String },
}

#[derive(Serialize, Deserialize)]
enum GaugeEvent {
    Read { value: i64, note: String },
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum Never {}

impl Aggregate for Gauge {
    const CATEGORY: &'static str = "gauge";
    type Command = GaugeCommand;
    type Event = GaugeEvent;
    type Rejection = Never;

    fn decide(&self, GaugeCommand::Read { value, note }: &GaugeCommand) -> Result<Vec<GaugeEvent>, Never> {
        Ok(vec![GaugeEvent::Read { value: *value, note: note.clone() }])
    }

    fn apply(&mut self, GaugeEvent::Read { value, .. }: &GaugeEvent) {
        self.total += value;
    }
}

struct Totals;

impl Projection for Totals {
    const NAME: &'static str = "totals";
    type Row = JsonRow<i64>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Gauge>()
    }
}

impl ProjectFrom<Gauge> for Totals {
    fn project(&self, event: &TypedEvent<'_, GaugeEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
        let GaugeEvent::Read { value, .. } = event.data;
        let key = event.stream.key().to_owned();
        let before = rows.get(&key).map_or(0, |row| row.data);
        rows.put(JsonRow { key, data: before + value });
    }
}

fn note() -> String {
    "x".repeat(170)
}

const WARM_UP: Duration = Duration::from_secs(1);

/// What a number of callers got through.
struct Measured {
    per_second: f64,
    median: Duration,
    p99: Duration,
}

/// Runs `callers` tasks that each do `work` again and again for `time`.
async fn measure<F, Fut>(callers: usize, time: Duration, work: F) -> Measured
where
    F: Fn(usize, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (work, done, counting, stop) = (
        Arc::new(work),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (work, done, counting, stop) =
                (Arc::clone(&work), Arc::clone(&done), Arc::clone(&counting), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    work(caller, n).await;
                    n += 1;
                    if counting.load(Ordering::Relaxed) {
                        done.fetch_add(1, Ordering::Relaxed);
                        latencies.push(started.elapsed());
                    }
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    counting.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(time).await;
    let count = done.load(Ordering::Relaxed);
    let elapsed = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a caller does not panic"));
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    Measured { per_second: count as f64 / elapsed.as_secs_f64(), median: at(0.5), p99: at(0.99) }
}

/// A fresh database, dropped and made anew.
async fn fresh_database(server: &str, name: &str) -> String {
    let mut connection = PgConnection::connect(server).await.expect("the server is there");
    connection
        .execute(sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")))
        .await
        .expect("may drop databases");
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("may create databases");
    let options: PgConnectOptions = server.parse().expect("an address of Postgres");
    let mut url = format!("postgres://{}", options.get_username());
    if let Some(password) =
        server.split("://").nth(1).and_then(|rest| rest.split('@').next()).and_then(|user| user.split(':').nth(1))
    {
        url.push_str(&format!(":{password}"));
    }
    url.push_str(&format!("@{}:{}/{name}", options.get_host(), options.get_port()));
    url
}

/// The loop that every design without group commit comes to: read the version, insert one row, commit.
async fn load_and_insert(server: &str, streams: u64, callers: usize, time: Duration) -> Measured {
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
    let data = format!(r#"{{"value":1,"note":"{}"}}"#, note());
    measure(callers, time, move |caller, n| {
        let (pool, data) = (pool.clone(), data.clone());
        async move {
            // One caller's streams are its own, so that nobody has to retry.
            let stream = format!("gauge-{}-{}", caller, n % streams.div_ceil(callers as u64).max(1));
            let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM events WHERE stream = $1")
                .bind(&stream)
                .fetch_one(&pool)
                .await
                .expect("reads");
            sqlx::query("INSERT INTO events (stream, version, event_id, type, data, metadata) VALUES ($1, $2, $3, 'Read', $4::json, '{}')")
                .bind(&stream)
                .bind(version + 1)
                .bind(essaim::clock::Clock::time_ordered_id(&essaim::clock::SystemClock))
                .bind(&data)
                .execute(&pool)
                .await
                .expect("inserts");
        }
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
    let connection = Arc::new(tokio::sync::Mutex::new((connection, 0_i64)));
    let data = format!(r#"{{"value":1,"note":"{}"}}"#, note());
    measure(1, time, move |_, _| {
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

async fn engine(server: &str, with_projection: bool) -> Engine {
    let url = fresh_database(server, "essaim_bench_engine").await;
    let store = PostgresStore::open(&url).await.expect("opens");
    let builder = Engine::builder(store).aggregate::<Gauge>();
    let builder = if with_projection { builder.projection(Totals) } else { builder };
    builder.start().await.expect("starts")
}

async fn through_the_engine(
    server: &str,
    streams: u64,
    callers: usize,
    time: Duration,
    with_projection: bool,
) -> Measured {
    let engine = engine(server, with_projection).await;
    let ids: Arc<Vec<_>> = Arc::new((0..streams).map(Gauge::id).collect());
    let used = engine.clone();
    let measured = measure(callers, time, move |caller, n| {
        let (engine, ids) = (used.clone(), Arc::clone(&ids));
        async move {
            let id = &ids[((caller as u64 + n * callers as u64) % ids.len() as u64) as usize];
            engine.execute(id, GaugeCommand::Read { value: 1, note: note() }).await.expect("a quiet engine takes it");
        }
    })
    .await;
    engine.shutdown(Duration::from_secs(30)).await;
    measured
}

fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    runs.swap_remove(runs.len() / 2)
}

fn line(what: &str, measured: &Measured, against: Option<(&str, f64)>) {
    let ratio = against.map_or(String::new(), |(base, ratio)| format!("   {ratio:.2} × {base}"));
    println!(
        "{what:<44} {:>9.0}/s   p50 {:>9.3?}   p99 {:>9.3?}{ratio}",
        measured.per_second, measured.median, measured.p99
    );
}

/// One line of the table: its name on the command line, what it shows, and how it is measured.
struct Case {
    name: &'static str,
    shown: &'static str,
    run: fn(Arc<str>, Duration) -> LocalBoxFuture<'static, Measured>,
}

const CASES: [Case; 10] = [
    Case {
        name: "loop",
        shown: "load-and-insert loop, 64 connections",
        run: |server, time| Box::pin(async move { load_and_insert(&server, 1_000, 64, time).await }),
    },
    Case {
        name: "hot",
        shown: "engine, 64 callers, one aggregate",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1, 64, time, true).await }),
    },
    Case {
        name: "spread",
        shown: "engine, 64 callers, 1,000 aggregates",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1_000, 64, time, true).await }),
    },
    Case {
        name: "wide",
        shown: "engine, 256 callers, 1,000 aggregates",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1_000, 256, time, true).await }),
    },
    Case {
        name: "without",
        shown: "  the same without a projection",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1_000, 256, time, false).await }),
    },
    Case {
        name: "flood",
        shown: "engine, 4,096 callers, 1,000 aggregates",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1_000, 4_096, time, true).await }),
    },
    Case {
        name: "flood-without",
        shown: "  the same without a projection",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1_000, 4_096, time, false).await }),
    },
    Case {
        name: "bare",
        shown: "bare one-row insert, one connection",
        run: |server, time| Box::pin(async move { bare_insert(&server, time).await }),
    },
    Case {
        name: "lone",
        shown: "engine, one caller",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1_000, 1, time, true).await }),
    },
    Case {
        name: "lone-without",
        shown: "  the same without a projection",
        run: |server, time| Box::pin(async move { through_the_engine(&server, 1_000, 1, time, false).await }),
    },
];

fn report(case: &Case, measured: &Measured, medians: &[(&Case, Measured)]) {
    let other = |name: &str| medians.iter().find(|(case, _)| case.name == name).map(|(_, measured)| measured);
    let against = match (case.name, other("loop"), other("bare")) {
        ("lone" | "lone-without", _, Some(bare)) => {
            Some(("the bare insert's median", measured.median.as_secs_f64() / bare.median.as_secs_f64()))
        }
        ("loop" | "bare" | "lone" | "lone-without", ..) | (_, None, _) => None,
        (_, Some(looped), _) => Some(("the loop", measured.per_second / looped.per_second)),
    };
    line(case.shown, measured, against);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("measures only as a benchmark");
    }
    let Ok(server) = std::env::var("TEST_DATABASE_URL") else {
        return println!("TEST_DATABASE_URL is not set; nothing measured");
    };
    let server: Arc<str> = server.into();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| wanted.is_empty() || wanted.iter().any(|name| name == case.name)).collect();
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    let seconds: u64 = std::env::var("SECONDS_A_RUN").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(4);
    let time = Duration::from_secs(seconds);
    let mut all: Vec<Vec<Measured>> = cases.iter().map(|_| Vec::new()).collect();
    // One round after the other, so that a noisy minute falls on all of them alike.
    for _ in 0..runs {
        for (case, measured) in cases.iter().zip(&mut all) {
            measured.push((case.run)(Arc::clone(&server), time).await);
        }
    }
    println!("medians of {runs} runs of {time:?}");
    let medians: Vec<(&Case, Measured)> = cases.into_iter().zip(all.into_iter().map(median)).collect();
    medians.iter().for_each(|(case, measured)| report(case, measured, &medians));
}
