//! This file holds amounts of money: whole minor units, exactly, with the currency they are of.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::currency::Currency;

/// Digits an amount may be written with, before and behind the point together.
const MAX_DIGITS: usize = 18;

/// A positive amount of one currency. JSON shows it as `{"amount": "12.50", "currency": "EUR"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Money {
    minor_units: i64,
    currency: Currency,
}

/// Why a text is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    /// Not `[0-9]+(\.[0-9]+)?`, or with leading zeros.
    #[error(
        "must be a decimal number in a string, such as \"12.50\": digits, at most one point, no sign, no exponent, no leading zeros"
    )]
    Malformed,
    /// More digits than can be kept exactly.
    #[error("has more than {MAX_DIGITS} digits")]
    TooLong,
    /// More minor units than can be counted.
    #[error("is too large for {currency}")]
    TooLarge {
        /// The currency whose decimals come on top.
        currency: Currency,
    },
    /// More decimals than the currency has.
    #[error("has more decimals than the {decimals} of {currency}")]
    TooManyDecimals {
        /// How many it may have.
        decimals: usize,
        /// Of this currency.
        currency: Currency,
    },
    /// Zero.
    #[error("must be more than zero")]
    Zero,
}

impl Money {
    /// This many minor units; none when that is not more than zero.
    pub fn from_minor_units(minor_units: i64, currency: Currency) -> Option<Self> {
        (minor_units > 0).then_some(Self { minor_units, currency })
    }

    /// Reads an amount such as `"12.5"`, with at most 18 digits before and behind the point together.
    ///
    /// # Errors
    /// [`InvalidAmount`] says what is wrong with it.
    pub fn parse(amount: &str, currency: Currency) -> Result<Self, InvalidAmount> {
        let (whole, fraction) = digits_of(amount)?;
        if whole.len() + fraction.len() > MAX_DIGITS {
            return Err(InvalidAmount::TooLong);
        }
        Self::from_digits(whole, fraction, currency)
    }

    fn from_digits(whole: &str, fraction: &str, currency: Currency) -> Result<Self, InvalidAmount> {
        let decimals = currency.decimals();
        if fraction.len() > decimals {
            return Err(InvalidAmount::TooManyDecimals { decimals, currency });
        }
        let written = format!("{whole}{fraction:0<decimals$}");
        let minor_units = written.parse().map_err(|_| InvalidAmount::TooLarge { currency })?;
        Self::from_minor_units(minor_units, currency).ok_or(InvalidAmount::Zero)
    }

    /// Whole minor units, e.g. cents; always positive.
    pub fn minor_units(self) -> i64 {
        self.minor_units
    }

    /// The currency.
    pub fn currency(self) -> Currency {
        self.currency
    }

    /// The amount alone with all decimals of its currency, e.g. `12.50`.
    pub fn amount(self) -> String {
        format_minor_units(i128::from(self.minor_units), self.currency)
    }
}

/// The digits before and behind the point; none behind it when there is no point.
fn digits_of(amount: &str) -> Result<(&str, &str), InvalidAmount> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let has_dangling_point = amount.ends_with('.');
    let has_leading_zeros = whole.len() > 1 && whole.starts_with('0');
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) || has_dangling_point || has_leading_zeros {
        return Err(InvalidAmount::Malformed);
    }
    Ok((whole, fraction))
}

/// Minor units of a currency as a decimal number, e.g. 1250 EUR as `12.50`; for sums, which may exceed one amount.
pub fn format_minor_units(minor_units: i128, currency: Currency) -> String {
    let decimals = currency.decimals();
    let width = decimals + 1;
    let digits = format!("{minor_units:0>width$}");
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount(), self.currency)
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    amount: String,
    currency: Currency,
}

impl From<Money> for Written {
    fn from(money: Money) -> Self {
        Self { amount: money.amount(), currency: money.currency }
    }
}

impl TryFrom<Written> for Money {
    type Error = InvalidAmount;

