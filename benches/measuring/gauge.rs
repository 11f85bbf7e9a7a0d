//! This file is the aggregate that is measured, one event of about 200 bytes a command, and a projection of it.

use std::sync::Arc;
use std::time::Duration;

use essaim::prelude::*;

use super::callers::{Measured, measure, scattered};
use super::processor::Processor;

#[derive(Default)]
pub(crate) struct Gauge {
    total: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum GaugeCommand {
    Read { value: i64, note: String },
}

#[derive(Serialize, Deserialize)]
pub(crate) enum GaugeEvent {
    Read { value: i64, note: String },
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Never {}

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

/// The sum of each gauge.
pub(crate) struct Totals;

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

/// What makes an event about 200 bytes long.
pub(crate) fn note() -> String {
    "x".repeat(170)
}

/// Callers that take these gauges in no order, until the engine is shut down.
pub(crate) async fn drive(
    engine: Engine,
    gauges: usize,
    callers: usize,
    time: Duration,
    processor: Processor,
) -> Measured {
    let ids: Arc<Vec<_>> = Arc::new((0..gauges).map(Gauge::id).collect());
    let used = engine.clone();
    let measured = measure(callers, time, processor, move |caller, n| {
        let (engine, ids) = (used.clone(), Arc::clone(&ids));
        async move {
            let id = &ids[scattered(caller, n, ids.len())];
            engine.execute(id, GaugeCommand::Read { value: 1, note: note() }).await.expect("a quiet engine takes it");
        }
    })
    .await;
    engine.shutdown(Duration::from_secs(30)).await;
    measured
}
