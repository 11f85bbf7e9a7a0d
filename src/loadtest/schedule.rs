//! This file says when operations begin: whenever a caller is free, or at moments that were fixed before.

use std::time::Duration;

use super::random::Random;

pub mod peak;

/// When operations begin.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// So many callers, each beginning as soon as its last operation ended.
    Closed {
        /// How many, ≥ 1.
        callers: usize,
    },
    /// At moments that do not depend on how fast the answers come.
    Open {
        /// Operations a second, > 0.
        rate: f64,
        /// How the moments are spread.
        arrivals: Arrivals,
        /// Operations under way at once, ≥ 1; beyond that they begin late, and that is told.
        callers: usize,
    },
    /// Open, faster and faster, until the 99th percentile of the latencies breaks this limit.
    Peak {
        /// The first rate to try, > 0.
        rate: f64,
        /// How the moments are spread.
        arrivals: Arrivals,
        /// Operations under way at once, ≥ 1.
        callers: usize,
        /// What the 99th percentile must stay below.
        p99: Duration,
    },
}

/// How moments are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrivals {
    /// At equal distances.
    #[default]
    Constant,
    /// Each independent of all others, as with many clients that do not know of each other.
    Poisson,
}

impl Schedule {
    /// What kind it is, e.g. `poisson arrivals`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed loop",
            Self::Open { arrivals: Arrivals::Constant, .. } => "constant arrivals",
            Self::Open { arrivals: Arrivals::Poisson, .. } => "poisson arrivals",
            Self::Peak { .. } => "find peak",
        }
    }

    /// Operations a second that are to begin, or the first such rate; none for a closed loop.
    pub fn rate(&self) -> Option<f64> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { rate, .. } | Self::Peak { rate, .. } => Some(*rate),
        }
    }

    /// Operations under way at a time, at most.
    pub fn callers(&self) -> usize {
        match self {
            Self::Closed { callers } | Self::Open { callers, .. } | Self::Peak { callers, .. } => *callers,
        }
    }
}

/// The moments at which operations are to begin, as times since the first.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    arrivals: Arrivals,
    seconds_each: f64,
    random: Random,
    count: u64,
    seconds: f64,
}

impl Moments {
    pub(crate) fn new(rate: f64, arrivals: Arrivals, random: Random) -> Self {
        Self { arrivals, seconds_each: 1.0 / rate, random, count: 0, seconds: 0.0 }
    }
}

impl Iterator for Moments {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match self.arrivals {
            // From the count, so that no rounding adds up.
            Arrivals::Constant => self.seconds = self.count as f64 * self.seconds_each,
            Arrivals::Poisson => self.seconds += self.random.exponential() * self.seconds_each,
        }
        self.count += 1;
        Some(Duration::from_secs_f64(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_keep_their_distance_and_do_not_drift() {
        let mut moments = Moments::new(3.0, Arrivals::Constant, Random::new(1));

        assert_eq!(moments.next(), Some(Duration::ZERO));
        assert_eq!(moments.nth(2_999_999), Some(Duration::from_secs(1_000_000)));
    }

    #[test]
    fn poisson_arrivals_have_the_wanted_rate_and_uneven_distances() {
        let moments: Vec<_> = Moments::new(100.0, Arrivals::Poisson, Random::new(1)).take(100_000).collect();

        let seconds = moments.last().unwrap().as_secs_f64();
        let distances = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
        let short = distances.filter(|distance| *distance < 0.01).count() as f64 / 100_000.0;
        // 100,000 at 100/s take 1,000 s; of exponential distances 1 - 1/e are below their mean.
        assert!((seconds - 1_000.0).abs() < 15.0, "{seconds}");
        assert!((short - 0.632).abs() < 0.01, "{short}");
    }
}
