//! This file is how an answer is read: at most so many bytes, and texts of others quoted so that a log can bear them.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// More than a full page of accounts needs; whoever answers more is no Keycloak of ours.
const MAX_BODY_BYTES: usize = 1 << 20;
/// As much of another's text as an operator needs.
const MAX_QUOTE_CHARS: usize = 200;
/// Longer than any provider may make us wait by its word alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// An answer whose body is here.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Vec<u8>,
}

/// Why a body was not read to its end.
pub(super) enum Unread {
    /// Longer than we read.
    TooLong,
    /// The connection broke or went silent.
    Broken(reqwest::Error),
}

impl Answer {
    pub(super) async fn read(mut response: Response) -> Result<Self, Unread> {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(Unread::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Self { status, headers, body })
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// What Keycloak says of a refusal; `None` when it is not Keycloak's way of saying.
    pub(super) fn complaint(&self) -> Option<Complaint> {
        let complaint: Complaint = self.json().ok()?;
        complaint.is_any().then_some(complaint)
    }

    /// The pause asked for, in whole seconds; dates are not taken, Keycloak and its proxies send seconds.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
    }
}

/// The three shapes in which Keycloak complains.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Complaint {
    error: Option<String>,
    #[serde(rename = "error_description")]
    error_description: Option<String>,
    error_message: Option<String>,
    field: Option<String>,
    params: Vec<Value>,
    errors: Vec<FieldComplaint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FieldComplaint {
    field: Option<String>,
    error_message: Option<String>,
    params: Vec<Value>,
}

impl Complaint {
    /// Keycloak says "User not found"; a 404 of something in front of it is not that.
    pub(super) fn is_about_a_user(&self) -> bool {
        self.error.as_deref().is_some_and(|error| error.eq_ignore_ascii_case("user not found"))
    }

    fn is_any(&self) -> bool {
        self.error.is_some() || self.error_message.is_some() || !self.errors.is_empty()
    }

    /// The complaint without those of its parameters that repeat the values sent. It is still to be [`quoted`].
    pub(super) fn text(&self) -> String {
        let fields = self.fields().into_iter().filter_map(|field| field.text());
        let whole = [self.error.clone(), self.error_description.clone()].into_iter().flatten();
        whole.chain(fields).collect::<Vec<_>>().join(", ")
    }

    /// What whoever has to do with the user can do about it.
    pub(super) fn advice(&self) -> String {
        const PROFILE: &str = "what the realm takes (Realm settings > User profile)";
        let fields = self.fields();
        let named: Vec<_> = fields.iter().filter_map(|field| field.field.as_deref()).collect();
        let own: Vec<_> = named.iter().filter_map(|field| own_name(field)).collect();
        match (own.is_empty(), named.is_empty()) {
            (false, _) => format!("change the user's {}, or {PROFILE}, and retry", own.join(" and ")),
            (true, false) => format!("change {PROFILE}, and retry"),
            (true, true) => "change the user, or the realm's settings, and retry".into(),
        }
    }

    /// By field: Keycloak names them in no fixed order, and what is told twice should read the same.
    fn fields(&self) -> Vec<FieldComplaint> {
        let Self { field, error_message, params, errors, .. } = self;
        let first =
            FieldComplaint { field: field.clone(), error_message: error_message.clone(), params: params.clone() };
        let mut fields: Vec<_> = std::iter::once(first).chain(errors.iter().cloned()).collect();
        fields.sort_by(|a, b| a.field.cmp(&b.field));
        fields
    }
}

/// What a field of Keycloak's is called here, if it is one of a user's.
fn own_name(field: &str) -> Option<&str> {
    match field {
        "firstName" => Some("first_name"),
        "lastName" => Some("last_name"),
        "username" | "email" | "roles" => Some(field),
        _ => None,
    }
}

impl FieldComplaint {
    fn text(&self) -> Option<String> {
        let message = self.error_message.as_deref()?;
        let bounds: Vec<_> = self.params.iter().filter(|param| param.is_number()).map(Value::to_string).collect();
        let bounds = if bounds.is_empty() { String::new() } else { format!(" ({})", bounds.join(" to ")) };
        let field = self.field.as_deref().map(|field| format!("{field}: ")).unwrap_or_default();
        Some(format!("{field}{message}{bounds}"))
    }
}

