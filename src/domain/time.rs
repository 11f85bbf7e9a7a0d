//! This file holds times as events and clients have them: UTC, microseconds, always six digits.

use std::fmt;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize, Serializer};

/// A moment that somebody stated, cut to microseconds, which is what databases keep; e.g.
/// `2026-11-22T02:35:00.123456Z`. The moments of events themselves are those the journal stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(from = "DateTime<Utc>")]
pub struct Moment(DateTime<Utc>);

impl Moment {
    /// The moment as a time.
    pub fn time(self) -> DateTime<Utc> {
        self.0
    }
}

impl From<DateTime<Utc>> for Moment {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.trunc_subsecs(6))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_six_digits_whatever_it_was_made_from() {
        let written = |text: &str| Moment::from(text.parse::<DateTime<Utc>>().unwrap()).to_string();

        assert_eq!(written("2026-11-22T02:35:00Z"), "2026-11-22T02:35:00.000000Z");
        assert_eq!(written("2026-11-22T03:35:00.1234569+01:00"), "2026-11-22T02:35:00.123456Z");
    }

    #[test]
    fn a_moment_read_back_from_json_is_the_same() {
        let moment = Moment::from("2026-11-22T02:35:00.5Z".parse::<DateTime<Utc>>().unwrap());

        let json = serde_json::to_string(&moment).unwrap();

        assert_eq!(json, r#""2026-11-22T02:35:00.500000Z""#);
        assert_eq!(serde_json::from_str::<Moment>(&json).unwrap(), moment);
    }
}
