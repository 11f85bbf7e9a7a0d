//! This file writes numbers with their units, for people. `charts.js` does the same for axes.

/// `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three figures that matter: `12,345`, `123`, `12.3`, `1.23`.
pub(super) fn number(number: f64) -> String {
    let size = number.abs();
    match size {
        _ if !number.is_finite() => "–".to_owned(),
        _ if size >= 99.95 => format!("{}{}", if number < 0.0 { "-" } else { "" }, count(rounded(size))),
        _ if size >= 9.995 => format!("{number:.1}"),
        _ if number == 0.0 => "0".to_owned(),
        _ => format!("{number:.2}"),
    }
}

/// `850 µs`, `1.25 ms`, `2.35 s`.
pub(super) fn micros(micros: f64) -> String {
    match micros {
        _ if micros < 999.5 => format!("{micros:.0} µs"),
        _ if micros < 1_000_000.0 => format!("{} ms", number(micros / 1_000.0)),
        _ => format!("{} s", number(micros / 1_000_000.0)),
    }
}

/// Microseconds that were measured; 0 stands for nothing to measure.
pub(super) fn latency(micros: u64) -> String {
    if micros == 0 { "–".to_owned() } else { self::micros(precise(micros)) }
}

/// `512 B`, `310 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (precise(bytes), 0);
    while size >= 1_024.0 && unit + 1 < UNITS.len() {
        (size, unit) = (size / 1_024.0, unit + 1);
    }
    format!("{} {}", number(size), UNITS[unit])
}

/// `10 s`, `2.5 s`, `4 min 5 s`.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 120.0 {
        // A whole number of seconds needs no decimals.
        let text = if seconds.fract().abs() < 0.005 { format!("{seconds:.0}") } else { number(seconds) };
        return format!("{text} s");
    }
    let whole = rounded(seconds);
    match (whole / 60, whole % 60) {
        (minutes, 0) => format!("{minutes} min"),
        (minutes, rest) => format!("{minutes} min {rest} s"),
    }
}

/// The nearest double; exact below 2^53, which no count of a run reaches.
#[expect(clippy::cast_precision_loss, reason = "exact for every count that a run can reach")]
pub(super) fn precise(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn rounded(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart() {
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn numbers_keep_three_figures() {
        let texts = [12_345.4, 99.96, 12.34, 1.234, 0.0, -250.0, f64::NAN].map(number);
        assert_eq!(texts, ["12,345", "100", "12.3", "1.23", "0", "-250", "–"]);
    }

    #[test]
    fn times_and_sizes_have_the_unit_that_fits() {
        assert_eq!([850.0, 1_250.0, 125_000.0, 2_350_000.0].map(micros), ["850 µs", "1.25 ms", "125 ms", "2.35 s"]);
        assert_eq!([0, 42].map(latency), ["–", "42 µs"]);
        assert_eq!([512, 325_058_560].map(bytes), ["512 B", "310 MiB"]);
        assert_eq!([10.0, 2.5, 120.0, 245.0].map(seconds), ["10 s", "2.50 s", "2 min", "4 min 5 s"]);
    }
}
