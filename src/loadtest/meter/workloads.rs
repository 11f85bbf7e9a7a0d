//! This file is the workloads of meters, which an engine in this process runs: spread, hot, long streams, and the
//! rebuild of a projection.

use std::sync::Arc;

use super::{MOST_AT_ONCE, Meter, MeterCommand, MeterTotals, NOTE_BYTES};
use crate::aggregate::{Aggregate, AggregateId};
use crate::engine::Engine;
use crate::loadtest::checker::Contents;
use crate::loadtest::random::{Random, Zipf};
use crate::loadtest::workload::{Answer, Caller, CallerSeed, Expected, Failed, Operation, Workload};
use crate::projections::Projection;

/// Lists of a fill that are worked off side by side.
const LISTS: u64 = 32;

/// Names the meters of one run.
#[derive(Debug, Clone, Copy)]
pub struct Names(pub u64);

impl Names {
    fn of(self, kind: &str, n: u64) -> AggregateId<Meter> {
        Meter::id(format!("{:016x}-{kind}{n}", self.0))
    }
}

/// Readings on one meter of many, each as often as the next, or by Zipf's law.
pub struct Readings {
    engine: Engine,
    names: Names,
    name: &'static str,
    pick: Arc<Zipf>,
}

impl Readings {
    /// On `meters` meters, all alike.
    pub fn spread(engine: Engine, names: Names, meters: u64) -> Self {
        Self::picked(engine, names, "spread", Zipf::new(size(meters), 0.0))
    }

    /// All on one meter, or on `meters` of them with this exponent.
    pub fn hot(engine: Engine, names: Names, meters: u64, skew: Option<f64>) -> Self {
        let pick = skew.map_or_else(|| Zipf::new(1, 0.0), |exponent| Zipf::new(size(meters), exponent));
        Self::picked(engine, names, "hot", pick)
    }

    fn picked(engine: Engine, names: Names, name: &'static str, pick: Zipf) -> Self {
        Self { engine, names, name, pick: Arc::new(pick) }
    }
}

impl Workload for Readings {
    fn name(&self) -> &str {
        self.name
    }

    fn caller(&self, seed: CallerSeed) -> Box<dyn Caller> {
        let (engine, names, pick) = (self.engine.clone(), self.names, Arc::clone(&self.pick));
        Box::new(Reader { engine, names, pick, random: seed.random })
    }
}

struct Reader {
    engine: Engine,
    names: Names,
    pick: Arc<Zipf>,
    random: Random,
}

impl Caller for Reader {
    fn next(&mut self) -> Operation {
        let meter = self.names.of("", self.pick.pick(&mut self.random) as u64);
        note("note", &self.engine, meter, &mut self.random, 1)
    }
}

/// Readings on meters with short, longer and very long streams, told apart as kinds of operations.
pub struct LongStreams {
    engine: Engine,
    names: Names,
    classes: [Length; 3],
}

/// Streams of one length.
#[derive(Debug, Clone, Copy)]
struct Length {
    kind: &'static str,
    events: u64,
    /// So many that none grows much during a run.
    streams: u64,
}

impl LongStreams {
    /// The longest stream has so many events; the others a hundredth and a ten-thousandth of that.
    pub fn new(engine: Engine, names: Names, longest: u64) -> Self {
        let class = |kind, part: u64, streams| Length { kind, events: (longest / part).max(1), streams };
        Self { engine, names, classes: [class("short", 10_000, 500), class("longer", 100, 50), class("longest", 1, 1)] }
    }
}

impl Workload for LongStreams {
    fn name(&self) -> &str {
        "long-streams"
    }

    fn fill(&self, seed: &CallerSeed) -> Vec<Box<dyn Iterator<Item = Operation> + Send>> {
        let mut lists: Vec<Box<dyn Iterator<Item = Operation> + Send>> = Vec::new();
        for class in self.classes {
            for stream in 0..class.streams {
                let meter = self.names.of(class.kind, stream);
                lists.push(Box::new(filling(self.engine.clone(), meter, class.events, seed.random.clone())));
            }
        }
        lists
    }

