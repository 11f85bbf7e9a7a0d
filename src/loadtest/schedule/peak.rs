//! This file looks for the highest rate that is borne: up in large steps until one is not, then in halves between.
//!
//! One bad moment of the machine is not believed: a rate that was not borne is tried again at once, and the lowest of
//! those once more in the end, when all below it were borne. Should it be borne then, the search goes on upwards.

use std::time::Duration;

/// Each step up is so much faster than the last.
const FACTOR: f64 = 1.5;
/// The search ends when the rate that is borne and the one that is not are this close.
const CLOSE_ENOUGH: f64 = 1.06;
/// Steps of a search at most: from [`LOWEST`] to far more than any machine bears.
const MAX_STEPS: usize = 64;
/// A search that goes down ends here, operations a second: below, a step takes longer than anybody waits.
const LOWEST: f64 = 10.0;
/// Fewer latencies do not tell their 99th percentile: of 200 the two slowest are beyond it, so that one alone decides
/// nothing.
const SAMPLES: f64 = 200.0;

/// How long a rate is tried of which `wanted` is asked for: until it has enough samples.
pub(crate) fn step_duration(rate: f64, wanted: Duration) -> Duration {
    wanted.max(Duration::from_secs_f64(SAMPLES / rate))
}

/// A search for the peak.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    next: f64,
    borne: Option<f64>,
    broken: Option<f64>,
    /// Where the search does not go below.
    lowest: f64,
    /// How often `next` was tried and not borne, since something else was.
    broken_in_a_row: usize,
    stage: Stage,
    steps: usize,
}

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The rates between which the peak lies are found.
    Narrowing,
    /// They are; the upper one is tried for the last time.
    Confirming,
    Over,
}

impl Search {
    /// Begins with this rate.
    pub(crate) fn from(rate: f64) -> Self {
        Self {
            next: rate,
            borne: None,
            broken: None,
            lowest: rate.min(LOWEST),
            broken_in_a_row: 0,
            stage: Stage::Narrowing,
            steps: 0,
        }
    }

    /// The rate to try next; none when the peak is known well enough.
    pub(crate) fn next(&self) -> Option<f64> {
        (self.stage != Stage::Over && self.steps < MAX_STEPS).then_some(self.next)
    }

    /// Whether all was tried that tells the peak.
    pub(crate) fn is_complete(&self) -> bool {
        self.stage == Stage::Over
    }

    /// The rate last tried was borne, or was not.
    pub(crate) fn tried(&mut self, is_borne: bool) {
        self.steps += 1;
        match (self.stage, is_borne) {
            (Stage::Over, _) => return,
            (Stage::Confirming, false) => {
                self.stage = Stage::Over;
                return;
            }
            (Stage::Confirming, true) => {
                self.stage = Stage::Narrowing;
                (self.borne, self.broken) = (Some(self.next), None);
            }
            (Stage::Narrowing, true) => self.borne = Some(self.next),
            (Stage::Narrowing, false) => {
                self.broken_in_a_row += 1;
                if self.broken_in_a_row < 2 {
                    return;
                }
                self.broken = Some(self.next);
            }
        }
        self.broken_in_a_row = 0;
        self.go_on();
    }

    fn go_on(&mut self) {
        self.next = match (self.borne, self.broken) {
            (Some(borne), Some(broken)) if broken / borne <= CLOSE_ENOUGH => {
                self.stage = Stage::Confirming;
                broken
            }
            (Some(borne), Some(broken)) => (borne * broken).sqrt(),
            (None, Some(broken)) if broken <= self.lowest => {
                self.stage = Stage::Over;
                broken
            }
            (None, Some(broken)) => (broken / FACTOR / FACTOR).max(self.lowest),
            _ => self.next * FACTOR,
        };
    }

    /// The highest rate that was borne.
    pub(crate) fn peak(&self) -> Option<f64> {
        self.borne
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where everything up to `peak` is borne; the rates tried, and what was found.
    fn search(from: f64, peak: f64) -> (Vec<f64>, Option<f64>) {
        let (mut search, mut tried) = (Search::from(from), Vec::new());
        while let Some(rate) = search.next() {
            tried.push(rate);
            search.tried(rate <= peak);
        }
        (tried, search.peak())
    }

    #[test]
    fn the_peak_is_found_to_six_percent_from_below_and_from_above() {
        for from in [100.0, 5_000.0, 1_000_000.0] {
            let (tried, found) = search(from, 5_000.0);

            let found = found.unwrap();
            assert!((5_000.0 / 1.06..=5_000.0).contains(&found), "{found} from {from} by {tried:?}");
        }
    }

    #[test]
    fn what_bears_nothing_has_no_peak_and_the_search_ends() {
        let (tried, found) = search(1_000.0, 0.5);

        assert_eq!(found, None);
        assert!(tried.len() < 20, "{tried:?}");
        assert_eq!(tried.last(), Some(&10.0));
    }

    #[test]
    fn what_bears_everything_ends_the_search_too() {
        let (tried, found) = search(1.0, f64::INFINITY);

        assert_eq!((tried.len(), found.is_some()), (MAX_STEPS, true));
    }

    /// Searches from 500/s where everything up to 6,000/s is borne, but for these steps, counted from 0.
    fn search_disturbed_at(steps: &[usize]) -> f64 {
        let mut search = Search::from(500.0);
        for step in 0.. {
            let Some(rate) = search.next() else { break };
            search.tried(rate <= 6_000.0 && !steps.contains(&step));
        }
        assert!(search.is_complete());
        search.peak().unwrap()
    }

    #[test]
    fn a_step_that_was_disturbed_does_not_cap_the_search() {
        for disturbed in 0..12 {
            let found = search_disturbed_at(&[disturbed]);
            assert!((6_000.0 / 1.06..=6_000.0).contains(&found), "{found} with step {disturbed}");
        }
    }

    #[test]
    fn a_disturbance_over_two_steps_is_found_out_in_the_end() {
        for disturbed in 0..6 {
            let found = search_disturbed_at(&[disturbed, disturbed + 1]);
            assert!((6_000.0 / 1.06..=6_000.0).contains(&found), "{found} with steps from {disturbed}");
        }
    }

    #[test]
    fn a_search_that_was_left_off_is_not_complete() {
        let mut search = Search::from(500.0);
        assert!(!search.is_complete());
        search.tried(true);

        assert!(!search.is_complete());
        assert_eq!(search.peak(), Some(500.0));
    }

    #[test]
    fn a_low_rate_is_tried_until_it_has_samples_enough_and_a_high_one_as_long_as_was_asked_for() {
        let seconds = |rate| step_duration(rate, Duration::from_secs(3)).as_secs();

        // 200 samples at 20/s take 10 s.
        assert_eq!((seconds(20.0), seconds(500.0)), (10, 3));
    }
}