/// Another's text on one line, and not too much of it.
pub(super) fn quoted(text: &str) -> String {
    let mut kept: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_QUOTE_CHARS).collect();
    if text.chars().nth(MAX_QUOTE_CHARS).is_some() {
        kept.push('…');
    }
    kept
}

/// Whether `text` has `secret` in it as addresses and forms write it.
pub(super) fn repeats_encoded(text: &str, secret: &str) -> bool {
    let decoded = percent_decoded(text);
    decoded.contains(secret) || percent_decoded(&text.replace('+', " ")).contains(secret)
}

/// RFC 3986 §2.1; what is no encoded byte stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
        let encoded = (*first == b'%').then(|| Some(digit(0)? * 16 + digit(1)?)).flatten();
        let byte = encoded.and_then(|value| u8::try_from(value).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = &behind[if byte.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { status: StatusCode::BAD_REQUEST, headers: HeaderMap::new(), body: body.into() }
    }

    #[test]
    fn complaints_of_every_shape_are_understood_without_the_values_they_repeat() {
        let cases = [
            (r#"{"error":"User not found"}"#, "User not found"),
            (r#"{"error":"invalid_client","error_description":"Bad"}"#, "invalid_client, Bad"),
            (r#"{"errorMessage":"User exists with same email"}"#, "User exists with same email"),
            (
                r#"{"field":"email","errorMessage":"error-invalid-email","params":["email","ada@x"]}"#,
                "email: error-invalid-email",
            ),
            (
                r#"{"errors":[{"field":"a","errorMessage":"b","params":["c"]},{"field":"d","errorMessage":"e"}]}"#,
                "a: b, d: e",
            ),
            (
                r#"{"field":"username","errorMessage":"error-invalid-length","params":["username",3,255]}"#,
                "username: error-invalid-length (3 to 255)",
            ),
        ];
        for (body, text) in cases {
            assert_eq!(answer(body).complaint().unwrap().text(), text);
        }
    }

    #[test]
    fn advice_names_what_is_the_users_in_our_words_and_else_the_realms_settings() {
        let advice = |body: &str| answer(body).complaint().unwrap().advice();
        let both = r#"{"errors":[{"field":"firstName","errorMessage":"a"},{"field":"email","errorMessage":"b"}]}"#;

        assert!(advice(both).starts_with("change the user's email and first_name, or what the realm takes"));
        assert!(advice(r#"{"field":"phone","errorMessage":"error-user-attribute-required"}"#).contains("User profile"));
        assert!(advice(r#"{"errorMessage":"Password policy not met"}"#).contains("the realm's settings"));
    }

    #[test]
    fn what_is_no_complaint_of_keycloak_is_none() {
        for body in ["", "<html>", "[]", "{}", r#"{"message":"Not Found"}"#, r#"{"error":{"code":404}}"#] {
            assert!(answer(body).complaint().is_none(), "{body}");
        }
    }

    #[test]
    fn a_secret_is_found_however_addresses_and_forms_write_it() {
        let secret = "a/b+c d&\u{e9}";
        for text in ["s=a%2Fb%2Bc+d%26%C3%A9&t", "a%2fb%2bc%20d%26%c3%a9", "a/b+c%20d&%C3%A9", "%61/b%2Bc d%26\u{e9}"] {
            assert!(repeats_encoded(text, secret), "{text}");
        }
        for text in ["", "%", "%2", "%zz", "a%2Fb", "100% of it"] {
            assert!(!repeats_encoded(text, secret), "{text}");
        }
    }

    #[test]
    fn a_quoted_text_is_one_bounded_line() {
        let text = quoted(&format!("a\nb\u{1b}[31m{}", "x".repeat(500)));

        assert!(text.starts_with("a b [31mxxx"));
        assert_eq!(text.chars().count(), MAX_QUOTE_CHARS + 1);
    }

    #[test]
    fn only_whole_seconds_are_a_retry_after_and_an_hour_is_the_longest() {
        let asked = |value: &str| {
            let mut answer = answer("");
            answer.headers.insert(RETRY_AFTER, value.parse().unwrap());
            answer.retry_after()
        };

        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("99999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(asked("-1"), None);
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }
}
