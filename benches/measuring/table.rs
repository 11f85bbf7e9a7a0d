//! This file runs the lines of a benchmark side by side and prints their medians.

use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;

use super::callers::Measured;

/// One line: its name on the command line, what it shows, the line it is held against, and how it is measured.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) shown: String,
    pub(crate) beside: Option<String>,
    pub(crate) run: Run,
}

/// Measures once, on this server and for so long.
pub(crate) type Run = Box<dyn Fn(Arc<str>, Duration) -> LocalBoxFuture<'static, Measured>>;

/// How often and how long, from the environment, and which lines, from the command line.
pub(crate) struct Plan {
    pub(crate) runs: usize,
    pub(crate) time: Duration,
    wanted: Vec<String>,
}

impl Plan {
    /// None when this is no run of benchmarks but of tests.
    pub(crate) fn from_environment() -> Option<Self> {
        if !std::env::args().any(|argument| argument == "--bench") {
            println!("measures only as a benchmark");
            return None;
        }
        let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
        Some(Self {
            runs: number("RUNS").unwrap_or(3) as usize,
            time: Duration::from_secs(number("SECONDS_A_RUN").unwrap_or(4)),
            wanted: std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect(),
        })
    }

    /// The Postgres server that may be used, none when nobody says which.
    pub(crate) fn server() -> Option<Arc<str>> {
        let server = std::env::var("TEST_DATABASE_URL").ok();
        if server.is_none() {
            println!("TEST_DATABASE_URL is not set; nothing measured");
        }
        server.map(Into::into)
    }

    /// Whether a line, or a whole part, is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == name)
    }

    /// Runs the lines one round after the other, so that a noisy minute falls on all of them alike.
    pub(crate) async fn run(&self, server: &Arc<str>, cases: Vec<Case>) {
        let cases: Vec<Case> = cases.into_iter().filter(|case| self.wants(&case.name)).collect();
        let mut all: Vec<Vec<Measured>> = cases.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.runs {
            for (case, measured) in cases.iter().zip(&mut all) {
                measured.push((case.run)(Arc::clone(server), self.time).await);
            }
        }
        println!("medians of {} runs of {:?}", self.runs, self.time);
        let medians: Vec<Measured> = all.into_iter().map(median).collect();
        for (case, measured) in cases.iter().zip(&medians) {
            let base = cases.iter().position(|other| Some(&other.name) == case.beside.as_ref());
            print(case, measured, base.map(|base| (&*cases[base].name, &medians[base])));
        }
    }
}

fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    runs.swap_remove(runs.len() / 2)
}

fn print(case: &Case, measured: &Measured, base: Option<(&str, &Measured)>) {
    let ratio = base.map_or(String::new(), |(name, base)| {
        let rate = measured.per_second / base.per_second;
        let median = measured.median.as_secs_f64() / base.median.as_secs_f64();
        format!("   beside {name}: rate {rate:.2} ×, p50 {median:.2} ×")
    });
    let (here, server) = measured.processor;
    println!(
        "{:<14} {:<52} {:>8.0}/s   p50 {:>9.3?}   p99 {:>9.3?}   CPU {here:>5.1} µs here {server:>5.1} µs server{ratio}",
        case.name, case.shown, measured.per_second, measured.median, measured.p99
    );
}

/// The value in the middle, of an odd number of them.
pub(crate) fn middle<T: PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("figures can be compared"));
    values.swap_remove(values.len() / 2)
}

/// The value below which this share of the sorted ones lies.
pub(crate) fn percentile<T: Copy>(sorted: &[T], share: f64) -> T {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
