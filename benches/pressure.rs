//! What happens when a part cannot keep up: `cargo bench --bench pressure`. Prints figures, and fails when a promise
//! is broken: something accepted was lost, or memory grew without bound.
//!
//! 1. A projection that takes 100 ms an event: what it costs those who write.
//! 2. A store that takes 1,000 commands a second and is offered 10,000 a second for a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use essaim::prelude::*;
use essaim::testing::{Faults, FaultyStore};
use tempfile::TempDir;

#[derive(Default)]
struct Tally {
    count: u64,
}

#[derive(Serialize, Deserialize)]
enum TallyCommand {
    Count { note: String },
}

#[derive(Serialize, Deserialize)]
enum TallyEvent {
    Counted { note: String },
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum Never {}

impl Aggregate for Tally {
    const CATEGORY: &'static str = "tally";
    type Command = TallyCommand;
    type Event = TallyEvent;
    type Rejection = Never;

    fn decide(&self, TallyCommand::Count { note }: &TallyCommand) -> Result<Vec<TallyEvent>, Never> {
        Ok(vec![TallyEvent::Counted { note: note.clone() }])
    }

    fn apply(&mut self, _: &TallyEvent) {
        self.count += 1;
    }
}

/// Counts events; takes its time over each.
struct Counts(Duration);

impl Projection for Counts {
    const NAME: &'static str = "counts";
    type Row = JsonRow<u64>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Tally>()
    }
}

impl ProjectFrom<Tally> for Counts {
    fn project(&self, event: &TypedEvent<'_, TallyEvent>, rows: &mut Rows<'_, JsonRow<u64>>) {
        std::thread::sleep(self.0);
        let key = event.stream.key().to_owned();
        let before = rows.get(&key).map_or(0, |row| row.data);
        rows.put(JsonRow { key, data: before + 1 });
    }
}

fn count() -> TallyCommand {
    TallyCommand::Count { note: "x".repeat(170) }
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells of memory in /proc");
    let pages: u64 =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the second number is the resident pages");
    pages * 4_096
}

fn megabytes(bytes: u64) -> u64 {
    bytes >> 20
}

async fn start(folder: &TempDir, projection: Duration, limits: Limits) -> (Engine, Faults) {
    let store = SqliteStore::open(folder.path().join("log.db")).await.expect("a fresh file opens");
    let store = FaultyStore::new(Arc::new(store));
    let faults = store.faults();
    let builder = Engine::builder(store).aggregate::<Tally>().projection(Counts(projection));
    (builder.limits(limits).start().await.expect("it starts"), faults)
}

/// Commands a second of 64 callers in ten seconds, beside a projection that takes this long an event.
async fn rate_beside(projection: Duration) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, _) = start(&folder, projection, Limits::default()).await;
    let done = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + Duration::from_secs(10);
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let (engine, done) = (engine.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut n = 0_u64;
                while Instant::now() < until {
                    n += 1;
                    engine.execute(&Tally::id((caller + n) % 1_000), count()).await.expect("a quiet engine takes it");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller does not panic");
    }
    done.load(Ordering::Relaxed) as f64 / 10.0
}

async fn slow_projection() {
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (quick, slow) = (rate_beside(Duration::ZERO).await, rate_beside(Duration::from_millis(100)).await);
        println!(
            "projection quick: {quick:.0}/s, at 100 ms an event: {slow:.0}/s, ratio {:.2}; memory {} MB",
            slow / quick,
            megabytes(resident())
        );
        ratios.push(slow / quick);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[1]);
}

async fn slow_store() {
    const OFFERED: u64 = 10_000;
    let seconds: u64 = std::env::var("SECONDS_OFFERED").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    let folder = tempfile::tempdir().expect("a folder");
    // A hundred commands in each batch and a tenth of a second for it: 1,000 a second.
    let limits = Limits { max_batch_commands: 100, ..Limits::default() };
    let (engine, faults) = start(&folder, Duration::ZERO, limits).await;
    faults.delay_appends(Duration::from_millis(100));
    let (accepted, unknown) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let refusals = Arc::new(std::sync::Mutex::new(Vec::new()));
    let before = resident();
    let mut most = before;
    let mut offers = tokio::time::interval(Duration::from_millis(10));
    for tick in 0..seconds * 100 {
        offers.tick().await;
        for n in 0..OFFERED / 100 {
            let (engine, accepted, unknown) = (engine.clone(), Arc::clone(&accepted), Arc::clone(&unknown));
            let refusals = Arc::clone(&refusals);
            tokio::spawn(async move {
                let offered = Instant::now();
                match engine.execute(&Tally::id((tick * 100 + n) % 5_000), count()).await {
                    Ok(_) => drop(accepted.fetch_add(1, Ordering::Relaxed)),
                    Err(ExecuteError::Unknown) => drop(unknown.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => refusals.lock().expect("nobody panics with it").push(offered.elapsed()),
                }
            });
        }
        most = most.max(resident());
    }
    faults.delay_appends(Duration::ZERO);
    assert!(engine.shutdown(Duration::from_secs(60)).await, "what was accepted is finished");
    let (accepted, unknown) = (accepted.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed));
    let mut refusals = std::mem::take(&mut *refusals.lock().expect("nobody panics with it"));
    refusals.sort_unstable();
    let p99 = refusals[refusals.len() * 99 / 100];
    let head = engine.store().head().await.expect("the file is there").position.0;
    println!(
        "offered {OFFERED}/s for {seconds} s: {accepted} accepted, {} refused (p99 {p99:?}), {unknown} unknown",
        refusals.len()
    );
    println!("in the log {head}; memory {} MB at first, {} MB at most", megabytes(before), megabytes(most));
    assert!(
        (accepted..=accepted + unknown).contains(&head),
        "nothing that was accepted is lost, and nothing else is there"
    );
    assert!(most < before + (200 << 20), "memory stays bounded");
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("measures only as a benchmark");
    }
    slow_store().await;
    slow_projection().await;
}
