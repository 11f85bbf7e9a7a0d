//! This file records the sizes of group commits, which an engine in this process tells through the `metrics` facade.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The journal tells the number of commands in each batch under this name.
const BATCH_COMMANDS: &str = "essaim_journal_batch_commands";

/// The group commits of this process.
#[derive(Debug, Default)]
pub struct Counted {
    batches: Arc<Batches>,
}

#[derive(Debug, Default)]
struct Batches {
    count: AtomicU64,
    commands: AtomicU64,
    largest: AtomicU64,
}

impl Counted {
    /// Records what this process counts from now on; none when another recorder is there already.
    pub fn install() -> Option<Arc<Self>> {
        let counted = Arc::new(Self::default());
        metrics::set_global_recorder(Arc::clone(&counted)).ok().map(|()| counted)
    }

    /// Batches so far, and the commands in all of them.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.batches.count.load(Ordering::Relaxed), self.batches.commands.load(Ordering::Relaxed))
    }

    /// Commands in the largest batch since this was last asked; none when there was no batch.
    pub(crate) fn take_largest(&self) -> Option<u64> {
        Some(self.batches.largest.swap(0, Ordering::Relaxed)).filter(|largest| *largest > 0)
    }
}

impl HistogramFn for Batches {
    fn record(&self, commands: f64) {
        let commands = commands as u64;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands, Ordering::Relaxed);
        self.largest.fetch_max(commands, Ordering::Relaxed);
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            BATCH_COMMANDS => Histogram::from_arc(Arc::clone(&self.batches)),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up_and_the_largest_is_that_since_the_last_look() {
        let counted = Counted::default();
        metrics::with_local_recorder(&counted, || {
            for commands in [3.0, 9.0, 1.0] {
                metrics::histogram!(BATCH_COMMANDS).record(commands);
            }
            metrics::histogram!("another").record(50.0);
        });

        assert_eq!((counted.totals(), counted.take_largest(), counted.take_largest()), ((3, 13), Some(9), None));
    }
}
