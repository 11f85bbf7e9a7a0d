//! This file decides which request meets which fault, from a seed, and counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What goes wrong. Shares are of the requests, from 0 to 1; the control endpoint meets none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// How long a request takes at least, in milliseconds, at most an hour.
    pub latency_ms: u64,
    /// Answered with a 500, 502, 503 or 504, without effect.
    pub error_share: f64,
    /// Answered with a 429, without effect.
    pub throttle_share: f64,
    /// What a 429 asks for in `Retry-After`, in seconds.
    pub retry_after_seconds: u64,
    /// The connection is closed after the effect, instead of an answer.
    pub lost_share: f64,
    /// How long tokens live, in seconds, from 1. Applies to those issued from now on.
    pub token_seconds: u64,
    /// Every connection is closed instead of an answer, without effect.
    pub outage: bool,
}

impl Default for Faults {
    /// None; tokens live a minute, as Keycloak's do.
    fn default() -> Self {
        Self {
            latency_ms: 0,
            error_share: 0.0,
            throttle_share: 0.0,
            retry_after_seconds: 1,
            lost_share: 0.0,
            token_seconds: 60,
            outage: false,
        }
    }
}

impl Faults {
    pub(super) fn validate(&self) -> Result<(), String> {
        let shares = [
            ("error_share", self.error_share),
            ("throttle_share", self.throttle_share),
            ("lost_share", self.lost_share),
        ];
        if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(format!("{name} is {share}, and a share is from 0 to 1"));
        }
        if self.latency_ms > 3_600_000 {
            return Err(format!("latency_ms is {}, at most an hour is taken", self.latency_ms));
        }
        if self.token_seconds == 0 { Err("token_seconds is 0, and a token lives".into()) } else { Ok(()) }
    }
}

/// What was counted since the start, the control endpoint left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// All requests.
    pub requests: u64,
    /// Tokens asked for.
    pub token_requests: u64,
    /// Accounts asked to be created, replaced, deleted; sessions asked to be ended.
    pub writes: u64,
    /// Answered with a 5xx by a fault.
    pub errors: u64,
    /// Answered with a 429 by a fault.
    pub throttled: u64,
    /// Effects whose answer was lost by a fault.
    pub lost: u64,
    /// Requests that came during an outage: the probes.
    pub probes: u64,
    /// The most probes that came within one second, counted from the first of them.
    pub most_probes_a_second: u64,
    /// Accounts there are now.
    pub users: usize,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// An answer.
    Answered,
    /// This 5xx, without effect.
    Failed(u16),
    /// A 429 with this many seconds, without effect.
    Throttled(u64),
    /// The effect, and no answer.
    Lost,
    /// Neither effect nor answer.
    Unreachable,
}

/// The faults in force, the dice and the counters.
#[derive(Debug)]
pub(super) struct Switchboard {
    dice: Dice,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    faults: Faults,
    counters: Counters,
    probes: Option<Probes>,
}

/// The probes of the second under way.
#[derive(Debug)]
struct Probes {
    since: Instant,
    count: u64,
}

