//! This file reads times and shares as people type them: `10s`, `2.5ms`, `5%`.

use std::time::Duration;

/// Longest time that is taken: more than a year is a slip of the finger.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

/// Reads a time such as `10s`, `500ms`, `20us`, `2m`, `1h`; a number alone is seconds.
///
/// # Errors
/// A sentence that says what it must look like.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_each = match unit.trim() {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(no_duration(text)),
    };
    let number: f64 = number.parse().map_err(|_| no_duration(text))?;
    let seconds = number * seconds_each;
    if seconds > LONGEST_SECONDS {
        return Err(format!("{text:?} is longer than a year"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// The same, more than zero.
///
/// # Errors
/// As above, and when it is zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(time) })
}

/// Reads a share such as `5%` or `0.05`.
///
/// # Errors
/// A sentence that says what it must look like.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let (number, of) = text.trim().strip_suffix('%').map_or((text.trim(), 1.0), |number| (number.trim(), 100.0));
    let share = number.parse::<f64>().map(|number| number / of).ok();
    share.filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| format!("{text:?} is no share: try 5% or 0.05"))
}

/// Reads a rate: operations a second, more than zero.
///
/// # Errors
/// A sentence that says what it must look like.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    /// Beyond it a schedule would only measure itself.
    const HIGHEST: f64 = 10_000_000.0;
    let number = text.trim().trim_end_matches("/s").replace(['_', ','], "");
    match number.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= HIGHEST => Ok(rate),
        Ok(0.0) => Err("a rate of zero sends nothing; it must be more than 0 operations a second".into()),
        _ => Err(format!("{text:?} is no rate: more than 0 and at most {HIGHEST} operations a second")),
    }
}

/// Reads an exponent of Zipf's law: 0 takes all alike.
///
/// # Errors
/// A sentence that says what it must be.
pub(crate) fn exponent(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| (0.0..=10.0).contains(number));
    number.ok_or_else(|| format!("{text:?} is no exponent: from 0 (all alike) over 1 (Zipf's law) to 10"))
}

fn no_duration(text: &str) -> String {
    format!("{text:?} is no time: try 10s, 500ms or 2m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units_and_in_seconds_without() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2.5ms"), Ok(Duration::from_micros(2_500)));
        assert_eq!(duration("20us"), Ok(Duration::from_micros(20)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
    }

    #[test]
    fn what_is_no_time_is_refused_with_an_example() {
        for wrong in ["", "s", "ten", "10 parsecs", "-1s", "1.2.3s", "1e9s", "NaN"] {
            assert!(duration(wrong).unwrap_err().contains("try 10s"), "{wrong}");
        }
        assert!(duration("9000000h").is_err());
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn shares_are_percent_or_fractions_between_nothing_and_all() {
        assert_eq!((share("5%"), share("0.05"), share("100%")), (Ok(0.05), Ok(0.05), Ok(1.0)));
        for wrong in ["101%", "1.5", "-1%", "half", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_of_zero_and_what_is_no_rate_are_refused() {
        assert_eq!((rate("500"), rate("1_000/s"), rate("0.5")), (Ok(500.0), Ok(1_000.0), Ok(0.5)));
        assert!(rate("0").unwrap_err().contains("zero"));
        for wrong in ["-1", "fast", "inf", "NaN", "99999999"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
