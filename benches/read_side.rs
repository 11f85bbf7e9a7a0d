//! How quick the read side is on Postgres: `cargo bench --bench read_side`, or some of its parts: `… -- visible`.
//!
//! - `visible`: from the answer to a command until its row is in the hot read model, at half of the highest rate;
//! - `rebuild`: a projection built anew, beside a bare loop that reads and decodes the same rows;
//! - `restart`: a log of a million events and a read model of 200,000 rows, until the first answers.
//!
//! Wants `TEST_DATABASE_URL`; `RUNS` (3) and `SECONDS_A_RUN` (4) say how often and how long, `EVENTS` (1000000) how
//! long the log is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use essaim::clock::{Clock, SystemClock};
use essaim::prelude::*;
use essaim::store::TakeOver;
use essaim::testing::BatchBuilder;
use futures::TryStreamExt;
use sqlx::{Connection, PgConnection, Row as _};
use tokio::task::JoinSet;

use self::measuring::{
    Gauge, GaugeCommand, GaugeEvent, Plan, Processor, Totals, fresh_database, measure, middle, note, percentile,
};

mod measuring;

fn read() -> GaugeCommand {
    GaugeCommand::Read { value: 1, note: note() }
}

async fn start(url: &str) -> Engine {
    let store = PostgresStore::open(url).await.expect("opens");
    Engine::builder(store).aggregate::<Gauge>().projection(Totals).start().await.expect("starts")
}

async fn visible(server: &str, plan: &Plan) {
    const STREAMS: u64 = 1_000;
    let (mut medians, mut p99s, mut answers, mut at_once) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.runs {
        let engine = start(&fresh_database(server, "essaim_bench_visible").await).await;
        let used = engine.clone();
        let most = measure(256, plan.time, Processor::without_server(), move |caller, n| {
            let engine = used.clone();
            async move {
                engine.execute(&Gauge::id((caller as u64 + n * 256) % STREAMS), read()).await.expect("takes it");
            }
        })
        .await;
        let a_tick = (most.per_second / 2.0 / 1_000.0).round() as u64;
        let seen = at_rate(&engine, a_tick, plan.time, STREAMS).await;
        engine.shutdown(Duration::from_secs(30)).await;
        let mut waits: Vec<Duration> = seen.iter().map(|(_, wait)| *wait).collect();
        waits.sort_unstable();
        let mut answered: Vec<Duration> = seen.iter().map(|(answered, _)| *answered).collect();
        answered.sort_unstable();
        let shown = seen.iter().filter(|(_, wait)| wait.is_zero()).count();
        println!(
            "  {a_tick}000/s of {:.0}/s: visible p50 {:?} p99 {:?}, answered p50 {:?} p99 {:?}",
            most.per_second,
            percentile(&waits, 0.5),
            percentile(&waits, 0.99),
            percentile(&answered, 0.5),
            percentile(&answered, 0.99)
        );
        medians.push(percentile(&waits, 0.5));
        p99s.push(percentile(&waits, 0.99));
        answers.push(percentile(&answered, 0.5));
        at_once.push(shown as f64 / seen.len() as f64);
    }
    println!(
        "visible: from the answer to the row, at half load: p50 {:?}, p99 {:?}; {:.0} % were there at once; answered p50 {:?}",
        middle(medians),
        middle(p99s),
        middle(at_once) * 100.0,
        middle(answers)
    );
}

/// So many commands every millisecond. How long each took to be answered, and from then on to be visible: zero when it
/// was when first looked at.
async fn at_rate(engine: &Engine, a_tick: u64, time: Duration, streams: u64) -> Vec<(Duration, Duration)> {
    let (mut ticks, mut commands) = (tokio::time::interval(Duration::from_millis(1)), JoinSet::new());
    let mut n = 0;
    for _ in 0..time.as_millis() {
        ticks.tick().await;
        for _ in 0..a_tick {
            n += 1;
            let (engine, id) = (engine.clone(), Gauge::id(n % streams));
            commands.spawn(async move {
                let sent = Instant::now();
                let receipt = engine.execute(&id, read()).await.expect("half of what it can");
                let answered = Instant::now();
                let model = engine.read_model::<Totals>();
                if model.now().expect("it is registered").position() >= receipt.position {
                    return (answered - sent, Duration::ZERO);
                }
                model.at_least(receipt.position).await.expect("it follows");
                (answered - sent, answered.elapsed())
            });
        }
    }
    commands.join_all().await
}

