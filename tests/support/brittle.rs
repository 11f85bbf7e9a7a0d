//! This file makes the journal die: parts it calls that panic in its hands, once, when a test says so.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use essaim::clock::{Clock, SystemClock};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use uuid::Uuid;

/// A panic that is wanted once.
#[derive(Default)]
struct Wanted(AtomicBool);

impl Wanted {
    fn take_effect(&self) {
        assert!(!self.0.swap(false, Ordering::Relaxed), "as asked");
    }
}

/// A clock that panics when it is asked for a random id. The journal asks for one a batch, before it sends it, and
/// nobody else does once an engine has started.
#[derive(Default)]
pub struct BrittleClock(Wanted);

impl BrittleClock {
    pub fn break_once(&self) {
        self.0.0.store(true, Ordering::Relaxed);
    }

    pub fn is_broken(&self) -> bool {
        !self.0.0.load(Ordering::Relaxed)
    }
}

impl Clock for BrittleClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now()
    }

    fn time_ordered_id(&self) -> Uuid {
        SystemClock.time_ordered_id()
    }

    fn random_id(&self) -> Uuid {
        self.0.take_effect();
        SystemClock.random_id()
    }
}

/// A recorder of metrics that panics when the journal is about to answer a batch.
#[derive(Default)]
pub struct BrittleRecorder(Wanted);

impl BrittleRecorder {
    pub fn break_once(&self) {
        self.0.0.store(true, Ordering::Relaxed);
    }

    pub fn is_broken(&self) -> bool {
        !self.0.0.load(Ordering::Relaxed)
    }
}

impl Recorder for BrittleRecorder {
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
        if key.name() == "essaim_journal_batch_commands" {
            self.0.take_effect();
        }
        Histogram::noop()
    }
}
