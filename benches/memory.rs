//! What resident aggregates cost in memory: `cargo bench --bench memory`. Wanted: at most 8 KB for an idle one with a
//! small state, and no growth over time with a fixed population.
//!
//! `RESIDENTS` (100,000) aggregates get one command each. Then `MINUTES` (1; ten for the record) long 64 callers
//! keep writing to 10,000 of them. The log is a file, so that what is measured is not the log.

use std::time::{Duration, Instant};

use essaim::prelude::*;
use futures::StreamExt;

#[derive(Default)]
struct Meter {
    total: i64,
}

#[derive(Serialize, Deserialize)]
enum MeterCommand {
    Read { value: i64 },
}

#[derive(Serialize, Deserialize)]
enum MeterEvent {
    Read { value: i64 },
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum Never {}

impl Aggregate for Meter {
    const CATEGORY: &'static str = "meter";
    type Command = MeterCommand;
    type Event = MeterEvent;
    type Rejection = Never;

    fn decide(&self, MeterCommand::Read { value }: &MeterCommand) -> Result<Vec<MeterEvent>, Never> {
        Ok(vec![MeterEvent::Read { value: *value }])
    }

    fn apply(&mut self, MeterEvent::Read { value }: &MeterEvent) {
        self.total += value;
    }
}

const KB: f64 = 1_024.0;
const MB: f64 = KB * KB;
const CALLERS: usize = 64;
/// How many of the residents the callers write to.
const POPULATION: u64 = 10_000;
const SAMPLES: u32 = 10;
/// Commands between two looks at the clock.
const A_ROUND: u64 = 4_096;

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells of memory in /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it tells of the resident part");
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kilobytes * KB
}

async fn write_to_each(engine: &Engine, callers: usize, keys: impl Iterator<Item = u64>) {
    let writing = futures::stream::iter(keys).for_each_concurrent(callers, |key| async move {
        let written = engine.execute(&Meter::id(key), MeterCommand::Read { value: 1 }).await;
        written.expect("a quiet engine takes it");
    });
    writing.await;
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

async fn measure() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path().join("log.db")).await.expect("opens");
    let limits = Limits {
        passivate_after: Duration::from_secs(86_400),
        max_resident_bytes: 64 << 30,
        max_feed_bytes: 8 << 20,
        ..Limits::default()
    };
    let engine = Engine::builder(store).aggregate::<Meter>().limits(limits).start().await.expect("starts");

    // What the engine keeps however many there are, the recent events for one, is full before it counts.
    write_to_each(&engine, 512, std::iter::repeat_n(u64::MAX, 60_000)).await;
    let before = resident();
    let residents = number("RESIDENTS", 100_000);
    write_to_each(&engine, 512, 0..residents).await;
    let each = (resident() - before) / residents as f64;
    println!("{residents} idle aggregates: {:.2} KB each (wanted: at most 8)", each / KB);

    let whole = Duration::from_secs(60 * number("MINUTES", 1));
    let started = Instant::now();
    let mut written = 0;
    println!("{CALLERS} callers on {POPULATION} aggregates for {whole:?}:");
    let mut first = None;
    for sample in 1..=SAMPLES {
        while started.elapsed() < whole * sample / SAMPLES {
            let keys = (written..written + A_ROUND).map(|n| n * 7_919 % POPULATION);
            write_to_each(&engine, CALLERS, keys).await;
            written += A_ROUND;
        }
        let now = resident();
        let first = *first.get_or_insert(now);
        let (at, grown) = (started.elapsed().as_secs(), (now - first) / MB);
        println!("  {at:>4} s   {written:>9} commands   {:>7.1} MB   {grown:>+6.1} MB since the first", now / MB);
    }
    engine.shutdown(Duration::from_secs(30)).await;
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("measures only as a benchmark");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(measure());
}
