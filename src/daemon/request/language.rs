//! This file chooses the language of labels.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::ACCEPT_LANGUAGE;
use axum::http::request::Parts;

use crate::projections::user_list::Language;

/// The language that who asks likes best of those we have; French when none of them is named.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted(pub(crate) Language);

impl<S: Send + Sync> FromRequestParts<S> for Accepted {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let values = parts.headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|value| value.to_str().ok());
        Ok(Self(chosen(&values.collect::<Vec<_>>().join(","))))
    }
}

impl Accepted {
    /// The language's tag by BCP 47.
    pub(crate) fn tag(self) -> &'static str {
        match self.0 {
            Language::French => "fr",
            Language::English => "en",
        }
    }
}

/// RFC 9110 §12.5.4; of two that are liked alike, the first. What cannot be read is passed over.
fn chosen(accepted: &str) -> Language {
    let mut best = (0.0, Language::default());
    for range in accepted.split(',') {
        let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
        let weight = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.parse::<f32>().ok());
        let primary = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
        let language = match primary.as_str() {
            "fr" => Language::French,
            "en" => Language::English,
            _ => continue,
        };
        if let Some(weight) = weight.filter(|weight| *weight > best.0) {
            best = (weight, language);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_liked_best_of_those_there_are_is_chosen() {
        for english in ["en", "EN-gb", "de, en;q=0.3", "fr;q=0.4, en;q=0.5", "en,fr", "fr;q=0,en;q=0.1"] {
            assert_eq!(chosen(english), Language::English, "{english}");
        }
        for french in ["", "fr", "fr-CA", "*", "de", "en;q=0.4, fr;q=0.5", "fr,en", "en;q=x", "en;q=0", ";;,"] {
            assert_eq!(chosen(french), Language::French, "{french}");
        }
    }
}
