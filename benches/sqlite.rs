//! What the engine costs above a bare batching loop on SQLite with `synchronous=FULL`, in one run: `cargo bench --bench
//! sqlite`.
//!
//! The bare loop is one task that writes whatever came meanwhile in one transaction, into the engine's own table: no
//! actors, no head row, no chain, nothing handled. `alike` writes rows as wide as the engine's. `RUNS` (3) and
//! `SECONDS_A_RUN` (4) say how often and how long; names of lines leave out the rest. The files are where `TMPDIR` says.

use std::sync::Arc;
use std::time::Duration;

use essaim::clock::{Clock, SystemClock};
use essaim::prelude::*;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Executor};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use self::measuring::{
    Case, Gauge, GaugeEvent, Measured, Plan, Processor, Run, Totals, drive, measure, note, scattered,
};

mod measuring;

const STREAMS: usize = 1_000;
const CALLERS: usize = 256;
/// The engine's own limit.
const MOST_IN_A_GROUP: usize = 1_024;
/// Rows of the largest statement; what is left goes in halves of it, so that each statement is prepared once.
const MOST_IN_A_STATEMENT: usize = 128;

struct Pending {
    stream: usize,
    data: String,
    reply: oneshot::Sender<()>,
}

/// Where the log and each of its streams end.
struct Ends {
    position: i64,
    versions: [i64; STREAMS],
}

/// Writes whatever came while it wrote before.
async fn batch(mut queue: mpsc::UnboundedReceiver<Pending>, mut connection: SqliteConnection, is_wide: bool) {
    let inserts: Vec<String> = (0..=MOST_IN_A_STATEMENT.ilog2()).map(|power| insert_of(1 << power)).collect();
    let mut ends = Ends { position: 0, versions: [0; STREAMS] };
    loop {
        let mut group = Vec::new();
        if queue.recv_many(&mut group, MOST_IN_A_GROUP).await == 0 {
            return;
        }
        connection.execute("BEGIN IMMEDIATE").await.expect("nobody else writes");
        let mut rest = &group[..];
        while !rest.is_empty() {
            let power = rest.len().min(MOST_IN_A_STATEMENT).ilog2();
            let (rows, left) = rest.split_at(1 << power);
            insert(&mut connection, &inserts[power as usize], rows, &mut ends, is_wide).await;
            rest = left;
        }
        connection.execute("COMMIT").await.expect("the disk takes it");
        tokio::spawn(async move {
            for pending in group {
                let _ = pending.reply.send(());
            }
        });
    }
}

fn insert_of(rows: usize) -> String {
    let row = "(?,?,'gauge',?,?,'Read',1,?,?,?,?)";
    format!(
        "INSERT INTO essaim_events (position, event_id, category, key, version, event_type, schema_version, data, \
         metadata, recorded_at, hash) VALUES {}",
        vec![row; rows].join(",")
    )
}

async fn insert(connection: &mut SqliteConnection, statement: &str, rows: &[Pending], ends: &mut Ends, is_wide: bool) {
    let id = SystemClock.time_ordered_id();
    let metadata = match is_wide {
        true => format!(r#"{{"command_id":"{id}","correlation_id":"{id}","causation_id":"{id}","principal":""}}"#),
        false => "{}".into(),
    };
    let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
    for pending in rows {
        ends.position += 1;
        ends.versions[pending.stream] += 1;
        query = query
            .bind(ends.position)
            .bind(SystemClock.time_ordered_id().to_string())
            .bind(pending.stream.to_string())
            .bind(ends.versions[pending.stream])
            .bind(&pending.data)
            .bind(metadata.clone())
            .bind("2026-01-01T00:00:00.000000Z")
            // The table wants 32 bytes.
            .bind(vec![7_u8; 32]);
    }
    query.execute(connection).await.expect("a quiet table takes it");
}

async fn bare(is_wide: bool, time: Duration) -> Measured {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log.db");
    // Its tables are the engine's.
    drop(SqliteStore::open(&file).await.expect("a fresh file opens"));
    let options = SqliteConnectOptions::new().filename(&file).disable_statement_logging();
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    let (journal, queue) = mpsc::unbounded_channel();
    tokio::spawn(batch(queue, options.connect().await.expect("connects"), is_wide));
    measure(CALLERS, time, Processor::without_server(), move |caller, n| {
        let journal = journal.clone();
        async move {
            let data = serde_json::to_string(&GaugeEvent::Read { value: 1, note: note() }).expect("plain data");
            let (reply, answer) = oneshot::channel();
            journal
                .send(Pending { stream: scattered(caller, n, STREAMS), data, reply })
                .unwrap_or_else(|_| panic!("it runs"));
            answer.await.expect("it is written");
        }
    })
    .await
}

async fn engine(with_projection: bool, time: Duration) -> Measured {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path().join("log.db")).await.expect("a fresh file opens");
    let builder = Engine::builder(store).aggregate::<Gauge>();
    let builder = if with_projection { builder.projection(Totals) } else { builder };
    let engine = builder.start().await.expect("starts");
    drive(engine, STREAMS, CALLERS, time, Processor::without_server()).await
}

fn case(name: &str, shown: &str, beside: Option<&str>, run: Run) -> Case {
    Case { name: name.into(), shown: shown.into(), beside: beside.map(Into::into), run }
}

fn bare_case(is_wide: bool) -> Run {
    Box::new(move |_, time| Box::pin(bare(is_wide, time)))
}

fn engine_case(with_projection: bool) -> Run {
    Box::new(move |_, time| Box::pin(engine(with_projection, time)))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let Some(plan) = Plan::from_environment() else { return };
    let cases = vec![
        case("bare", "bare batching loop, 256 callers", None, bare_case(false)),
        case("alike", "  with rows as wide as the engine's", Some("bare"), bare_case(true)),
        case("engine", "engine without a projection", Some("bare"), engine_case(false)),
        case("projection", "engine with a projection", Some("bare"), engine_case(true)),
    ];
    // No server is asked for anything.
    plan.run(&Arc::from(""), cases).await;
}
