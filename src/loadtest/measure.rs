//! This file counts what ended, how, and after how long, while a run goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::workload::Failed;
use crate::stream::GlobalPosition;

/// From here on an operation counts as begun late: far above what the pacer's sleep may take too long.
pub(crate) const LATE: Duration = Duration::from_millis(5);

/// Latencies in microseconds, each rounded up.
pub(crate) type Latencies = Histogram<u64>;

/// A histogram that grows with what it is given.
pub(crate) fn latencies() -> Latencies {
    const SIGNIFICANT_DIGITS: u8 = 3;
    Histogram::new(SIGNIFICANT_DIGITS).expect("three digits are within what a histogram can have")
}

/// What is counted at the moment, in parts that callers share by their number, so that few wait for each other.
pub(crate) struct Measures {
    parts: Vec<Mutex<Tallies>>,
    is_counting: AtomicBool,
    ended: AtomicU64,
    /// Moments are told as times since then.
    started: Instant,
    /// When the target was last heard, in microseconds since then; 0 as long as it was not.
    heard_micros: AtomicU64,
}

/// What was counted since it was last taken.
#[derive(Clone)]
pub(crate) struct Tallies {
    /// By kind of operation.
    pub(crate) kinds: BTreeMap<&'static str, Tally>,
    /// From a command's answer to its being visible in the read models.
    pub(crate) visible: Latencies,
    /// From a commit to its being visible in the read models.
    pub(crate) visible_from_commit: Latencies,
    /// Attempts of unknown outcome that were made again, by class.
    pub(crate) retries: BTreeMap<&'static str, u64>,
    /// Operations that began more than [`LATE`] after their moment.
    pub(crate) late: u64,
    /// The longest after its moment that one began.
    pub(crate) max_delay: Duration,
}

/// What is counted of one kind of operation.
#[derive(Clone)]
pub(crate) struct Tally {
    /// Whether these are reads.
    pub(crate) is_read: bool,
    /// Of those that ended as they should.
    pub(crate) latencies: Latencies,
    /// Events that they appended, or read.
    pub(crate) events: u64,
    /// Refusals that were as they should be, by code.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Those that did not end as they should, by class.
    pub(crate) errors: BTreeMap<&'static str, Errors>,
}

/// Failures of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Errors {
    /// How many.
    pub(crate) count: u64,
    /// What the first one said.
    pub(crate) first: String,
}

impl Default for Tallies {
    fn default() -> Self {
        let (kinds, retries) = (BTreeMap::new(), BTreeMap::new());
        let (visible, visible_from_commit) = (latencies(), latencies());
        Self { kinds, visible, visible_from_commit, retries, late: 0, max_delay: Duration::ZERO }
    }
}

impl Default for Tally {
    fn default() -> Self {
        let (refusals, errors) = (BTreeMap::new(), BTreeMap::new());
        Self { is_read: false, latencies: latencies(), events: 0, refusals, errors }
    }
}

impl Tallies {
    /// Adds other counts to these.
    pub(crate) fn add(&mut self, other: &Tallies) {
        for (kind, tally) in &other.kinds {
            self.kinds.entry(kind).or_default().add(tally);
        }
        add(&mut self.visible, &other.visible);
        add(&mut self.visible_from_commit, &other.visible_from_commit);
        for (class, count) in &other.retries {
            *self.retries.entry(class).or_default() += count;
        }
        self.late += other.late;
        self.max_delay = self.max_delay.max(other.max_delay);
    }

    /// All kinds together.
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.kinds.values().for_each(|tally| total.add(tally));
        total
    }
}

impl Tally {
    /// Adds other counts to these.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.is_read |= other.is_read;
        add(&mut self.latencies, &other.latencies);
        self.events += other.events;
        for (code, count) in &other.refusals {
            *self.refusals.entry(code.clone()).or_default() += count;
        }
        for (class, errors) in &other.errors {
            let known = self.errors.entry(class).or_insert_with(|| Errors { count: 0, first: errors.first.clone() });
            known.count += errors.count;
        }
    }

    /// Those that did not end as they should.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().map(|errors| errors.count).sum()
    }
}

fn add(to: &mut Latencies, more: &Latencies) {
    to.add(more).expect("a histogram that grows takes every other");
}

