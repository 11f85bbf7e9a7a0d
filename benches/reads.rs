//! What reads of hot rows cost an embedding program: `cargo bench --bench reads`. One row by its key, wanted: two
//! million a second on one core; a hundred rows in their order, wanted: 20 µs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use essaim::prelude::*;
use futures::StreamExt;

const ROWS: u64 = 100_000;
const PAGE: usize = 100;

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

struct Totals;

/// Rows by their total, the key where totals are equal.
#[derive(Default)]
struct ByTotal(BTreeMap<(i64, String), Arc<JsonRow<i64>>>);

impl Index<JsonRow<i64>> for ByTotal {
    fn enter(&mut self, row: &Arc<JsonRow<i64>>) {
        self.0.insert((row.data, row.key.clone()), Arc::clone(row));
    }

    fn leave(&mut self, row: &Arc<JsonRow<i64>>) {
        self.0.remove(&(row.data, row.key.clone()));
    }
}

impl Projection for Totals {
    const NAME: &'static str = "totals";
    type Row = JsonRow<i64>;
    type Index = ByTotal;

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Meter>()
    }
}

impl ProjectFrom<Meter> for Totals {
    fn project(&self, event: &TypedEvent<'_, MeterEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
        let MeterEvent::Read { value } = event.data;
        let key = event.stream.key().to_owned();
        let before = rows.get(&key).map_or(0, |row| row.data);
        rows.put(JsonRow { key, data: before + value });
    }
}

/// An engine whose read model has this many rows, under keys as long as a UUID.
async fn engine() -> (Engine, Vec<String>) {
    let builder = Engine::builder(MemoryStore::new()).aggregate::<Meter>().projection(Totals);
    let engine = builder.start().await.expect("starts");
    let keys: Vec<String> = (0..ROWS).map(|n| format!("{:0>36}", n * 7_919 % ROWS)).collect();
    let filling = futures::stream::iter(keys.iter().enumerate()).for_each_concurrent(512, |(n, key)| {
        let engine = &engine;
        async move {
            let value = (n % 1_000) as i64;
            engine.execute(&Meter::id(key), MeterCommand::Read { value }).await.expect("a quiet engine takes it");
        }
    });
    filling.await;
    engine.read_model::<Totals>().at_least(engine.head()).await.expect("it follows");
    (engine, keys)
}

fn reads(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let (engine, keys) = runtime.block_on(engine());
    let model = engine.read_model::<Totals>();

    let mut group = criterion.benchmark_group("reads");
    group.throughput(Throughput::Elements(1));
    let mut turn = keys.iter().cycle();
    group.bench_function("row by key", |bench| {
        bench.iter(|| {
            let view = model.now().expect("it is registered");
            black_box(view.get(turn.next().expect("it never ends")).expect("every key has a row"))
        });
    });
    group.throughput(Throughput::Elements(PAGE as u64));
    let mut turn = keys.iter().cycle();
    group.bench_function("page of 100 in order", |bench| {
        bench.iter(|| {
            let view = model.now().expect("it is registered");
            let from = (500, turn.next().expect("it never ends").clone());
            view.read(|snapshot| {
                let behind = snapshot.index().0.range((Bound::Excluded(from), Bound::Unbounded));
                let page: Vec<_> = behind.take(PAGE).map(|(_, row)| Arc::clone(row)).collect();
                assert_eq!(page.len(), PAGE);
                black_box(page)
            })
        });
    });
    group.finish();
    runtime.block_on(engine.shutdown(std::time::Duration::from_secs(10)));
}

criterion_group!(benches, reads);
criterion_main!(benches);
