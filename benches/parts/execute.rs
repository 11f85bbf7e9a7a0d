//! This file sets up a whole command, from the caller to the store in memory and back, all on one thread.

use std::sync::Arc;
use std::time::Duration;

use essaim::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::Turn;

/// The streams of the one log; the command goes to one of them.
const LENGTHS: [u64; 3] = [10, 1_000, 100_000];
/// As many as the engine takes by default.
const EVENTS_A_COMMAND: u64 = 1_000;

#[derive(Default, Serialize, Deserialize)]
struct Meter {
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

impl Aggregate for Meter {
    const CATEGORY: &'static str = "meter";
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
        Some(SnapshotPolicy::every(100))
    }
}

/// Of so many events, about 200 bytes each.
fn read(times: u64) -> MeterCommand {
    MeterCommand::Read { times, note: "x".repeat(170) }
}

/// One command of one event; all streams are there whichever is asked for, so that the log is the same.
pub(super) fn on_a_stream_of(length: u64) -> Turn {
    let runtime = Builder::new_current_thread().enable_time().build().expect("this thread");
    let engine = runtime.block_on(filled());
    let running = Running { id: Meter::id(length), engine, runtime };
    Box::new(move || running.turn())
}

/// The engine goes before the runtime that it stands on.
struct Running {
    id: AggregateId<Meter>,
    engine: Engine,
    runtime: Runtime,
}

impl Running {
    fn turn(&self) {
        self.runtime.block_on(self.engine.execute(&self.id, read(1))).expect("a quiet engine takes it");
    }
}

async fn filled() -> Engine {
    // However slowly it runs under a tool that counts, nothing is passivated.
    let limits = Limits {
        passivate_after: Duration::from_secs(86_400),
        command_deadline: Duration::from_secs(600),
        ..Limits::default()
    };
    let builder = Engine::builder_shared(Arc::new(MemoryStore::new())).aggregate::<Meter>();
    let engine = builder.limits(limits).start().await.expect("starts");
    for length in LENGTHS {
        for first in (0..length).step_by(EVENTS_A_COMMAND as usize) {
            let command = read(EVENTS_A_COMMAND.min(length - first));
            engine.execute(&Meter::id(length), command).await.expect("a quiet engine takes it");
        }
    }
    engine
}
