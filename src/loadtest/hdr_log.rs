//! This file writes latencies as an HdrHistogram interval log, which many tools read.

use std::io;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::measure::Latencies;

/// Latencies of one interval.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    /// Since the measurement began.
    pub(crate) start: Duration,
    pub(crate) length: Duration,
    /// In microseconds.
    pub(crate) latencies: Latencies,
}

/// The text of a log of these intervals, in order.
///
/// # Errors
/// When an interval cannot be written, which would be a defect of the format.
pub(crate) fn text(began: DateTime<Utc>, slices: &[Slice]) -> io::Result<Vec<u8>> {
    let (mut text, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut builder = IntervalLogWriterBuilder::new();
    // Values are microseconds; the column for people is in milliseconds.
    builder.add_comment("[Latencies of essaim load, in microseconds; maxima in milliseconds]");
    builder.with_start_time(SystemTime::from(began)).with_max_value_divisor(1_000.0);
    let mut log = builder.begin_log_with(&mut text, &mut serializer)?;
    for Slice { start, length, latencies } in slices {
        log.write_histogram(latencies, *start, *length, None).map_err(|error| io::Error::other(error.to_string()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::loadtest::measure::latencies;

    #[test]
    fn what_is_written_is_read_back_interval_by_interval() {
        let mut recorded = latencies();
        for micros in [100, 200, 300_000] {
            recorded.record(micros).unwrap();
        }
        let slice = Slice { start: Duration::from_secs(1), length: Duration::from_secs(1), latencies: recorded };

        let text = text(DateTime::from_timestamp(1_700_000_000, 0).unwrap(), &[slice.clone(), slice]).unwrap();

        let intervals: Vec<_> = IntervalLogIterator::new(&text)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        let encoded = base64_of(intervals[0].encoded_histogram());
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut encoded.as_slice()).unwrap();
        assert_eq!((intervals.len(), intervals[1].start_timestamp()), (2, Duration::from_secs(1)));
        assert_eq!((read.len(), read.value_at_quantile(0.5)), (3, 200));
        assert!(String::from_utf8(text).unwrap().starts_with("#[Latencies of essaim load"));
    }

    /// The bytes behind RFC 4648 §4 text.
    fn base64_of(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
        let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
        for digit in digits {
            (bits, count) = (bits << 6 | u32::try_from(digit).unwrap(), count + 6);
            if count >= 8 {
                count -= 8;
                bytes.push(u8::try_from(bits >> count & 0xFF).unwrap());
            }
        }
        bytes
    }
}
