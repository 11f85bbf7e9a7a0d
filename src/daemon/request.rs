//! This file reads requests strictly, so that whatever cannot be meant is refused with a name.
//!
//! ```text
//! headers     who, which key, which version, by when, at which position
//! parameters  the query: each known, each once
//! body        a JSON object, field by field; json holds the rules for the text
//! language    of labels
//! ```

use std::fmt::Display;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use uuid::Uuid;

use super::problem::Problem;

pub(crate) mod body;
pub(crate) mod headers;
mod json;
pub(crate) mod language;
pub(crate) mod parameters;

/// A value that cannot stand in the query, the path or a header.
pub(crate) fn invalid(name: &str, message: impl Into<String>) -> Problem {
    Problem::field("invalid_parameter", name, message)
}

/// A UUID in its usual form, 8-4-4-4-12 hexadecimal digits; one thing has one address.
pub(crate) fn uuid(text: &str) -> Option<Uuid> {
    const LENGTH: usize = 36;
    Uuid::try_parse(text).ok().filter(|_| text.len() == LENGTH)
}

/// A number without a sign, which Rust's own parser would take.
pub(crate) fn whole_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The id in a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let id = text.ok().and_then(|Path(text)| uuid(&text));
        id.map(Self).ok_or_else(|| invalid("id", "must be a UUID such as 6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d11"))
    }
}

/// A header of an answer.
pub(crate) fn shown(name: &'static str, value: impl Display) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&value.to_string()).expect("numbers, ids and quoted versions are header values");
    (HeaderName::from_static(name), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_form_of_a_uuid_is_one() {
        let id = Uuid::from_u128(0x6f0f_2e44_8a52_4f3a_9d5e_0c7b_6a1f_2d11);

        assert_eq!(uuid("6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d11"), Some(id));
        assert_eq!(uuid("6F0F2E44-8A52-4F3A-9D5E-0C7B6A1F2D11"), Some(id));
        let (simple, braced, urn) = (id.simple().to_string(), id.braced().to_string(), id.urn().to_string());
        for other in ["", "7", &simple, &braced, &urn, "6f0f2e44-8a52-4f3a-9d5e-0c7b6a1f2d1g"] {
            assert_eq!(uuid(other), None, "{other}");
        }
    }

    #[test]
    fn a_whole_number_has_digits_and_nothing_else() {
        assert_eq!(whole_number("18446744073709551615"), Some(u64::MAX));
        for other in ["", "+5", "-5", " 5", "5 ", "5.0", "0x5", "18446744073709551616"] {
            assert_eq!(whole_number(other), None, "{other:?}");
        }
    }
}