    fn try_from(written: Written) -> Result<Self, InvalidAmount> {
        // Not limited in digits: seventeen that a client wrote are nineteen with the two decimals of EUR.
        let (whole, fraction) = digits_of(&written.amount)?;
        Self::from_digits(whole, fraction, written.currency)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(amount: &str, currency: &str) -> Result<Money, InvalidAmount> {
        Money::parse(amount, Currency::from_code(currency).unwrap())
    }

    #[test]
    fn an_amount_is_kept_in_minor_units_and_shown_with_all_decimals() {
        let shown = |amount, currency| {
            let money = parse(amount, currency).unwrap();
            (money.minor_units(), money.amount())
        };

        assert_eq!(shown("12.5", "EUR"), (1_250, "12.50".into()));
        assert_eq!(shown("0.01", "EUR"), (1, "0.01".into()));
        assert_eq!(shown("7", "JPY"), (7, "7".into()));
        assert_eq!(shown("1.005", "KWD"), (1_005, "1.005".into()));
        assert_eq!(shown("9999999999999999", "EUR"), (999_999_999_999_999_900, "9999999999999999.00".into()));
    }

    #[test]
    fn what_is_no_amount_is_refused_for_what_is_wrong_with_it() {
        let eur = Currency::from_code("EUR").unwrap();
        for malformed in ["", ".", "1.", ".5", "-1", "+1", "1e400", "1,5", "01", "00.5", " 1", "1 ", "0x1", "１"] {
            assert_eq!(parse(malformed, "EUR"), Err(InvalidAmount::Malformed), "{malformed:?}");
        }
        assert_eq!(parse("12.505", "EUR"), Err(InvalidAmount::TooManyDecimals { decimals: 2, currency: eur }));
        assert_eq!(parse("1000000000000000000", "JPY"), Err(InvalidAmount::TooLong));
        assert_eq!(parse("10000000000000000.00", "EUR"), Err(InvalidAmount::TooLong));
        // 99,999,999,999,999,999 EUR are 9,999,999,999,999,999,900 cents, above i64::MAX.
        assert_eq!(parse("99999999999999999", "EUR"), Err(InvalidAmount::TooLarge { currency: eur }));
        assert_eq!(parse("0.00", "EUR"), Err(InvalidAmount::Zero));
    }

    #[test]
    fn an_amount_that_grows_by_its_decimals_is_taken_and_read_back_from_json() {
        // Seventeen digits as written, nineteen as shown.
        let money = parse("12345678901234567", "EUR").unwrap();

        let json = serde_json::to_string(&money).unwrap();

        assert_eq!(json, r#"{"amount":"12345678901234567.00","currency":"EUR"}"#);
        assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
    }

    #[test]
    fn no_json_number_is_an_amount() {
        assert!(serde_json::from_str::<Money>(r#"{"amount":12.5,"currency":"EUR"}"#).is_err());
    }

    proptest! {
        #[test]
        fn whatever_counts_as_minor_units_survives_json(minor_units in 1..=i64::MAX, code in "EUR|JPY|KWD|CLF") {
            let money = Money::from_minor_units(minor_units, Currency::from_code(&code).unwrap()).unwrap();

            let json = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
        }

        #[test]
        fn an_amount_is_shown_as_it_was_written_with_zeros_behind_it(amount in "[0-9.+e-]{0,20}", code in "EUR|JPY|KWD") {
            if let Ok(money) = parse(&amount, &code) {
                let shown = money.amount();
                let filled = shown.strip_prefix(&amount).map(|rest| rest.trim_start_matches('.'));
                prop_assert!(filled.is_some_and(|rest| rest.bytes().all(|byte| byte == b'0')), "{} {}", amount, shown);
            }
        }

        #[test]
        fn every_amount_survives_being_shown_and_read(minor_units in 1..1_000_000_000_000_000_000_i64, code in "EUR|JPY|KWD") {
            let currency = Currency::from_code(&code).unwrap();
            let money = Money::from_minor_units(minor_units, currency).unwrap();

            prop_assert_eq!(Money::parse(&money.amount(), currency), Ok(money));
            let json = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
        }
    }
}