    fn caller(&self, seed: CallerSeed) -> Box<dyn Caller> {
        let (engine, names, classes) = (self.engine.clone(), self.names, self.classes);
        Box::new(LongReader { engine, names, classes, random: seed.random })
    }
}

struct LongReader {
    engine: Engine,
    names: Names,
    classes: [Length; 3],
    random: Random,
}

impl Caller for LongReader {
    fn next(&mut self) -> Operation {
        let class = self.classes[self.random.below(self.classes.len() as u64) as usize];
        let meter = self.names.of(class.kind, self.random.below(class.streams));
        note(class.kind, &self.engine, meter, &mut self.random, 1)
    }
}

/// Builds the meters' read model anew from the first event, again and again.
pub struct Rebuild {
    engine: Engine,
    names: Names,
    events: u64,
    meters: u64,
}

impl Rebuild {
    /// From a log of so many events on so many meters.
    pub fn new(engine: Engine, names: Names, events: u64, meters: u64) -> Self {
        Self { engine, names, events, meters: meters.clamp(1, events.max(1)) }
    }
}

impl Workload for Rebuild {
    fn name(&self) -> &str {
        "rebuild"
    }

    fn fill(&self, seed: &CallerSeed) -> Vec<Box<dyn Iterator<Item = Operation> + Send>> {
        let list = |list: u64| -> Box<dyn Iterator<Item = Operation> + Send> {
            let (engine, names, random) = (self.engine.clone(), self.names, seed.random.clone());
            let (each, rest) = (self.events / self.meters, self.events % self.meters);
            let meters = (list..self.meters).step_by(LISTS as usize);
            Box::new(meters.flat_map(move |n| {
                filling(engine.clone(), names.of("", n), each + u64::from(n < rest), random.clone())
            }))
        };
        (0..LISTS).map(list).collect()
    }

    fn caller(&self, _: CallerSeed) -> Box<dyn Caller> {
        Box::new(Rebuilder { engine: self.engine.clone() })
    }
}

struct Rebuilder {
    engine: Engine,
}

impl Caller for Rebuilder {
    fn next(&mut self) -> Operation {
        let engine = self.engine.clone();
        Operation::other("rebuild", move |_| {
            let engine = engine.clone();
            async move {
                let events = engine.head().0;
                match engine.rebuild(MeterTotals::NAME).await {
                    true => Answer::Did { events },
                    false => Answer::Failed(Failed::new("failed", "the rebuild was given up")),
                }
            }
        })
    }
}

/// As few commands as bring a meter to so many events.
fn filling(
    engine: Engine,
    meter: AggregateId<Meter>,
    events: u64,
    mut random: Random,
) -> impl Iterator<Item = Operation> + Send {
    let (full, rest) = (events / MOST_AT_ONCE, events % MOST_AT_ONCE);
    let counts = (0..full).map(|_| MOST_AT_ONCE).chain((rest > 0).then_some(rest));
    counts.map(move |count| note("fill", &engine, meter.clone(), &mut random, count))
}

fn note(kind: &'static str, engine: &Engine, meter: AggregateId<Meter>, random: &mut Random, count: u64) -> Operation {
    let value = i64::try_from(random.below(1_000)).expect("it is below a thousand");
    let events = u16::try_from(count).expect("a command appends at most a thousand");
    let operation = Operation::execute(kind, engine, meter, MeterCommand::Note { value, count }, Expected::Success);
    operation.leaving(events).deciding(move || noted(value, events))
}

/// What the log must have of so many readings, spelled out as it is stored.
fn noted(first: i64, count: u16) -> Contents {
    let rest = format!(r#","note":"{}"}}"#, "n".repeat(NOTE_BYTES));
    let reading = |n: u16| Contents::of("ReadingNoted", &format!(r#"{{"value":{}{rest}"#, first + i64::from(n)));
    (1..count).map(reading).fold(reading(0), Contents::and)
}

fn size(meters: u64) -> usize {
    usize::try_from(meters).unwrap_or(usize::MAX)
}
