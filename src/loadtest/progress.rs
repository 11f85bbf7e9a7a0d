//! This file shows on stderr how a run goes: a line that moves on a terminal, a line a second elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress is shown.
pub struct Progress {
    bar: Option<ProgressBar>,
    is_silent: bool,
}

/// How things are at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Moment {
    /// Since the measurement began.
    pub(crate) elapsed: Duration,
    /// How long it will be.
    pub(crate) of: Duration,
    /// Operations a second, in the last interval.
    pub(crate) per_second: f64,
    /// Their latencies, in microseconds; none when nothing was answered.
    pub(crate) p50_micros: Option<u64>,
    /// As above.
    pub(crate) p99_micros: Option<u64>,
    /// When the target was last heard, where it was asked and said nothing in the last interval.
    pub(crate) silence: Option<Silence>,
    /// Errors since the measurement began.
    pub(crate) errors: u64,
    /// Events that the slowest projection is behind.
    pub(crate) lag_events: Option<u64>,
}

/// Since when a target says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Since this time after the measurement began.
    Since(Duration),
    /// It has said nothing in all of it.
    FromTheStart,
}

impl Progress {
    /// On stderr, as it suits what that is.
    pub fn on_stderr() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is one");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)
        });
        Self { bar, is_silent: false }
    }

    /// Nowhere.
    pub fn silent() -> Self {
        Self { bar: None, is_silent: true }
    }

    /// A phase begins.
    pub(crate) fn phase(&self, what: &str) {
        self.show(what);
    }

    /// A moment of the measurement.
    pub(crate) fn at(&self, moment: &Moment) {
        self.show(&moment.line());
    }

    /// Clears what moves.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&self, line: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(line.to_owned());
                bar.tick();
            }
            None if self.is_silent => {}
            // Somebody who does not want to read it is no reason to end.
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }
}

impl Moment {
    fn line(&self) -> String {
        let lag = self.lag_events.map(|lag| format!("  lag {lag}")).unwrap_or_default();
        let latency = |micros: Option<u64>| micros.map_or_else(|| "–".to_owned(), self::micros);
        let silence = match self.silence {
            None => String::new(),
            Some(Silence::Since(last)) => format!("  no answer since {:.1} s", last.as_secs_f64()),
            Some(Silence::FromTheStart) => "  no answer so far".to_owned(),
        };
        format!(
            "{:>5.1} of {} s  {:>9.0}/s  p50 {:>9}  p99 {:>9}  errors {}{lag}{silence}",
            self.elapsed.as_secs_f64(),
            self.of.as_secs_f64(),
            self.per_second,
            latency(self.p50_micros),
            latency(self.p99_micros),
            self.errors,
        )
    }
}

/// Microseconds as a person would say them, with three digits.
pub(crate) fn micros(micros: u64) -> String {
    let digits = |value: f64, unit: &str| {
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.decimals$} {unit}")
    };
    match micros {
        0..=999 => format!("{micros} µs"),
        1_000..=999_999 => digits(micros as f64 / 1e3, "ms"),
        _ => digits(micros as f64 / 1e6, "s"),
    }
}

/// A rate as a person would say it: a slow one with its decimals.
pub(crate) fn per_second(rate: f64) -> String {
    let decimals = if rate < 10.0 && rate.fract() != 0.0 { 2 } else { 0 };
    format!("{rate:.decimals$}/s")
}

/// Seconds as a person would say them: less than one in its own unit.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds > 0.0 && seconds < 1.0 { micros((seconds * 1e6).round() as u64) } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_fitting_unit() {
        let shown: Vec<_> = [7, 1_234, 45_678, 456_789, 12_000_000].map(micros).into();

        assert_eq!(shown, ["7 µs", "1.23 ms", "45.7 ms", "457 ms", "12.0 s"]);
    }

    #[test]
    fn a_line_tells_rate_latencies_errors_and_lag() {
        let moment = Moment {
            elapsed: Duration::from_secs(3),
            of: Duration::from_secs(10),
            per_second: 12_345.0,
            p50_micros: Some(900),
            p99_micros: Some(4_500),
            silence: None,
            errors: 2,
            lag_events: Some(17),
        };

        assert_eq!(moment.line(), "  3.0 of 10 s      12345/s  p50    900 µs  p99   4.50 ms  errors 2  lag 17");
    }

    #[test]
    fn a_line_without_answers_shows_no_percentiles_and_since_when_the_target_is_silent() {
        let moment = |silence| Moment {
            elapsed: Duration::from_secs(3),
            of: Duration::from_secs(4),
            silence: Some(silence),
            ..Moment::default()
        };

        assert_eq!(
            moment(Silence::Since(Duration::from_millis(1_520))).line(),
            "  3.0 of 4 s          0/s  p50         –  p99         –  errors 0  no answer since 1.5 s"
        );
        assert!(moment(Silence::FromTheStart).line().ends_with("errors 0  no answer so far"));
    }

    #[test]
    fn slow_rates_and_short_times_are_not_shown_as_nothing() {
        assert_eq!([0.5, 1.0, 9.75, 500.0, 1_234.5].map(per_second), ["0.50/s", "1/s", "9.75/s", "500/s", "1234/s"]);
        assert_eq!([0.001, 0.25, 1.0, 10.04].map(seconds), ["1.00 ms", "250 ms", "1.0 s", "10.0 s"]);
    }
}
