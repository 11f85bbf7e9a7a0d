//! This file knows the currencies: the active codes of ISO 4217 that have minor units.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An active ISO 4217 currency with minor units, e.g. `EUR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(iso_currency::Currency);

/// A code that names no active currency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no active ISO 4217 currency in upper case")]
pub struct UnknownCurrency(String);

impl Currency {
    /// The currency with this code, in upper case.
    ///
    /// # Errors
    /// [`UnknownCurrency`] for anything else, and for codes without minor units such as `XAU`.
    pub fn from_code(code: &str) -> Result<Self, UnknownCurrency> {
        let unknown = || UnknownCurrency(code.chars().take(20).collect());
        let currency = iso_currency::Currency::from_code(code).ok_or_else(unknown)?;
        let is_active = currency.is_superseded().is_none() || code == STILL_ACTIVE;
        let has_minor_units = currency.exponent().is_some() && !currency.is_special();
        (is_active && has_minor_units && currency.code() == code).then_some(Self(currency)).ok_or_else(unknown)
    }

    /// The code, e.g. `EUR`.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// How many decimals it has: 2 for `EUR`, 0 for `JPY`, 3 for `KWD`.
    pub fn decimals(self) -> usize {
        usize::from(self.0.exponent().expect("checked when it was made"))
    }
}

/// ISO 4217 amendment 170 added VED beside VES; both are on the list of active codes.
const STILL_ACTIVE: &str = "VES";

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(other.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.code().to_owned()
    }
}

impl TryFrom<String> for Currency {
    type Error = UnknownCurrency;

    fn try_from(code: String) -> Result<Self, UnknownCurrency> {
        Self::from_code(&code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currencies_have_their_own_number_of_decimals() {
        let decimals = |code| Currency::from_code(code).unwrap().decimals();

        assert_eq!((decimals("EUR"), decimals("JPY"), decimals("KWD"), decimals("VES")), (2, 0, 3, 2));
    }

    #[test]
    fn codes_that_are_not_active_or_have_no_minor_units_are_refused() {
        for code in ["XAU", "XTS", "XXX", "XDR", "HRK", "eur", "EURO", "", "ABC"] {
            assert_eq!(Currency::from_code(code), Err(UnknownCurrency(code.into())), "{code}");
        }
    }
}
