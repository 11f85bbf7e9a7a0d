//! This file draws the numbers of a run from its seed: the same seed gives the same load, with every release.

/// A stream of pseudo-random numbers, by Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014 (SplitMix64). Good enough to spread load, and nothing else.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A stream of its own for the `n`-th part of a run.
    #[must_use]
    pub fn part(seed: u64, n: u64) -> Self {
        let mut parent = Self::new(seed ^ n.wrapping_mul(0xD1B5_4A32_D192_ED03));
        Self::new(parent.next_u64())
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, all alike but for a bias of `bound / 2^64`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// A number from 0 (inclusive) to 1 (exclusive).
    pub fn fraction(&mut self) -> f64 {
        // The 53 bits that a double keeps exactly.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// A waiting time of a Poisson process, in units of its mean.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.fraction()).ln()
    }

    /// A UUID of version 8.
    pub fn uuid(&mut self) -> uuid::Uuid {
        let high = u128::from(self.next_u64()) << 64;
        uuid::Uuid::new_v8((high | u128::from(self.next_u64())).to_be_bytes())
    }
}

/// Picks one of `n` things, the first far more often than the last: the k-th with a probability of 1 / k^exponent.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// The share of the first, the first two, the first three …
    cumulative: Vec<f64>,
}

impl Zipf {
    /// Over `n` ≥ 1 things. Exponent 0 takes all alike, 1 is Zipf's own.
    pub fn new(n: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = (1..=n.max(1))
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|share| *share /= sum);
        Self { cumulative }
    }

    /// Which one, from 0.
    pub fn pick(&self, random: &mut Random) -> usize {
        let at = random.fraction();
        self.cumulative.partition_point(|share| *share <= at).min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_numbers_of_the_published_algorithm() {
        let mut random = Random::new(1_234_567);

        // The first outputs of the reference implementation for this seed.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next_u64(), random.next_u64(), random.next_u64()], expected);
    }

    #[test]
    fn parts_of_one_seed_differ() {
        let first = |part| Random::part(7, part).next_u64();

        assert_ne!(first(0), first(1));
        assert_eq!(first(1), first(1));
    }

    #[test]
    fn the_waiting_times_of_a_poisson_process_have_the_mean_one() {
        let mut random = Random::new(1);

        let sum: f64 = (0..100_000).map(|_| random.exponential()).sum();

        // The standard deviation of this mean is 1 / sqrt(100,000), about 0.003.
        assert!((sum / 100_000.0 - 1.0).abs() < 0.02, "{sum}");
    }

    #[test]
    fn with_exponent_one_the_first_of_two_is_picked_twice_as_often_as_the_second() {
        let (zipf, mut random) = (Zipf::new(2, 1.0), Random::new(1));

        let firsts = (0..30_000).filter(|_| zipf.pick(&mut random) == 0).count();

        assert!((19_500..20_500).contains(&firsts), "{firsts}");
    }

    #[test]
    fn with_exponent_zero_all_are_picked_alike() {
        let (zipf, mut random) = (Zipf::new(4, 0.0), Random::new(1));

        let mut picked = [0; 4];
        (0..40_000).for_each(|_| picked[zipf.pick(&mut random)] += 1);

        assert!(picked.iter().all(|count| (9_500..10_500).contains(count)), "{picked:?}");
    }
}
