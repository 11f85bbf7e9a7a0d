//! This file is the harness's own aggregate: a meter that notes readings, one event of about 200 bytes a command.

use serde::{Deserialize, Serialize};

use crate::aggregate::{Aggregate, SnapshotPolicy};
use crate::event::TypedEvent;
use crate::projections::{JsonRow, ProjectFrom, Projection, Rows, Sources};

pub mod workloads;

/// So long that an event's JSON has about 200 bytes.
const NOTE_BYTES: usize = 164;
/// How many events one command may append at most, by the engine's default.
pub(crate) const MOST_AT_ONCE: u64 = 1_000;

/// A meter.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Meter {
    sum: i64,
    readings: u64,
}

/// What can be asked of a meter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MeterCommand {
    /// Notes readings that begin at `value`, each one more than the one before.
    Note {
        /// The first.
        value: i64,
        /// How many, each an event of its own.
        count: u64,
    },
}

/// What happened to a meter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MeterEvent {
    /// A reading was noted.
    ReadingNoted {
        /// The reading.
        value: i64,
        /// Makes it as long as events usually are.
        note: String,
    },
}

/// A meter refuses nothing.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
pub enum MeterRejection {}

impl Aggregate for Meter {
    const CATEGORY: &'static str = "load-meter";
    type Command = MeterCommand;
    type Event = MeterEvent;
    type Rejection = MeterRejection;

    fn decide(&self, MeterCommand::Note { value, count }: &MeterCommand) -> Result<Vec<MeterEvent>, MeterRejection> {
        let reading =
            |n| MeterEvent::ReadingNoted { value: value.wrapping_add_unsigned(n), note: "n".repeat(NOTE_BYTES) };
        Ok((0..*count).map(reading).collect())
    }

    fn apply(&mut self, MeterEvent::ReadingNoted { value, .. }: &MeterEvent) {
        self.sum = self.sum.wrapping_add(*value);
        self.readings += 1;
    }

    fn snapshots() -> Option<SnapshotPolicy<Self>> {
        Some(SnapshotPolicy::every(1_000))
    }
}

/// How much each meter has read, and how often.
#[derive(Debug, Clone, Copy, Default)]
pub struct MeterTotals;

/// What one meter has read.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MeterTotal {
    /// The sum of its readings.
    pub sum: i64,
    /// How many there were.
    pub readings: u64,
}

impl Projection for MeterTotals {
    const NAME: &'static str = "load_meter_totals";
    type Row = JsonRow<MeterTotal>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Meter>()
    }
}

impl ProjectFrom<Meter> for MeterTotals {
    fn project(&self, event: &TypedEvent<'_, MeterEvent>, rows: &mut Rows<'_, JsonRow<MeterTotal>>) {
        let MeterEvent::ReadingNoted { value, .. } = event.data;
        let key = event.stream.key().to_owned();
        let mut data = rows.get(&key).map(|row| row.data.clone()).unwrap_or_default();
        data.sum = data.sum.wrapping_add(*value);
        data.readings += 1;
        rows.put(JsonRow { key, data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_one_event_of_about_two_hundred_bytes() {
        let events = Meter::default().decide(&MeterCommand::Note { value: 7, count: 1 }).unwrap();

        let MeterEvent::ReadingNoted { value, note } = &events[0];
        let bytes = serde_json::json!({"value": value, "note": note}).to_string().len();
        assert_eq!((events.len(), *value), (1, 7));
        assert!((185..=215).contains(&bytes), "{bytes}");
    }
}