/// Events straight into the store, in the engine's own shape: `events` of them, evenly over the streams.
async fn fill(url: &str, events: u64, streams: u64) {
    const IN_A_BATCH: u64 = 2_000;
    let store = PostgresStore::open(url).await.expect("opens");
    let mut writer = store.open_writer(SystemClock.random_id(), TakeOver::OnlyDead).await.expect("a fresh log");
    let data = format!(r#"{{"value":1,"note":"{}"}}"#, note());
    let mut head = writer.head().clone();
    for first in (0..events).step_by(IN_A_BATCH as usize) {
        let batch = (first..events.min(first + IN_A_BATCH)).fold(BatchBuilder::after(&head), |batch, n| {
            batch.event(Gauge::id(n % streams).stream(), n / streams + 1, "Read", &data)
        });
        let batch = batch.build();
        writer.append(&batch).await.expect("a quiet store takes it");
        let last = batch.events.last().expect("no batch is empty");
        head.position = last.position;
        head.chain_hash = last.hash;
        head.recorded_at = last.recorded_at;
        head.batch = batch.id;
    }
    writer.release().await;
}

const ROWS: &str = "
    SELECT position, event_id, category, key, version, event_type, schema_version, data::text, metadata::text,
           recorded_at, hash
    FROM essaim_events ORDER BY position";

/// All rows over one connection, each decoded as the type it has; returns how many a second.
async fn bare_read(url: &str) -> f64 {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    let started = Instant::now();
    let (mut count, mut total) = (0_u64, 0);
    let mut rows = sqlx::query(ROWS).fetch(&mut connection);
    while let Some(row) = rows.try_next().await.expect("reads") {
        let _ = (row.get::<i64, _>(0), row.get::<uuid::Uuid, _>(1), row.get::<String, _>(2), row.get::<String, _>(3));
        let _ = (row.get::<i64, _>(4), row.get::<i32, _>(6), row.get::<String, _>(8), row.get::<Vec<u8>, _>(10));
        let _ = row.get::<chrono::DateTime<chrono::Utc>, _>(9);
        let fields = format!(r#"{{"{}":{}}}"#, row.get::<&str, _>(5), row.get::<&str, _>(7));
        let GaugeEvent::Read { value, .. } = serde_json::from_str(&fields).expect("as it was written");
        total += value;
        count += 1;
    }
    assert_eq!(total as u64, count, "every event was read");
    count as f64 / started.elapsed().as_secs_f64()
}

const ROWS_COPIED: &str = "
    COPY (
        SELECT position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
        FROM essaim_events ORDER BY position
    ) TO STDOUT (FORMAT binary)";

/// The same by COPY in Postgres's binary format, taken apart here.
async fn bare_copy(url: &str) -> f64 {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    let started = Instant::now();
    let (mut count, mut total) = (0_u64, 0);
    let mut chunks = connection.copy_out_raw(ROWS_COPIED).await.expect("copies");
    let mut unread = Vec::new();
    let mut begun = false;
    while let Some(chunk) = chunks.try_next().await.expect("reads") {
        unread.extend_from_slice(&chunk);
        let mut at = if begun { 0 } else { 19 };
        begun = true;
        while let Some((fields, end)) = copied_row(&unread, at) {
            at = end;
            let text = |n: usize| std::str::from_utf8(fields[n]).expect("text");
            let number = |n: usize| i64::from_be_bytes(fields[n].try_into().expect("eight bytes"));
            let _ = (number(0), uuid::Uuid::from_slice(fields[1]).expect("an id"), text(2).to_owned());
            let _ = (text(3).to_owned(), number(4), text(8).to_owned(), fields[10].to_vec(), number(9));
            let fields = format!(r#"{{"{}":{}}}"#, text(5), text(7));
            let GaugeEvent::Read { value, .. } = serde_json::from_str(&fields).expect("as it was written");
            total += value;
            count += 1;
        }
        unread.drain(..at.min(unread.len()));
    }
    assert_eq!(total as u64, count, "every event was read");
    count as f64 / started.elapsed().as_secs_f64()
}

fn copied_row(bytes: &[u8], mut at: usize) -> Option<([&[u8]; 11], usize)> {
    let mut take = |length: usize| {
        let taken = bytes.get(at..at + length)?;
        at += length;
        Some(taken)
    };
    if i16::from_be_bytes(take(2)?.try_into().expect("two bytes")) != 11 {
        return None;
    }
    let mut fields: [&[u8]; 11] = Default::default();
    for field in &mut fields {
        let length = i32::from_be_bytes(take(4)?.try_into().expect("four bytes"));
        *field = take(length as usize)?;
    }
    Some((fields, at))
}

async fn rebuild(server: &str, plan: &Plan, events: u64) {
    for streams in [1_000, events / 5] {
        let url = fresh_database(server, "essaim_bench_rebuild").await;
        fill(&url, events, streams).await;
        let engine = start(&url).await;
        let head = engine.head();
        let caught_up = engine.read_model::<Totals>().at_least(head).within(Duration::from_secs(120)).await;
        assert_eq!(caught_up.expect("it catches up").len() as u64, streams);
        let (mut bare, mut copied, mut built) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.runs {
            bare.push(bare_read(&url).await);
            copied.push(bare_copy(&url).await);
            let started = Instant::now();
            assert!(engine.rebuild(Totals::NAME).await, "it is rebuilt");
            built.push(events as f64 / started.elapsed().as_secs_f64());
        }
        engine.shutdown(Duration::from_secs(30)).await;
        let (bare, copied, built) = (middle(bare), middle(copied), middle(built));
        println!(
            "rebuild: {events} events into {streams} rows: {built:.0}/s; bare loop {bare:.0}/s, by COPY {copied:.0}/s; {:.2} × the bare loop",
            built / bare
        );
    }
}

async fn restart(server: &str, plan: &Plan, events: u64) {
    let streams = events / 5;
    let url = fresh_database(server, "essaim_bench_restart").await;
    fill(&url, events, streams).await;
    let engine = start(&url).await;
    let head = engine.head();
    let caught_up = engine.read_model::<Totals>().at_least(head).within(Duration::from_secs(120)).await;
    drop(caught_up.expect("it catches up"));
    engine.shutdown(Duration::from_secs(60)).await;
    let (mut opened, mut answered, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..plan.runs as u64 {
        let started = Instant::now();
        let engine = start(&url).await;
        opened.push(started.elapsed());
        let id = Gauge::id(run * 7);
        let receipt = engine.execute(&id, read()).await.expect("it is there");
        answered.push(started.elapsed());
        let view = engine.read_model::<Totals>().at_least(receipt.position).within(Duration::from_secs(60)).await;
        let row = view.expect("it is loaded").get(&id.key().to_owned());
        shown.push(started.elapsed());
        assert_eq!(row.map(|row| row.data), Some(6), "five before and one now");
        engine.shutdown(Duration::from_secs(60)).await;
    }
    println!(
        "restart: {events} events, {streams} rows: engine {:?}, first command answered {:?}, first read answered {:?}",
        middle(opened),
        middle(answered),
        middle(shown)
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (Some(plan), Some(server)) = (Plan::from_environment(), Plan::server()) else { return };
    let events = std::env::var("EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(1_000_000);
    let server: Arc<str> = server;
    if plan.wants("visible") {
        visible(&server, &plan).await;
    }
    if plan.wants("rebuild") {
        rebuild(&server, &plan, events).await;
    }
    if plan.wants("restart") {
        restart(&server, &plan, events).await;
    }
}
