//! This file draws the pauses between two attempts: exponential, with full jitter, and the same for the same seed.

use std::time::Duration;

use crate::synchroniser::Pace;

/// Draws pauses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    seed: u128,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Of equal seeds the same pauses come.
    pub(crate) fn new(pace: &Pace, seed: u128) -> Self {
        Self { seed, first: pace.first_pause, longest: pace.longest_pause }
    }

    /// A pause before the attempt behind the `attempts`-th (≥ 1) of this subject: anything from zero to
    /// `first · 2^(attempts − 1)`, at most the longest; never below `after`, which the outside asked for.
    pub(crate) fn pause(&self, subject: &str, attempts: u32, after: Option<Duration>) -> Duration {
        let doublings = attempts.saturating_sub(1).min(30);
        let ceiling = self.first.saturating_mul(1 << doublings).min(self.longest);
        ceiling.mul_f64(self.draw(subject, attempts)).max(after.unwrap_or_default().min(LONGEST_WISH))
    }

    /// Even between 0 and 1.
    fn draw(&self, subject: &str, attempts: u32) -> f64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_be_bytes());
        hasher.update(&attempts.to_be_bytes());
        hasher.update(subject.as_bytes());
        let bytes = hasher.finalize().as_bytes()[..4].try_into().expect("a hash has more than four bytes");
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
    }
}

/// What an outside system may ask for at most: a wrong clock there must not stop us for years.
pub(crate) const LONGEST_WISH: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u128) -> Backoff {
        Backoff::new(&Pace::default(), seed)
    }

    #[test]
    fn pauses_spread_over_the_whole_of_a_ceiling_that_doubles_up_to_the_longest() {
        for (attempts, ceiling_ms) in [(1, 200), (2, 400), (5, 3_200), (9, 51_200), (10, 60_000), (4_000, 60_000)] {
            let ceiling = Duration::from_millis(ceiling_ms);
            let pauses: Vec<_> = (0..1_000).map(|seed| backoff(seed).pause("ada", attempts, None)).collect();

            let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
            assert!(*least < ceiling / 20 && *most > ceiling * 19 / 20, "{attempts}: {least:?} to {most:?}");
            assert!(*most <= ceiling, "{attempts}: {most:?}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_pauses_and_other_subjects_other_ones() {
        assert_eq!(backoff(7).pause("ada", 3, None), backoff(7).pause("ada", 3, None));
        assert_ne!(backoff(7).pause("ada", 3, None), backoff(7).pause("bob", 3, None));
    }

    #[test]
    fn what_the_outside_asks_for_is_the_least_but_not_for_ever() {
        let after = |secs| backoff(7).pause("ada", 1, Some(Duration::from_secs(secs)));

        assert_eq!(after(30), Duration::from_secs(30));
        assert_eq!(after(u64::MAX), LONGEST_WISH);
    }
}
