//! This file reads query parameters, each of which must be known, and may stand once.

use std::fmt::Display;
use std::ops::RangeInclusive;

use axum::extract::{FromRequestParts, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};

use super::{invalid, whole_number};
use crate::daemon::problem::{FieldError, Problem};

/// The parameters that nobody took so far.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(&parts.uri)
    }
}

impl Parameters {
    fn read(uri: &Uri) -> Result<Self, Problem> {
        let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err(invalid("query", "cannot be decoded"));
        };
        for (n, (name, value)) in pairs.iter().enumerate() {
            if pairs[..n].iter().any(|(other, _)| other == name) {
                return Err(invalid(name, "stands more than once"));
            }
            if value.contains('\0') {
                return Err(invalid(name, "must not contain U+0000"));
            }
        }
        Ok(Self(pairs))
    }

    /// The parameter as `T`, if it is there.
    ///
    /// # Errors
    /// A problem that says what it must be.
    pub(crate) fn take<T, E: Display>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let Some(at) = self.0.iter().position(|(found, _)| found == name) else { return Ok(None) };
        let (_, value) = self.0.remove(at);
        read(&value).map(Some).map_err(|error| invalid(name, error.to_string()))
    }

    /// A whole number within bounds, if it is there.
    ///
    /// # Errors
    /// A problem that names the bounds.
    pub(crate) fn number(&mut self, name: &'static str, bounds: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let wrong = || format!("must be a whole number from {} to {}", bounds.start(), bounds.end());
        self.take(name, |text| whole_number(text).filter(|number| bounds.contains(number)).ok_or_else(wrong))
    }

    /// A moment, if it is there.
    ///
    /// # Errors
    /// A problem with an example.
    pub(crate) fn time(&mut self, name: &'static str) -> Result<Option<DateTime<Utc>>, Problem> {
        self.take(name, |text| {
            // A plus sign in a query means a space; who writes an offset rarely escapes it.
            DateTime::parse_from_rfc3339(&text.replace(' ', "+"))
                .map(|time| time.to_utc())
                .map_err(|_| "must be a time such as 2026-11-22T02:35:00.123456Z")
        })
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// `unknown_parameter` names all of them.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Ok(());
        }
        let unknown = |(field, _): (String, String)| FieldError { field, message: "is not known here".into() };
        Err(Problem::fields("unknown_parameter", self.0.into_iter().map(unknown).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Parameters, Problem> {
        Parameters::read(&format!("/?{query}").parse().unwrap())
    }

    fn told<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        format!("{:?}", result.unwrap_err())
    }

    #[test]
    fn a_parameter_stands_once_and_is_known() {
        assert!(told(read("a=1&b=2&a=1")).contains("a: stands more than once"));
        let mut parameters = read("limit=5&typo=1").unwrap();
        assert_eq!(parameters.number("limit", 1..=10).unwrap(), Some(5));
        let refusal = told(parameters.finish());
        assert!(refusal.contains("unknown_parameter") && refusal.contains("typo"), "{refusal}");
    }

    #[test]
    fn a_number_keeps_to_its_bounds() {
        for wrong in ["0", "11", "-1", "%2B5", "1.0", "", "x", "99999999999999999999"] {
            let refusal = told(read(&format!("limit={wrong}")).unwrap().number("limit", 1..=10));
            assert!(refusal.contains("limit: must be a whole number from 1 to 10"), "{wrong}: {refusal}");
        }
    }

    #[test]
    fn what_no_text_column_can_hold_is_refused_before_anybody_looks_for_it() {
        assert!(told(read("category=pay%00ment")).contains("category: must not contain U+0000"));
    }

    #[test]
    fn a_time_may_have_an_offset_escaped_or_not() {
        let utc = "2026-11-22T02:35:00.123456Z".parse::<DateTime<Utc>>().unwrap();
        for written in
            ["2026-11-22T02:35:00.123456Z", "2026-11-22T03:35:00.123456%2B01:00", "2026-11-22T03:35:00.123456+01:00"]
        {
            assert_eq!(read(&format!("at={written}")).unwrap().time("at").unwrap(), Some(utc), "{written}");
        }
        for wrong in ["2026-11-22", "now", "1700000000", ""] {
            assert!(told(read(&format!("at={wrong}")).unwrap().time("at")).contains("must be a time"), "{wrong}");
        }
    }
}