/// How an operation ended, for counting.
pub(crate) enum Ended<'a> {
    /// With success, and with so many events appended or read.
    Well { events: u64 },
    /// With a refusal of this code, as it should.
    Refused { code: &'a str },
    /// Not as it should.
    Badly(&'a Failed),
}

impl Measures {
    pub(crate) fn new() -> Self {
        let parts = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        Self {
            parts: (0..parts).map(|_| Mutex::default()).collect(),
            is_counting: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            started: Instant::now(),
            heard_micros: AtomicU64::new(0),
        }
    }

    /// From now on what ends is counted.
    pub(crate) fn count(&self) {
        self.is_counting.store(true, Ordering::Release);
    }

    /// Operations that were answered since the run began, counted or not.
    pub(crate) fn answered(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// The target said something, be it that it cannot do what it was asked for.
    pub(crate) fn heard(&self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.heard_micros.store(micros.max(1), Ordering::Relaxed);
    }

    /// When the target was last heard; none as long as it was not.
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        let micros = self.heard_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| self.started + Duration::from_micros(micros))
    }

    /// An operation ended.
    pub(crate) fn ended(&self, caller: u64, kind: &'static str, is_read: bool, took: Duration, ended: &Ended<'_>) {
        if !matches!(ended, Ended::Badly(_)) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        self.note(caller, |tallies| {
            let tally = tallies.kinds.entry(kind).or_default();
            tally.is_read = is_read;
            match ended {
                Ended::Well { events } => tally.events += events,
                Ended::Refused { code } => match tally.refusals.get_mut(*code) {
                    Some(count) => *count += 1,
                    None => drop(tally.refusals.insert((*code).to_owned(), 1)),
                },
                Ended::Badly(failed) => {
                    let first = || Errors { count: 0, first: failed.detail.clone() };
                    tally.errors.entry(failed.class).or_insert_with(first).count += 1;
                    return;
                }
            }
            record(&mut tally.latencies, took);
        });
    }

    /// A command's events are in the read models, so long after its answer.
    pub(crate) fn became_visible(&self, caller: u64, after: Duration) {
        self.note(caller, |tallies| record(&mut tallies.visible, after));
    }

    /// The commit that ends here is in the read models, so long after it returned.
    pub(crate) fn commit_became_visible(&self, position: GlobalPosition, after: Duration) {
        self.note(position.0, |tallies| record(&mut tallies.visible_from_commit, after));
    }

    /// An attempt ended without anyone knowing how, and is made again.
    pub(crate) fn retried(&self, caller: u64, failed: &Failed) {
        self.note(caller, |tallies| *tallies.retries.entry(failed.class).or_default() += 1);
    }

    /// An operation began so long after its moment.
    pub(crate) fn began(&self, caller: u64, delay: Duration) {
        self.note(caller, |tallies| {
            tallies.late += u64::from(delay >= LATE);
            tallies.max_delay = tallies.max_delay.max(delay);
        });
    }

    /// Takes what was counted, and begins anew.
    pub(crate) fn take(&self) -> Tallies {
        let mut sum = Tallies::default();
        for part in &self.parts {
            sum.add(&std::mem::take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        sum
    }

    fn note(&self, caller: u64, change: impl FnOnce(&mut Tallies)) {
        if self.is_counting.load(Ordering::Acquire) {
            let part = &self.parts[caller as usize % self.parts.len()];
            change(&mut part.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

fn record(latencies: &mut Latencies, took: Duration) {
    /// What takes longer is not told apart: an hour.
    const LONGEST_MICROS: u64 = 3_600_000_000;
    let micros = u64::try_from(took.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
    latencies.record(micros.clamp(1, LONGEST_MICROS)).expect("a histogram that grows takes an hour");
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Ended<'_> = Ended::Well { events: 1 };

    #[test]
    fn what_is_taken_is_counted_once_and_adds_up_over_callers_and_times() {
        let measures = Measures::new();
        measures.count();
        for caller in 0..10 {
            measures.ended(caller, "create", false, Duration::from_millis(caller + 1), &WELL);
        }
        let mut sum = measures.take();
        measures.ended(3, "read", true, Duration::from_millis(20), &WELL);

        sum.add(&measures.take());

        assert_eq!((sum.kinds["create"].latencies.len(), sum.kinds["read"].latencies.len()), (10, 1));
        assert_eq!(
            (sum.total().latencies.len(), sum.total().latencies.max() / 100),
            (11, 200),
            "20 ms, to three digits"
        );
        assert!(sum.kinds["read"].is_read && !sum.kinds["create"].is_read);
        assert_eq!(measures.take().total().latencies.len(), 0);
    }

    #[test]
    fn what_ends_before_the_warm_up_is_over_is_not_counted() {
        let measures = Measures::new();
        measures.ended(0, "create", false, Duration::from_millis(1), &WELL);
        measures.count();
        measures.ended(0, "create", false, Duration::from_millis(1), &WELL);

        assert_eq!((measures.take().total().latencies.len(), measures.answered()), (1, 2));
    }

    #[test]
    fn failures_are_counted_by_class_with_what_the_first_one_said_and_have_no_latency() {
        let measures = Measures::new();
        measures.count();
        for detail in ["first", "second"] {
            let failed = Failed::new("overloaded", detail);
            measures.ended(0, "create", false, Duration::from_millis(1), &Ended::Badly(&failed));
        }

        let total = measures.take().total();

        assert_eq!(total.errors["overloaded"], Errors { count: 2, first: "first".into() });
        assert_eq!((total.failed(), total.latencies.len(), measures.answered()), (2, 0, 0));
    }

    #[test]
    fn an_expected_refusal_is_an_answer_with_a_latency() {
        let measures = Measures::new();
        measures.count();
        measures.ended(0, "refused", false, Duration::from_micros(7), &Ended::Refused { code: "not_pending" });

        let total = measures.take().total();

        assert_eq!((total.refusals["not_pending"], total.latencies.max(), total.failed()), (1, 7, 0));
    }
}
