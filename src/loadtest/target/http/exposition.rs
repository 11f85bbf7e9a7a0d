//! This file finds in Prometheus' text format what a report shows.

use crate::loadtest::target::Look;

/// What the text tells of a daemon.
pub(super) fn look(text: &str) -> Look {
    let whole = |name| sum(text, name).map(|value| value as u64);
    Look {
        lag_events: largest(text, "essaim_projection_lag_events").map(|value| value as u64),
        resident_bytes: whole("process_resident_memory_bytes"),
        // An earlier release has whole seconds only.
        cpu_seconds: sum(text, "essaim_process_cpu_seconds").or_else(|| sum(text, "process_cpu_seconds_total")),
        started_seconds: whole("process_start_time_seconds"),
        uptime_seconds: sum(text, "essaim_uptime_seconds"),
        batches: whole("essaim_journal_batch_commands_count"),
        batch_commands: whole("essaim_journal_batch_commands_sum"),
        // Only told of the last minute.
        batch_max: None,
    }
}

fn sum(text: &str, name: &str) -> Option<f64> {
    values(text, name).reduce(|sum, value| sum + value)
}

fn largest(text: &str, name: &str) -> Option<f64> {
    values(text, name).reduce(f64::max)
}

/// The values of all series of this name: `name value` or `name{labels} value`.
fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    let series = text.lines().filter_map(move |line| line.strip_prefix(name));
    let series = series.filter(|rest| rest.starts_with('{') || rest.starts_with(' '));
    series.filter_map(|rest| rest.rsplit_once(' ')?.1.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE essaim_journal_batch_commands summary
essaim_journal_batch_commands{quantile=\"0.5\"} 7
essaim_journal_batch_commands_sum 120
essaim_journal_batch_commands_count 10
essaim_projection_lag_events{projection=\"a\"} 3
essaim_projection_lag_events{projection=\"b\"} 5
process_resident_memory_bytes 1048576
process_cpu_seconds_total 1
essaim_process_cpu_seconds 1.5
process_start_time_seconds 1700000000
essaim_uptime_seconds 2.25
";

    #[test]
    fn a_daemons_metrics_tell_its_size_its_work_its_batches_and_the_slowest_projection() {
        let expected = Look {
            lag_events: Some(5),
            resident_bytes: Some(1_048_576),
            cpu_seconds: Some(1.5),
            started_seconds: Some(1_700_000_000),
            uptime_seconds: Some(2.25),
            batches: Some(10),
            batch_commands: Some(120),
            batch_max: None,
        };

        assert_eq!(look(TEXT), expected);
    }

    #[test]
    fn processor_time_of_an_earlier_release_is_told_in_whole_seconds() {
        assert_eq!(look("process_cpu_seconds_total 3\n").cpu_seconds, Some(3.0));
    }

    #[test]
    fn what_is_not_told_stays_open() {
        assert_eq!(look("process_resident_memory_bytes_peak 7\n"), Look::default());
    }
}