impl Switchboard {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let state = State { faults, counters: Counters::default(), probes: None };
        Self { dice: Dice::new(seed, "faults"), state: Mutex::new(state) }
    }

    pub(super) fn faults(&self) -> Faults {
        self.state().faults.clone()
    }

    pub(super) fn set(&self, faults: Faults) -> Result<(), String> {
        faults.validate()?;
        self.state().faults = faults;
        Ok(())
    }

    pub(super) fn counters(&self) -> Counters {
        self.state().counters.clone()
    }

    pub(super) fn latency(&self) -> Duration {
        Duration::from_millis(self.state().faults.latency_ms)
    }

    /// Decides about the next request, and counts it.
    pub(super) fn next(&self, asks_for_token: bool, writes: bool) -> Fate {
        let (fault, kind) = (self.dice.share(), self.dice.number());
        let mut state = self.state();
        state.counters.requests += 1;
        state.counters.token_requests += u64::from(asks_for_token);
        state.counters.writes += u64::from(writes);
        let fate = state.faults.fate(fault, kind);
        match fate {
            Fate::Answered => {}
            Fate::Failed(_) => state.counters.errors += 1,
            Fate::Throttled(_) => state.counters.throttled += 1,
            Fate::Lost => state.counters.lost += 1,
            Fate::Unreachable => state.count_probe(Instant::now()),
        }
        fate
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults {
    /// The faults lie one behind the other on the line from 0 to 1, of which `fault` is a point.
    fn fate(&self, fault: f64, kind: u64) -> Fate {
        const STATUSES: [u16; 4] = [500, 502, 503, 504];
        let errors = self.error_share;
        let throttled = errors + self.throttle_share;
        match fault {
            _ if self.outage => Fate::Unreachable,
            fault if fault < errors => Fate::Failed(STATUSES[usize::from(kind.to_le_bytes()[0] % 4)]),
            fault if fault < throttled => Fate::Throttled(self.retry_after_seconds),
            fault if fault < throttled + self.lost_share => Fate::Lost,
            _ => Fate::Answered,
        }
    }
}

impl State {
    fn count_probe(&mut self, now: Instant) {
        self.counters.probes += 1;
        let second = self.probes.take().filter(|probes| now < probes.since + Duration::from_secs(1));
        let second = second.unwrap_or(Probes { since: now, count: 0 });
        let count = second.count + 1;
        self.counters.most_probes_a_second = self.counters.most_probes_a_second.max(count);
        self.probes = Some(Probes { count, ..second });
    }
}

/// Numbers that follow from a seed, the same in every run.
#[derive(Debug)]
pub(super) struct Dice {
    key: [u8; 32],
    thrown: AtomicU64,
}

impl Dice {
    pub(super) fn new(seed: u64, purpose: &str) -> Self {
        let key = blake3::derive_key(purpose, &seed.to_le_bytes());
        Self { key, thrown: AtomicU64::new(0) }
    }

    /// Sixteen bytes, as for an id.
    pub(super) fn bytes(&self) -> [u8; 16] {
        let n = self.thrown.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::keyed_hash(&self.key, &n.to_le_bytes());
        hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes")
    }

    fn number(&self) -> u64 {
        u64::from_le_bytes(self.bytes()[..8].try_into().expect("eight of sixteen bytes"))
    }

    /// From 0 to 1, 1 excluded.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
    fn share(&self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> Faults {
        Faults { error_share: 0.3, throttle_share: 0.2, lost_share: 0.1, ..Faults::default() }
    }

    #[test]
    fn each_fault_strikes_in_its_share_and_the_same_in_every_run() {
        let fates = |seed| {
            let switches = Switchboard::new(seed, faults());
            (0..10_000).map(|_| switches.next(false, true)).collect::<Vec<_>>()
        };

        let first = fates(7);

        assert_eq!(first, fates(7));
        assert_ne!(first, fates(8));
        let share = |wanted: fn(&Fate) -> bool| first.iter().filter(|fate| wanted(fate)).count();
        // Of 10,000; six standard deviations are 275 at a share of 0.3.
        assert!(share(|fate| matches!(fate, Fate::Failed(_))).abs_diff(3_000) < 275);
        assert!(share(|fate| matches!(fate, Fate::Throttled(1))).abs_diff(2_000) < 275);
        assert!(share(|fate| matches!(fate, Fate::Lost)).abs_diff(1_000) < 275);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_are_counted_by_the_second() {
        let switches = Switchboard::new(0, Faults { outage: true, ..Faults::default() });

        for pause in [0, 400, 400, 400, 1_100] {
            tokio::time::advance(Duration::from_millis(pause)).await;
            assert_eq!(switches.next(false, false), Fate::Unreachable);
        }

        // At 0, 400, 800 ms in the first second; at 1,200 ms and at 2,300 ms in seconds of their own.
        let counters = switches.counters();
        assert_eq!((counters.probes, counters.most_probes_a_second), (5, 3));
    }

    #[test]
    fn a_share_beyond_one_is_refused_by_name() {
        let switches = Switchboard::new(0, Faults::default());

        let error = switches.set(Faults { lost_share: 1.5, ..Faults::default() }).unwrap_err();

        assert!(error.contains("lost_share"), "{error}");
        assert_eq!(switches.faults(), Faults::default());
    }
}
