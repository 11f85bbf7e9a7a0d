//! This file is the circuit breaker of one outside system: closed, or open with a single probe now and then.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::LONGEST_WISH;
use crate::synchroniser::{Failure, Pace};

/// Lets calls through, or one at a time.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: usize,
    probe_every: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Who failed since the last success, and how many calls found nobody there.
    Closed { failed: HashSet<String>, unavailable: usize },
    /// `found_nobody` is whether calls found nobody there; else they were answered, and failed.
    Open { since: Instant, next_probe: Instant, is_probing: bool, found_nobody: bool },
}

/// So many subjects that fail weigh as much as one call that finds nobody there: an outside that fails two calls out
/// of three is still worth all its places, and a subject that fails ever again says nothing of the outside.
const AS_GOOD_AS_NOBODY: usize = 5;

/// Whether a call may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// As many as there are places.
    Free,
    /// This one, and no other until it has ended.
    Probe,
    /// None before this instant; none at all while a probe is under way.
    Not(Option<Instant>),
}

impl Breaker {
    pub(crate) fn new(pace: &Pace) -> Self {
        Self { failures: pace.breaker_failures, probe_every: pace.probe_every, state: closed() }
    }

    /// Since when it is open.
    pub(crate) fn open_since(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { since, .. } => Some(since),
        }
    }

    /// What may start now.
    pub(crate) fn leave(&self) -> Leave {
        match self.state {
            State::Closed { .. } => Leave::Free,
            State::Open { is_probing: true, .. } => Leave::Not(None),
            State::Open { next_probe, .. } if next_probe > Instant::now() => Leave::Not(Some(next_probe)),
            State::Open { .. } => Leave::Probe,
        }
    }

    /// A call starts that had leave as a probe.
    pub(crate) fn probe_starts(&mut self) {
        if let State::Open { is_probing, next_probe, .. } = &mut self.state {
            *is_probing = true;
            *next_probe = Instant::now() + self.probe_every;
        }
    }

    /// A call was answered, be it with a refusal: the outside is there.
    pub(crate) fn answered(&mut self) {
        self.state = closed();
    }

    /// A probe ended without having asked the outside anything.
    pub(crate) fn probe_learnt_nothing(&mut self) {
        if let State::Open { is_probing, .. } = &mut self.state {
            *is_probing = false;
        }
    }

    /// A call failed. True when this opened the breaker.
    pub(crate) fn failed(&mut self, subject: &str, failure: &Failure, was_probe: bool) -> bool {
        let wish = match failure {
            Failure::Unavailable { after, .. } => after.unwrap_or_default().min(LONGEST_WISH),
            _ => Duration::ZERO,
        };
        match &mut self.state {
            State::Closed { failed, unavailable } => {
                if let Failure::Unavailable { .. } = failure {
                    *unavailable += 1;
                }
                failed.insert(subject.to_owned());
                let is_enough = *unavailable >= self.failures || failed.len() >= self.failures * AS_GOOD_AS_NOBODY;
                if !is_enough && wish.is_zero() {
                    return false;
                }
                let found_nobody = *unavailable >= self.failures;
                let now = Instant::now();
                let next_probe = now + self.probe_every.max(wish);
                self.state = State::Open { since: now, next_probe, is_probing: false, found_nobody };
                true
            }
            // Somebody is there again, and how well it does is to be seen.
            State::Open { found_nobody: true, .. } if was_probe && matches!(failure, Failure::Later { .. }) => {
                self.state = closed();
                false
            }
            State::Open { next_probe, is_probing, .. } => {
                *is_probing &= !was_probe;
                *next_probe = (*next_probe).max(Instant::now() + wish);
                false
            }
        }
    }
}

fn closed() -> State {
    State::Closed { failed: HashSet::new(), unavailable: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Failure {
        Failure::Later { reason: "busy".into(), after: None }
    }

    fn gone(after: Option<Duration>) -> Failure {
        Failure::Unavailable { reason: "no route".into(), after }
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(&Pace::default());
        for _ in 0..10 {
            breaker.failed("ada", &gone(None), false);
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_when_fifty_subjects_fail_in_a_row_but_not_for_one_that_fails_ever_again() {
        let mut breaker = Breaker::new(&Pace::default());

        let alone = (0..100).any(|_| breaker.failed("ada", &later(), false));
        let up_to_49 = (1..49).any(|n| breaker.failed(&n.to_string(), &later(), false));
        let fiftieth = breaker.failed("49", &later(), false);

        assert_eq!((alone, up_to_49, fiftieth), (false, false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_in_between_starts_the_count_anew() {
        let mut breaker = Breaker::new(&Pace::default());

        for n in 0..100 {
            assert!(!breaker.failed(&n.to_string(), &gone(None), false));
            if n % 9 == 8 {
                breaker.answered();
            }
        }

        assert_eq!(breaker.leave(), Leave::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn while_open_one_probe_a_second_has_leave_and_none_beside_it() {
        let mut breaker = opened();
        assert_eq!(breaker.leave(), Leave::Not(Some(Instant::now() + Duration::from_secs(1))));

        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(breaker.leave(), Leave::Probe);
        breaker.probe_starts();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.leave(), Leave::Not(None), "the probe is still under way");

        breaker.failed("bob", &gone(None), false);
        assert_eq!(breaker.leave(), Leave::Not(None), "a call from before the breaker opened is no probe");
        breaker.failed("ada", &gone(None), true);
        assert_eq!(breaker.leave(), Leave::Probe);
        breaker.probe_starts();
        breaker.answered();
        assert_eq!(breaker.leave(), Leave::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_answered_shows_that_somebody_is_there_again_but_not_that_those_who_fail_do_better() {
        let mut nobody = opened();
        let mut failing = Breaker::new(&Pace::default());
        for n in 0..50 {
            failing.failed(&n.to_string(), &later(), false);
        }
        tokio::time::advance(Duration::from_secs(1)).await;

        for breaker in [&mut nobody, &mut failing] {
            breaker.probe_starts();
            breaker.failed("ada", &later(), true);
        }

        assert_eq!(nobody.leave(), Leave::Free);
        assert_eq!(failing.leave(), Leave::Not(Some(Instant::now() + Duration::from_secs(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outside_that_names_a_time_is_not_asked_before() {
        let mut breaker = Breaker::new(&Pace::default());

        assert!(breaker.failed("ada", &gone(Some(Duration::from_secs(30))), false));

        assert_eq!(breaker.leave(), Leave::Not(Some(Instant::now() + Duration::from_secs(30))));
    }
}
