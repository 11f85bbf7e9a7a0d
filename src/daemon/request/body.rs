//! This file takes a JSON object apart field by field; faults are gathered, so that a client sees all of them at once.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use super::json;
use crate::daemon::problem::{FieldError, Problem};

/// The fields of a request's body; none when it has no body.
#[derive(Debug)]
pub(crate) struct Body {
    fields: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| unread(&rejection))?;
        if bytes.is_empty() {
            return Ok(Self { fields: Map::new(), errors: Vec::new() });
        }
        if !content_type.as_ref().is_some_and(is_json) {
            return Err(Problem::new("unsupported_media_type", "the body must be sent as application/json"));
        }
        Self::parse(&bytes)
    }
}

fn unread(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new("body_too_large", "the body is larger than this daemon takes");
    }
    Problem::new("malformed", "the body could not be read to its end")
}

fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

impl Body {
    /// Parses a JSON object.
    ///
    /// # Errors
    /// `malformed` says where; `invalid_field` names the field that holds U+0000.
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let value = json::parse(bytes)
            .map_err(|error| Problem::new("malformed", format!("the body is no JSON that can be taken: {error}")))?;
        let Value::Object(fields) = value else {
            return Err(Problem::new("malformed", "the body must be a JSON object"));
        };
        let nul = fields.iter().find(|(name, value)| name.contains('\0') || json::holds_nul(value));
        if let Some((name, _)) = nul {
            return Err(Problem::field("invalid_field", name.replace('\0', "\u{fffd}"), "must not contain U+0000"));
        }
        Ok(Self { fields, errors: Vec::new() })
    }

    /// The field as `T`; a fault when it is not there, or null.
    pub(crate) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        if matches!(self.fields.get(name), None | Some(Value::Null)) {
            self.fields.remove(name);
            self.fault(name, "is missing".into());
            return None;
        }
        self.optional(name, read)
    }

    /// The field as `T`, if it is there and not null.
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.fields.remove(name).filter(|value| !value.is_null())?;
        read(value).map_err(|message| self.fault(name, message)).ok()
    }

    fn fault(&mut self, name: &str, message: String) {
        self.errors.push(FieldError { field: name.into(), message });
    }

    /// Refuses fields that nobody took, and gives back the faults.
    ///
    /// # Errors
    /// `unknown_field` before `invalid_field`.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if !self.fields.is_empty() {
            let unknown = |(field, _)| FieldError { field, message: "is not known here".into() };
            return Err(Problem::fields("unknown_field", self.fields.into_iter().map(unknown).collect()));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields("invalid_field", self.errors)) }
    }
}

/// A text field.
///
/// # Errors
/// What it must be instead.
pub(crate) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("must be a string".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        format!("{:?}", Body::parse(body.as_bytes()).unwrap_err())
    }

    #[test]
    fn only_an_object_is_a_body() {
        for other in ["[]", "null", "1", "\"{}\"", "true"] {
            assert!(refused(other).contains("must be a JSON object"), "{other}");
        }
    }

    #[test]
    fn a_nul_is_found_wherever_it_hides_and_its_field_is_named() {
        for body in [r#"{"a":"\u0000"}"#, r#"{"a":{"b":["\u0000"]}}"#, r#"{"a":{"\u0000":1}}"#] {
            let refusal = refused(body);
            assert!(refusal.contains("U+0000") && refusal.contains("field: \"a\""), "{refusal}");
        }
        assert!(refused(r#"{"\u0000":1}"#).contains("U+0000"));
    }

    #[test]
    fn all_faults_are_told_at_once_but_unknown_fields_come_first() {
        let mut body = Body::parse(br#"{"a":1,"b":null,"c":"fine"}"#).unwrap();

        let taken = (body.required("a", text), body.required("b", text), body.required("c", text));
        let problem = format!("{:?}", body.finish().unwrap_err());

        assert_eq!(taken, (None, None, Some("fine".into())));
        assert!(
            problem.contains("invalid_field") && problem.contains("a: must be a string; b: is missing"),
            "{problem}"
        );
        let mut body = Body::parse(br#"{"a":1,"typo":1}"#).unwrap();
        body.required("a", text);
        let problem = format!("{:?}", body.finish().unwrap_err());
        assert!(problem.contains("unknown_field") && problem.contains("typo"), "{problem}");
    }

    #[test]
    fn null_is_as_good_as_absent_where_nothing_is_required() {
        let mut body = Body::parse(br#"{"a":null}"#).unwrap();

        assert_eq!(body.optional("a", text), None);
        assert!(body.finish().is_ok());
    }

    #[test]
    fn json_is_told_by_its_media_type_whatever_its_parameters() {
        let is_json = |text: &'static str| is_json(&HeaderValue::from_static(text));

        assert!(is_json("application/json") && is_json("Application/JSON; charset=utf-8"));
        assert!(!is_json("text/json") && !is_json("application/jsonx") && !is_json("") && !is_json("text/plain"));
    }
}
