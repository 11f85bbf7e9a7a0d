//! This file looks for the highest rate that is borne: up in large steps until one is not, then in halves between.

/// Each step up is so much faster than the last.
const FACTOR: f64 = 1.5;
/// The search ends when the rate that is borne and the one that is not are this close.
const CLOSE_ENOUGH: f64 = 1.06;
/// Steps of a search at most: from 1/s to far more than any machine bears.
const MAX_STEPS: usize = 48;

/// A search for the peak.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    next: f64,
    borne: Option<f64>,
    broken: Option<f64>,
    steps: usize,
}

impl Search {
    /// Begins with this rate.
    pub(crate) fn from(rate: f64) -> Self {
        Self { next: rate, borne: None, broken: None, steps: 0 }
    }

    /// The rate to try next; none when the peak is known well enough.
    pub(crate) fn next(&self) -> Option<f64> {
        let is_over = match (self.borne, self.broken) {
            (Some(borne), Some(broken)) => broken / borne <= CLOSE_ENOUGH,
            // Not even one a second.
            (None, Some(broken)) => broken <= 1.0,
            _ => false,
        };
        (!is_over && self.steps < MAX_STEPS).then_some(self.next)
    }

    /// The rate last tried was borne, or was not.
    pub(crate) fn tried(&mut self, is_borne: bool) {
        self.steps += 1;
        if is_borne {
            self.borne = Some(self.next);
        } else {
            self.broken = Some(self.next);
        }
        self.next = match (self.borne, self.broken) {
            (Some(borne), Some(broken)) => (borne * broken).sqrt(),
            (None, Some(broken)) => (broken / FACTOR / FACTOR).max(1.0),
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
        assert_eq!(tried.last(), Some(&1.0));
    }

    #[test]
    fn what_bears_everything_ends_the_search_too() {
        let (tried, found) = search(1.0, f64::INFINITY);

        assert_eq!((tried.len(), found.is_some()), (MAX_STEPS, true));
    }
}
