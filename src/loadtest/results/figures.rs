//! This file is what is measured: rates, latencies, errors, and what the machine spent on them.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What happened over some time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// How many were answered, refusals too.
    pub answered: u64,
    /// Of those, how many only after the measured time: their latencies count, they are in no rate.
    pub answered_late: u64,
    /// Those answered in the measured time, a second of it.
    pub per_second: f64,
    /// From the intended moment (open loop) or the sending (closed loop) to the answer.
    pub latency: Latency,
    /// How many had no answer, by class: `overloaded`, `timeout`, `unknown`, …
    pub errors: BTreeMap<String, u64>,
    /// How many events were appended.
    pub events: u64,
    /// Of those, how many by what was answered after the measured time.
    pub events_late: u64,
}

impl Figures {
    /// All errors.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// One second of a run. What was not measured is none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Interval {
    /// Its end, in seconds since the start of the measurement.
    pub at_seconds: f64,
    /// Its length in seconds; the last one may be shorter.
    pub length_seconds: f64,
    /// Commands and reads answered in it.
    pub figures: Figures,
    /// Of those, how many were reads.
    pub reads: u64,
    /// Events that the hot read models were behind the log at its end.
    pub lag_events: Option<u64>,
    /// The most that they were behind within it, where they were watched all the time: in this process.
    pub lag_events_max: Option<u64>,
    /// Commands in a commit, on average.
    pub group_mean: Option<f64>,
    /// Commands in the largest commit.
    pub group_max: Option<u64>,
    /// Resident memory of the measured process at its end.
    pub rss_bytes: Option<u64>,
    /// Processor time of the measured process; 1 is one core fully used.
    pub cpu_cores: Option<f64>,
    /// Commands in flight at its end.
    pub in_flight: Option<u64>,
}

impl Interval {
    /// The most events that the read models were seen behind: within it, or at its end where it was not watched.
    pub fn lag(&self) -> Option<u64> {
        self.lag_events_max.or(self.lag_events)
    }
}

/// How long something took, in microseconds; all 0 when there was nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// The average.
    pub mean_micros: f64,
    /// Half took at most this.
    pub p50_micros: u64,
    /// 90 % took at most this.
    pub p90_micros: u64,
    /// 99 % took at most this.
    pub p99_micros: u64,
    /// 99.9 % took at most this.
    pub p999_micros: u64,
    /// None took longer.
    pub max_micros: u64,
}

impl Latency {
    /// The latencies in a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            mean_micros: histogram.mean(),
            p50_micros: histogram.value_at_quantile(0.5),
            p90_micros: histogram.value_at_quantile(0.9),
            p99_micros: histogram.value_at_quantile(0.99),
            p999_micros: histogram.value_at_quantile(0.999),
            max_micros: histogram.max(),
        }
    }
}

/// One point of the percentile plot.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentile {
    /// Which share of all, from 0 to 1.
    pub quantile: f64,
    /// This share took at most so long.
    pub micros: u64,
    /// How many these are.
    pub count: u64,
}

impl Percentile {
    /// The points of a histogram of microseconds, rising, ever closer together towards the slowest: at most about 100.
    pub fn of(histogram: &Histogram<u64>) -> Vec<Self> {
        // Ticks between one halving of the rest and the next, as HdrHistogram's own plots have them.
        const TICKS_PER_HALVING: u32 = 5;
        let points = histogram.iter_quantiles(TICKS_PER_HALVING).map(|step| Self {
            quantile: step.quantile_iterated_to(),
            micros: histogram.value_at_quantile(step.quantile_iterated_to()),
            count: histogram.count_between(0, step.value_iterated_to()),
        });
        points.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1,000 times 100 µs, ten times 10,000 µs.
    fn histogram() -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        histogram.record_n(100, 1_000).unwrap();
        histogram.record_n(10_000, 10).unwrap();
        histogram
    }

    #[test]
    fn the_percentiles_of_a_histogram_are_those_of_its_values() {
        let latency = Latency::of(&histogram());

        assert_eq!((latency.p50_micros, latency.p99_micros), (100, 100));
        // 1,000 of 1,010 are 99.01 %: the slow ones begin right behind. Three figures are kept.
        assert_eq!((latency.p999_micros / 10, latency.max_micros / 10), (1_000, 1_000));
        assert_eq!(Latency::of(&Histogram::new(3).unwrap()), Latency::default());
    }

    #[test]
    fn the_points_of_the_percentile_plot_rise_from_none_to_all() {
        let points = Percentile::of(&histogram());

        assert!(points.len() > 10 && points.len() <= 120, "{}", points.len());
        assert!(points.windows(2).all(|pair| pair[0].quantile <= pair[1].quantile && pair[0].micros <= pair[1].micros));
        let last = points.last().unwrap();
        assert_eq!((last.quantile, last.count, last.micros / 10), (1.0, 1_010, 1_000));
    }
}
