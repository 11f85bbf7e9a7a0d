//! Whether a command costs more when its stream is long: `cargo bench --bench long_streams`. One caller and three
//! streams, of 10, 1,000 and 100,000 events, in one log; they grow by one event a round.
//!
//! - cold: the aggregates were passivated and are loaded, the long ones from their snapshots. Wanted: at most 1.5
//!   times the shortest's.
//! - without snapshots: the whole stream is read, to show that the cold ones were cold. Nothing is wanted.
//! - hot: the aggregates are resident. Wanted: medians within 15 % of each other.
//!
//! On a SQLite file, and on Postgres when `TEST_DATABASE_URL` is set; `-- sqlite` leaves out the other. In memory the
//! hand-overs between threads differ by more than what is wanted: see `instructions`.
//!
//! `ROUNDS` (300) is how often each is measured hot; a quarter as often cold, a thirtieth without snapshots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use essaim::prelude::*;

use self::measuring::{fresh_database, middle, note};

mod measuring;

const LENGTHS: [u64; 3] = [10, 1_000, 100_000];
/// As many as the engine takes by default.
const EVENTS_A_COMMAND: u64 = 1_000;
const SNAPSHOT_EVERY: u64 = 100;
/// So long that nothing is passivated.
const UNUSED: Duration = Duration::from_secs(3_600);

type Store = Arc<dyn EventStore>;

#[derive(Default, Serialize, Deserialize)]
struct Meter<const WITH_SNAPSHOTS: bool> {
    total: i64,
}

#[derive(Serialize, Deserialize)]
enum MeterCommand {
    Read { times: u64, note: String },
}

#[derive(Serialize, Deserialize)]
enum MeterEvent {
    Read { value: i64, note: String },
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum Never {}

impl<const WITH_SNAPSHOTS: bool> Aggregate for Meter<WITH_SNAPSHOTS> {
    const CATEGORY: &'static str = if WITH_SNAPSHOTS { "meter" } else { "plain-meter" };
    type Command = MeterCommand;
    type Event = MeterEvent;
    type Rejection = Never;

    fn decide(&self, MeterCommand::Read { times, note }: &MeterCommand) -> Result<Vec<MeterEvent>, Never> {
        Ok((0..*times).map(|_| MeterEvent::Read { value: 1, note: note.clone() }).collect())
    }

    fn apply(&mut self, MeterEvent::Read { value, .. }: &MeterEvent) {
        self.total += value;
    }

    fn snapshots() -> Option<SnapshotPolicy<Self>> {
        WITH_SNAPSHOTS.then(|| SnapshotPolicy::every(SNAPSHOT_EVERY))
    }
}

/// An engine over this log that keeps what was not used for so long.
async fn start(store: &Store, passivate_after: Duration) -> Engine {
    let limits = Limits { passivate_after, ..Limits::default() };
    let builder = Engine::builder_shared(Arc::clone(store)).aggregate::<Meter<true>>().aggregate::<Meter<false>>();
    builder.limits(limits).start().await.expect("starts")
}

async fn stop(engine: Engine) {
    assert!(engine.shutdown(Duration::from_secs(30)).await, "nothing is under way");
}

/// How long a command of so many events takes.
async fn read<const WITH_SNAPSHOTS: bool>(engine: &Engine, stream: u64, times: u64) -> Duration {
    let (id, command) = (Meter::<WITH_SNAPSHOTS>::id(stream), MeterCommand::Read { times, note: note() });
    let started = Instant::now();
    engine.execute(&id, command).await.expect("a quiet engine takes it");
    started.elapsed()
}

async fn fill<const WITH_SNAPSHOTS: bool>(engine: &Engine) {
    for length in LENGTHS {
        for first in (0..length).step_by(EVENTS_A_COMMAND as usize) {
            read::<WITH_SNAPSHOTS>(engine, length, EVENTS_A_COMMAND.min(length - first)).await;
        }
    }
}

/// Commands to a stream that is not measured, so that no measured one pays for waking the machine up.
async fn wake_up(engine: &Engine) {
    for _ in 0..3 {
        read::<true>(engine, 0, 1).await;
    }
}

async fn until_none_is_resident(engine: &Engine) {
    while engine.resident().iter().any(|(_, count)| *count > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The median of each length. In every round all are measured, another one first each time.
async fn medians<const WITH_SNAPSHOTS: bool>(engine: &Engine, rounds: usize, is_cold: bool) -> Vec<Duration> {
    let mut times: [Vec<Duration>; LENGTHS.len()] = Default::default();
    for round in 0..rounds {
        if is_cold {
            until_none_is_resident(engine).await;
        }
        wake_up(engine).await;
        for turn in 0..LENGTHS.len() {
            let which = (round + turn) % LENGTHS.len();
            times[which].push(read::<WITH_SNAPSHOTS>(engine, LENGTHS[which], 1).await);
        }
    }
    times.into_iter().map(middle).collect()
}

fn print(shown: &str, medians: &[Duration], wanted: Option<f64>) {
    let beside = |median: Duration| median.as_secs_f64() / medians[0].as_secs_f64();
    for (length, &median) in LENGTHS.iter().zip(medians) {
        println!("  {shown:<18} {length:>7} events   p50 {median:>10.3?}   {:>7.2} × the shortest", beside(median));
    }
    let Some(wanted) = wanted else { return };
    let apart = |most: Duration, least: Duration| most.as_secs_f64() / least.as_secs_f64();
    let most = *medians.iter().max().expect("three of them");
    // Hot, none may stand out; cold, the long ones may not cost more.
    let (apart, of) = match shown {
        "hot" => (apart(most, *medians.iter().min().expect("three of them")), "the quickest"),
        _ => (apart(most, medians[0]), "the shortest"),
    };
    let verdict = if apart <= wanted { "reached" } else { "missed" };
    println!("  {shown:<18} the slowest is {apart:.2} × {of}, wanted at most {wanted:.2} ×: {verdict}");
}

async fn measure(name: &str, store: Store, rounds: usize) {
    println!("{name}, one caller, snapshots every {SNAPSHOT_EVERY} events; medians of {rounds} rounds hot");
    let engine = start(&store, UNUSED).await;
    fill::<true>(&engine).await;
    fill::<false>(&engine).await;
    stop(engine).await;

    let engine = start(&store, Duration::from_millis(50)).await;
    // So few that the shortest is still read from its first event, and gets no snapshot.
    print("cold", &medians::<true>(&engine, rounds.div_ceil(4), true).await, Some(1.5));
    print("without snapshots", &medians::<false>(&engine, rounds.div_ceil(30), true).await, None);
    stop(engine).await;

    let engine = start(&store, UNUSED).await;
    medians::<true>(&engine, rounds.div_ceil(10), false).await;
    print("hot", &medians::<true>(&engine, rounds, false).await, Some(1.15));
    stop(engine).await;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("measures only as a benchmark");
    }
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |name: &str| named.is_empty() || named.iter().any(|wanted| wanted == name);
    let rounds = std::env::var("ROUNDS").map_or(300, |rounds| rounds.parse().expect("ROUNDS is a number"));

    if wants("sqlite") {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(folder.path().join("log.db")).await.expect("a fresh file opens");
        measure("SQLite", Arc::new(store), rounds).await;
    }
    if wants("postgres") {
        let Ok(server) = std::env::var("TEST_DATABASE_URL") else {
            return println!("TEST_DATABASE_URL is not set; Postgres is not measured");
        };
        let store = PostgresStore::open(&fresh_database(&server, "essaim_bench_long_streams").await).await;
        measure("Postgres", Arc::new(store.expect("a fresh database opens")), rounds).await;
    }
}
